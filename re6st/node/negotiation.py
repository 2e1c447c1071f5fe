"""Agrees on tunnels with peers, in both roles.

    dialer                                              listener
    RequestTunnel (core)
      [finds out its own hole]
      POST /v1/tunnels  --------------------------->    TunnelRequested (core decides)
                                                        OfferTunnel: listens, [opens its router for the hole]
      TunnelOffered (core) <-- 200 TunnelOffer ------
      TunnelRefused (core) <-- 409 TunnelRefusal ----   RefuseTunnel

The request of a peer waits (:class:`Pending`) until the core has decided. What is in brackets happens when
neither end can be reached (:mod:`re6st.node.puncher`). Records are verified before the core hears of them,
and nothing is sent to an endpoint that a peer may not name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from re6st.config import NodeConfig
from re6st.core.effects import CancelRequest, OfferTunnel, RefuseTunnel, RequestTunnel
from re6st.core.events import (
    Event,
    PeersLearned,
    Source,
    TunnelCancelled,
    TunnelOffered,
    TunnelRefused,
    TunnelRequested,
    TunnelRequestFailed,
)
from re6st.errors import IdentityError, ProtocolError, Re6stError
from re6st.messages import (
    PROTOCOL_VERSION,
    Endpoint,
    Hole,
    RefusalReason,
    Transport,
    TunnelOffer,
    TunnelRefusal,
    TunnelRequest,
)
from re6st.node.control_client import ControlClient
from re6st.node.document_exchange import DocumentExchange
from re6st.node.documents import Documents
from re6st.node.holes import Burrow
from re6st.node.own_record import OwnRecord
from re6st.node.peer_notices import PeerNotices
from re6st.node.port_share import PortShare
from re6st.node.puncher import Puncher
from re6st.node.tasks import Tasks
from re6st.node.tunnel import Tunnel
from re6st.node.tunnel_operator import TunnelOperator
from re6st.node.underlay import Listener
from re6st.node.verifier import Verifier
from re6st.node.whereabouts import Whereabouts
from re6st.peers import Peer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pending:
    """A tunnel request of a peer that waits for the core's decision."""

    peer: Peer
    answer: asyncio.Future[TunnelOffer | TunnelRefusal]
    local: str
    remote: str
    hole: Hole | None = None
    """Through which the peer is to be dialled."""


class Underlay(Protocol):
    """What must be known of the network below; see :mod:`re6st.node.reachability`."""

    async def listener_endpoints(
        self, peer: Peer, listener: Listener, local: str, remote: str
    ) -> tuple[Endpoint, ...]:
        """Return where ``peer``, which came from ``remote`` to ``local``, reaches our ``listener``."""

    def usable(self, endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
        """Return those of ``endpoints``, which a peer has offered, to which packets may be sent."""


class Negotiation:
    """All requests for tunnels, those of peers and our own."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        boot_id: str,
        own: OwnRecord,
        verifier: Verifier,
        documents: Documents,
        document_exchange: DocumentExchange,
        client: ControlClient,
        whereabouts: Whereabouts,
        underlay: Underlay,
        operator: TunnelOperator,
        notices: PeerNotices,
        port_share: PortShare,
        puncher: Puncher,
        tasks: Tasks,
        report: Callable[[Event], None],
    ) -> None:
        """Report to the core through ``report``. ``boot_id`` is that of this run, as peers know it."""
        self._config = config
        self._boot_id = boot_id
        self._own = own
        self._verifier = verifier
        self._documents = documents
        self._document_exchange = document_exchange
        self._client = client
        self._whereabouts = whereabouts
        self._underlay = underlay
        self._operator = operator
        self._notices = notices
        self._port_share = port_share
        self._puncher = puncher
        self._tasks = tasks
        self._report = report
        self._pending: dict[int, Pending] = {}
        self._last_request = 0
        self._requests: set[int] = set()
        """Tunnels whose request is under way and still wanted."""

    # -- as the listener --------------------------------------------------------------------------------

    async def requested(
        self, peer: Peer, request: TunnelRequest, local: str, remote: str
    ) -> TunnelOffer | TunnelRefusal:
        """Have the core decide on a request that came from address ``remote`` to our address ``local``."""
        self._document_exchange.seen(peer.prefix, request.parameters_version, request.revocations_version)
        self._last_request += 1
        number = self._last_request
        answer: asyncio.Future[TunnelOffer | TunnelRefusal] = asyncio.get_running_loop().create_future()
        pending = Pending(peer, answer, local, remote, request.hole)
        self._pending[number] = pending
        try:
            self._report(PeersLearned((peer,), Source.DIRECT))
            self._report(
                TunnelRequested(
                    request=number,
                    peer=peer,
                    boot_id=request.boot_id,
                    protocol=request.protocol,
                    drivers=request.drivers,
                    transports=request.transports,
                    mtu=min(request.mtu, self._config.tunnel_mtu),
                    replace=request.replace,
                    isolated=request.isolated,
                    fragments=request.fragments,
                )
            )
            return await pending.answer
        finally:
            self._pending.pop(number, None)

    def offer(self, effect: OfferTunnel) -> None:
        """Listen for the peer, then answer its request."""
        tunnel = self._operator.expect(effect)
        self._tasks.spawn(self._offer(effect, tunnel), f"listen for {effect.peer.name}")

    async def _offer(self, effect: OfferTunnel, tunnel: Tunnel) -> None:
        pending = self._pending.get(effect.request)
        hole = pending.hole if pending is not None else None
        endpoints: tuple[Endpoint, ...] = ()
        try:
            if hole is not None:
                endpoints = await self._puncher.open_for(tunnel, hole)
            listening = await self._operator.listen(
                tunnel, effect.mtu, effect.transport, fragments=effect.fragments
            )
            if effect.transport is Transport.TCP:
                self._port_share.expect(effect.port, listening.key)
            if pending is not None and hole is None:
                endpoints = await self._underlay.listener_endpoints(
                    effect.peer, Listener(effect.transport, effect.port), pending.local, pending.remote
                )
            if not endpoints:
                raise ProtocolError(f"no endpoint at which {effect.peer.name} could reach this node")
        except Re6stError as error:
            logger.warning("Cannot offer a tunnel to %s: %s", effect.peer.name, error)
            self._report(TunnelCancelled(effect.tunnel, str(error)))
            self._answer(effect.request, TunnelRefusal(reason=RefusalReason.UNAVAILABLE))
            return
        self._answer(
            effect.request,
            TunnelOffer(
                tunnel=listening.name,
                boot_id=self._boot_id,
                record=self._own.signed,
                driver=listening.driver,
                endpoints=endpoints,
                key=listening.key,
                mtu=listening.mtu,
                fragments=effect.fragments,
                parameters_version=self._documents.parameters.version,
                revocations_version=self._documents.revocations.version,
            ),
        )
        if hole is not None:
            await self._puncher.keep_open(tunnel, hole)

    def refuse(self, effect: RefuseTunnel) -> None:
        """Answer a request with a refusal."""
        pending = self._pending.get(effect.request)
        asking = pending.peer.name if pending is not None else "a peer"
        logger.info("Refused %s a tunnel (%s): %s", asking, effect.reason.value, effect.detail)
        hints = tuple(peer.signed for peer in effect.hints)
        self._answer(
            effect.request, TunnelRefusal(reason=effect.reason, detail=effect.detail[:256], hints=hints)
        )

    def _answer(self, request: int, answer: TunnelOffer | TunnelRefusal) -> None:
        pending = self._pending.get(request)
        if pending is not None and not pending.answer.done():
            pending.answer.set_result(answer)

    # -- as the dialer ----------------------------------------------------------------------------------

    def request(self, effect: RequestTunnel) -> None:
        """Ask a peer for a tunnel."""
        self._requests.add(effect.tunnel)
        self._tasks.spawn(self._request(effect), f"ask {effect.peer.name} for a tunnel")

    def cancel_request(self, effect: CancelRequest) -> None:
        """Forget a request that is under way; an offer that comes all the same is declined."""
        self._requests.discard(effect.tunnel)

    async def _request(self, effect: RequestTunnel) -> None:
        with contextlib.ExitStack() as stack:
            own: Burrow | None = None
            if effect.punched:
                try:
                    own = await self._puncher.observe()
                except ProtocolError as error:
                    self._requests.discard(effect.tunnel)
                    self._report(TunnelRequestFailed(effect.tunnel, str(error)))
                    return
                stack.callback(own.close)
            offered = await self._negotiate(effect, own)
        if offered is not None:
            self._report(offered)

    async def _negotiate(self, effect: RequestTunnel, own: Burrow | None) -> TunnelOffered | None:
        """Ask for a tunnel, through the hole ``own`` if it is given. Return what was offered, if anything."""
        request = TunnelRequest(
            protocol=PROTOCOL_VERSION,
            boot_id=self._boot_id,
            record=self._own.signed,
            drivers=("openvpn",),
            transports=(effect.transport,),
            mtu=self._config.tunnel_mtu,
            replace=effect.replace,
            isolated=effect.isolated,
            fragments=effect.fragments,
            hole=own.hole if own is not None else None,
            parameters_version=self._documents.parameters.version,
            revocations_version=self._documents.revocations.version,
        )
        try:
            if own is None:
                endpoints = self._whereabouts.endpoints(effect.peer)
            else:
                endpoints = (self._client.overlay_endpoint(effect.peer),)
            answer = await self._client.request_tunnel(effect.peer, endpoints, request)
            if isinstance(answer, TunnelOffer):
                peer = self._verifier.open_own(effect.peer, answer.record)
                answer = self._dialable(answer, peer)
        except (IdentityError, ProtocolError) as error:
            self._requests.discard(effect.tunnel)
            self._report(TunnelRequestFailed(effect.tunnel, str(error)))
            return None
        if effect.tunnel not in self._requests:
            if isinstance(answer, TunnelOffer):
                self._notices.end(effect.peer, answer.tunnel)
            return None
        self._requests.discard(effect.tunnel)
        if isinstance(answer, TunnelRefusal):
            hints = self._verifier.open_all(answer.hints)
            self._report(TunnelRefused(effect.tunnel, answer.reason, answer.detail, hints))
            return None
        self._document_exchange.seen(peer.prefix, answer.parameters_version, answer.revocations_version)
        return TunnelOffered(effect.tunnel, answer, peer, own.port if own is not None else 0)

    def _dialable(self, offer: TunnelOffer, peer: Peer) -> TunnelOffer:
        """Return ``offer`` with those endpoints that may be dialled: a peer does not choose freely where we
        send packets. Raises :class:`ProtocolError` when none is left.
        """
        endpoints = self._underlay.usable(offer.endpoints)
        if not endpoints:
            raise ProtocolError(f"{peer.name} offers no endpoint that can be tried from here")
        return msgspec.structs.replace(offer, endpoints=endpoints)
