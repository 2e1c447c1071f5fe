"""What a running node tells about itself through its status socket.

The daemon serves HTTP on a unix socket ``status.sock`` in its runtime directory: ``GET /v1/status``
(:class:`NodeStatus`), ``/v1/peers`` (list of :class:`PeerStatus`), ``/v1/tunnels``, ``/v1/routes``,
``/v1/outside`` (:class:`OutsideStatus`; takes seconds, peers are asked) and ``/metrics``. The command line
and the lab read it with :func:`fetch`.
"""

from __future__ import annotations

import enum
import http.client
import socket
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from re6st.errors import ConfigError, NotRunningError, RemoteProtocolError, SilentDaemonError

SOCKET_NAME = "status.sock"
"""File name of the status socket in the runtime directory of a node."""


class Reachability(enum.Enum):
    """How the node can be reached from outside."""

    PUBLIC = "public"
    """It has a public address itself."""
    CONFIGURED = "configured"
    """The owner says where (``advertise``)."""
    MAPPED = "upnp"
    """The home router maps a port."""
    NONE = "outgoing only"
    """It cannot be dialled; it dials others."""


class TunnelStatus(Struct, frozen=True, kw_only=True):
    """One tunnel."""

    tunnel: int
    peer: str
    """Name of the peer."""
    prefix: str
    """Node prefix of the peer."""
    direction: str
    """``out`` if this node dialled, ``in`` if it listens."""
    state: str
    interface: str
    driver: str
    remote: str
    """Underlay endpoint of the peer, empty while unknown."""
    established: str
    """How it came about: ``direct``, ``mapped`` (a router forwards the listener's port), ``punched`` (both
    ends have opened their routers for each other), ``lan`` (at a private address), over ``tcp``, or over TCP
    through a ``proxy`` of this node.
    """
    age: float
    """Seconds since it is up, 0 before."""
    received: int
    """Octets."""
    sent: int
    """Octets."""
    cost: int
    mtu: int = 1280
    """Of the interface, octets: what the path carries as far as is known."""
    mtu_origin: str = ""
    """Where that comes from: a value of :class:`re6st.tunnel.path_mtu.Origin`."""
    uplink: str = ""
    """Interface of the host to which it is bound; empty where the host's routes decide."""


class RouteStatus(Struct, frozen=True, kw_only=True):
    """One route of babel to another node."""

    prefix: str
    peer: str
    """Name of the node that announces it, empty if unknown."""
    metric: int
    interface: str
    via: str
    """Link-local address of the next hop."""
    next_hop: str
    """Name of the peer at the other end of that tunnel, empty if unknown."""
    installed: bool


class PeerStatus(Struct, frozen=True, kw_only=True):
    """One node of the address book."""

    name: str
    prefix: str
    address: str
    endpoints: list[str]
    connected: bool
    """There is a tunnel to it."""
    failures: int
    """Attempts to dial it that failed in a row."""
    certificate_expires: float
    """Seconds since the epoch."""
    software: str


class PacketSizeStatus(Struct, frozen=True, kw_only=True):
    """Tunnels that carry packets of the same size for the same reason."""

    mtu: int
    """Octets."""
    origin: str
    """Where that comes from: a value of :class:`re6st.tunnel.path_mtu.Origin`."""
    explanation: str
    """The same for people."""
    peers: tuple[str, ...]
    """Names of the peers."""


class LanNeighbourStatus(Struct, frozen=True, kw_only=True):
    """A node in a LAN with which routes are exchanged without a tunnel."""

    interface: str
    address: str
    """Its link-local address."""
    peer: str
    """Its name, empty if unknown."""
    cost: int
    """Babel's; 65535 while packets do not pass in both directions."""


class LanStatus(Struct, frozen=True, kw_only=True):
    """The trusted LANs of a node."""

    interfaces: tuple[str, ...] = ()
    keyed: bool = False
    """There is a key: without one no neighbour is looked for."""
    port: int = 0
    """UDP port of babel."""
    down: tuple[str, ...] = ()
    """Those of the interfaces that do not exist or have no link."""
    neighbours: tuple[LanNeighbourStatus, ...] = ()


class MappingStatus(Struct, frozen=True, kw_only=True):
    """One port mapping on the home router."""

    protocol: str
    internal_port: int
    external_port: int
    """0 while there is none."""
    state: str
    """``waiting``, ``mapped``, ``refused`` or ``useless``, for people."""
    reason: str
    """Why it is not there, empty if it is."""
    method: str = ""
    """``UPnP``, ``PCP`` or ``NAT-PMP``: by which it was made."""
    remedy: str = ""
    """What the owner can do to have it."""


class OutsideStatus(Struct, frozen=True, kw_only=True):
    """What a peer found when it tried to reach the node at its published endpoints."""

    tester: str = ""
    """Name of the peer, empty if nobody has tried."""
    reached: list[str] = []
    unreached: list[str] = []
    reason: str = ""
    """Why nobody has tried."""


class NodeStatus(Struct, frozen=True, kw_only=True):
    """The node in short."""

    name: str
    network: str
    prefix: str
    address: str
    software: str
    pid: int
    uptime: float
    """Seconds."""
    reachability: Reachability
    reachability_reason: str
    """Why it is, or is not, reachable from outside; for people."""
    endpoints: list[str]
    tunnels_out: int
    """Tunnels that are up and that this node dialled."""
    tunnels_in: int
    """Tunnels that are up and that others dialled."""
    routes: int
    """Installed routes to other nodes."""
    peers: int
    """Nodes in the address book."""
    mappings: list[MappingStatus]
    registry: str
    """State of the last contact with the registry, for people."""
    registry_reachable: bool
    parameters_version: int
    revocations_version: int
    certificate_expires: float
    """Seconds since the epoch."""
    routing: str
    """State of babeld, for people."""
    packet_sizes: tuple[PacketSizeStatus, ...] = ()
    """What the tunnels that are up carry, smallest first."""
    lan: LanStatus = LanStatus()
    ready: bool = True
    """The daemon has finished its start."""
    further_prefixes: tuple[str, ...] = ()
    """Other prefixes of the node."""
    restarts_refused: int = 0
    """How often this run of the daemon was asked to restart in place and could not."""
    restart_refused: str = ""
    """Why not, the last time; for people."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


Answer = TypeVar("Answer")


def fetch(runtime_directory: Path, resource: str, kind: type[Answer], timeout: float = 5.0) -> Answer:
    """Return what the node with this runtime directory says of ``resource`` (``status``, ``peers`` ...).

    Blocks up to ``timeout`` seconds. Raises :class:`NotRunningError` when there is no daemon,
    :class:`SilentDaemonError` when it does not answer, :class:`ConfigError` when it may not be asked, and
    :class:`RemoteProtocolError` when it answers nonsense.
    """
    path = runtime_directory / SOCKET_NAME
    connection = _UnixConnection(path, timeout)
    try:
        connection.request("GET", f"/v1/{resource}")
        response = connection.getresponse()
        body = response.read()
    except PermissionError as error:
        raise ConfigError(f"cannot talk to the daemon at {path}: {error.strerror}; are you root?") from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NotRunningError(
            f"the node does not run (nobody listens at {path}): start its systemd unit, or re6st-node run"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise SilentDaemonError(
            f"the daemon at {path} does not answer ({str(error) or type(error).__name__}): it is starting,"
            " ending or stuck; try again, and see its log"
        ) from error
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise RemoteProtocolError(f"the daemon answered {response.status} for {resource}")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise RemoteProtocolError(f"the daemon's answer for {resource} is malformed: {error}") from error
