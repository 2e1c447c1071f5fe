"""Finds the MTU of each tunnel on its real path, sets it, and guards it (I/O).

What to try is decided by :mod:`re6st.tunnel.path_mtu`. One task for each tunnel sends probes through it, in a
raised MTU of its interface that lasts only for the probe. Tunnels over TCP are not measured: the kernel
cuts the stream into pieces that fit.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from re6st.messages import Transport
from re6st.node.addresses import bind_to_interface
from re6st.node.prober import Prober
from re6st.node.tasks import Tasks
from re6st.tunnel.path_mtu import (
    SMALLEST,
    TRIES,
    UNMEASURED,
    Comparison,
    Measured,
    Origin,
    Search,
    TunnelPath,
    overhead,
)

logger = logging.getLogger(__name__)

SETTLING = 1.0
"""Seconds from when a tunnel is up to its first probe: routing's first exchange goes first."""

GUARD_INTERVAL = 10.0
"""Seconds between probes of full size through a tunnel in use: 0.15 kB/s."""

FIRST_RAISE_INTERVAL = 60.0
RAISE_INTERVAL = 3600.0
"""Seconds after which larger sizes are tried again: soon at first and after a loss, then ever more rarely."""

FIRST_PATIENCE = 1.0
"""Seconds that a probe may take before a round trip was measured."""

TCP_MTU = 1500
"""Octets, for tunnels over TCP: larger packets would delay small ones on slow lines."""

LARGEST_UNKNOWN = 1500
"""MTU of the underlay where the kernel does not tell, octets."""

_IP_MTU, _IPV6_MTU = 14, 24  # ip(7), ipv6(7); not in Python's socket module


class Interfaces(Protocol):
    """The kernel's interfaces, as far as their MTU is concerned."""

    async def mtu(self, name: str) -> int | None:
        """Return the MTU of the interface ``name``, None if there is none."""

    async def set_mtu(self, name: str, mtu: int) -> None:
        """Set the MTU of the interface ``name``."""


class Use(Protocol):
    """What is known of tunnels by their use; see :mod:`re6st.node.liveness_monitor`."""

    def in_use(self, interface: str) -> bool:
        """Return whether the tunnel carries traffic now."""

    def patience(self, interface: str) -> float | None:
        """Return how long an answer may take, seconds; None if that is not known."""


@dataclass(slots=True)
class _Path:
    """One tunnel that is up."""

    given: TunnelPath
    remote: str
    """Address at the other end, empty while unknown."""
    task: asyncio.Task[None] | None = None
    underlay: int = LARGEST_UNKNOWN
    """MTU towards ``remote`` when it was last known, octets."""
    measured: Measured = UNMEASURED
    waiting: dict[int, asyncio.Event] = field(default_factory=dict)
    """Probes under way by number, and whether they are answered."""
    probe: int = 0
    """Number of the last one."""
    believed: int | None = None
    """What the kernel took for the largest packet when larger ones were last tried, octets."""
    outdated: bool = False
    """The path may be another one than was measured."""

    @property
    def interface(self) -> str:
        """Name of the tunnel's interface."""
        return self.given.interface

    @property
    def mtu(self) -> int:
        """What its interface is set to, octets."""
        return self.measured.mtu


def path_mtu(address: str, uplink: str = "") -> int | None:
    """Return the MTU of the underlay's path to ``address`` as far as the kernel knows it, octets.

    That is the interface's until a router has complained. Only routes through the interface ``uplink`` are
    considered, unless that is empty. None if the kernel does not tell: there is no way
    to the address now, or file descriptors have run short.
    """
    version = ipaddress.ip_address(address).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            bind_to_interface(probe, uplink)
            probe.connect((address, 9))  # nothing is sent
            if version == 4:
                return probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
            return probe.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
    except OSError as error:
        logger.debug("No path MTU towards %s: %s", address, error)
        return None


class PathMtuMonitor:
    """All tunnels that are in use by routes."""

    def __init__(
        self,
        interfaces: Interfaces,
        use: Use,
        settled: Callable[[int, Measured], None],
        narrow: Callable[[int], None],
    ) -> None:
        """Call ``settled`` with the number of a tunnel and its MTU whenever that has changed, and ``narrow``
        whenever packets of 1280 octets were found not to pass.
        """
        self._interfaces = interfaces
        self._use = use
        self._settled = settled
        self._narrow = narrow
        self._paths: dict[str, _Path] = {}
        self._prober = Prober(self._on_answer)
        # Those that were cancelled as well: they set an MTU before they end.
        self._tasks = Tasks()

    async def start(self) -> None:
        """Begin. Raises :class:`NetlinkError`."""
        self._prober.open()

    async def stop(self) -> None:
        """Measure nothing any more; MTUs stay as they are."""
        for path in list(self._paths.values()):
            self.end(path.given.tunnel, path.interface)
        await self._tasks.stop()
        self._prober.close()

    def begin(self, given: TunnelPath) -> None:
        """Measure a tunnel whose interface is up."""
        previous = self._paths.pop(given.interface, None)
        if previous is not None and previous.task is not None:
            previous.task.cancel()
        remote = given.remote.address.lower().removeprefix("::ffff:") if given.remote is not None else ""
        path = self._paths[given.interface] = _Path(given, remote)
        work = self._take_tcp(path) if given.transport is Transport.TCP else self._follow(path)
        path.task = self._tasks.spawn(work, f"measure the MTU of {given.interface}")

    def measure_again(self) -> None:
        """Measure all tunnels soon: the host is elsewhere, where paths are others."""
        for path in self._paths.values():
            path.outdated = True

    def end(self, tunnel: int, interface: str) -> None:
        """Do not measure ``tunnel`` any more."""
        path = self._paths.get(interface)
        if path is not None and path.given.tunnel == tunnel:
            del self._paths[interface]
            self._prober.forget(interface)
            if path.task is not None:
                path.task.cancel()

    # -- one tunnel -------------------------------------------------------------------------------------

    async def _take_tcp(self, path: _Path) -> None:
        await self._settle(path, Measured(min(path.given.ceiling, TCP_MTU), Origin.STREAM))

    async def _follow(self, path: _Path) -> None:
        # A tunnel that was taken over from an earlier daemon has been measured.
        path.measured = Measured(await self._interfaces.mtu(path.interface) or SMALLEST)
        self._settled(path.given.tunnel, path.measured)
        await asyncio.sleep(SETTLING)
        interval = FIRST_RAISE_INTERVAL
        while True:
            if await self._drops(path, SMALLEST):
                if path.measured.origin is not Origin.NARROW:
                    self._warn(path)
                await self._settle(path, Measured(SMALLEST, Origin.NARROW))
                self._narrow(path.given.tunnel)
                interval = FIRST_RAISE_INTERVAL
            elif path.given.fragments:
                await self._settle(path, Measured(SMALLEST, Origin.PIECES))
            else:
                await self._search(path)
            changed = await self._guard(path, interval)
            changed = changed or path.measured.origin is Origin.NARROW
            interval = FIRST_RAISE_INTERVAL if changed else min(RAISE_INTERVAL, 4 * interval)

    @staticmethod
    def _warn(path: _Path) -> None:
        logger.warning(
            "The tunnel on %s does not carry packets of %d octets%s: some router on its path drops them and"
            " does not say so; let ICMP through",
            path.interface,
            SMALLEST,
            " although its ends cut them" if path.given.fragments else " in one piece",
        )

    async def _search(self, path: _Path) -> None:
        """Find the MTU and set it."""
        ceiling = path.given.ceiling
        search = Search(min(ceiling, _largest(path)), overhead(":" in path.remote))
        silent = False
        while (size := search.next) is not None:
            largest = _largest(path)
            if size > largest:
                search.limited(largest)
            elif await self._passes(path, size):
                search.passed(size)
            elif _largest(path) >= size:
                search.failed(size)
                silent = True
        if search.proven >= ceiling:
            origin = Origin.AGREED
        elif _largest(path) < SMALLEST:
            origin = Origin.FRAGMENTS
        else:
            origin = Origin.PROBES if silent else Origin.UNDERLAY
        path.believed = _largest(path)
        await self._settle(path, Measured(search.proven, origin))

    async def _guard(self, path: _Path, interval: float) -> bool:
        """Return when the MTU has to be searched again: after ``interval``, or because it does not pass.

        Returns whether larger sizes are worth another try soon: packets were lost, the host has moved, or the
        kernel has forgotten what a router told (after ten minutes: net.ipv4.route.mtu_expires).
        """
        until = asyncio.get_running_loop().time() + interval
        while asyncio.get_running_loop().time() < until:
            used = await self._was_used(path)
            if path.outdated:
                path.outdated = False
                return True
            if not used or path.measured.origin is Origin.NARROW:
                continue
            if path.believed is not None and _largest(path) > path.believed:
                return True
            if max(SMALLEST, _largest(path)) < path.mtu or await self._drops(path, path.mtu):
                logger.info("Packets of %d octets do not pass %s any more", path.mtu, path.interface)
                await self._settle(path, UNMEASURED)
                return True
        return False

    async def _was_used(self, path: _Path) -> bool:
        """Return after a while whether the tunnel was in use meanwhile; a stalled transfer pauses long."""
        used = False
        for _ in range(round(GUARD_INTERVAL)):
            await asyncio.sleep(1.0)
            if path.outdated:
                break
            used = used or self._use.in_use(path.interface)
        return used

    async def _passes(self, path: _Path, size: int) -> bool:
        """Return whether a packet of ``size`` octets comes through, in one of some tries.

        When a router has told the kernel that it is too large, further tries would only show that fragments
        come through.
        """
        patience = self._use.patience(path.interface) or FIRST_PATIENCE
        passed = False
        await self._set(path, max(path.mtu, size))
        try:
            for attempt in range(TRIES):
                answered = self._ask(path, size)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(answered.wait(), patience * 2**attempt)
                    passed = True
                    break
                if _largest(path) < size:
                    break
            return passed
        finally:
            path.waiting.clear()
            if not passed:
                await self._set(path, path.mtu)

    async def _drops(self, path: _Path, size: int) -> bool:
        """Return whether packets of ``size`` octets are lost while small ones, sent along with them, pass."""
        patience = self._use.patience(path.interface) or FIRST_PATIENCE
        comparison = Comparison()
        while comparison.open:
            large, small = self._ask(path, size), self._ask(path)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(large.wait(), patience * 2**comparison.lost)
            comparison.take(large=large.is_set(), small=small.is_set())
            path.waiting.clear()
            if max(SMALLEST, _largest(path)) < size:
                return True
        return comparison.drops_large_ones

    def _ask(self, path: _Path, size: int = 0) -> asyncio.Event:
        """Send a probe of ``size``, or as small as it can be; return what is set when it is answered."""
        path.probe = (path.probe + 1) & 0xFFFF
        answered = path.waiting[path.probe] = asyncio.Event()
        self._prober.send(path.interface, path.probe, size)
        return answered

    def _on_answer(self, interface: str, number: int) -> None:
        path = self._paths.get(interface)
        if path is not None and (answered := path.waiting.get(number)) is not None:
            answered.set()

    async def _settle(self, path: _Path, measured: Measured) -> None:
        before, path.measured = path.measured, measured
        await self._set(path, measured.mtu)
        if measured != before:
            logger.info(
                "The tunnel on %s carries packets of %d octets: %s",
                *(path.interface, measured.mtu, measured.origin.explanation),
            )
            self._settled(path.given.tunnel, measured)

    async def _set(self, path: _Path, mtu: int) -> None:
        await self._interfaces.set_mtu(path.interface, mtu)


def _largest(path: _Path) -> int:
    """Return the largest packet that the underlay takes whole, as far as the kernel knows."""
    if path.remote:
        path.underlay = path_mtu(path.remote, path.given.uplink) or path.underlay
    return path.underlay - overhead(":" in path.remote)
