"""Further prefixes of nodes, beside the node prefix, and the SQL for them.

    held -> quarantine -> forgotten     taken from the node, or the node was released
            quarantine -> held          the node gets it back

The quarantine of what a member had is not over before it has heard of that (:data:`UNHEARD`).

Methods that change something are to be called inside a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network

from re6st.registry.allocator import Lease, free_blocks
from re6st.registry.space import UNHEARD, Space

FEW = 1000
"""Nodes that are named one by one in a question."""


@dataclass(frozen=True, slots=True)
class FurtherPrefix:
    """A further prefix of a node, or one that was."""

    identifier: int
    node: int
    prefix: IPv6Network
    created: float
    """When it was given."""
    released: float | None
    """When it was given back; None while the node has it."""


class FurtherPrefixes(Space):
    """The table of further prefixes. Belongs to one thread at a time."""

    def add_further(self, node: int, prefix: IPv6Network, now: float) -> None:
        """Give a node a further prefix, which must be free, or in quarantine for this node.

        What it gets back of a larger one ends the quarantine of that part only.
        """
        created = now
        for row in self._further("WHERE node = ? AND released IS NOT NULL", node):
            if row.prefix.overlaps(prefix):
                # Certificates since then may still name it.
                created = min(created, row.created)
                self.execute("DELETE FROM further_prefixes WHERE id = ?", (row.identifier,))
                for rest in free_blocks(Lease.of(row.prefix), [Lease.of(prefix)]):
                    self._insert_further(
                        node, IPv6Network((rest.start, rest.length)), row.created, row.released
                    )
                self.refresh_space(row.prefix)
        self._insert_further(node, prefix, created, None)
        self.take_space(prefix)

    def _insert_further(self, node: int, prefix: IPv6Network, created: float, released: float | None) -> None:
        ends = (prefix.network_address.packed, prefix.broadcast_address.packed)
        self.execute(
            "INSERT INTO further_prefixes (node, prefix_first, prefix_last, prefix_length, created, released)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (node, *ends, prefix.prefixlen, created, released),
        )

    def take_further(self, node: int, prefix: IPv6Network, now: float) -> None:
        """Take a further prefix from a node; it waits."""
        self.execute(
            "UPDATE further_prefixes SET released = ? WHERE node = ? AND prefix_first = ?"
            " AND released IS NULL",
            (now, node, prefix.network_address.packed),
        )

    def further(self, node: int) -> tuple[IPv6Network, ...]:
        """Return the further prefixes of a node, the lowest first."""
        rows = self._further("WHERE node = ? AND released IS NULL ORDER BY prefix_first", node)
        return tuple(row.prefix for row in rows)

    def further_of(self, nodes: Sequence[int]) -> dict[int, tuple[IPv6Network, ...]]:
        """Return the further prefixes of each of ``nodes`` that has any."""
        few = len(nodes) <= FEW
        clause = f" AND node IN ({','.join('?' * len(nodes))})" if few else ""
        found: dict[int, tuple[IPv6Network, ...]] = {}
        if nodes:
            for row in self._further(
                f"WHERE released IS NULL{clause} ORDER BY prefix_first", *(nodes if few else ())
            ):
                found[row.node] = (*found.get(row.node, ()), row.prefix)
        return found

    def further_held(self) -> list[FurtherPrefix]:
        """Return all further prefixes that nodes have."""
        return self._further("WHERE released IS NULL ORDER BY prefix_first")

    def further_waiting(self, released_before: float, now: float) -> list[FurtherPrefix]:
        """Return all further prefixes in quarantine, which is over for some given back until then."""
        return self._further(
            f"WHERE released IS NOT NULL AND (released > ? OR ({UNHEARD}))", released_before, now
        )

    def holder_of_further(self, prefix: IPv6Network) -> int | None:
        """Return the node that has exactly this further prefix."""
        rows = self._further(
            "WHERE released IS NULL AND prefix_first = ? AND prefix_length = ?",
            prefix.network_address.packed,
            prefix.prefixlen,
        )
        return rows[0].node if rows else None

    def release_all_further(self, node: int, released: float) -> None:
        """Let all further prefixes of a node that is released wait."""
        self.execute(
            "UPDATE further_prefixes SET released = ? WHERE node = ? AND released IS NULL", (released, node)
        )

    def restore_further(self, node: int, name: str, released: float) -> None:
        """Give a node back the further prefixes that it had when it was released, as far as they are free."""
        for row in self._further("WHERE node = ? AND released = ?", node, released):
            if all(lease.released is not None for lease in self.holders(row.prefix, name)):
                self.execute("UPDATE further_prefixes SET released = NULL WHERE id = ?", (row.identifier,))

    def drop_further(self, node: int) -> None:
        """Forget that a node ever had further prefixes."""
        rows = self._further("WHERE node = ?", node)
        self.execute("DELETE FROM further_prefixes WHERE node = ?", (node,))
        for row in rows:
            self.refresh_space(row.prefix)

    def _further(self, clause: str, *values: object) -> list[FurtherPrefix]:
        rows = self.execute(
            "SELECT id, node, prefix_first, prefix_length, created, released"  # noqa: S608 - constants
            f" FROM further_prefixes {clause}",
            values,
        )
        return [FurtherPrefix(row[0], row[1], IPv6Network((row[2], row[3])), *row[4:]) for row in rows]
