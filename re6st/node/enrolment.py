"""Joining a network, before the daemon first runs; :mod:`re6st.node.departure` is the opposite.

A join makes the private key here, pins the CA by the link's fingerprint before anything is sent, and
exchanges the link's token for a certificate. The key is on disk before the registry hears of it, so that
a join whose answer was lost is repeated with the same key and gets the same certificate.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from re6st.core.events import Document
from re6st.errors import (
    ConfigError,
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
from re6st.messages import Enrolment
from re6st.node.admission_request import ask_admission, forget
from re6st.node.cache import Cache
from re6st.node.credentials import CredentialFiles, same_key
from re6st.node.documents import Documents
from re6st.node.state_directory import CACHE_NAME, forget_network
from re6st.node.verifier import Verifier
from re6st.proxy import Proxy
from re6st.registry.client import JoinLink, RegistryClient, fetch_authorities


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
    client = RegistryClient(link.urls, authorities, proxy=proxy)
    if link.token:
        enrolment = await client.enrol(link.token, build_request(key, name))
    else:
        token, name = await ask_admission(client, key, files, name, message, tell)
        enrolment = await _enrol_asked(client, token, key, name)
    return _settle(files, key, authorities, enrolment)


def _settle(
    files: CredentialFiles,
    key: ec.EllipticCurvePrivateKey,
    authorities: Sequence[bytes],
    enrolment: Enrolment,
) -> Joined:
    """Check what the registry has answered, and put it in the place of any identity of before."""
    trust = TrustStore(authorities)
    certificate = trust.verify(enrolment.certificate, time.time())
    if not same_key(key, enrolment.certificate):
        raise UntrustedError("the registry answered with a certificate for another key")
    if files.exist():
        forget_network(files.directory)
    files.store_authorities(authorities)
    files.store_certificate(enrolment.certificate)
    _adopt_pending_key(files)
    forget(files)
    peers = _store_start(files.directory, trust, enrolment)
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
