"""The operator API over HTTPS: bearer tokens, repeated requests, entity tags, the stream of changes.

Each request is one call in the service's thread: the operator is authenticated, what he asks for is done, and
the answer is encoded, so that nothing changes in between.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

from aiohttp import web
from msgspec import Struct

from re6st.errors import RegistryRefusedError, StorageError
from re6st.messages import OWNER_LENGTH, decode, encode
from re6st.registry import operations
from re6st.registry import operator_messages as messages
from re6st.registry import settings_operations as settings
from re6st.registry.diagnosis import Kind, Severity
from re6st.registry.kept import Kept
from re6st.registry.limits import RateLimiter
from re6st.registry.openapi import Parameter, Route
from re6st.registry.operations import PAGE_LIMIT, Call, Operation, entity_tag
from re6st.registry.operators import Operator, Scope
from re6st.registry.policy import AdmissionPolicy
from re6st.registry.reporting import Health
from re6st.registry.service import Service
from re6st.registry.usecases import Actor, ActorKind

logger = logging.getLogger(__name__)

PREFIX = "/v1/operator"

EVENT_POLL = 0.5
"""Seconds between looks at the database for a stream of changes."""

HEARTBEAT = 15.0
"""Seconds after which a silent stream of changes gets a comment, so that both ends notice a dead one."""

MAXIMUM_STREAMS = 64

_NUMBER = {"type": "integer", "minimum": 0, "maximum": 2**53}
_LIMIT = Parameter("limit", {"type": "integer", "minimum": 1, "maximum": PAGE_LIMIT})
_AFTER = Parameter("after", _NUMBER)
_NODE = Parameter("node", {"type": "string", "minLength": 1, "maxLength": 64}, "path")
_NAME = Parameter("name", {"type": "string", "minLength": 1, "maxLength": 63}, "path")
_IF_NONE_MATCH = Parameter("If-None-Match", {"type": "string", "maxLength": 256}, "header")
_IF_MATCH = Parameter("If-Match", {"type": "string", "maxLength": 256}, "header")
_KEY = Parameter(
    "Idempotency-Key", {"type": "string", "pattern": "^[!-~]{1,128}$", "maxLength": 128}, "header"
)
_STATE = Parameter("state", {"type": "string", "enum": [state.value for state in messages.NodeState]})
_TAGGED = (operations.set_parameters, operations.change_group, settings.set_policy)
"""What changes something that ``If-Match`` can name, and answers with it."""
_SWITCH = {"type": "string", "enum": ["0", "1"]}
_UNWELL = Parameter("unwell", _SWITCH)
_TROUBLE = Parameter("trouble", {"type": "string", "enum": [kind.value for kind in Kind]})
_GROUP = Parameter("group", {"type": "string", "minLength": 1, "maxLength": 63})
_OWNER = Parameter("owner", {"type": "string", "maxLength": OWNER_LENGTH})

Result = TypeVar("Result")
Run = Callable[..., Awaitable[Any]]


class OperatorApi:
    """The operator's routes over one service."""

    def __init__(self, service: Service, run: Run, attempts: RateLimiter, health: Kept[Health]) -> None:
        """``run`` calls a function in the service's thread; ``attempts`` counts wrong tokens.

        ``health`` says how many nodes have which trouble.
        """
        self._service = service
        self._run = run
        self._attempts = attempts
        self._health = health
        self._streams = 0
        self._stopping = asyncio.Event()

    def routes(self) -> tuple[Route, ...]:
        """Return everything that operators can ask."""
        read, write, admin = Scope.READ, Scope.WRITE, Scope.ADMIN
        token_id = Parameter("id", _NUMBER, "path")
        pages = (_LIMIT, _AFTER)
        change = messages.ParametersChange
        node = messages.Node
        return (
            self._get("/overview", operations.overview, messages.Overview),
            self._get(
                "/nodes",
                operations.list_nodes,
                messages.NodePage,
                (_LIMIT, Parameter("after"), _STATE, Parameter("search"), _UNWELL, _TROUBLE, _GROUP, _OWNER),
            ),
            self._get("/troubles", self._show_troubles, messages.Troubles),
            self._get("/mesh", operations.show_mesh, messages.Mesh),
            self._get("/nodes/{node}", operations.show_node, node, (_NODE,)),
            self._route(
                "PUT", "/nodes/{node}/name", write, operations.rename_node, node, messages.Renaming, (_NODE,)
            ),
            self._route(
                "PUT", "/nodes/{node}/group", write, operations.move_node, node, messages.NodeGroup, (_NODE,)
            ),
            self._route(
                "PUT", "/nodes/{node}/owner", write, operations.set_owner, node, messages.NodeOwner, (_NODE,)
            ),
            self._route(
                "PUT", "/nodes/{node}/suspension", write, operations.suspend_node, node, None, (_NODE,)
            ),
            self._route(
                "DELETE", "/nodes/{node}/suspension", write, operations.resume_node, node, None, (_NODE,)
            ),
            self._route(
                "POST", "/nodes/{node}/revocation", write, operations.revoke_node, node, None, (_NODE,)
            ),
            self._route(
                "POST",
                "/nodes/{node}/prefixes",
                write,
                operations.add_prefix,
                node,
                messages.PrefixRequest,
                (_NODE,),
            ),
            self._route(
                "DELETE",
                "/nodes/{node}/prefixes/{prefix}",
                write,
                operations.remove_prefix,
                None,
                None,
                (_NODE, Parameter("prefix", _NODE.schema, "path")),
            ),
            self._route("DELETE", "/nodes/{node}", write, operations.delete_node, None, None, (_NODE,)),
            self._route("POST", "/links", write, operations.create_link, messages.Link, messages.LinkRequest),
            self._get("/tokens", operations.list_tokens, messages.TokenPage, pages),
            self._route("DELETE", "/tokens/{id}", write, operations.revoke_token, None, None, (token_id,)),
            self._get("/reservations", operations.list_reservations, messages.ReservationList),
            self._route(
                "POST",
                "/reservations",
                write,
                operations.create_reservation,
                messages.KeptPrefix,
                messages.ReservationRequest,
            ),
            self._route(
                "DELETE", "/reservations/{name}", write, operations.remove_reservation, None, None, (_NAME,)
            ),
            *self._group_routes(),
            *self._admission_routes(),
            *self._settings_routes(),
            self._get("/parameters", operations.show_parameters, messages.Parameters),
            self._route(
                "PUT",
                "/parameters",
                admin,
                operations.set_parameters,
                messages.Parameters,
                change,
                (_IF_MATCH,),
            ),
            self._route(
                "POST",
                "/parameters/preview",
                read,
                operations.preview_parameters,
                messages.ParametersPreview,
                change,
                status=200,
            ),
            self._route(
                "POST",
                "/parameters/undo",
                admin,
                operations.undo_parameters,
                messages.Parameters,
                messages.ParametersUndo,
            ),
            self._get("/parameters/plans", operations.list_plans, messages.ParametersPlanList),
            self._route(
                "POST",
                "/parameters/plans",
                admin,
                operations.create_plan,
                messages.ParametersPlan,
                messages.ParametersPlanRequest,
            ),
            self._route(
                "DELETE", "/parameters/plans/{id}", admin, operations.cancel_plan, None, None, (token_id,)
            ),
            self._get(
                "/parameters/history", operations.parameters_history, messages.ParametersHistory, (_LIMIT,)
            ),
            self._get(
                "/audit",
                operations.list_audit,
                messages.AuditPage,
                (*pages, Parameter("before", _NUMBER), Parameter("since", _NUMBER)),
            ),
            Route(
                "GET",
                f"{PREFIX}/events",
                self.events,
                scope=read,
                answer=messages.AuditEntry,
                media_type="text/event-stream",
                parameters=(_AFTER, Parameter("Last-Event-ID", _NUMBER, "header")),
                endless=True,
            ),
            self._get("/operator-tokens", operations.list_operator_tokens, messages.OperatorTokenList),
            self._route(
                "POST",
                "/operator-tokens",
                admin,
                operations.create_operator_token,
                messages.OperatorToken,
                messages.OperatorTokenRequest,
            ),
            self._route(
                "DELETE",
                "/operator-tokens/{name}",
                admin,
                operations.revoke_operator_token,
                None,
                None,
                (_NAME,),
            ),
        )

    def _show_troubles(self, _service: Service, _call: Call) -> messages.Troubles:
        """Say how many nodes are unwell, and of what."""
        health = self._health.get()
        order = list(Severity)
        items = sorted(health.troubles.items(), key=lambda item: (-order.index(item[0][1]), -item[1]))
        return messages.Troubles(
            unwell=health.unwell,
            items=tuple(
                messages.TroubleCount(kind=kind, severity=severity, nodes=nodes)
                for (kind, severity), nodes in items
            ),
            counted=health.counted,
        )

    def _group_routes(self) -> tuple[Route, ...]:
        """Return what concerns groups of nodes."""
        group, write = messages.Group, Scope.WRITE
        return (
            self._get("/groups", operations.list_groups, messages.GroupList),
            self._route("POST", "/groups", write, operations.create_group, group, messages.GroupRequest),
            self._get("/groups/{name}", operations.show_group, group, (_NAME,)),
            self._route(
                "PUT",
                "/groups/{name}",
                write,
                operations.change_group,
                group,
                messages.GroupChange,
                (_NAME, _IF_MATCH),
            ),
            self._route("DELETE", "/groups/{name}", write, operations.remove_group, None, None, (_NAME,)),
        )

    def _admission_routes(self) -> tuple[Route, ...]:
        """Return what concerns those who come without a join link."""
        request, request_id = messages.WaitingRequest, (Parameter("id", _NUMBER, "path"),)
        return (
            self._get(
                "/requests",
                operations.list_requests,
                messages.RequestPage,
                (_LIMIT, Parameter("before", _NUMBER), Parameter("all", _SWITCH)),
            ),
            self._route(
                "POST",
                "/requests/{id}/approval",
                Scope.WRITE,
                operations.approve_request,
                request,
                messages.Approval,
                request_id,
            ),
            self._route(
                "POST",
                "/requests/{id}/denial",
                Scope.WRITE,
                operations.deny_request,
                request,
                messages.Denial,
                request_id,
            ),
        )

    def _settings_routes(self) -> tuple[Route, ...]:
        """Return what concerns the ways in without a join link, and the keys of the LANs."""
        change = messages.ParametersChange
        return (
            self._get("/admission", settings.show_policy, AdmissionPolicy),
            self._route(
                "PUT", "/admission", Scope.ADMIN, settings.set_policy, AdmissionPolicy, change, (_IF_MATCH,)
            ),
            self._route(
                "POST",
                "/admission/preview",
                Scope.READ,
                settings.preview_policy,
                messages.AdmissionPreview,
                change,
                status=200,
            ),
            self._get("/lan-keys", settings.list_lan_keys, messages.LanKeyList),
            self._route(
                "POST",
                "/lan-keys",
                Scope.ADMIN,
                settings.rotate_lan_key,
                messages.LanKey,
                messages.LanKeyRotation,
            ),
        )

    def _get(
        self,
        path: str,
        operation: Operation,
        answer: type[Struct],
        parameters: tuple[Parameter, ...] = (),
    ) -> Route:
        return self._route("GET", path, Scope.READ, operation, answer, None, (*parameters, _IF_NONE_MATCH))

    def _route(
        self,
        method: str,
        path: str,
        scope: Scope,
        operation: Operation,
        answer: type[Struct] | None = None,
        request: type[Struct] | None = None,
        parameters: tuple[Parameter, ...] = (),
        *,
        status: int | None = None,
    ) -> Route:
        """Return a route whose answer ``operation`` gives; POST requests may be repeated by key.

        Who may only read may repeat anything, and leaves no answer in the database.
        """
        if answer is None:
            status = HTTPStatus.NO_CONTENT
        elif status is None:
            status = HTTPStatus.CREATED if method == "POST" else HTTPStatus.OK
        if method == "POST" and scope is not Scope.READ:
            parameters = (*parameters, _KEY)
        return Route(
            method,
            PREFIX + path,
            functools.partial(self._handle, operation, scope, request, int(status), _questions(parameters)),
            request=request,
            answer=answer,
            status=int(status),
            scope=scope,
            parameters=parameters,
            summary=(operation.__doc__ or "").strip(),
        )

    async def _handle(
        self,
        operation: Operation,
        scope: Scope,
        kind: type[Struct] | None,
        status: int,
        questions: Sequence[str],
        request: web.Request,
    ) -> web.Response:
        operator = await self.authenticate(request, scope)
        _check_texts(request)
        _check_questions(request, questions)
        body = await request.read()
        call = Call(
            operator,
            request.match_info,
            request.query,
            decode(body, kind) if kind is not None else None,
            request.headers.get("If-Match"),
        )
        actor = Actor(ActorKind.TOKEN, operator.name, request.remote or "")
        repetition = _repetition(request) if scope is not Scope.READ else None
        status, answer = await self._run(
            self._perform, self._service.by(actor), operation, call, status, body, repetition
        )
        if status == HTTPStatus.NO_CONTENT:
            return web.Response(status=status)
        headers = {}
        if request.method == "GET" or operation in _TAGGED:
            headers["ETag"] = entity_tag(answer)
            known = request.headers.get("If-None-Match", "")
            if request.method == "GET" and headers["ETag"] in [tag.strip() for tag in known.split(",")]:
                return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        return web.Response(body=answer, status=status, headers=headers, content_type="application/json")

    def _perform(
        self,
        service: Service,
        operation: Operation,
        call: Call,
        status: int,
        body: bytes,
        repetition: tuple[str, bytes] | None,
    ) -> tuple[int, bytes]:
        """Do what is asked, in the service's thread; return status and body of the answer."""

        def act() -> tuple[int, bytes]:
            answer = operation(service, call)
            return status, encode(answer) if answer is not None else b""

        if repetition is None:
            return act()
        key, place = repetition
        return service.once(call.operator, key, place + b"\0" + body, act)

    async def authenticate(self, request: web.Request, scope: Scope) -> Operator:
        """Return the operator who is asking. Raises :class:`RegistryRefusedError`."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        try:
            operator: Operator = await self._run(self._service.authenticate_operator, token[:256], scope)
        except RegistryRefusedError as error:
            # Only who is wrong is slowed down: a guesser must not lock out the operator behind the same NAT.
            if token and error.code == "operator-token-invalid":
                check_attempts(self._attempts, request)
                self._attempts.count(request.remote, time.monotonic())
            raise
        return operator

    # -- stream of changes

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Tell changes as they happen: each entry of the audit log is an event (text/event-stream)."""
        await self.authenticate(request, Scope.READ)
        start = request.headers.get("Last-Event-ID", request.query.get("after"))
        if start is None:
            position = int(await self._run(self._service.last_change))
        elif re.fullmatch(r"[0-9]{1,16}", start):
            # Whoever is ahead of the log has followed one that was restored from a backup since.
            position = min(int(start), int(await self._run(self._service.last_change)))
        else:
            raise RegistryRefusedError("after must be the number of an entry", code="malformed")
        if self._streams >= MAXIMUM_STREAMS:
            raise RegistryRefusedError("too many streams are open: try again later", code="too-many-requests")
        self._streams += 1
        try:
            return await self._stream(request, position)
        finally:
            self._streams -= 1

    async def _stream(self, request: web.Request, position: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": connected\n\n")
        spoken = time.monotonic()
        while not self._stopping.is_set():
            try:
                # A token that was revoked meanwhile ends the stream.
                await self.authenticate(request, Scope.READ)
                for row in await self._run(self._service.audit, position, 0.0, PAGE_LIMIT):
                    position = row.identifier
                    data = encode(operations.audit_entry(row))
                    event = f"id: {position}\nevent: {row.action}\ndata: ".encode() + data + b"\n\n"
                    await response.write(event)
                    spoken = time.monotonic()
                if time.monotonic() - spoken > HEARTBEAT:
                    await response.write(b": alive\n\n")
                    spoken = time.monotonic()
            except (RegistryRefusedError, StorageError, ConnectionError):
                break
            try:
                await asyncio.wait_for(self._stopping.wait(), EVENT_POLL)
            except TimeoutError:
                continue
        return response

    async def stop(self, _application: web.Application) -> None:
        """End all streams."""
        self._stopping.set()


def check_attempts(attempts: RateLimiter, request: web.Request) -> None:
    """Refuse an address that guessed too often. Raises :class:`RegistryRefusedError`."""
    delay = attempts.delay(request.remote, time.monotonic())
    if delay:
        raise RegistryRefusedError(
            f"too many refused attempts from {request.remote}: try again in {delay:.0f} s",
            code="too-many-requests",
        )


def _check_texts(request: web.Request) -> None:
    """Refuse what no name, prefix or owner contains, and no PostgreSQL can take (NUL, half characters)."""
    for name, text in (*request.match_info.items(), *request.query.items()):
        if not text.isprintable():
            raise RegistryRefusedError(
                f"{name[:64]!a} holds a character that cannot be printed: leave it away", code="malformed"
            )


def _questions(parameters: Sequence[Parameter]) -> tuple[str, ...]:
    """Return which of these parameters may be in the query."""
    return tuple(parameter.name for parameter in parameters if parameter.where == "query")


def _check_questions(request: web.Request, possible: Sequence[str]) -> None:
    """Refuse a query that asks what nobody understands: the answer would be about everything."""
    for name in request.query:
        if name not in possible:
            hint = f"possible are {', '.join(possible)}" if possible else "it takes none"
            raise RegistryRefusedError(
                f"{name[:64]!a} is not a parameter of this query: {hint}", code="malformed"
            )


def _repetition(request: web.Request) -> tuple[str, bytes] | None:
    """Return the idempotency key of a POST request, and what it is for."""
    key = request.headers.get("Idempotency-Key")
    if key is None or request.method != "POST":
        return None
    if re.fullmatch(r"[!-~]{1,128}", key) is None:
        raise RegistryRefusedError(
            "the idempotency key must be 1 to 128 printable characters without spaces", code="malformed"
        )
    return key, request.path.encode()
