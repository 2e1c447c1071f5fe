"""The lab by itself: real namespaces, real address translation, a real UPnP gateway, no daemons of ours."""

import os
import re
import signal
import subprocess
import sys
import time
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from re6st.errors import ChildError, ConfigError
from re6st.lab import daemons, nftables, record, topology
from re6st.lab.bench_control import meter
from re6st.lab.lab import Lab, take_down
from re6st.lab.leftovers import assert_clean, host_interfaces, leftovers
from re6st.lab.namespace import Namespace, processes
from re6st.lab.pinger import Pinger

PROBE = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", int(sys.argv[1])))
print("bound", flush=True)
while True:
    data, peer = server.recvfrom(2000)
    print("from", *peer, flush=True)
    server.sendto(data, peer)
"""

ASK = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.bind(("", int(sys.argv[3])))
client.settimeout(float(sys.argv[4]))
client.sendto(b"hello", (sys.argv[1], int(sys.argv[2])))
try:
    print("answer from", *client.recvfrom(2000)[1])
except TimeoutError:
    print("silence")
"""

MAP = """
import miniupnpc
client = miniupnpc.UPnP()
client.discoverdelay = 300
assert client.discover() > 0, "no gateway answers"
client.selectigd()
assert client.addportmapping(5000, "UDP", client.lanaddr, 5000, "test", "", 3600)
print(client.externalipaddress())
"""


def lab_name(word: str) -> str:
    return f"t{os.getpid()}{word}"


def until(condition, timeout=30.0):
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)
    return value


def pings(lab, source, address):
    done = lab.hosts[source].run(["ping", "-n", "-c1", "-W1", str(address)], check=False)
    return done.returncode == 0


def answers(lab, source, address, port, *, local=0, wait=1.0):
    words = [sys.executable, "-c", ASK, str(address), str(port), str(local), str(wait)]
    return lab.hosts[source].run(words).stdout.strip()


def serve_udp(lab, host, port):
    """Start a UDP echo on ``host``; return a function that gives the addresses it heard from."""
    log = lab.directory / host / f"udp{port}.log"
    lab.hosts[host].start([sys.executable, "-c", PROBE, str(port)], log=log.name)
    until(lambda: "bound" in log.read_text())
    return lambda: re.findall(r"from (\S+) (\d+)", log.read_text())


@pytest.fixture(scope="module")
def zoo():
    """Public host; hosts behind UPnP, plain, symmetric and carrier-grade address translation."""
    name = lab_name("zoo")
    before = host_interfaces()
    with Lab(topology.load(topology.find("nat-zoo")), name=name) as lab:
        yield lab
    assert_clean(name)
    assert host_interfaces() == before


def test_everyone_reaches_the_public_host(zoo):
    public = zoo.hosts["public"].address
    for host in ("mapped", "kept", "scrambled", "nested"):
        assert pings(zoo, host, public), host


def test_unsolicited_packets_are_dropped_silently(zoo):
    for router, host in (("mapper", "mapped"), ("keeper", "kept"), ("scrambler", "scrambled")):
        heard = serve_udp(zoo, host, 4000)
        outside = zoo.wiring.attachments[router].address.ip
        assert answers(zoo, "public", outside, 4000, wait=0.3) == "silence"
        assert heard() == []


def test_plain_translation_keeps_one_port_for_all_and_symmetric_does_not(zoo):
    public = zoo.hosts["public"].address
    heard = [serve_udp(zoo, "public", port) for port in (4101, 4102)]
    for host in ("kept", "scrambled"):
        for port in (4101, 4102):
            assert answers(zoo, host, public, port, local=6000) == f"answer from {public} {port}"
    kept, scrambled = (str(zoo.wiring.attachments[router].address.ip) for router in ("keeper", "scrambler"))
    seen = [entry for each in heard for entry in each()]
    assert [port for address, port in seen if address == kept] == ["6000", "6000"]
    random_ports = [port for address, port in seen if address == scrambled]
    assert len(set(random_ports)) == 2
    assert "6000" not in random_ports


def test_nested_host_appears_with_the_address_of_the_carrier(zoo):
    heard = serve_udp(zoo, "public", 4103)
    answers(zoo, "nested", zoo.hosts["public"].address, 4103)
    assert [address for address, _ in heard()] == [str(zoo.wiring.attachments["carrier"].address.ip)]


def test_the_upnp_gateway_maps_a_port_for_real(zoo):
    heard = serve_udp(zoo, "mapped", 5000)
    outside = zoo.wiring.attachments["mapper"].address.ip
    assert zoo.hosts["mapped"].run([sys.executable, "-c", MAP]).stdout.strip() == str(outside)
    assert answers(zoo, "public", outside, 5000) == f"answer from {outside} 5000"
    assert [address for address, _ in heard()] == [str(zoo.hosts["public"].address)]


def test_the_gateway_behind_a_carrier_has_no_public_address_to_offer(zoo):
    done = zoo.hosts["nested"].run([sys.executable, "-c", MAP], check=False)
    assert done.returncode != 0 or done.stdout.strip().startswith("100.64.")


def test_a_cut_loses_both_directions_and_nothing_else(zoo):
    public = zoo.hosts["public"].address
    heard = serve_udp(zoo, "public", 4200)
    zoo.cut("kept", "public")
    try:
        assert zoo.cuts == (("kept", "public"),)
        assert answers(zoo, "kept", public, 4200, wait=0.3) == "silence"
        assert heard() == []
        assert answers(zoo, "mapped", public, 4200) == f"answer from {public} 4200"
    finally:
        zoo.heal("kept", "public")
    assert answers(zoo, "kept", public, 4200) == f"answer from {public} 4200"
    assert nftables.tables(zoo.hosts["public"].namespace) == []


def test_a_cut_of_nobody_is_refused(zoo):
    with pytest.raises(ConfigError, match="there is no host 'nobody'"):
        zoo.cut("public", "nobody")
    with pytest.raises(ConfigError, match="cannot be cut off from itself"):
        zoo.cut("public", "public")


def test_pings_over_ipv6_are_measured_for_all_pairs_at_once(zoo):
    names = ["mapped", "kept"]
    # No overlay runs here, so each pings itself under two names: answers and silence are both known.
    sources = {name: zoo.hosts[name].namespace for name in names}
    with Pinger(sources, {"mapped": "::1", "kept": "2001:db8::1"}) as pinger:
        matrix = pinger.run(0.5, interval=0.1)
    assert set(matrix.round_trips) == {("kept", "mapped")}
    assert matrix.missing == [("mapped", "kept")]
    assert 0 < matrix.round_trips["kept", "mapped"] < 0.5


def test_traffic_is_metered_by_what_it_is_for(zoo):
    """The meter of the benchmark sees each packet at both ends; 28 octets are headers."""
    serve_udp(zoo, "public", 4300)
    public = zoo.hosts["public"]
    nftables.load(public.namespace, meter(6696))
    try:
        answers(zoo, "kept", public.address, 4300)
        counted = nftables.counters(public.namespace)
    finally:
        nftables.load(public.namespace, "delete table inet re6st_lab_meter")
    assert counted["tunnels"] == (2, 2 * (28 + len("hello")))
    assert counted["registry"] == counted["overlay"] == (0, 0)


def test_a_failed_command_says_where_and_why(zoo):
    with pytest.raises(
        ChildError, match=r"ls /nothing in \w+-public failed with status 2(.|\n)*No such file"
    ):
        zoo.hosts["public"].run(["ls", "/nothing"])
    with pytest.raises(ChildError, match="cannot start no-such-program"):
        zoo.hosts["public"].run(["no-such-program"])


def test_tokens_do_not_get_into_errors(zoo):
    with pytest.raises(ChildError) as caught:
        zoo.hosts["public"].run(["false", "https://[::1]:1/#ca=00&token=secret"])
    assert "token=<redacted>" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_dead_gateway_is_reported_with_its_log(zoo):
    gateway = zoo.gateways["subscriber"]
    gateway.child.kill()
    gateway.child.wait()
    with pytest.raises(
        ChildError, match=r"miniupnpd in \S+-subscriber: ended with status -9; its log is /run/"
    ):
        zoo.check_daemons()


SMALL = topology.Topology(
    networks={"alpha": topology.NetworkSpec(prefix=IPv4Network("20.1.1.0/24"))},
    routers={
        "home": topology.RouterSpec(
            network="alpha", kind=topology.RouterKind.UPNP, lan=IPv4Network("192.168.1.0/24")
        )
    },
    hosts={
        "one": topology.HostSpec(network="alpha"),
        "two": topology.HostSpec(network="home"),
        "three": topology.HostSpec(network="home"),
    },
)


def test_two_labs_coexist_and_a_name_is_taken_once():
    first, second = lab_name("a"), lab_name("ab")
    with Lab(SMALL, name=first) as one, Lab(SMALL, name=second) as two:
        assert pings(one, "two", one.hosts["one"].address)
        assert pings(two, "two", two.hosts["one"].address)
        with pytest.raises(ConfigError, match=f"the lab '{first}' is up already"):
            Lab(SMALL, name=first).build()
        assert take_down(first)
        assert pings(two, "two", two.hosts["one"].address)
        assert_clean(first)
    assert_clean(second)


def test_a_cut_tells_hosts_behind_one_router_apart():
    with Lab(SMALL, name=lab_name("c")) as lab:
        public = lab.hosts["one"].address
        lab.cut("one", "two")
        assert not pings(lab, "two", public)
        assert pings(lab, "three", public)
    assert_clean(lab.name)


def test_a_cut_works_within_one_lan():
    with Lab(SMALL, name=lab_name("l")) as lab:
        other = lab.hosts["three"].address
        assert pings(lab, "two", other)
        lab.cut("two", "three")
        assert not pings(lab, "two", other)
        assert pings(lab, "two", lab.hosts["one"].address)
        lab.heal_all()
        assert pings(lab, "two", other)
    assert_clean(lab.name)


def test_down_works_from_another_process_after_kill_of_everything():
    name = lab_name("k")
    script = f"""
import os, signal
from re6st.lab.bench_control import meter
from re6st.lab.lab import Lab
from re6st.lab import topology
lab = Lab(topology.load(topology.find("nat-zoo")), name={name!r})
lab.build()
lab.hosts["public"].start(["sleep", "1000"])
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL
    inside = processes(record.load(name).all_namespaces)
    assert set(inside.values()) == {f"{name}-public", f"{name}-mapper", f"{name}-subscriber"}
    command = [*daemons.script("re6st-lab"), "down", "--name", name]
    subprocess.run(command, check=True, timeout=30)
    assert_clean(name)
    again = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert again.returncode == 1
    assert f"no lab '{name}' is up" in again.stderr


@pytest.mark.parametrize("built", [0, 1, 3])
def test_down_works_for_half_built_labs(built):
    name = lab_name("h")
    entry = record.new_record(name, SMALL)
    record.claim(entry)
    for namespace in entry.all_namespaces[:built]:
        namespace.create()
    if built > 1:
        # Interrupted between making the file and mounting on it, a namespace is an ordinary file.
        entry.all_namespaces[built].path.touch()
    assert take_down(name)
    assert_clean(name)


def test_a_directory_without_a_record_is_taken_down():
    name = lab_name("d")
    record.lab_directory(name).mkdir(parents=True)
    assert take_down(name)
    assert_clean(name)


def test_a_foreign_namespace_is_left_alone():
    name = lab_name("f")
    foreign = Namespace(f"{name}-one")
    foreign.create()
    try:
        with pytest.raises(ConfigError, match="exists, but belongs to no lab"):
            Lab(SMALL, name=name).build()
        assert not take_down(name)
        assert leftovers(name) == [f"network namespace {foreign.name}"]
    finally:
        foreign.remove()
    assert_clean(name)


def test_a_failed_build_leaves_nothing(monkeypatch):
    name = lab_name("b")

    def refuse(*_):
        raise ChildError("nft refused a ruleset")

    monkeypatch.setattr(nftables, "load", refuse)
    with pytest.raises(ChildError):
        Lab(SMALL, name=name).build()
    assert_clean(name)


def test_logs_are_kept_when_a_test_fails(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    name = lab_name("g")

    def fail():
        with Lab(SMALL, name=name) as lab:
            until(lambda: (lab.directory / "home" / "miniupnpd.log").stat().st_size)
            raise RuntimeError("the test fails")

    with pytest.raises(RuntimeError):
        fail()
    kept = Path("lab-logs") / name
    assert "miniupnpd" in (kept / "home" / "miniupnpd.log").read_text()
    assert "masquerade" in (kept / "home" / "state.txt").read_text()
    assert "default via 20.1.1.1" in (kept / "one" / "state.txt").read_text()
    assert_clean(name)


def test_the_mtu_of_a_network_holds_for_all_its_links():
    networks = {"alpha": topology.NetworkSpec(prefix=IPv4Network("20.1.1.0/24"), mtu=1400)}
    small = topology.Topology(networks=networks, hosts={"one": topology.HostSpec(network="alpha")})
    with Lab(small, name=lab_name("m")) as lab:
        assert "mtu 1400" in lab.hosts["one"].run(["ip", "link", "show", "eth0"]).stdout
    assert_clean(lab.name)
