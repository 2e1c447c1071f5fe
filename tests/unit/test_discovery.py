"""re6st.node.discovery: what is made of announcements in a LAN."""

import asyncio
import errno
import socket
import struct
from ipaddress import IPv4Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from re6st.errors import RemoteProtocolError
from re6st.messages import Endpoint, LanAnnouncement, Transport, encode
from re6st.node import discovery
from re6st.node.discovery import (
    MEET_BURST,
    MEET_INTERVAL,
    MEET_RATE,
    MOST_NODES,
    REMEMBERED_FOR,
    Discovery,
    Sightings,
    read_announcement,
)

NETWORK = IPv6Network("2001:db8:42::/48")
OWN = IPv6Network("2001:db8:42:1::/64")
OTHER = IPv6Network("2001:db8:42:2::/64")
HERE = Endpoint(Transport.TCP, "192.168.1.2", 4226)
THERE = Endpoint(Transport.TCP, "192.168.1.3", 4226)


def test_an_announcement_is_small_and_says_prefix_and_port() -> None:
    message = encode(LanAnnouncement(prefix=str(OTHER), port=4226))
    assert len(message) < 64
    assert read_announcement(message, NETWORK, OWN) == (OTHER, 4226)


@pytest.mark.parametrize(
    "prefix",
    [str(OWN), str(NETWORK), "2001:db8:43::/64", "2001:db8::/32", "10.0.0.0/24", "2001:db8:42:2::1/64"],
)
def test_who_is_no_other_node_of_the_network_is_ignored(prefix: str) -> None:
    with pytest.raises(RemoteProtocolError):
        read_announcement(encode(LanAnnouncement(prefix=prefix, port=4226)), NETWORK, OWN)


@given(st.binary(max_size=400))
def test_nonsense_is_only_refused(message: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read_announcement(message, NETWORK, OWN)


def test_a_node_is_where_it_was_heard_lately_and_asked_seldom() -> None:
    sightings = Sightings()
    assert not sightings.may_ask(OTHER, 0)
    sightings.note(OTHER, HERE, 0)
    assert sightings.may_ask(OTHER, 0)
    sightings.note(OTHER, HERE, 1)
    assert not sightings.may_ask(OTHER, MEET_INTERVAL - 1)
    assert sightings.may_ask(OTHER, MEET_INTERVAL)
    sightings.note(OTHER, THERE, MEET_INTERVAL)
    assert not sightings.may_ask(OTHER, MEET_INTERVAL)
    assert sightings.endpoint(OTHER, MEET_INTERVAL + REMEMBERED_FOR - 1) == THERE
    assert sightings.endpoint(OTHER, MEET_INTERVAL + REMEMBERED_FOR) is None


def test_only_so_many_nodes_are_remembered() -> None:
    sightings = Sightings()
    prefixes = list(NETWORK.subnets(new_prefix=64))[: MOST_NODES + 1]
    for prefix in prefixes:
        sightings.note(prefix, HERE, 0)
    assert sightings.endpoint(prefixes[0], 0) is None
    assert sightings.endpoint(prefixes[-1], 0) == HERE


def test_whoever_alternates_between_endpoints_is_asked_once() -> None:
    sightings = Sightings()
    asked = 0
    for step in range(100):
        now = step * MEET_INTERVAL / 100
        sightings.note(OTHER, (HERE, THERE)[step % 2], now)
        asked += sightings.may_ask(OTHER, now)
    assert asked == 1


def test_many_prefixes_cause_few_requests() -> None:
    sightings = Sightings()
    asked = 0
    for step, prefix in enumerate(list(NETWORK.subnets(new_prefix=58))[:1000]):
        now = step / 100
        sightings.note(prefix, HERE, now)
        asked += sightings.may_ask(prefix, now)
    assert MEET_BURST <= asked <= MEET_BURST + MEET_RATE * 10


class Interfaces:
    """Interfaces of a host, and the memberships that sockets have on them."""

    def __init__(self) -> None:
        self.index = {IPv4Address("192.168.1.2"): 1}
        self.opened: list[Ear] = []

    def open(self) -> "Ear":
        self.opened.append(Ear(self))
        return self.opened[-1]


class Ear(socket.socket):
    """A socket that keeps memberships as Linux does, and sends nothing."""

    def __init__(self, interfaces: Interfaces) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self.interfaces = interfaces
        self.memberships: set[int] = set()

    def setsockopt(self, level, option, value):
        if option != socket.IP_ADD_MEMBERSHIP:
            return
        index = self.interfaces.index[IPv4Address(struct.unpack("4s4s", value)[1])]
        if index in self.memberships:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        self.memberships.add(index)

    def sendto(self, *_):
        return 0


@pytest.mark.parametrize("seen_without", [True, False])
def test_interfaces_that_are_made_anew_are_heard_without_the_memberships_of_old_ones(
    monkeypatch, seen_without
) -> None:
    interfaces = Interfaces()
    monkeypatch.setattr(discovery, "_open", interfaces.open)
    address = IPv4Address("192.168.1.2")

    async def run() -> None:
        tested = Discovery(
            prefix=OWN,
            network=NETWORK,
            port=4226,
            addresses=lambda: tuple(interfaces.index),
            reachable_here=lambda endpoint: True,
            routed=lambda prefix: False,
            meet=lambda prefix, endpoint: None,
        )
        await tested.start()
        for index in range(1, 31):
            interfaces.index = {address: index}
            for _ in range(3):
                tested._announce_once()
            assert interfaces.opened[-1].memberships == {index}
            if seen_without:
                interfaces.index = {}
                tested._announce_once()
        await tested.stop()

    asyncio.run(run())
    assert len(interfaces.opened) <= 31
    assert all(ear.fileno() == -1 for ear in interfaces.opened)
