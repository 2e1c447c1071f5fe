"""Kernel settings that forwarding needs: saved on disk before they are changed, restored at the end.

Order matters. ``all.forwarding=1`` makes the kernel drop the default route of every interface whose
``accept_ra`` is 1 (ip-sysctl.rst: router advertisements are for hosts only); at 2 it stays. So ``accept_ra``
comes first, and is set back last.

What was there before is kept in a *journal*, written before anything is changed. It belongs to the network
namespace, not to one node: several networks on one host share these settings, and the last one that leaves
restores them. A node that was killed is still one of the journal's users; its next start finds itself there.
A value that somebody else has changed meanwhile is left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from re6st.errors import NetlinkError, StorageError
from re6st.files import write_atomically

logger = logging.getLogger(__name__)

ROOT = Path("/proc/sys")
JOURNAL_DIRECTORY = Path("/run/re6st")
"""Where the journal is: it must vanish with the settings when the host boots."""

CONFIGURATIONS = "net/ipv6/conf"
ALL_FORWARDING = f"{CONFIGURATIONS}/all/forwarding"

_LARGEST_JOURNAL = 256 * 1024
_SO_NETNS_COOKIE = 71  # socket(7); Linux 5.14


class Setting(Struct, frozen=True):
    """One value below ``/proc/sys``."""

    key: str
    """For example ``net/ipv6/conf/eth0/accept_ra``."""
    before: str
    after: str


def plan(current: Mapping[str, str]) -> list[Setting]:
    """Return what is to be set, in this order, so that the host forwards IPv6 (pure).

    ``current`` maps keys to values, as :meth:`ForwardingSettings.read` returns them. An interface that takes
    router advertisements now goes on doing so. Nothing is to be done where the host forwards already.
    """
    if current.get(ALL_FORWARDING) != "0":
        return []
    advertisements, forwarding = [], []
    for key, value in sorted(current.items()):
        interface, name = key.split("/")[-2:]
        if interface == "all":
            continue
        if name == "accept_ra" and value == "1":
            advertisements.append(Setting(key, "1", "2"))
        if name == "forwarding":
            # Writing to "all" writes to every interface: the old values are lost unless they are kept.
            forwarding.append(Setting(key, value, "1"))
    return [*advertisements, Setting(ALL_FORWARDING, "0", "1"), *forwarding]


def undo(settings: list[Setting], current: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return which keys are to be set to which values, in this order, to take ``settings`` back (pure)."""
    ours = [setting for setting in settings if current.get(setting.key) == setting.after]
    forwarding = [setting for setting in ours if setting.key.endswith("/forwarding")]
    # "all" first, since it overwrites the others.
    forwarding.sort(key=lambda setting: setting.key != ALL_FORWARDING)
    rest = [setting for setting in ours if setting not in forwarding]
    return [(setting.key, setting.before) for setting in (*forwarding, *rest)]


class Journal(Struct, frozen=True):
    """What is on disk."""

    boot_id: str
    users: tuple[str, ...]
    """Names of the networks whose nodes want the settings."""
    settings: tuple[Setting, ...]


class ForwardingSettings:
    """Makes this host forward IPv6 for as long as a node wants it."""

    def __init__(
        self,
        user: str,
        *,
        directory: Path = JOURNAL_DIRECTORY,
        root: Path = ROOT,
        namespace: str | None = None,
    ) -> None:
        """``user`` is the name of the network; ``namespace`` identifies the network namespace (default:
        that of the calling thread).
        """
        self._user = user
        self._root = root
        self._path = directory / f"forwarding-{namespace or namespace_identity()}.json"

    def acquire(self) -> None:
        """Save the old values, then set the new ones.

        Raises :class:`NetlinkError` when the kernel refuses, and :class:`StorageError` when they cannot be
        saved; nothing is changed then.
        """
        with self._locked():
            journal = self._load()
            current = self.read()
            known = {setting.key for setting in journal.settings}
            wanted = plan(current)
            settings = (*journal.settings, *(setting for setting in wanted if setting.key not in known))
            users = (*(user for user in journal.users if user != self._user), self._user)
            self._save(Journal(boot_id=journal.boot_id, users=users, settings=settings))
            for setting in wanted:
                self._write(setting.key, setting.after)

    def release(self) -> None:
        """Restore the old values if no other node needs the new ones; nothing happens without a journal.

        Raises :class:`NetlinkError` and :class:`StorageError`.
        """
        with self._locked():
            if not self._path.exists():
                return
            journal = self._load()
            users = tuple(user for user in journal.users if user != self._user)
            if users:
                self._save(Journal(boot_id=journal.boot_id, users=users, settings=journal.settings))
                return
            for key, value in undo(list(journal.settings), self.read()):
                self._write(key, value)
            self._path.unlink(missing_ok=True)

    def read(self) -> dict[str, str]:
        """Return the present values that matter. Raises :class:`NetlinkError`."""
        values = {}
        try:
            for directory in (self._root / CONFIGURATIONS).iterdir():
                for name in ("accept_ra", "forwarding"):
                    with contextlib.suppress(FileNotFoundError):  # the interface has just gone
                        key = f"{CONFIGURATIONS}/{directory.name}/{name}"
                        values[key] = (self._root / key).read_text().strip()
        except OSError as error:
            raise NetlinkError(f"cannot read the IPv6 settings: {error}; is IPv6 disabled?") from error
        return values

    def _write(self, key: str, value: str) -> None:
        try:
            (self._root / key).write_text(value)
        except FileNotFoundError:
            logger.debug("%s has gone", key)
        except OSError as error:
            raise NetlinkError(
                f"cannot set {key} to {value}: {error.strerror}; that takes root, and in a container a"
                " /proc/sys/net that can be written"
            ) from error

    def _load(self) -> Journal:
        empty = Journal(boot_id=_boot_id(), users=(), settings=())
        try:
            if self._path.stat().st_size > _LARGEST_JOURNAL:
                raise msgspec.ValidationError("it is too large")
            journal = msgspec.json.decode(self._path.read_bytes(), type=Journal)
        except FileNotFoundError:
            return empty
        except OSError as error:
            raise StorageError(f"cannot read {self._path}: {error.strerror}") from error
        except msgspec.DecodeError as error:
            logger.warning("%s is damaged (%s): old settings cannot be restored", self._path, error)
            return empty
        return journal if journal.boot_id == empty.boot_id else empty

    def _save(self, journal: Journal) -> None:
        write_atomically(self._path, msgspec.json.encode(journal), 0o600)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self._path.with_suffix(".lock")
        descriptor = self._lock(lock)
        try:
            yield
            if not self._path.exists():
                lock.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    @staticmethod
    def _lock(lock: Path) -> int:
        try:
            lock.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            while True:
                descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                # The one who had the lock before may have removed the file.
                if lock.exists() and lock.stat().st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
                os.close(descriptor)
        except OSError as error:
            raise StorageError(f"cannot lock {lock}: {error.strerror}") from error


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def namespace_identity() -> str:
    """Return what identifies the network namespace of this thread; it is never used for another one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            return probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8).hex()
        except OSError:
            return f"inode-{Path('/proc/thread-self/ns/net').stat().st_ino}"
