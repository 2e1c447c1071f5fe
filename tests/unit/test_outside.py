"""Who is tested at which endpoints, and how often; who is asked to test this node."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from test_node_core import peer as make_peer

from re6st.messages import Endpoint, EndpointResult, ReachabilityAnswer, Transport
from re6st.node import outside
from re6st.node.control_client import PeerUnreachableError
from re6st.node.outside import OutsideTester
from re6st.peers import NOTHING_SIGNED, Peer


def endpoint(address: str) -> Endpoint:
    return Endpoint(Transport.TCP, address, 4226)


def peer(number: int, *addresses: str) -> Peer:
    base = make_peer(number)
    return Peer(prefix=base.prefix, name=base.name, sequence=1, endpoints=tuple(map(endpoint, addresses)))


class Client:
    """Reaches some addresses; peers give prepared answers."""

    def __init__(self) -> None:
        self.reachable = {"20.1.1.1"}
        self.tried: list[str] = []
        self.asked: list[str] = []
        self.answers: dict[str, ReachabilityAnswer] = {}

    async def greet(self, _: Peer, where: Endpoint) -> None:
        self.tried.append(where.address)
        if where.address not in self.reachable:
            raise PeerUnreachableError("no answer")

    def overlay_endpoint(self, one: Peer) -> Endpoint:
        return endpoint(str(one.address))

    async def request_reachability(self, one: Peer, endpoints, request) -> ReachabilityAnswer:
        self.asked.append(one.name)
        if one.name not in self.answers:
            raise PeerUnreachableError(f"{one.name} answered 404")
        return self.answers[one.name]


def everything(endpoints):
    return tuple(endpoints)


def make_tester(client: Client, *peers: Peer, own: tuple[str, ...] = ("20.5.5.5",)) -> OutsideTester:
    underlay = SimpleNamespace(dial_order=everything, usable=everything)
    record = SimpleNamespace(endpoints=tuple(map(endpoint, own)), signed=NOTHING_SIGNED)
    return OutsideTester(client, underlay, record, lambda: list(peers))  # type: ignore[arg-type]


async def test_only_global_endpoints_are_tried_and_each_gets_a_result() -> None:
    client = Client()
    answer = await make_tester(client).test(peer(1, "20.1.1.1", "192.168.1.1", "20.1.1.2", "127.0.0.1"))
    assert client.tried == ["20.1.1.1", "20.1.1.2"]
    assert [result.reached for result in answer.results] == [True, False]


async def test_few_endpoints_are_tried() -> None:
    client = Client()
    await make_tester(client).test(peer(1, *(f"20.1.1.{number}" for number in range(1, 17))))
    assert len(client.tried) == outside.TESTED


async def test_who_asks_too_often_gets_an_empty_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(outside.time, "monotonic", lambda: now)
    one = make_tester(Client())
    assert (await one.test(peer(1, "20.1.1.1"))).results
    assert not (await one.test(peer(1, "20.1.1.1"))).results
    assert (await one.test(peer(2, "20.1.1.1"))).results
    now += outside.TEST_INTERVAL
    assert (await one.test(peer(1, "20.1.1.1"))).results


async def test_a_peer_behind_our_own_router_is_not_asked() -> None:
    client = Client()
    status = await make_tester(client, peer(1, "20.5.5.5")).ask()
    assert client.asked == []
    assert "no other node" in status.reason


async def test_another_peer_is_asked_when_one_cannot_do_it() -> None:
    client = Client()
    client.answers["n2"] = ReachabilityAnswer(
        results=(
            EndpointResult(endpoint=endpoint("20.5.5.5"), reached=True),
            EndpointResult(endpoint=endpoint("20.5.5.6"), reached=False),
        )
    )
    status = await make_tester(client, peer(1, "20.1.1.1"), peer(2, "20.1.1.2")).ask()
    assert status.tester == "n2"
    assert status.reached == ["tcp:20.5.5.5:4226"]
    assert status.unreached == ["tcp:20.5.5.6:4226"]


async def test_nothing_is_asked_when_nothing_is_published() -> None:
    client = Client()
    status = await make_tester(client, peer(1, "20.1.1.1"), own=()).ask()
    assert (client.asked, status.tester) == ([], "")
    assert "publishes no endpoint" in status.reason


async def test_a_peer_is_asked_by_one_way_at_a_time() -> None:
    """A second request while the first is being served would be answered first, and say nothing."""
    client = Client()
    ways: list[list[str]] = []

    async def request(one: Peer, endpoints, _) -> ReachabilityAnswer:
        ways.append([where.address for where in endpoints])
        raise PeerUnreachableError("no answer")

    client.request_reachability = request  # type: ignore[method-assign]
    one = peer(1, "20.1.1.1", "20.1.1.2")
    status = await make_tester(client, one).ask()
    assert ways == [[str(one.address)], ["20.1.1.1"]]
    assert status.reason == "no answer"
