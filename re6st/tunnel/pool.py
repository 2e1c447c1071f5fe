"""Pools of what tunnels use up: interface slots and listening ports. Pure, without time.

A slot (one interface of the fixed pool) can be taken again when two things are true: its driver has
ended, and the routing daemon has forgotten the neighbours it had there (a neighbour that returns too
early on the same interface meets its predecessor's state and waits long for its routes). The two come in
either order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class SlotPool:
    """The interfaces of a node: numbers from 0 up."""

    def __init__(self, size: int) -> None:
        """Make ``size`` slots, all free."""
        self._size = size
        self._taken: set[int] = set()
        self._noisy: set[int] = set()

    @property
    def available(self) -> int:
        """How many slots can be taken now."""
        return self._size - len(self._taken | self._noisy)

    def take(self) -> int | None:
        """Return the lowest free slot, which is then taken; None if there is none."""
        for slot in range(self._size):
            if slot not in self._taken and slot not in self._noisy:
                self._taken.add(slot)
                return slot
        return None

    def claim(self, slot: int) -> bool:
        """Take ``slot``; return whether it was free."""
        free = 0 <= slot < self._size and slot not in self._taken and slot not in self._noisy
        if free:
            self._taken.add(slot)
        return free

    def disturb(self, slot: int) -> None:
        """Note that the routing daemon uses ``slot``: it must grow quiet before it is taken again."""
        self._noisy.add(slot)

    def calm(self, slot: int) -> None:
        """Note that the routing daemon has forgotten ``slot``."""
        self._noisy.discard(slot)

    def release(self, slot: int) -> bool:
        """Give ``slot`` back; return whether it still has to grow quiet."""
        self._taken.discard(slot)
        return slot in self._noisy


class PortPool:
    """The ports on which a node can listen for one tunnel each."""

    def __init__(self, ports: Iterable[int]) -> None:
        """Make all ``ports`` free."""
        self._free = deque(ports)

    @property
    def available(self) -> int:
        """How many ports can be taken now."""
        return len(self._free)

    def take(self) -> int | None:
        """Return the port that has been free for longest, which is then taken; None if there is none.

        A late packet of the last tunnel on a port so meets nobody, rather than its successor.
        """
        return self._free.popleft() if self._free else None

    def claim(self, port: int) -> bool:
        """Take ``port``; return whether it is one of the pool and was free."""
        free = port in self._free
        if free:
            self._free.remove(port)
        return free

    def release(self, port: int) -> None:
        """Give ``port`` back."""
        self._free.append(port)
