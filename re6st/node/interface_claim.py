"""Keeps two nodes on one host from taking each other's tunnel interfaces.

A node removes interfaces that are called like its own, taking them for what an earlier run has left. So each
daemon claims its ``interface-prefix`` in its network namespace for as long as it runs: with a locked file,
since the kernel lets go of the lock however the daemon ends. Two claims collide when some name could belong
to both: ``vpn`` with 12 and ``vpn1`` with 2 are the same ``vpn12``.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from re6st.errors import ConfigError
from re6st.node.sysctl import JOURNAL_DIRECTORY, namespace_identity

_DIGITS = 3
"""Digits after the prefix in names that a node takes for its own."""


def collide(first: str, second: str) -> bool:
    """Whether interfaces with these two prefixes could have the same name (pure)."""
    shorter, longer = sorted((first, second), key=len)
    rest = longer.removeprefix(shorter)
    return longer.startswith(shorter) and (not rest or (rest.isdecimal() and len(rest) < _DIGITS))


@contextmanager
def claim_interfaces(
    prefix: str, *, directory: Path = JOURNAL_DIRECTORY, namespace: str | None = None
) -> Iterator[None]:
    """Hold the claim on interfaces called by ``prefix`` in the calling thread's network namespace.

    ``prefix`` was checked as part of the configuration. Raises :class:`ConfigError` when another daemon has
    a claim that collides, or when the claim cannot be written.
    """
    beginning = f"interfaces-{namespace or namespace_identity()}-"
    own = directory / f"{beginning}{prefix}.lock"
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        with _one_at_a_time(directory):
            for other in sorted(directory.glob(f"{beginning}*.lock")):
                name = other.name.removeprefix(beginning).removesuffix(".lock")
                if collide(prefix, name) and _is_held(other):
                    raise _collision(prefix, name)
            descriptor = _lock(own)
    except OSError as error:
        raise ConfigError(f"cannot claim tunnel interfaces in {directory}: {error.strerror}") from error
    try:
        yield
    finally:
        with _one_at_a_time(directory):
            own.unlink(missing_ok=True)
        os.close(descriptor)


def _collision(prefix: str, other: str) -> ConfigError:
    return ConfigError(
        f"interface-prefix = {prefix!r}: another re6st-node on this host uses interfaces called {other}0,"
        f" {other}1, ...; give each network an interface-prefix of its own in its configuration file"
    )


def _is_held(lock: Path) -> bool:
    try:
        os.close(_lock(lock))
    except BlockingIOError:
        return True
    # Its daemon was killed.
    lock.unlink(missing_ok=True)
    return False


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    """Keep others from claiming and releasing meanwhile."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
