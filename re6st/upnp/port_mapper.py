"""Keeps the port mappings that the node wants on the home router, as long as it runs.

PortMapper --- wishes ---> MappingPlan (pure) --- actions ---> AnyGateway
     ^                          ^ └──────────── results ─────────────┘
     └────── status, mappings ──┘
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from ipaddress import IPv4Address

from re6st.errors import UpnpError
from re6st.messages import Transport
from re6st.status import MappingStatus
from re6st.upnp.actions import Action, Add, Check, Discover, Mapping, Remove
from re6st.upnp.gateways import AnyGateway
from re6st.upnp.mappings import MappingPlan, Timing

logger = logging.getLogger(__name__)

MAP_TIMEOUT = 2.0
"""Seconds that someone waits for a mapping, unless told otherwise."""

STOP_TIMEOUT = 5.0
"""Seconds that the removal of all mappings may take."""


class PortMapper:
    """Port mappings of this node."""

    def __init__(
        self,
        changed: Callable[[], None],
        seed: str,
        *,
        secret: bytes,
        router: Callable[[], IPv4Address | None],
        timing: Timing | None = None,
        gateway: AnyGateway | None = None,
    ) -> None:
        """Call ``changed`` whenever mappings, outside address or the reason for having none changed.

        ``seed`` tells this node from others behind the same router (its prefix, for example), ``secret``
        proves to a router that a mapping is ours. ``router`` tells the default route's next hop.
        """
        self._changed = changed
        self._plan = MappingPlan(seed, random.SystemRandom().random, timing)
        self._gateway = gateway or AnyGateway(secret, router, self.suspect)
        self._wake = asyncio.Event()
        self._waiting: set[asyncio.Event] = set()
        self._task: asyncio.Task[None] | None = None
        self._action: Action | None = None
        """What the router is being asked."""
        self._is_outdated = False
        """The network has changed meanwhile."""
        self._stopping = False
        self._told: tuple[object, ...] = ()

    # -- what there is ----------------------------------------------------------------------------------

    @property
    def external_address(self) -> IPv4Address | None:
        """The router's outside address, if there is a router and its address is public."""
        return self._plan.address

    @property
    def reason(self) -> str:
        """Why nothing can be mapped, for people; empty if it can."""
        return self._plan.reason

    def why_not(self, transport: Transport, internal_port: int) -> str:
        """Return why ``internal_port`` is not mapped, for people; empty if it is."""
        return self._plan.why_not(transport, internal_port)

    def mapping(self, transport: Transport, internal_port: int) -> Mapping | None:
        """Return the mapping of ``internal_port`` if it is in force."""
        return self._plan.mapping(transport, internal_port)

    def mappings(self) -> tuple[Mapping, ...]:
        """Return all mappings in force."""
        return self._plan.mappings()

    def status(self) -> list[MappingStatus]:
        """Return what became of each port that was to be mapped."""
        return self._plan.status()

    # -- what is wanted ---------------------------------------------------------------------------------

    def want(self, transport: Transport, internal_port: int) -> None:
        """Have ``internal_port`` mapped as soon as a router allows it, until it is unmapped."""
        self._plan.want(transport, internal_port, self._now())
        self._wake.set()

    async def map(
        self, transport: Transport, internal_port: int, patience: float = MAP_TIMEOUT
    ) -> Mapping | None:
        """Want a mapping and wait for it, at most ``patience`` seconds.

        Returns None at once when there is no router to ask. The mapping stays wanted in any case.
        """
        self.want(transport, internal_port)
        progress = asyncio.Event()
        self._waiting.add(progress)
        try:
            async with asyncio.timeout(patience):
                while self._plan.is_pending(transport, internal_port) and self._task is not None:
                    progress.clear()
                    await progress.wait()
        except TimeoutError:
            logger.debug("No mapping of %s port %d after %g s", transport.value, internal_port, patience)
        finally:
            self._waiting.discard(progress)
        return self._plan.mapping(transport, internal_port)

    def unmap(self, transport: Transport, internal_port: int) -> None:
        """Have a mapping removed soon; nothing happens if there is none."""
        self._plan.unwant(transport, internal_port)
        self._wake.set()

    def network_changed(self) -> None:
        """Look at the router at once: addresses or routes of this host have changed."""
        self._is_outdated = True
        self._plan.network_changed(self._now())
        self._wake.set()

    def suspect(self) -> None:
        """Look soon whether the router is as it was: what comes in through it has fallen silent."""
        self._plan.suspect(self._now())
        self._wake.set()

    # -- life -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin; does not wait for anything."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="port mappings")

    async def stop(self) -> None:
        """Remove all mappings, within :data:`STOP_TIMEOUT` seconds."""
        task, self._task = self._task, None
        if task is None:
            return
        self._stopping = True
        self._wake.set()
        if isinstance(self._action, Discover) and not self._plan.holds_anything():
            # It may take seconds; anything else is let finish, so that no mapping escapes the removal.
            task.cancel()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await asyncio.wait([task])
                await self._remove_all()
        except TimeoutError:
            task.cancel()
            logger.warning("The home router may keep our port mappings until their lease ends: no answer")
        self._release_waiting()
        await self._gateway.close()

    async def hand_over(self) -> None:
        """Ask nothing more, and leave the mappings to the program that takes over."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._release_waiting()
        await self._gateway.close()

    async def _remove_all(self) -> None:
        self._plan.unwant_all()
        while (removal := self._plan.next_removal()) is not None:
            await self._remove(removal)

    async def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            self._is_outdated = False
            self._action = self._plan.next_action(self._now())
            if self._action is None:
                await self._sleep()
                continue
            try:
                await self._carry_out(self._action)
            except Exception:
                logger.exception("Port mapping failed in an unforeseen way: %s", self._action)
                self._plan.silent("an unforeseen failure; see the log", self._now())
            if self._is_outdated:
                # What came of it is true of the network before.
                self._plan.network_changed(self._now())
            self._tell()

    async def _sleep(self) -> None:
        deadline = self._plan.deadline()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._wake.wait()

    def _tell(self) -> None:
        """Wake those who wait, and report if there is news."""
        self._release_waiting()
        reasons = [(one.internal_port, one.reason) for one in self._plan.status()]
        news = (self._plan.address, self._plan.reason, *reasons, *self._plan.mappings())
        if news != self._told:
            self._told = news
            self._changed()

    def _release_waiting(self) -> None:
        for progress in self._waiting:
            progress.set()

    # -- actions ----------------------------------------------------------------------------------------

    async def _carry_out(self, action: Action) -> None:
        match action:
            case Discover():
                await self._discover(action)
            case Add():
                await self._add(action)
            case Check():
                await self._check(action)
            case Remove():
                await self._remove(action)

    async def _discover(self, action: Discover) -> None:
        try:
            address = await self._gateway.discover(action.avoided)
        except UpnpError as error:
            self._plan.missing(str(error), self._now())
        else:
            self._plan.found(address, self._now(), self._gateway.protocol)

    async def _add(self, action: Add) -> None:
        try:
            granted = await self._gateway.add(action)
        except UpnpError as error:
            if error.code is None:
                self._plan.silent(str(error), self._now())
            else:
                self._plan.refused(action, error.code, str(error), self._now())
        else:
            self._plan.added(action, granted, self._now())

    async def _check(self, action: Check) -> None:
        try:
            seen = await self._gateway.check(action.mappings)
        except UpnpError as error:
            self._plan.silent(str(error), self._now())
        else:
            self._plan.checked(seen.address, seen.lost, self._now())

    async def _remove(self, action: Remove) -> None:
        try:
            await self._gateway.remove(action)
        except UpnpError as error:
            logger.info("A port mapping stays until its lease ends: %s", error)
        self._plan.removed(action)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
