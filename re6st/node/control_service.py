"""What peers may ask of this node, and whose business each question is.

The caller is who its certificate says. It may speak for itself only: show its own record, end or drain
tunnels of which it is the other end.
"""

from __future__ import annotations

from collections.abc import Callable

from re6st.core.events import Document, Event, TunnelCancelled, TunnelDraining
from re6st.identity import NodeCertificate
from re6st.messages import (
    Draining,
    DrainProgress,
    Gossip,
    LanKeys,
    ReachabilityAnswer,
    ReachabilityRequest,
    SignedDocument,
    TunnelOffer,
    TunnelRefusal,
    TunnelRequest,
)
from re6st.node.documents import Documents
from re6st.node.drainage import Drainage
from re6st.node.gossiping import Gossiping
from re6st.node.lan import LanKeyring
from re6st.node.negotiation import Negotiation
from re6st.node.outside import OutsideTester
from re6st.node.tunnel_operator import TunnelOperator
from re6st.node.verifier import Verifier


class NodeControlService:
    """Implements :class:`re6st.node.control_server.ControlService`."""

    def __init__(
        self,
        *,
        verifier: Verifier,
        negotiation: Negotiation,
        operator: TunnelOperator,
        drainage: Drainage,
        gossiping: Gossiping,
        documents: Documents,
        outside: OutsideTester,
        keyring: LanKeyring | None,
        report: Callable[[Event], None],
    ) -> None:
        """``keyring`` is None on a node that needs no keys of LANs. Report to the core through ``report``."""
        self._verifier = verifier
        self._negotiation = negotiation
        self._operator = operator
        self._drainage = drainage
        self._gossiping = gossiping
        self._documents = documents
        self._outside = outside
        self._keyring = keyring
        self._report = report

    def identify(self, der: bytes) -> NodeCertificate:
        """Return who shows the certificate ``der``. Raises :class:`IdentityError`."""
        return self._verifier.identify(der)

    async def tunnel_requested(
        self, caller: NodeCertificate, request: TunnelRequest, local: str, remote: str
    ) -> TunnelOffer | TunnelRefusal:
        """Answer a request that came from address ``remote`` to our address ``local``."""
        peer = self._verifier.open_own(caller, request.record)
        return await self._negotiation.requested(peer, request, local, remote)

    def tunnel_cancelled(self, caller: NodeCertificate, name: str) -> None:
        """End the tunnel called ``name`` that ``caller`` is the other end of; unknown ones are ignored."""
        tunnel = self._operator.find(caller.prefix, name)
        if tunnel is not None:
            self._report(TunnelCancelled(tunnel.number, "the peer ended it"))

    async def tunnel_draining(
        self, caller: NodeCertificate, name: str, draining: Draining
    ) -> DrainProgress | None:
        """Move routes away from the tunnel called ``name``; return None when there is none to ``caller``."""
        tunnel = self._operator.find(caller.prefix, name)
        if tunnel is None:
            return None
        self._report(TunnelDraining(tunnel.number, draining.leaving))
        return DrainProgress(drained=await self._drainage.is_drained_here(tunnel, leaving=draining.leaving))

    def gossip_received(self, caller: NodeCertificate, gossip: Gossip) -> Gossip:
        """Take the caller's records and return some of ours."""
        return self._gossiping.received(caller.prefix, gossip)

    async def reachability_requested(
        self, caller: NodeCertificate, request: ReachabilityRequest
    ) -> ReachabilityAnswer:
        """Say whether ``caller`` is reached at its endpoints."""
        return await self._outside.test(self._verifier.open_own(caller, request.record))

    def document(self, document: Document) -> SignedDocument | None:
        """Return the signed document we hold."""
        return self._documents.signed(document)

    def lan_keys(self) -> LanKeys:
        """Return the keys by which nodes in a LAN know each other, as far as we have them."""
        return self._keyring.keys() if self._keyring is not None else LanKeys()
