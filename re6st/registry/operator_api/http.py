"""The operator API over HTTPS: bearer tokens, repeated requests, entity tags.

Each request is one call in the service's thread: the operator is authenticated, what he asks for is done, and
the answer is encoded, so that nothing changes in between.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web

from re6st.errors import RegistryRefusedError
from re6st.messages import decode, encode
from re6st.registry.kept import Kept
from re6st.registry.limits import RateLimiter
from re6st.registry.openapi import Parameter, Route
from re6st.registry.operator_api.call import HIGHEST_NUMBER, Call, entity_tag
from re6st.registry.operator_api.events import ChangeStreams
from re6st.registry.operator_api.nodes import show_troubles
from re6st.registry.operator_api.routes import AFTER, ROUTES, OperatorRoute
from re6st.registry.operator_messages import AuditEntry, Troubles
from re6st.registry.operators import Operator, Scope
from re6st.registry.reporting import Health
from re6st.registry.service import Service
from re6st.registry.usecases import Actor, ActorKind

PREFIX = "/v1/operator"

_LAST_EVENT = Parameter(
    "Last-Event-ID", {"type": "integer", "minimum": 0, "maximum": HIGHEST_NUMBER}, "header"
)


class OperatorApi:
    """The operator's routes over one service."""

    def __init__(
        self,
        service: Service,
        run: Callable[..., Awaitable[Any]],
        attempts: RateLimiter,
        health: Kept[Health],
    ) -> None:
        """``run`` calls a function in the service's thread; ``attempts`` counts wrong tokens.

        ``health`` says how many nodes have which trouble.
        """
        self._service = service
        self._run = run
        self._attempts = attempts
        self._health = health
        self._streams = ChangeStreams(service, run, functools.partial(self.authenticate, scope=Scope.READ))

    def routes(self) -> tuple[Route, ...]:
        """Return everything that operators can ask."""
        events = Route(
            "GET",
            f"{PREFIX}/events",
            self._follow,
            scope=Scope.READ,
            answer=AuditEntry,
            media_type="text/event-stream",
            parameters=(AFTER, _LAST_EVENT),
            endless=True,
        )
        troubles = OperatorRoute(Scope.READ, "GET", "/troubles", self._show_troubles, Troubles)
        return (*(self._route(route) for route in (*ROUTES, troubles)), events)

    async def _follow(self, request: web.Request) -> web.StreamResponse:
        """Tell changes as they happen: each entry of the audit log is an event (text/event-stream)."""
        _check_query(request, (AFTER,))
        return await self._streams.handle(request)

    def _show_troubles(self, _service: Service, _call: Call) -> Troubles:
        """Say how many nodes are unwell, and of what."""
        return show_troubles(self._health.get())

    def _route(self, route: OperatorRoute) -> Route:
        return Route(
            route.method,
            PREFIX + route.path,
            functools.partial(self._handle, route),
            request=route.request,
            answer=route.answer,
            status=int(route.status),
            scope=route.scope,
            parameters=route.parameters,
            summary=(route.operation.__doc__ or "").strip(),
        )

    async def _handle(self, route: OperatorRoute, request: web.Request) -> web.Response:
        operator = await self.authenticate(request, route.scope)
        _check_texts(request)
        _check_query(request, route.query)
        body = await request.read()
        call = Call(
            operator,
            request.match_info,
            request.query,
            decode(body, route.request) if route.request is not None else None,
            request.headers.get("If-Match"),
        )
        actor = Actor(ActorKind.TOKEN, operator.name, request.remote or "")
        key = _idempotency_key(request) if route.repeatable else None
        status, answer = await self._run(
            _perform, self._service.by(actor), route, call, key, request.path.encode() + b"\0" + body
        )
        if status == HTTPStatus.NO_CONTENT:
            return web.Response(status=status)
        headers = {}
        if request.method == "GET" or route.conditional:
            headers["ETag"] = entity_tag(answer)
            known = request.headers.get("If-None-Match", "")
            if request.method == "GET" and headers["ETag"] in [tag.strip() for tag in known.split(",")]:
                return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        return web.Response(body=answer, status=status, headers=headers, content_type="application/json")

    async def authenticate(self, request: web.Request, scope: Scope) -> Operator:
        """Return the operator who is asking. Raises :class:`RegistryRefusedError`."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        try:
            operator: Operator = await self._run(self._service.authenticate_operator, token[:256], scope)
        except RegistryRefusedError as error:
            # Only who is wrong is slowed down: a guesser must not lock out the operator behind the same NAT.
            if token and error.code == "operator-token-invalid":
                now = time.monotonic()
                self._attempts.check(request.remote, now)
                self._attempts.count(request.remote, now)
            raise
        return operator

    async def stop(self, _application: web.Application) -> None:
        """End all streams of changes."""
        self._streams.stop()


def _perform(
    service: Service, route: OperatorRoute, call: Call, key: str | None, repeated: bytes
) -> tuple[int, bytes]:
    """Do what is asked, in the service's thread; return status and body of the answer.

    With a ``key`` it is done once, however often it is asked; ``repeated`` must be the same each time.
    """

    def act() -> tuple[int, bytes]:
        answer = route.operation(service, call)
        return int(route.status), encode(answer) if answer is not None else b""

    return act() if key is None else service.once(call.operator, key, repeated, act)


def _check_texts(request: web.Request) -> None:
    """Refuse what no name, prefix or owner contains, and no PostgreSQL can take (NUL, half characters)."""
    for name, text in (*request.match_info.items(), *request.query.items()):
        if not text.isprintable():
            raise RegistryRefusedError(
                f"{name[:64]!a} holds a character that cannot be printed: leave it away", code="malformed"
            )


def _check_query(request: web.Request, known: Sequence[Parameter]) -> None:
    """Refuse a query that asks what nobody understands: the answer would be about everything."""
    possible = [parameter.name for parameter in known]
    for name in request.query:
        if name not in possible:
            hint = f"possible are {', '.join(possible)}" if possible else "it takes none"
            raise RegistryRefusedError(
                f"{name[:64]!a} is not a parameter of this query: {hint}", code="malformed"
            )


def _idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and re.fullmatch(r"[!-~]{1,128}", key) is None:
        raise RegistryRefusedError(
            "the idempotency key must be 1 to 128 printable characters without spaces", code="malformed"
        )
    return key
