"""Port mappings on a real miniupnpd.

outside 20.2.1.1 ---- wan 20.2.1.2 [router, miniupnpd] lan 192.168.1.1 ---- eth0 192.168.1.2 host
                                                                      \\---- eth0 192.168.1.3 other
"""

import asyncio
import os
import signal
import socket
import struct
import threading
import time
from ipaddress import IPv4Address, IPv4Interface, ip_address

import miniupnpc
import pytest

from re6st.errors import UpnpError
from re6st.lab import nat, nftables
from re6st.lab.gateway import start_gateway
from re6st.lab.namespace import Namespace, kill_inside
from re6st.lab.process import run
from re6st.lab.topology import RouterKind
from re6st.messages import Transport
from re6st.node.addresses import default_router, host_addresses
from re6st.upnp.actions import Add
from re6st.upnp.igd import InternetGateway
from re6st.upnp.mappings import Timing
from re6st.upnp.port_mapper import PortMapper

TIMING = Timing(lease=3600, check=0.3, first_retry=0.3, last_retry=0.5)
ROUTER = IPv4Interface("192.168.1.1/24")


def until(condition, timeout=30.0):
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)
    return value


class Home:
    """The machines above, and what the router says of its mappings."""

    def __init__(self, directory):
        self.directory = directory
        names = ("outside", "router", "host", "other")
        self.namespaces = {name: Namespace(f"t{os.getpid()}u-{name}") for name in names}
        for namespace in self.namespaces.values():
            namespace.create()
            run(namespace, ["ip", "link", "set", "lo", "up"])
        self.router = self.namespaces["router"]
        self.plug("outside", "eth0", "wan", "20.2.1.1/24")
        self.ip("router", "link", "add", "lan", "type", "bridge")
        self.ip("router", "link", "set", "lan", "up")
        for name, address in (("host", "192.168.1.2/24"), ("other", "192.168.1.3/24")):
            self.plug(name, "eth0", name, address)
            self.ip("router", "link", "set", name, "master", "lan")
            self.ip(name, "route", "add", "default", "via", "192.168.1.1")
        self.ip("router", "address", "add", str(ROUTER), "dev", "lan")
        self.ip("router", "address", "add", "20.2.1.2/24", "dev", "wan")
        self.router.set_sysctl("ipv4/ip_forward", "1")
        nftables.load(self.router, nat.ruleset(RouterKind.UPNP))
        self.gateway = None

    def ip(self, name, *words):
        return run(self.namespaces[name], ["ip", *words]).stdout

    def plug(self, name, inner, outer, address):
        namespace = self.namespaces[name].name
        self.ip("router", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", namespace)
        self.ip("router", "link", "set", outer, "up")
        self.ip(name, "link", "set", inner, "up")
        self.ip(name, "address", "add", address, "dev", inner)

    def switch_on(self):
        self.gateway = start_gateway(self.router, "home", ROUTER, self.directory)
        until(self.answers)

    def switch_on_pcp(self):
        """Start a gateway that speaks PCP and NAT-PMP, but not UPnP."""
        self.gateway = start_gateway(self.router, "home", ROUTER, self.directory, kind=RouterKind.PCP)

    def forwarded(self, port):
        """Return whether the router has a rule that forwards TCP to this port of the host."""
        chain = ["nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd"]
        return f"dnat ip to 192.168.1.2:{port}" in run(self.router, chain).stdout

    def switch_off(self):
        """End the gateway as a power cut does: it forgets everything and says no good-bye."""
        self.gateway.stop(signal.SIGKILL)
        nftables.load(self.router, "flush ruleset\n" + nat.ruleset(RouterKind.UPNP))

    def answers(self):
        self.gateway.check()
        self.watcher = miniupnpc.UPnP()
        with self.namespaces["other"].entered():
            try:
                return self.watcher.discover() and self.watcher.selectigd()
            except Exception:
                return False

    def add(self, name, *mapping):
        """Let a program on another machine, or another one on the host, have a port forwarded."""

        async def do():
            gateway = InternetGateway()
            try:
                await gateway.discover()
                await gateway.add(Add(*mapping))
            finally:
                await gateway.close()

        with self.namespaces[name].entered():
            asyncio.run(do())

    def view(self, port, protocol="TCP"):
        """Return what the router holds for an external port (host, port, lease) or None."""
        with self.namespaces["other"].entered():
            found = self.watcher.getspecificportmapping(port, protocol)
        return found and (found[0], found[1], found[4])

    def close(self):
        kill_inside(self.namespaces.values())
        for namespace in self.namespaces.values():
            namespace.remove()


class Node:
    """A port mapper on an event loop inside the namespace of the host."""

    def __init__(self, home, timing=TIMING, seed="node"):
        self.loop = asyncio.new_event_loop()
        self.changes = 0
        self.mapper = None
        ready = threading.Event()

        def live():
            with home.namespaces["host"].entered():
                self.loop.call_soon(ready.set)
                self.loop.run_forever()

        self.thread = threading.Thread(target=live, daemon=True)
        self.thread.start()
        ready.wait()
        self.call(self.make(timing, seed))

    async def make(self, timing, seed):
        self.mapper = PortMapper(self.count, seed, secret=bytes(32), router=default_router, timing=timing)
        await self.mapper.start()

    def count(self):
        self.changes += 1

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def map(self, transport, port, patience=8.0):
        return self.call(self.mapper.map(transport, port, patience))

    def mapped(self, transport, port):
        """Return the mapping; on a busy machine a search may end before the router has answered."""
        return until(lambda: self.map(transport, port, 30.0), 60)

    def mapping(self, port=4226):
        return self.mapper.mapping(Transport.TCP, port)

    def close(self):
        self.call(self.mapper.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    yield home
    home.close()


@pytest.fixture
def node(home):
    node = Node(home)
    yield node
    node.close()


def test_maps_and_lets_connections_in_and_removes_at_exit(home, node):
    home.switch_on()
    node.call(asyncio.sleep(0))
    mapping = node.mapped(Transport.TCP, 4226)
    assert (mapping.external_address, mapping.external_port) == (IPv4Address("20.2.1.2"), 4226)
    assert node.mapper.external_address == IPv4Address("20.2.1.2")
    assert node.mapped(Transport.UDP, 4227).external_port == 4227
    assert node.changes >= 2
    host, port, lease = home.view(4226)
    assert (host, port) == ("192.168.1.2", 4226)
    assert 3500 < lease <= 3600

    with home.namespaces["host"].entered():
        server = socket.create_server(("", 4226))
    with home.namespaces["outside"].entered():
        client = socket.create_connection(("20.2.1.2", 4226), timeout=5)
    with server, client:
        assert server.accept()[1][0] == "20.2.1.1"

    node.call(node.mapper.stop())
    assert home.view(4226) is None
    assert home.view(4227, "UDP") is None


def test_lease_is_renewed(home):
    home.switch_on()
    node = Node(home, Timing(lease=4, check=60, first_retry=0.3, last_retry=0.5))
    try:
        assert node.mapped(Transport.TCP, 4226)
        until(lambda: home.view(4226)[2] <= 2)
        until(lambda: home.view(4226)[2] >= 3)
        assert node.mapping() is not None
    finally:
        node.close()


def test_port_that_another_device_holds(home, node):
    home.switch_on()
    home.add("other", Transport.TCP, 4226, 4226, 600)
    with pytest.raises(UpnpError) as refusal:
        home.add("other", Transport.TCP, 4226, 500, 600)
    assert refusal.value.code == 606
    mapping = node.mapped(Transport.TCP, 4226)
    assert mapping.external_port != 4226
    assert home.view(4226)[0] == "192.168.1.3"
    assert home.view(mapping.external_port)[:2] == ("192.168.1.2", 4226)
    node.call(node.mapper.stop())
    assert home.view(4226)[0] == "192.168.1.3", "only our own mappings are removed"


def test_mapping_of_another_program_on_this_host_is_not_overwritten(home, node):
    home.switch_on()
    home.add("host", Transport.TCP, 9999, 4226, 600)
    assert node.mapped(Transport.TCP, 4226).external_port != 4226
    assert home.view(4226)[:2] == ("192.168.1.2", 9999)


def test_gateway_that_appears_later(home, node):
    assert node.map(Transport.TCP, 4226, patience=8) is None
    assert "no home router answers UPnP, PCP or NAT-PMP" in node.mapper.reason
    assert node.mapper.status()[0].reason == node.mapper.reason
    home.switch_on()
    until(node.mapping)
    assert node.mapper.reason == ""


def test_gateway_that_forgets_and_changes_its_address(home, node):
    home.switch_on()
    assert node.mapped(Transport.TCP, 4226)
    home.switch_off()
    home.ip("router", "address", "del", "20.2.1.2/24", "dev", "wan")
    home.ip("router", "address", "add", "20.2.1.77/24", "dev", "wan")
    home.switch_on()
    until(lambda: home.view(4226))
    until(lambda: node.mapping() and node.mapping().external_address == IPv4Address("20.2.1.77"))


def test_mapping_lost_while_the_gateway_goes_on(home, node):
    home.switch_on()
    assert node.mapped(Transport.UDP, 4227)
    client = miniupnpc.UPnP()
    with home.namespaces["host"].entered():
        client.discover()
        client.selectigd()
        client.deleteportmapping(4227, "UDP")
    until(lambda: home.view(4227, "UDP"))
    node.call(node.mapper.stop())
    assert home.view(4227, "UDP") is None


@pytest.mark.parametrize("kind", [RouterKind.UPNP, RouterKind.PCP])
def test_provider_that_translates_addresses(home, node, kind):
    home.ip("router", "address", "del", "20.2.1.2/24", "dev", "wan")
    home.ip("router", "address", "add", "100.64.7.7/24", "dev", "wan")
    home.switch_on() if kind is RouterKind.UPNP else home.switch_on_pcp()
    node.map(Transport.TCP, 4226)
    until(lambda: "carrier-grade NAT" in node.mapper.reason)
    plan, changes = node.mapper._plan, node.changes
    looks = plan._useless_looks
    until(lambda: plan._useless_looks > looks, 60)
    assert node.changes == changes, "it is told once"
    if kind is RouterKind.PCP:
        return  # miniupnpd notices another address by itself where it speaks UPnP only
    home.ip("router", "address", "del", "100.64.7.7/24", "dev", "wan")
    home.ip("router", "address", "add", "20.2.1.2/24", "dev", "wan")
    until(node.mapping)


def test_a_router_that_speaks_pcp_only(home, node):
    home.switch_on_pcp()
    mapping = node.mapped(Transport.TCP, 4226)
    assert (mapping.external_address, mapping.external_port) == (IPv4Address("20.2.1.2"), 4226)
    assert node.mapper.status()[0].method == "PCP"
    with home.namespaces["host"].entered():
        server = socket.create_server(("", 4226))
    with home.namespaces["outside"].entered():
        client = socket.create_connection(("20.2.1.2", 4226), timeout=5)
    with server, client:
        assert server.accept()[1][0] == "20.2.1.1"

    # A daemon that died has left it there, and the next one knows it by the same secret.
    node.call(node.mapper.hand_over())
    successor = Node(home)
    try:
        assert successor.mapped(Transport.TCP, 4226).external_port == 4226
        home.switch_off()
        assert not home.forwarded(4226)
        home.switch_on_pcp()
        until(lambda: home.forwarded(4226))
        until(successor.mapping)
        successor.call(successor.mapper.stop())
        assert not home.forwarded(4226)
    finally:
        successor.close()


def test_a_router_that_knows_nothing_but_nat_pmp(home, node):
    """The test's own server speaks the old protocol and refuses the new one, as old devices do."""
    with home.router.entered():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("192.168.1.1", 5351))
        server.settimeout(0.2)
    held, started, closing = {}, [time.monotonic()], threading.Event()

    def serve():
        while not closing.is_set():
            try:
                packet, sender = server.recvfrom(2000)
            except TimeoutError:
                continue
            epoch = int(time.monotonic() - started[0]) + 1000
            if packet[0] != 0:
                answer = struct.pack("!BBHI", 0, 128, 1, epoch)
            elif packet == bytes(2):
                answer = struct.pack("!BBHI4s", 0, 128, 0, epoch, IPv4Address("20.2.1.2").packed)
            else:
                _, opcode, _, internal, external, lease = struct.unpack("!BBHHHI", packet)
                held[opcode, internal] = lease
                answer = struct.pack("!BBHIHHI", 0, opcode + 128, 0, epoch, internal, external + 1, lease)
            server.sendto(answer, sender)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert node.mapped(Transport.TCP, 4226).external_port == 4227
        assert node.mapper.status()[0].method == "NAT-PMP"
        assert held == {(2, 4226): 3600}
        held.clear()
        started[0] = time.monotonic() + 900  # it has been switched off and on
        until(lambda: held == {(2, 4226): 3600})
        node.call(node.mapper.stop())
        assert held == {(2, 4226): 0}
    finally:
        closing.set()
        thread.join()
        server.close()


def test_addresses_of_a_host(home):
    with home.namespaces["host"].entered():
        found = {str(one.address): one for one in host_addresses()}
        assert default_router() == ROUTER.ip
    assert (found["192.168.1.2"].interface, found["192.168.1.2"].prefix_length) == ("eth0", 24)
    assert found["127.0.0.1"].interface == "lo"
    (link_local,) = [one for one in found.values() if one.address.is_link_local]
    assert link_local.prefix_length == 64
    assert ip_address("::1") in {one.address for one in found.values()}
