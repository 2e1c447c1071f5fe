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
    """Tells the core the time of day, and others that the host has slept."""

    def __init__(self, report: Callable[[Event], None], slept: Callable[[], None]) -> None:
        """Report to the core through ``report``; call ``slept`` after a pause."""
        self._report = report
        self._slept = slept

    def read(self) -> None:
        """Tell the core how far the wall clock is from the monotonic one."""
        self._report(ClockRead(time.time() - asyncio.get_running_loop().time()))

    async def run(self) -> None:
        """Watch for ever."""
        compared = before = time.clock_gettime(time.CLOCK_BOOTTIME)
        while True:
            await asyncio.sleep(pauses.INTERVAL)
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            if pause := pauses.pause_between(before, now):
                logger.info("This host or process has slept for %.0f s", pause)
                self._slept()
            if pause or now - compared >= INTERVAL:
                self.read()
                compared = now
            before = now
