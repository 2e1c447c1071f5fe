"""Groups of nodes, and the SQL for them.

Each node is of one group; the first one (:data:`DEFAULT_GROUP`) is always there. Nodes without a group are in
it, too: a registry that knows no groups may still serve the same database, and let nodes in. Methods that
change something are to be called inside a transaction.
"""

from __future__ import annotations

from dataclasses import dataclass

from re6st.registry.database import Database

DEFAULT_GROUP = "default"
"""The group of nodes for which nobody chose one."""

DEFAULT_NUMBER = 1
"""Its row number."""


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A group of nodes."""

    identifier: int
    name: str
    description: str
    prefix_length: int | None
    """Of prefixes of new nodes, unless chosen otherwise; None: as everywhere."""
    maximum_nodes: int | None
    """Members that it may have; None: any number."""
    created: float


_GROUP = "SELECT id, name, description, prefix_length, maximum_nodes, created FROM node_groups"


class Groups(Database):
    """The table of groups. Belongs to one thread at a time."""

    def groups(self) -> list[GroupRow]:
        """Return all groups, by name."""
        return [GroupRow(*row) for row in self.execute(f"{_GROUP} ORDER BY name")]

    def group(self, name: str) -> GroupRow | None:
        """Return the group of this name; upper and lower case are the same."""
        return next((GroupRow(*row) for row in self.execute(f"{_GROUP} WHERE name = ?", (name,))), None)

    def count_members(self, group: int) -> int:
        """Return how many members a group has; the effort grows with them."""
        count = "SELECT count(*) FROM nodes WHERE released IS NULL AND node_group"
        ((nodes,),) = self.execute(f"{count} = ?", (group,))
        if group == DEFAULT_NUMBER:
            ((without,),) = self.execute(f"{count} IS NULL")
            nodes += without
        return int(nodes)

    def add_group(
        self, name: str, description: str, prefix_length: int | None, maximum_nodes: int | None, now: float
    ) -> None:
        """Add a group, whose name must be free."""
        self.execute(
            "INSERT INTO node_groups (name, description, prefix_length, maximum_nodes, created)"
            " VALUES (?, ?, ?, ?, ?)",
            (name, description, prefix_length, maximum_nodes, now),
        )

    def set_group(
        self, identifier: int, description: str, prefix_length: int | None, maximum_nodes: int | None
    ) -> None:
        """Change what a group is like."""
        self.execute(
            "UPDATE node_groups SET description = ?, prefix_length = ?, maximum_nodes = ? WHERE id = ?",
            (description, prefix_length, maximum_nodes, identifier),
        )

    def remove_group(self, identifier: int) -> None:
        """Forget a group that has no members; those who left are of the first one then."""
        self.execute(
            "UPDATE nodes SET node_group = ? WHERE node_group = ? AND released IS NOT NULL",
            (DEFAULT_NUMBER, identifier),
        )
        self.execute("UPDATE tokens SET node_group = NULL WHERE node_group = ?", (identifier,))
        self.execute("DELETE FROM node_groups WHERE id = ?", (identifier,))

    def move_node(self, identifier: int, group: int) -> None:
        """Put a node into another group."""
        self.execute("UPDATE nodes SET node_group = ? WHERE id = ?", (group, identifier))

    def set_owner(self, identifier: int, owner: str) -> None:
        """Remember to whom a node belongs."""
        self.execute("UPDATE nodes SET owner = ? WHERE id = ?", (owner, identifier))
