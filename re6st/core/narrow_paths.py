"""Narrow paths: peers to which not even the smallest tunnel's packets pass in one piece.

A tunnel has to carry packets of 1280 octets (IPv6), which its driver makes larger. Some paths do not take
these and drop them without a word. Both ends of the tunnel see that, as each probes both directions with
packets of that size; the dialer asks for another tunnel, whose ends cut packets into pieces. The one there is
stays until the new one is up, since small packets pass through it.

That a path is narrow is remembered for a while, so that the next tunnel cuts from the start. Whether it still
is can only be seen by a tunnel that does not cut: the first one after that time, or after the host has moved.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from ipaddress import IPv6Network

from re6st.core.context import Context

logger = logging.getLogger(__name__)

REMEMBERED_FOR = 86_400.0
"""Seconds."""

RETRY = (30.0, 3600.0)
"""First and longest wait before a peer is asked once more for a tunnel that cuts, seconds."""

REMEMBERED = 512
"""Peers, the latest ones."""


@dataclass(slots=True)
class _Memory:
    """What was seen of the path to one peer."""

    until: float
    """When it is forgotten (monotonic seconds)."""
    attempts: int = 0
    """Tunnels that were asked for on account of it."""
    not_before: float = float("-inf")
    """When the next one may be (monotonic seconds): older peers do not know how to cut."""


class NarrowPaths:
    """Remembers which peers need tunnels whose ends cut packets."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._memories: dict[IPv6Network, _Memory] = {}

    def leads_to(self, prefix: IPv6Network) -> bool:
        """Whether the path to the owner of ``prefix`` is known to be narrow."""
        memory = self._memories.get(prefix)
        return memory is not None and self._context.now < memory.until

    def found(self, prefix: IPv6Network) -> None:
        """Take note that the path to the owner of ``prefix`` is narrow."""
        memory = self._memories.pop(prefix, None) or _Memory(0.0)
        memory.until = self._context.now + REMEMBERED_FOR
        self._memories[prefix] = memory
        if len(self._memories) > REMEMBERED:
            del self._memories[next(iter(self._memories))]

    def may_ask(self, prefix: IPv6Network) -> bool:
        """Whether a tunnel to the owner of ``prefix`` may be asked for now; if so, that counts as done."""
        memory = self._memories.get(prefix)
        if memory is None or self._context.now < memory.not_before:
            return False
        memory.attempts += 1
        memory.not_before = self._context.now + self._context.backoff(RETRY, memory.attempts)
        return True

    def network_changed(self) -> None:
        """The host is elsewhere, where paths are others."""
        self._memories.clear()
