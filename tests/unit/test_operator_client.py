"""re6st.registry.operator_client: what it does of its own accord."""

import asyncio

import pytest

from re6st.errors import RegistryUnavailableError
from re6st.messages import decode
from re6st.registry.operator_client import OperatorClient
from re6st.registry.operator_messages import Node


async def test_a_registry_may_be_away_for_days(monkeypatch):
    client, pauses = OperatorClient("https://registry.example/#tls=public", "token"), []

    async def away(_after):
        raise RegistryUnavailableError("away")
        yield

    async def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 2000:
            raise asyncio.CancelledError

    monkeypatch.setattr(client, "_stream", away)
    monkeypatch.setattr("re6st.registry.operator_client.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await anext(client.events(0))
    assert pauses[0] < pauses[1] < pauses[-1] == 30.0


def test_a_node_of_a_registry_that_knows_no_groups():
    body = (
        b'{"name": "a", "prefix": "2001:db8::/64", "address": "2001:db8::1", "state": "active", "created": 1}'
    )
    node = decode(body, Node)
    assert (node.group, node.owner) == ("", "")
