"""Whom the registry expects: tokens and reservations, and the SQL for them.

Methods that change something are to be called inside a transaction.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv6Network

from re6st.registry.database import ALL
from re6st.registry.further_prefixes import FurtherPrefixes
from re6st.registry.groups import GroupRow, Groups
from re6st.registry.ledger import Ledger
from re6st.registry.requests import Requests


class Way(enum.Enum):
    """How a token came about."""

    LINK = "link"
    """An operator made a join link."""
    REQUEST = "request"
    """An operator approved a request."""
    OPEN = "open"
    """Enrolment is open."""
    MAIL = "mail"
    """It was sent to a mailbox."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token, known by its digest only."""

    identifier: int
    name: str | None
    prefix_length: int
    created: float
    expires: float
    maximum_uses: int
    node: int | None
    """The node whose place it gives back."""
    revoked: float | None
    uses: int
    """For how many nodes it was used."""
    last_used: float | None
    last_node: int | None
    way: str = "link"
    """How it came about: see :class:`Way`."""
    key_digest: bytes | None = None
    """Only who has this key can use it."""
    mailbox: str | None = None
    """To which it was sent."""
    group: str | None = None
    """In which its nodes will be; None for the first one."""
    owner: str = ""
    """To whom its nodes will belong."""

    def is_open(self, now: float) -> bool:
        """Return whether another node can use it."""
        return self.state(now) == "open"

    def state(self, now: float) -> str:
        """Return ``used`` (up), ``revoked``, ``expired`` or ``open``."""
        if self.uses >= self.maximum_uses:
            return "used"
        if self.revoked is not None:
            return "revoked"
        return "expired" if now >= self.expires else "open"


@dataclass(frozen=True, slots=True)
class TokenUse:
    """A node for which a token was used."""

    node: int
    used: float


@dataclass(frozen=True, slots=True)
class Reservation:
    """A prefix that waits for the node of a name."""

    name: str
    prefix: IPv6Network
    created: float


class Admissions(Ledger, FurtherPrefixes, Requests, Groups):
    """The tables for those who shall come. Belongs to one thread at a time."""

    # -- reservations

    def reserve(self, reservation: Reservation) -> None:
        """Keep a prefix for a name."""
        self.execute(
            "INSERT INTO reservations (name, prefix_first, prefix_length, created) VALUES (?, ?, ?, ?)",
            (
                reservation.name,
                reservation.prefix.network_address.packed,
                reservation.prefix.prefixlen,
                reservation.created,
            ),
        )
        self.take_space(reservation.prefix)

    def unreserve(self, name: str) -> None:
        """Keep no prefix for this name any more."""
        reservation = self.reservation(name)
        if reservation is not None:
            self.execute("DELETE FROM reservations WHERE name = ?", (name,))
            self.refresh_space(reservation.prefix)

    def reservations(self) -> list[Reservation]:
        """Return all reservations, by prefix."""
        rows = self.execute(
            "SELECT name, prefix_first, prefix_length, created FROM reservations ORDER BY prefix_first"
        )
        return [Reservation(name, IPv6Network((first, length)), made) for name, first, length, made in rows]

    def reservation(self, name: str) -> Reservation | None:
        """Return the reservation for this name."""
        rows = self.execute(
            "SELECT name, prefix_first, prefix_length, created FROM reservations WHERE name = ?", (name,)
        )
        return Reservation(rows[0][0], IPv6Network((rows[0][1], rows[0][2])), rows[0][3]) if rows else None

    # -- tokens

    def add_token(
        self,
        digest: bytes,
        name: str | None,
        prefix_length: int,
        now: float,
        expires: float,
        maximum_uses: int = 1,
        node: int | None = None,
        *,
        way: Way = Way.LINK,
        key_digest: bytes | None = None,
        mailbox: str | None = None,
        group: GroupRow | None = None,
        owner: str = "",
    ) -> int:
        """Remember a token by its digest; return its number."""
        return self.insert(
            "INSERT INTO tokens (digest, name, prefix_length, created, expires, maximum_uses, node, way,"
            " key_digest, mailbox, node_group, owner) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                digest,
                name,
                prefix_length,
                now,
                expires,
                maximum_uses,
                node,
                way.value,
                key_digest,
                mailbox,
                group.identifier if group is not None else None,
                owner,
            ),
        )

    def count_admitted(self, way: Way, now: float) -> int:
        """Return how many members came this way, and how many more are about to."""
        rows = self.execute(
            "SELECT (SELECT count(DISTINCT nodes.id) FROM tokens"
            " JOIN token_uses ON token_uses.token = tokens.id"
            " JOIN nodes ON nodes.id = token_uses.node WHERE tokens.way = ? AND nodes.released IS NULL)"
            " + (SELECT count(*) FROM tokens WHERE way = ? AND revoked IS NULL AND expires > ?"
            " AND NOT EXISTS (SELECT 1 FROM token_uses WHERE token = tokens.id))",
            (way.value, way.value, now),
        )
        return int(rows[0][0])

    def count_mailbox(self, mailbox: str) -> int:
        """Return how many members joined with links that were sent to this mailbox."""
        rows = self.execute(
            "SELECT count(DISTINCT nodes.id) FROM tokens JOIN token_uses ON token_uses.token = tokens.id"
            " JOIN nodes ON nodes.id = token_uses.node WHERE tokens.mailbox = ? AND nodes.released IS NULL",
            (mailbox,),
        )
        return int(rows[0][0])

    def token(self, digest: bytes) -> TokenRow | None:
        """Return the token with this digest."""
        return next(iter(self._tokens("WHERE digest = ?", digest)), None)

    def token_numbered(self, identifier: int) -> TokenRow | None:
        """Return the token with this row number."""
        return next(iter(self._tokens("WHERE id = ?", identifier)), None)

    def tokens(self, after: int = 0, limit: int = ALL) -> list[TokenRow]:
        """Return the tokens of join links behind number ``after``, the oldest first."""
        return self._tokens("WHERE id > ? AND way IN ('link', 'mail') ORDER BY id LIMIT ?", after, limit)

    def token_for(self, name: str, now: float) -> TokenRow | None:
        """Return a token that can still be used and reserves this name."""
        rows = self._tokens("WHERE name = ? AND revoked IS NULL AND expires > ?", name, now)
        return next((row for row in rows if row.is_open(now)), None)

    def token_of_group(self, group: int, now: float) -> TokenRow | None:
        """Return a token that can still be used and whose nodes will be in this group."""
        rows = self._tokens("WHERE node_group = ? AND revoked IS NULL AND expires > ?", group, now)
        return next((row for row in rows if row.is_open(now)), None)

    def revoke_token(self, identifier: int, now: float) -> None:
        """Let nobody in with a token any more."""
        self.execute("UPDATE tokens SET revoked = ? WHERE id = ? AND revoked IS NULL", (now, identifier))

    def drop_tokens(self, before: float) -> None:
        """Forget tokens that strangers caused, that nobody used, and that expired until then.

        One whose mail is remembered stays.
        """
        self.execute(
            "DELETE FROM tokens WHERE way <> 'link' AND expires < ?"
            " AND NOT EXISTS (SELECT 1 FROM token_uses WHERE token_uses.token = tokens.id)"
            " AND id NOT IN (SELECT token FROM mails WHERE token IS NOT NULL)",
            (before,),
        )

    def token_use(self, token: int, key_digest: bytes) -> TokenUse | None:
        """Return for which node this key used the token."""
        rows = self.execute(
            "SELECT node, used FROM token_uses WHERE token = ? AND key_digest = ?", (token, key_digest)
        )
        return TokenUse(*rows[0]) if rows else None

    def use_token(self, token: int, node: int, key_digest: bytes, now: float) -> None:
        """Remember that a token was used for ``node``."""
        self.execute(
            "INSERT INTO token_uses (token, key_digest, node, used) VALUES (?, ?, ?, ?)",
            (token, key_digest, node, now),
        )

    def _tokens(self, clause: str, *values: object) -> list[TokenRow]:
        rows = self.execute(
            "SELECT id, name, prefix_length, created, expires, maximum_uses, node, revoked,"  # noqa: S608 - constants
            " (SELECT count(*) FROM token_uses WHERE token = id), (SELECT max(used) FROM token_uses"
            " WHERE token = id), (SELECT node FROM token_uses WHERE token = id ORDER BY used DESC LIMIT 1),"
            " way, key_digest, mailbox, (SELECT node_groups.name FROM node_groups"
            f" WHERE node_groups.id = tokens.node_group), owner FROM tokens {clause}",
            values,
        )
        return [TokenRow(*row) for row in rows]
