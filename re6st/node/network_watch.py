"""Notices when the host's own network changes: links, addresses and default routes (netlink, I/O).

What is ours is left out (tunnels, addresses of the overlay), and so are link-local addresses and all other
routes. A default route that is told again as it was is no change either (:mod:`re6st.node.default_routes`).
"""

from __future__ import annotations

import enum
import ipaddress
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv6Network
from typing import Any

from re6st.node.default_routes import DefaultRoutes
from re6st.node.interface_index import interface_name
from re6st.node.netlink import BABEL_PROTOCOL, translated

_RT_SCOPE_LINK = 253  # rtnetlink(7)
_SO_RCVBUFFORCE = 33  # socket(7): larger than net.core.rmem_max, which CAP_NET_ADMIN allows

BUFFER = 16 * 1024 * 1024
"""Octets of news that may wait. babeld replaces thousands of routes at a time in a large network, which all
are told here; what does not fit is lost, and nobody knows then what has changed."""


class NetworkChange(enum.Enum):
    """What has changed."""

    LINK = "link"
    ADDRESS = "address"
    ROUTE = "default route"


class NetworkWatch:
    """Watches the network namespace of whoever iterates over its changes."""

    def __init__(self, interface_prefix: str, network: IPv6Network) -> None:
        """``interface_prefix``: what the names of our interfaces begin with, a number follows. Addresses
        inside ``network`` are those of the overlay.
        """
        self._network = network
        self._pattern = re.compile(re.escape(interface_prefix) + r"[0-9]{1,3}")

    async def changes(self) -> AsyncIterator[NetworkChange]:
        """Yield each change, for ever. Several often come together: wait a moment before acting.

        Raises :class:`NetlinkError`: some may have been missed then.
        """
        known = DefaultRoutes()
        with translated("watch the network"):
            asking = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        with asking:
            async with _subscription() as subscription:
                while True:
                    with translated("watch the network"):
                        messages = [message async for message in subscription.get()]
                    for message in messages:
                        change = self._change(message, known, asking)
                        if change is not None:
                            yield change

    def _change(self, message: Any, known: DefaultRoutes, asking: socket.socket) -> NetworkChange | None:
        event = message.get("event", "")
        if event in ("RTM_NEWLINK", "RTM_DELLINK"):
            if self._pattern.fullmatch(message.get("ifname") or ""):
                return None
            known.forget()
            return NetworkChange.LINK
        if event in ("RTM_NEWADDR", "RTM_DELADDR"):
            if message["scope"] == _RT_SCOPE_LINK or self._is_ours(message["index"], asking):
                return None
            address = message.get("address")
            is_overlay = address is not None and ipaddress.ip_address(address) in self._network
            return None if is_overlay else NetworkChange.ADDRESS
        if event in ("RTM_NEWROUTE", "RTM_DELROUTE"):
            is_default = message["dst_len"] == 0 and message["proto"] != BABEL_PROTOCOL
            return NetworkChange.ROUTE if is_default and known.changes(message) else None
        return None

    def _is_ours(self, index: int, asking: socket.socket) -> bool:
        with translated(f"look up the interface {index}"):
            return self._pattern.fullmatch(interface_name(asking, index)) is not None


@asynccontextmanager
async def _subscription() -> AsyncIterator[Any]:
    from pyroute2 import AsyncIPRoute
    from pyroute2.netlink import rtnl

    groups = (
        rtnl.RTMGRP_LINK
        | rtnl.RTMGRP_IPV4_IFADDR
        | rtnl.RTMGRP_IPV6_IFADDR
        | rtnl.RTMGRP_IPV4_ROUTE
        | rtnl.RTMGRP_IPV6_ROUTE
    )
    with translated("watch the network"):
        subscription = AsyncIPRoute()
        await subscription.bind(groups=groups)
        with suppress(PermissionError):  # in some containers
            subscription.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
    try:
        yield subscription
    finally:
        subscription.close()
