"""Everything that can happen to a node, as far as its brain is concerned.

Adapters report these to :meth:`re6st.core.NodeCore.handle`. Peers in events are verified
(:func:`re6st.peers.open_record`); numbers of tunnels and requests are opaque handles: those of tunnels
are chosen by the core, those of requests by the adapter.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv6Network

from re6st.messages import Endpoint, NetworkParameters, RefusalReason, Transport, TunnelOffer
from re6st.peers import Peer


class Source(enum.Enum):
    """Where a peer record came from."""

    BOOK = "book"
    """The address book on disk, from an earlier run."""
    REGISTRY = "registry"
    GOSSIP = "gossip"
    HINT = "hint"
    """A refusal of a full peer."""
    DIRECT = "direct"
    """The peer itself, in a request or an offer."""


class Document(enum.Enum):
    """Kinds of documents signed by the CA."""

    PARAMETERS = "parameters"
    REVOCATIONS = "revocations"


class RegistryOperation(enum.Enum):
    """What a node asks its registry for."""

    PUBLISH = "publish"
    """Hand over the own peer record."""
    SAMPLE = "sample"
    """Ask for random peer records."""
    RENEW = "renew"
    """Ask for a fresh certificate."""
    VERSIONS = "tell its versions"
    """Ask which versions of the signed documents are in force."""


@dataclass(frozen=True, slots=True)
class PeersLearned:
    """Peer records arrived."""

    peers: tuple[Peer, ...]
    source: Source


@dataclass(frozen=True, slots=True)
class PeerNearby:
    """The node that owns ``prefix`` was met in a LAN of this host, and there was no route to it."""

    prefix: IPv6Network


@dataclass(frozen=True, slots=True)
class ClockRead:
    """The wall clock was read: ``offset`` is wall time minus the ``now`` of events, in seconds."""

    offset: float


@dataclass(frozen=True, slots=True)
class OwnEndpointsChanged:
    """The control API can now be reached from outside at these endpoints (none: unreachable)."""

    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class NetworkChanged:
    """Addresses or the default route of this host have changed, so that it may be somewhere else, or it was
    asleep, or its clock was set: failures of before mean nothing.
    """


@dataclass(frozen=True, slots=True)
class OwnCertificateChanged:
    """The node's certificate was loaded or renewed."""

    not_before: float
    """Seconds since the epoch."""
    not_after: float
    """Seconds since the epoch."""
    superseded: bool = False
    """Another CA has taken over from the one that issued it: renew it soon."""


@dataclass(frozen=True, slots=True)
class RenewalWanted:
    """The registry would give the node another certificate now."""


@dataclass(frozen=True, slots=True)
class TunnelRequested:
    """A peer asked for a tunnel; answered by OfferTunnel or RefuseTunnel with the same ``request``."""

    request: int
    peer: Peer
    boot_id: str
    protocol: int
    drivers: tuple[str, ...]
    mtu: int
    replace: bool = False
    isolated: bool = False
    """The peer has no tunnel and finds none."""
    transports: tuple[Transport, ...] = (Transport.UDP,)
    """Over which it can connect."""
    fragments: bool = False
    """Both ends shall cut packets."""


@dataclass(frozen=True, slots=True)
class TunnelOffered:
    """The peer accepted our request for ``tunnel``."""

    tunnel: int
    offer: TunnelOffer
    peer: Peer
    """The peer as its offer describes it."""
    local_port: int = 0
    """From which the peer expects our packets; 0: it takes any."""


@dataclass(frozen=True, slots=True)
class TunnelRefused:
    """The peer refused our request for ``tunnel``."""

    tunnel: int
    reason: RefusalReason
    detail: str = ""
    hints: tuple[Peer, ...] = ()


@dataclass(frozen=True, slots=True)
class TunnelRequestFailed:
    """Our request for ``tunnel`` got no usable answer."""

    tunnel: int
    detail: str


@dataclass(frozen=True, slots=True)
class TunnelUp:
    """The driver says that both ends of ``tunnel`` are authenticated and packets pass."""

    tunnel: int


@dataclass(frozen=True, slots=True)
class TunnelAdopted:
    """``tunnel``, which an earlier run of the daemon has made, is up and in use by routes.

    Comes at the start, before anything that could make the core take a slot or a port.
    """

    tunnel: int
    """Its handle of that run, which stays."""
    peer: Peer
    slot: int
    outgoing: bool
    """This node dialled it."""
    transport: Transport
    port: int
    """Local port of a listener."""
    cost: int
    boot_id: str
    """Which run of the peer's daemon it belongs to; empty if unknown."""
    since: float
    """When it came up (monotonic seconds)."""
    expires: float
    """When the first of its two certificates expires (seconds since the epoch)."""
    fragments: bool = False
    """Both ends cut packets."""


@dataclass(frozen=True, slots=True)
class TunnelDown:
    """The driver of ``tunnel`` has ended, by itself or because it was asked to."""

    tunnel: int
    reason: str


@dataclass(frozen=True, slots=True)
class TunnelSilent:
    """``tunnel`` was used or probed, and nothing came back: it is dead, whatever its driver thinks."""

    tunnel: int


@dataclass(frozen=True, slots=True)
class TunnelNarrow:
    """The path of ``tunnel`` drops packets of the size that each must carry, and passes small ones."""

    tunnel: int


@dataclass(frozen=True, slots=True)
class TunnelDraining:
    """The peer moves its routes away from ``tunnel`` and will then end it."""

    tunnel: int
    leaving: bool
    """Because it stops altogether."""


@dataclass(frozen=True, slots=True)
class TunnelDrained:
    """No route leads through ``tunnel`` any more, at either end."""

    tunnel: int


@dataclass(frozen=True, slots=True)
class TunnelCancelled:
    """The peer said that it ends ``tunnel``."""

    tunnel: int
    reason: str


@dataclass(frozen=True, slots=True)
class TrafficCounted:
    """Octets that each tunnel has carried since it is up, both directions: ``(tunnel, octets)``."""

    octets: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class SlotQuiet:
    """The routing daemon has forgotten all neighbours of the interface of ``slot``: it can be used again."""

    slot: int


@dataclass(frozen=True, slots=True)
class GossipAnswered:
    """A gossip exchange with ``peer`` that we began has succeeded (its records come as PeersLearned)."""

    peer: IPv6Network


@dataclass(frozen=True, slots=True)
class GossipFailed:
    """A gossip exchange that we began has failed."""

    peer: IPv6Network
    detail: str


@dataclass(frozen=True, slots=True)
class RoutesKnown:
    """There are routes to these node prefixes now, and to no others."""

    prefixes: frozenset[IPv6Network]


@dataclass(frozen=True, slots=True)
class VersionSeen:
    """``peer`` (None: the registry) has this version of a signed document."""

    peer: IPv6Network | None
    document: Document
    version: int


@dataclass(frozen=True, slots=True)
class DocumentFailed:
    """A document asked for by FetchDocument could not be had."""

    document: Document
    detail: str


@dataclass(frozen=True, slots=True)
class ParametersAccepted:
    """A valid, newer version of the network parameters is in force."""

    parameters: NetworkParameters


@dataclass(frozen=True, slots=True)
class RevocationsAccepted:
    """A valid, newer version of the revocations is in force."""

    version: int
    serials: frozenset[str]


@dataclass(frozen=True, slots=True)
class RegistryAnswered:
    """The registry did what we asked (records come as PeersLearned, versions as VersionSeen)."""

    operation: RegistryOperation


@dataclass(frozen=True, slots=True)
class RegistryFailed:
    """The registry could not be reached, or refused."""

    operation: RegistryOperation
    detail: str
    final: bool = False
    """The registry refused: the same request will not succeed later."""


TunnelEvent = (
    TunnelOffered
    | TunnelRefused
    | TunnelRequestFailed
    | TunnelUp
    | TunnelAdopted
    | TunnelDown
    | TunnelDraining
    | TunnelDrained
    | TunnelCancelled
    | TunnelSilent
    | TunnelNarrow
)
"""What happens to one tunnel, from the answer to our request on."""

Event = (
    TunnelEvent
    | PeersLearned
    | PeerNearby
    | ClockRead
    | OwnEndpointsChanged
    | NetworkChanged
    | OwnCertificateChanged
    | RenewalWanted
    | TunnelRequested
    | TrafficCounted
    | SlotQuiet
    | RoutesKnown
    | GossipAnswered
    | GossipFailed
    | VersionSeen
    | DocumentFailed
    | ParametersAccepted
    | RevocationsAccepted
    | RegistryAnswered
    | RegistryFailed
)
