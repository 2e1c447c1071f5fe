"""The kernel's interfaces, addresses and routes, as far as a node changes them (netlink, I/O).

Every change can be repeated and says nothing when there is nothing to change: after a crash, starting
again finds things half done. Only what is ours by its name (tunnel interfaces), its protocol number (our
``unreachable`` route) or its destination (babeld's routes inside the network) is ever removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from re6st.errors import NetlinkError
from re6st.node.interface_index import interface_index, interface_name
from re6st.prefix import node_address
from re6st.routing.configuration import ROUTE_PROTOCOL

BABEL_PROTOCOL = 42
"""Kernel protocol number of babeld's routes (RTPROT_BABEL)."""

UNREACHABLE_METRIC = 2147483647
"""Of the ``unreachable`` route: any other route to exactly the same prefix, for example to a bridge with
containers, is preferred."""

MAXIMUM_ALIAS = 63
"""Characters of an interface alias that we use (the kernel takes 255)."""

BABEL_METRIC = 1024
"""Of babeld's routes (babeld(8), ``kernel-priority``)."""

_IFF_UP = 1  # netdevice(7)
_RT_TABLE_MAIN = 254  # rtnetlink(7)
_RTN_UNICAST = 1  # rtnetlink(7)
_RTNH_F_ONLINK = 4  # rtnetlink(7): the next hop is on the link, whatever its address
_IFA_F_NODAD = 2  # if_addr.h: usable at once, without looking for duplicates
_INTERFACE_SETTINGS = {
    # What a peer sends through a tunnel must not configure this host.
    "accept_ra": "0",
    "accept_redirects": "0",
    "autoconf": "0",
    # A link-local address at once, even where the owner has other defaults: babel needs it.
    "disable_ipv6": "0",
    "accept_dad": "0",
    # The kernel's own link-local address comes a moment after the link, too late for babeld: it would look
    # again only after two seconds. So the interface gets one from us while it is down.
    "addr_gen_mode": "1",
    "forwarding": "1",
}


@dataclass(frozen=True, slots=True)
class BabelRoute:
    """A route of babeld in the kernel."""

    destination: IPv6Network
    via: str
    """Next hop, empty if there is none."""
    interface: str
    metric: int | None
    table: int | None
    kind: int
    """``rtm_type`` of rtnetlink(7): unicast, unreachable, ..."""
    source: str | None
    """Preferred source address."""

    @classmethod
    def of(cls, destination: IPv6Network, source: IPv6Address) -> BabelRoute:
        """Return the route to ``destination`` as babeld would make it, without its next hop."""
        return cls(destination, "", "", BABEL_METRIC, _RT_TABLE_MAIN, _RTN_UNICAST, str(source))


class Kernel:
    """A netlink connection to the network namespace in which it was opened. Use it from one event loop."""

    def __init__(self, interface_prefix: str, settings: Path = Path("/proc/sys/net/ipv6/conf")) -> None:
        """``interface_prefix``: what the names of our interfaces begin with, a number follows."""
        self._interface_prefix = interface_prefix
        self._pattern = re.compile(re.escape(interface_prefix) + r"[0-9]{1,3}")
        self._settings = settings
        self._route: Any = None
        self._socket: Any = None
        self._lock = asyncio.Lock()
        """Of who has the kernel list something: it lists one thing at a time on a socket (EBUSY)."""

    async def open(self) -> None:
        """Connect. Raises :class:`NetlinkError`."""
        # Imported here because it is large: the command line does not need it.
        from pyroute2 import AsyncIPRoute

        with translated("open a netlink socket"):
            self._route = AsyncIPRoute()
            # Nobody reads what groups are told here: it would fill memory, and a burst ends the socket.
            await self._route.bind(groups=0)
            self._socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)

    async def close(self) -> None:
        """Disconnect; everything that was made stays."""
        if self._route is not None:
            self._route.close()
            self._route = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # -- tunnel interfaces ------------------------------------------------------------------------------

    async def ensure_tun(self, name: str, *, mtu: int, alias: str) -> None:
        """Make the persistent tun device ``name`` unless it exists; set MTU and alias; leave it down.

        Raises :class:`NetlinkError`, also when the name belongs to an interface of another kind.
        """
        self._check_name(name)
        with translated(f"prepare the interface {name}"):
            async with self._lock:
                link = await self._find_link(name)
                if link is None:
                    await self._route.link("add", ifname=name, kind="tuntap", mode="tun")
                    link = await self._find_link(name)
                if link is None or link.get(("linkinfo", "kind")) != "tun":
                    raise NetlinkError(
                        f"the interface {name} exists and is no tun device;"
                        " remove it, or choose another interface-prefix"
                    )
                index = link["index"]
                await self._route.link(
                    "set", index=index, state="down", mtu=mtu, ifalias=alias[:MAXIMUM_ALIAS]
                )
                self._configure(name)
                await self._route.flush_addr(index=index, family=socket.AF_INET6)
                await self._route.addr(
                    "replace", index=index, address=_random_link_local(), prefixlen=64, flags=_IFA_F_NODAD
                )

    async def set_link(self, name: str, *, up: bool) -> None:
        """Set the link up or down; an interface that does not exist is down. Raises :class:`NetlinkError`."""
        with translated(f"set {name} {'up' if up else 'down'}"):
            index = self._index(name)
            if index is not None:
                await self._route.link("set", index=index, state="up" if up else "down")
            elif up:
                raise NetlinkError(f"cannot set {name} up: there is no such interface")

    async def mtu(self, name: str) -> int | None:
        """Return the MTU of an interface, None if it does not exist. Raises :class:`NetlinkError`."""
        with translated(f"look at {name}"):
            link = await self._find_link(name)
            return int(link.get("mtu")) if link is not None else None

    async def set_mtu(self, name: str, mtu: int) -> None:
        """Set the MTU of an interface, octets, if it exists. Raises :class:`NetlinkError`."""
        with translated(f"set the MTU of {name} to {mtu}"):
            index = self._index(name)
            if index is not None:
                await self._route.link("set", index=index, mtu=mtu)

    async def is_up(self, name: str) -> bool:
        """Return whether the interface ``name`` exists and its link is up. Raises :class:`NetlinkError`."""
        with translated(f"look at {name}"):
            link = await self._find_link(name)
            return link is not None and bool(link["flags"] & _IFF_UP)

    async def remove_link(self, name: str) -> None:
        """Remove the tunnel interface ``name`` if it exists. Raises :class:`NetlinkError`."""
        self._check_name(name)
        with translated(f"remove the interface {name}"):
            index = self._index(name)
            if index is not None:
                await self._route.link("del", index=index)

    async def tunnel_links(self) -> list[str]:
        """Return the names of all tun devices that are called like ours, also those of an earlier run."""
        with translated("list interfaces"):
            async with self._lock:
                links = [link async for link in await self._route.get_links()]
        return sorted(
            link.get("ifname")
            for link in links
            if self._pattern.fullmatch(link.get("ifname")) and link.get(("linkinfo", "kind")) == "tun"
        )

    # -- the node prefix --------------------------------------------------------------------------------

    async def add_prefix(self, prefix: IPv6Network, interface: str) -> None:
        """Let this host own ``prefix``: the node address on ``interface``, the rest ``unreachable``.

        A more specific route, for example to a container, takes precedence over the latter. Raises
        :class:`NetlinkError`.
        """
        address = node_address(prefix)
        with translated(f"add the route to {prefix}"):
            await self._route.route("replace", **_unreachable(prefix))
        with translated(f"put {address} on {interface}"):
            await self._route.addr(
                "replace",
                index=self._existing_index(interface),
                address=str(address),
                prefixlen=128,
                flags=_IFA_F_NODAD,
            )

    async def remove_prefix(self, prefix: IPv6Network, interface: str) -> None:
        """Undo :meth:`add_prefix` as far as it is done. Raises :class:`NetlinkError`."""
        address = node_address(prefix)
        index = self._index(interface)
        if index is not None:
            with translated(f"remove {address} from {interface}", errno.EADDRNOTAVAIL):
                await self._route.addr("del", index=index, address=str(address), prefixlen=128)
        with translated(f"remove the route to {prefix}", errno.ESRCH):
            await self._route.route("del", **_unreachable(prefix))

    async def prefixes(self, network: IPv6Network) -> list[IPv6Network]:
        """Return the prefixes inside ``network`` that this host owns, as far as the route is there.

        Raises :class:`NetlinkError`.
        """
        routes = await self._routes(network, ROUTE_PROTOCOL)
        return sorted(prefix for prefix, _ in routes if prefix != network)

    async def close_network(self, network: IPv6Network) -> None:
        """Let nothing for ``network`` leave this host that no more specific route leads to.

        Where the default route leads through a LAN that also carries routes of the overlay, the firewall
        could not tell such packets from those of the overlay. Raises :class:`NetlinkError`.
        """
        with translated(f"add the route to {network}"):
            await self._route.route("replace", **_unreachable(network))

    async def reopen_network(self, network: IPv6Network) -> None:
        """Undo :meth:`close_network` if it was done. Raises :class:`NetlinkError`."""
        with translated(f"remove the route to {network}", errno.ESRCH):
            await self._route.route("del", **_unreachable(network))

    async def flush_routes(self, network: IPv6Network) -> int:
        """Remove what babeld has left: its routes to destinations inside ``network``; return how many.

        Only while babeld does not run: it would not notice. Raises :class:`NetlinkError`.
        """
        routes = await self.babel_routes(network)
        for route in routes:
            await self.remove_route(route)
        return len(routes)

    async def babel_routes(self, network: IPv6Network) -> list[BabelRoute]:
        """Return babeld's routes to destinations inside ``network``. Raises :class:`NetlinkError`."""
        return [
            BabelRoute(
                destination=prefix,
                via=route.get("gateway") or "",
                interface=self._name(route.get("oif")),
                metric=route.get("priority"),
                table=route.get("table"),
                kind=route["type"],
                source=route.get("prefsrc"),
            )
            for prefix, route in await self._routes(network, BABEL_PROTOCOL)
        ]

    async def _routes(self, network: IPv6Network, protocol: int) -> list[tuple[IPv6Network, Any]]:
        """Return the routes of ``protocol`` to destinations inside ``network``."""
        with translated(f"read routes inside {network}"):
            async with self._lock:
                routes = [route async for route in await self._route.get_routes(family=socket.AF_INET6)]
        found = []
        for route in routes:
            destination = route.get("dst")
            if route["proto"] != protocol or destination is None:
                continue
            prefix = IPv6Network(f"{destination}/{route['dst_len']}")
            if prefix.subnet_of(network):
                found.append((prefix, route))
        return found

    async def remove_route(self, route: BabelRoute) -> None:
        """Remove ``route`` if it is there. Raises :class:`NetlinkError`."""
        with translated(f"remove the route to {route.destination}", errno.ESRCH):
            await self._route.route("del", type=route.kind, **_babel_route(route))

    async def redirect_route(self, route: BabelRoute, via: str, interface: str) -> None:
        """Let ``route`` lead to the next hop ``via``, a link-local address on ``interface``, as babeld does.

        Raises :class:`NetlinkError`.
        """
        with translated(f"correct the route to {route.destination}"):
            await self._route.route("replace", **self._leading(route, via, interface))

    async def add_route(self, route: BabelRoute, via: str, interface: str) -> None:
        """Add ``route`` by the next hop ``via`` on ``interface``.

        Nothing happens if there is one to the same destination with the same metric. Raises
        :class:`NetlinkError`.
        """
        with translated(f"add the route to {route.destination}", errno.EEXIST):
            await self._route.route("add", **self._leading(route, via, interface))

    def _leading(self, route: BabelRoute, via: str, interface: str) -> dict[str, object]:
        source = {"prefsrc": route.source} if route.source else {}
        index = self._existing_index(interface)
        return {**_babel_route(route), **source, "gateway": via, "oif": index, "flags": _RTNH_F_ONLINK}

    # -- helpers ----------------------------------------------------------------------------------------

    def _check_name(self, name: str) -> None:
        if not self._pattern.fullmatch(name):
            raise NetlinkError(f"{name} is not one of our interfaces ({self._interface_prefix}0, ...)")

    async def _find_link(self, name: str) -> Any:
        index = self._index(name)
        if index is None:
            return None
        async for link in await self._route.get_links(index):
            return link
        return None

    def _index(self, interface: str) -> int | None:
        with translated(f"look up the interface {interface}"):
            return interface_index(self._socket, interface)

    def _existing_index(self, interface: str) -> int:
        index = self._index(interface)
        if index is None:
            raise NetlinkError(
                f"there is no interface {interface}; correct main-interface in the configuration"
            )
        return index

    def _name(self, index: int | None) -> str:
        """Return the name of the interface ``index``, empty if it has gone."""
        with translated(f"look up the interface {index}"):
            return interface_name(self._socket, index) if index else ""

    def _configure(self, name: str) -> None:
        directory = self._settings / name
        try:
            for key, value in _INTERFACE_SETTINGS.items():
                # A missing directory means a kernel without IPv6, which shows itself elsewhere.
                with contextlib.suppress(FileNotFoundError):
                    (directory / key).write_text(value)
        except OSError as error:
            raise NetlinkError(f"cannot configure the interface {name}: {error}") from error


def _random_link_local() -> str:
    """Return a new link-local address: a router that is unknown to babel at the other end, whatever it
    remembers of an earlier tunnel.
    """
    return str(IPv6Address((0xFE80 << 112) | secrets.randbits(64)))


def _unreachable(prefix: IPv6Network) -> dict[str, object]:
    return {
        "family": socket.AF_INET6,
        "dst": str(prefix),
        "type": "unreachable",
        "proto": ROUTE_PROTOCOL,
        "priority": UNREACHABLE_METRIC,
    }


def _babel_route(route: BabelRoute) -> dict[str, object]:
    return {
        "family": socket.AF_INET6,
        "dst": str(route.destination),
        "proto": BABEL_PROTOCOL,
        "priority": route.metric,
        "table": route.table,
    }


@contextmanager
def translated(what: str, *ignored: int) -> Iterator[None]:
    """Turn errors of pyroute2 and of the kernel into :class:`NetlinkError`, except the ``ignored`` ones."""
    from pyroute2.netlink.exceptions import NetlinkError as ForeignError

    try:
        yield
    except ForeignError as error:
        if error.code not in ignored:
            raise NetlinkError(f"cannot {what}: {error}") from error
    except OSError as error:
        if error.errno not in ignored:
            raise NetlinkError(f"cannot {what}: {error.strerror or error}") from error
