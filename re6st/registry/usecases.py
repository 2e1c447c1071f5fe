"""What all use cases of the registry share: the store, the authority, the time, and who is acting.

Every use case is one transaction that ends with an entry of the audit log, so that a change without its
entry, or an entry without its change, cannot exist.
"""

from __future__ import annotations

import copy
import enum
import getpass
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Self

import msgspec
from cryptography import x509

from re6st.identity import TrustStore, der_to_pem
from re6st.registry.authorities import AuthorityKeeper
from re6st.registry.authority import DAY, NODE_VALIDITY, Authority
from re6st.registry.database import Database
from re6st.registry.records import Deck
from re6st.registry.store import Store

QUARANTINE = 30 * DAY
"""Seconds for which a prefix that was given back is not assigned again, unless chosen otherwise."""

SETTING_QUARANTINE = "quarantine"
SETTING_VALIDITY = "node-validity"


class ActorKind(enum.Enum):
    """How somebody proved who he is."""

    LOCAL = "local"
    """A user of the registry's host, by the permissions of the files."""
    TOKEN = "token"  # noqa: S105 - not a secret
    """An operator with a bearer token."""
    NODE = "node"
    """A node with its certificate."""
    JOINER = "joiner"
    """A machine with a join link."""
    SYSTEM = "system"
    """The registry itself."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, as the audit log names him."""

    kind: ActorKind
    name: str = ""
    origin: str = "local"
    """Network address, or ``local``."""


SYSTEM = Actor(ActorKind.SYSTEM, "re6st-registry")


def local_actor() -> Actor:
    """Return the person at this terminal: who called sudo(8), or the user of this process."""
    name = os.environ.get("SUDO_USER") or ""
    if not name:
        try:
            name = getpass.getuser()
        except (KeyError, OSError):
            name = f"uid {os.getuid()}"
    return Actor(ActorKind.LOCAL, name[:64])


class UseCases:
    """The use cases over one store and one authority; belongs to one thread at a time."""

    def __init__(
        self,
        store: Store,
        authority: Authority,
        *,
        clock: Callable[[], float] = time.time,
        actor: Actor = SYSTEM,
        reload: Callable[[], Authority] | None = None,
    ) -> None:
        """``clock`` returns seconds since the epoch; ``actor`` is whom the audit log names.

        ``reload`` returns the authority anew when another one may be in force; by default it never changes.
        """
        self._store = store
        self._deck = Deck(store)
        self._keeper = AuthorityKeeper(store, authority, reload)
        self._clock = clock
        self._actor = actor
        self._quarantine = float(store.setting(SETTING_QUARANTINE) or QUARANTINE)
        self._validity = float(store.setting(SETTING_VALIDITY) or NODE_VALIDITY)

    def by(self, actor: Actor) -> Self:
        """Return the same use cases, done by ``actor``."""
        other = copy.copy(self)
        other._actor = actor
        return other

    def now(self) -> float:
        """Return the time, in seconds since the epoch."""
        return self._clock()

    @property
    def _authority(self) -> Authority:
        return self._keeper.current

    @property
    def _trust(self) -> TrustStore:
        return self._keeper.trust

    @property
    def authority(self) -> Authority:
        """The CA that issues certificates now."""
        return self._authority

    @property
    def network(self) -> IPv6Network:
        """The prefix of the network."""
        return self._trust.network

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the CA certificate."""
        return self._authority.fingerprint

    def authority_pem(self) -> bytes:
        """Return the CA certificate, followed by the other one while one takes over from the other."""
        return b"".join(der_to_pem(der) for der in self._trust.authorities)

    def authority_expiry(self) -> float:
        """Return when the CA certificate expires."""
        certificate = x509.load_der_x509_certificate(self._authority.certificate)
        return certificate.not_valid_after_utc.timestamp()

    @property
    def database(self) -> Database:
        """Where all is kept, for the one who decides which thread may use it."""
        return self._store

    def database_size(self) -> int:
        """Return the octets of the database, without its log."""
        return self._store.size()

    def _log(self, action: str, subject: str, **details: object) -> None:
        """Add an entry to the audit log, inside the transaction that it tells of."""
        known = {key: value for key, value in details.items() if value is not None}
        self._store.add_audit(
            self._clock(),
            self._actor.kind.value,
            self._actor.name,
            self._actor.origin,
            action,
            subject,
            msgspec.json.encode(known, enc_hook=str).decode(),
        )


def digest(secret: str) -> bytes:
    """Return what is stored of a token. Tokens are random, so that a plain hash is enough."""
    return hashlib.sha256(secret.encode()).digest()
