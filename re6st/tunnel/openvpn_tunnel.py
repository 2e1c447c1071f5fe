"""One OpenVPN tunnel: its processes one after the other, and the management connection to them (I/O).

    OPENING --(hold released)--> CONNECTING --(>STATE CONNECTED)--> CONNECTED
       ^                             |                                  |
       |     process has ended,      |                                  | process has ended
       +------ next endpoint --------+--(none left, or close())-------> CLOSED

A process starts on hold, so that nothing happens before somebody listens to it. Point to point, OpenVPN
makes the data keys and reports CONNECTED not when the handshake is over but from a timer that is due once
in each second of the wall clock, and that it looks at only when something wakes it up. Left alone, it sleeps
a full second after the last packet of the handshake. So at the beginning of each second it is sent a
harmless command until it is connected: the mean delay becomes half a second, and two ends whose clocks
agree are connected in the same moment.

A tunnel whose process an earlier daemon has started begins in CONNECTED, if that process says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import shutil
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

from re6st.errors import ChildError, Re6stError, StorageError
from re6st.messages import Endpoint, Transport
from re6st.supervisor import ChildExit, ChildRecord, ChildSpec, Supervisor
from re6st.tunnel import openvpn
from re6st.tunnel.driver import Closed, Connected, Counters, DriverEvent, Link, PeerLeft
from re6st.tunnel.management import (
    BytesCounted,
    FatalError,
    HoldWaiting,
    ManagementEvent,
    ManagementParser,
    PeerNotice,
    ReplyLine,
    State,
    StateChanged,
    Succeeded,
    parse_state,
)
from re6st.tunnel.openvpn import HANDSHAKES, TunnelFiles, share_patience

logger = logging.getLogger(__name__)

KIND = "openvpn"
"""Kind of these children in their records."""

_ANSWER_DEADLINE = 5.0
"""Seconds after its start in which a process must make its management socket."""

_ADOPTION_DEADLINE = 3.0
"""Seconds in which a process of an earlier daemon must tell its state."""

_SOCKET_POLL = 0.003
"""Seconds between looks whether the management socket is there."""

_GRACE = 1.5
"""Seconds that a process has to end when asked to, before it is killed."""

_NUDGE = "pid"
"""The harmless command: OpenVPN answers with the number of its process."""

_NUDGE_MARGIN = 0.012
"""Seconds by which a second has begun for OpenVPN, too: time(2) lags by up to a tick of the kernel, 10 ms."""


class ConnectionState(enum.Enum):
    """How far the processes of a tunnel are; compare :class:`re6st.tunnel.lifecycle.TunnelState`."""

    OPENING = "opening"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    CLOSED = "closed"


class _Management(asyncio.Protocol):
    """The management connection to one process."""

    def __init__(self, handle: Callable[[ManagementEvent], None]) -> None:
        self._handle = handle
        self._parser = ManagementParser()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        for event in self._parser.feed(data):
            self._handle(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None  # the end of the process says what there is to say

    def listen(self, handle: Callable[[ManagementEvent], None]) -> None:
        """Hand all events to ``handle`` from now on."""
        self._handle = handle

    def send(self, *commands: str) -> None:
        if self._transport is not None:
            self._transport.write("".join(f"{command}\n" for command in commands).encode())

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to run OpenVPN for a tunnel."""

    command: Callable[[int], list[str]]
    """Returns the command line that gives up after so many seconds."""
    transport: Transport
    proxied: Endpoint | None = None
    """Where a proxy is to connect to: OpenVPN itself knows the address of the proxy only."""


class OpenVpnTunnel:
    """One tunnel, from its files to the report that it is closed."""

    def __init__(
        self,
        link: Link,
        files: TunnelFiles,
        supervisor: Supervisor,
        counter_interval: int,
        report: Callable[[DriverEvent], None],
    ) -> None:
        self.link = link
        self.state = ConnectionState.OPENING
        self._files = files
        self._supervisor = supervisor
        self._counter_interval = counter_interval
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        """Done when the first process has its socket, or failed to get that far."""
        self._task: asyncio.Task[None] | None = None
        """Follows the processes to the end of the last one."""
        self._transport = Transport.UDP
        """Of the present attempt."""
        self._proxied: Endpoint | None = None
        """Where a proxy is to connect to in the present attempt."""
        self._management: _Management | None = None
        self._nudge: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        """Ends the process because the peer has ended the tunnel."""
        self._closing = False
        """It was asked for by :meth:`close`."""
        self._was_connected = False
        self._peer_left = False
        self._fatal = ""
        """What the process gave as the reason of its end."""
        self._received = self._sent = 0
        """Octets, as reported last."""

    @property
    def child(self) -> str:
        """Name of its process at the supervisor."""
        return f"openvpn-{self.link.interface}"

    # -- for the driver ---------------------------------------------------------------------------------

    async def open(self, attempts: Sequence[Attempt], gone: Callable[[], None]) -> None:
        """Make ``attempts`` one after the other until one connects.

        Returns when the first one has its socket. Raises :class:`ChildError` or :class:`StorageError` when it
        does not get that far; nothing is left or reported then. ``gone`` is called when nothing is left.
        """
        self._task = self._loop.create_task(self._run(self._try_all(attempts), gone), name=self.child)
        try:
            await asyncio.shield(self._opened)
        except asyncio.CancelledError:
            await self.close()
            if self._opened.done():
                self._opened.exception()  # nobody waits for it any more
            raise

    async def adopt(
        self, found: ChildRecord, transport: Transport, gone: Callable[[], None]
    ) -> Endpoint | None:
        """Take over the process of ``found``, which must be connected; return where the peer is.

        Raises :class:`ChildError`; the process is as before then. ``gone`` is called when nothing is left.
        """
        self._transport = transport
        answer: asyncio.Future[StateChanged] = self._loop.create_future()
        try:
            async with asyncio.timeout(_ADOPTION_DEADLINE):
                self._management = await self._connect(lambda event: _look_for_state(event, answer))
                self._management.send("state")
                state = await answer
        except (OSError, TimeoutError) as error:
            self._disconnect()
            raise ChildError(f"{self.child} of an earlier run does not answer") from error
        ended: asyncio.Future[ChildExit] = self._loop.create_future()
        spec = ChildSpec(name=found.name, kind=KIND, argv=found.argv, data=found.data)
        try:
            if state.state is not State.CONNECTED:
                raise ChildError(f"{self.child} of an earlier run is not connected")
            self._supervisor.adopt(spec, found, ended.set_result)
        except ChildError:
            self._disconnect()
            raise
        self._was_connected = True
        self._opened.set_result(None)
        self._set_state(ConnectionState.CONNECTED)
        self._management.listen(self._on_event)
        self._management.send("state on", f"bytecount {self._counter_interval}")
        self._task = self._loop.create_task(self._run(self._await_end(ended), gone), name=self.child)
        return self._remote(state)

    async def close(self) -> None:
        """End it and wait until nothing is left."""
        self._closing = True
        await self._stop_process()
        if self._task is not None:
            await asyncio.wait([self._task])

    # -- the life of the tunnel -------------------------------------------------------------------------

    async def _run(self, life: Coroutine[None, None, str], gone: Callable[[], None]) -> None:
        """Follow the ``life`` of its processes, which returns why the last one has ended."""
        failure: Re6stError | None = None
        try:
            reason = await life
        except Re6stError as error:
            failure = error
            reason = str(error)
        except Exception:
            logger.exception("The task of %s has failed", self.child)
            reason = "an error in this program; see its log"
            await self._stop_process()
        self._set_state(ConnectionState.CLOSED)
        shutil.rmtree(self._files.directory, ignore_errors=True)
        gone()
        if self._opened.done():
            crashed = self._was_connected and not self._closing and not self._peer_left
            reason = "closed on request" if self._closing else reason
            self._report(Closed(self.link.tunnel, reason, crashed))
        else:
            self._opened.set_exception(failure or ChildError(f"{self.child}: {reason}"))

    async def _try_all(self, attempts: Sequence[Attempt]) -> str:
        reason = "closed on request"
        self._write_files()
        deadline = self._loop.time() + HANDSHAKES
        for later, attempt in zip(reversed(range(len(attempts))), attempts, strict=True):
            self._transport, self._proxied = attempt.transport, attempt.proxied
            patience = share_patience(attempt.transport, deadline - self._loop.time(), later)
            reason = await self._try(attempt.command(patience), is_last=later == 0)
            if self._closing or self._was_connected:
                break
        return reason

    async def _try(self, argv: list[str], *, is_last: bool) -> str:
        """Make one attempt and return why it has ended. Raises :class:`ChildError` if no other one follows.

        A proxy that says no ends OpenVPN before it has answered the first command.
        """
        try:
            return await self._run_process(argv)
        except ChildError as error:
            if is_last:
                raise
            logger.info("%s", error)
            return str(error)

    async def _run_process(self, argv: list[str]) -> str:
        """Run one process to its end and return why it has ended.

        Raises :class:`ChildError` when it ends before it is released.
        """
        self._set_state(ConnectionState.OPENING)
        self._files.management.unlink(missing_ok=True)
        ended: asyncio.Future[ChildExit] = self._loop.create_future()
        spec = ChildSpec(
            name=self.child,
            kind=KIND,
            argv=argv,
            data={
                "interface": self.link.interface,
                "peer": str(self.link.peer_address),
                "management": str(self._files.management),
            },
        )
        await self._supervisor.start(spec, ended.set_result)
        try:
            await self._attach(ended)
        except BaseException:
            self._disconnect()
            raise
        return await self._await_end(ended)

    async def _await_end(self, ended: asyncio.Future[ChildExit]) -> str:
        """Wait for the end of the process and return why it has ended; see :meth:`_run_process`."""
        try:
            exit_ = await ended
        finally:
            self._stop_nudging()
            self._disconnect()
        if not self._opened.done() and not self._closing:
            raise ChildError(f"{self.child} {exit_.describe()}", status=exit_.status, output=exit_.output)
        return self._explain(exit_)

    async def _attach(self, ended: asyncio.Future[ChildExit]) -> None:
        """Connect to the management socket as soon as it is there, unless the process ends before."""
        deadline = self._loop.time() + _ANSWER_DEADLINE
        while not ended.done():
            try:
                self._management = await self._connect(self._on_event)
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if self._loop.time() > deadline:
                    lines = self._supervisor.last_output(self.child)
                    await self._stop_process()
                    raise ChildError(f"{self.child} does not answer", output=lines) from error
                await asyncio.sleep(_SOCKET_POLL)
            else:
                self._management.send("state on", f"bytecount {self._counter_interval}")
                return

    async def _connect(self, handle: Callable[[ManagementEvent], None]) -> _Management:
        _, management = await self._loop.create_unix_connection(
            lambda: _Management(handle), str(self._files.management)
        )
        return management

    def _disconnect(self) -> None:
        if self._management is not None:
            self._management.close()
            self._management = None

    async def _stop_process(self) -> None:
        try:
            await self._supervisor.stop(self.child, _GRACE)
        except ChildError as error:
            logger.error("%s", error)

    def _write_files(self) -> None:
        """Make the directory anew: removing that of the tunnel before fails while descriptors run short."""
        try:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self._files.directory)
            self._files.directory.mkdir(mode=0o700)
            self._files.key.touch(mode=0o600)
            self._files.key.write_text(self.link.key)
        except OSError as error:
            raise StorageError(f"cannot write the files of {self.child}: {error}") from error

    def _explain(self, exit_: ChildExit) -> str:
        """Return why a process has ended; what is not obvious goes to the log in full."""
        if self._closing:
            return "closed on request"
        if self._peer_left:
            return "the peer has ended it"
        logger.info("%s", exit_.error())
        telling = self._fatal or openvpn.telling_line(exit_.output)
        if telling and exit_.status == 0:
            return telling
        return f"openvpn {exit_.describe()}: {telling}" if telling else f"openvpn {exit_.describe()}"

    # -- what the process says --------------------------------------------------------------------------

    def _on_event(self, event: ManagementEvent) -> None:
        match event:
            case HoldWaiting():
                self._send("hold release")
            case Succeeded(text="hold release succeeded"):
                self._send(_NUDGE)  # answered only when the socket has been made, or never
            case Succeeded() if self.state is ConnectionState.OPENING and _is_nudge_answer(event):
                self._on_released()
            case StateChanged(state=State.CONNECTED):
                self._on_connected(event)
            case BytesCounted(received=received, sent=sent) if (received, sent) != (
                self._received,
                self._sent,
            ):
                self._received, self._sent = received, sent
                self._report(Counters(self.link.tunnel, received, sent))
            case PeerNotice(kind="remote-exit"):
                self._on_peer_left()
            case FatalError(text=text):
                self._fatal = text

    def _on_released(self) -> None:
        """It has its socket."""
        self._set_state(ConnectionState.CONNECTING)
        self._schedule_nudge()
        if not self._opened.done():
            self._opened.set_result(None)

    def _on_connected(self, event: StateChanged) -> None:
        if self.state is ConnectionState.CONNECTING and not self._closing:
            self._stop_nudging()
            self._was_connected = True
            self._set_state(ConnectionState.CONNECTED)
            remote = self._proxied or self._remote(event)
            self._report(Connected(self.link.tunnel, remote, self._proxied is not None))

    def _on_peer_left(self) -> None:
        """The peer has ended the tunnel: end our side now; OpenVPN itself would take a second."""
        if not self._peer_left and not self._closing:
            self._peer_left = True
            self._ending = self._loop.create_task(self._stop_process(), name=f"end {self.child}")
            if self._was_connected:
                self._report(PeerLeft(self.link.tunnel))

    def _send(self, *commands: str) -> None:
        if self._management is not None:
            self._management.send(*commands)

    def _schedule_nudge(self) -> None:
        until_next_second = 1.0 - time.time() % 1.0
        self._nudge = self._loop.call_later(until_next_second + _NUDGE_MARGIN, self._send_nudge)

    def _send_nudge(self) -> None:
        self._send(_NUDGE)
        self._schedule_nudge()

    def _stop_nudging(self) -> None:
        if self._nudge is not None:
            self._nudge.cancel()
            self._nudge = None

    def _remote(self, event: StateChanged) -> Endpoint | None:
        """Return where the peer is, None if OpenVPN did not say."""
        if not event.remote_address or not event.remote_port:
            return None
        return Endpoint(self._transport, event.remote_address.removeprefix("::ffff:"), event.remote_port)

    def _set_state(self, state: ConnectionState) -> None:
        if state is not self.state:
            logger.debug("= %s: %s -> %s", self.child, self.state.value, state.value)
            self.state = state


def _look_for_state(event: ManagementEvent, answer: asyncio.Future[StateChanged]) -> None:
    """Resolve ``answer`` with the line that the command ``state`` prints."""
    if isinstance(event, ReplyLine) and not answer.done():
        answer.set_result(parse_state(event.text))


def _is_nudge_answer(event: Succeeded) -> bool:
    return event.text.startswith("pid=")
