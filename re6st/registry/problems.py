"""How the registry tells over HTTP that something was refused or failed: problem documents (RFC 9457).

Only foreseen errors are told in detail; of all others the log says more.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

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
from re6st.messages import Problem, encode

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

RETRY_AFTER = 5
"""Seconds after which whoever asked too often may try again."""

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


def problem_response(status: int, kind: str, detail: str) -> web.Response:
    """Return an answer that tells of a problem."""
    problem = Problem(type=kind, title=HTTPStatus(status).phrase, detail=detail[:1024], status=status)
    response = web.Response(body=encode(problem), status=status, content_type="application/problem+json")
    if kind == "operator-token-invalid":
        response.headers["WWW-Authenticate"] = 'Bearer realm="re6st"'
    elif kind == "too-many-requests":
        response.headers["Retry-After"] = str(RETRY_AFTER)
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
async def tell_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every failure into a problem document; only foreseen ones are told in detail."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        kind = "too-large" if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else "http"
        response = problem_response(error.status, kind, f"{request.method} {request.path}: {error.reason}")
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except TimeoutError:
        return problem_response(HTTPStatus.SERVICE_UNAVAILABLE, "timeout", "the request took too long")
    except Re6stError as error:
        status, kind = describe(error)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            logger.error("%s %s from %s failed: %s", request.method, request.path, request.remote, error)
            return problem_response(status, kind, "the registry has a problem of its own; its log says more")
        logger.info("%s %s from %s refused: %s", request.method, request.path, request.remote, error)
        return problem_response(status, kind, str(error))
    except Exception:
        logger.exception("%s %s from %s failed", request.method, request.path, request.remote)
        return problem_response(
            HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "the registry failed; its log says why"
        )
