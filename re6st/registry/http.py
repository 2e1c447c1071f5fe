"""The registry's HTTPS server: what everybody can ask, and limits, headers and metrics for all requests.

What members, strangers and operators can ask is in :mod:`re6st.registry.node_http`,
:mod:`re6st.registry.joiner_http` and :mod:`re6st.registry.operator_api`, how failures are told in
:mod:`re6st.registry.problems`. The service blocks (on its database), so that one worker thread carries
out each use case, finding out who asks included.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from re6st.messages import MAXIMUM_BODY, SignedDocument
from re6st.registry.http_messages import json_answer
from re6st.registry.invitation_page import InvitationPage
from re6st.registry.joiner_http import JoinerApi
from re6st.registry.kept import Kept
from re6st.registry.limits import RateLimiter
from re6st.registry.metrics import CONTENT_TYPE, Metrics
from re6st.registry.node_http import NodeApi
from re6st.registry.openapi import Route, describe_api
from re6st.registry.operator_api.http import OperatorApi
from re6st.registry.operators import Scope
from re6st.registry.page import Page
from re6st.registry.problems import RETRY_AFTER, Handler, tell_problems
from re6st.registry.service import Service
from re6st.registry.worker import Worker

REQUEST_TIMEOUT = 20.0
"""Seconds that reading a request and answering it may take; longer than a database may be locked."""

REFUSED_ATTEMPTS = 20
"""Refused enrolments or wrong operators' tokens that one address may send at once."""

ATTEMPT_RATE = 1 / RETRY_AFTER
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
        self._joiners = JoinerApi(service, worker, self._attempts)
        self._nodes = NodeApi(service, worker)
        self._metrics = Metrics(service, health)
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
            *self._nodes.routes(),
            *self._joiners.routes(),
            *self._operators.routes(),
        )

    def application(self) -> web.Application:
        """Return the application with all routes."""
        application = web.Application(
            middlewares=[self._measured, tell_problems, self._bounded_time], client_max_size=MAXIMUM_BODY
        )
        application.on_response_prepare.append(_add_headers)
        application.on_shutdown.append(self._operators.stop)
        application.on_shutdown.append(self._joiners.stop)
        application.on_shutdown.append(self._nodes.stop)
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
        return json_answer(await self._run(self._service.parameters))

    async def revocations(self, _request: web.Request) -> web.Response:
        """Return the signed revocations."""
        return json_answer(await self._run(self._service.revocations))

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


def _time_limit(route: Route) -> float | None:
    """Return how many seconds a request may take; None for any number."""
    return None if route.endless else REQUEST_TIMEOUT + route.patience


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    # Instead of the versions of Python and aiohttp.
    response.headers["Server"] = "re6st-registry"
