"""When hole punching is tried, and what is remembered of it."""

import random
from ipaddress import IPv6Network

import pytest

from re6st.core.context import Context
from re6st.core.punching import SUSPECTS, Punching
from re6st.core.settings import CoreSettings
from re6st.messages import Endpoint, Transport
from re6st.node import holes
from re6st.node.token_bucket import TokenBucket
from re6st.peers import PUNCHING, Peer


class Tunnels:
    """As much of the table of tunnels as is asked."""

    isolated = False

    def __iter__(self):
        return iter(())


def peer(number: int, *, endpoints: tuple[Endpoint, ...] = (), capabilities=(PUNCHING,), **more) -> Peer:
    prefix = IPv6Network((0x20010DB80042 << 80 | number << 64, 64))
    return Peer(
        prefix=prefix, name=f"n{number}", sequence=1, endpoints=endpoints, capabilities=capabilities, **more
    )


def at(address: str, transport: Transport = Transport.TCP) -> Endpoint:
    return Endpoint(transport, address, 4226)


@pytest.fixture
def context() -> Context:
    network = IPv6Network("2001:db8:42::/48")
    settings = CoreSettings(prefix=IPv6Network("2001:db8:42:99::/64"), name="own", network=network)
    return Context(settings, random.Random(1))


@pytest.fixture
def tunnels() -> Tunnels:
    return Tunnels()


@pytest.fixture
def punching(context, tunnels) -> Punching:
    return Punching(context, tunnels)


def test_only_peers_that_nobody_can_dial_and_that_take_part_are_tried(punching, tunnels):
    assert punching.possible(peer(1))
    assert not punching.possible(peer(1, endpoints=(at("20.1.1.1"),)))
    assert not punching.possible(peer(1, capabilities=()))
    assert not punching.possible(peer(1, departed=True))
    tunnels.isolated = True
    assert not punching.possible(peer(1)), "the request goes over the overlay"
    tunnels.isolated = False
    punching.needed = False
    assert not punching.possible(peer(1)), "the peer can dial us"


def test_a_peer_with_which_it_fails_waits_ever_longer(punching, context):
    waits = []
    for _ in range(12):
        punching.failed(peer(1))
        punching.succeeded(peer(2))
        begin = context.now
        while not punching.possible(peer(1)):
            context.now += 60.0
        waits.append(context.now - begin)
    shortest, longest = context.settings.punch_delay
    assert waits[0] <= 1.25 * shortest + 60
    assert waits[3] > 3 * waits[0]
    assert 0.75 * longest <= waits[-1] <= 1.25 * longest + 60


def test_several_failures_in_a_row_are_blamed_on_the_own_router_until_the_network_changes(punching, context):
    for number in range(SUSPECTS - 1):
        punching.failed(peer(number))
    assert punching.possible(peer(99))
    punching.failed(peer(50))
    assert not punching.possible(peer(99))
    punching.network_changed()
    assert punching.possible(peer(99))
    assert punching.possible(peer(50))


def test_stun_servers_are_nodes_with_an_address_of_their_own():
    peers = [
        peer(1, endpoints=(at("20.1.1.1"), at("2001:db8::1"), at("192.168.1.1"))),
        peer(2, endpoints=(at("20.1.1.2"),), capabilities=(PUNCHING, "upnp")),
        peer(3, endpoints=(at("20.1.1.3"),), capabilities=()),
        peer(4),
        peer(5, endpoints=(at("20.1.1.5"),)),
    ]
    assert holes.stun_servers(peers) == [at("20.1.1.1", Transport.UDP), at("20.1.1.5", Transport.UDP)]


@pytest.mark.parametrize("address", ["192.168.1.1", "100.64.0.1", "127.0.0.1", "224.0.0.1", "2600::1", "x"])
def test_packets_are_sent_to_public_addresses_only(address):
    assert not holes.is_outside(at(address, Transport.UDP))
    assert not holes.is_outside(at("20.1.1.1"))
    assert holes.is_outside(at("20.1.1.1", Transport.UDP))


def test_a_token_bucket_lets_a_burst_pass_and_then_its_rate():
    bucket = TokenBucket(rate=10.0, burst=5.0)
    assert sum(bucket.take(100.0) for _ in range(50)) == 5
    assert sum(bucket.take(101.0 + step / 100) for step in range(100)) == pytest.approx(14, abs=1)
