"""All deadlines of the brain in one structure: each has a key, and a key has at most one deadline."""

from __future__ import annotations

import enum
import heapq
import itertools

_STALE = 64
"""Entries of the heap that may be out of date before it is rebuilt."""


class Timer(enum.Enum):
    """What a deadline is for; those marked so exist once per number."""

    TUNNEL = "tunnel"
    """Per handle: the tunnel must have changed its state by now."""
    SLOT = "slot"
    """Per slot: it is taken for quiet now."""
    ADMISSION = "admission"
    """A request has waited too long for its answer."""
    DIAL = "dial"
    ROTATE = "rotate"
    REUNION = "reunion"
    GOSSIP = "gossip"
    GOSSIP_TIMEOUT = "gossip timeout"
    """Per exchange: it has taken too long."""
    DOCUMENT = "document"
    """Per kind of document: fetching it has taken too long."""
    STORE = "store"
    REGISTRY = "registry"
    """Per operation: do it now."""
    REGISTRY_TIMEOUT = "registry timeout"
    """Per operation: it has taken too long."""
    SWEEP = "sweep"


Key = tuple[Timer, int]


class Deadlines:
    """A set of keyed deadlines, ordered by time."""

    def __init__(self) -> None:
        self._at: dict[Key, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._serial = itertools.count()

    def __len__(self) -> int:
        return len(self._at)

    def set(self, at: float, timer: Timer, number: int = 0) -> None:
        """Make ``at`` (monotonic seconds) the deadline of this key, instead of an earlier choice."""
        key = (timer, number)
        serial = next(self._serial)
        self._at[key] = (at, serial)
        heapq.heappush(self._heap, (at, serial, key))
        if len(self._heap) > 2 * len(self._at) + _STALE:
            self._heap = [(when, order, kept) for kept, (when, order) in self._at.items()]
            heapq.heapify(self._heap)

    def clear(self, timer: Timer, number: int = 0) -> None:
        """Remove the deadline of this key, if it has one."""
        self._at.pop((timer, number), None)

    def get(self, timer: Timer, number: int = 0) -> float | None:
        """Return the deadline of this key."""
        found = self._at.get((timer, number))
        return found[0] if found else None

    def next(self) -> float | None:
        """Return the earliest deadline."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def pop(self, now: float) -> Key | None:
        """Remove and return the key whose deadline passed first; None if none has passed by ``now``."""
        self._drop_stale()
        if not self._heap or self._heap[0][0] > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._at[key]
        return key

    def _drop_stale(self) -> None:
        while self._heap and self._at.get(self._heap[0][2], (0.0, -1))[1] != self._heap[0][1]:
            heapq.heappop(self._heap)
