"""The Python client of the operator API, against a running registry."""

import asyncio
import time

import pytest
from test_registry_real import join, running

from re6st.errors import RegistryRefusedError, RegistryUnavailableError, UntrustedError
from re6st.identity import build_request, generate_key
from re6st.registry import operator_client
from re6st.registry.client import JoinLink, RegistryClient, fetch_authorities
from re6st.registry.diagnosis import Kind
from re6st.registry.operator_api import events
from re6st.registry.operator_client import OperatorClient
from re6st.registry.operator_messages import (
    GroupChange,
    GroupRequest,
    LinkRequest,
    NodeState,
    PrefixRequest,
    ReservationRequest,
)
from re6st.registry.operators import Scope
from re6st.registry.policy import AdmissionPolicy


@pytest.fixture
async def registry(tmp_path):
    async with running(tmp_path / "registry") as registry:
        registry.service.change_parameters({"registry_urls": registry.url})
        yield registry


@pytest.fixture
async def client(registry):
    token = registry.service.create_operator_token("cloud", Scope.ADMIN)
    return await OperatorClient.find(registry.url, token, registry.service.fingerprint)


async def test_a_cloud_lets_machines_in_and_out(registry, client, monkeypatch):
    monkeypatch.setattr(operator_client, "PAGE", 2)
    async with asyncio.timeout(120):
        assert (await client.overview()).scope is Scope.ADMIN
        kept = await client.reserve(ReservationRequest(name="vm3", prefix_length=80))
        assert (await client.create_group(GroupRequest(name="cloud"))).nodes == 0
        for name in ("vm1", "vm2", "vm3"):
            request = LinkRequest(name=name, prefix_length=80, lifetime=600, group="cloud", owner="anna")
            link = await client.create_link(request)
            parsed = JoinLink.parse(link.link)
            nodes = RegistryClient([parsed.url], [registry.authority.certificate])
            await nodes.enrol(parsed.token, build_request(generate_key(), ""))
        node = await client.node("vm3")
        assert (node.prefix, node.state) == (kept.prefix, NodeState.ACTIVE)
        assert await client.node(node.prefix) == node
        assert [item.name async for item in client.nodes()] == ["vm3", "vm1", "vm2"]
        assert [item.name async for item in client.nodes(search="M2")] == ["vm2"]
        assert (await client.rename("vm2", "db")).name == "db"
        node = await client.add_prefix("db", PrefixRequest(prefix_length=90))
        [further] = node.further_prefixes
        assert (await client.node(further)).name == "db"
        await client.remove_prefix("db", further)
        assert (await client.node("db")).further_prefixes == ()
        assert (await client.move("db", "default")).group == "default"
        assert (await client.set_owner("db", "bert")).owner == "bert"
        assert [item.name async for item in client.nodes(group="cloud", owner="anna")] == ["vm3", "vm1"]
        assert [(row.name, row.nodes) for row in await client.groups()] == [("cloud", 2), ("default", 1)]
        assert (await client.change_group("cloud", GroupChange(maximum_nodes=2))).maximum_nodes == 2
        assert (await client.suspend("db")).state is NodeState.SUSPENDED
        assert [item.name async for item in client.nodes(state=NodeState.SUSPENDED)] == ["db"]
        assert (await client.resume("db")).state is NodeState.ACTIVE
        assert (await client.revoke("vm1")).state is NodeState.RELEASED
        await client.delete("vm1")
        await client.move("vm3", "default")
        await client.remove_group("cloud")
        with pytest.raises(RegistryRefusedError) as refused:
            await client.node("vm1")
        assert refused.value.code == "unknown-node"
        await client.unreserve("vm3")
        spare = await client.create_link(LinkRequest())
        await client.revoke_link(spare.id)
        assert (await client.mesh()).nodes == ()
        assert (await client.troubles()).unwell == 0
        assert [node async for node in client.nodes(trouble=Kind.CLOCK)] == []
        entries = [entry async for entry in client.audit()]
        assert [entry.id for entry in entries] == list(range(1, len(entries) + 1))
        assert {"node.renamed", "node.deleted", "token.revoked"} <= {entry.action for entry in entries}


async def test_parameters(client):
    async with asyncio.timeout(120):
        preview = await client.preview({"hello_interval": "2"})
        assert [(item.key, item.after) for item in preview.differences] == [("hello_interval", "2.0")]
        assert (await client.change_parameters({"hello_interval": "2"})).hello_interval == 2.0
        assert (await client.undo_parameters()).hello_interval == 4.0
        assert (await client.parameters()).hello_interval == 4.0
        plan = await client.plan_parameters({"hello_interval": "3"}, time.time() + 3600)
        assert [waiting.changes for waiting in await client.plans()] == [{"hello_interval": "3"}]
        await client.cancel_plan(plan.id)
        assert await client.plans() == ()
        assert (await client.change_admission({"requests": "on"})).requests
        assert await client.admission() == AdmissionPolicy(requests=True)
        key = await client.rotate_lan_key(600)
        assert (await client.lan_keys())[1] == key


async def test_another_registry_is_asked_when_one_is_away(registry):
    token = registry.service.create_operator_token("cloud", Scope.ADMIN)
    urls = ["https://127.0.0.1:1", registry.url]
    async with asyncio.timeout(120):
        client = await OperatorClient.find(urls, token, registry.service.fingerprint)
        assert client.url.base == "https://127.0.0.1:1"
        registry.service.change_parameters({"registry_urls": ",".join(urls)})
        link = JoinLink.parse((await client.create_link(LinkRequest())).link)
        assert client.url.base == registry.url
        assert [url.base for url in link.urls] == urls
        # The same for a machine that joins: the CA is found, and the token good, at the registry that lives.
        nodes = RegistryClient(link.urls, await fetch_authorities(link))
        await nodes.enrol(link.token, build_request(generate_key(), "attic"))
        stranger = JoinLink(link.url, "0" * 64, alternatives=link.alternatives)
        with pytest.raises(UntrustedError, match="fingerprint"):
            await fetch_authorities(stranger)


async def test_another_registry_tells_changes_when_one_has_no_place(registry, monkeypatch):
    token = registry.service.create_operator_token("cloud", Scope.READ)
    urls = [registry.url, registry.url.replace("127.0.0.1", "localhost")]
    client = OperatorClient(urls, token, registry.authority.certificate)
    monkeypatch.setattr(events, "MAXIMUM_STREAMS", 0)
    async with asyncio.timeout(120):
        heard = client._stream(0)
        with pytest.raises(RegistryUnavailableError, match="no events"):
            await anext(heard)
    assert client.url.base == urls[1]


async def test_changes_are_heard_over_a_restart_of_the_registry(tmp_path):
    async with asyncio.timeout(120):
        async with running(tmp_path / "registry") as registry:
            token = registry.service.create_operator_token("cloud", Scope.READ)
            client = await OperatorClient.find(registry.url, token, registry.service.fingerprint)
            address = registry.server.addresses[0]
            heard = client.events()
            first = asyncio.ensure_future(anext(heard))
            await asyncio.sleep(0)
            while not first.done():
                registry.service.create_token()
                await asyncio.wait([first], timeout=0.2)
            entry = first.result()
            assert entry.action == "token.created"
            last = registry.service.audit()[-1].identifier
            while entry.id < last:
                entry = await anext(heard)
            following = asyncio.ensure_future(anext(heard))
        async with running(tmp_path / "registry", port=address.port) as registry:
            registry.service.create_token("late")
            entry = await following
            while entry.subject != "late" and entry.details.get("name") != "late":
                assert entry.id == last + 1
                last, entry = entry.id, await anext(heard)
            registry.service.revoke_operator_token("cloud")
            with pytest.raises(RegistryRefusedError):
                _ = [entry async for entry in heard]


async def test_a_lost_answer_makes_no_second_link(registry, client, monkeypatch):
    send, lost = operator_client.send, []

    async def lossy(*arguments):
        answer = await send(*arguments)
        if not lost:
            lost.append(answer)
            raise RegistryUnavailableError("the answer got lost")
        return answer

    monkeypatch.setattr(operator_client, "send", lossy)
    link = await client.create_link(LinkRequest(name="vm1"))
    assert lost
    assert link.link.encode() in lost[0]
    assert len(registry.service.tokens()) == 1


async def test_the_token_goes_to_nobody_else(registry, tmp_path):
    with pytest.raises(UntrustedError):
        await OperatorClient.find(registry.url, "secret", "0" * 64)
    async with running(tmp_path / "other") as other:
        client = OperatorClient(other.url, "secret", registry.authority.certificate)
        with pytest.raises(UntrustedError):
            await client.overview()


async def test_joining_is_not_for_operators(registry, tmp_path, client):
    await join(registry, tmp_path / "1", "attic")
    reader = registry.service.create_operator_token("reader", Scope.READ)
    client = OperatorClient(registry.url, reader, registry.authority.certificate)
    with pytest.raises(RegistryRefusedError) as refused:
        await client.revoke("attic")
    assert refused.value.code == "scope-insufficient"
