"""Signals a running daemon, and waits for what comes of it, as the command line does it."""

from __future__ import annotations

import os
import signal
import time

from re6st.config import NodeConfig
from re6st.errors import ConfigError, NotRunningError, RemoteProtocolError
from re6st.status import NodeStatus, fetch

_STOP_TIMEOUT = 45.0
_RESTART_TIMEOUT = 90.0
_POLL = 0.05


def stop_daemon(config: NodeConfig) -> bool:
    """End a running daemon and wait until it is gone; return whether there was one.

    Raises :class:`ConfigError` when it does not answer, or does not end.
    """
    try:
        pid = fetch(config.runtime_directory, "status", NodeStatus).pid
    except NotRunningError:
        return False
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT
        while time.monotonic() < deadline:
            try:
                signal.pidfd_send_signal(descriptor, 0)
            except ProcessLookupError:
                return True
            time.sleep(_POLL)
    except ProcessLookupError:
        return True
    finally:
        os.close(descriptor)
    raise ConfigError(f"the daemon (pid {pid}) does not stop; end it and try again")


def restart_daemon(config: NodeConfig) -> str:
    """Have a running daemon restart in place and wait until it has; return what is to be said.

    Raises :class:`ConfigError` when none runs, when it refuses, saying why, and when it takes too long.
    """
    before = fetch(config.runtime_directory, "status", NodeStatus)
    begin = time.monotonic()
    try:
        os.kill(before.pid, signal.SIGHUP)
    except (ProcessLookupError, PermissionError) as error:
        raise ConfigError(f"cannot signal the daemon (pid {before.pid}): {error.strerror}") from error
    while time.monotonic() < begin + _RESTART_TIMEOUT:
        time.sleep(_POLL)
        try:
            now = fetch(config.runtime_directory, "status", NodeStatus)
        except (ConfigError, RemoteProtocolError):
            continue
        if now.restarts_refused > before.restarts_refused:
            raise ConfigError(f"{now.restart_refused}\nThe daemon goes on as before.")
        if now.uptime < time.monotonic() - begin and now.ready:
            kept = now.tunnels_out + now.tunnels_in
            return f"Restarted in place: {now.software}, pid {now.pid}, {kept} tunnels kept."
    raise ConfigError(f"the daemon has not restarted within {_RESTART_TIMEOUT:.0f} s; look at its log")
