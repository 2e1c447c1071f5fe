"""The description of the registry's API that it serves itself (OpenAPI 3.1), made from its routes."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from re6st.messages import Problem


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that can be asked."""

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    request: type[Struct] | None = None
    """Message in the body of the request."""
    answer: type[Struct] | None = None
    """Message in the body of the answer; None for another kind of body, or none."""
    status: int = 200
    """Status of the answer."""
    node: bool = False
    """Whether only nodes may ask, with their certificate."""
    query: tuple[str, ...] = ()
    """Integers that may follow the path."""


def describe_api(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the OpenAPI document of ``routes``."""
    messages = {kind for route in routes for kind in (route.request, route.answer) if kind is not None}
    ordered = [Problem, *sorted(messages, key=lambda kind: kind.__name__)]
    _, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "re6st registry", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"node": {"type": "mutualTLS", "description": "Certificate of a node"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "Done"}
    if route.answer is not None:
        answer["content"] = _content("application/json", route.answer)
    refusal = {"description": "Refused or failed", "content": _content("application/problem+json", Problem)}
    operation: dict[str, Any] = {
        "summary": inspect.getdoc(route.handler) or "",
        "responses": {str(route.status): answer, "default": refusal},
    }
    if route.request is not None:
        body = _content("application/json", route.request)
        operation["requestBody"] = {"required": True, "content": body}
    if route.node:
        operation["security"] = [{"node": []}]
    if route.query:
        operation["parameters"] = [
            {"name": name, "in": "query", "schema": {"type": "integer"}} for name in route.query
        ]
    return operation


def _content(media_type: str, kind: type[Struct]) -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
