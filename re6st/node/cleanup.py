"""Takes down what a daemon has left that is dead and shall not be started again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Mapping

from re6st.config import NodeConfig
from re6st.errors import IdentityError, Re6stError
from re6st.node.credentials import load_credentials
from re6st.node.host import Host
from re6st.node.interface_claim import claim_interfaces
from re6st.node.netlink import Kernel
from re6st.node.process import runtime_directory_of_our_own
from re6st.routing.configuration import BabelFiles
from re6st.status import SOCKET_NAME
from re6st.supervisor import Supervisor

logger = logging.getLogger(__name__)

FULL_STOPS = ("success", "timeout")
"""Values of ``$SERVICE_RESULT`` (systemd.exec(5)) after which systemd does not start the node again: it has
ended in good order, or was told to and did not. After any other the next daemon adopts what is there."""


def is_called_for(environment: Mapping[str, str]) -> bool:
    """Return whether ``ExecStopPost=`` is to clean up, by the ``environment`` that systemd has set."""
    return environment.get("SERVICE_RESULT", FULL_STOPS[0]) in FULL_STOPS


def clean_up(config: NodeConfig, network: str) -> None:
    """End children and remove interfaces, addresses, routes, rules and files of a dead daemon.

    Raises :class:`ConfigError` when a daemon runs, and :class:`Re6stError` when something cannot be removed.
    """
    with runtime_directory_of_our_own(config.runtime_directory), claim_interfaces(config.interface_prefix):
        asyncio.run(_clean_up(config, network))


async def _clean_up(config: NodeConfig, network: str) -> None:
    supervisor = Supervisor(config.runtime_directory / "children")
    try:
        await supervisor.reconcile()
    finally:
        await _clean_host(config, network)
        _remove_files(config)


async def _clean_host(config: NodeConfig, network: str) -> None:
    try:
        credentials = load_credentials(config.state_directory, time.time())
    except (IdentityError, Re6stError) as error:
        logger.warning("Addresses and routes are not removed, because they are not known: %s", error)
        return
    kernel = Kernel(config.interface_prefix)
    await kernel.open()
    host = Host(config, network, credentials.certificate.prefixes, credentials.trust.network, kernel)
    await host.stop()


def _remove_files(config: NodeConfig) -> None:
    directory = config.runtime_directory
    babel = BabelFiles.inside(directory, config.state_directory)
    for path in (babel.configuration, babel.socket, babel.state, babel.pid, directory / SOCKET_NAME):
        path.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory / "tunnels")
