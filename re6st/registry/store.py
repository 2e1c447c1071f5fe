"""What the registry knows: nodes, certificates, tokens, peer records, documents, and all the SQL for them.

Methods that change something are to be called inside :meth:`Store.transaction`. The tables are STRICT
(see ``schema/``), so that rows have the types declared there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network

from re6st.messages import SignedDocument, SignedPeerRecord
from re6st.prefix import node_address
from re6st.registry.allocator import Lease
from re6st.registry.database import Database


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A member, or a former one."""

    identifier: int
    name: str
    prefix: IPv6Network
    created: float
    released: float | None
    """When its prefix was given back; None for a member."""

    @property
    def address(self) -> IPv6Address:
        """The node address."""
        return node_address(self.prefix)


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
class TokenRow:
    """A token, known by its digest only."""

    identifier: int
    name: str | None
    prefix_length: int
    created: float
    expires: float
    used: float | None
    node: int | None
    key_digest: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class RecordRow:
    """The peer record that a node published."""

    node: int
    sequence: int
    signed: SignedPeerRecord = field(repr=False)
    reachable: bool
    software: str
    published: float


class Store(Database):
    """The tables. Belongs to one thread at a time."""

    # -- settings and documents

    def setting(self, key: str) -> str | None:
        """Return the setting ``key``, None if it was never set."""
        rows = self.execute("SELECT value FROM settings WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def set_setting(self, key: str, value: str) -> None:
        """Remember a setting."""
        self.execute("INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", (key, value))

    def document(self, kind: str) -> SignedDocument | None:
        """Return the newest signed document of a kind."""
        rows = self.execute("SELECT payload, signature FROM documents WHERE kind = ?", (kind,))
        return SignedDocument(payload=rows[0][0], signature=rows[0][1]) if rows else None

    def document_version(self, kind: str) -> int:
        """Return the version of the newest document of a kind, 0 for none."""
        rows = self.execute("SELECT version FROM documents WHERE kind = ?", (kind,))
        return int(rows[0][0]) if rows else 0

    def put_document(self, kind: str, version: int, document: SignedDocument) -> None:
        """Replace a document by a later version; a version that is not later is refused."""
        self.execute(
            "INSERT INTO documents (kind, version, payload, signature) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (kind) DO UPDATE SET version = excluded.version, payload = excluded.payload,"
            " signature = excluded.signature",
            (kind, version, document.payload, document.signature),
        )

    # -- nodes

    def leases(self) -> list[Lease]:
        """Return all prefixes that are or were somebody's."""
        rows = self.execute("SELECT prefix_first, prefix_length, released FROM nodes")
        return [Lease(int.from_bytes(first), length, released) for first, length, released in rows]

    def add_node(self, name: str, prefix: IPv6Network, now: float) -> NodeRow:
        """Add a member. Its name and prefix must be free."""
        identifier = self.insert(
            "INSERT INTO nodes (name, prefix_first, prefix_last, prefix_length, created)"
            " VALUES (?, ?, ?, ?, ?)",
            (name, prefix.network_address.packed, prefix.broadcast_address.packed, prefix.prefixlen, now),
        )
        return NodeRow(identifier, name, prefix, now, None)

    def nodes(self) -> list[NodeRow]:
        """Return members and former members, by prefix."""
        return self._nodes("ORDER BY prefix_first, id")

    def node(self, identifier: int) -> NodeRow | None:
        """Return the node with this row number."""
        return next(iter(self._nodes("WHERE id = ?", identifier)), None)

    def member(self, name: str) -> NodeRow | None:
        """Return the member of this name; upper and lower case are the same."""
        return next(iter(self._nodes("WHERE released IS NULL AND name = ?", name)), None)

    def member_at(self, prefix: IPv6Network) -> NodeRow | None:
        """Return the member that owns exactly ``prefix``."""
        clause = "WHERE released IS NULL AND prefix_first = ? AND prefix_length = ?"
        return next(iter(self._nodes(clause, prefix.network_address.packed, prefix.prefixlen)), None)

    def _nodes(self, clause: str, *values: object) -> list[NodeRow]:
        rows = self.execute(
            f"SELECT id, name, prefix_first, prefix_length, created, released FROM nodes {clause}",  # noqa: S608 - constants above
            values,
        )
        return [
            NodeRow(identifier, name, IPv6Network((first, length)), created, released)
            for identifier, name, first, length, created, released in rows
        ]

    def release_node(self, identifier: int, now: float) -> None:
        """Let a member go: its certificates are revoked, its record is dropped, its prefix waits."""
        self.execute("UPDATE nodes SET released = ? WHERE id = ? AND released IS NULL", (now, identifier))
        self.execute(
            "UPDATE certificates SET revoked = ? WHERE node = ? AND revoked IS NULL", (now, identifier)
        )
        self.execute("DELETE FROM records WHERE node = ?", (identifier,))

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

    def certificates(self, node: int) -> list[CertificateRow]:
        """Return all certificates of a node, the newest first."""
        return self._certificates("WHERE node = ? ORDER BY issued DESC, rowid DESC", node)

    def newest_certificates(self) -> dict[int, CertificateRow]:
        """Return the newest certificate of each node."""
        rows = self._certificates("ORDER BY issued, rowid")
        return {row.node: row for row in rows}

    def revoked_serials(self, now: float) -> list[str]:
        """Return the serial numbers that are revoked and would still be valid otherwise."""
        rows = self.execute(
            "SELECT serial FROM certificates WHERE revoked IS NOT NULL AND expires > ? ORDER BY serial",
            (now,),
        )
        return [str(serial) for (serial,) in rows]

    def _certificates(self, clause: str, *values: object) -> list[CertificateRow]:
        rows = self.execute(
            f"SELECT serial, node, der, key_digest, issued, expires, revoked FROM certificates {clause}",  # noqa: S608 - constants above
            values,
        )
        return [CertificateRow(*row) for row in rows]

    # -- tokens

    def add_token(
        self, digest: bytes, name: str | None, prefix_length: int, now: float, expires: float
    ) -> None:
        """Remember a token by its digest."""
        self.execute(
            "INSERT INTO tokens (digest, name, prefix_length, created, expires) VALUES (?, ?, ?, ?, ?)",
            (digest, name, prefix_length, now, expires),
        )

    def token(self, digest: bytes) -> TokenRow | None:
        """Return the token with this digest."""
        return next(iter(self._tokens("WHERE digest = ?", digest)), None)

    def tokens(self) -> list[TokenRow]:
        """Return all tokens, the oldest first."""
        return self._tokens("ORDER BY id")

    def token_for(self, name: str, now: float) -> TokenRow | None:
        """Return an unused token, not yet expired, that reserves ``name``."""
        return next(iter(self._tokens("WHERE name = ? AND used IS NULL AND expires > ?", name, now)), None)

    def use_token(self, identifier: int, node: int, key_digest: bytes, now: float) -> None:
        """Mark a token as used for ``node``."""
        self.execute(
            "UPDATE tokens SET used = ?, node = ?, key_digest = ? WHERE id = ? AND used IS NULL",
            (now, node, key_digest, identifier),
        )

    def _tokens(self, clause: str, *values: object) -> list[TokenRow]:
        rows = self.execute(
            f"SELECT id, name, prefix_length, created, expires, used, node, key_digest FROM tokens {clause}",  # noqa: S608 - constants above
            values,
        )
        return [TokenRow(*row) for row in rows]

    # -- peer records

    def put_record(self, row: RecordRow, serial: str, departed: bool) -> None:
        """Remember the newest record of a node."""
        self.execute(
            "INSERT OR REPLACE INTO records"
            " (node, sequence, serial, payload, signature, reachable, departed, software, published)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
            ),
        )

    def records(self) -> dict[int, RecordRow]:
        """Return the records of all nodes."""
        return {row.node: row for row in self._records("")}

    def record(self, node: int) -> RecordRow | None:
        """Return the record of a node."""
        return next(iter(self._records("WHERE records.node = ?", node)), None)

    def draw_records(
        self, *, exclude: Sequence[int], reachable: bool | None, since: float, now: float, count: int
    ) -> list[RecordRow]:
        """Return up to ``count`` random records of members whose certificate is valid at ``now``.

        ``exclude`` are nodes that are not wanted, ``reachable`` None means either; published after ``since``.
        """
        marks = ",".join("?" * len(exclude))
        wanted = (False, True) if reachable is None else (reachable, reachable)
        return self._records(
            "JOIN nodes ON nodes.id = records.node WHERE nodes.released IS NULL"
            " AND certificates.revoked IS NULL AND certificates.expires > ? AND NOT departed"
            f" AND published >= ? AND reachable IN (?, ?) AND records.node NOT IN ({marks})"
            " ORDER BY random() LIMIT ?",
            now,
            since,
            *wanted,
            *exclude,
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
