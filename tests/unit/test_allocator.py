"""re6st.registry.allocator: no overlap, dense packing, quarantine, a full network."""

import time
from ipaddress import IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from re6st.errors import ConfigError, RegistryRefusedError
from re6st.registry.allocator import Lease, allocate, free_blocks

NETWORK = IPv6Network("2001:db8:42::/48")
SMALL = IPv6Network("2001:db8:42:ff00::/56")
MONTH = 30 * 86400.0


def lease(prefix, released=None):
    return Lease(int(prefix.network_address), prefix.prefixlen, released)


def test_the_first_node_gets_the_first_prefix():
    assert allocate(NETWORK, [], 64, 0.0, MONTH) == IPv6Network("2001:db8:42::/64")


@given(st.lists(st.integers(57, 120), max_size=60))
def test_prefixes_never_overlap_and_pack_densely(lengths):
    held = []
    for length in lengths:
        try:
            prefix = allocate(SMALL, [lease(other) for other in held], length, 0.0, MONTH)
        except RegistryRefusedError:
            # Refused only if all that is left, taken together, is too little.
            assert SMALL.num_addresses - sum(other.num_addresses for other in held) < 2 ** (128 - length)
            continue
        assert prefix.subnet_of(SMALL)
        assert not any(prefix.overlaps(other) for other in held)
        held.append(prefix)
    free = [block.length for block in free_blocks(SMALL, [lease(other) for other in held])]
    # Best fit without returns: at most one free subtree of each length.
    assert len(free) == len(set(free))
    used = sum(prefix.num_addresses for prefix in held)
    assert used + sum(2 ** (128 - length) for length in free) == SMALL.num_addresses


@given(st.lists(st.tuples(st.integers(58, 72), st.booleans(), st.floats(1, 10)), max_size=60))
def test_no_overlap_with_prefixes_given_back_within_the_quarantine(steps):
    now, quarantine = 0.0, 40.0
    leases = []
    for length, give_back, pause in steps:
        now += pause
        held = [index for index, entry in enumerate(leases) if entry.released is None]
        if give_back and held:
            leases[held[0]] = leases[held[0]]._replace(released=now)
            continue
        try:
            prefix = allocate(SMALL, leases, length, now, quarantine)
        except RegistryRefusedError:
            continue
        for entry in leases:
            if entry.released is None or entry.released + quarantine > now:
                assert not prefix.overlaps(IPv6Network((entry.start, entry.length)))
        leases.append(lease(prefix))


def test_a_prefix_comes_back_after_its_quarantine_only():
    first = allocate(NETWORK, [], 64, 0.0, MONTH)
    leases = [lease(first, released=1000.0)]
    assert allocate(NETWORK, leases, 64, 999.0 + MONTH, MONTH) != first
    assert allocate(NETWORK, leases, 64, 1000.0 + MONTH, MONTH) == first


def test_a_full_network_says_so_and_until_when_a_prefix_waits():
    leases = [lease(prefix) for prefix in SMALL.subnets(new_prefix=64)]
    with pytest.raises(RegistryRefusedError, match=r"network is full.*no free /64") as caught:
        allocate(SMALL, leases, 64, 0.0, MONTH)
    assert caught.value.code == "network-full"
    leases[7] = leases[7]._replace(released=0.0)
    with pytest.raises(RegistryRefusedError, match="1 are in quarantine, the next until 1970-01-31"):
        allocate(SMALL, leases, 64, 5.0, MONTH)


def test_a_hole_that_fits_is_filled_before_larger_room_is_broken():
    # Held: the first /57 and, of the second half, one /64 in the middle.
    held = [IPv6Network("2001:db8:42:ff00::/57"), IPv6Network("2001:db8:42:ff81::/64")]
    assert allocate(SMALL, map(lease, held), 64, 0.0, MONTH) == IPv6Network("2001:db8:42:ff80::/64")
    assert allocate(SMALL, map(lease, held), 58, 0.0, MONTH) == IPv6Network("2001:db8:42:ffc0::/58")


@pytest.mark.parametrize("length", [48, 30, 121, 128])
def test_impossible_lengths(length):
    with pytest.raises(ConfigError):
        allocate(NETWORK, [], length, 0.0, MONTH)


def test_ten_thousand_prefixes_are_no_effort():
    leases = [lease(prefix) for prefix, _ in zip(NETWORK.subnets(new_prefix=64), range(10_000), strict=False)]
    start = time.process_time()
    assert allocate(NETWORK, leases, 64, 0.0, MONTH) == IPv6Network("2001:db8:42:2710::/64")
    assert time.process_time() - start < 0.5
