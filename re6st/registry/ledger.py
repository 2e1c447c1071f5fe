"""What the registry writes down for operators: audit log, history, operators and their repeated requests.

All the SQL for these tables. Methods that change something are to be called inside a transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from re6st.registry.database import ALL, Database


@dataclass(frozen=True, slots=True)
class AuditRow:
    """Who did what, from where and when."""

    identifier: int
    time: float
    actor_kind: str
    actor: str
    origin: str
    action: str
    subject: str
    details: str
    """A JSON object."""


@dataclass(frozen=True, slots=True)
class ParametersRow:
    """A version of the network parameters."""

    version: int
    payload: bytes = field(repr=False)
    created: float | None
    """None for what was in force before the history was kept."""


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """An operator's token, known by its digest only."""

    identifier: int
    name: str
    scope: str
    created: float
    expires: float | None
    revoked: float | None


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """The answer that a request with an idempotency key got."""

    request_digest: bytes
    status: int
    answer: bytes
    """Encrypted."""


class Ledger(Database):
    """The tables for operators. Belongs to one thread at a time."""

    # -- audit log

    def add_audit(
        self, now: float, kind: str, actor: str, origin: str, action: str, subject: str, details: str
    ) -> None:
        """Append an entry; nothing can be changed or deleted later."""
        self.execute(
            "INSERT INTO audit (time, actor_kind, actor, origin, action, subject, details)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (now, kind, actor, origin, action, subject, details),
        )

    def audit(self, after: int = 0, since: float = 0.0, limit: int = ALL) -> list[AuditRow]:
        """Return the entries behind number ``after`` and not older than ``since``, the oldest first."""
        rows = self.execute(
            "SELECT id, time, actor_kind, actor, origin, action, subject, details FROM audit"
            " WHERE id > ? AND time >= ? ORDER BY id LIMIT ?",
            (after, since, limit),
        )
        return [AuditRow(*row) for row in rows]

    def latest_audit(self, before: int, limit: int) -> list[AuditRow]:
        """Return the entries with numbers below ``before``, the newest first."""
        rows = self.execute(
            "SELECT id, time, actor_kind, actor, origin, action, subject, details FROM audit"
            " WHERE id < ? ORDER BY id DESC LIMIT ?",
            (before, limit),
        )
        return [AuditRow(*row) for row in rows]

    def last_audit(self) -> int:
        """Return the number of the newest entry, 0 for none."""
        rows = self.execute("SELECT max(id) FROM audit")
        return int(rows[0][0] or 0)

    # -- history of the network parameters

    def add_parameters(self, version: int, payload: bytes, now: float) -> None:
        """Remember a version of the parameters."""
        self.execute(
            "INSERT INTO parameter_history (version, payload, created) VALUES (?, ?, ?)",
            (version, payload, now),
        )

    def parameter_history(self, limit: int = ALL) -> list[ParametersRow]:
        """Return all versions, or up to ``limit``, the newest first."""
        rows = self.execute(
            "SELECT version, payload, created FROM parameter_history ORDER BY version DESC LIMIT ?", (limit,)
        )
        return [ParametersRow(*row) for row in rows]

    def add_planned_parameters(self, due: float, changes: str, now: float) -> int:
        """Remember a change (JSON) that waits for its time; return its number."""
        return self.insert(
            "INSERT INTO planned_parameters (due, changes, created) VALUES (?, ?, ?)", (due, changes, now)
        )

    def planned_parameters(self) -> list[tuple[int, float, str]]:
        """Return number, time and JSON of all changes that wait, the next one first."""
        rows = self.execute("SELECT id, due, changes FROM planned_parameters ORDER BY due, id")
        return [(int(number), float(due), str(changes)) for number, due, changes in rows]

    def drop_planned_parameters(self, identifier: int) -> None:
        """Forget a change that waits."""
        self.execute("DELETE FROM planned_parameters WHERE id = ?", (identifier,))

    # -- operators

    def add_operator(self, name: str, digest: bytes, scope: str, now: float, expires: float | None) -> int:
        """Remember an operator's token; return its number."""
        return self.insert(
            "INSERT INTO operator_tokens (name, digest, scope, created, expires) VALUES (?, ?, ?, ?, ?)",
            (name, digest, scope, now, expires),
        )

    def operator(self, digest: bytes) -> OperatorRow | None:
        """Return the operator whose token has this digest."""
        return next(iter(self._operators("WHERE digest = ?", digest)), None)

    def operator_named(self, name: str) -> OperatorRow | None:
        """Return the operator's token of this name that is not revoked."""
        return next(iter(self._operators("WHERE name = ? AND revoked IS NULL", name)), None)

    def operators(self) -> list[OperatorRow]:
        """Return all operators' tokens, the oldest first."""
        return self._operators("ORDER BY id")

    def revoke_operator(self, identifier: int, now: float) -> None:
        """Withdraw an operator's token."""
        self.execute("UPDATE operator_tokens SET revoked = ? WHERE id = ?", (now, identifier))
        self.execute("DELETE FROM answers WHERE operator = ?", (identifier,))

    def _operators(self, clause: str, *values: object) -> list[OperatorRow]:
        rows = self.execute(
            f"SELECT id, name, scope, created, expires, revoked FROM operator_tokens {clause}",  # noqa: S608 - constants above
            values,
        )
        return [OperatorRow(*row) for row in rows]

    # -- requests that may be repeated

    def answer(self, operator: int, key_digest: bytes) -> AnswerRow | None:
        """Return what was answered to the request with this idempotency key."""
        rows = self.execute(
            "SELECT request_digest, status, answer FROM answers WHERE operator = ? AND key_digest = ?",
            (operator, key_digest),
        )
        return AnswerRow(*rows[0]) if rows else None

    def add_answer(
        self, operator: int, key_digest: bytes, request_digest: bytes, status: int, answer: bytes, now: float
    ) -> None:
        """Remember an answer."""
        self.execute(
            "INSERT INTO answers (operator, key_digest, request_digest, status, answer, created)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (operator, key_digest, request_digest, status, answer, now),
        )

    def forget_answers(self, before: float) -> None:
        """Forget answers that were given before ``before``."""
        self.execute("DELETE FROM answers WHERE created < ?", (before,))
