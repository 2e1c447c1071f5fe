"""re6st.registry.allocator and .space: no overlap, dense packing, quarantine, a full network."""

import contextlib
import tempfile
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from re6st.errors import ConfigError, RegistryRefusedError
from re6st.registry.admissions import Reservation
from re6st.registry.allocator import Lease, free_blocks
from re6st.registry.space import allocate
from re6st.registry.store import Store

NETWORK = IPv6Network("2001:db8:42::/48")
SMALL = IPv6Network("2001:db8:42:ff00::/56")
MONTH = 30 * 86400.0


@contextlib.contextmanager
def new_store():
    with tempfile.TemporaryDirectory() as directory, Store.create(Path(directory) / "store") as store:
        store.execute("PRAGMA synchronous = OFF")
        yield store


@pytest.fixture
def store():
    with new_store() as opened:
        yield opened


def take(store, prefix, now=0.0):
    return store.add_node(f"n{prefix}", prefix, now)


def get(store, network, length, now=0.0, quarantine=MONTH):
    with store.transaction():
        return take(store, allocate(store, network, length, now, quarantine), now)


def test_the_first_node_gets_the_first_prefix(store):
    assert get(store, NETWORK, 64).prefix == IPv6Network("2001:db8:42::/64")


@settings(max_examples=20)
@given(st.lists(st.integers(57, 120), max_size=40))
def test_prefixes_never_overlap_and_pack_densely(lengths):
    with new_store() as store:
        store.prepare_space(SMALL)
        held = []
        for length in lengths:
            try:
                prefix = get(store, SMALL, length).prefix
            except RegistryRefusedError:
                # Refused only if all that is left, taken together, is too little.
                assert SMALL.num_addresses - sum(other.num_addresses for other in held) < 2 ** (128 - length)
                continue
            assert prefix.subnet_of(SMALL)
            assert not any(prefix.overlaps(other) for other in held)
            held.append(prefix)
        free = store.free_space()
    # Best fit without returns: at most one free subtree of each length.
    assert len(free) == len({block.prefixlen for block in free})
    assert sum(block.num_addresses for block in held + free) == SMALL.num_addresses


STEPS = st.tuples(
    st.sampled_from(["join", "join", "leave", "return", "reserve", "unreserve"]),
    st.integers(57, 72),
    st.floats(1, 10),
)


@settings(max_examples=40)
@given(st.lists(STEPS, max_size=40))
def test_the_free_space_is_what_nobody_has_whatever_comes_and_goes(steps):
    now, quarantine = 0.0, 40.0
    with new_store() as store:
        for what, length, pause in steps:
            now += pause
            nodes = store.nodes()
            members = [node for node in nodes if node.released is None]
            former = [node for node in nodes if node.released is not None]
            kept = store.reservations()
            with contextlib.suppress(RegistryRefusedError):
                if what == "leave" and members:
                    store.release_node(members[length % len(members)].identifier, now, now)
                elif what == "return" and former:
                    node = former[length % len(former)]
                    if all(lease.released is not None for lease in store.holders(node.prefix)):
                        store.restore_node(node.identifier, node.name)
                elif what == "unreserve" and kept:
                    store.unreserve(kept[length % len(kept)].name)
                elif what in ("join", "reserve"):
                    prefix = allocate(store, SMALL, length, now, quarantine)
                    for node in nodes:
                        if node.released is None or node.released + quarantine > now:
                            assert not prefix.overlaps(node.prefix)
                    assert not any(prefix.overlaps(other.prefix) for other in kept)
                    if what == "join":
                        take(store, prefix, now)
                    else:
                        store.reserve(Reservation(str(prefix), prefix, now))
        store.prepare_space(SMALL)
        expected = free_blocks(Lease.of(SMALL), store.holders(SMALL))
        assert store.free_space() == [IPv6Network((block.start, block.length)) for block in expected]


def test_a_prefix_comes_back_after_its_quarantine_only(store):
    first = get(store, NETWORK, 64)
    store.release_node(first.identifier, 1000.0, 1000.0)
    assert allocate(store, NETWORK, 64, 999.0 + MONTH, MONTH) != first.prefix
    assert allocate(store, NETWORK, 64, 1000.0 + MONTH, MONTH) == first.prefix


def test_a_full_network_says_so_and_until_when_a_prefix_waits(store):
    nodes = [take(store, prefix) for prefix in SMALL.subnets(new_prefix=64)]
    with pytest.raises(RegistryRefusedError, match=r"network is full.*no free /64") as caught:
        allocate(store, SMALL, 64, 0.0, MONTH)
    assert caught.value.code == "network-full"
    store.release_node(nodes[7].identifier, 0.0, 0.0)
    with pytest.raises(RegistryRefusedError, match="1 are in quarantine, the next until 1970-01-31"):
        allocate(store, SMALL, 64, 5.0, MONTH)


def test_a_network_full_of_old_prefixes_recycles_them_all_if_it_must(store):
    for prefix in SMALL.subnets(new_prefix=65):
        store.release_node(take(store, prefix).identifier, 0.0, 0.0)
    assert allocate(store, SMALL, 57, 2 * MONTH, MONTH) == IPv6Network("2001:db8:42:ff00::/57")


def test_a_hole_that_fits_is_filled_before_larger_room_is_broken(store):
    # Held: the first /57 and, of the second half, one /64 in the middle.
    for prefix in ("2001:db8:42:ff00::/57", "2001:db8:42:ff81::/64"):
        take(store, IPv6Network(prefix))
    assert allocate(store, SMALL, 64, 0.0, MONTH) == IPv6Network("2001:db8:42:ff80::/64")
    assert allocate(store, SMALL, 58, 0.0, MONTH) == IPv6Network("2001:db8:42:ffc0::/58")


@pytest.mark.parametrize("length", [48, 30, 121, 128])
def test_impossible_lengths(store, length):
    with pytest.raises(ConfigError):
        allocate(store, NETWORK, length, 0.0, MONTH)


@pytest.mark.parametrize("region", ["2001:db8:42:7::/64", "2001:db8:42::/64", "2001:db8:42:8000::/49"])
def test_looking_up_a_region_reads_no_table_through(store, region):
    plans = []
    execute = store.execute

    def explain(statement, values=()):
        if "nodes" in statement or "free_space" in statement:
            plans.extend(row[3] for row in execute(f"EXPLAIN QUERY PLAN {statement}", values))
        return execute(statement, values)

    store.prepare_space(NETWORK)
    store.execute = explain
    store.refresh_space(IPv6Network(region))
    assert allocate(store, NETWORK, 64, 0.0, MONTH)
    assert plans
    assert not [plan for plan in plans if plan.startswith("SCAN")]
