"""Processes of the lab: started inside a namespace, logging to a file, found again by other invocations."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from re6st.errors import ChildError
from re6st.lab.namespace import Namespace

LAST_LINES = 15
"""Lines of a log that go into an error."""


class Notification:
    """The socket on which a child says that it is ready (``sd_notify(3)``)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))

    def received(self) -> bool:
        """Whether READY=1 has arrived since the last call."""
        ready = False
        with suppress(BlockingIOError):
            while True:
                ready |= b"READY=1" in self._socket.recv(4096).splitlines()
        return ready

    def close(self) -> None:
        """Remove the socket."""
        self._socket.close()
        self.path.unlink(missing_ok=True)


@dataclass(slots=True)
class Process:
    """A child in the background."""

    child: subprocess.Popen[bytes]
    command: str
    log: Path
    notification: Notification | None = None

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.child.poll() is None

    def check(self) -> None:
        """Raise :class:`ChildError` with the last lines of the log unless it runs."""
        status = self.child.poll()
        if status is not None:
            raise self.failure(f"ended with status {status}", status)

    def failure(self, what: str, status: int | None = None) -> ChildError:
        """Return an error that says ``what`` happened to the process, and where its log is."""
        return ChildError(
            f"{self.command}: {what}; its log is {self.log}", status=status, output=last_lines(self.log)
        )

    def wait_ready(self, timeout: float) -> None:
        """Wait until it reports readiness. Raises :class:`ChildError` if it dies or takes too long."""
        if self.notification is None:
            return
        deadline = time.monotonic() + timeout
        try:
            while not self.notification.received():
                self.check()
                if time.monotonic() > deadline:
                    raise self.failure(f"not ready after {timeout:g} seconds")
                time.sleep(0.02)
        finally:
            self.notification.close()
            self.notification = None

    def reap(self, timeout: float = 20.0) -> None:
        """Wait for its end, which somebody else has brought about. Raises :class:`ChildError`."""
        try:
            self.child.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise self.failure(f"still runs after {timeout:g} seconds") from error

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout: float = 15.0) -> int:
        """Send the signal, wait for the end and return the exit status.

        Raises :class:`ChildError` when it still runs after ``timeout`` seconds; it is killed then.
        """
        self.child.send_signal(how)
        try:
            return self.child.wait(timeout)
        except subprocess.TimeoutExpired as error:
            self.child.kill()
            self.child.wait()
            raise self.failure(f"still running {timeout:g} seconds after {how.name}") from error
        finally:
            if self.notification is not None:
                self.notification.close()


def start(
    namespace: Namespace,
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    notification: Notification | None = None,
) -> Process:
    """Start ``command`` in the background of ``namespace``; its output is appended to ``log``.

    It gets a session of its own, so that Ctrl-C on the terminal does not reach it. Raises
    :class:`ChildError` when the program cannot be started.
    """
    variables = {**os.environ, **(environment or {})}
    variables.pop("NOTIFY_SOCKET", None)
    if notification is not None:
        variables["NOTIFY_SOCKET"] = str(notification.path)
    with log.open("ab") as output, namespace.entered():
        try:
            child = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                start_new_session=True,
            )
        except OSError as error:
            raise ChildError(f"cannot start {command[0]}: {error}") from error
    return Process(child, f"{Path(command[0]).name} in {namespace.name}", log, notification)


def run(
    namespace: Namespace, command: Sequence[str], *, timeout: float = 60.0, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` in ``namespace`` and return what it printed.

    Raises :class:`ChildError` when it cannot be started, takes longer than ``timeout`` seconds or, with
    ``check``, fails.
    """
    # A join link holds a token: errors end up in logs, where it has no business.
    shown = re.sub(r"token=[^&\s]+", "token=<redacted>", " ".join(command))
    with namespace.entered():
        try:
            done = subprocess.run(
                list(command),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except OSError as error:
            raise ChildError(f"cannot start {command[0]}: {error}") from error
        except subprocess.TimeoutExpired as error:
            raise ChildError(f"{shown} in {namespace.name}: no end in {timeout:g} s") from error
    if check and done.returncode:
        raise ChildError(
            f"{shown} in {namespace.name} failed with status {done.returncode}",
            status=done.returncode,
            output=(done.stdout + done.stderr).splitlines()[-LAST_LINES:],
        )
    return done


def last_lines(log: Path, count: int = LAST_LINES) -> list[str]:
    """Return the last lines of a log, none if it cannot be read."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16 * 1024))
        return file.read().decode(errors="replace").splitlines()[-count:]
    return []
