"""The description of the registry's API that it serves itself (OpenAPI 3.1), made from its routes."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from re6st.messages import Problem
from re6st.registry.operators import Scope


@dataclass(frozen=True, slots=True)
class Parameter:
    """Something in path, query or headers of a request."""

    name: str
    schema: dict[str, Any] = field(default_factory=lambda: {"type": "string", "maxLength": 64})
    where: str = "query"
    """``path``, ``query`` or ``header``."""


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
    scope: Scope | None = None
    """Which operators may ask, with their token."""
    parameters: tuple[Parameter, ...] = ()
    media_type: str = "application/json"
    """Of the answer."""
    summary: str = ""
    """What it does; by default the docstring of the handler."""
    endless: bool = False
    """Whether the answer is a stream."""
    patience: float = 0.0
    """Seconds for which the answer may be held back until there is news."""


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
            "securitySchemes": {
                "node": {"type": "mutualTLS", "description": "Certificate of a node"},
                "operator": {"type": "http", "scheme": "bearer", "description": "Token of an operator"},
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "Done"}
    if route.answer is not None:
        answer["content"] = _content(route.media_type, route.answer)
    elif route.status != 204:
        answer["content"] = {route.media_type: {}}
    refusal = {"description": "Refused or failed", "content": _content("application/problem+json", Problem)}
    responses: dict[str, Any] = {str(route.status): answer, "default": refusal}
    if any(parameter.name == "If-None-Match" for parameter in route.parameters):
        responses["304"] = {"description": "Nothing changed"}
    operation: dict[str, Any] = {
        "summary": route.summary or inspect.getdoc(route.handler) or "",
        "responses": responses,
    }
    if route.request is not None:
        body = _content("application/json", route.request)
        operation["requestBody"] = {"required": True, "content": body}
    if route.node:
        operation["security"] = [{"node": []}]
    if route.scope is not None:
        operation["security"] = [{"operator": []}]
        operation["description"] = f"Needs a token of scope {route.scope.value}."
    if route.parameters:
        operation["parameters"] = [
            {"name": item.name, "in": item.where, "schema": item.schema, "required": item.where == "path"}
            for item in route.parameters
        ]
    return operation


def _content(media_type: str, kind: type[Struct]) -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
