"""babeld as a supervised child, with its interfaces, and what it tells of neighbours and routes (I/O).

Life of a tunnel interface: :meth:`Babeld.attach` while the link is down (babeld reads cost and intervals
when the link comes up), link up, :class:`NeighbourUp`, routes; link down, :meth:`Babeld.detach`,
:class:`InterfaceQuiet`, next peer. Interfaces are never taken away from babeld: it would go on using
memory that it has freed.

The connection to babeld may end at any time, also because we were too slow to read. Then we connect again,
tell babeld all interfaces again (which changes nothing if it still knows them) and read everything again.
A babeld that runs but answers nothing any more is killed.

The process is the business of :mod:`re6st.routing.babeld_child`, LANs that of
:mod:`re6st.routing.lan_neighbours`; :mod:`re6st.routing.introductions` and :mod:`re6st.routing.draining`
speak to neighbours beside babeld.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from ipaddress import IPv6Network
from pathlib import Path

from re6st.errors import ChildError, StorageError
from re6st.messages import NetworkParameters
from re6st.routing import configuration as settings
from re6st.routing.babeld_child import BabeldChild
from re6st.routing.configuration import BabelConfiguration, BabelFiles
from re6st.routing.control import ControlConnection, UnansweredError
from re6st.routing.draining import RouteMover
from re6st.routing.introductions import Introductions
from re6st.routing.lan import LanKey
from re6st.routing.lan_neighbours import LanNeighbours
from re6st.routing.links import Link, Links
from re6st.routing.monitor import Action, Route, Update
from re6st.routing.table import (
    Change,
    InterfaceQuiet,
    InterfaceUp,
    NeighbourHeard,
    NeighbourRestarted,
    RoutingTable,
)
from re6st.supervisor import ChildExit, Supervisor

logger = logging.getLogger(__name__)

START_TIMEOUT = 5.0
"""Seconds that babeld has to open its socket."""

WATCH_INTERVAL = 5.0
"""Seconds between signs of life of babeld."""

MOST_SILENCES = 2
"""Questions in a row, on connections of their own, to which a babeld that hangs gives no answer."""

_RECONNECT_INTERVAL = 0.02
_SLOW_RECONNECT_INTERVAL = 0.5


@dataclass(frozen=True, slots=True)
class Started:
    """A babeld has begun that knows nothing yet; routes of the one before may be in the kernel."""


class Babeld:
    """The routing daemon of this node."""

    def __init__(
        self,
        runtime_directory: Path,
        state_directory: Path,
        supervisor: Supervisor,
        configuration: BabelConfiguration,
        report: Callable[[Change | Started], None],
    ) -> None:
        """Call ``report`` in the event loop for each change of neighbours and routes."""
        self._further: tuple[IPv6Network, ...] = ()
        self._files = BabelFiles.inside(runtime_directory, state_directory)
        self._child = BabeldChild(self._files, supervisor, self._on_exit)
        self._configuration = configuration
        self._report = report
        self._links = Links()
        self._lans = LanNeighbours(configuration.lan_interfaces, lambda: self.table, self._child.kill)
        self._introductions = Introductions(configuration.port, self._links, lambda: self.table)
        self._mover = RouteMover(configuration.port, lambda: self.table, self._links.attached)
        self._connection: ControlConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._silences = 0
        """How often in a row babeld did not answer."""
        self._known_pid: int | None = None
        """The babeld that was talked to last."""
        self._former = RoutingTable()
        """What the babeld of an earlier daemon knew whose place ours has taken."""
        self._ready: asyncio.Future[None] | None = None
        self.table = RoutingTable()
        """What babeld knows; while the connection is interrupted, what it knew last."""
        self.state = "stopped"
        """For people."""

    async def start(self) -> None:
        """Start babeld, or adopt that of an earlier daemon; it is supervised and started again from now on.

        Raises :class:`ChildError` when it does not come up, for example because its port is taken, and
        :class:`StorageError` when its configuration cannot be written.
        """
        self._ready = asyncio.get_running_loop().create_future()
        self._set_state("starting")
        # Whoever has claimed a part of a prefix before is not believed for a moment.
        self._configuration = replace(self._configuration, denied=self._child.denied(self._further))
        if await self._child.adopt(self._configuration):
            self._known_pid = self._child.pid
        else:
            self._former = await self._child.knowledge()
            await self._child.start(self._configuration)
        self._task = asyncio.create_task(self._keep_connected(), name="babeld")
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), START_TIMEOUT)
        except TimeoutError as error:
            output = self._child.last_output()
            await self.stop()
            raise ChildError(f"babeld is not ready after {START_TIMEOUT:.0f} s", output=output) from error
        except ChildError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End babeld. It retracts its routes, so that no neighbour sends packets here any more.

        Raises :class:`ChildError` when it cannot be ended.
        """
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._introductions.stop()
        await self._mover.stop()
        await self._child.stop()
        self._set_state("stopped")

    async def attach(self, interface: str, cost: int, peer: IPv6Network | None = None) -> None:
        """Let babeld use ``interface`` with ``cost`` (1 to 65534); call it before the link is set up.

        ``peer`` is the node prefix of the peer: with it the first exchange of routes is much faster. While
        babeld is being started again this only takes note. Raises :class:`ChildError`.
        """
        command = self._command(interface, cost)
        self._links[interface] = Link(cost, peer, self._configuration.hello_interval)
        if self._connection is not None:
            self._introductions.announce(interface)
            await self._connection.command(command)

    async def resume(self, interface: str, cost: int, peer: IPv6Network) -> None:
        """Let babeld use ``interface``, whose link is up since an earlier daemon has called :meth:`attach`.

        Raises :class:`ChildError`.
        """
        await self.attach(interface, cost, peer)
        self._introductions.begin(self._former.usable_neighbours(interface))

    def use(self, parameters: NetworkParameters) -> None:
        """Give interfaces the intervals of ``parameters`` when their links come up the next time.

        The port stays until the next start: all routers of a network must change it together anyway.
        """
        self._configuration = replace(
            self._configuration,
            hello_interval=parameters.hello_interval,
            update_interval=parameters.update_interval,
        )

    def own(self, further: tuple[IPv6Network, ...]) -> None:
        """Let the node have these ``further`` prefixes; babeld announces them as soon as the kernel has their
        routes, and nobody else may claim a part of them.
        """
        self._further = further
        self._deny({route.prefix for route in self.table.routes()})

    @property
    def lan_interfaces(self) -> tuple[str, ...]:
        """Interfaces of trusted LANs."""
        return self._lans.interfaces

    @property
    def port(self) -> int:
        """UDP port of the protocol."""
        return self._configuration.port

    @property
    def has_lan_key(self) -> bool:
        """Whether neighbours are looked for in LANs."""
        return self._lans.has_key

    async def use_lan_key(self, key: LanKey) -> None:
        """Look for neighbours in the LANs that know ``key``, and no longer for those with another one.

        While babeld is being started again this only takes note. Raises :class:`ChildError`.
        """
        await self._lans.use_key(key, self._connection)

    def detach(self, interface: str) -> None:
        """Take note that the link of ``interface`` was set down.

        :class:`InterfaceQuiet` is reported when babeld has forgotten the neighbour (after about 17 hello
        intervals), or at once if there is none. It is not reported of interfaces that are attached.
        """
        self._introductions.forget(interface)
        # Routes that have left the interface tell only of a planned removal that all is well: babeld may
        # have heard of a link that was set down before us.
        planned = self._mover.is_draining(interface) and self.is_drained(interface)
        self._mover.forget(interface)
        if (link := self._links.get(interface)) is not None:
            link.attached = False
            if not planned:
                self._mover.hurry()
        if self.table.is_quiet(interface):
            self._report(InterfaceQuiet(interface))

    def drain(self, interface: str) -> None:
        """Move routes away from ``interface``, which stays usable; see :mod:`re6st.routing.draining`."""
        if (link := self._links.get(interface)) is not None and link.attached:
            self._mover.drain(interface, link.hello_interval)

    def is_drained(self, interface: str, but: IPv6Network | None = None) -> bool:
        """Return whether no route of this node leads through ``interface``, except the one to ``but``."""
        return not any(
            route.interface == interface and route.prefix != but for route in self.table.installed()
        )

    def _command(self, interface: str, cost: int) -> str:
        return settings.interface_command(self._configuration, interface, cost)

    # -- the connection ---------------------------------------------------------------------------------

    def _on_exit(self, end: ChildExit) -> None:
        if end.requested:
            return
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(end.error())
            return
        logger.warning("babeld %s; it is started again", end.describe())
        self._set_state(f"babeld {end.describe()}, starting again")

    async def _keep_connected(self) -> None:
        """Connect again whenever the connection has ended. A babeld that hangs is killed."""
        failures = 0
        while True:
            try:
                await self._converse()
                failures = 0
            except ChildError as error:
                failures += 1
                logger.debug("No connection to babeld: %s", error)
                self._silences += isinstance(error, UnansweredError)
            if self._silences >= MOST_SILENCES:
                logger.warning("babeld hangs; it is killed, and started again")
                self._child.kill()
                self._silences = 0
            patient = failures > START_TIMEOUT / _RECONNECT_INTERVAL
            await asyncio.sleep(_SLOW_RECONNECT_INTERVAL if patient else _RECONNECT_INTERVAL)

    async def _converse(self) -> None:
        """Connect, tell babeld all interfaces, read everything, then follow the changes until the end."""
        fresh, complete = RoutingTable(), False

        def note(update: Update) -> None:
            changes = fresh.apply(update)
            if self._further and isinstance(update.thing, Route) and update.action is not Action.FLUSH:
                self._deny({update.thing.prefix})
            if complete:
                self._announce(changes)

        introduction: asyncio.Task[None] | None = None
        connection = await ControlConnection.open(self._files.socket, note)
        self._connection = connection
        self._silences = 0
        try:
            former = self._introductions.used_neighbours() if self._note_start() else []
            for interface in self._links:
                self._introductions.announce(interface)
                await connection.command(self._command(interface, self._links[interface].cost))
            await self._lans.enter_again(connection)
            await connection.command("monitor")
            changes = fresh.changes_since(self.table)
            self.table, complete = fresh, True
            introduction = asyncio.create_task(
                self._introductions.introduce(former), name="introduce neighbours"
            )
            self._set_state("running")
            if self._ready is not None and not self._ready.done():
                self._ready.set_result(None)
            self._lans.connected()
            self._announce(changes)
            for interface in self._links:
                if fresh.is_up(interface) and not fresh.has_heard_routes(interface):
                    self._introductions.nudge(interface)
            await connection.watch(WATCH_INTERVAL)
        finally:
            self._connection = None
            if introduction is not None:
                introduction.cancel()
            await connection.close()

    def _note_start(self) -> bool:
        """Return whether this babeld is another one than that of the last connection."""
        pid = self._child.pid
        if pid != self._known_pid:
            self._known_pid = pid
            self._lans.restarted()
            self._report(Started())
            return True
        return False

    def _deny(self, claimed: Collection[IPv6Network]) -> None:
        """Deny all parts of a further prefix if one of them is among those that others have ``claimed``."""
        denied = tuple(
            own
            for own in self._further
            if own in self._configuration.denied
            or any(prefix != own and prefix.subnet_of(own) for prefix in claimed)
        )
        if denied == self._configuration.denied:
            return
        self._configuration = replace(self._configuration, denied=denied)
        logger.warning(
            "Starting babeld again with other filters; prefixes of this node of which peers claim a part: %s",
            ", ".join(map(str, denied)) or "none any more",
        )
        try:
            self._child.configure(self._configuration)
        except StorageError as error:
            logger.error("babeld goes on with its old filters: %s", error)
        else:
            self._child.kill()

    def _announce(self, changes: list[Change]) -> None:
        for change in changes:
            if self._lans.take(change):
                continue
            if isinstance(change, InterfaceUp | NeighbourHeard):
                self._introductions.nudge(change.interface)
            if isinstance(change, NeighbourRestarted):
                self._introductions.greet_again(change.interface)
            if isinstance(change, InterfaceQuiet) and self._links.is_attached(change.interface):
                continue
            self._report(change)

    def _set_state(self, state: str) -> None:
        if state != self.state:
            logger.debug("= babeld: %s -> %s", self.state, state)
            self.state = state
