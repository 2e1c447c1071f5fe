"""The MTU of tunnels follows their real paths: jumbo frames, PPPoE, mobile lines, IPv6, and a black hole."""

import os
from collections.abc import Iterator

import pytest
from observing import tunnels, until

from re6st.lab import process, topology
from re6st.lab.lab import Lab
from re6st.tunnel.path_mtu import SMALLEST, overhead

FORMING = 90.0
LINES = {"registry": 1500, "deep": 9000, "wide": 9000, "plain": 1500, "dsl": 1492, "phone": 1400, "six": 1400}
ECHO = 48
"""Octets of the headers of an ICMPv6 echo request."""

SILENT_ROUTER = """
table inet silence {
    chain output {
        type filter hook output priority filter; policy accept;
        icmp type destination-unreachable icmp code frag-needed drop
        icmpv6 type packet-too-big drop
    }
}
"""

pytestmark = pytest.mark.timeout(300)


def expected(one: str, other: str) -> int:
    return min(LINES[one], LINES[other]) - overhead("six" in (one, other))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(topology.load(topology.find("mtu")), name=f"t{os.getpid()}mtu") as built:
        built.start_registry()
        built.enrol()
        built.start_nodes()
        matrix = built.wait_for_all_pairs(FORMING)
        assert matrix.complete, f"these pairs do not ping: {matrix.missing}"
        yield built


def test_each_tunnel_has_the_mtu_of_its_path(lab):
    for name in lab.nodes:
        until(
            lambda name=name: all(
                tunnel.mtu == expected(name, tunnel.peer) for tunnel in tunnels(lab, name).values()
            )
        )
    assert any(tunnel.mtu == 9000 - overhead(ipv6=False) for tunnel in tunnels(lab, "deep").values())


def test_packets_of_full_size_pass_and_nothing_is_cut_on_the_way(lab):
    for name in lab.nodes:
        for tunnel in tunnels(lab, name).values():
            size = str(tunnel.mtu - ECHO)
            lab.hosts[name].run(
                ["ping", "-c1", "-W5", "-M", "do", "-s", size, str(lab.nodes[tunnel.peer].address())]
            )
    for name in lab.nodes:
        counters = lab.hosts[name].run(["cat", "/proc/net/snmp"]).stdout.splitlines()
        names, values = (line.split()[1:] for line in counters if line.startswith("Ip:"))
        assert dict(zip(names, values, strict=True))["FragCreates"] == "0", name


def test_a_relay_tells_whoever_sends_too_much(lab):
    """Between IPv4 only and IPv6 only there is a relay: deep's 8948 octets do not fit its tunnel to six."""
    target = str(lab.nodes["six"].address())
    command = ["ping", "-c2", "-W1", "-M", "do", "-s", "1400", target]
    output = lab.hosts["deep"].run(command, check=False).stdout
    assert f"Packet too big: mtu={expected('six', 'registry')}" in output
    assert str(lab.nodes["registry"].address()) in output


def test_a_black_hole_is_noticed_while_the_tunnel_is_in_use(lab, tmp_path):
    internet = lab.namespace("internet")
    rules = tmp_path / "silent.nft"
    rules.write_text(SILENT_ROUTER)
    process.run(internet, ["nft", "-f", str(rules)])
    before = tunnels(lab, "plain")["phone"]
    assert before.mtu == expected("plain", "phone") > SMALLEST
    process.run(internet, ["ip", "link", "set", "mobile", "mtu", "1360"])
    target = str(lab.nodes["phone"].address())
    ping = lab.hosts["plain"].start(["ping", "-q", "-i", "0.2", "-s", "200", target])
    try:
        until(
            lambda: any(
                tunnel.mtu == 1360 - overhead(ipv6=False)
                for tunnel in tunnels(lab, "plain").values()
                if tunnel.peer == "phone"
            )
        )
    finally:
        ping.stop()
    size = str(1360 - overhead(ipv6=False) - ECHO)
    lab.hosts["plain"].run(["ping", "-c1", "-W5", "-M", "do", "-s", size, target])
