"""Who may ask what of a running registry: each route has its line here, and keeps to it."""

import itertools
import json
import re
import ssl

import aiohttp
import pytest
from test_registry_real import join, running

from re6st.identity import REGISTRY_NAME
from re6st.registry.http import Api
from re6st.registry.operators import Scope

OPERATOR_ROUTES = {
    "GET /metrics": "read",
    "GET /v1/operator/overview": "read",
    "GET /v1/operator/nodes": "read",
    "GET /v1/operator/mesh": "read",
    "GET /v1/operator/nodes/{node}": "read",
    "PUT /v1/operator/nodes/{node}/name": "write",
    "PUT /v1/operator/nodes/{node}/suspension": "write",
    "DELETE /v1/operator/nodes/{node}/suspension": "write",
    "POST /v1/operator/nodes/{node}/revocation": "write",
    "DELETE /v1/operator/nodes/{node}": "write",
    "PUT /v1/operator/nodes/{node}/group": "write",
    "PUT /v1/operator/nodes/{node}/owner": "write",
    "POST /v1/operator/nodes/{node}/prefixes": "write",
    "DELETE /v1/operator/nodes/{node}/prefixes/{prefix}": "write",
    "GET /v1/operator/groups": "read",
    "POST /v1/operator/groups": "write",
    "GET /v1/operator/groups/{name}": "read",
    "PUT /v1/operator/groups/{name}": "write",
    "DELETE /v1/operator/groups/{name}": "write",
    "POST /v1/operator/links": "write",
    "GET /v1/operator/tokens": "read",
    "GET /v1/operator/troubles": "read",
    "DELETE /v1/operator/tokens/{id}": "write",
    "GET /v1/operator/reservations": "read",
    "POST /v1/operator/reservations": "write",
    "DELETE /v1/operator/reservations/{name}": "write",
    "GET /v1/operator/requests": "read",
    "POST /v1/operator/requests/{id}/approval": "write",
    "POST /v1/operator/requests/{id}/denial": "write",
    "GET /v1/operator/admission": "read",
    "PUT /v1/operator/admission": "admin",
    "POST /v1/operator/admission/preview": "read",
    "GET /v1/operator/lan-keys": "read",
    "POST /v1/operator/lan-keys": "admin",
    "GET /v1/operator/parameters": "read",
    "PUT /v1/operator/parameters": "admin",
    "POST /v1/operator/parameters/preview": "read",
    "POST /v1/operator/parameters/undo": "admin",
    "GET /v1/operator/parameters/plans": "read",
    "POST /v1/operator/parameters/plans": "admin",
    "DELETE /v1/operator/parameters/plans/{id}": "admin",
    "GET /v1/operator/parameters/history": "read",
    "GET /v1/operator/audit": "read",
    "GET /v1/operator/events": "read",
    "GET /v1/operator/operator-tokens": "read",
    "POST /v1/operator/operator-tokens": "admin",
    "DELETE /v1/operator/operator-tokens/{name}": "admin",
}

NODE_ROUTES = {
    "POST /v1/renewals",
    "PUT /v1/peers/self",
    "GET /v1/peers/sample",
    "GET /v1/lan-keys",
    "PUT /v1/nodes/self/report",
    "GET /v1/versions",
    "DELETE /v1/nodes/self",
}

PUBLIC_ROUTES = {
    "GET /",
    "GET /page.css",
    "GET /page.js",
    "GET /map.js",
    "GET /settings.js",
    "GET /icon.svg",
    "GET /invitation",
    "POST /invitation",
    "GET /healthz",
    "GET /v1/openapi.json",
    "GET /v1/ca",
    "GET /v1/parameters",
    "GET /v1/revocations",
    "POST /v1/enrolments",
    "POST /v1/requests",
    "POST /v1/invitations",
}

READING = {"POST /v1/operator/admission/preview", "POST /v1/operator/parameters/preview"}
"""Routes for readers that are no GET, because the question is long."""


@pytest.fixture
async def registry(tmp_path):
    async with running(tmp_path / "registry") as registry:
        registry.service.change_parameters({"registry_urls": registry.url})
        yield registry


@pytest.fixture
async def ask(registry):
    """Return a function that asks, with a token or without, and returns status and type of the problem."""
    context = ssl.create_default_context(cadata=registry.authority.certificate)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session:

        async def ask(route, token=None, body=None, **headers):
            method, path = route.split(" ")
            path = path.replace("{id}", "1").replace("{prefix}", "2001:db8::%2F64")
            url = registry.url + re.sub(r"{node}|{name}", "attic", path)
            if token:
                headers["Authorization"] = f"Bearer {token}"
            async with session.request(
                method, url, json=body, headers=headers, ssl=context, server_hostname=REGISTRY_NAME
            ) as response:
                if response.content_type == "text/event-stream":
                    return response.status, ""
                content = await response.read()
                problem = response.content_type == "application/problem+json"
                return response.status, json.loads(content)["type"] if problem else ""

        yield ask


def content(registry):
    """Return all that is in the database."""
    store = registry.service._store
    tables = [name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    assert "operator_tokens" in tables
    return {name: list(store.execute(f"SELECT * FROM {name}")) for name in tables}


async def test_each_route_is_for_whom_it_is_said_to_be_for(registry, ask, tmp_path):
    api = Api(registry.service, registry.server._worker)
    served = {
        f"{route.method} {route.resource.canonical}"
        for route in api.application().router.routes()
        if route.method != "HEAD"
    }
    assert served == {*OPERATOR_ROUTES, *NODE_ROUTES, *PUBLIC_ROUTES}
    declared = {f"{route.method} {route.path}": route for route in api.routes()}
    assert {name: route.scope.value for name, route in declared.items() if route.scope} == OPERATOR_ROUTES
    assert {name for name, route in declared.items() if route.node} == NODE_ROUTES
    for name, scope in OPERATOR_ROUTES.items():
        assert scope != "read" or name.startswith("GET ") or name in READING
        assert not name.startswith("GET ") or scope == "read"

    await join(registry, tmp_path / "attic", "attic")
    tokens = {scope.value: registry.service.create_operator_token(scope.value, scope) for scope in Scope}
    registry.service.create_group("attic")
    before = content(registry)
    for route in NODE_ROUTES:
        assert await ask(route, tokens["admin"]) == (401, "certificate-required"), route
    order = [scope.value for scope in Scope]
    for route, scope in OPERATOR_ROUTES.items():
        assert await ask(route) == (401, "operator-token-invalid"), route
        for less in itertools.takewhile(lambda one, scope=scope: one != scope, order):
            assert await ask(route, tokens[less], {}) == (403, "scope-insufficient"), (route, less)
        if scope == "read":
            body = {"changes": {"requests" if "admission" in route else "hello_interval": "2"}}
            headers = {"Idempotency-Key": "x" * 20} if route.startswith("POST") else {}
            status, _ = await ask(route, tokens["read"], body if headers else None, **headers)
            assert status == (400 if "admission/preview" in route else 200), route
    assert content(registry) == before
