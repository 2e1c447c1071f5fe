"""Values that cost time: kept for a multiple of what they took, so that asking often stays cheap."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")

SHARE = 0.01
"""Part of the time that may be spent on making the value anew."""

LONGEST = 300.0
"""Seconds after which it is made anew in any case: that it took long may have been by chance."""


class Kept(Generic[Value]):
    """A value that is made when somebody asks for it, unless the one from before is young enough.

    What takes 0.5 s is kept for 50 s, what takes 1 ms is as good as never old, and nothing is kept for longer
    than :data:`LONGEST`.
    """

    def __init__(self, make: Callable[[], Value], clock: Callable[[], float] = time.monotonic) -> None:
        """``make`` returns the value; ``clock`` returns seconds that never go back."""
        self._make = make
        self._clock = clock
        self._value: Value | None = None
        self._until = float("-inf")

    def get(self) -> Value:
        """Return the value. Raises what making it raises."""
        began = self._clock()
        if self._value is None or began >= self._until:
            self._value = self._make()
            ended = self._clock()
            self._until = ended + min((ended - began) / SHARE, LONGEST)
        return self._value
