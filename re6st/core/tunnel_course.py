"""What happens to a tunnel in its course, and which parts of the brain each step concerns.

:mod:`re6st.core.tunnels` knows how a tunnel lives, and dialling, admission, transports, gossip, registration
and validity know what they want. Here an event of one tunnel becomes a step of its life, and each of them is
told that has a conclusion to draw: a peer that did not connect is dialled again only later, one that fell
silent has to learn if this node has moved, and with a tunnel the registry is not needed in a hurry.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from re6st.core.admission import Admission
from re6st.core.context import Context
from re6st.core.dialling import Dialling
from re6st.core.effects import CloseTunnel, Drain
from re6st.core.events import (
    PeersLearned,
    Source,
    TunnelAdopted,
    TunnelCancelled,
    TunnelDown,
    TunnelDrained,
    TunnelDraining,
    TunnelEvent,
    TunnelNarrow,
    TunnelOffered,
    TunnelRefused,
    TunnelRequestFailed,
    TunnelSilent,
    TunnelUp,
)
from re6st.core.gossip import Gossip
from re6st.core.registration import Registration
from re6st.core.transports import Transports, keeps
from re6st.core.tunnels import Tunnel, TunnelTable
from re6st.core.validity import Validity
from re6st.messages import Transport
from re6st.peers import Peer
from re6st.tunnel.lifecycle import TunnelState

logger = logging.getLogger(__name__)


class TunnelCourse:
    """Takes the events of tunnels. Unknown handles are ignored."""

    def __init__(
        self,
        context: Context,
        tunnels: TunnelTable,
        *,
        dialling: Dialling,
        admission: Admission,
        transports: Transports,
        gossip: Gossip,
        registration: Registration,
        validity: Validity,
        learn: Callable[[PeersLearned], None],
    ) -> None:
        """``learn`` takes records of peers that come with an answer."""
        self._context = context
        self._tunnels = tunnels
        self._dialling = dialling
        self._admission = admission
        self._transports = transports
        self._gossip = gossip
        self._registration = registration
        self._validity = validity
        self._learn = learn

    def handle(self, event: TunnelEvent) -> None:
        """Take note of what has happened to a tunnel."""
        match event:
            case TunnelOffered() | TunnelRefused() | TunnelRequestFailed():
                self._on_answered(event)
            case TunnelAdopted():
                self._on_adopted(event)
            case TunnelUp():
                self._on_up(event)
            case TunnelDown() | TunnelCancelled():
                self._on_ended(event)
            case TunnelSilent():
                self._on_silent(event)
            case TunnelNarrow():
                self._on_narrow(event)
            case TunnelDraining():
                self._on_draining(event)
            case TunnelDrained():
                self._on_drained(event)

    def _on_answered(self, event: TunnelOffered | TunnelRefused | TunnelRequestFailed) -> None:
        """Our request was answered, or not."""
        tunnel = self._tunnels.get(event.tunnel)
        if tunnel is None or tunnel.state is not TunnelState.REQUESTED:
            return
        match event:
            case TunnelOffered():
                self._on_offered(tunnel, event)
            case TunnelRefused():
                self._tunnels.refused(tunnel)
                self._learn(PeersLearned(event.hints, Source.HINT))
                self._dialling.refused(tunnel, event.reason, event.hints)
            case TunnelRequestFailed():
                self._tunnels.refused(tunnel)
                self._dialling.unanswered(tunnel)

    def _on_offered(self, tunnel: Tunnel, event: TunnelOffered) -> None:
        self._learn(PeersLearned((event.peer,), Source.DIRECT))
        acceptable = self._context.valid(event.peer) and event.peer.prefix == tunnel.peer.prefix
        if not acceptable or event.offer.driver not in self._context.settings.drivers:
            self._tunnels.refused(tunnel)
            self._dialling.failed(tunnel.peer)
            return
        if tunnel.fragments and event.offer.fragments:
            self._tunnels.narrow_paths.agreed(tunnel.peer.prefix)
        elif tunnel.fragments and self._does_without(tunnel):
            return
        for other in self._tunnels.live(tunnel.peer.prefix):
            if other is not tunnel and not keeps(other, tunnel.transport, event.offer.fragments):
                self._tunnels.end(other, "replaced by a new one", notify=False)
        self._tunnels.accept(tunnel, event.offer, event.peer, event.local_port)

    def _does_without(self, tunnel: Tunnel) -> bool:
        """The peer of ``tunnel`` does not cut packets. Return whether there is no use for what it offers."""
        peer = tunnel.peer
        patience = self._tunnels.narrow_paths.refused(peer.prefix)
        if not self._has_wider_ways(peer):
            return False
        logger.warning(
            "No tunnel to %s: the path is narrow, and its older re6st cannot cut packets", peer.name
        )
        self._tunnels.refused(tunnel)
        for other in self._tunnels.live(peer.prefix):
            self._tunnels.end(other, "it loses large packets", notify=True)
        self._dialling.postpone(peer, patience)
        return True

    def _has_wider_ways(self, peer: Peer) -> bool:
        """Whether a tunnel to another one than ``peer`` carries large packets, as far as is known."""
        return any(
            tunnel.up
            and tunnel.peer.prefix != peer.prefix
            and (
                tunnel.fragments
                or tunnel.transport is Transport.TCP
                or not self._tunnels.narrow_paths.leads_to(tunnel.peer.prefix)
            )
            for tunnel in self._tunnels
        )

    def _on_up(self, event: TunnelUp) -> None:
        """The two ends have found each other."""
        tunnel = self._tunnels.get(event.tunnel)
        if tunnel is None or not self._tunnels.came_up(tunnel):
            return
        self._transports.came_up(tunnel)
        self._admission.came_up(tunnel)
        if tunnel.outgoing:
            self._dialling.succeeded(tunnel)
        self._dialling.reached()
        self._gossip.tunnel_up()
        self._registration.tunnel_up()

    def _on_adopted(self, event: TunnelAdopted) -> None:
        """A tunnel of the run before goes on."""
        if self._tunnels.adopt(event) is None:
            logger.warning("The tunnel to %s cannot be adopted: its slot is taken", event.peer.name)
            self._context.emit(CloseTunnel(event.tunnel, "its slot is taken", notify=True))
            return
        self._gossip.tunnel_up()
        self._registration.tunnel_up()
        self._validity.sweep()

    def _on_ended(self, event: TunnelDown | TunnelCancelled) -> None:
        """A tunnel has ended, or its peer has ended it."""
        tunnel = self._tunnels.get(event.tunnel)
        if tunnel is None:
            return
        state, since = tunnel.state, tunnel.life.since
        carried = state in {TunnelState.UP, TunnelState.DRAINING}
        if isinstance(event, TunnelDown):
            self._tunnels.gone(tunnel)
            if carried:
                logger.info("Tunnel %s ended: %s", tunnel.title, event.reason)
        else:
            self._tunnels.end(tunnel, f"ended by {tunnel.peer.name}: {event.reason}", notify=False)
        if tunnel.outgoing and carried:
            self._dialling.lost(tunnel, since)
        elif tunnel.outgoing and state is TunnelState.OPENING and isinstance(event, TunnelDown):
            self._dialling.not_connected(tunnel)
        elif tunnel.outgoing and state is TunnelState.OPENING:
            self._dialling.failed(tunnel.peer)
        self._dialling.wake()

    def _on_silent(self, event: TunnelSilent) -> None:
        """Nothing comes through a tunnel any more."""
        tunnel = self._tunnels.get(event.tunnel)
        if tunnel is None or not (tunnel.up or tunnel.draining):
            return
        logger.info("Tunnel %s fell silent", tunnel.title)
        since = tunnel.life.since
        self._tunnels.end(tunnel, "nothing comes through it any more", notify=True)
        self._gossip.lost(tunnel.peer)
        self._dialling.died(tunnel.peer, since)

    def _on_narrow(self, event: TunnelNarrow) -> None:
        """The packets of a tunnel are too large for its path: its dialer asks for one that cuts them."""
        tunnel = self._tunnels.get(event.tunnel)
        if tunnel is None or not tunnel.up or tunnel.transport is not Transport.UDP or tunnel.fragments:
            return
        paths, peer = self._tunnels.narrow_paths, tunnel.peer
        paths.found(peer.prefix)
        if self._context.stopping or not tunnel.outgoing or len(self._tunnels.live(peer.prefix)) > 1:
            return
        if paths.hopeless(peer.prefix):
            if self._has_wider_ways(peer):
                self._tunnels.end(tunnel, "it loses large packets", notify=True)
                self._dialling.postpone(peer, paths.refused(peer.prefix))
        elif paths.may_ask(peer.prefix):
            logger.info("The path to %s is narrow: asking for a tunnel that cuts packets", peer.name)
            self._replace(tunnel)

    def sweep(self) -> None:
        """Ask for a tunnel that cuts nothing in place of one that does, where the path may be wide again."""
        paths = self._tunnels.narrow_paths
        for tunnel in self._tunnels:
            peer = tunnel.peer
            cuts = tunnel.outgoing and tunnel.up and tunnel.fragments
            if not cuts or paths.leads_to(peer.prefix) or len(self._tunnels.live(peer.prefix)) > 1:
                continue
            if not self._context.stopping and paths.may_ask(peer.prefix):
                logger.info(
                    "Asking %s for a tunnel that does not cut packets: its path may be wide", peer.name
                )
                self._replace(tunnel)
                return

    def _replace(self, tunnel: Tunnel) -> None:
        """Ask for another tunnel to the same peer; ``tunnel`` stays until that is up."""
        newest = self._dialling.newest(tunnel.peer)
        self._tunnels.request(newest, replace=True, replacing=True, punched=tunnel.punched)

    def _on_draining(self, event: TunnelDraining) -> None:
        """The peer moves its routes away from a tunnel; so do we, and it ends it."""
        tunnel = self._tunnels.get(event.tunnel)
        if tunnel is not None and tunnel.up:
            # The peer ends it, and much sooner.
            patience = 1.5 * self._context.settings.drain_timeout
            self._tunnels.drain(tunnel, f"{tunnel.peer.name} ends it", patience, Drain.PEER)
            self._dialling.wake()

    def _on_drained(self, event: TunnelDrained) -> None:
        """Routes have left a tunnel at both ends."""
        tunnel = self._tunnels.get(event.tunnel)
        if tunnel is None:
            return
        tunnel.drained = tunnel.draining
        # A node that stops carries packets for others until they have left it altogether.
        if tunnel.draining and not self._context.stopping:
            self._end_drained(tunnel)

    def due(self, handle: int) -> None:
        """Something has not happened to a tunnel in time."""
        tunnel = self._tunnels.get(handle)
        if tunnel is None:
            return
        if tunnel.life.ended:
            self._tunnels.press(tunnel)
            return
        if tunnel.draining:
            warn_of_force(tunnel)
            self._end_drained(tunnel)
            return
        has_answered = tunnel.state is not TunnelState.REQUESTED
        what = "has not connected" if has_answered else "has not answered"
        self._tunnels.end(tunnel, f"{tunnel.peer.name} {what} in time", notify=True)
        if tunnel.outgoing and has_answered:
            self._dialling.not_connected(tunnel)
        elif tunnel.outgoing:
            self._dialling.unanswered(tunnel)

    def _end_drained(self, tunnel: Tunnel) -> None:
        self._tunnels.end(tunnel, tunnel.ended_for, notify=True)
        if tunnel.renews and not self._context.stopping:
            self._validity.replace(tunnel)


def warn_of_force(tunnel: Tunnel) -> None:
    """Log that ``tunnel``, which is not drained, ends all the same."""
    logger.warning(
        "Routes have not left the tunnel to %s in time; it ends by force, and packets may be lost for up"
        " to a second",
        tunnel.peer.name,
    )
