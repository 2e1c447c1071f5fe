"""re6st.node.lan_key_search: whom a node asks for keys of LANs, and how long."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any, cast

from test_node_core import peer

from re6st.errors import ProtocolError, RegistryUnavailableError
from re6st.messages import LanKeys
from re6st.node import lan_key_search
from re6st.node.lan_key_search import ASKED_AT_ONCE, MOST_ASKED, LanKeySearch

KEYS = LanKeys(keys=(b"1" * 32,))


class Members:
    """A registry that is away, and members of which some do not answer."""

    def __init__(self, count: int, silent: int = 0) -> None:
        self.known = [peer(number) for number in range(1, count + 1)]
        self.silent = {one.prefix for one in self.known[:silent]}
        self.nearby = set(self.silent)
        self.under_way = self.most = self.asked = 0
        self.search = LanKeySearch(
            self.registry,
            cast("Any", self),
            cast("Any", SimpleNamespace(endpoints=lambda one: (), is_nearby=self.is_nearby)),
            lambda: self.known,
        )

    def is_nearby(self, one: Any) -> bool:
        return one.prefix in self.nearby

    async def registry(self) -> LanKeys:
        raise RegistryUnavailableError("it is away")

    async def fetch_lan_keys(self, one: Any, endpoints: Any) -> LanKeys:
        self.asked += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            if one.prefix in self.silent:
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            if one.prefix in self.nearby:
                raise ProtocolError("it has none")
            return KEYS
        finally:
            self.under_way -= 1


async def test_members_that_do_not_answer_keep_nobody_waiting() -> None:
    members = Members(20, silent=ASKED_AT_ONCE - 1)
    async with contextlib.aclosing(members.search.found()) as found:
        assert await anext(found) == KEYS
        assert members.most == ASKED_AT_ONCE
    assert members.under_way == 0, "who has found the keys asks nobody any more"


async def test_few_members_are_asked_and_only_for_so_long(monkeypatch: Any) -> None:
    members = Members(20)
    assert [keys async for keys in members.search.found()] == [KEYS] * MOST_ASKED
    monkeypatch.setattr(lan_key_search, "MEMBERS_TIMEOUT", 0.05)
    silent = Members(20, silent=20)
    assert [keys async for keys in silent.search.found()] == []
    assert (silent.asked, silent.under_way) == (ASKED_AT_ONCE, 0)
