"""What this node and its peers say to each other: tunnel requests, gossip, documents.

Both directions meet here: calls of peers that the control server hands over, and effects of the core
that the control client carries out. Everything received is verified before the core hears of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Protocol

import msgspec

from re6st.config import NodeConfig
from re6st.core.effects import (
    CancelRequest,
    ExchangeGossip,
    FetchDocument,
    OfferTunnel,
    RefuseTunnel,
    RequestTunnel,
)
from re6st.core.events import (
    Document,
    DocumentFailed,
    Event,
    GossipAnswered,
    GossipFailed,
    ParametersAccepted,
    PeerNearby,
    PeersLearned,
    RevocationsAccepted,
    Source,
    TunnelCancelled,
    TunnelDraining,
    TunnelOffered,
    TunnelRefused,
    TunnelRequested,
    TunnelRequestFailed,
    VersionSeen,
)
from re6st.errors import IdentityError, ProtocolError, Re6stError, UntrustedError
from re6st.identity import NodeCertificate
from re6st.messages import (
    PROTOCOL_VERSION,
    Draining,
    DrainProgress,
    Endpoint,
    Gossip,
    Hole,
    LanKeys,
    ReachabilityAnswer,
    ReachabilityRequest,
    RefusalReason,
    SignedDocument,
    SignedPeerRecord,
    Transport,
    TunnelOffer,
    TunnelRefusal,
    TunnelRequest,
)
from re6st.node.control_client import ControlClient
from re6st.node.documents import Documents
from re6st.node.holes import Burrow
from re6st.node.lan import LanKeyring
from re6st.node.outside import OutsideTester
from re6st.node.own_record import OwnRecord
from re6st.node.port_share import PortShare
from re6st.node.puncher import Puncher
from re6st.node.tasks import Tasks
from re6st.node.tunnels import Tunnel, TunnelOperator
from re6st.node.underlay import Listener
from re6st.node.verifier import Verifier
from re6st.peers import Peer

logger = logging.getLogger(__name__)

SAMPLE = 20
"""Peer records in one answer to gossip."""

ASKED_FOR_KEYS = 8
"""Members that are asked for keys of LANs when the registry has not given them."""

MOST_MEETINGS = 4
"""Nodes in LANs that this node gets to know at a time."""

CANCEL_TIMEOUT = 6.0
"""Seconds that telling a peer about the end of a tunnel may take: routes may have to be found anew before."""

CANCEL_ATTEMPT = 1.5
"""Seconds of one attempt at it. A connection that began before routes had changed is best begun anew."""

DRAIN_ATTEMPT = 2.0
"""Seconds of one question how far a peer is with a tunnel that is drained."""

CANCEL_PAUSE = 0.2
"""Seconds between two attempts."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A tunnel request of a peer that waits for the core's decision."""

    answer: asyncio.Future[TunnelOffer | TunnelRefusal]
    local: str
    remote: str
    hole: Hole | None = None
    """Through which the peer is to be dialled."""


class Underlay(Protocol):
    """What correspondence must know of the network below; see :mod:`re6st.node.reachability`."""

    async def listener_endpoints(
        self, peer: Peer, listener: Listener, local: str, remote: str
    ) -> tuple[Endpoint, ...]:
        """Return where ``peer``, which came from ``remote`` to ``local``, reaches our ``listener``."""

    def dial_order(self, endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
        """Return those of a peer's ``endpoints`` that can be tried from here, best first."""

    def usable(self, endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
        """Return those of ``endpoints``, which a peer has offered, to which packets may be sent."""


class Correspondence:
    """Talks with peers. Implements :class:`re6st.node.control_server.ControlService`."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        boot_id: str,
        verifier: Verifier,
        documents: Documents,
        own: OwnRecord,
        client: ControlClient,
        underlay: Underlay,
        tasks: Tasks,
        report: Callable[[Event], None],
        sample: Callable[[int], tuple[Peer, ...]],
        outside: OutsideTester,
        port_share: PortShare,
        puncher: Puncher,
        known: Callable[[], Iterable[Peer]],
    ) -> None:
        """Report to the core through ``report``; ``sample`` draws random peers from its address book, and
        ``known`` tells all of them, best known ones first.
        """
        self._config = config
        self.boot_id = boot_id
        """Of this run of the daemon, as peers know it."""
        self._verifier = verifier
        self._documents = documents
        self._own = own
        self._client = client
        self._underlay = underlay
        self._tasks = tasks
        self._report = report
        self._sample = sample
        self._outside = outside
        self._port_share = port_share
        self._puncher = puncher
        self._known = known
        self._pending: dict[int, Pending] = {}
        self._last_request = 0
        self._meetings: set[IPv6Network] = set()
        """With whom in a LAN contact is being made."""
        self._requests: set[int] = set()
        """Tunnels whose request is under way and still wanted."""
        self.operator: TunnelOperator
        """Set once by the daemon: the two need each other."""
        self.nearby: Callable[[IPv6Network], Endpoint | None] = lambda prefix: None
        """Tells where in a LAN of this host a node is; set by the daemon."""
        self.keyring: LanKeyring | None = None
        """The network's keys of LANs, if this node needs them; set by the daemon."""

    # -- what peers ask (ControlService) ----------------------------------------------------------------

    def identify(self, der: bytes) -> NodeCertificate:
        """Return who shows the certificate ``der``. Raises :class:`IdentityError`."""
        return self._verifier.identify(der)

    async def tunnel_requested(
        self, caller: NodeCertificate, request: TunnelRequest, local: str, remote: str
    ) -> TunnelOffer | TunnelRefusal:
        """Have the core decide on a request that came from address ``remote`` to our address ``local``."""
        peer = self._open_own(caller, request.record)
        self._see_versions(peer, request.parameters_version, request.revocations_version)
        self._last_request += 1
        number = self._last_request
        pending = Pending(asyncio.get_running_loop().create_future(), local, remote, request.hole)
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
                )
            )
            return await pending.answer
        finally:
            self._pending.pop(number, None)

    def tunnel_cancelled(self, caller: NodeCertificate, name: str) -> None:
        """End the tunnel called ``name`` that ``caller`` is the other end of; unknown ones are ignored."""
        tunnel = self.operator.find(caller.prefix, name)
        if tunnel is not None:
            self._report(TunnelCancelled(tunnel.number, "the peer ended it"))

    def tunnel_draining(self, caller: NodeCertificate, name: str, draining: Draining) -> DrainProgress | None:
        """Move routes away from the tunnel called ``name``; return None when there is none to ``caller``."""
        tunnel = self.operator.find(caller.prefix, name)
        if tunnel is None:
            return None
        self._report(TunnelDraining(tunnel.number, draining.leaving))
        return DrainProgress(drained=self.operator.is_drained(tunnel, leaving=draining.leaving))

    async def drain_at_peer(self, peer: Peer, name: str, *, leaving: bool) -> bool | None:
        """Have ``peer`` move its routes away from the tunnel ``name``; return whether none is left there.

        Return None when it does not say: it is not reached, or does not know the message.
        """
        try:
            async with asyncio.timeout(DRAIN_ATTEMPT):
                endpoints = self._underlay.dial_order(peer.endpoints)
                draining = Draining(leaving=leaving)
                return (await self._client.drain_tunnel(peer, name, draining, endpoints)).drained
        except (IdentityError, ProtocolError, TimeoutError) as error:
            logger.debug("%s does not say whether it has drained the tunnel: %s", peer.name, error)
            return None

    def gossip_received(self, caller: NodeCertificate, gossip: Gossip) -> Gossip:
        """Take the caller's records and return some of ours."""
        self._take_gossip(caller, gossip)
        return self._gossip(self._sample(SAMPLE))

    async def reachability_requested(
        self, caller: NodeCertificate, request: ReachabilityRequest
    ) -> ReachabilityAnswer:
        """Say whether ``caller`` is reached at its endpoints."""
        return await self._outside.test(self._open_own(caller, request.record))

    def document(self, document: Document) -> SignedDocument | None:
        """Return the signed document we hold."""
        return self._documents.signed(document)

    def lan_keys(self) -> LanKeys:
        """Return the keys by which nodes in a LAN know each other, as far as we have them."""
        return self.keyring.keys() if self.keyring is not None else LanKeys()

    def _open_own(self, caller: NodeCertificate, record: SignedPeerRecord) -> Peer:
        """Return the peer of a record that must be the caller's own."""
        peer = self._verifier.open(record)
        if peer.prefix != caller.prefix:
            raise UntrustedError(f"{caller.name} shows the record of {peer.name} as its own")
        return peer

    def _see_versions(self, peer: Peer | NodeCertificate, parameters: int, revocations: int) -> None:
        for document, version in ((Document.PARAMETERS, parameters), (Document.REVOCATIONS, revocations)):
            if version > self._documents.version(document):
                self._report(VersionSeen(peer.prefix, document, version))

    # -- the core's answers -----------------------------------------------------------------------------

    def offer(self, effect: OfferTunnel) -> None:
        """Listen for the peer, then answer its request."""
        tunnel = self.operator.expect(effect)
        self._tasks.spawn(self._offer(effect, tunnel), f"listen for {effect.peer.name}")

    async def _offer(self, effect: OfferTunnel, tunnel: Tunnel) -> None:
        pending = self._pending.get(effect.request)
        hole = pending.hole if pending is not None else None
        endpoints: tuple[Endpoint, ...] = ()
        try:
            if hole is not None:
                endpoints = await self._puncher.open_for(tunnel, hole)
            listening = await self.operator.listen(tunnel, effect.mtu, effect.transport)
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
                boot_id=self.boot_id,
                record=self._own.signed,
                driver=listening.driver,
                endpoints=endpoints,
                key=listening.key,
                mtu=listening.mtu,
                parameters_version=self._documents.parameters.version,
                revocations_version=self._documents.revocations.version,
            ),
        )
        if hole is not None:
            await self._puncher.keep_open(tunnel, hole)

    def refuse(self, effect: RefuseTunnel) -> None:
        """Answer a request with a refusal."""
        logger.info("Refused a tunnel: %s %s", effect.reason.value, effect.detail)
        hints = tuple(peer.signed for peer in effect.hints)
        self._answer(
            effect.request, TunnelRefusal(reason=effect.reason, detail=effect.detail[:256], hints=hints)
        )

    def _answer(self, request: int, answer: TunnelOffer | TunnelRefusal) -> None:
        pending = self._pending.get(request)
        if pending is not None and not pending.answer.done():
            pending.answer.set_result(answer)

    # -- what the core asks of peers --------------------------------------------------------------------

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
            boot_id=self.boot_id,
            record=self._own.signed,
            drivers=("openvpn",),
            transports=(effect.transport,),
            mtu=self._config.tunnel_mtu,
            replace=effect.replace,
            isolated=effect.isolated,
            hole=own.hole if own is not None else None,
            parameters_version=self._documents.parameters.version,
            revocations_version=self._documents.revocations.version,
        )
        try:
            if own is None:
                endpoints = self._endpoints(effect.peer)
            else:
                endpoints = (self._client.overlay_endpoint(effect.peer),)
            answer = await self._client.request_tunnel(effect.peer, endpoints, request)
            if isinstance(answer, TunnelOffer):
                peer = self._verifier.open(answer.record)
                if peer.prefix != effect.peer.prefix:
                    raise UntrustedError(f"{effect.peer.name} answered with the record of {peer.name}")
                answer = self._dialable(answer, peer)
        except (IdentityError, ProtocolError) as error:
            self._requests.discard(effect.tunnel)
            self._report(TunnelRequestFailed(effect.tunnel, str(error)))
            return None
        if effect.tunnel not in self._requests:
            if isinstance(answer, TunnelOffer):
                await self._cancel_at_peer(effect.peer, answer.tunnel)
            return None
        self._requests.discard(effect.tunnel)
        if isinstance(answer, TunnelRefusal):
            hints = self._verifier.open_all(answer.hints)
            self._report(TunnelRefused(effect.tunnel, answer.reason, answer.detail, hints))
            return None
        self._see_versions(peer, answer.parameters_version, answer.revocations_version)
        return TunnelOffered(effect.tunnel, answer, peer, own.port if own is not None else 0)

    def _endpoints(self, peer: Peer) -> tuple[Endpoint, ...]:
        """Return where to ask ``peer`` for a tunnel, best first."""
        nearby = self.nearby(peer.prefix)
        published = self._underlay.dial_order(peer.endpoints)
        return published if nearby is None else (nearby, *(one for one in published if one != nearby))

    def _dialable(self, offer: TunnelOffer, peer: Peer) -> TunnelOffer:
        """Return ``offer`` with those endpoints that may be dialled: a peer does not choose freely where we
        send packets. Raises :class:`ProtocolError` when none is left.
        """
        endpoints = self._underlay.usable(offer.endpoints)
        if not endpoints:
            raise ProtocolError(f"{peer.name} offers no endpoint that can be tried from here")
        return msgspec.structs.replace(offer, endpoints=endpoints)

    def cancel_at_peer(self, peer: Peer, name: str) -> None:
        """Tell ``peer`` that the tunnel ``name`` ends; a peer that cannot be told will notice."""
        self._tasks.spawn(self._cancel_at_peer(peer, name), f"tell {peer.name} that a tunnel ends")

    async def _cancel_at_peer(self, peer: Peer, name: str) -> None:
        with contextlib.suppress(IdentityError, TimeoutError):
            async with asyncio.timeout(CANCEL_TIMEOUT):
                while True:
                    with contextlib.suppress(ProtocolError, TimeoutError):
                        async with asyncio.timeout(CANCEL_ATTEMPT):
                            endpoints = self._underlay.dial_order(peer.endpoints)
                            await self._client.cancel_tunnel(peer, name, endpoints)
                            return
                    await asyncio.sleep(CANCEL_PAUSE)

    # -- gossip and documents ---------------------------------------------------------------------------

    def exchange(self, effect: ExchangeGossip) -> None:
        """Exchange peer records with a neighbour."""
        self._tasks.spawn(self._exchange(effect), f"gossip with {effect.peer.name}")

    async def _exchange(self, effect: ExchangeGossip) -> None:
        try:
            endpoints = [
                self._client.overlay_endpoint(effect.peer),
                *self._underlay.dial_order(effect.peer.endpoints),
            ]
            gossip = self._gossip(effect.records)
            answer = await self._client.exchange_gossip(effect.peer, gossip, endpoints)
        except (IdentityError, ProtocolError) as error:
            self._report(GossipFailed(effect.peer.prefix, str(error)))
            return
        self._take_gossip(effect.peer, answer)
        self._report(GossipAnswered(effect.peer.prefix))

    def _gossip(self, peers: Iterable[Peer]) -> Gossip:
        records = [self._own.signed, *(peer.signed for peer in peers)]
        return Gossip(
            records=tuple(records),
            parameters_version=self._documents.parameters.version,
            revocations_version=self._documents.revocations.version,
        )

    def _take_gossip(self, sender: Peer | NodeCertificate, gossip: Gossip) -> None:
        peers = self._verifier.open_all(gossip.records)
        if peers:
            self._report(PeersLearned(peers, Source.GOSSIP))
        self._see_versions(sender, gossip.parameters_version, gossip.revocations_version)

    def meet(self, prefix: IPv6Network, endpoint: Endpoint) -> None:
        """Get to know the node with ``prefix`` that seems to be at ``endpoint``, in a LAN of this host."""
        self._tasks.spawn(self._meet(prefix, endpoint), f"meet {prefix}")

    async def _meet(self, prefix: IPv6Network, endpoint: Endpoint) -> None:
        if prefix in self._meetings or len(self._meetings) >= MOST_MEETINGS:
            return
        known = next((peer for peer in self._known() if peer.prefix == prefix), None)
        peer = known or Peer(prefix, name=str(prefix), sequence=0)
        self._meetings.add(prefix)
        try:
            answer = await self._client.meet(peer, endpoint, self._gossip(self._sample(SAMPLE)))
        except (IdentityError, ProtocolError) as error:
            logger.debug("There is no such node: %s", error)
            return
        finally:
            self._meetings.discard(prefix)
        self._take_gossip(peer, answer)
        self._report(PeerNearby(prefix))

    async def ask_for_lan_keys(self) -> AsyncIterator[LanKeys]:
        """Yield the keys that a few other members have: those in our LAN first, then random ones:
        most may be without LAN, and have none.
        """
        known = list(self._known())
        random.shuffle(known)
        known.sort(key=lambda peer: self.nearby(peer.prefix) is None)
        for peer in known[:ASKED_FOR_KEYS]:
            try:
                yield await self._client.fetch_lan_keys(peer, self._endpoints(peer))
            except (IdentityError, ProtocolError) as error:
                logger.debug("No keys of LANs from %s: %s", peer.name, error)

    async def fetch_from(self, peer: Peer, effect: FetchDocument) -> None:
        """Get a newer document from ``peer``."""
        try:
            newer = self.accept(effect.document, await self._client.fetch_document(peer, effect.document))
        except (IdentityError, ProtocolError) as error:
            self._report(DocumentFailed(effect.document, str(error)))
            return
        if not newer:
            self._report(DocumentFailed(effect.document, f"{peer.name} has no newer one"))

    def accept(self, document: Document, signed: SignedDocument) -> bool:
        """Put a document in force if it is newer; return whether it was.

        Raises :class:`IdentityError` or :class:`ProtocolError`.
        """
        if not self._documents.accept(document, signed):
            return False
        if document is Document.PARAMETERS:
            self._report(ParametersAccepted(self._documents.parameters))
        else:
            self._report(RevocationsAccepted(self._documents.revocations.version, self._documents.revoked))
        return True
