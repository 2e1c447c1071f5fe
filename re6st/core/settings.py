"""Settings of the brain: what a node wants, and how patient it is.

Times are seconds. Values that the network parameters also carry (:class:`re6st.messages.NetworkParameters`)
are only the start; :class:`re6st.core.events.ParametersAccepted` replaces them.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Network

from re6st.messages import PROTOCOL_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSettings:
    """Everything that :class:`re6st.core.NodeCore` can be told at its start."""

    prefix: IPv6Network
    """Own node prefix."""
    name: str
    """Own node name."""
    network: IPv6Network
    """Prefix of the network."""
    protocol: int = PROTOCOL_VERSION
    """Version of the control protocol that this node speaks."""
    drivers: tuple[str, ...] = ("openvpn",)
    """Tunnel drivers of this node; a dialer must offer one of them."""

    outgoing: int = 10
    """Tunnels that this node dials, as far as there are peers: 1 to 20."""
    tunnel_ports: tuple[int, ...] = tuple(range(4227, 4243))
    """Local ports of incoming tunnels, one each: their number bounds the incoming tunnels."""
    slots: int = 96
    """Interfaces of the pool: outgoing, incoming, one for rotation, and a few that cool down."""
    mtu: int = 1280
    """Largest packet of a tunnel, octets; the smaller one of both ends is used."""
    attempts: int = 8
    """Dials under way at the same time."""

    request_timeout: float = 15.0
    """How long a peer may take to answer a request."""
    opening_timeout: float = 15.0
    """How long a negotiated tunnel may take to come up."""
    closing_timeout: float = 10.0
    """How long a driver may take to end before it is told once more, and then given up."""
    drain_timeout: float = 60.0
    """How long routes may take to leave a tunnel that shall end, before it ends all the same."""
    leaving_timeout: float = 20.0
    """The same for all tunnels of a node that stops."""
    hello_interval: float = 4.0
    """Seconds between babel hellos; a silent neighbour is forgotten after about 17 of them."""

    failure_delay: tuple[float, float] = (2.0, 300.0)
    """First and longest wait before a peer that could not be dialled is tried again; doubles in between."""
    death_delay: tuple[float, float] = (4.0, 600.0)
    """The same for a peer whose tunnel fell silent: longer each time, so that a bad path is not flapping."""
    refusal_delay: tuple[float, float] = (20.0, 600.0)
    """First and longest wait before a peer that was full is asked again."""
    stranger_delay: float = 600.0
    """Wait before a peer is asked again that will not have us (other version, not allowed)."""
    patience: int = 40
    """Dials in a row without success, after which they are made ever more slowly (up to one a minute)."""

    punch_delay: tuple[float, float] = (300.0, 43_200.0)
    """First and longest wait before hole punching is tried again with a peer with which it has failed."""
    punch_pause: tuple[float, float] = (20.0, 3600.0)
    """The same before it is tried with anybody, after it has failed with several peers in a row."""

    udp_retry: tuple[float, float] = (300.0, 3600.0)
    """First and longest wait before UDP is tried again with a peer that only TCP has reached."""

    tunnel_refresh: float = 3600.0
    """Every so often the outgoing tunnel that carries least is replaced; varies by a fifth."""
    rotation_overlap: float = 20.0
    """How long the new tunnel must have been up before the old one ends."""
    rotation_patience: float = 120.0
    """How long a new tunnel is looked for before the rotation is given up until the next time."""
    eviction_interval: float = 10.0
    """A full listener drops at most one tunnel in this time in favour of a node that has none at all."""
    eviction_patience: float = 8.0
    """How long routes may take to leave that tunnel; the node asks again a few times meanwhile."""

    gossip_interval: float = 300.0
    """Between exchanges of records with a random neighbour; varies by a quarter."""
    gossip_records: int = 10
    """Records in one exchange, each way; at most 60."""
    gossip_timeout: float = 20.0
    """How long an exchange may take."""
    document_timeout: float = 30.0
    """How long fetching a document may take."""

    book_capacity: int = 2000
    """Peers in the address book."""
    store_delay: float = 5.0
    """Changes of the address book are collected for so long before they are stored."""

    registry_delay: tuple[float, float] = (2.0, 300.0)
    """First and longest wait before a failed request to the registry is repeated; doubles in between."""
    registry_timeout: float = 60.0
    """How long the registry may take."""
    publish_delay: float = 0.2
    """Changes of the own record are collected for so long before they are published."""
    publish_interval: float = 21_600.0
    """The own record is published again so often, changed or not."""
    isolated_sample_delay: tuple[float, float] = (0.5, 120.0)
    """First and longest wait between samples while there is no tunnel and nobody left to dial."""
    sample_delay: tuple[float, float] = (4.0, 43_200.0)
    """First and longest wait between samples otherwise; doubles in between."""

    versions_interval: float = 12.0
    """Between questions of any node of the network for the versions of signed documents."""
    versions_bounds: tuple[float, float] = (60.0, 3600.0)
    """Shortest and longest mean time between such questions of one node."""
    versions_wait: float = 100.0
    """For how long the registry may hold its answer back while there is no news."""
    versions_pause: float = 8.0
    """Shortest mean time between the answer and the next question."""

    sweep_interval: float = 30.0
    """Certificates are compared with the wall clock so often."""
    certificate_margin: float = 3600.0
    """A tunnel is replaced this long before a certificate of it expires, if a newer one is there."""
