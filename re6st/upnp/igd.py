"""Knows how to talk to a home router (UPnP internet gateway device) and what its answers mean.

The words are exchanged by miniupnpc in another process (:mod:`re6st.upnp.helper_process`).
"""

from __future__ import annotations

from typing import Protocol

from re6st.errors import UpnpError
from re6st.messages import Transport
from re6st.upnp.helper_process import LIMIT, HelperProcess, NoHelperError
from re6st.upnp.mappings import CONFLICT_IN_MAPPING_ENTRY

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

_BY_HAND = "forward the ports by hand and say so with 'advertise'"

ADVICE = {
    501: _BY_HAND,
    606: "UPnP is restricted there, allow it for this machine",
    715: _BY_HAND,
    716: _BY_HAND,
    727: _BY_HAND,
    732: _BY_HAND,
    728: "its table of mappings is full",
}


class Asked(Protocol):
    """Who asks the library; see :class:`re6st.upnp.helper_process.HelperProcess`."""

    async def ask(self, *words: str | int, limit: float = LIMIT) -> list[str]:
        """Return the fields of the answer; raise :class:`UpnpError` with the library's text."""

    async def close(self) -> None:
        """Ask nothing more."""


class InternetGateway:
    """The router, once :meth:`discover` has found it."""

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
            raise UpnpError(f"no home router answers UPnP here; enable UPnP there, or {_BY_HAND}") from error
        return await self.external_address()

    async def external_address(self) -> str:
        """Return the router's outside address, empty if it has none. Raises :class:`UpnpError`."""
        (address,) = await self._ask("tell its outside address", "address")
        return address

    async def add(self, transport: Transport, internal_port: int, external_port: int, lease: int) -> None:
        """Have ``external_port`` forwarded to our ``internal_port`` for ``lease`` seconds (0: for good).

        Raises :class:`UpnpError`, also when the port is taken by another mapping of this very host, which
        a router would overwrite.
        """
        entry = await self._entry(transport, external_port)
        if entry not in ([], self._own(internal_port)):
            raise UpnpError(
                f"external {transport.value} port {external_port} is taken", code=CONFLICT_IN_MAPPING_ENTRY
            )
        await self._ask(
            f"map {transport.value} port {external_port}",
            "add",
            transport.value.upper(),
            external_port,
            internal_port,
            lease,
            DESCRIPTION,
        )

    async def holds(self, transport: Transport, internal_port: int, external_port: int) -> bool:
        """Whether the mapping exists. A router that does not answer looks as if it did not."""
        return await self._entry(transport, external_port) == self._own(internal_port)

    async def remove(self, transport: Transport, internal_port: int, external_port: int) -> None:
        """Remove a mapping if it is still ours. Raises :class:`UpnpError`."""
        if await self.holds(transport, internal_port, external_port):
            await self._ask(
                f"remove the mapping of {transport.value} port {external_port}",
                "delete",
                transport.value.upper(),
                external_port,
            )

    async def close(self) -> None:
        """Ask nothing more; mappings stay."""
        await self._asked.close()

    def _own(self, internal_port: int) -> list[str]:
        return [self._own_address, str(internal_port)]

    async def _entry(self, transport: Transport, external_port: int) -> list[str]:
        """Return host and port of a mapping, nothing if there is none."""
        what = f"show its mapping of {transport.value} port {external_port}"
        return await self._ask(what, "entry", transport.value.upper(), external_port)

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
