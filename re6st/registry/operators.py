"""Use cases around operators: their bearer tokens, what they may do, requests they repeat, the audit log.

An operator may repeat a request with the same *idempotency key* when the answer was lost, and gets the first
answer again; the action happens once. An answer may hold a secret (a join link), so it is stored encrypted
with a key derived from the operator's token, which the registry knows by its digest only: who steals the
database learns no link from it.
"""

from __future__ import annotations

import enum
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from re6st.errors import ConfigError, RegistryRefusedError
from re6st.registry.authority import DAY
from re6st.registry.certification import check_name
from re6st.registry.database import ALL
from re6st.registry.ledger import AuditRow, OperatorRow
from re6st.registry.usecases import UseCases, digest

TOKEN_PREFIX = "re6st-op-"  # noqa: S105 - not a secret; lets scanners of repositories find leaked tokens
TOKEN_OCTETS = 32
ANSWER_TIME = DAY
"""Seconds for which a request can be repeated with the same idempotency key."""

_NONCE = 12


class Scope(enum.Enum):
    """What an operator's token is good for; each scope includes those before it."""

    READ = "read"
    """Look at everything, the audit log included."""
    WRITE = "write"
    """Let nodes in and out."""
    ADMIN = "admin"
    """Change network parameters and operators' tokens."""

    def includes(self, other: Scope) -> bool:
        """Return whether this scope is enough where ``other`` is needed."""
        order = list(Scope)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator whose token was verified."""

    identifier: int
    name: str
    scope: Scope
    token: str = field(repr=False)


class OperatorUseCases(UseCases):
    """Who may operate the registry from elsewhere, and what was done."""

    def create_operator_token(self, name: str, scope: Scope, lifetime: float | None = None) -> str:
        """Return a new bearer token; ``lifetime`` in seconds, None for ever.

        Raises :class:`RegistryRefusedError`, :class:`ConfigError`.
        """
        check_name(name)
        if lifetime is not None and lifetime <= 0:
            raise ConfigError("a token must be valid for some time: --expires 90d, for example")
        now = self._clock()
        token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_OCTETS)
        expires = now + lifetime if lifetime is not None else None
        with self._store.transaction():
            if self._store.operator_named(name) is not None:
                raise RegistryRefusedError(
                    f"an operator's token is called {name} already: revoke it or choose another name",
                    code="name-taken",
                )
            self._store.add_operator(name, digest(token), scope.value, now, expires)
            self._log("operator-token.created", name, scope=scope.value, expires=expires)
        return token

    def operator_tokens(self) -> list[OperatorRow]:
        """Return all operators' tokens, the oldest first; the tokens themselves are not known."""
        return self._store.operators()

    def operator_token(self, name: str) -> OperatorRow:
        """Return the operator's token of this name. Raises :class:`RegistryRefusedError`."""
        row = self._store.operator_named(name)
        if row is None:
            raise RegistryRefusedError(
                f"no operator's token is called {name[:64]}: see re6st-registry operator-token list",
                code="unknown-operator-token",
            )
        return row

    def revoke_operator_token(self, name: str) -> None:
        """Withdraw an operator's token; it is refused from the next request on.

        Raises :class:`RegistryRefusedError` with the code ``unknown-operator-token``.
        """
        with self._store.transaction():
            row = self.operator_token(name)
            self._store.revoke_operator(row.identifier, self._clock())
            self._log("operator-token.revoked", row.name, scope=row.scope)

    def authenticate_operator(self, token: str, needed: Scope) -> Operator:
        """Return whose token this is.

        Raises :class:`RegistryRefusedError` with the code ``operator-token-invalid`` or
        ``scope-insufficient``.
        """
        # The row is found by the digest of the token, which nobody can steer: no timing tells of it.
        row = self._store.operator(digest(token))
        if (
            row is None
            or row.revoked is not None
            or (row.expires is not None and row.expires <= self._clock())
        ):
            raise RegistryRefusedError(
                "this needs the valid token of an operator (Authorization: Bearer ...): make one with"
                " re6st-registry operator-token create",
                code="operator-token-invalid",
            )
        scope = Scope(row.scope)
        if not scope.includes(needed):
            raise RegistryRefusedError(
                f"the token {row.name} has the scope {scope.value}, but this needs {needed.value}",
                code="scope-insufficient",
            )
        return Operator(row.identifier, row.name, scope, token)

    def once(
        self,
        operator: Operator,
        key: str,
        request: bytes,
        action: Callable[[], tuple[int, bytes]],
    ) -> tuple[int, bytes]:
        """Return status and body that ``action`` gives, or gave when the operator used ``key`` before.

        ``request`` is what must not change between the two. Action and answer are one transaction.
        Raises :class:`RegistryRefusedError` with the code ``idempotency-key-reused``.
        """
        now = self._clock()
        key_digest, request_digest = digest(key), hashlib.sha256(request).digest()
        cipher = AESGCM(_answer_key(operator.token, key_digest))
        with self._store.transaction():
            self._store.forget_answers(now - ANSWER_TIME)
            known = self._store.answer(operator.identifier, key_digest)
            if known is None:
                status, body = action()
                nonce = secrets.token_bytes(_NONCE)
                sealed = nonce + cipher.encrypt(nonce, body, request_digest)
                self._store.add_answer(operator.identifier, key_digest, request_digest, status, sealed, now)
                return status, body
        if known.request_digest != request_digest:
            raise RegistryRefusedError(
                "this idempotency key was used for another request: use a new key for each request",
                code="idempotency-key-reused",
            )
        try:
            body = cipher.decrypt(known.answer[:_NONCE], known.answer[_NONCE:], request_digest)
        except InvalidTag as error:
            raise RegistryRefusedError(
                "the answer to this idempotency key cannot be repeated: use a new key",
                code="idempotency-key-reused",
            ) from error
        return known.status, body

    # -- audit log

    def audit(self, after: int = 0, since: float = 0.0, limit: int = ALL) -> list[AuditRow]:
        """Return the entries of the audit log behind number ``after``, not older than ``since``."""
        return self._store.audit(after, since, limit)

    def latest_audit(self, before: int, limit: int) -> list[AuditRow]:
        """Return up to ``limit`` entries with numbers below ``before``, the newest first."""
        return self._store.latest_audit(before, limit)

    def last_change(self) -> int:
        """Return the number of the newest entry of the audit log, 0 for none."""
        return self._store.last_audit()


def _answer_key(token: str, key_digest: bytes) -> bytes:
    """Return the key (HKDF, RFC 5869) for the answer to one request of who has ``token``."""
    return HKDF(hashes.SHA256(), 32, salt=key_digest, info=b"re6st answer").derive(token.encode())
