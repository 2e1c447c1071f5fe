"""What the brain shows of itself: values for status and metrics, valid at one moment."""

from __future__ import annotations

from dataclasses import dataclass

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
