"""re6st.node.route_news: what the core hears of babeld."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from test_node_core import peer

from re6st.core.events import Event, RoutesKnown, SlotQuiet
from re6st.node import route_news
from re6st.node.route_news import RouteNews
from re6st.routing.babeld import Started
from re6st.routing.table import InterfaceQuiet, RoutesChanged


async def test_many_changes_of_routes_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route_news, "DELAY", 0.0)
    reported: list[Event] = []
    begun: list[None] = []
    installed = [SimpleNamespace(prefix=peer(number).prefix) for number in (1, 2)]
    repair = SimpleNamespace(begin=lambda: begun.append(None))
    news = RouteNews("re6st", lambda: cast("Any", installed), cast("Any", repair), reported.append)
    news.take(Started())
    assert (len(begun), reported) == (1, [])
    news.take(InterfaceQuiet("re6st12"))
    assert reported.pop() == SlotQuiet(12)
    for _ in range(3):
        news.take(RoutesChanged())
    assert reported == []
    while not reported:
        await asyncio.sleep(0)
    assert reported == [RoutesKnown(frozenset({peer(1).prefix, peer(2).prefix}))]
    news.take(RoutesChanged())
    news.stop()
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(reported) == 1
