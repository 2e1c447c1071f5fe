"""What a tunnel driver must offer: the small protocol that lets other tunnels than OpenVPN's exist.

A driver carries the packets of point-to-point tunnels, one interface each. The interface exists and is
down when the driver is called; the node sets it up when the driver has reported :class:`Connected`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Protocol

from re6st.messages import Endpoint, Transport


@dataclass(frozen=True, slots=True)
class Link:
    """One tunnel, as a driver needs to know it."""

    tunnel: int
    """Handle, unique in this run of the daemon."""
    interface: str
    """Name of the interface (``dev tun``), which exists already."""
    peer_address: IPv6Address
    """Node address of the peer: the SAN of its certificate."""
    peer_name: str
    """Name of the peer: the CN of its certificate."""
    peer_fingerprint: str
    """SHA-256 of the peer's certificate, 64 hexadecimal digits."""
    key: str = field(repr=False)
    """Pre-shared key of this tunnel only, made by :meth:`Driver.prepare` of the listener."""
    mtu: int
    """The largest packets that both ends take, octets; the interface's MTU may be less."""
    fragments: bool = False
    """Both ends cut packets into pieces that pass the narrowest paths."""


@dataclass(frozen=True, slots=True)
class Connected:
    """Both ends are authenticated and packets pass."""

    tunnel: int
    remote: Endpoint | None
    """Where the peer's packets come from."""
    proxied: bool = False
    """They pass through an HTTP proxy of ours."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The tunnel has ended, by itself or on request; nothing of it is left."""

    tunnel: int
    reason: str
    crashed: bool = False
    """It was connected and has ended without a word to the peer, which does not know it yet."""


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """The peer has ended the tunnel: nothing passes any more. :class:`Closed` follows."""

    tunnel: int


@dataclass(frozen=True, slots=True)
class Counters:
    """What a tunnel has carried so far, in octets."""

    tunnel: int
    received: int
    sent: int


@dataclass(frozen=True, slots=True)
class Survivor:
    """A tunnel of an earlier daemon whose packets may still pass."""

    interface: str
    note: str
    """What :meth:`Driver.annotate` was given."""


def host_routes(_: Endpoint) -> str:
    """Let the host's routes decide how an endpoint is reached."""
    return ""


DriverEvent = Connected | PeerLeft | Closed | Counters


class Driver(Protocol):
    """A way to carry packets between two nodes."""

    name: str
    """As it is named in tunnel requests."""

    def set_listener(self, report: Callable[[DriverEvent], None]) -> None:
        """Report all events to ``report`` from now on; it is called in the event loop's thread."""

    async def prepare(self) -> str:
        """Return a fresh key for one tunnel."""

    async def listen(self, link: Link, port: int, transport: Transport = Transport.UDP) -> None:
        """Wait for the peer on the local ``port`` (all addresses) of ``transport``.

        Raises :class:`re6st.errors.ChildError`, for example when the port is taken. When it returns, the
        peer may connect. Later failures are reported as :class:`Closed`.
        """

    async def dial(
        self,
        link: Link,
        endpoints: tuple[Endpoint, ...],
        local_port: int = 0,
        uplink: Callable[[Endpoint], str] = host_routes,
    ) -> None:
        """Connect to the peer at the first of ``endpoints`` that answers. Failures are :class:`Closed`.

        Packets leave from ``local_port`` if it is given: routers on the way expect that. ``uplink`` names
        the interface of the host through which an endpoint is to be reached, or none.

        Raises :class:`re6st.errors.ChildError` when the attempt cannot even begin.
        """

    def annotate(self, tunnel: int, note: str) -> None:
        """Keep ``note`` with ``tunnel``, which is connected, for the daemon that adopts it.

        Raises :class:`re6st.errors.StorageError`. Unknown tunnels are ignored.
        """

    def survivors(self) -> list[Survivor]:
        """Return the tunnels of an earlier daemon that have a note. Adopt them before any other is made."""

    async def adopt(self, link: Link, transport: Transport) -> Endpoint | None:
        """Take over the survivor on the interface of ``link`` (whose key is not needed).

        Returns where the peer is, if that is known; nothing is reported. Raises
        :class:`re6st.errors.ChildError` when it is not connected: it ends with the other leftovers.
        """

    def remove_leftovers(self) -> None:
        """Remove the files of tunnels that were not adopted and whose processes have ended.

        Raises :class:`re6st.errors.StorageError`.
        """

    async def close(self, tunnel: int) -> None:
        """End ``tunnel``; :class:`Closed` follows. Unknown tunnels are ignored."""
