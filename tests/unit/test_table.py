"""re6st.routing.table: neighbours and routes as babeld reports them."""

from dataclasses import replace
from ipaddress import IPv6Network

from re6st.routing.monitor import INFINITY, Action, Interface, Neighbour, Route, Update
from re6st.routing.table import (
    InterfaceQuiet,
    InterfaceUp,
    NeighbourDown,
    NeighbourHeard,
    NeighbourRestarted,
    NeighbourUp,
    RoutesChanged,
    RoutingTable,
)

SILENT = Neighbour("n1", "re6st0", "fe80::1", INFINITY, INFINITY, INFINITY)
ALIVE = replace(SILENT, rxcost=100, txcost=100, cost=100)
ROUTE = Route(
    identifier="r1",
    prefix=IPv6Network("2001:db8:42:2::/64"),
    source=IPv6Network("::/0"),
    installed=True,
    router_id="20:01:0d:b8:00:42:00:02",
    metric=100,
    refmetric=0,
    via="fe80::1",
    interface="re6st0",
)


def add(table: RoutingTable, *things: Interface | Neighbour | Route) -> list[object]:
    return [change for thing in things for change in table.apply(Update(Action.CHANGE, thing))]


def flush(table: RoutingTable, thing: Neighbour | Route) -> list[object]:
    return list(table.apply(Update(Action.FLUSH, thing)))


def test_life_of_a_neighbour() -> None:
    table = RoutingTable()
    assert add(table, Interface("re6st0", up=True)) == [InterfaceUp("re6st0")]
    assert table.is_quiet("re6st0")
    assert add(table, SILENT) == [NeighbourHeard("re6st0")]
    assert add(table, ALIVE) == [NeighbourUp("re6st0")]
    assert table.is_reachable("re6st0")
    assert add(table, SILENT) == [NeighbourDown("re6st0")]
    assert not table.is_quiet("re6st0")
    assert flush(table, SILENT) == [InterfaceQuiet("re6st0")]
    assert table.is_quiet("re6st0")


def test_a_neighbour_that_counts_its_hellos_anew_has_begun_again() -> None:
    table = RoutingTable()
    add(table, replace(ALIVE, reach=0x8000))
    assert add(table, replace(ALIVE, reach=0x8000)) == []
    assert add(table, replace(ALIVE, reach=0xC000)) == []
    assert add(table, replace(ALIVE, reach=0x8000)) == [NeighbourRestarted("re6st0")]
    assert add(table, replace(ALIVE, reach=0x8000)) == []


def test_repeated_lines_are_no_changes() -> None:
    table = RoutingTable()
    add(table, Interface("re6st0", up=True), ALIVE, ROUTE)
    assert add(table, Interface("re6st0", up=True), ALIVE, ROUTE) == []
    assert flush(table, replace(ROUTE, identifier="other")) == []


def test_a_second_neighbour_keeps_the_interface_busy() -> None:
    table = RoutingTable()
    other = replace(ALIVE, identifier="n2", address="fe80::2")
    add(table, ALIVE, other)
    assert flush(table, ALIVE) == []
    assert flush(table, other) == [NeighbourDown("re6st0"), InterfaceQuiet("re6st0")]


def test_routes() -> None:
    table = RoutingTable()
    lost = replace(ROUTE, identifier="r2", prefix=IPv6Network("2001:db8:42:3::/64"), metric=INFINITY)
    spare = replace(ROUTE, identifier="r3", installed=False, metric=300, interface="re6st1")
    assert add(table, ROUTE, lost, spare) == [RoutesChanged()] * 3
    assert table.routes() == [ROUTE, spare, lost]
    assert table.installed() == [ROUTE]
    assert table.lost() == [lost.prefix]
    assert table.has_heard_routes("re6st1")
    assert not table.has_heard_routes("re6st2")


def test_a_new_connection_tells_what_has_happened_meanwhile() -> None:
    """Identifiers are new, which is no change by itself."""
    old, new = RoutingTable(), RoutingTable()
    gone = replace(ALIVE, identifier="n2", interface="re6st1")
    add(old, ALIVE, gone, ROUTE)
    add(new, replace(ALIVE, identifier="m1"), replace(ROUTE, identifier="q1"))
    assert new.changes_since(old) == [NeighbourDown("re6st1"), InterfaceQuiet("re6st1")]
    add(new, replace(ROUTE, identifier="q2", prefix=IPv6Network("2001:db8:42:9::/64")))
    assert RoutesChanged() in new.changes_since(old)
