"""Everything that the brain of a node can ask its adapters to do.

Effects are carried out in the order in which they are returned, none blocks the core, and each that can
fail reports its result as an event. ``tunnel`` numbers are chosen by the core and never used twice in
one run.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv6Network

from re6st.core.events import Document, RegistryOperation
from re6st.messages import RefusalReason, Transport, TunnelOffer
from re6st.peers import Peer


@dataclass(frozen=True, slots=True)
class RequestTunnel:
    """Ask ``peer`` for a tunnel. Ends in TunnelOffered, TunnelRefused or TunnelRequestFailed."""

    tunnel: int
    peer: Peer
    replace: bool
    """Have the peer drop the tunnel that it may have to us."""
    isolated: bool = False
    """Tell the peer that we have no tunnel and find none, so that it makes room even when it is full."""
    transport: Transport = Transport.UDP
    punched: bool = False
    """Nobody can dial the peer: ask it over the overlay, and have both ends open their routers."""
    fragments: bool = False
    """The path is narrow: both ends shall cut packets."""


@dataclass(frozen=True, slots=True)
class OfferTunnel:
    """Listen for ``peer`` on ``port`` with the interface of ``slot``, then answer ``request``.

    TunnelUp follows when the peer has connected, TunnelDown when that cannot be.
    """

    tunnel: int
    request: int
    peer: Peer
    slot: int
    port: int
    """Local port: the owner can forward the range of these by hand."""
    mtu: int
    transport: Transport = Transport.UDP
    fragments: bool = False
    """Both ends cut packets."""


@dataclass(frozen=True, slots=True)
class RefuseTunnel:
    """Answer ``request`` with a refusal."""

    request: int
    reason: RefusalReason
    detail: str
    hints: tuple[Peer, ...] = ()


@dataclass(frozen=True, slots=True)
class DialTunnel:
    """Connect to the listener of ``offer`` with the interface of ``slot``. TunnelUp or TunnelDown follows."""

    tunnel: int
    peer: Peer
    slot: int
    offer: TunnelOffer
    local_port: int = 0
    """From which the peer expects our packets; 0: it takes any."""


@dataclass(frozen=True, slots=True)
class AttachTunnel:
    """Set the link of ``slot`` up with babel cost ``cost``: routes may now use it.

    What a later run of the daemon must know to adopt it (``TunnelAdopted``) is kept.
    """

    tunnel: int
    slot: int
    peer: Peer
    cost: int
    boot_id: str = ""
    """Which run of the peer's daemon it belongs to."""
    expires: float = float("inf")
    """When the first of its two certificates expires (seconds since the epoch)."""


class Drain(enum.Enum):
    """Who drains a tunnel, and why."""

    TUNNEL = "tunnel"
    """We, because this tunnel shall end."""
    NODE = "node"
    """We, because this node stops: only what it carries for others can move."""
    PEER = "peer"
    """The peer; it also sees when no route is left."""


@dataclass(frozen=True, slots=True)
class DrainTunnel:
    """Make both ends move their routes away from ``tunnel``, which goes on to carry packets.

    TunnelDrained follows when that is done, unless the peer drains it.
    """

    tunnel: int
    slot: int
    peer: Peer
    drain: Drain


@dataclass(frozen=True, slots=True)
class DetachTunnel:
    """Set the link of ``slot`` down: routes leave it at once. SlotQuiet follows in time."""

    tunnel: int
    slot: int


@dataclass(frozen=True, slots=True)
class CloseTunnel:
    """End the driver of ``tunnel``; TunnelDown follows. If ``notify``, tell the peer first."""

    tunnel: int
    reason: str
    notify: bool


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Forget a RequestTunnel that is under way: its answer is no longer wanted."""

    tunnel: int


@dataclass(frozen=True, slots=True)
class ExchangeGossip:
    """Exchange ``records`` with ``peer`` over the overlay. GossipAnswered or GossipFailed follows."""

    peer: Peer
    records: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class FetchDocument:
    """Get the newest version of ``document`` from ``peer`` (None: the registry).

    ParametersAccepted, RevocationsAccepted or DocumentFailed follows.
    """

    document: Document
    peer: Peer | None


@dataclass(frozen=True, slots=True)
class AskRegistry:
    """Do ``operation`` at the registry. RegistryAnswered or RegistryFailed follows."""

    operation: RegistryOperation
    wait: float = 0.0
    """For how long the registry may hold back its answer to VERSIONS while there is nothing new, seconds."""


@dataclass(frozen=True, slots=True)
class StorePeers:
    """Write these peers to the address book on disk and remove those of ``forgotten``."""

    stored: tuple[Peer, ...]
    forgotten: tuple[IPv6Network, ...] = ()


Effect = (
    RequestTunnel
    | OfferTunnel
    | RefuseTunnel
    | DialTunnel
    | AttachTunnel
    | DrainTunnel
    | DetachTunnel
    | CloseTunnel
    | CancelRequest
    | ExchangeGossip
    | FetchDocument
    | AskRegistry
    | StorePeers
)
