"""Narrow paths: peers to which not even the smallest tunnel's packets pass in one piece.

A tunnel has to carry packets of 1280 octets (IPv6), which its driver makes larger. Some paths do not take
these and drop them without a word. Both ends of the tunnel see that, as each probes both directions with
packets of that size; the dialer asks for another tunnel, whose ends cut packets into pieces. The one there is
stays until the new one is up, since small packets pass through it.

That a path is narrow is remembered for a while, at first for a short one, so that the next tunnel cuts from
the start. Whether it still is can only be seen by a tunnel that does not cut. Its dialer asks for such a one
after that time, or after the host has moved, in place of one that cuts.

Peers with an older version offer a tunnel that does not cut. It would lose large packets, which is better
than no tunnel but worse than any other: the node goes without while it has others that carry these packets,
and asks ever more rarely whether the peer has learnt it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from ipaddress import IPv6Network

from re6st.core.context import Context

logger = logging.getLogger(__name__)

REMEMBERED_FOR = (900.0, 86_400.0)
"""Seconds, the first time and at most: each time that the path is found to be narrow still, twice as long."""

RETRY = (30.0, 3600.0)
"""First and longest wait before a peer is asked once more for another tunnel, seconds."""

REMEMBERED = 512
"""Peers, the latest ones."""


@dataclass(slots=True)
class _Memory:
    """What was seen of the path to one peer."""

    until: float = float("-inf")
    """When it is forgotten that the path is narrow (monotonic seconds)."""
    findings: int = 0
    """How often the path was found to be narrow after that was forgotten, or for the first time."""
    attempts: int = 0
    """Tunnels that were asked for on account of it."""
    not_before: float = float("-inf")
    """When the next one may be (monotonic seconds)."""
    refusals: int = 0
    """Tunnels in a row that should cut and were offered without."""
    refused_until: float = float("-inf")
    """When the peer may have learnt to cut, at the latest (monotonic seconds)."""


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
        memory = self._remember(prefix)
        if self._context.now < memory.until:
            return
        if self._context.now > memory.until + REMEMBERED_FOR[-1]:
            memory.findings = 0  # it was wide for long
        memory.findings += 1
        memory.until = self._context.now + self._context.backoff(REMEMBERED_FOR, memory.findings)
        memory.attempts, memory.not_before = 0, float("-inf")

    def may_ask(self, prefix: IPv6Network) -> bool:
        """Whether another tunnel to the owner of ``prefix`` may be asked for; if so, that counts as done."""
        memory = self._remember(prefix)
        if self._context.now < memory.not_before:
            return False
        memory.attempts += 1
        memory.not_before = self._context.now + self._context.backoff(RETRY, memory.attempts)
        return True

    def refused(self, prefix: IPv6Network) -> float:
        """Take note that the owner of ``prefix`` does not cut; return how long to leave it alone, seconds."""
        memory = self._remember(prefix)
        memory.refusals += 1
        memory.refused_until = self._context.now + REMEMBERED_FOR[-1]
        return self._context.backoff(RETRY, memory.refusals)

    def agreed(self, prefix: IPv6Network) -> None:
        """Take note that the owner of ``prefix`` cuts."""
        memory = self._remember(prefix)
        memory.refusals, memory.refused_until = 0, float("-inf")

    def hopeless(self, prefix: IPv6Network) -> bool:
        """Whether the path to the owner of ``prefix`` is narrow, and the peer cannot help it."""
        return self.leads_to(prefix) and self._context.now < self._memories[prefix].refused_until

    def network_changed(self) -> None:
        """The host is elsewhere, where paths are others."""
        self._memories.clear()

    def _remember(self, prefix: IPv6Network) -> _Memory:
        memory = self._memories.pop(prefix, None) or _Memory()
        self._memories[prefix] = memory
        if len(self._memories) > REMEMBERED:
            del self._memories[next(iter(self._memories))]
        return memory
