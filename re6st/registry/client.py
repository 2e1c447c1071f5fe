"""Client of the registry: its API as a node uses it.

A node trusts the registry because of its certificate, never because of its URL. Before joining it knows
only the join link. It fetches the CA certificate without trusting the connection, compares its
fingerprint with the link's, and from then on accepts only servers with a certificate of that CA for
:data:`re6st.identity.REGISTRY_NAME`. Nothing, in particular not the token, is sent before that. For a URL
marked ``#tls=public`` (see :mod:`re6st.registry.links`) the system's certification authorities and the
host name decide instead; the CA is pinned all the same.
"""

from __future__ import annotations

import contextlib
import hmac
import itertools
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct

from re6st.errors import (
    ConfigError,
    ExpiredError,
    NotYetValidError,
    RegistryUnavailableError,
    RemoteProtocolError,
    RevokedError,
    StorageError,
    UntrustedError,
)
from re6st.identity import (
    CONTEXT_PARAMETERS,
    TrustStore,
    fingerprint,
    load_certificate,
    pem_to_der,
    pem_to_ders,
)
from re6st.messages import (
    AdmissionAnswer,
    AdmissionRequest,
    DocumentVersions,
    Enrolment,
    EnrolmentRequest,
    InvitationRequest,
    LanKeys,
    MessageType,
    NetworkParameters,
    NodeReport,
    PeerSample,
    RenewalRequest,
    SignedDocument,
    SignedPeerRecord,
    decode,
    encode,
)
from re6st.proxy import Proxy
from re6st.registry.links import JoinLink, RegistryUrl, parse_registry_url
from re6st.registry.transport import request as send

__all__ = [
    "ClientCertificate",
    "JoinLink",
    "RegistryClient",
    "RegistryUrl",
    "fetch_authorities",
    "parse_registry_url",
    "worst_failure",
]

REQUEST_TIMEOUT = 15.0
"""Seconds that one request to one URL may take, from the connection to the last octet."""

SAMPLE_SIZE = 16
"""Peer records that a node asks for unless it says otherwise."""


async def fetch_authorities(
    link: JoinLink, *, time_limit: float = REQUEST_TIMEOUT, proxy: Proxy | None = None
) -> tuple[bytes, ...]:
    """Return the CA certificates (DER) of the network that ``link`` leads to.

    They are fetched over an unauthenticated connection on which nothing but questions is sent. One must have
    the fingerprint that the link names; another one counts only if network parameters that the first one
    signed say so. While the link's URLs do not answer, the next one is tried. ``time_limit`` is in seconds,
    for each question. With a ``proxy`` it is tried through that first.

    Raises :class:`UntrustedError` on another fingerprint, :class:`RegistryUnavailableError`.
    """
    failures: list[Exception] = []
    for url in link.urls:
        try:
            return await _offered_authorities(url, link.fingerprint, time_limit, proxy)
        except RegistryUnavailableError as error:
            failures.append(error)
    raise worst_failure(failures)


def worst_failure(failures: Sequence[Exception]) -> Exception:
    """Return what to tell when no URL was of use: that one is untrusted rather than that one is away."""
    for failure in failures:
        if not isinstance(failure, RegistryUnavailableError):
            return failure
    return RegistryUnavailableError("; ".join(str(failure) for failure in failures))


async def _offered_authorities(
    url: RegistryUrl, pin: str, time_limit: float, proxy: Proxy | None
) -> tuple[bytes, ...]:
    """Return the CA certificates that the registry at ``url`` offers, if one has the fingerprint ``pin``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if url.public:
        context.load_default_certs()
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the fingerprint below is what counts
    body = await _fetch(url, context, "/v1/ca", time_limit, proxy)
    try:
        offered = pem_to_ders(body) or (pem_to_der(body),)
    except UntrustedError as error:
        raise UntrustedError(f"{url.base} does not answer like a registry: {error}") from error
    pinned = [der for der in offered if hmac.compare_digest(fingerprint(der), pin)]
    if not pinned:
        raise UntrustedError(
            f"the registry at {url.base} has the CA fingerprint {fingerprint(offered[0])}, but the join"
            f" link says {pin}: the link is not for this registry, or somebody stands in"
            " between. Nothing was sent; ask the operator for a new link."
        )
    if len(offered) == 1:
        return (pinned[0],)
    answer = await _fetch(url, context, "/v1/parameters", time_limit, proxy)
    return signed_authorities(TrustStore(pinned), answer) or (pinned[0],)


def signed_authorities(trust: TrustStore, answer: bytes) -> tuple[bytes, ...]:
    """Return the CA certificates (DER) in network parameters that ``trust`` believes.

    ``answer`` may come from anybody. Raises :class:`UntrustedError` or :class:`RegistryUnavailableError`.
    """
    try:
        payload = trust.verify_document(CONTEXT_PARAMETERS, decode(answer, SignedDocument))
        return decode(payload, NetworkParameters).authorities
    except RemoteProtocolError as error:
        raise RegistryUnavailableError(f"the registry answers nonsense: {error}") from error


async def _fetch(
    url: RegistryUrl, context: ssl.SSLContext, path: str, time_limit: float, proxy: Proxy | None
) -> bytes:
    if proxy is not None:
        with contextlib.suppress(RegistryUnavailableError):
            return await send(url, context, "GET", path, b"", time_limit, proxy=proxy)
    return await send(url, context, "GET", path, b"", time_limit)


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """Files with which a node proves who it is."""

    certificate: Path
    """The node's certificate, PEM."""
    key: Path
    """Its private key, PEM."""


class RegistryClient:
    """The registry's API. Holds no connection: make a new one when certificate or URLs change.

    The URLs are tried in turn until one answers. Every method may raise

    - :class:`RegistryUnavailableError`: no URL answers usefully; try again later;
    - :class:`RegistryRefusedError`: the registry says no, ``code`` tells why;
    - :class:`UntrustedError`: the server is not this network's registry, or does not accept our certificate;
    - :class:`ExpiredError`, :class:`RevokedError`: our certificate (or the server's) is no longer valid.
    """

    def __init__(
        self,
        urls: Sequence[RegistryUrl | str],
        authorities: Sequence[bytes],
        certificate: ClientCertificate | None = None,
        *,
        time_limit: float = REQUEST_TIMEOUT,
        proxy: Proxy | None = None,
        answered: Callable[[RegistryUrl], None] = lambda _: None,
    ) -> None:
        """Ask at ``urls``, trusting the CA certificates ``authorities`` (DER), as ``certificate`` if given.

        ``time_limit`` is in seconds, for each URL. Where a ``proxy`` is given, each is tried through it
        first. ``answered`` is told which URL gave an answer. Raises :class:`ConfigError` for no or malformed
        URLs.
        """
        self.urls = tuple(parse_registry_url(url) if isinstance(url, str) else url for url in urls)
        if not self.urls:
            raise ConfigError(
                'no registry URL is known: set registry = ["https://HOST:PORT"] in the configuration'
            )
        self._authorities = tuple(authorities)
        self._certificate = certificate
        self._time_limit = time_limit
        self._answered = answered
        self._proxies = (None,) if proxy is None else (proxy, None)
        self._contexts: dict[bool, ssl.SSLContext] = {}

    async def enrol(self, token: str, request: bytes) -> Enrolment:
        """Exchange ``token`` for a certificate over ``request`` (PKCS #10, DER).

        May be repeated with the same key when the answer was lost: it is the same enrolment.
        """
        return await self._ask(
            "POST", "/v1/enrolments", Enrolment, EnrolmentRequest(token=token, request=request)
        )

    async def ask_admission(self, message: AdmissionRequest, wait: int = 0) -> AdmissionAnswer:
        """Ask to be let in, or what came of it; the answer may come ``wait`` seconds later (at most 60)."""
        return await self._ask("POST", f"/v1/requests?wait={wait}", AdmissionAnswer, message, wait)

    async def ask_invitation(self, email: str) -> None:
        """Ask for a join link by mail. Whether one is sent is seen in the mailbox only."""
        await self._try("POST", "/v1/invitations", InvitationRequest(email=email))

    async def renew(self, request: bytes) -> Enrolment:
        """Return a fresh certificate over ``request``, which may be for a new key."""
        return await self._ask("POST", "/v1/renewals", Enrolment, RenewalRequest(request=request))

    async def publish(self, record: SignedPeerRecord) -> None:
        """Hand in our own peer record. An older one than the registry knows is refused."""
        await self._try("PUT", "/v1/peers/self", record)

    async def leave(self) -> None:
        """Leave the network for good: our certificate is revoked, our prefix is given back.

        May be repeated: who is revoked has left.
        """
        with contextlib.suppress(RevokedError):
            await self._try("DELETE", "/v1/nodes/self")

    async def sample(self, count: int = SAMPLE_SIZE) -> PeerSample:
        """Return up to ``count`` (1 to 64) random peer records. They are not verified yet."""
        return await self._ask("GET", f"/v1/peers/sample?count={count}", PeerSample)

    async def versions(
        self, report: NodeReport | None = None, *, known: DocumentVersions | None = None, wait: int = 0
    ) -> DocumentVersions:
        """Tell how we are, if ``report`` is given, and return which documents are in force.

        A registry that has no newer ones than ``known`` holds its answer back until it has, but not longer
        than ``wait`` seconds (at most 120).
        """
        query = ""
        if known is not None and wait:
            query = (
                f"?wait={wait}&parameters={known.parameters_version}&revocations={known.revocations_version}"
            )
        if report is None:
            return await self._ask("GET", f"/v1/versions{query}", DocumentVersions, wait=wait)
        return await self._ask("PUT", f"/v1/nodes/self/report{query}", DocumentVersions, report, wait)

    async def lan_keys(self) -> LanKeys:
        """Return the keys by which nodes in a LAN know each other."""
        return await self._ask("GET", "/v1/lan-keys", LanKeys)

    async def parameters(self) -> SignedDocument:
        """Return the network parameters, not verified yet."""
        return await self._ask("GET", "/v1/parameters", SignedDocument)

    async def parameters_of_anybody(self) -> SignedDocument:
        """Return what answers as network parameters at one of the URLs, whoever answers.

        For a node that was away while another CA took over: it knows the registry's certificate no more, but
        parameters that its own CA has signed as well. Our certificate is not shown.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the signature is what counts
        failure: Exception = RegistryUnavailableError("no registry URL is known")
        for url, proxy in itertools.product(self.urls, self._proxies):
            try:
                body = await send(url, context, "GET", "/v1/parameters", b"", self._time_limit, proxy=proxy)
                return decode(body, SignedDocument)
            except (RegistryUnavailableError, RemoteProtocolError) as error:
                failure = error
        raise RegistryUnavailableError(str(failure)) from failure

    async def revocations(self) -> SignedDocument:
        """Return the revocations, not verified yet."""
        return await self._ask("GET", "/v1/revocations", SignedDocument)

    async def _ask(
        self,
        method: str,
        path: str,
        kind: type[MessageType],
        message: Struct | None = None,
        wait: float = 0.0,
    ) -> MessageType:
        body = await self._try(method, path, message, wait)
        try:
            return decode(body, kind)
        except RemoteProtocolError as error:
            raise RegistryUnavailableError(
                f"the registry answers nonsense to {method} {path}: {error}"
            ) from error

    async def _try(self, method: str, path: str, message: Struct | None = None, wait: float = 0.0) -> bytes:
        """Return the body of the first URL's answer that is of use; it may come ``wait`` seconds later."""
        self._check_certificate()
        failures: list[Exception] = []
        body = encode(message) if message is not None else b""
        for url, proxy in itertools.product(self.urls, self._proxies):
            try:
                context, limit = self._context(url.public), self._time_limit + wait
                answer = await send(url, context, method, path, body, limit, proxy=proxy)
            except (RegistryUnavailableError, UntrustedError, ExpiredError) as error:
                failures.append(error)
            else:
                self._answered(url)
                return answer
        raise worst_failure(failures)

    def _context(self, public: bool) -> ssl.SSLContext:
        if public not in self._contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            if public:
                context.load_default_certs()
            else:
                context.load_verify_locations(cadata=b"".join(self._authorities))
            if self._certificate is not None:
                try:
                    context.load_cert_chain(self._certificate.certificate, self._certificate.key)
                except ssl.SSLError as error:
                    raise UntrustedError(
                        f"{self._certificate.certificate} and its key are not usable: {error}"
                    ) from error
                except OSError as error:
                    raise StorageError(
                        f"cannot read {self._certificate.certificate} and its key: {error}"
                    ) from error
            self._contexts[public] = context
        return self._contexts[public]

    def _check_certificate(self) -> None:
        """Raise what is wrong with our own certificate: the server would only close the connection."""
        if self._certificate is None:
            return
        der = load_certificate(self._certificate.certificate)
        try:
            TrustStore(self._authorities).verify(der, time.time())
        except NotYetValidError:
            raise
        except ExpiredError as error:
            raise ExpiredError(
                f"{error}: the registry does not renew it any more; ask the operator for a new join link and"
                " join again with --force"
            ) from error
