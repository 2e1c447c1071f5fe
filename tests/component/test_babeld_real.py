"""The real babeld on two hosts, connected by tunnels one after the other."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from namespaced import Host, Tunnel, remove_all, wait_until

from re6st.errors import ChildError
from re6st.node.netlink import Kernel
from re6st.node.route_repair import RouteRepair
from re6st.prefix import router_id
from re6st.routing.babeld import Babeld, Started
from re6st.routing.babeld_child import CHILD_NAME
from re6st.routing.configuration import BabelConfiguration
from re6st.routing.monitor import INFINITY, Route
from re6st.routing.packets import assemble, inject_packet
from re6st.routing.table import Change, InterfaceQuiet, NeighbourDown, NeighbourUp
from re6st.supervisor import Supervisor

NETWORK = IPv6Network("2001:db8:42::/48")
HELLO_INTERVAL = 20.0
"""Seconds between babeld's own Hellos, where nothing else is said: it does not know of a neighbour before."""

DEADLINE = 15.0
"""Seconds from links up to routes at both ends."""


class Node:
    """A host with the kernel's state and the routing daemon of a node."""

    def __init__(
        self, name: str, number: int, directory: Path, hello_interval: float = HELLO_INTERVAL
    ) -> None:
        self.prefix = IPv6Network(f"2001:db8:42:{number}::/64")
        self.address = IPv6Address(int(self.prefix.network_address) + 1)
        self.changes: list[Change | Started] = []
        self.host = Host(name)
        self.kernel = Kernel("re6st")
        self.directory = directory / name
        self.directory.mkdir()
        self.supervisor = Supervisor(self.directory / "children")
        self.hello_interval = hello_interval
        self.babeld = self.successor()
        self.host.call(self.kernel.open())
        self.host.call(self.kernel.add_prefix(self.prefix, "lo"))
        self.host.call(self.babeld.start())

    def successor(self) -> Babeld:
        """Return the routing daemon as a daemon that starts now would make it."""
        return Babeld(
            self.directory,
            self.directory,
            self.supervisor,
            BabelConfiguration(NETWORK, self.prefix, 6696, self.hello_interval, update_interval=60.0),
            self.changes.append,
        )

    def forget_everything(self) -> None:
        """Be like a daemon that was killed and begins again."""

        def forget() -> None:
            for child in self.supervisor.children():
                self.host.loop.remove_reader(child._pidfd)
            for task in (self.babeld._task, *self.babeld._introductions._tasks.values()):
                if task is not None:
                    task.cancel()

        self.host.do(forget)
        self.supervisor = Supervisor(self.directory / "children")
        self.changes = []

    def prepare(self, interface: str) -> None:
        self.host.call(self.kernel.ensure_tun(interface, mtu=1280, alias="peer"))

    def up(self, interface: str, peer: Node, cost: int = 100) -> None:
        self.host.call(self.babeld.attach(interface, cost, peer.prefix))
        self.host.call(self.kernel.set_link(interface, up=True))

    def down(self, interface: str) -> None:
        self.host.call(self.kernel.set_link(interface, up=False))
        self.host.do(lambda: self.babeld.detach(interface))

    def routes(self, interface: str) -> set[IPv6Network]:
        table = self.babeld.table
        return self.host.do(lambda: {r.prefix for r in table.installed() if r.interface == interface})

    def remove(self) -> None:
        self.host.call(self.babeld.stop())
        self.host.call(self.kernel.close())
        self.host.remove()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    nodes = (Node("left", 1, tmp_path), Node("right", 2, tmp_path))
    yield nodes
    for node in nodes:
        node.remove()


def open_tunnel(left: Node, right: Node, interface: str) -> Tunnel:
    for node in (left, right):
        node.prepare(interface)
    return Tunnel(left.host, interface, right.host, interface)


def wait_for_routes(left: Node, right: Node, interface: str) -> float:
    return wait_until(
        lambda: right.prefix in left.routes(interface) and left.prefix in right.routes(interface),
        DEADLINE,
        f"routes at both ends of {interface}",
    )


def test_ten_tunnels_in_a_row(pair: tuple[Node, Node]) -> None:
    """Each tunnel gives routes at both ends soon, whichever end comes up first."""
    left, right = pair
    generator = random.Random(1)
    for slot in range(10):
        interface = f"re6st{slot}"
        tunnel = open_tunnel(left, right, interface)
        first, second = generator.sample((left, right), 2)
        first.up(interface, second)
        # Now and then one end is much later: its peer was told late that the tunnel is up.
        pause = 1.5 if slot in (3, 7) else generator.uniform(0, 0.1)
        time.sleep(pause)
        second.up(interface, first)
        wait_for_routes(left, right, interface)
        if slot == 0:
            assert left.host.pings(str(right.address))
        for node in pair:
            node.down(interface)
        wait_until(
            lambda used=interface: not left.routes(used) and not right.routes(used), DEADLINE, "no routes"
        )
        tunnel.close()


def test_a_tunnel_stays_usable_after_the_first_exchange(tmp_path: Path) -> None:
    """What hurries the first exchange must not confuse babeld later; a forgotten neighbour is reported."""
    left, right = Node("left", 1, tmp_path, 0.5), Node("right", 2, tmp_path, 0.5)
    try:
        tunnel = open_tunnel(left, right, "re6st0")
        left.up("re6st0", right)
        right.up("re6st0", left)
        wait_for_routes(left, right, "re6st0")
        time.sleep(6)  # twelve hellos: longer than all that we have said on babeld's behalf is valid
        for node in (left, right):
            assert node.changes.count(NeighbourUp("re6st0")) == 1
            assert NeighbourDown("re6st0") not in node.changes
            neighbours = node.babeld.table.neighbours("re6st0")
            assert [(neighbour.rxcost, neighbour.cost) for neighbour in neighbours] == [(100, 100)]
        for node in (left, right):
            node.down("re6st0")
            assert InterfaceQuiet("re6st0") not in node.changes
        wait_until(lambda: InterfaceQuiet("re6st0") in left.changes, 20, "the neighbour is forgotten")
        left.host.do(lambda: left.babeld.detach("re6st5"))
        assert InterfaceQuiet("re6st5") in left.changes
        tunnel.close()
    finally:
        left.remove()
        right.remove()


def test_routes_come_back_after_babeld_was_killed(tmp_path: Path) -> None:
    """The kernel keeps the routes meanwhile; babeld knows them again after two hellos of the neighbour."""
    left, right = Node("left", 1, tmp_path, 1.0), Node("right", 2, tmp_path, 1.0)
    try:
        tunnel = open_tunnel(left, right, "re6st0")
        left.up("re6st0", right)
        right.up("re6st0", left)
        wait_for_routes(left, right, "re6st0")
        child = left.supervisor.get(CHILD_NAME)
        assert child is not None
        assert child.pid is not None
        before = child.pid
        os.kill(before, signal.SIGKILL)
        assert left.host.pings(str(right.address))
        wait_until(lambda: child.pid not in (None, before), DEADLINE, "babeld runs again")
        wait_until(lambda: left.babeld.state == "running", DEADLINE, "the connection is there again")
        wait_for_routes(left, right, "re6st0")
        assert left.host.pings(str(right.address))
        tunnel.close()
    finally:
        left.remove()
        right.remove()


def retraction(of: Node) -> bytes:
    """Return the packet of a router that has no route to ``of`` (RFC 8966, 4.6.7 and 4.6.9)."""
    update = struct.pack("!BBBBHHH", 2, 0, of.prefix.prefixlen, 0, 6000, 0, INFINITY)
    return assemble(
        [
            (6, bytes(2) + router_id(of.prefix)),
            (8, update + of.prefix.network_address.packed[:8]),
        ]
    )


def test_a_way_that_a_neighbour_has_again_is_found_before_its_next_update(tmp_path: Path) -> None:
    """What it has once retracted must not hide that it leads to the destination by now."""
    home, neighbour, target = nodes = tuple(
        Node(name, number, tmp_path) for number, name in enumerate(("home", "neighbour", "target"), 1)
    )
    links = {"re6st0": (home, neighbour), "re6st1": (neighbour, target), "re6st2": (home, target)}
    try:
        tunnels = [open_tunnel(left, right, interface) for interface, (left, right) in links.items()]
        for interface, (left, right) in links.items():
            left.up(interface, right)
            right.up(interface, left)
            wait_for_routes(left, right, interface)

        def way() -> Route | None:
            routes = (route for route in home.babeld.table.routes() if route.interface == "re6st0")
            return next((route for route in routes if route.prefix == target.prefix), None)

        # Its own triggered updates would say the truth for half a minute after a loss.
        wait_until(lambda: way() is not None, 60, "the way through the neighbour")
        (heard,) = home.babeld.table.neighbours("re6st0")
        lie = retraction(target)

        def is_deceived() -> bool:
            home.host.do(lambda: inject_packet("re6st0", 6696, str(heard.address), lie))
            return (known := way()) is not None and known.refmetric == INFINITY

        wait_until(is_deceived, 60, "no way")
        for node in (home, target):
            node.down("re6st2")
        wait_until(lambda: target.prefix in home.routes("re6st0"), DEADLINE, "the way is found again")
        for tunnel in tunnels:
            tunnel.close()
    finally:
        for node in nodes:
            node.remove()


@contextmanager
def silence(node: Node) -> Iterator[None]:
    """Keep the node's babeld from saying anything."""
    child = node.supervisor.get(CHILD_NAME)
    assert child is not None
    mute = child.pid
    assert mute is not None
    os.kill(mute, signal.SIGSTOP)
    try:
        yield
        assert child.pid == mute, "it was replaced, since it hung"
    finally:
        if child.pid == mute:
            os.kill(mute, signal.SIGCONT)


def test_a_new_babeld_uses_the_neighbours_of_the_one_before_without_a_word_from_them(
    pair: tuple[Node, Node],
) -> None:
    left, right = pair
    tunnel = open_tunnel(left, right, "re6st0")
    left.up("re6st0", right)
    right.up("re6st0", left)
    wait_for_routes(left, right, "re6st0")
    killed = left.supervisor.get(CHILD_NAME)
    assert killed is not None
    assert killed.pid is not None
    before = killed.pid
    with silence(right):
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: killed.pid not in (None, before), DEADLINE, "babeld runs again")
        wait_until(lambda: left.changes.count(Started()) == 2, DEADLINE, "the connection is there again")
        wait_until(lambda: left.babeld.table.is_reachable("re6st0"), DEADLINE, "the neighbour is used")
    wait_for_routes(left, right, "re6st0")
    tunnel.close()


def test_stopping_retracts_routes_and_leaves_no_file(pair: tuple[Node, Node]) -> None:
    left, right = pair
    tunnel = open_tunnel(left, right, "re6st0")
    left.up("re6st0", right)
    right.up("re6st0", left)
    wait_for_routes(left, right, "re6st0")
    left.host.call(left.babeld.stop())
    wait_until(lambda: left.prefix not in right.routes("re6st0"), DEADLINE, "the route is retracted")
    assert sorted(path.name for path in left.directory.iterdir()) == ["babel-sequence", "children"]
    assert "proto babel" not in left.host.ip("route")
    tunnel.close()


def test_only_prefixes_of_nodes_are_accepted(pair: tuple[Node, Node]) -> None:
    """A peer that announces more than it may is not believed, whatever its own filters are."""
    left, right = pair
    right.host.call(right.babeld.stop())
    stolen = ("::/0", "2001:db8:42::/48", "2001:db8:42:1::/64", "2001:db8:42:1::99/128", "2001:db8:77::/64")
    legitimate = ("2001:db8:42:2::/64", "2001:db8:42:7:1::/80")
    for prefix in (*stolen, *legitimate):
        if prefix != str(right.prefix):
            right.host.ip("route", "add", "unreachable", prefix, "proto", "44", "metric", "7000")
    configuration = right.directory / "rogue.conf"
    configuration.write_text(
        "skip-kernel-setup true\nredistribute proto 44\ninterface re6st0 hello-interval 0.5\n"
    )
    tunnel = open_tunnel(left, right, "re6st0")
    left.up("re6st0", right)
    right.host.call(right.kernel.set_link("re6st0", up=True))
    files = [str(right.directory / name) for name in ("rogue.conf", "rogue.state", "rogue.pid")]
    right.host.run("babeld", "-D", "-c", files[0], "-S", files[1], "-I", files[2], "-L", "/dev/null")
    wait_until(lambda: len(left.routes("re6st0")) == len(legitimate), DEADLINE, "the legitimate routes")
    assert {str(route.prefix) for route in left.babeld.table.routes()} == set(legitimate)
    assert "src 2001:db8:42:1::1" in left.host.ip("route", "show", legitimate[0])
    # A part of what the node gets now is claimed already.
    further = IPv6Network("2001:db8:42:7::/64")
    left.host.do(lambda: left.babeld.own((further,)))
    wait_until(lambda: left.changes.count(Started()) == 2, 15, "another babeld")
    wait_until(lambda: left.routes("re6st0") == {right.prefix}, 30, "the claim is denied")
    # The babeld that was killed has left the route, which must not wait for the end of the repair.
    assert legitimate[1] in left.host.ip("route", "show", "proto", "babel")
    own = (left.prefix, further)
    repair = RouteRepair(left.kernel, NETWORK, left.address, left.babeld.table.installed, lambda: own)
    assert left.host.call(repair.restore()) == 1
    assert legitimate[1] not in left.host.ip("route", "show", "proto", "babel")
    # The next daemon adopts that babeld, which knows what is to be denied.
    left.forget_everything()
    left.babeld = left.successor()
    left.babeld.own((further,))
    left.host.call(left.babeld.start())
    assert Started() not in left.changes
    assert left.routes("re6st0") == {right.prefix}
    tunnel.close()


def test_prefixes_come_and_go_while_babeld_runs(pair: tuple[Node, Node]) -> None:
    left, right = pair
    tunnel = open_tunnel(left, right, "re6st0")
    left.up("re6st0", right)
    right.up("re6st0", left)
    wait_for_routes(left, right, "re6st0")
    further = IPv6Network("2001:db8:42:10::/60")
    left.host.do(lambda: left.babeld.own((further,)))
    left.host.call(left.kernel.add_prefix(further, "lo"))
    wait_until(lambda: further in right.routes("re6st0"), 30, "the further prefix is announced")
    assert right.host.pings("2001:db8:42:10::1")
    left.host.call(left.kernel.remove_prefix(further, "lo"))
    wait_until(lambda: right.routes("re6st0") == {left.prefix}, 30, "it is retracted")
    assert left.changes.count(Started()) == 1
    tunnel.close()


def test_start_says_why_babeld_does_not_come_up(tmp_path: Path) -> None:
    """The port is taken: the error carries what babeld has printed, and nothing is left."""
    host = Host("lonely")
    taken = host.do(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    try:
        host.do(lambda: taken.bind(("::", 6696)))
        prefix = IPv6Network("2001:db8:42:1::/64")
        configuration = BabelConfiguration(NETWORK, prefix, 6696, 4.0, 60.0)
        supervisor = Supervisor(tmp_path / "children")
        babeld = Babeld(tmp_path, tmp_path, supervisor, configuration, lambda change: None)
        with pytest.raises(ChildError, match="in use"):
            host.call(babeld.start())
        assert sorted(path.name for path in tmp_path.iterdir()) == ["babel-sequence", "children"]
        assert not list((tmp_path / "children").iterdir())
        assert babeld.state == "stopped"
    finally:
        taken.close()
        remove_all([host])


def test_the_next_daemon_adopts_a_sound_babeld_and_replaces_any_other(tmp_path: Path) -> None:
    """Routes stay in the kernel in both cases; those that the new babeld does not know can be repaired."""
    left, right = Node("left", 1, tmp_path, 1.0), Node("right", 2, tmp_path, 1.0)
    try:
        tunnel = open_tunnel(left, right, "re6st0")
        left.up("re6st0", right)
        right.up("re6st0", left)
        wait_for_routes(left, right, "re6st0")
        child = left.supervisor.get(CHILD_NAME)
        assert child is not None
        first = child.pid
        for sound in (True, False):
            # What another process would find: the same files, nothing in memory.
            left.forget_everything()
            if not sound:
                (left.directory / "babeld.conf").write_text("smoothing-half-life 4\n")
            left.babeld = left.successor()
            with silence(right):
                left.host.call(left.babeld.start())
                left.host.call(left.babeld.resume("re6st0", 100, right.prefix))
                wait_until(lambda: left.babeld.table.is_reachable("re6st0"), 15, "the neighbour is used")
            child = left.supervisor.get(CHILD_NAME)
            assert child is not None
            assert (child.pid == first) is sound
            assert (Started() in left.changes) is not sound
            assert str(right.prefix) in left.host.ip("route", "show", "proto", "babel")
            wait_for_routes(left, right, "re6st0")
        left.host.ip(
            "route", "add", "2001:db8:42:9::/64", "via", "fe80::9", "dev", "re6st0", "proto", "babel"
        )
        left.host.ip(
            *("route", "change", str(right.prefix), "via", "fe80::8", "dev", "re6st0", "proto", "babel"),
            *("metric", "1024", "src", str(left.address), "onlink"),
        )
        repair = RouteRepair(left.kernel, NETWORK, left.address, left.babeld.table.installed, tuple)
        assert left.host.call(repair.repair()) == 2
        assert left.host.call(repair.repair()) == 0
        before = left.host.ip("route", "show", str(right.prefix))
        left.host.ip("route", "del", str(right.prefix), "proto", "babel")
        assert left.host.call(repair.restore()) == 1
        assert left.host.ip("route", "show", str(right.prefix)) == before
        assert left.host.pings(str(right.address))
        left.down("re6st0")
        tunnel.close()
    finally:
        left.remove()
        right.remove()
