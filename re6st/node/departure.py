"""Leaving a network for good, as the command line does it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from re6st.config import NodeConfig
from re6st.errors import IdentityError, RegistryError
from re6st.node.cache import Cache
from re6st.node.control import stop_daemon
from re6st.node.credentials import load_credentials
from re6st.node.documents import Documents
from re6st.node.enrolment import CACHE_NAME, leave, remove_state
from re6st.proxy import load_proxy


def depart(config: NodeConfig, *, force: bool) -> Iterator[str]:
    """Stop the daemon, tell peers and registry, remove the keys; yield what was done, for people.

    Raises :class:`RegistryError` or :class:`IdentityError`, with the keys in place, when the registry
    cannot be told and ``force`` is not set.
    """
    if stop_daemon(config):
        yield "The daemon has stopped."
    try:
        told = _tell(config)
        yield f"The registry and {told} peers know that this node has left."
    except (RegistryError, IdentityError) as error:
        if not force:
            raise type(error)(
                f"{error}\nNothing was removed. Try again later, or remove the keys with --force: the"
                " operator must then revoke this node by hand"
            ) from error
        yield f"The registry was not told: {error}"
    remove_state(config.state_directory)
    yield "Key and certificate are removed."


def _tell(config: NodeConfig) -> int:
    credentials = load_credentials(config.state_directory, time.time())
    documents = Documents(config.state_directory, credentials.trust)
    urls = list(dict.fromkeys((*config.registry, *documents.parameters.registry_urls)))
    proxy = load_proxy(config.proxy, config.proxy_credentials)
    cache = Cache(config.state_directory / CACHE_NAME)
    try:
        return asyncio.run(leave(credentials, cache, documents, urls, config.control_port, proxy))
    finally:
        cache.close()
