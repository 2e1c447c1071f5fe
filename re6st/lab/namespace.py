"""Network namespaces: make, enter, remove them, and find the processes inside.

A namespace belongs to a thread, not to a process (``setns(2)``): whoever enters one affects only sockets
and children that this thread makes before it leaves. A socket stays in the namespace where it was made.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import netns

from re6st.errors import NetlinkError

DIRECTORY = Path("/run/netns")
"""Where iproute2 looks for namespaces, so that ``ip netns exec`` finds ours as well."""


Identity = tuple[int, int]
"""Device and inode number: what tells one namespace from another."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A named network namespace, which need not exist (yet, or any more)."""

    name: str

    @property
    def path(self) -> Path:
        """The file that keeps it alive."""
        return DIRECTORY / self.name

    @property
    def exists(self) -> bool:
        """Whether the name is there."""
        return self.path.exists()

    def create(self) -> None:
        """Make the namespace. Raises :class:`NetlinkError`."""
        try:
            netns.create(self.name)
        except OSError as error:
            raise NetlinkError(f"cannot make the network namespace {self.name}: {error}") from error

    def remove(self) -> None:
        """Remove it if it is there. Raises :class:`NetlinkError`."""
        if not self.exists:
            return
        try:
            netns.remove(self.name)
        except FileNotFoundError:
            return
        except OSError:
            # Interrupted between making the file and mounting on it, it is an ordinary file.
            try:
                self.path.unlink(missing_ok=True)
            except OSError as error:
                raise NetlinkError(f"cannot remove the network namespace {self.name}: {error}") from error

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Put the calling thread into the namespace for the duration of the block.

        Raises :class:`NetlinkError` when it does not exist.
        """
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                inside = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise NetlinkError(f"cannot enter the network namespace {self.name}: {error}") from error
            try:
                netns.setns(inside)
            finally:
                os.close(inside)
            try:
                yield
            finally:
                netns.setns(before)
        finally:
            os.close(before)

    def set_sysctl(self, key: str, value: str) -> None:
        """Write ``/proc/sys/net/<key>`` inside; nothing happens if this kernel has no such file."""
        path = Path("/proc/sys/net") / key
        with self.entered(), suppress(FileNotFoundError):
            path.write_text(value)


def processes(namespaces: Iterable[Namespace]) -> dict[int, str]:
    """Return the processes inside any of ``namespaces``: pid and namespace name."""
    wanted = _identities(namespaces)
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    found = {pid: wanted[identity] for pid in pids if (identity := _identity(pid)) in wanted}
    found.pop(os.getpid(), None)
    return found


def kill_inside(namespaces: Iterable[Namespace], timeout: float = 10.0) -> None:
    """Kill every process inside ``namespaces``, by pid, until none is left.

    Raises :class:`NetlinkError` when some survive ``timeout`` seconds.
    """
    namespaces = list(namespaces)
    wanted = _identities(namespaces)
    deadline = time.monotonic() + timeout
    while found := processes(namespaces):
        for pid in found:
            _kill(pid, wanted)
        if time.monotonic() > deadline:
            rest = ", ".join(f"{pid} in {name}" for pid, name in found.items())
            raise NetlinkError(f"these processes cannot be killed: {rest}")
        time.sleep(0.01)


def _kill(pid: int, wanted: Mapping[Identity, str]) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The handle holds the process; a pid that was reused meanwhile shows another namespace.
        if _identity(pid) in wanted:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)


def _identities(namespaces: Iterable[Namespace]) -> dict[Identity, str]:
    found = {}
    for namespace in namespaces:
        with suppress(OSError):
            status = namespace.path.stat()
            found[status.st_dev, status.st_ino] = namespace.name
    return found


def _identity(pid: int) -> Identity | None:
    """Return device and inode of the namespace of ``pid``; None when it is gone or a zombie."""
    try:
        status = Path(f"/proc/{pid}/ns/net").stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
