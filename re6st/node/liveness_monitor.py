"""Watches all tunnels by their use: reads counters, sends probes, reports the tunnel that is dead (I/O).

What the figures mean is decided by :mod:`re6st.tunnel.liveness`. All counters come from one file, which is
read often while any tunnel carries traffic and rarely while none does, and never so often that reading
takes more than :data:`LARGEST_SHARE` of a core: it lists all interfaces of the host, which may be many.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from re6st.errors import NetlinkError
from re6st.node.prober import Prober
from re6st.tunnel.liveness import Counts, Liveness, State

logger = logging.getLogger(__name__)

COUNTERS = "/proc/thread-self/net/dev"
"""Counters of all interfaces of our network namespace (proc(5)); that of /sys depends on who mounted it."""

BUSY_INTERVAL = 0.1
"""Seconds between looks while a tunnel is in use."""

IDLE_INTERVAL = 0.3
"""Seconds between looks otherwise."""

LARGEST_SHARE = 0.005
"""Part of a core that looks may cost."""

SHORTEST_INTERVAL = 0.005
"""Seconds between any two looks."""

_NOTHING = Counts(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Watched:
    tunnel: int
    detector: Liveness


class LivenessMonitor:
    """All tunnels that are in use by routes."""

    def __init__(self, silent: Callable[[int], None]) -> None:
        """Call ``silent`` with the number of a tunnel that is dead; it is not watched any more then."""
        self._silent = silent
        self._watched: dict[str, _Watched] = {}
        self._prober = Prober(self._on_answer)
        self._counters: int | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Begin. Raises :class:`NetlinkError`."""
        try:
            self._counters = os.open(COUNTERS, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NetlinkError(f"cannot read {COUNTERS}: {error.strerror}") from error
        self._prober.open()
        self._task = asyncio.create_task(self._run(), name="watch tunnels")

    async def stop(self) -> None:
        """Watch nothing any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._prober.close()
        if self._counters is not None:
            os.close(self._counters)
            self._counters = None

    def watch(self, tunnel: int, interface: str) -> None:
        """Watch ``tunnel``, whose ``interface`` is up."""
        counts = self._read_counts({interface: None}).get(interface, _NOTHING)
        detector = Liveness(f"liveness of {interface}", time.monotonic(), counts)
        self._watched[interface] = _Watched(tunnel, detector)
        self._wake.set()

    def suspect_all(self) -> None:
        """Ask all peers now, also through idle tunnels: this host has moved, slept or lost an uplink."""
        for watched in self._watched.values():
            watched.detector.suspect(time.monotonic())
        self._wake.set()

    def forget(self, tunnel: int, interface: str) -> None:
        """Do not watch ``tunnel`` any more."""
        watched = self._watched.get(interface)
        if watched is not None and watched.tunnel == tunnel:
            del self._watched[interface]
            self._prober.forget(interface)

    def detector(self, interface: str) -> Liveness | None:
        """Return what is known of the tunnel on ``interface``."""
        watched = self._watched.get(interface)
        return watched.detector if watched is not None else None

    def round_trip(self, interface: str) -> float | None:
        """Return the smoothed round-trip time of a tunnel in seconds, None if it was not measured."""
        detector = self.detector(interface)
        return detector.round_trip.smoothed if detector is not None else None

    def in_use(self, interface: str) -> bool:
        """Return whether a tunnel carries traffic now."""
        detector = self.detector(interface)
        return detector is not None and detector.in_use

    def patience(self, interface: str) -> float | None:
        """Return how long an answer through a tunnel may take, seconds; None if that was not measured."""
        detector = self.detector(interface)
        if detector is None or detector.round_trip.smoothed is None:
            return None
        return detector.round_trip.patience

    # -- the rhythm -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._watch()
            except Exception:
                logger.exception("While watching tunnels")
                await asyncio.sleep(1.0)

    async def _watch(self) -> None:
        scheduled = time.monotonic()
        while True:
            now = time.monotonic()
            self._look(now, now - scheduled)
            pause = self._pause(now, time.monotonic() - now)
            if pause is None:
                self._wake.clear()
                await self._wake.wait()
                scheduled = time.monotonic()
            else:
                scheduled = time.monotonic() + pause
                await asyncio.sleep(pause)

    def _look(self, now: float, late: float) -> None:
        self._prober.read()
        counts = self._read_counts(self._watched)
        for interface, watched in list(self._watched.items()):
            number = watched.detector.look(now, counts.get(interface, _NOTHING), late)
            if number is not None:
                self._prober.send(interface, number)
            if watched.detector.state is State.DEAD:
                self.forget(watched.tunnel, interface)
                self._silent(watched.tunnel)

    def _pause(self, now: float, cost: float) -> float | None:
        """Return the seconds until the next look; None if there is nothing to look at."""
        detectors = [watched.detector for watched in self._watched.values()]
        if not detectors:
            return None
        interval = BUSY_INTERVAL if any(detector.in_use for detector in detectors) else IDLE_INTERVAL
        # A look that was interrupted only seems to be dear: that must not make us blind for long.
        interval = max(interval, min(cost / LARGEST_SHARE, 3 * interval))
        step = min(detector.deadline for detector in detectors) - now
        return max(SHORTEST_INTERVAL, min(interval, step))

    # -- evidence ---------------------------------------------------------------------------------------

    def _on_answer(self, interface: str, number: int) -> None:
        watched = self._watched.get(interface)
        if watched is not None:
            watched.detector.answered(time.monotonic(), number)

    def _read_counts(self, wanted: Mapping[str, object]) -> dict[str, Counts]:
        if self._counters is None or not wanted:
            return {}
        os.lseek(self._counters, 0, os.SEEK_SET)
        parts = []
        # The kernel gives at most a page at a time.
        while part := os.read(self._counters, 65536):
            parts.append(part)
        return parse_counters(b"".join(parts).decode(), wanted)


def parse_counters(text: str, wanted: Mapping[str, object]) -> dict[str, Counts]:
    """Return the counters of the ``wanted`` interfaces in ``text``, which has the form of /proc/net/dev."""
    found = {}
    for line in text.splitlines():
        name, separator, rest = line.partition(":")
        name = name.strip()
        if separator and name in wanted:
            values = rest.split(None, 10)
            found[name] = Counts(
                sent_packets=int(values[9]),
                sent_octets=int(values[8]),
                received_packets=int(values[1]),
                received_octets=int(values[0]),
            )
    return found
