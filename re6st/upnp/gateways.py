"""Finds out by which protocol the home router maps ports, and speaks that one.

All are tried at the same time. UPnP is used where it works, since it shows what the router really holds; PCP
or NAT-PMP where it does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from typing import Protocol

from re6st.errors import UpnpError
from re6st.upnp.actions import BY_HAND, Add, Checked, Grant, Remove
from re6st.upnp.igd import InternetGateway, NoGatewayError
from re6st.upnp.port_control import PortControl, SilentError


class Gateway(Protocol):
    """The router. Each method but ``close`` raises :class:`UpnpError`."""

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

    async def discover(self) -> str | None:
        """Find the router; see :class:`Gateway`."""
        control = asyncio.create_task(self._port_control.discover())
        try:
            return await self._discover(control)
        finally:
            control.cancel()
            # Its failure is of no interest where UPnP works.
            await asyncio.gather(control, return_exceptions=True)

    async def _discover(self, control: asyncio.Task[str | None]) -> str | None:
        # Where nothing is found, the router known last is the one that mappings are removed from.
        try:
            address: str | None = await self._upnp.discover()
        except UpnpError as error:
            refusal = error
        else:
            self._used = self._upnp
            return address
        try:
            address = await control
        except UpnpError as error:
            failure = error
        else:
            self._used = self._port_control
            await self._upnp.close()
            return address
        if isinstance(refusal, NoGatewayError) and isinstance(failure, SilentError):
            raise NoGatewayError(
                f"no home router answers UPnP, PCP or NAT-PMP here; enable one of them there, or {BY_HAND}"
            ) from failure
        raise UpnpError(f"{refusal}; and {failure}") from failure

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
