"""Exchanges peer records: as the core wants it, as peers ask for it, and with nodes met in a LAN.

Each exchange gives the own record and some of the address book for as much of the other's. Everything
received is verified before the core hears of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from ipaddress import IPv6Network
from typing import Protocol

from re6st.core.effects import ExchangeGossip
from re6st.core.events import Event, GossipAnswered, GossipFailed, PeerNearby, PeersLearned, Source
from re6st.errors import IdentityError, ProtocolError
from re6st.messages import Endpoint, Gossip
from re6st.node.control_client import ControlClient
from re6st.node.document_exchange import DocumentExchange
from re6st.node.documents import Documents
from re6st.node.own_record import OwnRecord
from re6st.node.tasks import Tasks
from re6st.node.verifier import Verifier
from re6st.node.whereabouts import DialOrder
from re6st.peers import Peer

logger = logging.getLogger(__name__)

SAMPLE = 20
"""Peer records in one answer to gossip."""

MOST_MEETINGS = 4
"""Nodes in LANs that this node gets to know at a time."""


class AddressBook(Protocol):
    """What gossip needs of the address book; see :class:`re6st.core.NodeCore`."""

    def sample_peers(self, count: int) -> tuple[Peer, ...]:
        """Return up to ``count`` peers for a gossip answer."""

    def peer(self, prefix: IPv6Network) -> Peer | None:
        """Return the newest record of the node that owns ``prefix``, if known."""


class Gossiping:
    """This node's side of all exchanges of peer records."""

    def __init__(
        self,
        *,
        book: AddressBook,
        own: OwnRecord,
        verifier: Verifier,
        documents: Documents,
        document_exchange: DocumentExchange,
        client: ControlClient,
        underlay: DialOrder,
        tasks: Tasks,
        report: Callable[[Event], None],
    ) -> None:
        """Report to the core through ``report``, and versions of documents to ``document_exchange``."""
        self._book = book
        self._own = own
        self._verifier = verifier
        self._documents = documents
        self._document_exchange = document_exchange
        self._client = client
        self._underlay = underlay
        self._tasks = tasks
        self._report = report
        self._meetings: set[IPv6Network] = set()
        """With whom in a LAN contact is being made."""

    def received(self, sender: IPv6Network, gossip: Gossip) -> Gossip:
        """Take the records of the node ``sender`` and return some of ours."""
        self._take(sender, gossip)
        return self._make(self._book.sample_peers(SAMPLE))

    def exchange(self, effect: ExchangeGossip) -> None:
        """Exchange peer records with a neighbour."""
        self._tasks.spawn(self._exchange(effect), f"gossip with {effect.peer.name}")

    async def _exchange(self, effect: ExchangeGossip) -> None:
        try:
            endpoints = [
                self._client.overlay_endpoint(effect.peer),
                *self._underlay.dial_order(effect.peer.endpoints),
            ]
            gossip = self._make(effect.records)
            answer = await self._client.exchange_gossip(effect.peer, gossip, endpoints)
        except (IdentityError, ProtocolError) as error:
            self._report(GossipFailed(effect.peer.prefix, str(error)))
            return
        self._take(effect.peer.prefix, answer)
        self._report(GossipAnswered(effect.peer.prefix))

    def meet(self, prefix: IPv6Network, endpoint: Endpoint) -> None:
        """Get to know the node with ``prefix`` that seems to be at ``endpoint``, in a LAN of this host."""
        self._tasks.spawn(self._meet(prefix, endpoint), f"meet {prefix}")

    async def _meet(self, prefix: IPv6Network, endpoint: Endpoint) -> None:
        if prefix in self._meetings or len(self._meetings) >= MOST_MEETINGS:
            return
        peer = self._book.peer(prefix) or Peer(prefix, name=str(prefix), sequence=0)
        self._meetings.add(prefix)
        try:
            answer = await self._client.meet(peer, endpoint, self._make(self._book.sample_peers(SAMPLE)))
        except (IdentityError, ProtocolError) as error:
            logger.debug("There is no such node: %s", error)
            return
        finally:
            self._meetings.discard(prefix)
        self._take(prefix, answer)
        self._report(PeerNearby(prefix))

    def _make(self, peers: Iterable[Peer]) -> Gossip:
        return Gossip(
            records=(self._own.signed, *(peer.signed for peer in peers)),
            parameters_version=self._documents.parameters.version,
            revocations_version=self._documents.revocations.version,
        )

    def _take(self, sender: IPv6Network, gossip: Gossip) -> None:
        peers = self._verifier.open_all(gossip.records)
        if peers:
            self._report(PeersLearned(peers, Source.GOSSIP))
        self._document_exchange.seen(sender, gossip.parameters_version, gossip.revocations_version)
