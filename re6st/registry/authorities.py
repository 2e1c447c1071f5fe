"""Which CA is in force: known from the network parameters, so that a running server follows the operator.

The state directory may hold two CAs while one takes over from the other (:mod:`re6st.registry.rollover`). The
first of the parameters' ``authorities`` issues certificates. Whether that has changed is asked of the
database before each use, but once in a transaction, because the operator's commands run beside the server,
and perhaps other registries on the same database. A registry that has not got the key of a CA in force
refuses to work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from re6st.errors import StorageError
from re6st.identity import CONTEXT_PARAMETERS, TrustStore, fingerprint
from re6st.messages import NetworkParameters, decode
from re6st.registry.authority import Authority
from re6st.registry.store import Store


class AuthorityKeeper:
    """The authority as the network parameters in force order it."""

    def __init__(self, store: Store, authority: Authority, reload: Callable[[], Authority] | None) -> None:
        """Begin with ``authority``; ``reload`` returns it anew after a change."""
        self._store = store
        self._reload = reload or (lambda: authority)
        self._version = 0
        self._known: int | None = None
        self._current = authority
        self._trust = authority.trust

    @property
    def current(self) -> Authority:
        """The authority that issues certificates. Raises :class:`StorageError`."""
        self._follow()
        return self._current

    @property
    def trust(self) -> TrustStore:
        """What verifies certificates and documents of all authorities that are trusted now."""
        self._follow()
        return self._trust

    def use(self, authority: Authority) -> None:
        """Use ``authority`` until other parameters are in force."""
        self._current, self._trust = authority, authority.trust
        self._version = self._store.document_version(CONTEXT_PARAMETERS)
        self._known = self._store.current

    def _follow(self) -> None:
        if self._known is not None and self._known == self._store.current:
            return
        version = self._store.document_version(CONTEXT_PARAMETERS)
        if version == self._version:
            self._known = self._store.current
            return
        document = self._store.document(CONTEXT_PARAMETERS)
        wanted = decode(document.payload, NetworkParameters).authorities if document else ()
        self._current = _as_ordered(self._reload(), wanted)
        self._trust = self._current.trust
        self._version = version
        self._known = self._store.current


def _as_ordered(loaded: Authority, wanted: Sequence[bytes]) -> Authority:
    """Return the authority with the certificates ``wanted``, the first one issuing.

    Raises :class:`StorageError` when the key of one is not here.
    """
    for certificate in wanted:
        if certificate not in loaded.trust.authorities:
            raise StorageError(
                f"the key of the CA {fingerprint(certificate)}, which is in force, is not in this state"
                " directory: copy ca-new.pem from the registry where 're6st-registry authority prepare' ran"
            )
    if not wanted:
        return loaded
    first = loaded.led_by(wanted[0])
    return first if len(wanted) > 1 else replace(first, other=None)
