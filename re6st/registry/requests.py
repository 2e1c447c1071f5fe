"""Who has asked to be let in: requests that wait for an operator, mails that wait to be sent, and their SQL.

Methods that change something are to be called inside a transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from re6st.registry.askers import Asked
from re6st.registry.database import ALL, Database


@dataclass(frozen=True, slots=True)
class RequestRow:
    """A request for admission; its secret is known by its digest only."""

    identifier: int
    digest: bytes = field(repr=False)
    key_digest: bytes
    name: str
    message: str
    origin: str
    """Network address that asked."""
    state: str
    """``pending``, ``approved`` or ``denied``."""
    reason: str
    created: float
    expires: float
    """Until when it can be decided."""


@dataclass(frozen=True, slots=True)
class MailRow:
    """A mail with a join link that somebody asked for."""

    identifier: int
    mailbox: str
    state: str
    """``waiting``, ``sent``, ``refused`` or ``failed``."""
    reason: str
    """Why it was not sent, or not yet."""
    created: float
    attempts: int
    token: int | None


_MAIL = "SELECT id, mailbox, state, reason, created, attempts, token FROM mails"

_ASKED = "SELECT id, source, mailbox, created, due FROM mails"

_REQUEST = (
    "SELECT id, digest, key_digest, name, message, origin, state, reason, created, expires FROM requests"
)


class Requests(Database):
    """The tables for those who ask. Belongs to one thread at a time."""

    def add_request(
        self,
        digest: bytes,
        key_digest: bytes,
        name: str,
        message: str,
        origin: str,
        source: str,
        state: str,
        now: float,
        expires: float,
    ) -> int:
        """Remember a request; return its number. ``source`` is under what its sender is counted."""
        return self.insert(
            "INSERT INTO requests (digest, key_digest, name, message, origin, source, state, reason, created,"
            " expires) VALUES (?, ?, ?, ?, ?, ?, ?, '', ?, ?)",
            (digest, key_digest, name, message, origin, source, state, now, expires),
        )

    def request(self, digest: bytes) -> RequestRow | None:
        """Return the request whose secret has this digest."""
        return next(iter(self._requests("WHERE digest = ?", digest)), None)

    def request_numbered(self, identifier: int) -> RequestRow | None:
        """Return the request with this row number."""
        return next(iter(self._requests("WHERE id = ?", identifier)), None)

    def requests(self, before: int = ALL, limit: int = ALL) -> list[RequestRow]:
        """Return the requests with numbers below ``before``, the newest first."""
        return self._requests("WHERE id < ? ORDER BY id DESC LIMIT ?", before, limit)

    def pending_requests(self, now: float, before: int = ALL, limit: int = ALL) -> list[RequestRow]:
        """Return those that an operator can decide now, the newest first."""
        return self._requests(
            "WHERE state = 'pending' AND expires > ? AND id < ? ORDER BY id DESC LIMIT ?", now, before, limit
        )

    def decide_request(self, identifier: int, state: str, reason: str) -> None:
        """Remember what was decided."""
        self.execute("UPDATE requests SET state = ?, reason = ? WHERE id = ?", (state, reason, identifier))

    def count_pending(self, now: float) -> int:
        """Return how many requests wait for an operator."""
        rows = self.execute("SELECT count(*) FROM requests WHERE state = 'pending' AND expires > ?", (now,))
        return int(rows[0][0])

    def pending_sources(self, now: float) -> list[str]:
        """Return from where the requests came that wait for an operator, each time that one did."""
        rows = self.execute("SELECT source FROM requests WHERE state = 'pending' AND expires > ?", (now,))
        return [str(source) for (source,) in rows]

    def count_asked(self, source: str, since: float) -> int:
        """Return how many requests came from ``source`` since then and were not approved."""
        rows = self.execute(
            "SELECT count(*) FROM requests WHERE source = ? AND created > ? AND state <> 'approved'",
            (source, since),
        )
        return int(rows[0][0])

    def count_let_in(self, since: float, source: str | None = None) -> int:
        """Return how many requests were approved as soon as they came, from ``source`` or from anywhere."""
        clause, values = ("", ()) if source is None else (" AND source = ?", (source,))
        rows = self.execute(
            "SELECT count(*) FROM requests JOIN tokens ON tokens.digest = requests.digest"  # noqa: S608 - constants
            f" WHERE tokens.way = 'open' AND requests.created > ?{clause}",
            (since, *values),
        )
        return int(rows[0][0])

    def denied_before(self, key_digest: bytes, identifier: int) -> bool:
        """Return whether another request with this key was denied."""
        return bool(
            self.execute(
                "SELECT 1 FROM requests WHERE key_digest = ? AND id <> ? AND state = 'denied' LIMIT 1",
                (key_digest, identifier),
            )
        )

    def key_holders(self, key_digest: bytes) -> list[str]:
        """Return the names of nodes that have, or had, a certificate for this key."""
        rows = self.execute(
            "SELECT DISTINCT nodes.name FROM certificates JOIN nodes ON nodes.id = certificates.node"
            " WHERE certificates.key_digest = ? LIMIT 4",
            (key_digest,),
        )
        return [str(name) for (name,) in rows]

    def drop_requests(self, before: float) -> None:
        """Forget requests that were to be decided until then, and mails of that time."""
        self.execute("DELETE FROM requests WHERE expires < ?", (before,))
        self.execute("DELETE FROM mails WHERE created < ? AND state <> 'waiting'", (before,))

    # -- mails

    def add_mail(self, mailbox: str, source: str, now: float) -> int:
        """Remember that somebody asked for a mail to ``mailbox``; return its number."""
        return self.insert(
            "INSERT INTO mails (mailbox, source, state, reason, created, due, attempts)"
            " VALUES (?, ?, 'waiting', '', ?, ?, 0)",
            (mailbox, source, now, now),
        )

    def mail(self, identifier: int) -> MailRow | None:
        """Return the mail with this row number."""
        return next(iter(self._mails("WHERE id = ?", identifier)), None)

    def mails(self, limit: int = ALL) -> list[MailRow]:
        """Return the mails that are remembered, the newest first."""
        return self._mails("ORDER BY id DESC LIMIT ?", limit)

    def latest_asked(self, limit: int) -> list[Asked]:
        """Return which mails were asked for last."""
        return self._asked("ORDER BY id DESC LIMIT ?", limit)

    def due_mails(self, now: float) -> list[Asked]:
        """Return the mails that wait to be sent."""
        return self._asked("WHERE state = 'waiting' AND due <= ?", now)

    def served_mails(self, since: float) -> list[Asked]:
        """Return the mails that were asked for since then and have got a link."""
        return self._asked("WHERE token IS NOT NULL AND created > ?", since)

    def postpone_mail(self, identifier: int, token: int, due: float) -> None:
        """Remember that a mail is being sent, and when it is sent again unless that succeeds."""
        self.execute(
            "UPDATE mails SET token = ?, due = ?, attempts = attempts + 1 WHERE id = ?",
            (token, due, identifier),
        )

    def finish_mail(self, identifier: int, state: str, reason: str) -> None:
        """Remember what became of a mail."""
        self.execute("UPDATE mails SET state = ?, reason = ? WHERE id = ?", (state, reason, identifier))

    def count_mails(self, since: float, source: str) -> int:
        """Return for how many mails ``source`` has asked since then."""
        rows = self.execute("SELECT count(*) FROM mails WHERE source = ? AND created > ?", (source, since))
        return int(rows[0][0])

    def count_mailed(self, since: float, owner: str | None = None) -> int:
        """Return for how many mails, to one mailbox or all, links were made since then."""
        clause, values = ("", ()) if owner is None else (" AND mailbox = ?", (owner,))
        rows = self.execute(
            f"SELECT count(*) FROM tokens WHERE way = 'mail' AND created > ?{clause}",  # noqa: S608 - constants
            (since, *values),
        )
        return int(rows[0][0])

    def replace_token(self, identifier: int, digest: bytes, expires: float) -> None:
        """Let another secret take the place of that of a token."""
        self.execute("UPDATE tokens SET digest = ?, expires = ? WHERE id = ?", (digest, expires, identifier))

    def _asked(self, clause: str, *values: object) -> list[Asked]:
        return [Asked(*row) for row in self.execute(f"{_ASKED} {clause}", values)]

    def _mails(self, clause: str, *values: object) -> list[MailRow]:
        return [MailRow(*row) for row in self.execute(f"{_MAIL} {clause}", values)]

    def _requests(self, clause: str, *values: object) -> list[RequestRow]:
        return [RequestRow(*row) for row in self.execute(f"{_REQUEST} {clause}", values)]
