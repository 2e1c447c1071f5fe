"""The process around the daemon: its runtime directory, its log, its signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from re6st.config import NodeConfig
from re6st.errors import ConfigError, Re6stError
from re6st.node import environment, restart
from re6st.node.adoption import RUN_RECORD
from re6st.node.credentials import load_credentials
from re6st.node.daemon import Daemon
from re6st.node.documents import Documents
from re6st.node.interface_claim import claim_interfaces
from re6st.node.lan import load_key
from re6st.proxy import load_proxy
from re6st.supervisor.supervisor import Supervisor


@contextmanager
def runtime_directory_of_our_own(directory: Path) -> Iterator[None]:
    """Keep a second daemon away from the runtime ``directory``; remove it if it is empty in the end.

    Raises :class:`ConfigError`.
    """
    import fcntl

    lock = directory / "lock"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot use the runtime directory {directory}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(f"another re6st-node runs with the runtime directory {directory}") from error
    try:
        yield
    finally:
        (directory / RUN_RECORD).unlink(missing_ok=True)
        lock.unlink(missing_ok=True)
        for left in (directory / "children", directory / "tunnels", directory):
            with contextlib.suppress(OSError):
                left.rmdir()
        os.close(descriptor)


async def _main(config: NodeConfig, network: str, moved: Callable[[], list[str]]) -> None:
    supervisor = Supervisor(config.runtime_directory / "children")
    try:
        daemon = Daemon(config, network, supervisor, moved)
    except Re6stError:
        await supervisor.reconcile()
        raise
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.request_stop)
    loop.add_signal_handler(signal.SIGHUP, daemon.request_restart)
    restart.accept_signals()
    await daemon.run()


def check(config: NodeConfig) -> None:
    """Raise :class:`Re6stError` with what would keep a daemon with ``config`` from starting, if anything."""
    environment.check()
    if config.lan_key_file:
        load_key(config.lan_key_file)
    load_proxy(config.proxy, config.proxy_credentials)
    Documents(config.state_directory, load_credentials(config.state_directory, time.time()).trust)


def run_daemon(config: NodeConfig, network: str, moved: Callable[[], list[str]] = list) -> None:
    """Run the node until SIGTERM or SIGINT; SIGHUP restarts it in place. ``moved``: see :class:`Daemon`.

    Raises :class:`Re6stError` when it cannot start.
    """
    logging.basicConfig(
        level=logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s"
        if "JOURNAL_STREAM" in os.environ
        else "%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("re6st").setLevel(config.log_level.upper())
    environment.check()
    with runtime_directory_of_our_own(config.runtime_directory), claim_interfaces(config.interface_prefix):
        asyncio.run(_main(config, network, moved))
