"""Parser of what babeld says on its local socket (pure).

After a greeting babeld answers each command with a line ``ok``, ``no <reason>`` or ``bad``, and a client
that monitors gets lines ``add|change|flush <kind> <attributes>`` in between (babeld(8), "Local
Configuration Protocol"). The identifiers of routes and neighbours are addresses in babeld's memory: they
mean something only within one connection. babeld can print garbage where it uses memory that it has
freed, so every line that cannot be understood is set aside as :class:`Unknown`, never an error.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

INFINITY = 65535
"""Metric and cost of what cannot be reached (RFC 8966, 2.3)."""

LONGEST_LINE = 4096
"""Octets; a longer line is set aside."""


class Action(enum.Enum):
    """What happened to a thing."""

    ADD = "add"
    CHANGE = "change"
    FLUSH = "flush"


class Verdict(enum.Enum):
    """babeld's answer to a command."""

    OK = "ok"
    NO = "no"
    """Understood, but it cannot be done."""
    BAD = "bad"
    """Not understood."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The end of an answer, or of the greeting."""

    verdict: Verdict
    text: str = ""


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface that babeld was told to use."""

    name: str
    up: bool


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another router heard on an interface."""

    identifier: str
    interface: str
    address: str
    """Its link-local address."""
    rxcost: int
    txcost: int
    cost: int
    """:data:`INFINITY` until packets pass in both directions."""
    reach: int = 0
    """Which of its last 16 multicast Hellos were heard, the newest in the highest bit (RFC 8966, A.1)."""


@dataclass(frozen=True, slots=True)
class Route:
    """A route that a neighbour has announced. Those that are not IPv6 are :class:`Unknown`."""

    identifier: str
    prefix: IPv6Network
    source: IPv6Network
    installed: bool
    router_id: str
    metric: int
    refmetric: int
    """Metric as the neighbour announced it."""
    via: str
    """Link-local address of the neighbour."""
    interface: str


@dataclass(frozen=True, slots=True)
class LocalRoute:
    """A route of this host that babeld redistributes (``xroute``)."""

    identifier: str
    prefix: IPv6Network
    metric: int


Thing = Interface | Neighbour | Route | LocalRoute


@dataclass(frozen=True, slots=True)
class Update:
    """Something exists, has changed, or is gone."""

    action: Action
    thing: Thing


@dataclass(frozen=True, slots=True)
class Unknown:
    """A line of another kind: part of the greeting, of a later version, or damaged."""

    text: str


Line = Reply | Update | Unknown

_VERDICTS = {verdict.value: verdict for verdict in Verdict}
_ACTIONS = {action.value: action for action in Action}

_INTERFACE = re.compile(r"(?P<name>\S+) up (?P<up>true|false)(?: .*)?")
_NEIGHBOUR = re.compile(
    r"(?P<id>\S+) address (?P<address>\S+) if (?P<if>\S+) reach (?P<reach>[0-9a-f]{1,4})(?: ureach \S+)?"
    r" rxcost (?P<rxcost>\d+) txcost (?P<txcost>\d+)(?: rtt \S+ rttcost \d+)? cost (?P<cost>\d+)(?: .*)?"
)
_ROUTE = re.compile(
    r"(?P<id>\S+) prefix (?P<prefix>\S+) from (?P<source>\S+) installed (?P<installed>yes|no)"
    r" id (?P<router>\S+) metric (?P<metric>\d+) refmetric (?P<refmetric>\d+)"
    r" via (?P<via>\S+) if (?P<if>\S+)(?: .*)?"
)
_LOCAL_ROUTE = re.compile(r"(?P<id>\S+) prefix (?P<prefix>\S+) from \S+ metric (?P<metric>\d+)(?: .*)?")


def parse_line(text: str) -> Line:
    """Return what ``text``, one line without its end, says."""
    first, _, rest = text.partition(" ")
    verdict, action = _VERDICTS.get(first), _ACTIONS.get(first)
    if verdict is not None:
        return Reply(verdict, rest.strip())
    if action is None:
        return Unknown(text)
    kind, _, attributes = rest.partition(" ")
    try:
        thing = _parse_thing(kind, attributes)
    except ValueError:  # an address, prefix or number that is none
        thing = None
    return Unknown(text) if thing is None else Update(action, thing)


def _parse_thing(kind: str, attributes: str) -> Thing | None:
    pattern = _PATTERNS.get(kind)
    match = pattern.fullmatch(attributes) if pattern is not None else None
    if match is None:
        return None
    found = match.groupdict()
    if kind == "interface":
        return Interface(name=found["name"], up=found["up"] == "true")
    if kind == "neighbour":
        return Neighbour(
            identifier=found["id"],
            interface=found["if"],
            address=str(IPv6Address(found["address"])),
            rxcost=_cost(found["rxcost"]),
            txcost=_cost(found["txcost"]),
            cost=_cost(found["cost"]),
            reach=int(found["reach"], 16),
        )
    if kind == "route":
        return Route(
            identifier=found["id"],
            prefix=IPv6Network(found["prefix"]),
            source=IPv6Network(found["source"]),
            installed=found["installed"] == "yes",
            router_id=found["router"],
            metric=_cost(found["metric"]),
            refmetric=_cost(found["refmetric"]),
            via=str(IPv6Address(found["via"])),
            interface=found["if"],
        )
    return LocalRoute(
        identifier=found["id"], prefix=IPv6Network(found["prefix"]), metric=_cost(found["metric"])
    )


_PATTERNS = {"interface": _INTERFACE, "neighbour": _NEIGHBOUR, "route": _ROUTE, "xroute": _LOCAL_ROUTE}


def _cost(text: str) -> int:
    if len(text) > 10:
        raise ValueError(text)
    return min(int(text), INFINITY)


class MonitorParser:
    """Turns octets as they arrive into lines. It remembers only the unfinished line."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[Line]:
        """Return all lines that ``data`` completes.

        Octets that are not UTF-8 are replaced; empty lines are left out; a line longer than
        :data:`LONGEST_LINE` is returned shortened, as :class:`Unknown`.
        """
        *complete, rest = (self._rest + data).split(b"\n")
        lines: list[Line] = []
        for octets in complete:
            if self._skipping:
                self._skipping = False
            elif len(octets) > LONGEST_LINE:
                lines.append(self._shortened(octets))
            elif text := octets.decode(errors="replace").strip():
                lines.append(parse_line(text))
        if self._skipping:
            rest = b""
        elif len(rest) > LONGEST_LINE:
            lines.append(self._shortened(rest))
            self._skipping = True
            rest = b""
        self._rest = rest
        return lines

    @staticmethod
    def _shortened(octets: bytes) -> Unknown:
        return Unknown(octets[:80].decode(errors="replace"))
