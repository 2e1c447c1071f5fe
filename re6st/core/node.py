"""The brain of a node as one object: events go to the parts, what the parts want comes back as effects.

Each part decides one matter and tells the theory of it in its module; here is only which of them an event or
a deadline concerns:

=========================  ======================================================================
who is there               :class:`AddressBook`, :class:`Gossip`
tunnels that there are     :class:`TunnelTable`, :class:`TunnelCourse` (what happens to them)
with whom to have one      :class:`Dialling` (we ask), :class:`Admission` (a peer asks),
                           :class:`Rotation` (for another one), :class:`Reunion` (after a split)
how to get there           :class:`Transports` (UDP or TCP), :class:`Punching` (through two NATs)
what is believed           :class:`Validity` (certificates), :class:`Documents` (of the network)
what the registry is for   :class:`Registration`
=========================  ======================================================================

All share one :class:`Context`: the settings, the moment, the deadlines, and the effects that they ask for.
"""

from __future__ import annotations

import logging
import random as random_module
from ipaddress import IPv6Network

from re6st.core.admission import Admission
from re6st.core.book import AddressBook
from re6st.core.context import Context
from re6st.core.deadlines import Timer
from re6st.core.dialling import Dialling
from re6st.core.documents import Documents
from re6st.core.effects import Drain, Effect, RefuseTunnel, StorePeers
from re6st.core.events import (
    ClockRead,
    Document,
    DocumentFailed,
    Event,
    GossipAnswered,
    GossipFailed,
    NetworkChanged,
    OwnCertificateChanged,
    OwnEndpointsChanged,
    ParametersAccepted,
    PeerNearby,
    PeersLearned,
    RegistryAnswered,
    RegistryFailed,
    RenewalWanted,
    RevocationsAccepted,
    RoutesKnown,
    SlotQuiet,
    Source,
    TrafficCounted,
    TunnelRequested,
    VersionSeen,
)
from re6st.core.gossip import Gossip
from re6st.core.punching import Punching
from re6st.core.registration import WELL_FILLED, Registration
from re6st.core.reunion import Reunion
from re6st.core.rotation import Rotation
from re6st.core.settings import CoreSettings
from re6st.core.snapshots import Counts, PeerSnapshot, TunnelSnapshot
from re6st.core.transports import Transports
from re6st.core.tunnel_course import TunnelCourse, warn_of_force
from re6st.core.tunnels import TunnelTable
from re6st.core.validity import Validity
from re6st.messages import Endpoint, RefusalReason
from re6st.peers import Peer

logger = logging.getLogger(__name__)

RETIRED_DELAY = 120.0
"""Seconds, roughly, for which the peer of a tunnel that was rotated out is not dialled again."""


class NodeCore:
    """Decides what a node does. Pure: no I/O, no clock, no randomness of its own.

    ``now`` is monotonic seconds and must never go backwards. After each call of :meth:`start`,
    :meth:`handle` and :meth:`advance` the caller carries out the effects in their order and calls
    :meth:`advance` when :meth:`next_deadline` has come.
    """

    def __init__(self, settings: CoreSettings, random: random_module.Random) -> None:
        """Draw all randomness from ``random``."""
        self._context = context = Context(settings, random)
        self._tunnels = tunnels = TunnelTable(context)
        self._book = book = AddressBook(
            settings.prefix, settings.book_capacity, random, connected=tunnels.connected
        )
        self._transports = Transports(context, book, tunnels)
        self._punching = Punching(context, tunnels)
        self._dialling = Dialling(context, book, tunnels, self._transports, self._punching)
        self._admission = Admission(context, book, tunnels)
        self._rotation = Rotation(context, tunnels)
        self._reunion = Reunion(context, book, tunnels, self._transports)
        self._gossip = Gossip(context, book, tunnels)
        self._documents = Documents(context, self.peer)
        self._registration = Registration(context, known_peers=lambda: len(book))
        self._validity = Validity(context, book, tunnels)
        self._course = TunnelCourse(
            context,
            tunnels,
            dialling=self._dialling,
            admission=self._admission,
            transports=self._transports,
            gossip=self._gossip,
            registration=self._registration,
            validity=self._validity,
            learn=self._on_peers,
        )
        self._own_endpoints: tuple[Endpoint, ...] = ()

    # -- what the adapter calls -------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        """Begin. Must be called once, before anything else."""
        self._context.now = now
        self._registration.start()
        self._rotation.start()
        self._context.schedule(self._context.settings.sweep_interval, Timer.SWEEP)
        return self._context.take_effects()

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Return what is to be done about ``event``. Unknown handles are ignored."""
        self._context.now = now
        self._dispatch(event)
        return self._conclude()

    def advance(self, now: float) -> list[Effect]:
        """Return what is to be done because time has passed."""
        self._context.now = now
        while (key := self._context.deadlines.pop(now)) is not None:
            self._on_deadline(*key)
        return self._conclude()

    def drain(self, now: float) -> list[Effect]:
        """Return how to have peers send nothing more through this node, which will :meth:`stop`.

        Nothing new is begun. :attr:`drained` tells when it is done.
        """
        self._context.now = now
        self._context.stopping = True
        self._admission.refuse_waiting("this node stops")
        patience = 2 * self._context.settings.leaving_timeout
        for tunnel in self._tunnels:
            if not tunnel.draining:
                self._tunnels.drain(tunnel, "this node stops", patience, Drain.NODE)
            elif tunnel.drain is Drain.PEER:
                self._tunnels.leave(tunnel)
        return self._context.take_effects()

    @property
    def settings(self) -> CoreSettings:
        """How patient it is."""
        return self._context.settings

    @property
    def drained(self) -> bool:
        """Whether no tunnel waits for routes to leave it."""
        return all(tunnel.drained for tunnel in self._tunnels.draining())

    @property
    def stopping(self) -> bool:
        """Whether it was told to drain or to stop."""
        return self._context.stopping

    def stop(self, now: float) -> list[Effect]:
        """Return how to leave in good order: all tunnels end, peers are told, the book is stored.

        Events may still be reported afterwards; nothing new is begun.
        """
        self._context.now = now
        self._context.stopping = True
        self._admission.refuse_waiting("this node stops")
        for tunnel in self._tunnels:
            if tunnel.draining and not tunnel.drained:
                warn_of_force(tunnel)
            self._tunnels.end(tunnel, "this node stops", notify=True)
        self._store()
        return self._context.take_effects()

    def hand_over(self, now: float) -> list[Effect]:
        """Return what is to be saved before another daemon takes over all tunnels."""
        self._context.now = now
        self._context.stopping = True
        self._store()
        return self._context.take_effects()

    def next_deadline(self) -> float | None:
        """Return when :meth:`advance` must be called at the latest (monotonic seconds)."""
        return self._context.deadlines.next()

    # -- questions --------------------------------------------------------------------------------------

    def sample_peers(self, count: int) -> tuple[Peer, ...]:
        """Return up to ``count`` peers for a gossip answer: the latest news, the others random."""
        return self._book.sample(count)

    def peers(self) -> tuple[PeerSnapshot, ...]:
        """Return the address book."""
        neighbours = {peer.prefix for peer in self._tunnels.neighbours()}
        return tuple(
            PeerSnapshot(entry.peer, entry.peer.prefix in neighbours, entry.failures) for entry in self._book
        )

    def peer(self, prefix: IPv6Network) -> Peer | None:
        """Return the newest record of the node that owns ``prefix``, if known."""
        entry = self._book.get(prefix)
        return entry.peer if entry else None

    def tunnels(self) -> tuple[TunnelSnapshot, ...]:
        """Return all tunnels that have not ended."""
        return tuple(
            TunnelSnapshot(
                handle=tunnel.handle,
                peer=tunnel.peer,
                direction=tunnel.direction,
                state=tunnel.state,
                slot=tunnel.slot,
                since=tunnel.life.since,
                cost=tunnel.cost,
                octets=tunnel.octets,
            )
            for tunnel in self._tunnels
        )

    def beyond_narrow_paths(self) -> tuple[Peer, ...]:
        """Return the peers to which large packets do not pass, and that cannot help it."""
        hopeless = self._tunnels.narrow_paths.hopeless
        return tuple(entry.peer for entry in self._book if hopeless(entry.peer.prefix))

    def is_revoked(self, serial: str) -> bool:
        """Say whether the certificate with this serial number (lower-case hexadecimal) was withdrawn."""
        return serial in self._context.revoked

    def counts(self) -> Counts:
        """Return the numbers of tunnels and peers."""
        tunnels = [tunnel for tunnel in self._tunnels if tunnel.life.live]
        return Counts(
            outgoing=sum(tunnel.up and tunnel.outgoing for tunnel in tunnels),
            incoming=sum(tunnel.up and not tunnel.outgoing for tunnel in tunnels),
            attempts=sum(not tunnel.up and tunnel.outgoing for tunnel in tunnels),
            peers=len(self._book),
        )

    # -- after every call -------------------------------------------------------------------------------

    def _conclude(self) -> list[Effect]:
        """Let the parts draw conclusions from what has changed; return all effects since the last call."""
        if not self._context.stopping:
            self._admission.resume()
            self._dialling.pursue(self._rotation.wanted)
            if self._dialling.exhausted and self._tunnels.isolated:
                self._registration.isolated()
        if self._book.changed and self._context.deadlines.get(Timer.STORE) is None:
            self._context.schedule(self._context.settings.store_delay, Timer.STORE)
        return self._context.take_effects()

    def _store(self) -> None:
        stored, forgotten = self._book.take_changes()
        if stored or forgotten:
            self._context.emit(StorePeers(stored, forgotten))

    # -- deadlines --------------------------------------------------------------------------------------

    def _on_deadline(self, timer: Timer, number: int) -> None:  # noqa: C901, PLR0912 (one case per timer)
        match timer:
            case Timer.TUNNEL:
                self._course.due(number)
            case Timer.SLOT:
                self._tunnels.quiet(number)
            case Timer.ADMISSION:
                self._admission.resume()
            case Timer.DIAL:
                self._dialling.wake()
            case Timer.ROTATE:
                retired = self._rotation.due(candidates=self._dialling.candidates())
                if retired is not None:
                    self._dialling.postpone(retired, RETIRED_DELAY)
            case Timer.REUNION:
                if not self._context.stopping:
                    self._reunion.due()
            case Timer.GOSSIP:
                self._gossip.due()
            case Timer.GOSSIP_TIMEOUT:
                self._gossip.timed_out(number)
            case Timer.DOCUMENT:
                self._documents.timed_out(number)
            case Timer.STORE:
                self._store()
            case Timer.REGISTRY:
                self._registration.due(number, well_filled=self._book_well_filled())
            case Timer.REGISTRY_TIMEOUT:
                self._registration.timed_out(number)
            case Timer.SWEEP:
                self._sweep()

    def _sweep(self) -> None:
        self._validity.sweep()
        self._transports.sweep()
        self._course.sweep()
        self._registration.sweep()
        self._dialling.wake()

    def _book_well_filled(self) -> bool:
        reachable = sum(entry.peer.reachable for entry in self._book)
        return reachable >= WELL_FILLED * self._context.settings.outgoing

    # -- events -----------------------------------------------------------------------------------------

    def _dispatch(self, event: Event) -> None:  # noqa: C901, PLR0912 (one case per kind of event)
        match event:
            case PeersLearned():
                self._on_peers(event)
            case PeerNearby():
                if not self._context.stopping:
                    self._reunion.met(event.prefix)
            case TunnelRequested():
                self._on_requested(event)
            case TrafficCounted():
                self._rotation.count(event.octets)
            case RoutesKnown():
                self._reunion.routes_changed(event.prefixes)
            case SlotQuiet():
                self._tunnels.quiet(event.slot)
            case GossipAnswered():
                self._gossip.answered(event.peer)
            case GossipFailed():
                self._gossip.failed(event.peer)
            case VersionSeen() | DocumentFailed() | ParametersAccepted() | RevocationsAccepted():
                self._on_document(event)
            case RegistryAnswered():
                self._registration.answered(event.operation)
                self._dialling.reached()
            case RegistryFailed():
                self._registration.failed(event.operation, final=event.final)
            case ClockRead() | OwnEndpointsChanged() | OwnCertificateChanged() | RenewalWanted():
                self._on_self(event)
            case NetworkChanged():
                self._on_network_changed()
            case _:
                self._course.handle(event)

    def _on_network_changed(self) -> None:
        """Failures of before mean nothing any more."""
        self._dialling.network_changed()
        self._transports.network_changed()
        self._punching.network_changed()
        self._tunnels.narrow_paths.network_changed()
        self._registration.network_changed()
        self._dialling.wake()

    def _on_peers(self, event: PeersLearned) -> None:
        saved = event.source is Source.BOOK
        # What the registry and the own disk know is no news to others.
        news = event.source not in {Source.BOOK, Source.REGISTRY}
        learned = False
        for peer in event.peers:
            if self._context.valid(peer):
                learned |= self._book.learn(peer, saved=saved, news=news)
        if learned:
            self._dialling.wake()

    def _on_requested(self, event: TunnelRequested) -> None:
        if self._context.stopping:
            detail = "this node stops"
            self._context.emit(RefuseTunnel(event.request, RefusalReason.UNAVAILABLE, detail))
            return
        self._admission.decide(event)
        self._dialling.wake()

    def _on_document(
        self, event: VersionSeen | DocumentFailed | ParametersAccepted | RevocationsAccepted
    ) -> None:
        match event:
            case VersionSeen():
                if event.peer is None:
                    self._registration.seen(event.document, event.version)
                self._documents.seen(event.peer, event.document, event.version)
            case DocumentFailed():
                self._documents.failed(event.document)
            case ParametersAccepted():
                self._gossip.retime(event.parameters.gossip_interval)
                self._tunnels.hello_interval = event.parameters.hello_interval
                self._documents.accepted(Document.PARAMETERS, event.parameters.version)
                self._gossip.flood()
            case RevocationsAccepted():
                self._context.revoked = event.serials
                self._documents.accepted(Document.REVOCATIONS, event.version)
                self._sweep()
                self._gossip.flood()

    def _on_self(
        self, event: ClockRead | OwnEndpointsChanged | OwnCertificateChanged | RenewalWanted
    ) -> None:
        match event:
            case ClockRead():
                self._context.clock_offset = event.offset
                self._sweep()
            case OwnEndpointsChanged():
                if event.endpoints != self._own_endpoints:
                    self._own_endpoints = event.endpoints
                    self._punching.needed = not event.endpoints
                    self._registration.publish()
                    self._gossip.moved()
            case RenewalWanted():
                self._registration.renewal_wanted()
            case OwnCertificateChanged():
                self._context.own_expires = event.not_after
                self._registration.certificate_changed(
                    event.not_before, event.not_after, superseded=event.superseded
                )
                self._registration.publish()
                self._sweep()
