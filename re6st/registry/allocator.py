"""Allocation of node prefixes: which free prefix of a network a new node gets.

A network is a binary tree: each prefix has two halves, one bit longer. A prefix can be given away when
no held prefix overlaps it. Of the largest free subtrees the *smallest one that fits* is taken, of those the
lowest, and its first prefix of the wanted length is given away (best fit in a buddy system; Knuth, The Art of
Computer Programming, vol. 1, 2.5). As long as nothing is given back there is then at most one free
subtree of each length, so that a request fails only if the network is really too full for it.

A prefix that was given back stays in *quarantine*: its former owner may be offline and believe in it for
a while, and must not meet a successor.

The first prefix of the network is given away like any other. Nothing in the protocol gives a meaning to the
address of the network itself, and the first node, usually the registry's own, gets the shortest address
of all that way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv6Network
from typing import NamedTuple

from re6st.errors import RegistryRefusedError
from re6st.identity import format_time
from re6st.prefix import check_node_length

ADDRESS_BITS = 128


class Lease(NamedTuple):
    """A prefix that is, or was, somebody's."""

    start: int
    """Its first address."""
    length: int
    """Its prefix length."""
    released: float | None = None
    """When it was given back, seconds since the epoch; None while it is held."""

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.start + (1 << (ADDRESS_BITS - self.length))


def allocate(
    network: IPv6Network, leases: Iterable[Lease], length: int, now: float, quarantine: float
) -> IPv6Network:
    """Return the prefix of ``length`` for a new node.

    ``leases`` are all prefixes of the network that are held or were given back, in any order; those that
    count at ``now`` (seconds since the epoch) do not overlap. ``quarantine`` is in seconds. The effort grows
    with the number of leases, and is some milliseconds for 10,000.

    Raises :class:`ConfigError` for an impossible length and :class:`RegistryRefusedError` with the code
    ``network-full``.
    """
    check_node_length(network, length)
    taken = []
    waiting = []
    for lease in leases:
        if lease.released is None:
            taken.append(lease)
        elif lease.released + quarantine > now:
            taken.append(lease)
            waiting.append(lease.released + quarantine)
    best: Lease | None = None
    for block in free_blocks(network, taken):
        if block.length <= length and (best is None or block.length > best.length):
            best = block
            if block.length == length:
                break
    if best is None:
        hint = (
            f"; {len(waiting)} are in quarantine, the next until {format_time(min(waiting))}"
            if waiting
            else ""
        )
        raise RegistryRefusedError(
            f"the network is full: {network} has no free /{length} left{hint}", code="network-full"
        )
    return IPv6Network((best.start, length))


def free_blocks(network: IPv6Network, taken: Iterable[Lease]) -> Iterator[Lease]:
    """Yield the largest free prefixes of ``network``, from the lowest to the highest."""
    position = int(network.network_address)
    end = Lease(position, network.prefixlen).end
    for lease in sorted(taken):
        yield from _cover(position, lease.start)
        position = max(position, lease.end)
    yield from _cover(position, end)


def _cover(start: int, end: int) -> Iterator[Lease]:
    """Yield the fewest prefixes that together are the addresses from ``start`` to before ``end``."""
    while start < end:
        aligned = (start & -start).bit_length() - 1 if start else ADDRESS_BITS
        fitting = (end - start).bit_length() - 1
        bits = min(aligned, fitting)
        yield Lease(start, ADDRESS_BITS - bits)
        start += 1 << bits
