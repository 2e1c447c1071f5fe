"""Links of the lab: bridges, cables, addresses and routes, by netlink."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2 import IPRoute, NFCTSocket
from pyroute2.netlink.exceptions import NetlinkError as KernelError

from re6st.errors import NetlinkError
from re6st.lab.namespace import Namespace
from re6st.lab.wiring import Attachment, Interface, Segment

IFA_F_NODAD = 2  # linux/if_addr.h
ETHERNET_HEADER = 14

BLACK_HOLE_RATE = "8mbit"
"""A token bucket drops what is larger than itself. At this rate its size is exact to an octet (tc-tbf(8))."""

BLACK_HOLE_QUEUE = 200_000
"""Octets."""


@contextmanager
def netlink(namespace: Namespace) -> Iterator[Any]:
    """Yield a netlink socket into ``namespace``. Kernel refusals become :class:`NetlinkError`."""
    with namespace.entered():
        socket = IPRoute()
    try:
        yield socket
    except KernelError as error:
        raise NetlinkError(f"the kernel refused a change in {namespace.name}: {error}") from error
    finally:
        socket.close()


def forget_connections(namespace: Namespace) -> None:
    """Empty the connection tracking, as a restart does. Raises :class:`NetlinkError`."""
    with namespace.entered():
        socket = NFCTSocket()
    try:
        socket.flush()
    except KernelError as error:
        raise NetlinkError(f"cannot empty the connection tracking of {namespace.name}: {error}") from error
    finally:
        socket.close()


def raise_loopback(namespace: Namespace) -> None:
    """Set the loopback interface up, as every machine has it."""
    with netlink(namespace) as socket:
        socket.link("set", index=1, state="up")


def add_bridge(namespace: Namespace, segment: Segment) -> None:
    """Make the bridge of ``segment`` with the gateway's address on it."""
    with netlink(namespace) as socket:
        # Nobody queries for multicast groups here: without snooping all of them hear everything, at once.
        socket.link("add", ifname=segment.bridge, kind="bridge", mtu=segment.mtu, br_mcast_snooping=0)
        index = socket.link_lookup(ifname=segment.bridge)[0]
        for gateway in segment.gateways:
            _add_address(socket, index, gateway)
        socket.link("set", index=index, state="up")
    # Bridged frames are not the business of the router's filter (br_netfilter would show them to it).
    for table in ("iptables", "ip6tables", "arptables"):
        namespace.set_sysctl(f"bridge/bridge-nf-call-{table}", "0")


def plug(machine: Namespace, owner: Namespace, attachment: Attachment) -> None:
    """Lay the cable of ``attachment`` from ``machine`` to the bridge in ``owner``, and the default route."""
    segment = attachment.segment
    with netlink(owner) as socket:
        socket.link(
            "add",
            ifname=attachment.port,
            kind="veth",
            mtu=segment.mtu,
            peer={"ifname": attachment.interface, "net_ns_fd": machine.name, "mtu": segment.mtu},
        )
        port = socket.link_lookup(ifname=attachment.port)[0]
        bridge = socket.link_lookup(ifname=segment.bridge)[0]
        socket.link("set", index=port, master=bridge, state="up")
    with netlink(machine) as socket:
        index = socket.link_lookup(ifname=attachment.interface)[0]
        for address in attachment.addresses:
            _add_address(socket, index, address)
        socket.link("set", index=index, state="up")
        _add_default_routes(socket, attachment)


def swallow(machine: Namespace, owner: Namespace, attachment: Attachment, largest: int) -> None:
    """Have packets larger than ``largest`` octets vanish on the cable of ``attachment``, in both directions.

    What the kernel would cut into segments later (GSO) is judged by its segments.
    """
    for namespace, interface in ((machine, attachment.interface), (owner, attachment.port)):
        with netlink(namespace) as socket:
            socket.tc(
                "replace",
                "tbf",
                socket.link_lookup(ifname=interface)[0],
                handle="1:",
                rate=BLACK_HOLE_RATE,
                burst=largest + ETHERNET_HEADER + 1,
                limit=BLACK_HOLE_QUEUE,
            )


def renumber(machine: Namespace, owner: Namespace, before: Attachment, after: Attachment) -> None:
    """Replace the addresses of a cable that stays where it is, plugged into the bridge in ``owner``.

    Routes over the old ones go with them, and nothing is delivered to these any more.
    """
    with netlink(machine) as socket:
        index = socket.link_lookup(ifname=before.interface)[0]
        for address in before.addresses:
            socket.addr("del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
        for address in after.addresses:
            _add_address(socket, index, address)
        _add_default_routes(socket, after)
    gone = {str(address.ip) for address in before.addresses}
    with netlink(owner) as socket:
        bridge = socket.link_lookup(ifname=before.segment.bridge)[0]
        for neighbour in socket.get_neighbours(ifindex=bridge):
            if (address := neighbour.get("dst")) in gone:
                socket.neigh("del", dst=address, ifindex=bridge)


def unplug(machine: Namespace, interface: str) -> None:
    """Pull the cable out of ``machine``: addresses and routes go with it."""
    with netlink(machine) as socket:
        socket.link("del", index=socket.link_lookup(ifname=interface)[0])


def _add_default_routes(socket: Any, attachment: Attachment) -> None:
    versions = {address.version for address in attachment.addresses}
    for gateway in attachment.segment.gateways:
        if gateway.version in versions:
            everywhere = "0.0.0.0/0" if gateway.version == 4 else "::/0"
            socket.route("replace", dst=everywhere, gateway=str(gateway.ip), priority=attachment.metric)


def _add_address(socket: Any, index: int, address: Interface) -> None:
    # Nobody else can have it: looking for duplicates would make it useless for a second.
    flags = {"flags": IFA_F_NODAD} if address.version == 6 else {}
    socket.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **flags)
