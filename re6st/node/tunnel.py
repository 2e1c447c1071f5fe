"""One tunnel as this host knows it: its peer, its interface, what it measured, how far it is.

What the core knows and decides about it is :class:`re6st.core.tunnels.Tunnel`; the number is common to both.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from dataclasses import dataclass, field
from enum import StrEnum

from re6st.core.effects import Drain
from re6st.messages import Endpoint, Transport
from re6st.peers import Peer
from re6st.status import TunnelStatus
from re6st.tunnel.path_mtu import UNMEASURED, Measured

logger = logging.getLogger(__name__)


class Stage(StrEnum):
    """How far a tunnel is, for people, too."""

    OPENING = "opening"
    CONNECTED = "connected"
    """The ends have found and recognised each other."""
    UP = "up"
    """Routes may use it."""
    DRAINING = "draining"
    """Routes are leaving it."""
    DETACHED = "detached"
    """Routes cannot use it any more."""
    CLOSED = "closed"
    """Nothing is left of it."""


@dataclass(slots=True)
class Tunnel:
    """One tunnel, from the moment the core asked for it until its driver has ended."""

    number: int
    name: str
    """Chosen by the listener; both ends use it in ``DELETE /v1/tunnels/<name>``."""
    peer: Peer
    slot: int
    interface: str
    incoming: bool
    driver: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    port: int = 0
    """Local port of a listener."""
    mtu: int = 0
    """The largest packets that both ends take, as it was negotiated; octets."""
    fragments: bool = False
    """Both ends cut packets, since its path is narrow."""
    measured: Measured = UNMEASURED
    """The MTU of its interface: what its path carries, as far as is known."""
    transport: Transport = Transport.UDP
    mapped: bool = False
    """The listener is reached through a port mapping of its router."""
    punched: bool = False
    """Both ends have opened their routers for it."""
    remote: Endpoint | None = None
    proxied: bool = False
    """It passes through an HTTP proxy of ours."""
    uplink: str = ""
    """Interface of the host to which it is bound; empty where the host's routes decide."""
    closing: bool = False
    """It ends because we want it to."""
    up_since: float = 0.0
    """Monotonic seconds, 0 before."""
    received: int = 0
    sent: int = 0
    cost: int = 0
    stage: Stage = Stage.OPENING
    drain: Drain | None = None
    """Why it drains, if it does."""

    def enter(self, stage: Stage) -> None:
        """Take note that it is at ``stage`` now."""
        logger.debug("= tunnel %d to %s: %s -> %s", self.number, self.peer.name, self.stage, stage)
        self.stage = stage

    @property
    def established(self) -> str:
        """How it came about, see :class:`re6st.status.TunnelStatus`."""
        if self.proxied:
            return "proxy"
        if self.transport is Transport.TCP:
            return "tcp"
        if self.remote is not None and is_in_lan(self.remote):
            return "lan"
        if self.punched:
            return "punched"
        return "mapped" if self.mapped else "direct"

    def status(self, now: float) -> TunnelStatus:
        """Return what there is to tell."""
        return TunnelStatus(
            tunnel=self.number,
            peer=self.peer.name,
            prefix=str(self.peer.prefix),
            direction="in" if self.incoming else "out",
            state=self.stage.value,
            interface=self.interface,
            driver=self.driver,
            remote=str(self.remote) if self.remote else "",
            established=self.established,
            age=now - self.up_since if self.up_since else 0.0,
            received=self.received,
            sent=self.sent,
            cost=self.cost,
            mtu=self.measured.mtu,
            mtu_origin=self.measured.origin.value,
            uplink=self.uplink,
        )


def is_in_lan(remote: Endpoint) -> bool:
    """Whether ``remote`` is the private address of somebody in the same LAN."""
    address = ipaddress.ip_address(remote.address)
    return address.version == 4 and address.is_private and not address.is_loopback
