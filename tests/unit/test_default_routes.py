"""Which messages of the kernel about default routes say anything new."""

from __future__ import annotations

from re6st.node.default_routes import DefaultRoutes

REPLACE = 0x100


def message(
    gateway: str, *, event: str = "RTM_NEWROUTE", flags: int = 0, priority: int = 100
) -> dict[str, object]:
    return {
        "event": event,
        "family": 2,
        "type": 1,
        "table": 254,
        "priority": priority,
        "gateway": gateway,
        "oif": 2,
        "header": {"flags": flags},
    }


def test_a_repetition_is_none() -> None:
    routes = DefaultRoutes()
    assert routes.changes(message("192.0.2.1"))
    assert not routes.changes(message("192.0.2.1"))
    assert not routes.changes(message("192.0.2.1", flags=REPLACE))


def test_another_gateway_is_one_and_the_way_back_too() -> None:
    routes = DefaultRoutes()
    assert routes.changes(message("192.0.2.1"))
    assert routes.changes(message("192.0.2.9", flags=REPLACE))
    assert routes.changes(message("192.0.2.1", flags=REPLACE))


def test_two_routers_side_by_side_repeat_themselves() -> None:
    routes = DefaultRoutes()
    assert routes.changes(message("192.0.2.1"))
    assert routes.changes(message("192.0.2.9"))
    assert routes.changes(message("192.0.2.9", priority=50))
    assert not routes.changes(message("192.0.2.1"))
    assert not routes.changes(message("192.0.2.9"))


def test_removals_always_count_and_are_remembered() -> None:
    routes = DefaultRoutes()
    assert routes.changes(message("192.0.2.1"))
    assert routes.changes(message("192.0.2.1", event="RTM_DELROUTE"))
    assert routes.changes(message("192.0.2.1"))
    routes.forget()
    assert routes.changes(message("192.0.2.1"))
