"""All children of a daemon, and what an earlier daemon has left of them (I/O)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

from re6st.errors import ChildError, StorageError
from re6st.supervisor import output, process, record
from re6st.supervisor.child import Child, ChildExit, ChildSpec
from re6st.supervisor.record import ChildRecord

logger = logging.getLogger(__name__)

DEFAULT_GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL."""

_CUT_INTERVAL = 10.0


class Supervisor:
    """Runs children that outlive the daemon: they have their own session and log to files."""

    def __init__(self, directory: Path) -> None:
        """Keep records and logs in ``directory``, which is made if it is missing.

        Raises :class:`StorageError`.
        """
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {directory} for records of child processes: {error}") from error
        try:
            # Read once: a restart must not depend on a file descriptor being free for it.
            self._boot_id = process.boot_id()
        except OSError as error:
            raise StorageError(f"cannot read which run of the kernel this is: {error}") from error
        self._directory = directory
        self._children: dict[str, Child] = {}
        self._cutter: asyncio.TimerHandle | None = None

    def children(self) -> list[Child]:
        """Return all children, also those that wait to be started again."""
        return list(self._children.values())

    def get(self, name: str) -> Child | None:
        """Return the child ``name``, or None."""
        return self._children.get(name)

    async def start(self, spec: ChildSpec, on_exit: Callable[[ChildExit], None]) -> Child:
        """Start a child; ``on_exit`` is called in the event loop each time its process ends.

        The process runs when this returns, which does not say that it is content: wait for its socket.
        Raises :class:`ChildError` or :class:`StorageError` when it cannot be started.
        """
        if spec.name in self._children:
            raise ChildError(f"{spec.name} runs already")
        child = Child(spec, self._directory, self._boot_id, on_exit, self._forget)
        self._children[spec.name] = child
        child.start()
        self._begin_cutting()
        return child

    async def stop(self, name: str, grace: float = DEFAULT_GRACE) -> None:
        """End the child ``name``: SIGTERM, after ``grace`` seconds SIGKILL; unknown names are ignored.

        It is gone when this returns, record and log as well, and ``on_exit`` was called. Raises
        :class:`ChildError` when the kernel cannot end it; its record is kept then.
        """
        child = self._children.get(name)
        if child is not None:
            await child.stop(grace)

    def kill(self, name: str) -> None:
        """Kill the child called ``name`` if there is one; it is started again if its policy says so."""
        if (child := self.get(name)) is not None:
            child.kill()

    def last_output(self, name: str) -> tuple[str, ...]:
        """Return the last lines that the running child ``name`` has printed; none if it is unknown."""
        child = self._children.get(name)
        return output.tail(child.log_path) if child is not None else ()

    def survivors(self, kind: str) -> list[ChildRecord]:
        """Return the records of children of this ``kind`` that an earlier daemon has left and that run.

        Only those are told that may be adopted: a record of another version of this program is not.
        """
        return [
            entry
            for entry in self._left()
            if entry.kind == kind and entry.trustworthy and entry.find() is not None
        ]

    def adopt(self, spec: ChildSpec, found: ChildRecord, on_exit: Callable[[ChildExit], None]) -> Child:
        """Take over a survivor, which is from now on like a child that was started by ``spec``.

        Whether it is sound is for the caller to find out. Raises :class:`ChildError` when it has ended
        meanwhile or was started in another way.
        """
        if spec.name in self._children:
            raise ChildError(f"{spec.name} runs already")
        child = Child(spec, self._directory, self._boot_id, on_exit, self._forget)
        self._children[spec.name] = child
        child.adopt(found)
        self._begin_cutting()
        return child

    def _left(self) -> list[ChildRecord]:
        return [entry for entry in record.read_all(self._directory) if entry.name not in self._children]

    async def reconcile(self, kind: str | None = None, grace: float = DEFAULT_GRACE) -> list[ChildRecord]:
        """Compare the records of an earlier daemon, of one ``kind`` or all, with the kernel.

        Ends processes that are left over and were not adopted, and removes their records and logs. Only a
        process that is the one of the record for certain is touched, and, when all kinds are meant, one that
        was started for this directory and has lost its record. Without ``grace`` they are killed at once, so
        that they have no time to undo what they did. Returns the records whose process was still
        there. Raises :class:`ChildError` when a process cannot be ended.
        """
        found = []
        left = [entry for entry in self._left() if kind is None or entry.kind == kind]
        for entry in left:
            pid = entry.find()
            if pid is not None:
                logger.info("Process %d (%s) is left over from an earlier run: ending it", pid, entry.name)
                found.append((entry, pid))
            entry.reap()
        await asyncio.gather(*(_end_leftover(entry, pid, grace) for entry, pid in found))
        if kind is None:
            await self._end_strays(grace)
        for entry in left:
            record.remove(self._directory, entry.name)
            (self._directory / f"{entry.name}.log").unlink(missing_ok=True)
        for temporary in self._directory.glob(".record-*"):
            temporary.unlink(missing_ok=True)
        return [entry for entry, _ in found]

    async def _end_strays(self, grace: float) -> None:
        """End processes that were started for this directory and have lost their record."""
        ours = {child.pid for child in self._children.values()}
        setting = f"{record.DIRECTORY_VARIABLE}={self._directory}"
        strays = [pid for pid in process.find_by_environment(setting) if pid not in ours]
        for pid in strays:
            logger.warning("Process %d was started here and has no record: ending it", pid)
        await asyncio.gather(*(_end_stray(setting, pid, grace) for pid in strays))

    def _forget(self, name: str) -> None:
        self._children.pop(name, None)
        if not self._children and self._cutter is not None:
            self._cutter.cancel()
            self._cutter = None

    def _begin_cutting(self) -> None:
        if self._cutter is None:
            self._cutter = asyncio.get_running_loop().call_later(_CUT_INTERVAL, self._cut_logs)

    def _cut_logs(self) -> None:
        for child in self._children.values():
            try:
                output.cut(child.log_path)
            except OSError as error:
                logger.warning("Cannot shorten the log of %s: %s", child.spec.name, error)
        self._cutter = asyncio.get_running_loop().call_later(_CUT_INTERVAL, self._cut_logs)


async def _end_leftover(entry: ChildRecord, pid: int, grace: float) -> None:
    await _end(pid, entry.name, lambda: entry.find() == pid, grace)


async def _end_stray(setting: str, pid: int, grace: float) -> None:
    await _end(pid, "without a record", lambda: process.has_environment(pid, setting), grace)


async def _end(pid: int, name: str, is_ours: Callable[[], bool], grace: float) -> None:
    """End process ``pid``, which is usually not our child, if it ``is_ours``."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # With the descriptor open, looking again makes sure that the pid was not used anew meanwhile.
        if not is_ours():
            return
        steps = [(signal.SIGTERM, grace)] if grace > 0 else []
        for number, patience in (*steps, (signal.SIGKILL, 2.0)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
            if await _has_ended(pidfd, patience):
                process.reap(pidfd)
                return
        raise ChildError(f"process {pid} ({name}) of an earlier run cannot be ended; end it by hand")
    finally:
        os.close(pidfd)


async def _has_ended(pidfd: int, patience: float) -> bool:
    """Return whether the process ends within ``patience`` seconds."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), patience)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True
