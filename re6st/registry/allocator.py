"""The arithmetic of allocation: which prefixes remain of a region when some of it is taken.

A network is a binary tree: each prefix has two halves, one bit longer, which are each other's buddies. A
prefix can be given away when no taken prefix overlaps it. Of the largest free subtrees the *smallest one that
fits* is chosen, of those the lowest, and its first prefix of the wanted length is given away (best fit in a
buddy system; Knuth, The Art of Computer Programming, vol. 1, 2.5). As long as nothing is given back there is
then at most one free subtree of each length, so that a request fails only if the network is really too full
for it. The free subtrees themselves are kept in the database (:mod:`re6st.registry.space`).

A prefix that was given back stays in *quarantine*: its former owner may be offline and believe in it for
a while, and must not meet a successor.

The first prefix of the network is given away like any other. Nothing in the protocol gives a meaning to the
address of the network itself, and the first node, usually the registry's own, gets the shortest address
of all that way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv6Network
from typing import NamedTuple, Self

ADDRESS_BITS = 128


class Lease(NamedTuple):
    """A prefix that is, or was, somebody's, or nobody's."""

    start: int
    """Its first address."""
    length: int
    """Its prefix length."""
    released: float | None = None
    """When it was given back, seconds since the epoch; None while it is held."""

    @classmethod
    def of(cls, prefix: IPv6Network) -> Self:
        """Return ``prefix`` as a lease."""
        return cls(int(prefix.network_address), prefix.prefixlen)

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.start + (1 << (ADDRESS_BITS - self.length))

    @property
    def buddy(self) -> Lease:
        """The other half of the prefix that is one bit shorter."""
        return Lease(self.start ^ (1 << (ADDRESS_BITS - self.length)), self.length)

    @property
    def parent(self) -> Lease:
        """The prefix that is one bit shorter."""
        return Lease(min(self.start, self.buddy.start), self.length - 1)

    def outer(self, shortest: int) -> Iterator[int]:
        """Yield the first addresses of the prefixes around it, of ``shortest`` bits and more, each once."""
        before = None
        for length in range(self.length - 1, shortest - 1, -1):
            bits = ADDRESS_BITS - length
            start = self.start >> bits << bits
            if start != before:
                yield start
            before = start


def free_blocks(region: Lease, taken: Iterable[Lease]) -> Iterator[Lease]:
    """Yield the largest prefixes of ``region`` that nothing ``taken`` overlaps, the lowest first."""
    position = region.start
    for lease in sorted(taken, key=lambda lease: lease[:2]):
        yield from _cover(position, min(lease.start, region.end))
        position = max(position, lease.end)
    yield from _cover(position, region.end)


def _cover(start: int, end: int) -> Iterator[Lease]:
    """Yield the fewest prefixes that together are the addresses from ``start`` to before ``end``."""
    while start < end:
        aligned = (start & -start).bit_length() - 1 if start else ADDRESS_BITS
        fitting = (end - start).bit_length() - 1
        bits = min(aligned, fitting)
        yield Lease(start, ADDRESS_BITS - bits)
        start += 1 << bits
