"""Asks the home router (UPnP internet gateway device) through miniupnpc.

Every call blocks, and the library is not thread-safe: use one thread (:mod:`re6st.upnp.worker`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from re6st.errors import UpnpError
from re6st.messages import Transport
from re6st.upnp.mappings import CONFLICT_IN_MAPPING_ENTRY

DISCOVERY_DELAY = 300
"""Milliseconds to wait for routers to answer, for each kind of device asked for."""

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

Result = TypeVar("Result")


class InternetGateway:
    """The router, once :meth:`discover` has found it."""

    def __init__(self) -> None:
        self._client: Any = None

    def discover(self) -> str:
        """Find the router and return its outside address, empty if it has none.

        Takes one to several seconds. Raises :class:`UpnpError` when there is none.
        """
        try:
            import miniupnpc
        except ImportError as error:
            raise UpnpError(f"UPnP cannot be used: {error}; install the Python package miniupnpc") from error
        client = miniupnpc.UPnP()
        client.discoverdelay = DISCOVERY_DELAY
        try:
            client.discover()
            client.selectigd()
        except Exception as error:
            # The binding raises plain Exception, for an empty network even with the text "Success".
            raise UpnpError(f"no home router answers UPnP here; enable UPnP there, or {_BY_HAND}") from error
        self._client = client
        return self.external_address()

    def external_address(self) -> str:
        """Return the router's outside address, empty if it has none. Raises :class:`UpnpError`."""
        return str(_ask("tell its outside address", self._client.externalipaddress))

    def add(self, transport: Transport, internal_port: int, external_port: int, lease: int) -> None:
        """Have ``external_port`` forwarded to our ``internal_port`` for ``lease`` seconds (0: for good).

        Raises :class:`UpnpError`, also when the port is taken by another mapping of this very host, which
        a router would overwrite.
        """
        entry = self._entry(transport, external_port)
        if entry not in (None, (self._client.lanaddr, internal_port)):
            raise UpnpError(
                f"external {transport.value} port {external_port} is taken", code=CONFLICT_IN_MAPPING_ENTRY
            )
        _ask(
            f"map {transport.value} port {external_port}",
            lambda: self._client.addportmapping(
                external_port,
                transport.value.upper(),
                self._client.lanaddr,
                internal_port,
                DESCRIPTION,
                "",
                lease,
            ),
        )

    def holds(self, transport: Transport, internal_port: int, external_port: int) -> bool:
        """Whether the mapping exists. A router that does not answer looks as if it did not."""
        return self._entry(transport, external_port) == (self._client.lanaddr, internal_port)

    def remove(self, transport: Transport, internal_port: int, external_port: int) -> None:
        """Remove a mapping if it is still ours. Raises :class:`UpnpError`."""
        if self.holds(transport, internal_port, external_port):
            _ask(
                f"remove the mapping of {transport.value} port {external_port}",
                lambda: self._client.deleteportmapping(external_port, transport.value.upper()),
            )

    def _entry(self, transport: Transport, external_port: int) -> tuple[str, int] | None:
        entry = _ask(
            f"show its mapping of {transport.value} port {external_port}",
            lambda: self._client.getspecificportmapping(external_port, transport.value.upper()),
        )
        return None if entry is None else (entry[0], entry[1])


def _ask(what: str, function: Callable[[], Result]) -> Result:
    try:
        return function()
    except Exception as error:
        # The binding raises plain Exception with a text.
        code = CODES.get(str(error))
        if code is None:
            raise UpnpError(f"the home router did not {what}: {error}") from error
        advice = f"; {ADVICE[code]}" if code in ADVICE else ""
        raise UpnpError(f"the home router refused to {what}: {error} ({code}){advice}", code=code) from error
