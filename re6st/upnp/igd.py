"""Knows how to talk to a home router (UPnP internet gateway device) and what its answers mean.

The words are exchanged by miniupnpc in another process (:mod:`re6st.upnp.helper_process`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from re6st.errors import UpnpError
from re6st.upnp.actions import BY_HAND, CONFLICT_IN_MAPPING_ENTRY, Add, Checked, Grant, Remove
from re6st.upnp.helper_process import LIMIT, HelperProcess, NoHelperError

DISCOVERY_DELAY = 300
"""Milliseconds to wait for routers to answer, for each kind of device asked for."""

DISCOVERY_LIMIT = 20.0
"""Seconds until the search is given up; many devices may have to be asked whether they are routers."""

DESCRIPTION = "re6st"
"""What the owner reads in the router's list of mappings."""

CODES = {
    "Invalid Action": 401,
    "Invalid Args": 402,
    "Action Failed": 501,
    "Action not authorized": 606,
    "SpecifiedArrayIndexInvalid": 713,
    "NoSuchEntryInArray": 714,
    "WildCardNotPermittedInSrcIP": 715,
    "WildCardNotPermittedInExtPort": 716,
    "ConflictInMappingEntry": 718,
    "SamePortValuesRequired": 724,
    "OnlyPermanentLeasesSupported": 725,
    "RemoteHostOnlySupportsWildcard": 726,
    "ExternalPortOnlySupportsWildcard": 727,
    "NoPortMapsAvailable": 728,
    "ConflictWithOtherMechanisms": 729,
    "WildCardNotPermittedInIntPort": 732,
    "UnknownError": 500,
}
"""Codes of the texts with which miniupnpc raises (``strupnperror``); the binding does not give the code.

"UnknownError" is a code that the library does not know: still an answer, unlike its own "Miniupnpc ...".
"""

ADVICE = {
    401: f"it cannot do that; {BY_HAND}",
    402: f"it cannot do that; {BY_HAND}",
    500: f"restart it, or {BY_HAND}",
    501: f"restart it, or {BY_HAND}",
    606: "UPnP is restricted there, allow it for this machine",
    715: BY_HAND,
    716: BY_HAND,
    727: BY_HAND,
    732: BY_HAND,
    724: "it forwards a port under its own number only; set another 'control-port' if that one is taken",
    726: f"it cannot do that; {BY_HAND}",
    728: "its table of mappings is full",
}


class NoGatewayError(UpnpError):
    """Nothing here answers UPnP."""


class Asked(Protocol):
    """Who asks the library; see :class:`re6st.upnp.helper_process.HelperProcess`."""

    async def ask(self, *words: str | int, limit: float = LIMIT) -> list[str]:
        """Return the fields of the answer; raise :class:`UpnpError` with the library's text."""

    async def close(self) -> None:
        """Ask nothing more."""


class InternetGateway:
    """The router, once :meth:`discover` has found it."""

    protocol = "UPnP"

    def __init__(self, asked: Asked | None = None) -> None:
        self._asked = asked or HelperProcess()
        self._own_address = ""

    async def discover(self) -> str:
        """Find the router and return its outside address, empty if it has none.

        Takes one to several seconds. Raises :class:`UpnpError` when there is none.
        """
        try:
            await self._asked.ask("discover", DISCOVERY_DELAY, limit=DISCOVERY_LIMIT)
            (self._own_address,) = await self._asked.ask("self")
        except NoHelperError:
            raise
        except UpnpError as error:
            raise NoGatewayError("no home router answers UPnP here") from error
        return await self.external_address()

    async def external_address(self) -> str:
        """Return the router's outside address, empty if it has none. Raises :class:`UpnpError`."""
        (address,) = await self._ask("tell its outside address", "address")
        return address

    async def add(self, wanted: Add) -> Grant:
        """Have a port forwarded.

        Raises :class:`UpnpError`, also when the port is taken by another mapping of this very host, which
        a router would overwrite.
        """
        name = f"{wanted.transport.value} port {wanted.external_port}"
        entry = await self._entry(wanted)
        if entry not in ([], self._own(wanted)):
            raise UpnpError(f"external {name} is taken", code=CONFLICT_IN_MAPPING_ENTRY)
        await self._ask(
            f"map {name}",
            "add",
            wanted.transport.value.upper(),
            wanted.external_port,
            wanted.internal_port,
            wanted.lease,
            DESCRIPTION,
        )
        return Grant(wanted.external_port, wanted.lease)

    async def check(self, held: Sequence[Add]) -> Checked:
        """Return what the router says of its address and of mappings. Raises :class:`UpnpError`."""
        # The address comes first: a silent router fails here and does not seem to have forgotten all.
        address = await self.external_address()
        return Checked(address, tuple([one for one in held if not await self.holds(one)]))

    async def holds(self, mapping: Add | Remove) -> bool:
        """Whether the mapping exists. A router that does not answer looks as if it did not."""
        return await self._entry(mapping) == self._own(mapping)

    async def remove(self, mapping: Remove) -> None:
        """Remove a mapping if it is still ours. Raises :class:`UpnpError`."""
        if await self.holds(mapping):
            await self._ask(
                f"remove the mapping of {mapping.transport.value} port {mapping.external_port}",
                "delete",
                mapping.transport.value.upper(),
                mapping.external_port,
            )

    async def close(self) -> None:
        """Ask nothing more; mappings stay."""
        await self._asked.close()

    def _own(self, mapping: Add | Remove) -> list[str]:
        return [self._own_address, str(mapping.internal_port)]

    async def _entry(self, mapping: Add | Remove) -> list[str]:
        """Return host and port of a mapping, nothing if there is none."""
        what = f"show its mapping of {mapping.transport.value} port {mapping.external_port}"
        return await self._ask(what, "entry", mapping.transport.value.upper(), mapping.external_port)

    async def _ask(self, what: str, *words: str | int) -> list[str]:
        try:
            return await self._asked.ask(*words)
        except UpnpError as error:
            code = CODES.get(str(error))
            if code is None:
                raise UpnpError(f"the home router did not {what}: {error}") from error
            advice = f"; {ADVICE[code]}" if code in ADVICE else ""
            raise UpnpError(
                f"the home router refused to {what}: {error} ({code}){advice}", code=code
            ) from error
