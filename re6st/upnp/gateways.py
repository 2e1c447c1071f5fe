"""Finds out by which protocol the home router maps ports, and speaks that one.

All are tried at the same time. UPnP is used where it works, since it shows what the router really holds; PCP
or NAT-PMP where it does not answer, has no public address to offer, or was found to be of no use. Not only
may one router speak several: the one that answers UPnP need not be the one to which the default route leads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from ipaddress import IPv4Address
from typing import Protocol

from re6st.errors import UpnpError
from re6st.upnp.actions import Add, Checked, Grant, Remove, public_address
from re6st.upnp.igd import InternetGateway, NoGatewayError
from re6st.upnp.port_control import PortControl, SilentError


class Gateway(Protocol):
    """The router, by one protocol. Each method but ``close`` raises :class:`UpnpError`."""

    @property
    def protocol(self) -> str:
        """Name of the protocol that is spoken."""

    async def discover(self) -> str | None:
        """Find the router and return its outside address: empty if it has none, None if it tells it later."""

    async def add(self, wanted: Add) -> Grant:
        """Make or renew a mapping."""

    async def check(self, held: Sequence[Add]) -> Checked:
        """Look whether address and mappings are as they were."""

    async def remove(self, mapping: Remove) -> None:
        """Remove a mapping."""

    async def close(self) -> None:
        """Ask nothing more; mappings stay."""


class AnyGateway:
    """The router, by whatever protocol it speaks."""

    def __init__(
        self, secret: bytes, router: Callable[[], IPv4Address | None], announced: Callable[[], None]
    ) -> None:
        """See :class:`re6st.upnp.port_control.PortControl`."""
        self._upnp = InternetGateway()
        self._port_control = PortControl(secret, router, announced)
        self._used: Gateway = self._upnp

    @property
    def protocol(self) -> str:
        """Name of the protocol that is spoken."""
        return self._used.protocol

    async def discover(self, avoided: Collection[str] = ()) -> str | None:
        """Find the router, if possible by a protocol that is not ``avoided``; see :class:`Gateway`."""
        control = asyncio.create_task(self._port_control.discover())
        try:
            # Where nothing is found, the router known last is the one that mappings are removed from.
            self._used, address = await self._best(control, avoided)
        finally:
            control.cancel()
            # Its failure is of no interest where UPnP works.
            await asyncio.gather(control, return_exceptions=True)
        if self._used is not self._upnp:
            await self._upnp.close()
        return address

    async def _best(
        self, control: asyncio.Task[str | None], avoided: Collection[str]
    ) -> tuple[Gateway, str | None]:
        """Return the first way that seems to be of use, otherwise the one that may be soonest."""
        searches: tuple[tuple[Gateway, Awaitable[str | None]], ...] = (
            (self._upnp, self._upnp.discover()),
            (self._port_control, control),
        )
        found: list[tuple[bool, bool, Gateway, str | None]] = []
        failures: list[UpnpError] = []
        for way, search in searches:
            try:
                address = await search
            except UpnpError as error:
                failures.append(error)
                continue
            is_useless = address is not None and public_address(address) is None
            is_avoided = way.protocol in avoided
            if not is_useless and not is_avoided:
                return way, address
            found.append((is_useless, is_avoided, way, address))
        if not found:
            raise _nothing(*failures)
        *_, way, address = min(found, key=lambda one: one[:2])
        return way, address

    async def add(self, wanted: Add) -> Grant:
        """Make or renew a mapping."""
        return await self._used.add(wanted)

    async def check(self, held: Sequence[Add]) -> Checked:
        """Look whether address and mappings are as they were."""
        return await self._used.check(held)

    async def remove(self, mapping: Remove) -> None:
        """Remove a mapping."""
        await self._used.remove(mapping)

    async def close(self) -> None:
        """Ask nothing more; mappings stay."""
        await self._upnp.close()
        await self._port_control.close()


def _nothing(upnp: UpnpError, port_control: UpnpError) -> UpnpError:
    if isinstance(upnp, NoGatewayError) and isinstance(port_control, SilentError):
        return NoGatewayError("no home router answers UPnP, PCP or NAT-PMP here")
    return UpnpError(f"{upnp}; and {port_control}")
