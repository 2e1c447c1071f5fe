"""The space of the network in the database: who has what, what is free, and the allocation from it.

``free_space`` holds the largest free prefixes, disjoint, none of them the buddy of another. Whoever takes or
gives back a prefix calls :meth:`Space.refresh_space` for it in the same transaction; that looks at what
overlaps this prefix and at nothing else, so that the effort does not grow with the network:

    free -> held or reserved -> quarantine -> recycled -> free

A former member's prefix counts as taken until an allocation sees that its quarantine is over (``recycled``).
The table is filled when the first prefix is allocated, since only then the network is known here.
"""

from __future__ import annotations

from ipaddress import IPv6Network

from re6st.errors import RegistryRefusedError
from re6st.identity import format_time
from re6st.prefix import check_node_length, parse_prefix
from re6st.registry.allocator import Lease, free_blocks
from re6st.registry.database import Database

SETTING_SPACE = "space"
"""The network whose free space is known."""

SHORTEST = 32
"""Length of the shortest prefix in the tables."""

RECYCLED_AT_ONCE = 256
"""Prefixes whose quarantine is ended together."""


class Space(Database):
    """The table of free space. Belongs to one thread at a time."""

    def holders(self, prefix: IPv6Network, name: str = "") -> list[Lease]:
        """Return what overlaps ``prefix``: held, in quarantine, or reserved, but not for ``name``."""
        return self._holders(Lease.of(prefix), name)

    def refresh_space(self, prefix: IPv6Network) -> None:
        """Find out again what is free of ``prefix``, after it was taken or given back."""
        rows = self.execute("SELECT value FROM settings WHERE key = ?", (SETTING_SPACE,))
        if rows:
            self._refresh(Lease.of(prefix), parse_prefix(rows[0][0]).prefixlen)

    def prepare_space(self, network: IPv6Network) -> None:
        """Find out once what is free of ``network``."""
        if not self.execute("SELECT 1 FROM settings WHERE key = ?", (SETTING_SPACE,)):
            self.execute("INSERT INTO settings (key, value) VALUES (?, ?)", (SETTING_SPACE, str(network)))
            self._refresh(Lease.of(network), network.prefixlen)

    def recycle(self, released_before: float, now: float) -> int:
        """Free some prefixes that were given back until ``released_before``; return how many."""
        rows = self.execute(
            "SELECT id, prefix_first, prefix_length FROM nodes WHERE released <= ? AND released IS NOT NULL"
            " AND recycled IS NULL ORDER BY released LIMIT ?",
            (released_before, RECYCLED_AT_ONCE),
        )
        for identifier, first, length in rows:
            self.execute("UPDATE nodes SET recycled = ? WHERE id = ?", (now, identifier))
            self.refresh_space(IPv6Network((first, length)))
        further = self.execute(
            "SELECT id, prefix_first, prefix_length FROM further_prefixes WHERE released <= ?"
            " AND released IS NOT NULL ORDER BY released LIMIT ?",
            (released_before, RECYCLED_AT_ONCE),
        )
        for identifier, first, length in further:
            self.execute("DELETE FROM further_prefixes WHERE id = ?", (identifier,))
            self.refresh_space(IPv6Network((first, length)))
        return len(rows) + len(further)

    def waiting(self) -> tuple[int, float]:
        """Return how many prefixes are in quarantine, and when the first of them was given back."""
        rows = self.execute(
            "SELECT count(*), coalesce(min(released), 0) FROM (SELECT released FROM nodes"
            " WHERE released IS NOT NULL AND recycled IS NULL"
            " UNION ALL SELECT released FROM further_prefixes WHERE released IS NOT NULL) AS waiting"
        )
        return int(rows[0][0]), float(rows[0][1])

    def best_room(self, length: int) -> IPv6Network | None:
        """Return the prefix of ``length`` that best fit chooses, None if there is no room for it."""
        rows = self.execute(
            "SELECT prefix_first FROM free_space WHERE prefix_length <= ?"
            " ORDER BY prefix_length DESC, prefix_first LIMIT 1",
            (length,),
        )
        return IPv6Network((rows[0][0], length)) if rows else None

    def free_space(self) -> list[IPv6Network]:
        """Return the largest free prefixes."""
        rows = self.execute("SELECT prefix_first, prefix_length FROM free_space ORDER BY prefix_first")
        return [IPv6Network((first, length)) for first, length in rows]

    def _refresh(self, region: Lease, shortest: int) -> None:
        """Put what is free of ``region`` into the table; ``shortest`` is the length of the network."""
        region = next(iter(self._around("SELECT {} FROM free_space WHERE {}", region)), region)
        self.execute(
            "DELETE FROM free_space WHERE prefix_first BETWEEN ? AND ?",
            (_packed(region.start), _packed(region.end - 1)),
        )
        pieces = list(free_blocks(region, self._holders(region)))
        if pieces == [region]:
            pieces = [self._merge(region, shortest)]
        for piece in pieces:
            self.execute(
                "INSERT INTO free_space (prefix_first, prefix_length) VALUES (?, ?)",
                (_packed(piece.start), piece.length),
            )

    def _merge(self, block: Lease, shortest: int) -> Lease:
        """Return the largest free prefix around ``block``, having taken its parts out of the table."""
        while block.length > shortest:
            buddy = (_packed(block.buddy.start), block.length)
            if not self.execute(
                "SELECT 1 FROM free_space WHERE prefix_first = ? AND prefix_length = ?", buddy
            ):
                break
            self.execute("DELETE FROM free_space WHERE prefix_first = ?", buddy[:1])
            block = block.parent
        return block

    def _holders(self, region: Lease, name: str = "") -> list[Lease]:
        nodes = "SELECT {}, released FROM nodes WHERE recycled IS NULL AND {}"
        further = "SELECT {}, released FROM further_prefixes WHERE {}"
        reservations = "SELECT {} FROM reservations WHERE name <> ? AND {}"
        return [
            *self._around(nodes, region),
            *self._within(nodes, region),
            *self._around(further, region),
            *self._within(further, region),
            *self._around(reservations, region, name),
            *self._within(reservations, region, name),
        ]

    def _within(self, statement: str, region: Lease, *values: object) -> list[Lease]:
        """Return the prefixes in ``statement`` that are ``region`` or a part of it."""
        ends = (_packed(region.start), _packed(region.end - 1))
        found = self._leases(statement, "prefix_first BETWEEN ? AND ?", *values, *ends)
        return [lease for lease in found if lease.length >= region.length]

    def _around(self, statement: str, region: Lease, *values: object) -> list[Lease]:
        """Return the prefixes in ``statement`` that contain ``region`` and more."""
        firsts = [_packed(start) for start in region.outer(SHORTEST)]
        if not firsts:
            return []
        marks = ", ".join("?" * len(firsts))
        found = self._leases(statement, f"prefix_first IN ({marks})", *values, *firsts)
        return [lease for lease in found if lease.length < region.length and lease.end > region.start]

    def _leases(self, statement: str, condition: str, *values: object) -> list[Lease]:
        rows = self.execute(statement.format("prefix_first, prefix_length", condition), values)
        return [Lease(int.from_bytes(row[0]), *row[1:]) for row in rows]


def allocate(space: Space, network: IPv6Network, length: int, now: float, quarantine: float) -> IPv6Network:
    """Return the prefix of ``length`` for a new node, inside the transaction that gives it away.

    ``now`` is in seconds since the epoch, ``quarantine`` in seconds. Raises :class:`ConfigError` for an
    impossible length and :class:`RegistryRefusedError` with the code ``network-full``.
    """
    check_node_length(network, length)
    space.prepare_space(network)
    more = True
    while more:
        more = space.recycle(now - quarantine, now) >= RECYCLED_AT_ONCE
        prefix = space.best_room(length)
        if prefix is not None:
            return prefix
    count, earliest = space.waiting()
    hint = (
        f"; {count} are in quarantine, the next until {format_time(earliest + quarantine)}" if count else ""
    )
    raise RegistryRefusedError(
        f"the network is full: {network} has no free /{length} left{hint}", code="network-full"
    )


def _packed(address: int) -> bytes:
    return address.to_bytes(16)
