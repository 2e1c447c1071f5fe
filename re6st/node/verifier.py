"""Opens peer records from outside: verified once, refused when revoked, remembered while unchanged."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from ipaddress import IPv6Network

from re6st.errors import ExpiredError, IdentityError, ProtocolError, RevokedError, UntrustedError
from re6st.identity import NodeCertificate, TrustStore
from re6st.messages import SignedPeerRecord
from re6st.peers import Peer, open_record

logger = logging.getLogger(__name__)

REMEMBERED = 4096
"""Peers of which the newest record is kept, so that seeing it again in gossip costs no signature check."""


class Verifier:
    """Decides which records and certificates this node believes."""

    def __init__(
        self, trust: TrustStore, revoked: Callable[[], frozenset[str]], wall: Callable[[], float]
    ) -> None:
        """Trust ``trust``; ``revoked`` gives the serials now withdrawn and ``wall`` the time."""
        self._trust = trust
        self._revoked = revoked
        self._wall = wall
        self._opened: dict[SignedPeerRecord, Peer] = {}
        self._newest: OrderedDict[IPv6Network, SignedPeerRecord] = OrderedDict()
        """Keys of ``_opened``, one for each prefix: whoever signs many records fills one place."""

    def open(self, signed: SignedPeerRecord) -> Peer:
        """Return the peer that ``signed`` describes.

        Raises :class:`IdentityError` or :class:`RemoteProtocolError`.
        """
        peer = self._opened.get(signed)
        if peer is None:
            peer = open_record(signed, self._trust, self._wall())
            self._remember(peer)
        elif peer.expires < self._wall():
            raise ExpiredError(f"the certificate of {peer.name} has expired")
        if peer.serial in self._revoked():
            raise RevokedError(f"the certificate of {peer.name} ({peer.prefix}) is revoked")
        return peer

    def open_own(self, sender: NodeCertificate | Peer, signed: SignedPeerRecord) -> Peer:
        """Return the peer that ``signed`` describes, who must be its ``sender``. Raises as :meth:`open`."""
        peer = self.open(signed)
        if peer.prefix != sender.prefix:
            raise UntrustedError(f"{sender.name} shows the record of {peer.name} as its own")
        return peer

    def _remember(self, peer: Peer) -> None:
        """Keep ``peer`` unless a newer record of the same prefix is known."""
        known = self._newest.get(peer.prefix)
        if known is not None:
            if self._opened[known].sequence > peer.sequence:
                return
            del self._opened[known]
        self._newest[peer.prefix] = peer.signed
        self._opened[peer.signed] = peer
        if len(self._newest) > REMEMBERED:
            _, oldest = self._newest.popitem(last=False)
            del self._opened[oldest]

    def open_all(self, records: Iterable[SignedPeerRecord]) -> tuple[Peer, ...]:
        """Return the peers of those ``records`` that hold; others are dropped."""
        peers = []
        for signed in records:
            try:
                peers.append(self.open(signed))
            except (IdentityError, ProtocolError) as error:
                logger.debug("Dropped a peer record: %s", error)
        return tuple(peers)

    def identify(self, der: bytes) -> NodeCertificate:
        """Return the node at the other end of a TLS connection, whose certificate is ``der``.

        Raises :class:`IdentityError`.
        """
        certificate = self._trust.verify(der, self._wall())
        if certificate.serial_hex in self._revoked():
            raise RevokedError(f"the certificate of {certificate.name} ({certificate.prefix}) is revoked")
        return certificate
