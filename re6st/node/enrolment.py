"""Joining a network and leaving it: what happens before and after the life of the daemon.

A join makes the private key here, pins the CA by the link's fingerprint before anything is sent, and
exchanges the link's token for a certificate. The key is on disk before the registry hears of it, so that
a join whose answer was lost is repeated with the same key and gets the same certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Network
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from re6st.core.events import Document
from re6st.errors import (
    ConfigError,
    IdentityError,
    ProtocolError,
    RegistryRefusedError,
    StorageError,
    UntrustedError,
)
from re6st.files import write_atomically
from re6st.identity import (
    NodeCertificate,
    TrustStore,
    build_request,
    generate_key,
    key_to_pem,
    load_key,
)
from re6st.messages import Enrolment, Gossip
from re6st.node import mapping_secret
from re6st.node.addresses import host_addresses, source_towards
from re6st.node.admission_request import ask_admission, forget
from re6st.node.cache import Cache
from re6st.node.control_client import ControlClient
from re6st.node.credentials import CredentialFiles, Credentials, same_key
from re6st.node.documents import Documents
from re6st.node.lan import LAN_KEYS_NAME
from re6st.node.own_record import OwnRecord
from re6st.node.underlay import Underlay, dial_order
from re6st.node.verifier import Verifier
from re6st.peers import Peer
from re6st.proxy import Proxy
from re6st.registry.client import ClientCertificate, JoinLink, RegistryClient, RegistryUrl, fetch_authorities

CACHE_NAME = "cache.sqlite"
"""File of the address book in the state directory."""

FAREWELLS = 10
"""Peers that are told directly that the node leaves; gossip tells the others."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The result of joining."""

    certificate: NodeCertificate
    network: IPv6Network
    peers: int
    """Peer records that came along."""


async def join(
    link: JoinLink,
    state_directory: Path,
    name: str,
    *,
    force: bool,
    proxy: Proxy | None = None,
    message: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> Joined:
    """Enrol this machine, as ``name`` if that is not empty, and write its credentials.

    With a link without a token the registry is asked to let it in, with ``message`` for the operator;
    ``tell`` is given what the person should read meanwhile.

    Raises :class:`ConfigError` when it has joined already and ``force`` is not set, and whatever the
    registry client and the disk raise. Old credentials are replaced only after everything has succeeded.
    """
    files = CredentialFiles(state_directory)
    if files.exist() and not force:
        raise ConfigError(
            f"{state_directory} holds a key and a certificate already: this node has joined."
            " Use --force to replace them (its present prefix is then lost), or another --network"
        )
    files.prepare()
    key = _pending_key(files)
    authorities = await fetch_authorities(link, proxy=proxy)
    trust = TrustStore(authorities)
    client = RegistryClient(link.urls, authorities, proxy=proxy)
    if link.token:
        enrolment = await client.enrol(link.token, build_request(key, name))
    else:
        token, name = await ask_admission(client, key, files, name, message, tell)
        enrolment = await _enrol_asked(client, token, key, name)
    certificate = trust.verify(enrolment.certificate, time.time())
    if not same_key(key, enrolment.certificate):
        raise UntrustedError("the registry answered with a certificate for another key")
    if files.exist():
        _forget_network(state_directory)
    files.store_authorities(authorities)
    files.store_certificate(enrolment.certificate)
    _adopt_pending_key(files)
    forget(files)
    peers = _store_start(state_directory, trust, enrolment)
    return Joined(certificate=certificate, network=trust.network, peers=peers)


async def _enrol_asked(
    client: RegistryClient, token: str, key: ec.EllipticCurvePrivateKey, name: str
) -> Enrolment:
    """Enrol under ``name``, or under one of the registry if somebody else has taken it meanwhile."""
    try:
        return await client.enrol(token, build_request(key, name))
    except RegistryRefusedError as error:
        if not error.code.startswith("name-"):
            raise
        return await client.enrol(token, build_request(key, ""))


def _pending_key(files: CredentialFiles) -> ec.EllipticCurvePrivateKey:
    """Return the key of a join that was not finished, or a new one that is on disk already."""
    with contextlib.suppress(StorageError, UntrustedError):
        return load_key(files.pending_key)
    key = generate_key()
    write_atomically(files.pending_key, key_to_pem(key), 0o600)
    return key


def _adopt_pending_key(files: CredentialFiles) -> None:
    try:
        files.pending_key.replace(files.key)
    except OSError as error:
        raise StorageError(f"cannot move the new key into place: {error}") from error


def _forget_network(state_directory: Path) -> None:
    """Remove what belongs to the identity that is being replaced."""
    for document in Document:
        (state_directory / f"{document.value}.json").unlink(missing_ok=True)
    for suffix in ("", "-wal", "-shm"):
        (state_directory / f"{CACHE_NAME}{suffix}").unlink(missing_ok=True)
    (state_directory / LAN_KEYS_NAME).unlink(missing_ok=True)


def _store_start(state_directory: Path, trust: TrustStore, enrolment: Enrolment) -> int:
    """Keep the documents and peers that came along; return how many peers are good."""
    documents = Documents(state_directory, trust)
    documents.accept(Document.PARAMETERS, enrolment.parameters)
    documents.accept(Document.REVOCATIONS, enrolment.revocations)
    peers = Verifier(trust, lambda: documents.revoked, time.time).open_all(enrolment.peers)
    cache = Cache(state_directory / CACHE_NAME)
    try:
        cache.store(((peer.prefix, peer.signed) for peer in peers), ())
    finally:
        cache.close()
    return len(peers)


def registry_client(
    credentials: Credentials,
    urls: list[str],
    proxy: Proxy | None = None,
    answered: Callable[[RegistryUrl], None] = lambda _: None,
) -> RegistryClient:
    """Return a client that shows the node's certificate; it tries ``proxy``, too, if given.

    ``answered`` is told where the registry gave an answer.

    Raises :class:`ConfigError` without URLs.
    """
    return RegistryClient(
        urls,
        credentials.trust.authorities,
        ClientCertificate(certificate=credentials.files.certificate, key=credentials.files.key),
        proxy=proxy,
        answered=answered,
    )


async def leave(
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


def remove_state(state_directory: Path) -> None:
    """Remove keys, certificates, documents and address book of this node. Raises :class:`StorageError`."""
    files = CredentialFiles(state_directory)
    try:
        for path in (files.key, files.pending_key, files.pending_token, files.certificate, files.authority):
            path.unlink(missing_ok=True)
        _forget_network(state_directory)
        for path in state_directory.glob(f"{CACHE_NAME}.damaged-*"):
            path.unlink(missing_ok=True)
        for name in ("babel-sequence", mapping_secret.NAME):
            (state_directory / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            state_directory.rmdir()
    except OSError as error:
        raise StorageError(f"cannot remove the credentials: {error}") from error
