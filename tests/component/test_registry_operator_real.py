"""The operator API of a running registry: who may do what, pages, repetitions, changes, metrics."""

import asyncio
import collections
import contextlib
import json
import ssl
import time
from urllib.parse import quote

import aiohttp
import hypothesis
import pytest
import requests
import schemathesis
import schemathesis.checks
from prometheus_client.parser import text_string_to_metric_families
from schemathesis.specs.openapi import checks as openapi_checks
from test_registry_real import join, running

from re6st.identity import REGISTRY_NAME, build_request, generate_key, parse_node_certificate
from re6st.registry.client import JoinLink, RegistryClient
from re6st.registry.limits import RateLimiter
from re6st.registry.operators import Scope


class Asker:
    """Somebody who asks over HTTPS, with a token or without."""

    def __init__(self, registry, session, token):
        self.registry, self.session, self.token = registry, session, token
        self.context = ssl.create_default_context(cadata=registry.authority.certificate)

    def open(self, method, path, body=None, **headers):
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        url = self.registry.url + (path if path.startswith("/v1/en") else "/v1/operator" + path)
        return self.session.request(
            method,
            aiohttp.client.URL(url, encoded=True),
            json=body,
            headers=headers,
            ssl=self.context,
            server_hostname=REGISTRY_NAME,
        )

    async def __call__(self, method, path, body=None, status=200, **headers):
        async with self.open(method, path, body, **headers) as response:
            content = await response.read()
            assert response.status == status, content
            self.headers = response.headers
            return json.loads(content) if content else None

    async def refused(self, code, status, method, path, body=None, **headers):
        problem = await self(method, path, body, status, **headers)
        assert self.headers["Content-Type"] == "application/problem+json"
        assert (problem["type"], problem["status"]) == (code, status)
        return problem["detail"]


@pytest.fixture
async def registry(tmp_path):
    async with running(tmp_path / "registry") as registry:
        registry.service.change_parameters({"registry_urls": registry.url})
        yield registry


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def asker(registry, session):
    def make(scope="admin", name=None):
        token = registry.service.create_operator_token(name or scope, Scope(scope)) if scope else None
        return Asker(registry, session, token)

    return make


async def test_a_cloud_system_lets_a_machine_in_and_out(registry, asker):
    ask = asker("write")
    link = await ask("POST", "/links", {"name": "vm1", "prefix_length": 80, "lifetime": 600}, 201)
    parsed = JoinLink.parse(link["link"])
    client = RegistryClient([parsed.url], [registry.authority.certificate])
    await client.enrol(parsed.token, build_request(generate_key(), ""))
    node = await ask("GET", "/nodes/vm1")
    assert (node["state"], node["prefix"]) == ("active", "2001:db8:42::/80")
    by_prefix = "/nodes/" + quote(node["prefix"], safe="")
    assert await ask("GET", by_prefix) == node
    assert (await ask("PUT", "/nodes/vm1/name", {"name": "vm2"}))["name"] == "vm2"
    assert (await ask("PUT", "/nodes/vm2/suspension"))["state"] == "suspended"
    assert (await ask("DELETE", "/nodes/vm2/suspension"))["state"] == "active"
    assert (await ask("POST", by_prefix + "/revocation", status=201))["state"] == "released"
    assert (await ask("POST", "/links", {"return_node": "vm2"}, 201))["id"] == 2
    await ask("DELETE", "/tokens/2", status=204)
    assert [row["state"] for row in (await ask("GET", "/tokens"))["items"]] == ["used", "revoked"]
    await ask("DELETE", "/nodes/vm2", status=204)
    assert await ask("GET", "/nodes") == {"items": []}
    await ask.refused("unknown-node", 404, "GET", "/nodes/vm2")
    # A slip must not be taken for "all" or "any".
    await ask.refused("malformed", 400, "GET", "/nodes?owners=anna")
    await ask.refused("malformed", 400, "GET", "/events?from=7")
    await ask.refused("malformed", 400, "POST", "/links", {"nme": "vm1"})
    entries = (await ask("GET", "/audit?after=0&limit=1000"))["items"]
    mine = [entry for entry in entries if entry["actor_kind"] == "token"]
    assert {(entry["actor"], entry["origin"]) for entry in mine} == {("write", "127.0.0.1")}
    assert "node.deleted" in {entry["action"] for entry in mine}


async def test_scopes_are_kept(registry, asker):
    read, write, stranger = asker("read"), asker("write"), asker(None)
    await stranger.refused("operator-token-invalid", 401, "GET", "/nodes")
    assert stranger.headers["WWW-Authenticate"].startswith("Bearer")
    stranger.token = "re6st-op-" + "x" * 43
    await stranger.refused("operator-token-invalid", 401, "GET", "/nodes")
    await read("GET", "/nodes")
    detail = await read.refused("scope-insufficient", 403, "POST", "/links", {})
    assert detail == "the token read has the scope read, but this needs write"
    await write.refused("scope-insufficient", 403, "PUT", "/parameters", {"changes": {"hello_interval": "2"}})
    await write.refused("scope-insufficient", 403, "POST", "/operator-tokens", {"name": "x"})
    registry.service.revoke_operator_token("read")
    await read.refused("operator-token-invalid", 401, "GET", "/nodes")
    assert registry.service.current_parameters().version == 2


async def test_operators_tokens_expire_and_are_not_in_the_database(registry, asker):
    ask = asker("admin")
    made = await ask("POST", "/operator-tokens", {"name": "robot", "lifetime": 3600}, 201)
    robot = Asker(registry, ask.session, made["token"])
    assert (await robot("GET", "/overview"))["scope"] == "read"
    await ask.refused("name-taken", 409, "POST", "/operator-tokens", {"name": "Robot"})
    store = registry.service.database
    ((lifetime,),) = store.execute("SELECT expires - created FROM operator_tokens WHERE name = 'robot'")
    assert lifetime == pytest.approx(3600)
    store.execute("UPDATE operator_tokens SET expires = ? WHERE name = 'robot'", (time.time() - 1,))
    await robot.refused("operator-token-invalid", 401, "GET", "/overview")
    await ask("DELETE", "/operator-tokens/robot", status=204)
    listed = (await ask("GET", "/operator-tokens"))["items"]
    assert [(row["name"], "token" in row) for row in listed] == [("admin", False), ("robot", False)]
    content = b"".join(path.read_bytes() for path in registry.state.path.glob("registry.sqlite3*"))
    assert made["token"].encode() not in content
    assert ask.token.encode() not in content


async def test_pages_and_filters(registry, asker, tmp_path):
    for number in range(5):
        await join(registry, tmp_path / str(number), f"n{number}")
    registry.service.suspend("n3")
    ask = asker("read")
    names, path = [], "/nodes?limit=2"
    for _ in range(3):
        page = await ask("GET", path)
        names.append([row["name"] for row in page["items"]])
        path = f"/nodes?limit=2&after={page.get('next')}"
    assert names == [["n0", "n1"], ["n2", "n3"], ["n4"]]
    assert "next" not in page
    assert [row["name"] for row in (await ask("GET", "/nodes?state=suspended"))["items"]] == ["n3"]
    assert [row["name"] for row in (await ask("GET", "/nodes?search=42:4::"))["items"]] == ["n4"]
    for query in ("limit=0", "limit=x", "limit=1001", "state=odd", "after=odd"):
        await ask.refused("malformed", 400, "GET", f"/nodes?{query}")
    for path in ("/nodes?search=%00", "/nodes?owner=%ED%A0%80%0A", "/nodes/%00", "/groups/a%0Ab"):
        detail = await ask.refused("malformed", 400, "GET", path)
        assert "cannot be printed" in detail
    last = (await ask("GET", "/audit?before=9007199254740992&limit=1"))["items"]
    assert last[0]["action"] == "operator-token.created"
    overview = await ask("GET", "/overview")
    assert overview["nodes"] == {"active": 4, "suspended": 1, "expired": 0, "released": 0}


async def test_entity_tags(registry, asker):
    ask = asker("admin")
    before = await ask("GET", "/parameters")
    tag = ask.headers["ETag"]
    assert await ask("GET", "/parameters", status=304, If_None_Match=f'"other", {tag}') is None
    change = {"changes": {"hello_interval": "2"}}
    preview = await ask("POST", "/parameters/preview", change)
    old = str(before["hello_interval"])
    assert preview["differences"] == [{"key": "hello_interval", "before": old, "after": "2.0"}]
    after = await ask("PUT", "/parameters", change, If_Match=tag)
    assert after["version"] == before["version"] + 1
    await ask.refused("version-changed", 412, "PUT", "/parameters", change, If_Match=tag)
    await ask("GET", "/parameters", If_None_Match=tag)
    detail = await ask.refused("invalid", 400, "PUT", "/parameters", {"changes": {"helo_interval": "2"}})
    assert "did you mean hello_interval?" in detail
    assert (await ask("POST", "/parameters/undo", {}, 201))["hello_interval"] == before["hello_interval"]
    history = (await ask("GET", "/parameters/history"))["items"]
    assert [item["parameters"]["version"] for item in history] == [4, 3, 2, 1]


async def test_a_repeated_request_happens_once(registry, asker):
    ask = asker("write")
    first = await ask("POST", "/links", {"name": "attic"}, 201, Idempotency_Key="k1")
    assert await ask("POST", "/links", {"name": "attic"}, 201, Idempotency_Key="k1") == first
    await ask.refused(
        "idempotency-key-reused", 422, "POST", "/links", {"name": "cellar"}, Idempotency_Key="k1"
    )
    await ask.refused("malformed", 400, "POST", "/links", {}, Idempotency_Key="a b")
    await ask("POST", "/links", {}, 201, Idempotency_Key="k2")
    # What was refused may be asked again when it is possible.
    await ask.refused("name-taken", 409, "POST", "/links", {"name": "attic"}, Idempotency_Key="k3")
    registry.service.revoke_token(first["id"])
    await ask("POST", "/links", {"name": "attic"}, 201, Idempotency_Key="k3")
    assert len(registry.service.tokens()) == 3
    # Another operator's keys are his own, and the database alone does not give the link away.
    other = asker("write", "other")
    await other("POST", "/links", {}, 201, Idempotency_Key="k1")
    content = b"".join(path.read_bytes() for path in registry.state.path.glob("registry.sqlite3*"))
    assert JoinLink.parse(first["link"]).token.encode() not in content


async def test_reservations(registry, asker):
    ask = asker("write")
    made = await ask("POST", "/reservations", {"name": "attic", "prefix": "2001:db8:42:7::/64"}, 201)
    assert made["prefix"] == "2001:db8:42:7::/64"
    await ask.refused(
        "prefix-taken", 409, "POST", "/reservations", {"name": "x", "prefix": "2001:db8:42:7::/64"}
    )
    await ask.refused("invalid", 400, "POST", "/reservations", {"name": "x", "prefix": "2001:db8::/64"})
    assert (await ask("GET", "/reservations"))["items"] == [made]
    await ask("DELETE", "/reservations/attic", status=204)
    await ask.refused("unknown-reservation", 404, "DELETE", "/reservations/attic")


async def test_further_prefixes(registry, asker, tmp_path, monkeypatch):
    monkeypatch.setattr("re6st.registry.node_http.RENEWAL_POLL", 0.5)
    ask, node = asker("write"), await join(registry, tmp_path / "1", "attic")
    assert not (await node.client.versions(None)).renewal
    waiting = asyncio.create_task(
        node.client.versions(None, known=await node.client.versions(None), wait=100)
    )
    made = await ask("POST", "/nodes/attic/prefixes", {"prefix_length": 60}, 201, Idempotency_Key="p")
    assert made["further_prefixes"] == ["2001:db8:42:10::/60"]
    assert await ask("POST", "/nodes/attic/prefixes", {"prefix_length": 60}, 201, Idempotency_Key="p") == made
    # Who waits for versions hears of it before the wait is over.
    async with asyncio.timeout(90):
        assert (await waiting).renewal
    renewed = await node.client.renew(build_request(node.key, ""))
    certificate = parse_node_certificate(renewed.certificate)
    assert [str(prefix) for prefix in certificate.further] == made["further_prefixes"]
    path = "/nodes/attic/prefixes/" + quote(made["further_prefixes"][0], safe="")
    assert (await ask("GET", "/nodes?search=42:10::"))["items"][0]["name"] == "attic"
    await ask("DELETE", path, status=204)
    await ask.refused("unknown-prefix", 404, "DELETE", path)
    taken = {"prefix": "2001:db8:42::/64"}
    await ask.refused("prefix-taken", 409, "POST", "/nodes/attic/prefixes", taken)
    await ask.refused("unknown-node", 404, "POST", "/nodes/nobody/prefixes", {})
    assert "further_prefixes" not in await ask("GET", "/nodes/attic")


async def test_groups(registry, asker, tmp_path):
    ask = asker("write")
    wanted = {"name": "office", "description": "2nd floor", "prefix_length": 80}
    made = await ask("POST", "/groups", wanted, 201, Idempotency_Key="g")
    assert await ask("POST", "/groups", wanted, 201, Idempotency_Key="g") == made
    await ask.refused("name-taken", 409, "POST", "/groups", {"name": "Office"})
    link = await ask("POST", "/links", {"name": "desk", "group": "office", "owner": "anna"}, 201)
    await ask.refused("unknown-group", 404, "POST", "/links", {"group": "nowhere"})
    parsed = JoinLink.parse(link["link"])
    client = RegistryClient([parsed.url], [registry.authority.certificate])
    await client.enrol(parsed.token, build_request(generate_key(), ""))
    await join(registry, tmp_path / "1", "attic")
    node = await ask("GET", "/nodes/desk")
    assert (node["group"], node["owner"], node["prefix"]) == ("office", "anna", "2001:db8:42::/80")
    for query in ("group=Office", "owner=ANNA", "search=nna"):
        assert [row["name"] for row in (await ask("GET", f"/nodes?{query}"))["items"]] == ["desk"]
    await ask.refused("unknown-group", 404, "GET", "/nodes?group=nowhere")
    await ask.refused("group-in-use", 409, "DELETE", "/groups/office")
    await ask("GET", "/groups/office")
    tag = ask.headers["ETag"]
    changed = await ask("PUT", "/groups/office", {"maximum_nodes": 1}, If_Match=tag)
    assert changed == {"name": "office", "maximum_nodes": 1, "nodes": 1, "created": made["created"]}
    assert ask.headers["ETag"] != tag
    await ask.refused("version-changed", 412, "PUT", "/groups/office", {}, If_Match=tag)
    await ask.refused("group-full", 409, "PUT", "/nodes/attic/group", {"group": "office"})
    assert (await ask("PUT", "/nodes/desk/group", {"group": "default"}))["group"] == "default"
    assert "owner" not in await ask("PUT", "/nodes/desk/owner", {"owner": ""})
    await ask("DELETE", "/groups/office", status=204)
    assert [row["name"] for row in (await ask("GET", "/groups"))["items"]] == ["default"]
    await ask.refused("unknown-group", 404, "DELETE", "/groups/office")


async def read_event(response):
    event = {}
    while True:
        line = (await response.content.readline()).decode()
        assert line, "the stream ended"
        if line == "\n" and event:
            return event
        key, _, value = line.strip().partition(": ")
        if key:
            event[key] = value


async def test_changes_are_told_as_they_happen(registry, asker, tmp_path):
    ask = asker("read")
    async with asyncio.timeout(120), ask.open("GET", "/events") as response:
        assert response.content_type == "text/event-stream"
        await response.content.readline()
        await join(registry, tmp_path / "1", "attic")
        events = [await read_event(response) for _ in range(2)]
        assert [event["event"] for event in events] == ["token.created", "node.enrolled"]
        assert json.loads(events[1]["data"])["subject"] == "attic"
        # Another process changes something: the database tells.
        registry.service.set_owner("attic", "anna")
        assert (await read_event(response))["event"] == "node.owner-changed"
        registry.service.revoke("attic")
        assert (await read_event(response))["event"] == "node.revoked"
        async with ask.open("GET", "/events", Last_Event_ID=events[0]["id"]) as again:
            assert (await read_event(again))["id"] == events[1]["id"]
        # Whoever followed a log that was lost, with higher numbers, hears what comes now.
        async with ask.open("GET", "/events", Last_Event_ID=str(2**53)) as ahead:
            await ahead.content.readline()
            registry.service.create_token("vm1")
            assert (await read_event(ahead))["event"] == "token.created"
        registry.service.revoke_operator_token("read")
        while await response.content.readline():
            pass


async def test_streams_do_not_hold_up_the_end(tmp_path, session):
    async with asyncio.timeout(120), contextlib.AsyncExitStack() as stack:
        async with running(tmp_path / "r") as registry:
            ask = Asker(registry, session, registry.service.create_operator_token("x", Scope.READ))
            response = await stack.enter_async_context(ask.open("GET", "/events"))
            await response.content.readline()
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 20


async def test_metrics(registry, asker, tmp_path):
    await join(registry, tmp_path / "1", "attic")
    ask = asker("read")
    await ask("PROPFIND", "/nodes", status=405)
    await ask("PROPFIND", "/nothing", status=404)
    async with ask.session.get(
        registry.url + "/metrics",
        headers={"Authorization": f"Bearer {ask.token}"},
        ssl=ask.context,
        server_hostname=REGISTRY_NAME,
    ) as response:
        assert response.status == 200
        text = await response.text()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["re6st_registry_nodes", "active"] == 1
    assert samples["re6st_registry_group_nodes", "default"] == 1
    assert samples["re6st_registry_requests_total", "POST", "/v1/enrolments", "201"] == 1
    assert samples["re6st_registry_requests_total", "other", "unknown", "405"] == 1
    assert samples["re6st_registry_requests_total", "other", "unknown", "404"] == 1
    assert "PROPFIND" not in text
    assert samples["re6st_registry_parameters_version",] == 2
    assert samples["re6st_registry_database_bytes",] > 4096
    async with ask.session.get(
        registry.url + "/metrics", ssl=ask.context, server_hostname=REGISTRY_NAME
    ) as response:
        assert response.status == 401


async def test_who_guesses_is_slowed_down(registry, asker, tmp_path):
    stranger = asker(None)
    body = {
        "token": "x" * 32,
        "request": __import__("base64").b64encode(build_request(generate_key(), "")).decode(),
    }
    for _ in range(20):
        await stranger("POST", "/v1/enrolments", body, 403)
    problem = await stranger("POST", "/v1/enrolments", body, 429)
    assert problem["type"] == "too-many-requests"
    assert int(stranger.headers["Retry-After"]) > 0
    stranger.token = "x" * 43
    await stranger.refused("too-many-requests", 429, "GET", "/nodes")
    # Who has a token is not locked out by others behind the same address.
    await asker("read")("GET", "/nodes")


async def test_security_headers(registry, asker):
    ask = asker("read")
    for path, status in (("/overview", 200), ("/nodes/x", 404), ("/nothing", 404)):
        await ask("GET", path, status=status)
        assert ask.headers["Strict-Transport-Security"] == "max-age=31536000"
        assert ask.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in ask.headers["Content-Security-Policy"]
        assert ask.headers["Cache-Control"] == "no-store"
        assert ask.headers["Server"] == "re6st-registry"


# -- fuzzing --------------------------------------------------------------------------------------------

CHECKS = (
    schemathesis.checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.ignored_auth,
)


def fuzz(document, url, token):
    """Ask every question of the description in many ways, right and wrong ones."""
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=url, tls_verify=False)
    seen = collections.Counter()
    session = requests.Session()
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path.endswith("/events"):
            continue
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            @hypothesis.settings(
                max_examples=5,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
                phases=[hypothesis.Phase.generate],
            )
            def check(case):
                headers = {"Authorization": f"Bearer {token}"}
                response = case.call_and_validate(checks=CHECKS, headers=headers, session=session)
                seen[response.status_code] += 1

            # A description that leaves nothing wrong to say has no negative cases.
            with contextlib.suppress(hypothesis.errors.Unsatisfiable):
                check()
    return seen


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
async def test_the_api_keeps_what_its_description_promises(registry, asker, monkeypatch):
    monkeypatch.setattr(RateLimiter, "delay", lambda *_: 0.0)
    ask = asker("admin")
    async with ask.session.get(
        registry.url + "/v1/openapi.json", ssl=ask.context, server_hostname=REGISTRY_NAME
    ) as response:
        document = await response.json()
    assert document["paths"]["/v1/operator/links"]["post"]["security"] == [{"operator": []}]
    async with asyncio.timeout(800):
        seen = await asyncio.to_thread(fuzz, document, registry.url, ask.token)
    # Right and wrong questions of all kinds were asked.
    assert set(seen) >= {200, 201, 204, 400, 401, 404}
    assert sum(seen.values()) > 150
