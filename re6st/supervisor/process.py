"""What the kernel says of processes: identity beyond the pid, exit without polling (proc(5), pidfd_open(2)).

A pid alone does not name a process, because the kernel uses it again. Pid and start time do, as long as
the machine is not booted anew; the executable guards against a mistaken record.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_PROC = Path("/proc")
_DELETED = " (deleted)"


def boot_id() -> str:
    """Return what names this run of the kernel."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int:
    """Return when process ``pid`` started, in clock ticks since boot. Raises :class:`ProcessLookupError`."""
    fields = _stat(pid)
    return int(fields[19])


def is_zombie(pid: int) -> bool:
    """Return whether process ``pid`` has ended and only waits for its parent to take note."""
    try:
        return _stat(pid)[0] == "Z"
    except ProcessLookupError:
        return False


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` from the third (state) on."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(f"no process {pid}") from error
    return text.rpartition(")")[2].split()  # the second field, the name, may hold blanks and parentheses


def executable(pid: int) -> str:
    """Return the path of the program that ``pid`` runs, even when an upgrade has replaced the file.

    Empty when there is no such process, or when it has ended.
    """
    try:
        return str((_PROC / str(pid) / "exe").readlink()).removesuffix(_DELETED)
    except OSError:
        return ""


def find_by_environment(setting: str) -> list[int]:
    """Return the session leaders that were started with ``setting`` (``NAME=value``) in their environment.

    Only those of our network namespace: a container's processes may have been told the same.
    """
    found = []
    namespace = (_PROC / "self/ns/net").readlink()
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            pid = int(entry.name)
            with contextlib.suppress(OSError):
                if os.getsid(pid) != pid or not has_environment(pid, setting):
                    continue
                if (entry / "ns/net").readlink() == namespace:
                    found.append(pid)
    return found


def has_environment(pid: int, setting: str) -> bool:
    """Return whether ``pid`` was started with ``setting`` in its environment."""
    try:
        return setting.encode() in (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def reap(pidfd: int) -> int | None:
    """Reap the ended process of ``pidfd`` if it is our child; after a restart in place it may be.

    Return its exit status, negative for a signal; None if it is somebody else's.
    """
    with contextlib.suppress(ChildProcessError):
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        if result is not None:
            return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
    return None


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to the process group that ``pid`` leads, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
