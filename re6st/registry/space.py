"""The space of the network in the database: who has what, what is free, and the allocation from it.

``free_space`` holds the largest free prefixes, disjoint, none of them the buddy of another. Whoever takes or
gives back a prefix calls :meth:`Space.take_space` or :meth:`Space.refresh_space` for it in the same
transaction; these look at what overlaps this prefix and at nothing else, so that the effort does not grow
with the network:

    free -> held or reserved -> quarantine -> recycled -> free

A former member's prefix counts as taken until an allocation sees that its quarantine is over (``recycled``).
That of a further prefix lasts at least until its holder, who is a member still and may be offline, has a
certificate without it or none at all.
The table is filled when the first prefix is allocated, since only then the network is known here.
"""

from __future__ import annotations

from collections.abc import Iterable
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

STEP = 8
"""The number of first addresses in a question is a multiple of it, so that there are few different ones."""


UNHEARD = (
    "EXISTS (SELECT 1 FROM certificates WHERE certificates.node = further_prefixes.node"
    " AND certificates.revoked IS NULL AND certificates.expires > ?"
    " AND certificates.issued >= further_prefixes.created)"
    " AND NOT EXISTS (SELECT 1 FROM certificates WHERE certificates.node = further_prefixes.node"
    " AND certificates.issued > further_prefixes.released)"
)
"""Condition, with the present time, of a further prefix that its former holder may announce until it hears.

It has a valid certificate that names it, but none that was issued since it was taken away.
"""


class Space(Database):
    """The table of free space. Belongs to one thread at a time."""

    def holders(self, prefix: IPv6Network, name: str = "") -> list[Lease]:
        """Return what overlaps ``prefix``: held, in quarantine, or reserved, but not for ``name``."""
        return self._holders(Lease.of(prefix), name)

    def take_space(self, prefix: IPv6Network) -> None:
        """Take ``prefix`` out of the free space, after it was given away."""
        lease = Lease.of(prefix)
        block = self._free_around(lease)
        if block is None:
            self.refresh_space(prefix)
        else:
            self._replace(block, free_blocks(block, [lease]))

    def refresh_space(self, prefix: IPv6Network) -> None:
        """Find out again what is free of ``prefix``, after it was taken or given back."""
        rows = self.execute("SELECT value FROM settings WHERE key = ?", (SETTING_SPACE,))
        if rows:
            self._refresh(Lease.of(prefix), parse_prefix(rows[0][0]).prefixlen)

    def prepare_space(self, network: IPv6Network) -> bool:
        """Find out once what is free of ``network``; return whether it was not known yet."""
        if self.execute("SELECT 1 FROM settings WHERE key = ?", (SETTING_SPACE,)):
            return False
        self.execute("INSERT INTO settings (key, value) VALUES (?, ?)", (SETTING_SPACE, str(network)))
        self._refresh(Lease.of(network), network.prefixlen)
        return True

    def recycle(self, released_before: float, now: float) -> int:
        """Free some prefixes that were given back until ``released_before``; return how many."""
        rows = self.execute(
            "SELECT 0 AS further, id, prefix_first, prefix_length, released FROM nodes"  # noqa: S608 - a constant
            " WHERE released <= ? AND released IS NOT NULL AND recycled IS NULL"
            " UNION ALL SELECT 1, id, prefix_first, prefix_length, released FROM further_prefixes"
            f" WHERE released <= ? AND released IS NOT NULL AND NOT ({UNHEARD})"
            " ORDER BY released LIMIT ?",
            (released_before, released_before, now, RECYCLED_AT_ONCE),
        )
        for further, identifier, first, length, _released in rows:
            if further:
                self.execute("DELETE FROM further_prefixes WHERE id = ?", (identifier,))
            else:
                self.execute("UPDATE nodes SET recycled = ? WHERE id = ?", (now, identifier))
            self.refresh_space(IPv6Network((first, length)))
        return len(rows)

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
        region = self._free_around(region) or region
        pieces = list(free_blocks(region, self._holders(region)))
        self._replace(region, pieces if pieces != [region] else [])
        if pieces == [region]:
            self._insert(self._merge(region, shortest))

    def _free_around(self, lease: Lease) -> Lease | None:
        """Return the free prefix that contains ``lease``."""
        rows = self.execute(
            "SELECT prefix_first, prefix_length FROM free_space WHERE prefix_first <= ?"
            " ORDER BY prefix_first DESC LIMIT 1",
            (_packed(lease.start),),
        )
        block = Lease(int.from_bytes(rows[0][0]), rows[0][1]) if rows else None
        return block if block is not None and block.end >= lease.end else None

    def _replace(self, region: Lease, pieces: Iterable[Lease]) -> None:
        """Let ``pieces`` be all that is free of ``region``."""
        self.execute(
            "DELETE FROM free_space WHERE prefix_first BETWEEN ? AND ?",
            (_packed(region.start), _packed(region.end - 1)),
        )
        for piece in pieces:
            self._insert(piece)

    def _insert(self, piece: Lease) -> None:
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
        around = [_packed(start) for start in region.outer(SHORTEST) if start != region.start]
        around += around[:1] * (-len(around) % STEP)
        within = [_packed(region.start), _packed(region.end - 1)]
        parts, values = list[str](), list[object]()
        for table, further_values in (
            ("released FROM nodes WHERE recycled IS NULL AND", ()),
            ("released FROM further_prefixes WHERE", ()),
            ("NULL FROM reservations WHERE name <> ? AND", (name,)),
        ):
            parts.append(f"SELECT prefix_first, prefix_length, {table} prefix_first BETWEEN ? AND ?")
            values += [*further_values, *within]
            if around:
                marks = ", ".join("?" * len(around))
                parts.append(f"SELECT prefix_first, prefix_length, {table} prefix_first IN ({marks})")
                values += [*further_values, *around]
        rows = self.execute(" UNION ALL ".join(parts), values)
        leases = [Lease(int.from_bytes(first), length, released) for first, length, released in rows]
        return [lease for lease in leases if lease.end > region.start]


def allocate(space: Space, network: IPv6Network, length: int, now: float, quarantine: float) -> IPv6Network:
    """Return the prefix of ``length`` for a new node, inside the transaction that gives it away.

    ``now`` is in seconds since the epoch, ``quarantine`` in seconds. Raises :class:`ConfigError` for an
    impossible length and :class:`RegistryRefusedError` with the code ``network-full``.
    """
    check_node_length(network, length)
    more = True
    while more:
        recycled = space.recycle(now - quarantine, now)
        prefix = space.best_room(length)
        if prefix is not None:
            return prefix
        more = recycled >= RECYCLED_AT_ONCE or space.prepare_space(network)
    count, earliest = space.waiting()
    hint = (
        f"; {count} are in quarantine, the next until {format_time(earliest + quarantine)}" if count else ""
    )
    raise RegistryRefusedError(
        f"the network is full: {network} has no free /{length} left{hint}", code="network-full"
    )


def _packed(address: int) -> bytes:
    return address.to_bytes(16)
