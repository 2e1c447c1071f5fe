"""What may be asked of a home router and what it grants: values for those who decide and those who ask."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from re6st.messages import Transport

CONFLICT_IN_MAPPING_ENTRY = 718
SAME_PORT_VALUES_REQUIRED = 724
ONLY_PERMANENT_LEASES_SUPPORTED = 725
CONFLICT_WITH_OTHER_MECHANISMS = 729
"""Error codes of UPnP (WANIPConnection:2, 2.5) on which decisions depend; PCP and NAT-PMP have no such."""

BY_HAND = "forward the ports by hand and say so with 'advertise'"


@dataclass(frozen=True, slots=True)
class Mapping:
    """A port mapping that the router holds for us."""

    transport: Transport
    internal_port: int
    external_address: IPv4Address
    external_port: int


@dataclass(frozen=True, slots=True)
class Discover:
    """Look for a router. Ends in :meth:`MappingPlan.found` or :meth:`MappingPlan.missing`."""

    avoided: frozenset[str] = frozenset()
    """Names of protocols that are to be spoken only where no other one is of use."""


@dataclass(frozen=True, slots=True)
class Add:
    """Make or renew a mapping. Ends in ``added``, ``refused`` or ``silent``."""

    transport: Transport
    internal_port: int
    external_port: int
    lease: int
    """Seconds; 0 asks for a permanent mapping."""


@dataclass(frozen=True, slots=True)
class Check:
    """Ask for the outside address and whether these mappings exist. Ends in ``checked`` or ``silent``."""

    mappings: tuple[Add, ...]


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a mapping. Ends in ``removed``, whatever the router says: its lease ends some time."""

    transport: Transport
    internal_port: int
    external_port: int


Action = Discover | Add | Check | Remove


@dataclass(frozen=True, slots=True)
class Grant:
    """A mapping that the router has made, which need not be quite what it was asked for."""

    external_port: int
    lease: int
    """Seconds; 0 for a permanent mapping."""
    address: str | None = None
    """Its outside address, if the router tells it only with a mapping."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a look at the router has shown."""

    address: str | None
    """Its outside address; None: as before."""
    lost: tuple[Add, ...]
    """Mappings that it does not hold any more."""


def public_address(text: str) -> IPv4Address | None:
    """Return the outside address that a router tells, None if nobody can reach it from everywhere."""
    try:
        address = IPv4Address(text)
    except ValueError:
        return None
    return address if address.is_global else None
