"""Watches the host's clocks: for pauses in which nothing ran, and for a wall clock that is set."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from re6st.core.events import ClockRead, Event
from re6st.node import pauses

logger = logging.getLogger(__name__)

INTERVAL = 60.0
"""Seconds between comparisons of the wall clock with the monotonic one."""


class ClockWatch:
    """Tells the core the time of day, and others that the host has slept or that its clock was set."""

    def __init__(
        self, report: Callable[[Event], None], slept: Callable[[], None], was_set: Callable[[], None]
    ) -> None:
        """Report to the core through ``report``; call ``slept`` after a pause, ``was_set`` after a step."""
        self._report = report
        self._slept = slept
        self._was_set = was_set

    def read(self) -> None:
        """Tell the core how far the wall clock is from the monotonic one."""
        self._report(ClockRead(time.time() - asyncio.get_running_loop().time()))

    async def run(self) -> None:
        """Watch for ever."""
        compared = before = time.clock_gettime(time.CLOCK_BOOTTIME)
        ahead = time.time() - before
        while True:
            await asyncio.sleep(pauses.INTERVAL)
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            pause, step = pauses.pause_between(before, now), pauses.step_between(ahead, time.time() - now)
            if pause or step or now - compared >= INTERVAL:
                self.read()
                compared = now
            if pause:
                logger.info("This host or process has slept for %.0f s", pause)
                self._slept()
            if step:
                direction = "forward" if step > 0 else "back"
                logger.warning("The clock of this host was set %s by %.0f s", direction, abs(step))
                self._was_set()
            before, ahead = now, time.time() - now
