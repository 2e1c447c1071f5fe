"""Use cases around groups of nodes and their owners.

A group says what the nodes in it have in common: the length of their prefixes, unless chosen otherwise, and
how many there may be. The owner of a node is a text for people, such as an e-mail address. Neither changes
what a node may do in the network.
"""

from __future__ import annotations

from re6st.errors import RegistryRefusedError
from re6st.messages import OWNER_LENGTH
from re6st.prefix import DEFAULT_NODE_LENGTH, check_node_length
from re6st.registry.certification import check_name
from re6st.registry.groups import DEFAULT_GROUP, GroupRow
from re6st.registry.members import MemberUseCases
from re6st.registry.store import NodeRow

MAXIMUM_GROUPS = 256
"""Groups of a network; each is a series of the metrics."""

DESCRIPTION_LENGTH = 256


class GroupUseCases(MemberUseCases):
    """Which nodes belong together, and to whom they belong."""

    def groups(self) -> list[GroupRow]:
        """Return all groups, by name."""
        return self._store.groups()

    def group(self, name: str) -> GroupRow:
        """Return the group of this name.

        Raises :class:`RegistryRefusedError` with the code ``unknown-group``.
        """
        row = self._store.group(name)
        if row is None:
            raise RegistryRefusedError(
                f"there is no group {name[:64]}: see re6st-registry group list", code="unknown-group"
            )
        return row

    def count_group(self, row: GroupRow) -> int:
        """Return how many members a group has."""
        return self._store.count_members(row.identifier)

    def create_group(
        self,
        name: str,
        description: str = "",
        prefix_length: int | None = None,
        maximum_nodes: int | None = None,
    ) -> GroupRow:
        """Make a group. Raises :class:`RegistryRefusedError`, :class:`ConfigError`."""
        check_name(name)
        self._check_group(description, prefix_length, maximum_nodes)
        with self._store.transaction():
            if self._store.group(name) is not None:
                raise RegistryRefusedError(f"there is a group {name} already", code="name-taken")
            if len(self._store.groups()) >= MAXIMUM_GROUPS:
                raise RegistryRefusedError(
                    f"there are {MAXIMUM_GROUPS} groups already: remove one first", code="too-many-groups"
                )
            self._store.add_group(name, description, prefix_length, maximum_nodes, self._clock())
            self._log(
                "group.created",
                name,
                description=description or None,
                prefix_length=prefix_length,
                maximum_nodes=maximum_nodes,
            )
            return self.group(name)

    def change_group(
        self, name: str, description: str, prefix_length: int | None, maximum_nodes: int | None
    ) -> GroupRow:
        """Change a group; nodes that are in it keep what they have. Raises as :meth:`create_group`."""
        self._check_group(description, prefix_length, maximum_nodes)
        with self._store.transaction():
            row = self.group(name)
            self._store.set_group(row.identifier, description, prefix_length, maximum_nodes)
            self._log(
                "group.changed",
                row.name,
                description=description or None,
                prefix_length=prefix_length,
                maximum_nodes=maximum_nodes,
            )
            return self.group(name)

    def remove_group(self, name: str) -> None:
        """Forget a group that has no members and that nobody is to join.

        Raises :class:`RegistryRefusedError` with the codes ``unknown-group`` and ``group-in-use``.
        """
        with self._store.transaction():
            row = self.group(name)
            reason = self._group_use(row)
            if reason is not None:
                raise RegistryRefusedError(f"the group {row.name} stays: {reason}", code="group-in-use")
            self._store.remove_group(row.identifier)
            self._log("group.removed", row.name)

    def _group_use(self, row: GroupRow) -> str | None:
        """Return why a group cannot be removed, and what to do; None if it can."""
        if row.name == DEFAULT_GROUP:
            return "it is for nodes for which nobody chose a group"
        nodes = self.count_group(row)
        if nodes:
            return f"it has {nodes} nodes; put them into another one first (re6st-registry move)"
        token = self._store.token_of_group(row.identifier, self._clock())
        if token is not None:
            # Those of approved requests are in no list.
            return (
                f"a join link or an approval is for it; wait until it is used, or revoke it first"
                f" (re6st-registry token revoke {token.identifier})"
            )
        return None

    def move(self, selector: str, group: str) -> NodeRow:
        """Put a member into another group; it keeps its prefix. May be repeated.

        Raises :class:`RegistryRefusedError`, :class:`ConfigError`.
        """
        with self._store.transaction():
            node, row = self._find(selector), self.group(group)
            if node.group != row.name:
                self._check_room(row)
                self._store.move_node(node.identifier, row.identifier)
                self._log("node.moved", node.name, prefix=node.prefix, before=node.group, group=row.name)
            return self._again(node)

    def set_owner(self, selector: str, owner: str) -> NodeRow:
        """Write down to whom a member belongs; empty: nobody. May be repeated. Raises as :meth:`move`."""
        owner = _checked_owner(owner)
        with self._store.transaction():
            node = self._find(selector)
            if node.owner != owner:
                self._store.set_owner(node.identifier, owner)
                self._log("node.owner-changed", node.name, prefix=node.prefix, before=node.owner, owner=owner)
            return self._again(node)

    # -- shared with admission

    def _group_for(self, name: str | None, owner: str) -> tuple[GroupRow, str]:
        """Return the group that new nodes shall be in, and the owner as it is kept."""
        return self.group(name or DEFAULT_GROUP), _checked_owner(owner)

    def _check_room(self, group: GroupRow) -> None:
        """Refuse another member of a group that is full."""
        # Counting looks at all members.
        nodes = self.count_group(group) if group.maximum_nodes is not None else 0
        if group.maximum_nodes is not None and nodes >= group.maximum_nodes:
            raise RegistryRefusedError(
                f"the group {group.name} has {nodes} nodes already and may have {group.maximum_nodes}:"
                " let the operator choose another one, or allow more with re6st-registry group set",
                code="group-full",
            )

    def _check_group(self, description: str, prefix_length: int | None, maximum_nodes: int | None) -> None:
        if len(description) > DESCRIPTION_LENGTH or not _is_line(description):
            raise RegistryRefusedError(
                f"the description must be one line of up to {DESCRIPTION_LENGTH} characters", code="malformed"
            )
        check_node_length(self.network, DEFAULT_NODE_LENGTH if prefix_length is None else prefix_length)
        if maximum_nodes is not None and maximum_nodes < 0:
            raise RegistryRefusedError("a group cannot have less than no nodes", code="malformed")


def _checked_owner(owner: str) -> str:
    """Return ``owner`` as it is kept. Raises :class:`RegistryRefusedError`."""
    owner = owner.strip()
    if len(owner) > OWNER_LENGTH or not _is_line(owner):
        raise RegistryRefusedError(
            f"the owner must be one line of up to {OWNER_LENGTH} characters, such as an e-mail address",
            code="malformed",
        )
    return owner


def _is_line(text: str) -> bool:
    """Return whether ``text`` has nothing in it that could steer a terminal or hide a part of it."""
    return text == "" or text.isprintable()
