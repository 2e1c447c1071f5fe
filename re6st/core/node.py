"""The brain of a node as one object: events go to the parts, what the parts want comes back as effects."""

from __future__ import annotations

import random as random_module
from dataclasses import dataclass
from ipaddress import IPv6Network

from re6st.core.effects import Effect
from re6st.core.events import Event
from re6st.core.settings import CoreSettings
from re6st.peers import Peer
from re6st.tunnel.lifecycle import Direction, TunnelState


@dataclass(frozen=True, slots=True)
class TunnelSnapshot:
    """One tunnel at one moment."""

    handle: int
    peer: Peer
    direction: Direction
    state: TunnelState
    slot: int
    since: float
    """When the state was entered (monotonic seconds)."""
    cost: int
    octets: int


@dataclass(frozen=True, slots=True)
class PeerSnapshot:
    """One peer of the address book at one moment."""

    peer: Peer
    connected: bool
    failures: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How many there are."""

    outgoing: int
    """Tunnels up that this node dialled."""
    incoming: int
    """Tunnels up that others dialled."""
    attempts: int
    """Tunnels that this node is trying to bring up."""
    peers: int
    """Peers in the address book."""


class NodeCore:
    """Decides what a node does. Pure: no I/O, no clock, no randomness of its own.

    ``now`` is monotonic seconds and must never go backwards. After each call of :meth:`start`,
    :meth:`handle` and :meth:`advance` the caller carries out the effects in their order and calls
    :meth:`advance` when :meth:`next_deadline` has come.
    """

    def __init__(self, settings: CoreSettings, random: random_module.Random) -> None:
        """Draw all randomness from ``random``."""
        self._settings = settings
        self._random = random

    def start(self, now: float) -> list[Effect]:
        """Begin. Must be called once, before anything else."""
        return []

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Return what is to be done about ``event``. Unknown handles are ignored."""
        return []

    def advance(self, now: float) -> list[Effect]:
        """Return what is to be done because time has passed."""
        return []

    def stop(self, now: float) -> list[Effect]:
        """Return how to leave in good order: all tunnels end, peers are told, the book is stored.

        Nothing but TunnelDown need be reported afterwards.
        """
        return []

    def next_deadline(self) -> float | None:
        """Return when :meth:`advance` must be called at the latest (monotonic seconds)."""
        return None

    def sample_peers(self, count: int) -> tuple[Peer, ...]:
        """Return up to ``count`` random peers for a gossip answer, fresh news first."""
        return ()

    def peers(self) -> tuple[PeerSnapshot, ...]:
        """Return the address book."""
        return ()

    def peer(self, prefix: IPv6Network) -> Peer | None:
        """Return the newest record of the node that owns ``prefix``, if known."""
        return None

    def tunnels(self) -> tuple[TunnelSnapshot, ...]:
        """Return all tunnels that have not ended."""
        return ()

    def is_revoked(self, serial: str) -> bool:
        """Say whether the certificate with this serial number (lower-case hexadecimal) was withdrawn."""
        return False

    def counts(self) -> Counts:
        """Return the numbers of tunnels and peers."""
        return Counts(0, 0, 0, 0)
