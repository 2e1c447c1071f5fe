"""re6st.node.discovery: what is made of announcements in a LAN."""

from ipaddress import IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from re6st.errors import RemoteProtocolError
from re6st.messages import Endpoint, LanAnnouncement, Transport, encode
from re6st.node.discovery import (
    MEET_INTERVAL,
    MOST_NODES,
    REMEMBERED_FOR,
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
    # Somewhere else it may be another one.
    sightings.note(OTHER, THERE, MEET_INTERVAL)
    assert sightings.may_ask(OTHER, MEET_INTERVAL)
    assert sightings.endpoint(OTHER, MEET_INTERVAL + REMEMBERED_FOR - 1) == THERE
    assert sightings.endpoint(OTHER, MEET_INTERVAL + REMEMBERED_FOR) is None


def test_only_so_many_nodes_are_remembered() -> None:
    sightings = Sightings()
    prefixes = list(NETWORK.subnets(new_prefix=64))[: MOST_NODES + 1]
    for prefix in prefixes:
        sightings.note(prefix, HERE, 0)
    assert sightings.endpoint(prefixes[0], 0) is None
    assert sightings.endpoint(prefixes[-1], 0) == HERE
