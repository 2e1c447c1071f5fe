"""Tells real changes of the host's default routes from repetitions (pure).

Programs that take router advertisements replace the default route at each of them, and the kernel tells of
it (rtnetlink(7)) although nothing is different.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NLM_F_REPLACE = 0x100

_Key = tuple[object, ...]


class DefaultRoutes:
    """The default routes of which the kernel has told."""

    def __init__(self) -> None:
        self._routes: dict[_Key, set[_Key]] = {}
        """Ways out, by what of them there can be one only: family, table and priority."""

    def forget(self) -> None:
        """Take the next message for a change: the kernel removes routes of a link in silence."""
        self._routes.clear()

    def changes(self, message: Mapping[str, Any]) -> bool:
        """Return whether ``message``, RTM_NEWROUTE or RTM_DELROUTE of a default route, changes anything."""
        place = (message["family"], message.get("table"), message.get("priority"))
        ways = self._routes.setdefault(place, set())
        way = (message["type"], message.get("gateway"), message.get("oif"), repr(message.get("multipath")))
        if message["event"] == "RTM_DELROUTE":
            ways.discard(way)
            return True
        before = set(ways)
        if message["header"]["flags"] & _NLM_F_REPLACE:
            ways.clear()
        ways.add(way)
        return ways != before
