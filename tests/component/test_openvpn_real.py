"""The OpenVPN driver with real processes.

namespace a: listener                    namespace b: dialer
10.9.0.1, 2001:db8:9::1  veth --------- veth  10.9.0.2, 2001:db8:9::2
re6st0 (tun, down)                       re6st0 (tun, down)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from pyroute2 import netns

from re6st.errors import ChildError, ConfigError
from re6st.identity import der_to_pem, fingerprint, generate_key, key_to_pem
from re6st.messages import Endpoint, Transport
from re6st.node.firewall import FirewallConfiguration, render, render_removal
from re6st.prefix import node_address
from re6st.registry.authority import Authority, build_authority
from re6st.supervisor import Child, ChildExit, ChildSpec, Supervisor
from re6st.tunnel.driver import Closed, Connected, Counters, DriverEvent, Link, Survivor
from re6st.tunnel.openvpn import Credentials
from re6st.tunnel.openvpn_driver import OpenVpnDriver

NETWORK = IPv6Network("2001:db8:42::/48")
DAY = 86_400.0
PORT = 4227
UDP4 = Endpoint(Transport.UDP, "10.9.0.1", PORT)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class NamespaceSupervisor(Supervisor):
    """Starts its children in a network namespace."""

    def __init__(self, directory: Path, namespace: str) -> None:
        super().__init__(directory)
        self.namespace = namespace

    async def start(self, spec: ChildSpec, on_exit: Callable[[ChildExit], None]) -> Child:
        netns.pushns(self.namespace)
        try:
            return await super().start(spec, on_exit)  # does not wait for anything
        finally:
            netns.popns()


@dataclass
class Node:
    """One end of a tunnel."""

    name: str
    number: int
    namespace: str
    directory: Path
    authority: Authority
    validity: float = 30 * DAY
    events: list[DriverEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.directory.mkdir()
        key = generate_key()
        self.prefix = IPv6Network((int(NETWORK.network_address) + (self.number << 64), 64))
        issued = time.time() if self.validity > 0 else time.time() - 10 * DAY
        der = self.authority.issue_node(key.public_key(), self.name, self.prefix, issued, abs(self.validity))
        self.fingerprint = fingerprint(der)
        self.credentials = Credentials(
            self.directory / "ca.crt", self.directory / "node.crt", self.directory / "node.key"
        )
        self.credentials.certificate.write_bytes(der_to_pem(der))
        self.credentials.key.write_bytes(key_to_pem(key))
        self.trust(self.authority)
        self.supervisor = NamespaceSupervisor(self.directory / "children", self.namespace)
        self.driver = OpenVpnDriver(self.directory / "tunnels", self.credentials, self.supervisor, 1)
        self.driver.set_listener(self.events.append)

    def trust(self, authority: Authority) -> None:
        self.credentials.authority.write_bytes(der_to_pem(authority.certificate))

    def link_to(self, peer: Node, key: str) -> Link:
        return Link(1, "re6st0", node_address(peer.prefix), peer.name, peer.fingerprint, key, 1280)

    def seen(self, kind: type[DriverEvent]) -> list[DriverEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    def closed(self) -> list[DriverEvent]:
        return self.seen(Closed)

    def reason(self) -> str:
        (event,) = self.closed()
        assert isinstance(event, Closed)
        return event.reason

    def pid(self) -> int:
        child = self.supervisor.get("openvpn-re6st0")
        assert child is not None
        assert child.pid is not None
        return child.pid

    def assert_nothing_left(self) -> None:
        assert self.supervisor.children() == []
        assert list((self.directory / "children").iterdir()) == []
        assert list((self.directory / "tunnels").iterdir()) == []


@pytest.fixture(scope="module")
def namespaces() -> Iterator[tuple[str, str]]:
    names = (f"re6st-openvpn-{os.getpid()}-a", f"re6st-openvpn-{os.getpid()}-b")
    try:
        for name in names:
            run("ip", "netns", "add", name)
        run("ip", "-n", names[0], "link", "add", "eth0", "type", "veth", "peer", "eth0", "netns", names[1])
        for number, name in enumerate(names, 1):
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "address", "add", f"10.9.0.{number}/24", "dev", "eth0")
            run("ip", "-n", name, "address", "add", f"2001:db8:9::{number}/64", "dev", "eth0", "nodad")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            run("ip", "-n", name, "tuntap", "add", "re6st0", "mode", "tun")
            run("ip", "-n", name, "link", "set", "re6st0", "mtu", "1280")
        yield names
        assert [run("ip", "netns", "pids", name) for name in names] == ["", ""]
    finally:
        for name in names:
            with contextlib.suppress(subprocess.CalledProcessError):
                run("ip", "netns", "delete", name)


@pytest.fixture
def authority() -> Authority:
    return make_authority()


def make_authority() -> Authority:
    key = generate_key()
    return Authority(build_authority(key, NETWORK, time.time() - 100 * DAY), key)


@pytest.fixture
async def nodes(
    namespaces: tuple[str, str], authority: Authority, tmp_path: Path
) -> AsyncIterator[tuple[Node, Node]]:
    nodes = (
        Node("alpha", 1, namespaces[0], tmp_path / "a", authority),
        Node("beta", 2, namespaces[1], tmp_path / "b", authority),
    )
    yield nodes
    for node in nodes:
        await node.driver.close(1)
        node.assert_nothing_left()


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        await asyncio.sleep(0.005)


async def open_tunnel(listener: Node, dialer: Node, *endpoints: Endpoint) -> None:
    key = await listener.driver.prepare()
    transport = endpoints[-1].transport if endpoints else Transport.UDP
    await listener.driver.listen(listener.link_to(dialer, key), PORT, transport)
    await dialer.driver.dial(dialer.link_to(listener, key), endpoints or (UDP4,))


def both_connected(*nodes: Node) -> bool:
    return all(node.seen(Connected) for node in nodes)


def ping(node: Node, size: int = 56) -> str:
    """Ping all on the link of the tunnel with ``size`` octets of data; return what came back."""
    command = ["ping", "-c2", "-i0.1", "-W1", "-s", str(size), "ff02::1%re6st0"]
    with contextlib.suppress(subprocess.CalledProcessError):
        return run("ip", "netns", "exec", node.namespace, *command)
    return ""


async def test_a_tunnel_carries_packets_and_leaves_nothing(nodes: tuple[Node, Node]) -> None:
    alpha, beta = nodes
    await open_tunnel(alpha, beta)
    await until(lambda: both_connected(*nodes))
    assert beta.seen(Connected) == [Connected(1, UDP4)]
    (connected,) = alpha.seen(Connected)
    assert isinstance(connected, Connected)
    assert connected.remote is not None
    assert connected.remote.address == "10.9.0.2"

    for node in nodes:
        run("ip", "-n", node.namespace, "link", "set", "re6st0", "up")
    answers: list[str] = []

    def answered() -> bool:
        answers.append(ping(alpha))
        return "DUP" in answers[-1] or "duplicates" in answers[-1]

    await until(answered)
    await until(lambda: alpha.seen(Counters) and beta.seen(Counters))
    counted = alpha.seen(Counters)[-1]
    assert isinstance(counted, Counters)
    assert counted.received > 0
    assert counted.sent > 0

    key_file = beta.directory / "tunnels/re6st0/tls-crypt.key"
    assert key_file.stat().st_mode & 0o777 == 0o600
    pids = [alpha.pid(), beta.pid()]
    await beta.driver.close(1)
    assert beta.reason() == "closed on request"
    await until(alpha.closed)
    assert alpha.reason() == "the peer has ended it"
    for node, pid in zip(nodes, pids, strict=True):
        node.assert_nothing_left()
        assert not Path(f"/proc/{pid}").exists()
        run("ip", "-n", node.namespace, "link", "set", "re6st0", "down")


async def test_the_same_port_and_interface_serve_again_at_once(nodes: tuple[Node, Node]) -> None:
    for _ in range(2):
        await open_tunnel(*nodes)
        await until(lambda: both_connected(*nodes))
        for node in nodes:
            await node.driver.close(1)
            assert len(node.closed()) == 1
            node.events.clear()


@pytest.mark.parametrize(
    "endpoint",
    [Endpoint(Transport.UDP, "2001:db8:9::1", PORT), Endpoint(Transport.TCP, "10.9.0.1", PORT)],
    ids=str,
)
async def test_other_families_and_transports(nodes: tuple[Node, Node], endpoint: Endpoint) -> None:
    await open_tunnel(*nodes, endpoint)
    await until(lambda: both_connected(*nodes))
    assert nodes[1].seen(Connected) == [Connected(1, endpoint)]


async def test_the_next_endpoint_is_tried(nodes: tuple[Node, Node]) -> None:
    await open_tunnel(*nodes, Endpoint(Transport.UDP, "10.9.0.77", PORT), UDP4)
    await until(lambda: both_connected(*nodes))
    assert nodes[1].seen(Connected) == [Connected(1, UDP4)]
    assert nodes[1].closed() == []


@pytest.fixture
def black_hole(namespaces: tuple[str, str]) -> Iterator[None]:
    """Have packets that are larger than any that is needed vanish between the namespaces."""
    rules = (
        "table inet hole {\n chain receive {\n type filter hook prerouting priority -450\n"
        ' iifname "eth0" meta nfproto ipv4 meta length > 1160 drop\n'
        ' iifname "eth0" meta nfproto ipv6 meta length > 1180 drop\n }\n}\n'
    )
    for name in namespaces:
        subprocess.run(["ip", "netns", "exec", name, "nft", "-f", "-"], input=rules.encode(), check=True)
    yield
    for name in namespaces:
        run("ip", "netns", "exec", name, "nft", "delete", "table", "inet", "hole")


@pytest.mark.usefixtures("black_hole")
@pytest.mark.parametrize("address", ["10.9.0.1", "2001:db8:9::1"])
async def test_packets_that_are_cut_pass_a_black_hole(nodes: tuple[Node, Node], address: str) -> None:
    alpha, beta = nodes
    key = await alpha.driver.prepare()
    await alpha.driver.listen(replace(alpha.link_to(beta, key), fragments=True), PORT)
    link = replace(beta.link_to(alpha, key), fragments=True)
    await beta.driver.dial(link, (Endpoint(Transport.UDP, address, PORT),))
    await until(lambda: both_connected(*nodes))
    for node in nodes:
        run("ip", "-n", node.namespace, "link", "set", "re6st0", "up")
    largest = 1280 - 48
    await until(lambda: "duplicates" in ping(alpha, largest) and "duplicates" in ping(beta, largest))
    for node in nodes:
        run("ip", "-n", node.namespace, "link", "set", "re6st0", "down")


@pytest.fixture
def segment_hole(namespaces: tuple[str, str]) -> Iterator[None]:
    """The same for segments that the kernel cuts only later, which are judged one by one (tc-tbf(8))."""
    for name in namespaces:
        run(*f"tc -n {name} qdisc add dev eth0 root tbf rate 8mbit burst 1175 limit 200000".split())
    yield
    for name in namespaces:
        run(*f"tc -n {name} qdisc delete dev eth0 root".split())


@pytest.mark.usefixtures("segment_hole")
async def test_tunnels_over_tcp_pass_a_black_hole(nodes: tuple[Node, Node]) -> None:
    rules = FirewallConfiguration("x", (), NETWORK, nodes[0].prefix, tunnel_ports=range(PORT, PORT + 1))
    nft = ["ip", "netns", "exec", nodes[0].namespace, "nft", "-f", "-"]
    subprocess.run(nft, input=render(rules), text=True, check=True)
    try:
        await open_tunnel(*nodes, Endpoint(Transport.TCP, "10.9.0.1", PORT))
        await until(lambda: both_connected(*nodes))
        for node in nodes:
            run("ip", "-n", node.namespace, "link", "set", "re6st0", "up")
        largest = 1280 - 48
        await until(
            lambda: "duplicates" in ping(nodes[0], largest) and "duplicates" in ping(nodes[1], largest)
        )
    finally:
        subprocess.run(nft, input=render_removal(rules), text=True, check=True)
        for node in nodes:
            run("ip", "-n", node.namespace, "link", "set", "re6st0", "down")


async def refused(listener: Node, dialer: Node) -> str:
    """Wait until a tunnel has failed at the dialer or the listener; return all reasons."""
    nodes = (listener, dialer)
    await until(lambda: listener.closed() or dialer.closed())
    await asyncio.gather(*(node.driver.close(1) for node in nodes))
    assert not any(node.seen(Connected) for node in nodes)
    return f"{listener.reason()} | {dialer.reason()}"


@pytest.mark.parametrize("side", [0, 1])
async def test_another_fingerprint_is_refused(nodes: tuple[Node, Node], side: int) -> None:
    nodes[side].fingerprint = "00" * 32
    await open_tunnel(*nodes)
    assert "certificate hash verification failed" in await refused(*nodes)


async def test_another_name_is_refused(nodes: tuple[Node, Node]) -> None:
    nodes[0].name = "gamma"
    await open_tunnel(*nodes)
    assert "certificate verify failed" in await refused(*nodes)


async def test_a_certificate_of_another_authority_is_refused(
    namespaces: tuple[str, str], authority: Authority, tmp_path: Path
) -> None:
    alpha = Node("alpha", 1, namespaces[0], tmp_path / "a", authority)
    beta = Node("beta", 2, namespaces[1], tmp_path / "b", make_authority())
    beta.trust(authority)
    await open_tunnel(alpha, beta)
    assert "VERIFY ERROR" in await refused(alpha, beta)


async def test_an_expired_certificate_is_refused(
    namespaces: tuple[str, str], authority: Authority, tmp_path: Path
) -> None:
    alpha = Node("alpha", 1, namespaces[0], tmp_path / "a", authority)
    beta = Node("beta", 2, namespaces[1], tmp_path / "b", authority, validity=-DAY)
    await open_tunnel(alpha, beta)
    assert "certificate has expired" in await refused(alpha, beta)


async def test_a_port_in_use_is_an_error_at_once(nodes: tuple[Node, Node]) -> None:
    alpha, beta = nodes
    run("ip", "-n", alpha.namespace, "tuntap", "add", "re6st1", "mode", "tun")
    key = await alpha.driver.prepare()
    await alpha.driver.listen(alpha.link_to(beta, key), PORT)
    with pytest.raises(ChildError, match="Address already in use") as caught:
        await alpha.driver.listen(replace(alpha.link_to(beta, key), tunnel=2, interface="re6st1"), PORT)
    assert caught.value.output
    assert alpha.closed() == []
    assert [path.name for path in (alpha.directory / "tunnels").iterdir()] == ["re6st0"]


async def test_a_killed_process_is_reported_and_the_peer_can_be_closed(nodes: tuple[Node, Node]) -> None:
    alpha = nodes[0]
    await open_tunnel(*nodes)
    await until(lambda: both_connected(*nodes))
    os.kill(alpha.pid(), signal.SIGKILL)
    await until(alpha.closed)
    assert "signal 9" in alpha.reason()
    assert ": " in alpha.reason()
    alpha.assert_nothing_left()


async def test_files_that_an_earlier_tunnel_has_left_are_replaced(nodes: tuple[Node, Node]) -> None:
    alpha, beta = nodes
    link = alpha.link_to(beta, await alpha.driver.prepare())
    left = alpha.directory / "tunnels" / link.interface / "tls-crypt.key"
    left.parent.mkdir()
    left.write_text("of an earlier tunnel")
    await alpha.driver.listen(link, PORT)
    assert left.read_text() == link.key


async def test_closing_while_opening(nodes: tuple[Node, Node]) -> None:
    alpha, beta = nodes
    key = await alpha.driver.prepare()
    opening = asyncio.create_task(alpha.driver.listen(alpha.link_to(beta, key), PORT))
    await until(alpha.supervisor.children)
    await alpha.driver.close(1)
    with pytest.raises(ChildError):
        await opening
    alpha.assert_nothing_left()
    assert alpha.closed() == []


async def test_an_interface_that_is_missing_or_in_use(nodes: tuple[Node, Node]) -> None:
    alpha, beta = nodes
    key = await alpha.driver.prepare()
    await alpha.driver.listen(alpha.link_to(beta, key), PORT)
    with pytest.raises(ChildError, match="in use by another tunnel"):
        await alpha.driver.dial(replace(alpha.link_to(beta, key), tunnel=2), (UDP4,))


async def test_a_key_that_is_none_is_refused(nodes: tuple[Node, Node]) -> None:
    alpha, beta = nodes
    with pytest.raises(ConfigError, match="static key"):
        await alpha.driver.dial(alpha.link_to(beta, "--script-security 2\n"), (UDP4,))
    await alpha.driver.close(99)


# -- a tunnel outlives its daemon -----------------------------------------------------------------------

DAEMON = """
import asyncio, json, sys
from ipaddress import IPv6Address
from pathlib import Path
from re6st.messages import Endpoint, Transport
from re6st.supervisor import Supervisor
from re6st.tunnel.driver import Connected, Link
from re6st.tunnel.openvpn import Credentials
from re6st.tunnel.openvpn_driver import OpenVpnDriver

async def main():
    given = json.loads(sys.argv[1])
    directory = Path(given["directory"])
    credentials = Credentials(*(directory / name for name in ("ca.crt", "node.crt", "node.key")))
    driver = OpenVpnDriver(directory / "tunnels", credentials, Supervisor(directory / "children"))
    seen = []
    driver.set_listener(seen.append)
    peer = IPv6Address(given["address"]), given["name"], given["fingerprint"]
    link = Link(1, "re6st0", *peer, given["key"], 1280)
    await driver.dial(link, (Endpoint(Transport.UDP, given["remote"], 4227),))
    while given["patient"] and not any(isinstance(event, Connected) for event in seen):
        await asyncio.sleep(0.01)
    driver.annotate(1, "what the node knows")
    print("ready", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


async def killed_dialer(listener: Node, dialer: Node, remote: str = UDP4.address) -> None:
    """Have a daemon open a tunnel at the dialer's end, and kill it."""
    key = await listener.driver.prepare()
    await listener.driver.listen(listener.link_to(dialer, key), PORT)
    link = dialer.link_to(listener, key)
    given = {
        "directory": str(dialer.directory),
        "address": str(link.peer_address),
        "name": link.peer_name,
        "fingerprint": link.peer_fingerprint,
        "key": key,
        "remote": remote,
        "patient": remote == UDP4.address,
    }
    command = ("ip", "netns", "exec", dialer.namespace, sys.executable, "-c", DAEMON, json.dumps(given))
    daemon = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert daemon.stdout is not None
    assert await asyncio.wait_for(daemon.stdout.readline(), 20) == b"ready\n"
    daemon.kill()
    await daemon.wait()


async def test_a_tunnel_is_adopted_by_the_next_daemon_and_ends_like_any_other(
    nodes: tuple[Node, Node],
) -> None:
    alpha, beta = nodes
    await killed_dialer(alpha, beta)
    await until(lambda: alpha.seen(Connected))
    assert beta.driver.survivors() == [Survivor("re6st0", "what the node knows")]
    assert await beta.driver.adopt(beta.link_to(alpha, ""), Transport.UDP) == UDP4
    assert beta.driver.survivors() == []
    assert await beta.supervisor.reconcile() == []
    beta.driver.remove_leftovers()
    await until(lambda: beta.seen(Counters))
    os.kill(beta.pid(), signal.SIGKILL)
    await until(beta.closed)
    (closed,) = beta.closed()
    assert isinstance(closed, Closed)
    assert closed.crashed
    beta.assert_nothing_left()


async def test_a_tunnel_to_another_peer_or_without_connection_is_not_adopted(
    nodes: tuple[Node, Node],
) -> None:
    alpha, beta = nodes
    await killed_dialer(alpha, beta, remote="10.9.0.77")
    link = beta.link_to(alpha, "")
    with pytest.raises(ChildError, match="no process of an earlier run"):
        await beta.driver.adopt(replace(link, peer_fingerprint="ab" * 32), Transport.UDP)
    with pytest.raises(ChildError, match="not connected"):
        await beta.driver.adopt(link, Transport.UDP)
    assert [entry.name for entry in await beta.supervisor.reconcile()] == ["openvpn-re6st0"]
    beta.driver.remove_leftovers()
    beta.assert_nothing_left()
