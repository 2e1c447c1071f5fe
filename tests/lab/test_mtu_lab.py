"""The MTU of tunnels follows their real paths: jumbo frames, PPPoE, mobile lines, IPv6, black holes, and
paths that are too narrow for the smallest packets of IPv6.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from observing import carries_full_packets, tunnels, until

from re6st.lab import nftables, process, topology
from re6st.lab.lab import Lab
from re6st.node.doctor import Finding, Verdict
from re6st.tunnel.path_mtu import SMALLEST, Origin, overhead

FORMING = 120.0
LINES = {
    "registry": 9000,
    "deep": 9000,
    "plain": 1500,
    "phone": 1400,
    "six": 1492,
    "least": 1280,
    "mute": 1160,
    "six-least": 1280,
    "six-mute": 1280,
}
HOLES = {"mute", "six-mute"}
"""Hosts on whose lines packets vanish."""
NARROW = {"least", "six-least", *HOLES}
"""Hosts on whose lines full packets cannot pass whole."""
CHECKS = 4
"""Pairs of nodes between which packets of full size are sent at a time: they wait more than they compute."""
SILENT_ROUTER = """
table inet silence {
    chain output {
        type filter hook output priority filter; policy accept;
        icmp type destination-unreachable icmp code frag-needed drop
        icmpv6 type packet-too-big drop
    }
}
"""

CUT_PACKETS = """
table inet watch {
    counter cut { }
    chain forward {
        type filter hook forward priority filter; policy accept;
        ip saddr 20.7.1.0/24 return
        ip daddr 20.7.1.0/24 return
        ip frag-off & 0x3fff != 0 counter name cut
    }
}
"""
"""Counts fragments of IPv4 that do not come from the host least, or go there."""

pytestmark = pytest.mark.timeout(400)


def expected(one: str, other: str) -> int:
    whole = min(LINES[one], LINES[other]) - overhead(one.startswith("six") or other.startswith("six"))
    return max(whole, SMALLEST)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(topology.load(topology.find("mtu")), name=f"t{os.getpid()}mtu") as built:
        nftables.load(built.namespace("internet"), CUT_PACKETS)
        built.start_registry()
        built.enrol()
        built.start_nodes()
        matrix = built.wait_for_all_pairs(FORMING)
        assert matrix.complete, f"these pairs do not ping: {matrix.missing}"
        yield built


def settled(lab: Lab, name: str) -> bool:
    """Return whether the MTUs of all tunnels of ``name`` are those of their paths, and why is known."""
    found = tunnels(lab, name)
    for peer, tunnel in found.items():
        if HOLES & {name, peer}:
            origin = Origin.PIECES.value
        else:
            origin = (Origin.FRAGMENTS if NARROW & {name, peer} else Origin.UNDERLAY).value
        if (tunnel.mtu, tunnel.mtu_origin) != (expected(name, peer), origin):
            return False
    return bool(found)


def test_each_tunnel_has_the_mtu_of_its_path(lab):
    for name in lab.nodes:
        until(lambda name=name: settled(lab, name))
    assert any(tunnel.mtu == 9000 - overhead(ipv6=False) for tunnel in tunnels(lab, "deep").values())
    seen = {peer for name in NARROW for peer in tunnels(lab, name)}
    assert {"registry", "plain"} <= seen


def test_packets_of_full_size_pass_every_tunnel_and_only_those_that_must_are_cut(lab):
    found = [(name, peer, tunnel.mtu) for name in lab.nodes for peer, tunnel in tunnels(lab, name).items()]
    with ThreadPoolExecutor(CHECKS) as pool:
        list(pool.map(lambda one: carries_full_packets(lab, *one), found))
    assert nftables.counters(lab.namespace("internet"))["cut"] == (0, 0)


def test_status_and_doctor_name_the_narrow_paths(lab):
    text = " ".join(lab.nodes["plain"].run("status").stdout.split())
    assert f"{SMALLEST} octets to mute: {Origin.PIECES.explanation}" in text
    found = lab.nodes["plain"].run("doctor", "--json", check=False).stdout
    (finding,) = (one for one in msgspec.json.decode(found, type=list[Finding]) if one.check == "packet size")
    assert finding.verdict is Verdict.OK
    assert "mute" in finding.detail


def test_a_relay_tells_whoever_sends_too_much(lab):
    """Between IPv4 only and IPv6 only there is a relay: what deep may send does not fit its tunnel to six."""
    command = ["ping", "-c1", "-W2", "-M", "do", "-s", "1400", str(lab.nodes["six"].address())]
    told = f"Packet too big: mtu={expected('six', 'registry')}"
    output = until(lambda: told in (said := lab.hosts["deep"].run(command, check=False).stdout) and said)
    assert str(lab.nodes["registry"].address()) in output


def has(lab: Lab, name: str, peer: str, mtu: int, origin: Origin | None = None) -> bool:
    """Return whether the tunnel from ``name`` to ``peer`` has this MTU now, and for this reason."""
    tunnel = tunnels(lab, name).get(peer)
    return tunnel is not None and tunnel.mtu == mtu and origin in (None, Origin(tunnel.mtu_origin))


def test_lines_that_get_worse_are_noticed_while_they_are_in_use(lab, tmp_path):
    """A black hole appears on the way to the phone, and two lines lose what the smallest tunnel needs."""
    internet = lab.namespace("internet")
    rules = tmp_path / "silent.nft"
    rules.write_text(SILENT_ROUTER)
    process.run(internet, ["nft", "-f", str(rules)])
    until(lambda: has(lab, "registry", "phone", expected("registry", "phone")))
    process.run(internet, ["ip", "link", "set", "mobile", "mtu", "1360"])
    lab.swallow("ethernet", 1330)
    lab.swallow("pppoe", 1330)
    worse = 1360 - overhead(ipv6=False)
    pings = [
        lab.hosts[source].start(["ping", "-q", "-i", "0.2", "-s", "200", str(lab.nodes[target].address())])
        for target, source in (("phone", "registry"), ("registry", "plain"), ("registry", "six"))
    ]
    try:
        until(lambda: has(lab, "registry", "phone", worse))
        for name in ("plain", "six"):
            until(lambda name=name: has(lab, name, "registry", SMALLEST, Origin.PIECES))
    finally:
        for ping in pings:
            ping.stop()
    carries_full_packets(lab, "registry", "phone", worse)
    for name in ("plain", "six"):
        carries_full_packets(lab, name, "registry", SMALLEST)
        carries_full_packets(lab, "registry", name, SMALLEST)
