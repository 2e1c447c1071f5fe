"""Nodes that are neighbours in a LAN that their owners trust, end to end.

registry, anna -- internet -- office -- olga, otto, visitor
                     +------- branch -- bea, ben

Olga and otto exchange routes on the LAN itself. The visitor runs babeld, and is no member of the network.
Bea and ben look for others in their LAN, and make tunnels.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from observing import PATIENCE, lost, tunnels, until

from re6st import status
from re6st.lab import topology
from re6st.lab.lab import Lab
from re6st.lab.leftovers import assert_clean
from re6st.lab.ping_train import PingTrain
from re6st.messages import LanKeys
from re6st.node.lan import LAN_KEYS_NAME
from re6st.status import RouteStatus

OFFICE = ("olga", "otto")
BRANCH = ("bea", "ben")
GIVEN_UP = 6.0
"""Seconds after which a neighbour that is not heard any more has been given up."""

FOREIGN = "2001:db8:42:beef::/64"

pytestmark = pytest.mark.timeout(400)


def network_key(lab: Lab) -> str:
    """Return the newest key of LANs that olga has, in hexadecimal."""
    keys = msgspec.json.decode((lab.nodes["olga"].state / LAN_KEYS_NAME).read_bytes(), type=LanKeys).keys
    return keys[-1].hex()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    name = f"t{os.getpid()}office"
    with Lab(topology.load(topology.find("office")), name=name) as built:
        built.start_registry()
        built.enrol()
        built.start_nodes(["registry", "anna", *OFFICE])
        assert built.wait_for_all_pairs(PATIENCE, ["registry", "anna", *OFFICE]).complete
        yield built
    assert_clean(name)


def routes(lab: Lab, name: str) -> dict[str, RouteStatus]:
    """Return the routes that a node uses, by the name of the node they lead to."""
    found = status.fetch(lab.nodes[name].runtime, "routes", list[RouteStatus])
    return {route.peer or route.prefix: route for route in found if route.installed and route.metric < 65535}


def neighbours(lab: Lab, name: str) -> list[str]:
    """Return who can be used on the LAN of a node."""
    return [one.peer for one in lab.nodes[name].status().lan.neighbours if one.cost < 65535]


def in_lan(lab: Lab, name: str, peer: str) -> bool:
    """Whether the route from one node to the other leads through the LAN itself."""
    route = routes(lab, name).get(peer)
    return route is not None and (route.interface, route.next_hop) == ("eth0", peer)


def both_in_lan(lab: Lab) -> bool:
    return in_lan(lab, "olga", "otto") and in_lan(lab, "otto", "olga")


@contextmanager
def babeld(lab: Lab, key: str) -> Iterator[None]:
    """Run babeld on the visitor: it hears all, signs with ``key``, and announces a prefix of the network."""
    host = lab.hosts["visitor"]
    lines = [
        f"key id lan type hmac-sha256 value {key}",
        "skip-kernel-setup true",
        "interface eth0 type wired hello-interval 1 update-interval 4 key lan accept-bad-signatures true",
        f"redistribute ip {FOREIGN} allow",
        "redistribute local deny",
    ]
    configuration = host.directory / "babeld.conf"
    configuration.write_text("\n".join(lines) + "\n")
    host.run(["ip", "-6", "route", "replace", "unreachable", FOREIGN, "proto", "44"])
    places = [str(host.directory / f"babeld.{end}") for end in ("sock", "state", "pid")]
    for place in places:
        Path(place).unlink(missing_ok=True)
    command = ["babeld", "-c", str(configuration), "-p", str(lab.registry.babel_port())]
    for option, place in zip(("-G", "-S", "-I"), places, strict=True):
        command += [option, place]
    running = host.start(command, log="babeld.log")
    try:
        yield
    finally:
        running.stop()


def dump(lab: Lab) -> str:
    """Return what the visitor's babeld knows; nothing while it does not listen."""
    text = b""
    with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
        connection.settimeout(5)
        connection.connect(str(lab.hosts["visitor"].directory / "babeld.sock"))
        connection.sendall(b"dump\nquit\n")
        while data := connection.recv(65536):
            text += data
    return text.decode()


def heard(lab: Lab) -> int:
    """Return how many nodes the visitor's babeld has heard for eight Hellos in a row."""
    lines = dump(lab).splitlines()
    return sum(line.startswith("add neighbour ") and " reach ff" in line for line in lines)


def test_routes_lead_through_the_lan(lab):
    until(lambda: both_in_lan(lab))
    assert neighbours(lab, "olga") == ["otto"]
    # What is in the kernel is what is shown, and packets take it.
    address = lab.nodes["otto"].address()
    way = lab.hosts["olga"].run(["ip", "-6", "route", "get", address]).stdout
    assert " dev eth0 " in way
    assert f" src {lab.nodes['olga'].address()} " in way
    assert (
        lab.hosts["olga"].run(["ping", "-6", "-n", "-c", "3", "-i", "0.2", address], check=False).returncode
        == 0
    )
    assert "eth0: otto" in lab.nodes["olga"].run("status").stdout
    configuration = (lab.nodes["olga"].runtime / "babeld.conf").read_text()
    assert network_key(lab) not in configuration
    assert (lab.nodes["olga"].state / LAN_KEYS_NAME).stat().st_mode & 0o077 == 0


def test_a_new_key_takes_over_without_a_lost_packet_and_the_old_one_is_worth_nothing(lab):
    until(lambda: both_in_lan(lab))
    old = network_key(lab)
    logs = {name: len(lab.nodes[name].log.read_text()) for name in OFFICE}

    def since(name: str) -> str:
        return lab.nodes[name].log.read_text()[logs[name] :]

    with PingTrain(lab.hosts["olga"].namespace, lab.nodes["otto"].address()) as train:
        lab.registry.run("lan-key", "rotate", "--delay", "6s")
        until(lambda: all("Another key of the LANs is in use" in since(name) for name in OFFICE))
        changed = time.monotonic()
        until(lambda: time.monotonic() - changed > GIVEN_UP)
        assert lost([train], 0.0) == []
    assert not any("No neighbour" in since(name) for name in OFFICE)
    assert both_in_lan(lab)
    new = network_key(lab)
    assert new != old
    # Whoever has been thrown out still knows the old one.
    with babeld(lab, old):
        until(lambda: heard(lab) == len(OFFICE))
        for name in OFFICE:
            assert FOREIGN not in routes(lab, name)
            assert len(lab.nodes[name].status().lan.neighbours) == 1
    # With the new one it would have been believed.
    with babeld(lab, new):
        until(lambda: all(FOREIGN in routes(lab, name) for name in OFFICE))
    until(lambda: not any(FOREIGN in routes(lab, name) for name in OFFICE))


def test_the_lan_goes_on_without_the_internet_and_over_a_restart(lab):
    until(lambda: both_in_lan(lab))
    office = lab.namespace("office")
    with lab.pinger(OFFICE) as pinger:
        office.set_sysctl("ipv4/ip_forward", "0")
        try:
            assert pinger.run(PATIENCE).complete
            lab.nodes["olga"].run("restart")
            until(lambda: both_in_lan(lab))
            assert pinger.run(PATIENCE).complete
        finally:
            office.set_sysctl("ipv4/ip_forward", "1")


def test_an_interface_that_vanishes_and_comes_back_is_used_again(lab):
    until(lambda: both_in_lan(lab))
    lab.move("otto", "hosting")
    until(lambda: not in_lan(lab, "olga", "otto"))
    assert lab.wait_for_all_pairs(PATIENCE, ["registry", "anna", *OFFICE]).complete
    lab.move("otto", "office")
    until(lambda: both_in_lan(lab))


def test_nodes_without_the_internet_find_each_other_in_their_lan(lab):
    # They have never heard of each other, nor can they hear of anybody else.
    lab.namespace("branch").set_sysctl("ipv4/ip_forward", "0")
    lab.start_nodes(BRANCH)
    assert lab.wait_for_all_pairs(PATIENCE, BRANCH).complete
    tunnel = until(lambda: tunnels(lab, "bea").get("ben"))
    assert tunnel.established == "lan"
    assert list(tunnels(lab, "bea")) == ["ben"]
    # When the Internet is back they are members like all others.
    lab.namespace("branch").set_sysctl("ipv4/ip_forward", "1")
    assert lab.wait_for_all_pairs(PATIENCE).complete
