"""Leaving a network for good: the daemon stops, peers and registry are told, the keys are removed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator

from re6st.config import NodeConfig
from re6st.errors import IdentityError, ProtocolError, RegistryError
from re6st.messages import Gossip
from re6st.node.addresses import host_addresses, source_towards
from re6st.node.cache import Cache
from re6st.node.cleanup import clean_up
from re6st.node.control import stop_daemon
from re6st.node.control_client import ControlClient
from re6st.node.credentials import Credentials, load_credentials
from re6st.node.documents import Documents
from re6st.node.own_record import OwnRecord
from re6st.node.registry_access import registry_client
from re6st.node.state_directory import CACHE_NAME, remove_state
from re6st.node.underlay import Underlay, dial_order
from re6st.node.verifier import Verifier
from re6st.peers import Peer
from re6st.proxy import Proxy, load_proxy

FAREWELLS = 10
"""Peers that are told directly that the node leaves; gossip tells the others."""

_AND_NOW = "Try again later, or remove the keys with --force: the operator must then revoke this node by hand"


def depart(config: NodeConfig, network: str, *, force: bool) -> Iterator[str]:
    """Stop the daemon, tell peers and registry, remove the keys; yield what was done, for people.

    What a daemon has left that was killed is removed, too. Raises :class:`RegistryError` or
    :class:`IdentityError`, with the keys in place, when the registry cannot be told and ``force`` is not set;
    when that shows before anything was done, the daemon goes on. Raises :class:`ConfigError` when it does not
    answer.
    """
    if not force:
        _see_registry(config)
    if stop_daemon(config):
        yield "The daemon has stopped."
    elif config.runtime_directory.exists():
        clean_up(config, network)
    try:
        told = _tell(config)
        yield f"The registry and {told} peers know that this node has left."
    except (RegistryError, IdentityError) as error:
        if not force:
            state = "The daemon is stopped, and nothing was removed."
            raise type(error)(f"{error}\n{state} {_AND_NOW}") from error
        yield f"The registry was not told: {error}"
    remove_state(config.state_directory)
    yield "Key and certificate are removed."


def _see_registry(config: NodeConfig) -> None:
    """Raise :class:`RegistryError` or :class:`IdentityError` if the registry could not be told now."""
    try:
        credentials = load_credentials(config.state_directory, time.time())
        documents = Documents(config.state_directory, credentials.trust)
        proxy = load_proxy(config.proxy, config.proxy_credentials)
        client = registry_client(credentials, _registry_urls(config, documents), proxy)
        asyncio.run(client.parameters())
    except (RegistryError, IdentityError) as error:
        raise type(error)(f"{error}\nNothing was changed. {_AND_NOW}") from error


def _registry_urls(config: NodeConfig, documents: Documents) -> list[str]:
    return list(dict.fromkeys((*config.registry, *documents.parameters.registry_urls)))


def _tell(config: NodeConfig) -> int:
    credentials = load_credentials(config.state_directory, time.time())
    documents = Documents(config.state_directory, credentials.trust)
    urls = _registry_urls(config, documents)
    proxy = load_proxy(config.proxy, config.proxy_credentials)
    cache = Cache(config.state_directory / CACHE_NAME)
    try:
        return asyncio.run(_leave(credentials, cache, documents, urls, config.control_port, proxy))
    finally:
        cache.close()


async def _leave(
    credentials: Credentials,
    cache: Cache,
    documents: Documents,
    urls: list[str],
    control_port: int,
    proxy: Proxy | None = None,
) -> int:
    """Tell some peers and the registry that this node leaves; return how many peers were told.

    Raises :class:`RegistryError` when the registry does not hear of it.
    """
    told = await say_farewell(credentials, cache, documents, control_port, proxy)
    await registry_client(credentials, urls, proxy).leave()
    return told


async def say_farewell(
    credentials: Credentials,
    cache: Cache,
    documents: Documents,
    control_port: int,
    proxy: Proxy | None = None,
) -> int:
    """Tell some peers on the underlay that this node leaves; return how many were told."""
    verifier = Verifier(credentials.trust, lambda: documents.revoked, time.time)
    own = credentials.certificate.prefix
    underlay = Underlay(credentials.trust.network, host_addresses())
    endpoints = {
        peer: dial_order(underlay, peer.endpoints, source_towards)
        for peer in verifier.open_all(cache.records())
        if peer.reachable and peer.prefix != own
    }
    peers = [peer for peer, known in endpoints.items() if known]
    gossip = Gossip(records=(OwnRecord(credentials, cache, control_port, time.time).farewell(),))
    client = ControlClient(verifier, control_port, proxy)
    await client.start(credentials.client_context())

    async def tell(peer: Peer) -> bool:
        try:
            async with asyncio.timeout(5):
                await client.exchange_gossip(peer, gossip, endpoints[peer])
        except (ProtocolError, IdentityError, TimeoutError):
            return False
        return True

    chosen = random.sample(peers, min(FAREWELLS, len(peers)))
    try:
        return sum(await asyncio.gather(*(tell(peer) for peer in chosen)))
    finally:
        await client.stop()
