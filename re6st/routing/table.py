"""What babeld knows, as far as its local socket has told (pure).

Lines go in, *changes* come out: only what matters to others and really differs, since babeld repeats
unchanged lines a few times per hello. A new connection begins with a complete dump: it fills a fresh
table, whose :meth:`RoutingTable.changes_since` the old one are then what has happened meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import TypeVar

from re6st.routing.monitor import (
    INFINITY,
    Action,
    Interface,
    LocalRoute,
    Neighbour,
    Route,
    Update,
)


@dataclass(frozen=True, slots=True)
class InterfaceUp:
    """The link of ``interface`` has come up, as far as babeld is concerned."""

    interface: str


@dataclass(frozen=True, slots=True)
class NeighbourHeard:
    """A neighbour on ``interface`` was heard that babeld did not know before."""

    interface: str


@dataclass(frozen=True, slots=True)
class NeighbourRestarted:
    """The router at the other end of ``interface`` counts its Hellos anew: it has begun again.

    So does one that was silent for sixteen of them.
    """

    interface: str


@dataclass(frozen=True, slots=True)
class NeighbourUp:
    """Packets pass in both directions between us and the router at the other end of ``interface``."""

    interface: str


@dataclass(frozen=True, slots=True)
class NeighbourDown:
    """No neighbour of ``interface`` can be reached any more; babeld still remembers it."""

    interface: str


@dataclass(frozen=True, slots=True)
class InterfaceQuiet:
    """babeld has forgotten all neighbours of ``interface``: it can be used for another peer."""

    interface: str


@dataclass(frozen=True, slots=True)
class RoutesChanged:
    """Some route was added, removed, or is used differently."""


Change = (
    InterfaceUp
    | NeighbourHeard
    | NeighbourRestarted
    | NeighbourUp
    | NeighbourDown
    | InterfaceQuiet
    | RoutesChanged
)

Item = TypeVar("Item")

_ONE_HELLO = 0x8000


class RoutingTable:
    """Interfaces, neighbours and routes of one babeld."""

    def __init__(self) -> None:
        self._interfaces: dict[str, Interface] = {}
        self._neighbours: dict[str, Neighbour] = {}
        self._routes: dict[str, Route] = {}
        self._local_routes: dict[str, LocalRoute] = {}

    # -- queries ----------------------------------------------------------------------------------------

    def routes(self) -> list[Route]:
        """Return all routes, also those that are not used, ordered by prefix and metric."""
        return sorted(self._routes.values(), key=lambda route: (route.prefix, route.metric, route.interface))

    def installed(self) -> list[Route]:
        """Return the routes that are in the kernel and lead somewhere, one for each prefix."""
        return [route for route in self.routes() if route.installed and route.metric < INFINITY]

    def lost(self) -> list[IPv6Network]:
        """Return the prefixes that somebody has announced lately and to which no route leads."""
        reached = {route.prefix for route in self.installed()} | set(self.announced())
        return sorted({route.prefix for route in self._routes.values()} - reached)

    def announced(self) -> list[IPv6Network]:
        """Return the prefixes that this node announces itself."""
        return sorted(route.prefix for route in self._local_routes.values())

    def neighbours(self, interface: str) -> list[Neighbour]:
        """Return all neighbours that babeld remembers on ``interface``."""
        return [neighbour for neighbour in self._neighbours.values() if neighbour.interface == interface]

    def is_reachable(self, interface: str) -> bool:
        """Return whether a neighbour on ``interface`` can be used for routes."""
        return bool(self.usable_neighbours(interface))

    def usable_neighbours(self, interface: str) -> list[Neighbour]:
        """Return the neighbours on ``interface`` that can be used for routes."""
        return [neighbour for neighbour in self.neighbours(interface) if neighbour.cost < INFINITY]

    def is_quiet(self, interface: str) -> bool:
        """Return whether babeld remembers no neighbour on ``interface``."""
        return not self.neighbours(interface)

    def has_heard_routes(self, interface: str) -> bool:
        """Return whether the neighbour on ``interface`` has announced any route (at least its own)."""
        return any(
            route.interface == interface and route.refmetric < INFINITY for route in self._routes.values()
        )

    def is_up(self, interface: str) -> bool:
        """Return whether babeld uses ``interface``, which it does while the link is up."""
        known = self._interfaces.get(interface)
        return known is not None and known.up

    # -- changes ----------------------------------------------------------------------------------------

    def apply(self, update: Update) -> list[Change]:
        """Take note of a line; return what it changes."""
        gone = update.action is Action.FLUSH
        match update.thing:
            case Interface(name=name) as interface:
                was_up = self.is_up(name)
                _store(self._interfaces, name, interface, gone)
                return [InterfaceUp(name)] if self.is_up(name) and not was_up else []
            case LocalRoute(identifier=identifier) as local_route:
                _store(self._local_routes, identifier, local_route, gone)
            case Route(identifier=identifier) as route:
                if _store(self._routes, identifier, route, gone):
                    return [RoutesChanged()]
            case Neighbour() as neighbour:
                return self._apply_neighbour(neighbour, gone)
        return []

    def _apply_neighbour(self, neighbour: Neighbour, gone: bool) -> list[Change]:
        interface = neighbour.interface
        before = self._situation(interface)
        known = self._neighbours.get(neighbour.identifier)
        heard = not gone and known is None
        restarted = not gone and known is not None and _counts_anew(known.reach, neighbour.reach)
        _store(self._neighbours, neighbour.identifier, neighbour, gone)
        first: list[Change] = [NeighbourHeard(interface)] if heard else []
        if restarted:
            first.append(NeighbourRestarted(interface))
        return first + _neighbour_changes(interface, before, self._situation(interface))

    def changes_since(self, old: RoutingTable) -> list[Change]:
        """Return what differs between ``old``, of an earlier connection, and this one."""
        names = {neighbour.interface for neighbour in (*old._neighbours.values(), *self._neighbours.values())}
        changes: list[Change] = []
        for name in sorted(names):
            changes += _neighbour_changes(name, old._situation(name), self._situation(name))
        if _essence(old._routes) != _essence(self._routes):
            changes.append(RoutesChanged())
        return changes

    def _situation(self, interface: str) -> tuple[bool, bool]:
        return self.is_reachable(interface), self.is_quiet(interface)


def _neighbour_changes(interface: str, before: tuple[bool, bool], after: tuple[bool, bool]) -> list[Change]:
    (reachable_before, quiet_before), (reachable, quiet) = before, after
    changes: list[Change] = []
    if reachable and not reachable_before:
        changes.append(NeighbourUp(interface))
    if reachable_before and not reachable:
        changes.append(NeighbourDown(interface))
    if quiet and not quiet_before:
        changes.append(InterfaceQuiet(interface))
    return changes


def _counts_anew(before: int, now: int) -> bool:
    """Whether a history of Hellos that was longer is now one of a single Hello."""
    return now == _ONE_HELLO and before & ~_ONE_HELLO != 0


def _store(known: dict[str, Item], key: str, thing: Item, gone: bool) -> bool:
    """Put ``thing`` into ``known`` or take it out; return whether that changes anything."""
    if gone:
        return known.pop(key, None) is not None
    if known.get(key) == thing:
        return False
    known[key] = thing
    return True


def _essence(routes: dict[str, Route]) -> set[tuple[object, ...]]:
    """Return the routes without their identifiers, which differ between connections."""
    return {
        (
            route.prefix,
            route.source,
            route.installed,
            route.router_id,
            route.metric,
            route.via,
            route.interface,
        )
        for route in routes.values()
    }
