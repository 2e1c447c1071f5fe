"""One child process: starts it, notices its end, signals it, as its state machine decides (I/O)."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import secrets
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from re6st.errors import ChildError, Re6stError, StorageError
from re6st.supervisor import output, process, record
from re6st.supervisor.backoff import RestartPolicy
from re6st.supervisor.machine import Action, ChildMachine, ChildState
from re6st.supervisor.record import DIRECTORY_VARIABLE, TOKEN_VARIABLE, ChildRecord

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run."""

    name: str
    """Unique among the children; letters, digits, ``_``, ``.`` and ``-``, at most 64."""
    kind: str
    """What it is, for example ``babeld``: kept in its record."""
    argv: Sequence[str]
    """Program, searched in PATH, and its arguments."""
    data: Mapping[str, str | int] = field(default_factory=dict)
    """Kept in its record."""
    restart: RestartPolicy | None = None
    """How it is started again when it ends by itself; None: not at all."""
    before_start: Callable[[], None] | None = None
    """Called before each start and restart, for example to remove a stale socket. May raise
    :class:`re6st.errors.Re6stError`.
    """

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} cannot name a child")


@dataclass(frozen=True, slots=True)
class ChildExit:
    """The process of a child has ended."""

    name: str
    status: int | None
    """Exit status, negative for a signal; None when it could not be started or is not known."""
    output: tuple[str, ...]
    """The last lines that it printed."""
    requested: bool
    """It was asked to."""
    restart_in: float | None
    """Seconds until it is started again, None if it is not."""

    def error(self) -> ChildError:
        """Return this as an exception."""
        return ChildError(f"{self.name} {self.describe()}", status=self.status, output=self.output)

    def describe(self) -> str:
        """Return how it ended, in words."""
        if self.status is None:
            return "has ended"
        if self.status < 0:
            return f"was ended by signal {-self.status}"
        return f"ended with status {self.status}"


class Child:
    """A supervised child. Made by :meth:`re6st.supervisor.Supervisor.start`."""

    def __init__(
        self,
        spec: ChildSpec,
        directory: Path,
        boot_id: str,
        on_exit: Callable[[ChildExit], None],
        on_gone: Callable[[str], None],
    ) -> None:
        self.spec = spec
        self.pid: int | None = None
        """Of the running process, else None."""
        self._directory = directory
        self._boot_id = boot_id
        self._on_exit = on_exit
        self._on_gone = on_gone
        self._machine = ChildMachine(spec.name, spec.restart)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self._record: ChildRecord | None = None
        self._pidfd = -1
        self._stopped = asyncio.Event()

    @property
    def state(self) -> ChildState:
        """What it is doing."""
        return self._machine.state

    @property
    def log_path(self) -> Path:
        """Where its output goes."""
        return self._directory / f"{self.spec.name}.log"

    def start(self) -> None:
        """Start it for the first time. Raises :class:`ChildError` or :class:`StorageError`."""
        self._machine.want(self._loop.time())
        try:
            self._spawn()
        except Re6stError:
            self._clear()
            raise
        self._arm()

    def adopt(self, found: ChildRecord) -> None:
        """Watch over the process of ``found``, which another daemon has started.

        Raises :class:`ChildError` unless it runs and was started as we would have.
        """
        pid = found.find()
        try:
            if pid is None or found.argv != tuple(self.spec.argv):
                raise ChildError(f"{self.spec.name} of an earlier run is not what it should be")
            pidfd = os.pidfd_open(pid)
            # With the descriptor open, looking again makes sure that the pid was not used anew meanwhile.
            if found.find() != pid:
                os.close(pidfd)
                raise ChildError(f"{self.spec.name} of an earlier run has just ended")
        except (ChildError, OSError) as error:
            self._on_gone(self.spec.name)
            raise ChildError(f"cannot adopt {self.spec.name}: {error}") from error
        self.pid, self._pidfd, self._record = pid, pidfd, found
        self._loop.add_reader(pidfd, self._on_pidfd)
        self._machine.adopt()
        logger.info("Adopted %s: process %d", self.spec.name, pid)

    def annotate(self, data: Mapping[str, str | int]) -> None:
        """Add ``data`` to its record until its process ends. Raises :class:`StorageError`."""
        if self._record is not None:
            self._record = msgspec.structs.replace(self._record, data={**self._record.data, **data})
            record.write(self._directory, self._record)

    async def stop(self, grace: float) -> None:
        """End it: SIGTERM, after ``grace`` seconds SIGKILL.

        Raises :class:`ChildError` when it does not end even then.
        """
        self._perform(self._machine.unwant(self._loop.time(), grace))
        if self.state is ChildState.STOPPED and self.pid is None:
            self._clear()  # it was waiting to be started again
        await self._stopped.wait()
        if self.state is ChildState.STUCK:
            raise ChildError(
                f"{self.spec.name} (process {self.pid}) does not end, not even by SIGKILL;"
                " it probably hangs in the kernel: look at `dmesg`, and reboot if it stays",
                output=output.tail(self.log_path),
            )

    # -- carrying out what the machine decides ----------------------------------------------------------

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Action.SPAWN:
                    self._spawn_again()
                case Action.TERMINATE:
                    self._signal(signal.SIGTERM)
                case Action.KILL:
                    logger.warning("%s did not end when it was asked to: killing it", self.spec.name)
                    self._signal(signal.SIGKILL)
        if self.state is ChildState.STUCK:
            self._stopped.set()
        self._arm()

    def kill(self) -> None:
        """Kill the process if there is one, as somebody else might."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            process.signal_group(self.pid, number)

    def _arm(self) -> None:
        """Let the machine's next deadline call it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._machine.deadline is not None:
            self._timer = self._loop.call_at(self._machine.deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._loop.time()
        if self._machine.deadline is not None and now < self._machine.deadline:
            now = self._machine.deadline  # the loop's timers may fire early by their resolution
        self._perform(self._machine.handle_timer(now))

    def _spawn(self) -> None:
        """Start the process. Raises :class:`ChildError` or what else ``before_start`` and the record raise.

        No :class:`OSError` leaves: in a timer nobody would catch it, and the machine wait for ever.
        """
        try:
            self._prepare_and_spawn()
        except OSError as error:
            raise ChildError(f"cannot start {self.spec.name}: {error}") from error

    def _prepare_and_spawn(self) -> None:
        """Start the process: record, log file, process, record with its pid."""
        if self.spec.before_start is not None:
            self.spec.before_start()
        intended = ChildRecord(
            name=self.spec.name,
            kind=self.spec.kind,
            version=record.VERSION,
            argv=tuple(self.spec.argv),
            token=secrets.token_hex(16),
            boot_id=self._boot_id,
            data=dict(self.spec.data),
        )
        record.write(self._directory, intended)
        self._popen = self._execute(intended.token)
        self.pid = self._popen.pid
        logger.debug("Started %s: process %d", self.spec.name, self.pid)
        try:
            self._pidfd = os.pidfd_open(self.pid)
            self._loop.add_reader(self._pidfd, self._on_pidfd)
            self._record = msgspec.structs.replace(
                intended,
                pid=self.pid,
                start_time=process.start_time(self.pid),
                executable=process.executable(self.pid),
            )
            record.write(self._directory, self._record)
        except (OSError, StorageError) as error:
            self._reap()
            raise ChildError(f"cannot watch over {self.spec.name}: {error}") from error

    def _execute(self, token: str) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": os.environ.get("PATH", _SYSTEM_PATH) + ":" + _SYSTEM_PATH,
            "LC_ALL": "C.UTF-8",
            TOKEN_VARIABLE: token,
            DIRECTORY_VARIABLE: str(self._directory),
        }
        program = self.spec.argv[0]
        try:
            log = output.create(self.log_path)
            try:
                return subprocess.Popen(
                    self.spec.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    cwd="/",
                    start_new_session=True,
                    close_fds=True,
                )
            finally:
                os.close(log)
        except FileNotFoundError as error:
            raise ChildError(f"cannot start {self.spec.name}: {program} is not installed") from error
        except OSError as error:
            raise ChildError(f"cannot start {self.spec.name}: {error}") from error

    def _spawn_again(self) -> None:
        try:
            self._spawn()
        except Re6stError as error:
            self._end(None, (str(error),))

    # -- the end of a process ---------------------------------------------------------------------------

    def _on_pidfd(self) -> None:
        """The process has ended."""
        status = self._reap()
        self._end(status, self._last_lines())

    def _last_lines(self) -> tuple[str, ...]:
        """Return the end of its output, or why that cannot be read: its exit counts all the same."""
        try:
            return output.tail(self.log_path)
        except OSError as error:
            return (f"(its output cannot be read: {error})",)

    def _reap(self) -> int | None:
        """Take note of the end of the process and forget it; return its status."""
        if self.pid is not None:
            process.signal_group(self.pid, signal.SIGKILL)  # whatever it has left of its group
        status = self._popen.wait() if self._popen is not None else None
        if self._popen is None and self._pidfd >= 0:
            status = process.reap(self._pidfd)
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        self._pidfd, self._popen, self.pid, self._record = -1, None, None, None
        return status

    def _end(self, status: int | None, lines: tuple[str, ...]) -> None:
        requested = not self._machine.wanted
        now = self._loop.time()
        self._machine.exited(now, random.random())  # noqa: S311  (spreads restarts, keeps no secret)
        deadline = self._machine.deadline
        self._arm()
        if deadline is None:
            self._clear()
        self._on_exit(
            ChildExit(
                name=self.spec.name,
                status=status,
                output=lines,
                requested=requested,
                restart_in=None if deadline is None else max(0.0, deadline - now),
            )
        )

    def _clear(self) -> None:
        """Remove everything of it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        record.remove(self._directory, self.spec.name)
        self.log_path.unlink(missing_ok=True)
        self._stopped.set()
        self._on_gone(self.spec.name)
