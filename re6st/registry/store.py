"""What the registry knows: nodes, certificates, peer records, documents, and the SQL for them.

Methods that change something are to be called inside :meth:`Store.transaction`. The tables are STRICT
(see ``schema/``), so that rows have the types declared there.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network

from re6st.messages import SignedDocument, SignedPeerRecord
from re6st.prefix import node_address
from re6st.registry.adapter import Row
from re6st.registry.admissions import Admissions
from re6st.registry.database import ALL
from re6st.registry.groups import DEFAULT_GROUP, DEFAULT_NUMBER, GroupRow
from re6st.registry.reports import Reports


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A member, or a former one."""

    identifier: int
    name: str
    prefix: IPv6Network
    created: float
    released: float | None
    """When its prefix was given back; None for a member."""
    suspended: float | None = None
    """Since when it may not take part."""
    group: str = DEFAULT_GROUP
    owner: str = ""
    """To whom it belongs, for people; empty for nobody."""

    @property
    def address(self) -> IPv6Address:
        """The node address."""
        return node_address(self.prefix)


@dataclass(frozen=True, slots=True)
class Claims:
    """Who or what has a name."""

    member: bool
    token: int | None
    """That can still be used and is for a node of this name only."""
    reserved: bool
    """Whether a prefix waits for it."""


NO_CLAIMS = Claims(member=False, token=None, reserved=False)


@dataclass(frozen=True, slots=True)
class CertificateRow:
    """A certificate that was issued to a node."""

    serial: str
    node: int
    der: bytes = field(repr=False)
    key_digest: bytes = field(repr=False)
    issued: float
    expires: float
    revoked: float | None


@dataclass(frozen=True, slots=True)
class Member:
    """A node as operators see it, with its newest certificate and its peer record, if any."""

    node: NodeRow
    serial: str | None
    expires: float | None
    published: float | None
    reachable: bool | None
    software: str | None
    further: tuple[IPv6Network, ...] = ()
    """Its further prefixes."""

    def state(self, now: float) -> str:
        """Return ``released``, ``suspended``, ``active`` or ``expired``."""
        if self.node.released is not None:
            return "released"
        if self.node.suspended is not None:
            return "suspended"
        return "active" if self.expires is not None and self.expires > now else "expired"


@dataclass(frozen=True, slots=True)
class RecordRow:
    """The peer record that a node published."""

    node: int
    sequence: int
    signed: SignedPeerRecord = field(repr=False)
    reachable: bool
    software: str
    published: float


@dataclass(frozen=True, slots=True)
class Selection:
    """Which nodes an operator wants to see."""

    state: str | None = None
    """See :meth:`Member.state`."""
    search: str = ""
    """A part of the name, of the owner, or of the written prefix."""
    group: str | None = None
    """Only those of this group."""
    owner: str | None = None
    """Only those of this owner."""


EVERYBODY = Selection()


_STATES = {
    "active": "released IS NULL AND suspended IS NULL AND expires > ?",
    "suspended": "released IS NULL AND suspended IS NOT NULL",
    "expired": "released IS NULL AND suspended IS NULL AND coalesce(expires, 0) <= ?",
    "released": "released IS NOT NULL",
}
"""Conditions of :meth:`Member.state`, with the present time for each question mark."""


_NEAR_LOT = (
    "SELECT node FROM (SELECT node FROM records WHERE reachable = ? AND NOT departed AND lot >= ?"
    " ORDER BY lot LIMIT ?) AS near"
)
"""Nodes of records that follow a lot."""


_NODE = "id, name, prefix_first, prefix_length, created, released, suspended, owner"

_GROUP_NAME = (
    "(SELECT node_groups.name FROM node_groups"  # noqa: S608 - a constant
    f" WHERE node_groups.id = coalesce({{}}.node_group, {DEFAULT_NUMBER}))"
)


def _node(row: Row) -> NodeRow:
    """Return the node in the columns of :data:`_NODE`, followed by the name of its group."""
    identifier, name, first, length, created, released, suspended, owner, group = row
    prefix = IPv6Network((first, length))
    return NodeRow(identifier, name, prefix, created, released, suspended, group, owner)


class Store(Admissions, Reports):
    """The tables. Belongs to one thread at a time."""

    # -- settings and documents

    def setting(self, key: str) -> str | None:
        """Return the setting ``key``, None if it was never set."""
        rows = self.execute("SELECT value FROM settings WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def set_setting(self, key: str, value: str) -> None:
        """Remember a setting."""
        self.execute(
            "INSERT INTO settings (key, value) VALUES (?, ?)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    def document(self, kind: str) -> SignedDocument | None:
        """Return the newest signed document of a kind."""
        return self.documents(kind).get(kind)

    def documents(self, *kinds: str) -> dict[str, SignedDocument]:
        """Return the newest signed documents of these kinds, as far as there are any."""
        rows = self.execute(
            "SELECT kind, payload, signature, further_signature FROM documents"  # noqa: S608 - question marks
            f" WHERE kind IN ({','.join('?' * len(kinds))})",
            kinds,
        )
        return {
            kind: SignedDocument(payload=payload, signature=signature, further_signature=further)
            for kind, payload, signature, further in rows
        }

    def document_version(self, kind: str) -> int:
        """Return the version of the newest document of a kind, 0 for none."""
        rows = self.execute("SELECT version FROM documents WHERE kind = ?", (kind,))
        return int(rows[0][0]) if rows else 0

    def document_versions(self) -> dict[str, int]:
        """Return the versions of the newest documents by their kinds."""
        rows = self.execute("SELECT kind, version FROM documents")
        return {str(kind): int(version) for kind, version in rows}

    def put_document(self, kind: str, version: int, document: SignedDocument) -> None:
        """Replace a document by a later version; a version that is not later is refused."""
        self.execute(
            "INSERT INTO documents (kind, version, payload, signature, further_signature)"
            " VALUES (?, ?, ?, ?, ?) ON CONFLICT (kind) DO UPDATE SET version = excluded.version,"
            " payload = excluded.payload, signature = excluded.signature,"
            " further_signature = excluded.further_signature",
            (kind, version, document.payload, document.signature, document.further_signature),
        )
        self.invalidate()

    # -- nodes

    def add_node(
        self, name: str, prefix: IPv6Network, now: float, group: GroupRow | None = None, owner: str = ""
    ) -> NodeRow:
        """Add a member, by default of the first group. Its name and prefix must be free."""
        ends = (prefix.network_address.packed, prefix.broadcast_address.packed)
        number = group.identifier if group is not None else DEFAULT_NUMBER
        identifier = self.insert(
            "INSERT INTO nodes"
            " (name, prefix_first, prefix_last, prefix_length, created, node_group, owner)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (name, *ends, prefix.prefixlen, now, number, owner),
        )
        self.take_space(prefix)
        name_of_group = group.name if group is not None else DEFAULT_GROUP
        return NodeRow(identifier, name, prefix, now, None, None, name_of_group, owner)

    def nodes(self) -> list[NodeRow]:
        """Return members and former members, by prefix."""
        return self._nodes("ORDER BY prefix_first, id")

    def node(self, identifier: int) -> NodeRow | None:
        """Return the node with this row number."""
        return next(iter(self._nodes("WHERE id = ?", identifier)), None)

    def member(self, name: str) -> NodeRow | None:
        """Return the member of this name; upper and lower case are the same."""
        return next(iter(self._nodes("WHERE released IS NULL AND name = ?", name)), None)

    def former_member(self, name: str) -> NodeRow | None:
        """Return the former member that had this name last, unless it was deleted."""
        clause = "WHERE released IS NOT NULL AND deleted IS NULL AND name = ? ORDER BY released DESC LIMIT 1"
        return next(iter(self._nodes(clause, name)), None)

    def former_member_at(self, prefix: IPv6Network) -> NodeRow | None:
        """Return the former member that had exactly ``prefix`` last, unless it was deleted."""
        clause = (
            "WHERE released IS NOT NULL AND deleted IS NULL AND prefix_first = ? AND prefix_length = ?"
            " ORDER BY released DESC LIMIT 1"
        )
        return next(iter(self._nodes(clause, prefix.network_address.packed, prefix.prefixlen)), None)

    def member_at(self, prefix: IPv6Network) -> NodeRow | None:
        """Return the member that owns exactly ``prefix``."""
        clause = "WHERE released IS NULL AND prefix_first = ? AND prefix_length = ?"
        return next(iter(self._nodes(clause, prefix.network_address.packed, prefix.prefixlen)), None)

    def _nodes(self, clause: str, *values: object) -> list[NodeRow]:
        rows = self.execute(
            f"SELECT {_NODE}, {_GROUP_NAME.format('nodes')} FROM nodes {clause}",  # noqa: S608 - constants above
            values,
        )
        return [_node(row) for row in rows]

    def claims(self, name: str, now: float) -> Claims:
        """Return what keeps a name from a new node."""
        ((members, token, reservations),) = self.execute(
            "SELECT EXISTS (SELECT 1 FROM nodes WHERE released IS NULL AND name = ?),"
            " (SELECT min(id) FROM tokens WHERE name = ? AND revoked IS NULL AND expires > ?"
            " AND NOT EXISTS (SELECT 1 FROM token_uses WHERE token_uses.token = tokens.id)),"
            " EXISTS (SELECT 1 FROM reservations WHERE name = ?)",
            (name, name, now, name),
        )
        return Claims(bool(members), token, bool(reservations))

    def rename_node(self, identifier: int, name: str) -> None:
        """Give a member another name, which must be free."""
        self.execute("UPDATE nodes SET name = ? WHERE id = ?", (name, identifier))

    def suspend_node(self, identifier: int, since: float | None) -> None:
        """Suspend a member, or let it take part again."""
        self.execute("UPDATE nodes SET suspended = ? WHERE id = ?", (since, identifier))

    def release_node(self, identifier: int, released: float, now: float) -> None:
        """Let a member go: its certificates are revoked, its record is dropped, its prefix waits."""
        self.execute(
            "UPDATE nodes SET released = ?, suspended = NULL WHERE id = ? AND released IS NULL",
            (released, identifier),
        )
        self.release_all_further(identifier, released)
        self.withdraw_certificates(identifier, now)
        self.drop_record(identifier)
        self.drop_report(identifier)

    def restore_node(self, identifier: int, name: str) -> None:
        """Make a former member a member again; its prefix must be free."""
        former = self.node(identifier)
        self.execute(
            "UPDATE nodes SET released = NULL, recycled = NULL, name = ? WHERE id = ?", (name, identifier)
        )
        if former is not None:
            self.refresh_space(former.prefix)
            if former.released is not None:
                self.restore_further(identifier, name, former.released)

    def delete_node(self, identifier: int, now: float) -> None:
        """Do not show a former member any more; nothing gives it its place back."""
        self.execute("UPDATE nodes SET deleted = ? WHERE id = ?", (now, identifier))
        self.execute("UPDATE tokens SET revoked = ? WHERE node = ? AND revoked IS NULL", (now, identifier))

    def purge(self, released_before: float, now: float) -> int:
        """Drop deleted nodes whose quarantine and certificates are over; return how many."""
        gone = self._nodes(
            "WHERE deleted IS NOT NULL AND released < ? AND NOT EXISTS"
            " (SELECT 1 FROM certificates WHERE node = nodes.id AND expires > ?)",
            released_before,
            now,
        )
        for node in gone:
            row = (node.identifier,)
            # Uses are counted by their rows: without them the token would let another node in.
            self.execute(
                "UPDATE tokens SET revoked = ? WHERE maximum_uses = 1 AND revoked IS NULL"
                " AND id IN (SELECT token FROM token_uses WHERE node = ?)",
                (now, node.identifier),
            )
            self.execute("DELETE FROM token_uses WHERE node = ?", row)
            self.execute("UPDATE tokens SET node = NULL, revoked = coalesce(revoked, 0) WHERE node = ?", row)
            self.drop_further(node.identifier)
            self.execute("DELETE FROM certificates WHERE node = ?", row)
            self.execute("DELETE FROM nodes WHERE id = ?", row)
            self.refresh_space(node.prefix)
        return len(gone)

    def overview(
        self,
        now: float,
        selection: Selection = EVERYBODY,
        *,
        after: tuple[bytes, int] | None = None,
        limit: int = ALL,
    ) -> list[Member]:
        """Return members and former members by prefix, as far as wanted.

        ``after`` is the first address and row number behind which to go on.
        """
        clauses, values = ["1 = 1"], list[object]()
        if selection.state is not None:
            clauses.append(_STATES[selection.state])
            values += [now] * _STATES[selection.state].count("?")
        if selection.search:
            clauses.append(
                "(instr(lower(name), lower(?)) > 0 OR instr(lower(owner), lower(?)) > 0"
                " OR instr(prefix_text(prefix_first, prefix_length), lower(?)) > 0"
                " OR EXISTS (SELECT 1 FROM further_prefixes AS further WHERE further.node = overview.id"
                " AND further.released IS NULL"
                " AND instr(prefix_text(further.prefix_first, further.prefix_length), lower(?)) > 0))"
            )
            values += [selection.search] * 4
        if selection.group is not None:
            clause = "node_group = (SELECT id FROM node_groups WHERE name = ?)"
            without = selection.group.lower() == DEFAULT_GROUP
            clauses.append(f"({clause} OR node_group IS NULL)" if without else clause)
            values.append(selection.group)
        if selection.owner is not None:
            clauses.append("owner = ?")
            values.append(selection.owner)
        if after is not None:
            clauses.append("(prefix_first, id) > (?, ?)")
            values += after
        return self._overview(
            f"WHERE {' AND '.join(clauses)} ORDER BY prefix_first, id LIMIT ?", *values, limit
        )

    def members_numbered(self, identifiers: Sequence[int]) -> list[Member]:
        """Return the members with these row numbers, by prefix; not those who left."""
        if not identifiers:
            return []
        marks = ",".join("?" * len(identifiers))
        clause = f"WHERE released IS NULL AND id IN ({marks}) ORDER BY prefix_first, id"
        return self._overview(clause, *identifiers)

    def _overview(self, clause: str, *values: object) -> list[Member]:
        rows = self.execute(
            f"SELECT {_NODE}, {_GROUP_NAME.format('overview')}, serial, expires, published, reachable,"  # noqa: S608 - constants
            f" software FROM overview {clause}",
            values,
        )
        further = self.further_of([row[0] for row in rows])
        return [
            Member(
                _node(row[:9]),
                serial=row[9],
                expires=row[10],
                published=row[11],
                reachable=None if row[12] is None else bool(row[12]),
                software=row[13],
                further=further.get(row[0], ()),
            )
            for row in rows
        ]

    def member_view(self, node: NodeRow, now: float) -> Member | None:
        """Return a node as operators see it."""
        first = node.prefix.network_address.packed
        rows = self.overview(now, after=(first, node.identifier - 1), limit=1)
        return rows[0] if rows and rows[0].node.identifier == node.identifier else None

    def count_states(self, now: float) -> dict[str, int]:
        """Return how many nodes are in each state."""
        return {
            state: int(
                self.execute(
                    f"SELECT count(*) FROM overview WHERE {clause}",  # noqa: S608 - constants
                    (now,) * clause.count("?"),
                )[0][0]
            )
            for state, clause in _STATES.items()
        }

    def lapsed(self, before: float) -> list[tuple[NodeRow, float]]:
        """Return members, not suspended, whose last certificate expired before ``before``, and when."""
        rows = self.execute(
            "SELECT id, expires FROM overview WHERE released IS NULL AND suspended IS NULL AND expires < ?",
            (before,),
        )
        return [
            (node, expires) for identifier, expires in rows if (node := self.node(identifier)) is not None
        ]

    # -- certificates

    def add_certificate(self, row: CertificateRow) -> None:
        """Remember a certificate that was issued."""
        self.execute(
            "INSERT INTO certificates (serial, node, der, key_digest, issued, expires, revoked)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row.serial, row.node, row.der, row.key_digest, row.issued, row.expires, row.revoked),
        )

    def certificate(self, serial: str) -> CertificateRow | None:
        """Return the certificate with this serial number."""
        return next(iter(self._certificates("WHERE serial = ?", serial)), None)

    def certified(self, serial: str) -> tuple[CertificateRow, NodeRow] | None:
        """Return the certificate with this serial number, and whose it is."""
        rows = self.execute(
            f"SELECT {_NODE}, {_GROUP_NAME.format('nodes')}, serial, node, der, key_digest, issued, expires,"  # noqa: S608 - constants
            " revoked FROM certificates JOIN nodes ON nodes.id = certificates.node WHERE serial = ?",
            (serial,),
        )
        return (CertificateRow(*rows[0][9:]), _node(rows[0][:9])) if rows else None

    def certificates(self, node: int) -> list[CertificateRow]:
        """Return all certificates of a node, the newest first."""
        return self._certificates("WHERE node = ? ORDER BY issued DESC, rowid DESC", node)

    def withdraw_certificates(self, node: int, now: float) -> None:
        """Revoke all certificates of a node."""
        self.execute("UPDATE certificates SET revoked = ? WHERE node = ? AND revoked IS NULL", (now, node))

    def certificate_for_key(self, node: int, key_digest: bytes, now: float) -> CertificateRow | None:
        """Return the newest valid certificate of a node for this key."""
        clause = "WHERE node = ? AND key_digest = ? AND revoked IS NULL AND expires > ? ORDER BY issued DESC"
        return next(iter(self._certificates(clause, node, key_digest, now)), None)

    def revoked_serials(self, now: float) -> list[str]:
        """Return the serial numbers that are revoked or suspended and would still be valid otherwise."""
        rows = self.execute(
            "SELECT serial FROM certificates JOIN nodes ON nodes.id = certificates.node"
            " WHERE (revoked IS NOT NULL OR suspended IS NOT NULL) AND expires > ? ORDER BY serial",
            (now,),
        )
        return [str(serial) for (serial,) in rows]

    def _certificates(self, clause: str, *values: object) -> list[CertificateRow]:
        rows = self.execute(
            f"SELECT serial, node, der, key_digest, issued, expires, revoked FROM certificates {clause}",  # noqa: S608 - constants above
            values,
        )
        return [CertificateRow(*row) for row in rows]

    # -- peer records

    def put_record(self, row: RecordRow, serial: str, departed: bool) -> None:
        """Remember the newest record of a node."""
        self.execute(
            "INSERT INTO records"
            " (node, sequence, serial, payload, signature, reachable, departed, software, published, lot)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (node) DO UPDATE SET"
            " sequence = excluded.sequence, serial = excluded.serial, payload = excluded.payload,"
            " signature = excluded.signature, reachable = excluded.reachable, departed = excluded.departed,"
            " software = excluded.software, published = excluded.published, lot = excluded.lot",
            (
                row.node,
                row.sequence,
                serial,
                row.signed.payload,
                row.signed.signature,
                row.reachable,
                departed,
                row.software,
                row.published,
                secrets.randbits(64) - (1 << 63),
            ),
        )

    def record(self, node: int) -> RecordRow | None:
        """Return the record of a node."""
        return next(iter(self._records("WHERE records.node = ?", node)), None)

    def drop_record(self, node: int) -> None:
        """Forget the record of a node."""
        self.execute("DELETE FROM records WHERE node = ?", (node,))

    def draw_records(
        self,
        *,
        exclude: Sequence[int],
        reachable: bool | None,
        since: float,
        now: float,
        count: int,
        lots: Sequence[int] = (),
    ) -> list[RecordRow]:
        """Return up to ``count`` random records of members whose certificate is valid at ``now``.

        ``exclude`` are nodes that are not wanted, ``reachable`` None means either; published after ``since``.
        With ``lots`` (signed 64-bit numbers) only records whose lots follow these closely are looked at:
        that may give fewer than there are, but takes the same time in a network of any size.
        """
        wanted = (False, True) if reachable is None else (reachable,)
        near = " UNION ".join([_NEAR_LOT] * (len(wanted) * len(lots)))
        candidates = f"AND records.node IN ({near})" if lots else ""
        others = f"AND records.node NOT IN ({','.join('?' * len(exclude))})" if exclude else ""
        states = ",".join("?" * len(wanted))
        # The candidates are in the wanted state already: asked again, SQLite walks the index of all in it.
        condition = "" if lots else f" AND reachable IN ({states})"
        each = math.ceil(count / len(lots)) + len(exclude) if lots else 0
        return self._records(
            "JOIN nodes ON nodes.id = records.node WHERE nodes.released IS NULL AND nodes.suspended IS NULL"
            " AND certificates.revoked IS NULL AND certificates.expires > ? AND NOT departed"
            f" AND published >= ?{condition} {others}"
            f" {candidates} ORDER BY random() LIMIT ?",
            now,
            since,
            *(() if lots else wanted),
            *exclude,
            *(value for state in wanted for lot in lots for value in (state, lot, each)),
            count,
        )

    def _records(self, clause: str, *values: object) -> list[RecordRow]:
        rows = self.execute(
            f"SELECT records.node, sequence, der, payload, signature, reachable, software, published"  # noqa: S608 - constants
            f" FROM records JOIN certificates ON certificates.serial = records.serial {clause}",
            values,
        )
        return [
            RecordRow(
                node,
                sequence,
                SignedPeerRecord(certificate=der, payload=payload, signature=signature),
                bool(reachable),
                software,
                published,
            )
            for node, sequence, der, payload, signature, reachable, software, published in rows
        ]
