"""The registry's HTTPS API: its routes, who is asking, limits, errors as problem documents (RFC 9457).

Nodes are recognised by the client certificate of the TLS connection; OpenSSL verified its chain, the service
verifies the rest and asks the database whether it is revoked, for each request. The service blocks (on its
database), so that one worker thread carries out each use case, finding out who asks included. The operator
API is in :mod:`re6st.registry.operator_api`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

from re6st.errors import (
    ConfigError,
    ExpiredError,
    Re6stError,
    RegistryRefusedError,
    RemoteProtocolError,
    RevokedError,
    StorageError,
    UntrustedError,
)
from re6st.messages import (
    MAXIMUM_BODY,
    DocumentVersions,
    Enrolment,
    EnrolmentRequest,
    LanKeys,
    MessageType,
    NodeReport,
    PeerSample,
    Problem,
    RenewalRequest,
    SignedDocument,
    SignedPeerRecord,
    decode,
    encode,
)
from re6st.registry.announcer import Announcer, is_news
from re6st.registry.invitation_page import InvitationPage
from re6st.registry.joiner_http import JoinerApi
from re6st.registry.kept import Kept
from re6st.registry.limits import RateLimiter
from re6st.registry.metrics import CONTENT_TYPE, Metrics
from re6st.registry.openapi import Parameter, Route, describe_api
from re6st.registry.operator_api.http import OperatorApi
from re6st.registry.operators import Scope
from re6st.registry.page import Page
from re6st.registry.service import ENROLMENT_SAMPLE, SAMPLE_LIMIT, Caller, Service
from re6st.registry.usecases import Actor, ActorKind
from re6st.registry.worker import Worker

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT = 20.0
"""Seconds that reading a request and answering it may take; longer than a database may be locked."""

RENEWAL_POLL = 10.0
"""Seconds between looks whether a node that waits for versions should renew its certificate."""

MAXIMUM_WAIT = 120
"""Seconds for which a question for versions may be held back at most."""

WAIT = (
    Parameter("wait", {"type": "integer", "minimum": 0, "maximum": MAXIMUM_WAIT}),
    Parameter("parameters", {"type": "integer", "minimum": 0, "maximum": 2**53}),
    Parameter("revocations", {"type": "integer", "minimum": 0, "maximum": 2**53}),
)
"""For how long to wait for versions higher than these."""

COUNT = Parameter("count", {"type": "integer", "minimum": 1, "maximum": SAMPLE_LIMIT})

REFUSALS = {
    "malformed": HTTPStatus.BAD_REQUEST,
    "request-malformed": HTTPStatus.BAD_REQUEST,
    "request-unsigned": HTTPStatus.BAD_REQUEST,
    "request-unsupported-key": HTTPStatus.BAD_REQUEST,
    "name-invalid": HTTPStatus.BAD_REQUEST,
    "record-invalid": HTTPStatus.BAD_REQUEST,
    "certificate-required": HTTPStatus.UNAUTHORIZED,
    "operator-token-invalid": HTTPStatus.UNAUTHORIZED,
    "unknown-node": HTTPStatus.NOT_FOUND,
    "unknown-token": HTTPStatus.NOT_FOUND,
    "unknown-reservation": HTTPStatus.NOT_FOUND,
    "unknown-operator-token": HTTPStatus.NOT_FOUND,
    "unknown-version": HTTPStatus.NOT_FOUND,
    "prefix-taken": HTTPStatus.CONFLICT,
    "suspended": HTTPStatus.CONFLICT,
    "unknown-request": HTTPStatus.NOT_FOUND,
    "request-decided": HTTPStatus.CONFLICT,
    "mailbox-full": HTTPStatus.CONFLICT,
    "unknown-prefix": HTTPStatus.NOT_FOUND,
    "too-many-prefixes": HTTPStatus.CONFLICT,
    "unknown-group": HTTPStatus.NOT_FOUND,
    "group-in-use": HTTPStatus.CONFLICT,
    "group-full": HTTPStatus.CONFLICT,
    "too-many-groups": HTTPStatus.CONFLICT,
    "unknown-plan": HTTPStatus.NOT_FOUND,
    "too-many-plans": HTTPStatus.CONFLICT,
    "rollover-under-way": HTTPStatus.CONFLICT,
    "not-prepared": HTTPStatus.CONFLICT,
    "not-switched": HTTPStatus.CONFLICT,
    "nodes-not-ready": HTTPStatus.CONFLICT,
    "lan-key-pending": HTTPStatus.CONFLICT,
    "version-changed": HTTPStatus.PRECONDITION_FAILED,
    "idempotency-key-reused": HTTPStatus.UNPROCESSABLE_ENTITY,
    "too-many-requests": HTTPStatus.TOO_MANY_REQUESTS,
    "token-unknown": HTTPStatus.FORBIDDEN,
    "token-expired": HTTPStatus.FORBIDDEN,
    "token-used": HTTPStatus.CONFLICT,
    "name-taken": HTTPStatus.CONFLICT,
    "network-full": HTTPStatus.CONFLICT,
    "record-outdated": HTTPStatus.CONFLICT,
    "too-many-certificates": HTTPStatus.CONFLICT,
    "revocations-full": HTTPStatus.CONFLICT,
}
"""Statuses of refusals by their code; FORBIDDEN for all others."""

ERRORS: tuple[tuple[type[Re6stError], str, HTTPStatus], ...] = (
    (RevokedError, "certificate-revoked", HTTPStatus.FORBIDDEN),
    (ExpiredError, "certificate-expired", HTTPStatus.FORBIDDEN),
    (UntrustedError, "certificate-untrusted", HTTPStatus.FORBIDDEN),
    (RemoteProtocolError, "malformed", HTTPStatus.BAD_REQUEST),
    (ConfigError, "invalid", HTTPStatus.BAD_REQUEST),
    (StorageError, "storage", HTTPStatus.SERVICE_UNAVAILABLE),
)
"""Type of problem and status of every other foreseen error."""

REFUSED_ATTEMPTS = 20
"""Refused enrolments or wrong operators' tokens that one address may send at once."""

ATTEMPT_RATE = 0.2
"""Further ones in a second."""

HEADERS = {
    "Strict-Transport-Security": "max-age=31536000",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""In each answer that does not say otherwise."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Result = TypeVar("Result")


class Api:
    """The routes over one service."""

    def __init__(self, service: Service, worker: Worker) -> None:
        """``worker`` is the only one that calls ``service``."""
        self._service = service
        self._worker = worker
        self._attempts = RateLimiter(REFUSED_ATTEMPTS, ATTEMPT_RATE)
        health = Kept(service.count_troubles)
        self._operators = OperatorApi(service, self._run, self._attempts, health)
        self._joiners = JoinerApi(service, self._run, self._attempts)
        self._metrics = Metrics(service, health)
        self._announcer = Announcer(lambda: self._run(service.versions))
        self._limits = {route.path: _time_limit(route) for route in self.routes()}

    def routes(self) -> tuple[Route, ...]:
        """Return everything that can be asked."""
        return (
            Route("GET", "/healthz", self.health, media_type="text/plain"),
            Route("GET", "/metrics", self.metrics, scope=Scope.READ, media_type="text/plain"),
            Route("GET", "/v1/openapi.json", self.description),
            Route("GET", "/v1/ca", self.authority, media_type="application/x-pem-file"),
            Route("GET", "/v1/parameters", self.parameters, answer=SignedDocument),
            Route("GET", "/v1/revocations", self.revocations, answer=SignedDocument),
            Route(
                "POST", "/v1/enrolments", self.enrol, request=EnrolmentRequest, answer=Enrolment, status=201
            ),
            Route(
                "POST",
                "/v1/renewals",
                self.renew,
                request=RenewalRequest,
                answer=Enrolment,
                status=201,
                node=True,
            ),
            Route("PUT", "/v1/peers/self", self.publish, request=SignedPeerRecord, status=204, node=True),
            Route("GET", "/v1/peers/sample", self.sample, answer=PeerSample, node=True, parameters=(COUNT,)),
            Route("GET", "/v1/lan-keys", self.lan_keys, answer=LanKeys, node=True),
            Route(
                "PUT",
                "/v1/nodes/self/report",
                self.report,
                request=NodeReport,
                answer=DocumentVersions,
                node=True,
                parameters=WAIT,
                patience=MAXIMUM_WAIT,
            ),
            Route(
                "GET",
                "/v1/versions",
                self.versions,
                answer=DocumentVersions,
                node=True,
                parameters=WAIT,
                patience=MAXIMUM_WAIT,
            ),
            Route("DELETE", "/v1/nodes/self", self.leave, status=204, node=True),
            *self._joiners.routes(),
            *self._operators.routes(),
        )

    def application(self) -> web.Application:
        """Return the application with all routes."""
        application = web.Application(
            middlewares=[self._measured, _errors, self._bounded_time], client_max_size=MAXIMUM_BODY
        )
        application.on_response_prepare.append(_add_headers)
        application.on_shutdown.append(self._operators.stop)
        application.on_shutdown.append(self._joiners.stop)
        application.on_shutdown.append(self._stop_waiting)
        for route in self.routes():
            application.router.add_route(route.method, route.path, route.handler)
        Page().add_to(application)
        InvitationPage(self._service, self._run, self._joiners.ask_mail).add_to(application)
        return application

    async def description(self, _request: web.Request) -> web.Response:
        """Return this description."""
        body = msgspec.json.encode(describe_api(self.routes()))
        return web.Response(body=body, content_type="application/json")

    async def health(self, _request: web.Request) -> web.Response:
        """Say whether the database can be read, and the key of the CA in force is here."""
        await self._run(self._service.authority_expiry)
        return web.Response(text="ok\n")

    async def metrics(self, request: web.Request) -> web.Response:
        """Return metrics in the text format of Prometheus."""
        await self._operators.authenticate(request, Scope.READ)
        body = await self._run(self._metrics.render)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def authority(self, _request: web.Request) -> web.Response:
        """Return the CA certificates (PEM), the one that issues first."""
        return web.Response(
            body=await self._run(self._service.authority_pem), content_type="application/x-pem-file"
        )

    async def parameters(self, _request: web.Request) -> web.Response:
        """Return the signed network parameters."""
        return _json(await self._run(self._service.parameters))

    async def revocations(self, _request: web.Request) -> web.Response:
        """Return the signed revocations."""
        return _json(await self._run(self._service.revocations))

    async def enrol(self, request: web.Request) -> web.Response:
        """Exchange a token for a certificate."""
        self._attempts.check(request.remote, time.monotonic())
        message = await _message(request, EnrolmentRequest)
        service = self._service.by(Actor(ActorKind.JOINER, origin=request.remote or ""))
        try:
            enrolment = await self._worker.change(lambda: service.enrol(message))
            return _json(enrolment, HTTPStatus.CREATED)
        except RegistryRefusedError:
            self._attempts.count(request.remote, time.monotonic())
            raise

    async def renew(self, request: web.Request) -> web.Response:
        """Return a fresh certificate for the caller."""
        certificate, message = _certificate(request), await _message(request, RenewalRequest)

        def renew() -> Enrolment:
            caller = self._service.authenticate(certificate)
            return self._by(caller, request).renew(caller, message)

        return _json(await self._worker.change(renew), HTTPStatus.CREATED)

    async def publish(self, request: web.Request) -> web.Response:
        """Take the caller's own peer record."""
        certificate, record = _certificate(request), await _message(request, SignedPeerRecord)
        service = self._service
        await self._worker.change(lambda: service.publish(service.authenticate(certificate), record))
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def sample(self, request: web.Request) -> web.Response:
        """Return up to ``count`` random peer records."""
        certificate, text = _certificate(request), request.query.get("count", str(ENROLMENT_SAMPLE))
        if not (text.isascii() and text.isdecimal() and len(text) < 4):
            raise RegistryRefusedError("count must be a number", code="malformed")
        service, count = self._service, int(text)
        return _json(await self._worker.ask(lambda: service.sample(service.authenticate(certificate), count)))

    async def lan_keys(self, request: web.Request) -> web.Response:
        """Return the keys by which nodes in a LAN know each other."""
        certificate, service = _certificate(request), self._service

        def hand_out() -> LanKeys:
            service.authenticate(certificate)
            return service.lan_keys()

        return _json(await self._worker.ask(hand_out))

    async def report(self, request: web.Request) -> web.Response:
        """Take note of how the caller is, and tell which documents are in force, see ``/v1/versions``."""
        certificate, report = _certificate(request), await _message(request, NodeReport)
        service = self._service

        def note() -> tuple[Caller, DocumentVersions]:
            caller = service.authenticate(certificate)
            return caller, _with_renewal(service.report(caller.node, report), service, caller)

        return await self._tell_versions(request, *await self._worker.change(note))

    async def versions(self, request: web.Request) -> web.Response:
        """Tell which documents are in force: with ``wait``, after so many seconds or once there is a newer
        version than the caller says to know.
        """
        certificate, service = _certificate(request), self._service

        def read() -> tuple[Caller, DocumentVersions]:
            caller = service.authenticate(certificate)
            return caller, _with_renewal(service.versions(), service, caller)

        return await self._tell_versions(request, *await self._worker.ask(read))

    async def _tell_versions(
        self, request: web.Request, caller: Caller, versions: DocumentVersions
    ) -> web.Response:
        known = DocumentVersions(
            parameters_version=_number(request, "parameters", 2**53),
            revocations_version=_number(request, "revocations", 2**53),
        )
        left = float(_number(request, "wait", MAXIMUM_WAIT))
        while left > 0 and not (versions.renewal or is_news(versions, known) or self._announcer.stopping):
            newest = await self._announcer.wait(versions, known, min(left, RENEWAL_POLL))
            versions = await self._run(_with_renewal, newest, self._service, caller)
            left -= RENEWAL_POLL
        return _json(versions)

    async def _stop_waiting(self, _application: web.Application) -> None:
        await self._announcer.stop()

    async def leave(self, request: web.Request) -> web.Response:
        """Let the caller leave for good."""
        certificate = _certificate(request)

        def leave() -> None:
            caller = self._service.authenticate(certificate)
            self._by(caller, request).leave(caller)

        await self._worker.change(leave)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    def _by(self, caller: Caller, request: web.Request) -> Service:
        """Return the use cases as done by ``caller``."""
        return self._service.by(Actor(ActorKind.NODE, caller.node.name, request.remote or ""))

    async def _run(self, function: Callable[..., Result], *arguments: object) -> Result:
        return await self._worker.ask(lambda: function(*arguments))

    @web.middleware
    async def _bounded_time(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        async with asyncio.timeout(self._limits.get(request.path, REQUEST_TIMEOUT)):
            return await handler(request)

    @web.middleware
    async def _measured(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count the request under the pattern of its path."""
        began = time.monotonic()
        response = await handler(request)
        resource = request.match_info.route.resource
        # What strangers make up must not become the name of a time series.
        method, route = (request.method, resource.canonical) if resource is not None else ("other", "unknown")
        self._metrics.count(method, route, response.status, time.monotonic() - began)
        return response


def _with_renewal(versions: DocumentVersions, service: Service, caller: Caller) -> DocumentVersions:
    """Return ``versions`` with whether the caller should renew its certificate."""
    return msgspec.structs.replace(versions, renewal=service.wants_renewal(caller))


def _time_limit(route: Route) -> float | None:
    """Return how many seconds a request may take; None for any number."""
    return None if route.endless else REQUEST_TIMEOUT + route.patience


def _number(request: web.Request, name: str, highest: int) -> int:
    """Return the number called ``name`` in the query, 0 if it is not there, at most ``highest``."""
    text = request.query.get(name, "0")
    if not re.fullmatch(r"[0-9]{1,16}", text):
        raise RegistryRefusedError(f"{name} must be a number", code="malformed")
    return min(int(text), highest)


def _certificate(request: web.Request) -> bytes:
    """Return the certificate (DER) of the node at the other end of the TLS connection."""
    connection = request.transport.get_extra_info("ssl_object") if request.transport else None
    der: bytes | None = connection.getpeercert(binary_form=True) if connection is not None else None
    if der is None:
        raise RegistryRefusedError(
            "this needs the certificate of a node (TLS client certificate)", code="certificate-required"
        )
    return der


async def _message(request: web.Request, kind: type[MessageType]) -> MessageType:
    return decode(await request.read(), kind)


def _json(message: Struct, status: int = HTTPStatus.OK) -> web.Response:
    return web.Response(body=encode(message), status=status, content_type="application/json")


def _problem(status: int, kind: str, detail: str) -> web.Response:
    problem = Problem(type=kind, title=HTTPStatus(status).phrase, detail=detail[:1024], status=status)
    response = web.Response(body=encode(problem), status=status, content_type="application/problem+json")
    if kind == "operator-token-invalid":
        response.headers["WWW-Authenticate"] = 'Bearer realm="re6st"'
    elif kind == "too-many-requests":
        response.headers["Retry-After"] = str(math.ceil(1 / ATTEMPT_RATE))
    return response


def describe(error: Re6stError) -> tuple[int, str]:
    """Return status and type of problem that tell of ``error``."""
    if isinstance(error, RegistryRefusedError):
        return REFUSALS.get(error.code, HTTPStatus.FORBIDDEN), error.code
    for kind, code, status in ERRORS:
        if isinstance(error, kind):
            return status, code
    return HTTPStatus.INTERNAL_SERVER_ERROR, "internal"


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every failure into a problem document; only foreseen ones are told in detail."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        kind = "too-large" if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else "http"
        response = _problem(error.status, kind, f"{request.method} {request.path}: {error.reason}")
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except TimeoutError:
        return _problem(HTTPStatus.SERVICE_UNAVAILABLE, "timeout", "the request took too long")
    except Re6stError as error:
        status, kind = describe(error)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            logger.error("%s %s from %s failed: %s", request.method, request.path, request.remote, error)
            return _problem(status, kind, "the registry has a problem of its own; its log says more")
        logger.info("%s %s from %s refused: %s", request.method, request.path, request.remote, error)
        return _problem(status, kind, str(error))
    except Exception:
        logger.exception("%s %s from %s failed", request.method, request.path, request.remote)
        return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "the registry failed; its log says why")


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    # Instead of the versions of Python and aiohttp.
    response.headers["Server"] = "re6st-registry"
