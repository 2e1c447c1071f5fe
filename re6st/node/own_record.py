"""The node's own peer record: signed anew whenever what it says changes."""

from __future__ import annotations

from collections.abc import Callable

import re6st
from re6st.messages import Endpoint, PeerRecord, SignedPeerRecord
from re6st.node.cache import Cache
from re6st.node.credentials import Credentials
from re6st.peers import PUNCHING, seal_record


class OwnRecord:
    """What this node says of itself."""

    def __init__(
        self, credentials: Credentials, cache: Cache, control_port: int, wall: Callable[[], float]
    ) -> None:
        """Sign with ``credentials``; ``wall`` gives seconds since the epoch. Raises :class:`StorageError`."""
        self._credentials = credentials
        self._cache = cache
        self._control_port = control_port
        self._wall = wall
        self._mapped = False
        self.endpoints: tuple[Endpoint, ...] = ()
        self.signed: SignedPeerRecord = self._seal()

    def update(self, endpoints: tuple[Endpoint, ...], *, mapped: bool) -> bool:
        """Say that the control API is reached at ``endpoints``, through a port mapping if ``mapped``.

        Return whether that is news. Raises :class:`StorageError`.
        """
        if (endpoints, mapped) == (self.endpoints, self._mapped):
            return False
        self.endpoints, self._mapped = endpoints, mapped
        self.signed = self._seal()
        return True

    def renew(self, credentials: Credentials) -> None:
        """Sign with the key and certificate of ``credentials`` from now on. Raises :class:`StorageError`."""
        self._credentials = credentials
        self.signed = self._seal()

    def farewell(self) -> SignedPeerRecord:
        """Return a record that says that the node has left the network for good."""
        return self._seal(departed=True)

    def _seal(self, *, departed: bool = False) -> SignedPeerRecord:
        certificate = self._credentials.certificate
        capabilities = [f"control-port={self._control_port}", PUNCHING]
        if self._mapped:
            capabilities.append("upnp")
        record = PeerRecord(
            prefix=str(certificate.prefix),
            name=certificate.name,
            sequence=self._cache.next_sequence(self._wall()),
            endpoints=() if departed else self.endpoints,
            capabilities=tuple(capabilities),
            software=f"re6st {re6st.__version__}",
            departed=departed,
        )
        return seal_record(self._credentials.key, certificate.der, record)
