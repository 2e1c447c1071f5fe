"""babeld as a supervised child, with its interfaces, and what it tells of neighbours and routes (I/O).

Life of a tunnel interface: :meth:`Babeld.attach` while the link is down (babeld reads cost and intervals
when the link comes up), link up, :class:`NeighbourUp`, routes; link down, :meth:`Babeld.detach`,
:class:`InterfaceQuiet`, next peer. Interfaces are never taken away from babeld: it would go on using
memory that it has freed.

The connection to babeld may end at any time, also because we were too slow to read. Then we connect again,
tell babeld all interfaces again (which changes nothing if it still knows them) and read everything again.
A babeld that runs but answers nothing any more is killed.

A babeld that an earlier daemon has started is taken over if it was started as we would start it and answers.
Otherwise it is killed, not asked to end: it would retract its routes, while traffic can go on by those that
are in the kernel until the next babeld knows better (:class:`Started`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Network
from pathlib import Path

from re6st.errors import ChildError, NetlinkError
from re6st.files import write_atomically
from re6st.messages import NetworkParameters
from re6st.routing import configuration as settings
from re6st.routing import lan
from re6st.routing.configuration import BabelConfiguration, BabelFiles
from re6st.routing.control import ControlConnection, UnansweredError
from re6st.routing.draining import RouteMover, inject_packet
from re6st.routing.first_exchange import first_packet, greeting, send_packet, wildcard_request
from re6st.routing.lan import LanKey
from re6st.routing.monitor import INFINITY, Neighbour, Update
from re6st.routing.table import (
    Change,
    InterfaceQuiet,
    InterfaceUp,
    NeighbourDown,
    NeighbourHeard,
    NeighbourRestarted,
    NeighbourUp,
    RoutesChanged,
    RoutingTable,
)
from re6st.supervisor import ChildExit, ChildSpec, RestartPolicy, Supervisor

logger = logging.getLogger(__name__)

CHILD_NAME = "babeld"
KIND = "babeld"
"""Kind of this child in its record."""
START_TIMEOUT = 5.0
"""Seconds that babeld has to open its socket."""

WATCH_INTERVAL = 5.0
"""Seconds between signs of life of babeld."""

MOST_SILENCES = 2
"""Questions in a row, on connections of their own, to which a babeld that hangs gives no answer."""

_RECONNECT_INTERVAL = 0.02
_SLOW_RECONNECT_INTERVAL = 0.5
_NUDGE_DELAYS = (0.14, 0.14, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Seconds after each packet of a first exchange. An urgent answer is ready after 125 ms."""
_GREETING_DELAYS = (0.1, 0.2, 0.4, 0.8)
"""Seconds after each greeting of a neighbour that has begun again."""
_INTRODUCTION_INTERVAL = 0.02
"""Seconds between packets in the name of neighbours that the babeld before has used."""
_INTRODUCTIONS = 50
_NOT_READY_DELAY = 0.01
_READY_ATTEMPTS = 200


@dataclass(frozen=True, slots=True)
class Started:
    """A babeld has begun that knows nothing yet; routes of the one before may be in the kernel."""


@dataclass(slots=True)
class _Link:
    """What is known of the tunnel on an interface."""

    cost: int
    peer: IPv6Network | None
    hello_interval: float
    """babeld's, seconds; read when the link comes up."""
    number: int = field(default_factory=lambda: secrets.randbits(16))
    """Of the next Hello that is sent on babeld's behalf; a jump would look like a restart."""
    attached: bool = True
    """Its link is meant to be up."""


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
        self._files = BabelFiles.inside(runtime_directory, state_directory)
        self._supervisor = supervisor
        self._configuration = configuration
        self._report = report
        self._links: dict[str, _Link] = {}
        self._lan_key: LanKey | None = None
        self._lan_indexes: dict[str, int] = {}
        """The kernel's numbers of the LAN interfaces, as they were when babeld began to use them."""
        self._nudges: dict[str, asyncio.Task[None]] = {}
        self._mover = RouteMover(configuration.port, lambda: self.table, self._attached)
        self._connection: ControlConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._silences = 0
        """How often in a row babeld did not answer."""
        self._child_pid: int | None = None
        """The babeld that was talked to last."""
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
        if not await self._adopt():
            await self._supervisor.reconcile(KIND, grace=0.0)
            write_atomically(self._files.configuration, self._configuration_text(), 0o600)
            await self._supervisor.start(self._child(), self._on_exit)
        self._task = asyncio.create_task(self._keep_connected(), name="babeld")
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), START_TIMEOUT)
        except TimeoutError as error:
            output = self._supervisor.last_output(CHILD_NAME)
            await self.stop()
            raise ChildError(f"babeld is not ready after {START_TIMEOUT:.0f} s", output=output) from error
        except ChildError:
            await self.stop()
            raise

    async def _adopt(self) -> bool:
        """Take over the babeld of an earlier daemon; return whether there is one that is sound."""
        found = next(iter(self._supervisor.survivors(KIND)), None)
        if found is None:
            return False
        try:
            if self._files.configuration.read_bytes() != self._configuration_text():
                raise ChildError("its configuration is not what it should be now")
            connection = await ControlConnection.open(self._files.socket, lambda update: None)
            await connection.close()
            self._child_pid = self._supervisor.adopt(self._child(), found, self._on_exit).pid
        except (ChildError, OSError) as error:
            logger.info("The babeld of an earlier run is replaced: %s", error)
            return False
        return True

    async def stop(self) -> None:
        """End babeld. It retracts its routes, so that no neighbour sends packets here any more.

        Raises :class:`ChildError` when it cannot be ended.
        """
        tasks = [*self._nudges.values(), *([self._task] if self._task is not None else [])]
        self._nudges.clear()
        self._task = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._mover.stop()
        await self._supervisor.stop(CHILD_NAME)
        self._remove_stale_files()
        self._files.configuration.unlink(missing_ok=True)
        self._set_state("stopped")

    async def attach(self, interface: str, cost: int, peer: IPv6Network | None = None) -> None:
        """Let babeld use ``interface`` with ``cost`` (1 to 65534); call it before the link is set up.

        ``peer`` is the node prefix of the peer: with it the first exchange of routes is much faster. While
        babeld is being started again this only takes note. Raises :class:`ChildError`.
        """
        command = self._command(interface, cost)
        self._links[interface] = _Link(cost, peer, self._configuration.hello_interval)
        if self._connection is not None:
            self._announce_ourselves(interface)
            await self._connection.command(command)

    def use(self, parameters: NetworkParameters) -> None:
        """Give interfaces the intervals of ``parameters`` when their links come up the next time.

        The port stays until the next start: all routers of a network must change it together anyway.
        """
        self._configuration = replace(
            self._configuration,
            hello_interval=parameters.hello_interval,
            update_interval=parameters.update_interval,
        )

    @property
    def lan_interfaces(self) -> tuple[str, ...]:
        """Interfaces of trusted LANs."""
        return self._configuration.lan_interfaces

    @property
    def port(self) -> int:
        """UDP port of the protocol."""
        return self._configuration.port

    @property
    def has_lan_key(self) -> bool:
        """Whether neighbours are looked for in LANs."""
        return self._lan_key is not None

    async def use_lan_key(self, key: LanKey) -> None:
        """Look for neighbours in the LANs that know ``key``, and no longer for those with another one.

        While babeld is being started again this only takes note. Raises :class:`ChildError`.
        """
        self._lan_key = key
        if self._connection is not None:
            await self._enter_lans(self._connection, key)

    async def _enter_lans(self, connection: ControlConnection, key: LanKey) -> None:
        if self._configuration.lan_interfaces:
            await connection.command(lan.key_command(key), shown="key id ...")
        for interface in self._configuration.lan_interfaces:
            await connection.command(lan.interface_command(interface))

    async def _enter_lans_again(self, connection: ControlConnection) -> None:
        """Tell a new connection of the LANs. What babeld refuses there does not keep tunnels from routes."""
        try:
            if self._lan_key is not None:
                await self._enter_lans(connection, self._lan_key)
        except UnansweredError:
            raise
        except ChildError as error:
            logger.warning("No neighbours are looked for in LANs: %s", error)

    def detach(self, interface: str) -> None:
        """Take note that the link of ``interface`` was set down.

        :class:`InterfaceQuiet` is reported when babeld has forgotten the neighbour (after about 17 hello
        intervals), or at once if there is none. It is not reported of interfaces that are attached.
        """
        self._stop_nudging(interface)
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

    def nudge(self, interface: str) -> None:
        """Make the first exchange with the neighbour on ``interface`` happen now.

        This is done by itself when the link comes up and when a neighbour is heard; see
        :mod:`re6st.routing.first_exchange`.
        """
        self._stop_nudging(interface)
        if not self._is_attached(interface):
            return
        self._nudges[interface] = asyncio.create_task(self._nudge(interface), name=f"nudge {interface}")

    def _command(self, interface: str, cost: int) -> str:
        return settings.interface_command(self._configuration, interface, cost)

    # -- the child --------------------------------------------------------------------------------------

    def _configuration_text(self) -> bytes:
        return settings.render(self._configuration).encode()

    def _child(self) -> ChildSpec:
        return ChildSpec(
            name=CHILD_NAME,
            kind=KIND,
            argv=settings.arguments(self._configuration, self._files),
            restart=RestartPolicy(),
            before_start=self._prepare_files,
        )

    def _prepare_files(self) -> None:
        self._remove_stale_files()
        sequence = self._next_sequence()
        state = settings.state_text(self._configuration, sequence, time.time())
        write_atomically(self._files.state, state.encode(), 0o600)

    def _next_sequence(self) -> int:
        """Return the sequence number of this start, which is kept. Raises :class:`StorageError`."""
        try:
            kept = self._files.sequence.read_text(errors="replace").strip()
        except OSError:
            kept = ""
        sequence = settings.next_sequence(kept)
        write_atomically(self._files.sequence, str(sequence).encode(), 0o600)
        return sequence

    def _remove_stale_files(self) -> None:
        for path in (self._files.socket, self._files.pid, self._files.state):
            path.unlink(missing_ok=True)

    def _on_exit(self, end: ChildExit) -> None:
        if end.requested:
            return
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(end.error())
            return
        logger.warning("babeld %s; it is started again", end.describe())
        self._set_state(f"babeld {end.describe()}, starting again")

    # -- the connection ---------------------------------------------------------------------------------

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
                self._supervisor.kill(CHILD_NAME)
                self._silences = 0
            patient = failures > START_TIMEOUT / _RECONNECT_INTERVAL
            await asyncio.sleep(_SLOW_RECONNECT_INTERVAL if patient else _RECONNECT_INTERVAL)

    async def _converse(self) -> None:
        """Connect, tell babeld all interfaces, read everything, then follow the changes until the end."""
        fresh, complete = RoutingTable(), False

        def note(update: Update) -> None:
            changes = fresh.apply(update)
            if complete:
                self._announce(changes)

        introduction: asyncio.Task[None] | None = None
        connection = await ControlConnection.open(self._files.socket, note)
        self._connection = connection
        self._silences = 0
        try:
            former = self._used_neighbours() if self._note_start() else []
            for interface, link in list(self._links.items()):
                self._announce_ourselves(interface)
                await connection.command(self._command(interface, link.cost))
            await self._enter_lans_again(connection)
            await connection.command("monitor")
            changes = fresh.changes_since(self.table)
            self.table, complete = fresh, True
            introduction = asyncio.create_task(self._introduce(former), name="introduce neighbours")
            self._set_state("running")
            if self._ready is not None and not self._ready.done():
                self._ready.set_result(None)
            for interface in filter(fresh.is_up, self._configuration.lan_interfaces):
                self._note_lan(interface)
            self._announce(changes)
            for interface in self._links:
                if fresh.is_up(interface) and not fresh.has_heard_routes(interface):
                    self.nudge(interface)
            await connection.watch(WATCH_INTERVAL)
        finally:
            self._connection = None
            if introduction is not None:
                introduction.cancel()
            await connection.close()

    def _note_start(self) -> bool:
        """Return whether this babeld is another one than that of the last connection."""
        child = self._supervisor.get(CHILD_NAME)
        pid = child.pid if child is not None else None
        if pid != self._child_pid:
            self._child_pid = pid
            self._lan_indexes.clear()
            self._report(Started())
            return True
        return False

    def _announce(self, changes: list[Change]) -> None:
        for change in changes:
            if not isinstance(change, RoutesChanged) and self._is_lan(change.interface):
                self._on_lan_change(change)
                continue
            if isinstance(change, InterfaceUp | NeighbourHeard):
                self.nudge(change.interface)
            if isinstance(change, NeighbourRestarted) and not self._is_nudging(change.interface):
                self._nudges[change.interface] = asyncio.create_task(
                    self._greet_again(change.interface), name=f"greet {change.interface}"
                )
            if isinstance(change, InterfaceQuiet) and self._is_attached(change.interface):
                continue
            self._report(change)

    def _on_lan_change(self, change: Change) -> None:
        """Leave the first exchange in a LAN to babeld: nobody else can sign its packets."""
        match change:
            case InterfaceUp(interface=interface):
                former, present = self._lan_indexes.get(interface), self._note_lan(interface)
                if former not in (None, present) and self.table.neighbours(interface):
                    # It would go on sending to the neighbours it remembers through the one that has gone.
                    logger.info("%s is another interface than before: babeld is started again", interface)
                    self._supervisor.kill(CHILD_NAME)
            case NeighbourUp(interface=interface):
                logger.info("There are neighbours in the LAN %s", interface)
            case NeighbourDown(interface=interface):
                logger.info("No neighbour in the LAN %s can be reached any more", interface)

    def _note_lan(self, interface: str) -> int:
        try:
            self._lan_indexes[interface] = socket.if_nametoindex(interface)
        except OSError:
            self._lan_indexes.pop(interface, None)
        return self._lan_indexes.get(interface, 0)

    def _is_lan(self, interface: str) -> bool:
        return interface in self._configuration.lan_interfaces

    def _attached(self) -> list[str]:
        return [interface for interface, link in self._links.items() if link.attached]

    def _is_attached(self, interface: str) -> bool:
        link = self._links.get(interface)
        return link is not None and link.attached

    # -- the first exchange of routes -------------------------------------------------------------------

    async def _nudge(self, interface: str) -> None:
        for delay in _NUDGE_DELAYS:
            await self._send_first_packet(interface)
            await asyncio.sleep(delay)
            if self.table.is_reachable(interface) and self.table.has_heard_routes(interface):
                break
        await asyncio.sleep(max(self._links[interface].hello_interval, 1.0) + 1.5)
        self._send(interface, wildcard_request())

    async def _send_first_packet(self, interface: str) -> None:
        """Send the packet as soon as the kernel takes it.

        A link that was set up gets its multicast route a moment later, and if many links change at the
        same time up to a second later.
        """
        packet = self._first_packet(interface)
        for _ in range(_READY_ATTEMPTS):
            if self._send(interface, packet):
                return
            await asyncio.sleep(_NOT_READY_DELAY)

    async def _greet_again(self, interface: str) -> None:
        """Greet a router that has begun again, until it surely listens."""
        for delay in _GREETING_DELAYS:
            link = self._links[interface]
            packet = greeting(cost=link.cost, hello_interval=link.hello_interval, number=0)
            self._send(interface, packet)
            await asyncio.sleep(delay)

    def _announce_ourselves(self, interface: str) -> None:
        """Keep the link usable for the neighbour although babeld has begun again; see there.

        Nothing happens while the link is down.
        """
        self._send(interface, self._first_packet(interface, multicast_hellos=2))

    def _used_neighbours(self) -> list[Neighbour]:
        """Return the neighbours that babeld has used when it was last heard of."""
        found = (neighbour for name in self._attached() for neighbour in self.table.neighbours(name))
        return [neighbour for neighbour in found if neighbour.cost < INFINITY]

    async def _introduce(self, neighbours: list[Neighbour]) -> None:
        """Have a new babeld use ``neighbours`` at once, whom the one before has used; see there."""
        for _ in range(_INTRODUCTIONS):
            neighbours = [
                neighbour
                for neighbour in neighbours
                if self._is_attached(neighbour.interface) and not self.table.is_reachable(neighbour.interface)
            ]
            for neighbour in neighbours:
                self._greet_for(neighbour)
            if not neighbours:
                return
            await asyncio.sleep(_INTRODUCTION_INTERVAL)

    def _greet_for(self, neighbour: Neighbour) -> None:
        interval = self._links[neighbour.interface].hello_interval
        packet = greeting(cost=neighbour.txcost, hello_interval=interval, number=-2)
        try:
            inject_packet(neighbour.interface, self._configuration.port, neighbour.address, packet)
        except NetlinkError as error:
            logger.debug("%s", error)

    def _first_packet(self, interface: str, multicast_hellos: int = 1) -> bytes:
        link = self._links[interface]
        number = link.number
        link.number += 2
        return first_packet(
            cost=link.cost,
            hello_interval=link.hello_interval,
            number=number,
            peer=link.peer,
            multicast_hellos=multicast_hellos,
        )

    def _send(self, interface: str, packet: bytes) -> bool:
        """Send ``packet`` as if babeld did; return whether that was possible."""
        try:
            send_packet(interface, self._configuration.port, packet)
        except NetlinkError as error:
            logger.debug("%s", error)
            return False
        return True

    def _is_nudging(self, interface: str) -> bool:
        task = self._nudges.get(interface)
        return task is not None and not task.done()

    def _stop_nudging(self, interface: str) -> None:
        task = self._nudges.pop(interface, None)
        if task is not None:
            task.cancel()

    def _set_state(self, state: str) -> None:
        if state != self.state:
            logger.debug("= babeld: %s -> %s", self.state, state)
            self.state = state
