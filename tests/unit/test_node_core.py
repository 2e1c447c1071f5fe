"""The brain of one node, event by event."""

from __future__ import annotations

import itertools
import random
from ipaddress import IPv6Network
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from re6st.core import CoreSettings, NodeCore
from re6st.core import effects as fx
from re6st.core import events as ev
from re6st.core.tunnels import tunnel_cost
from re6st.messages import Endpoint, NetworkParameters, RefusalReason, Transport, TunnelOffer
from re6st.peers import NOTHING_SIGNED, Peer
from re6st.tunnel.lifecycle import Direction, TunnelState

NETWORK = IPv6Network("2001:db8:42::/48")
WALL = 1_800_000_000.0


def prefix(number: int) -> IPv6Network:
    return IPv6Network((int(NETWORK.network_address) + (number << 64), 64))


def peer(number: int, *, sequence: int = 1, reachable: bool = True, expires: float = float("inf")) -> Peer:
    endpoint = Endpoint(Transport.TCP, "192.0.2.1", 4226)
    return Peer(
        prefix=prefix(number),
        name=f"n{number}",
        sequence=sequence,
        endpoints=(endpoint,) if reachable else (),
        serial=f"{number:x}",
        expires=expires,
    )


Kind = TypeVar("Kind")


class Bench:
    """One core, its clock, and all that it has asked for."""

    def __init__(self, own: int = 100, **changes: object) -> None:
        settings = CoreSettings(prefix=prefix(own), name=f"n{own}", network=NETWORK, **changes)  # type: ignore[arg-type]
        self.core = NodeCore(settings, random.Random(1))
        self.now = 50.0
        self.effects: list[fx.Effect] = list(self.core.start(self.now))
        self.requests = 0

    def report(self, *events: ev.Event) -> list[fx.Effect]:
        new: list[fx.Effect] = []
        for event in events:
            new += self.core.handle(event, self.now)
        self.effects += new
        return new

    def wait(self, seconds: float) -> list[fx.Effect]:
        end, new = self.now + seconds, []
        while (deadline := self.core.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            new += self.core.advance(self.now)
        self.now = end
        self.effects += new
        return new

    def wait_for(self, kind: type[Kind], limit: float) -> Kind:
        """Let time pass until the core asks for something of this ``kind``."""
        for _ in range(int(limit)):
            found = every(self.wait(1), kind)
            if found:
                return found[0]
        raise AssertionError(f"no {kind.__name__} within {limit} s")

    def learn(self, *peers: Peer) -> list[fx.Effect]:
        return self.report(ev.PeersLearned(peers, ev.Source.GOSSIP))

    def ask(self, number: int, **changes: object) -> list[fx.Effect]:
        """Have node ``number`` ask for a tunnel."""
        self.requests += 1
        values: dict[str, object] = {
            "request": self.requests,
            "peer": peer(number),
            "boot_id": "b1",
            "protocol": 1,
            "drivers": ("openvpn",),
            "mtu": 1400,
        }
        return self.report(ev.TunnelRequested(**(values | changes)))  # type: ignore[arg-type]

    def offer(self, handle: int, number: int, boot_id: str = "b1") -> list[fx.Effect]:
        endpoint = Endpoint(Transport.UDP, "192.0.2.1", 4227)
        offer = TunnelOffer(
            tunnel="t",
            boot_id=boot_id,
            record=NOTHING_SIGNED,
            driver="openvpn",
            endpoints=(endpoint,),
            key="",
            mtu=1280,
        )
        return self.report(ev.TunnelOffered(handle, offer, peer(number)))

    def admit(self, number: int) -> fx.OfferTunnel:
        """Take in a tunnel that node ``number`` dials, until it is up."""
        offered = only(self.ask(number), fx.OfferTunnel)
        self.report(ev.TunnelUp(offered.tunnel))
        return offered

    def dial(self, number: int) -> fx.RequestTunnel:
        """Have the core dial node ``number``, until the tunnel is up."""
        request = only(self.learn(peer(number)), fx.RequestTunnel)
        self.offer(request.tunnel, number)
        self.report(ev.TunnelUp(request.tunnel))
        return request


def every(effects: list[fx.Effect], kind: type[Kind]) -> list[Kind]:
    return [effect for effect in effects if isinstance(effect, kind)]


def only(effects: list[fx.Effect], kind: type[Kind]) -> Kind:
    (found,) = every(effects, kind)
    return found


# -- costs ------------------------------------------------------------------------------------------------


@given(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 65535))
def test_costs_are_symmetric_and_two_hops_cost_more_than_one(one: int, middle: int, other: int) -> None:
    direct = tunnel_cost(prefix(one), prefix(other))
    assert direct == tunnel_cost(prefix(other), prefix(one))
    detour = tunnel_cost(prefix(one), prefix(middle)) + tunnel_cost(prefix(middle), prefix(other))
    assert direct < detour


def test_costs_differ() -> None:
    assert len({tunnel_cost(prefix(1), prefix(number)) for number in range(2, 200)}) > 50


# -- admission --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol": 2}, RefusalReason.INCOMPATIBLE),
        ({"drivers": ("pigeon",)}, RefusalReason.INCOMPATIBLE),
        ({"drivers": ()}, RefusalReason.INCOMPATIBLE),
        ({"peer": peer(100)}, RefusalReason.NOT_ALLOWED),
        ({"peer": peer(66)}, RefusalReason.NOT_ALLOWED),
        ({"peer": peer(7, expires=WALL - 1)}, RefusalReason.NOT_ALLOWED),
    ],
)
def test_requests_that_cannot_be_granted(changes: dict[str, object], reason: RefusalReason) -> None:
    bench = Bench()
    bench.report(ev.ClockRead(WALL - bench.now), ev.RevocationsAccepted(1, frozenset({"42"})))
    assert only(bench.ask(7, **changes), fx.RefuseTunnel).reason is reason
    assert bench.core.tunnels() == ()


def test_a_granted_tunnel_is_attached_when_it_is_up_and_its_slot_rests_after_it() -> None:
    bench = Bench(slots=12)
    offered = bench.admit(7)
    assert (offered.mtu, offered.port, offered.slot) == (1280, 4227, 0)
    attached = only(bench.effects, fx.AttachTunnel)
    assert (attached.slot, attached.cost) == (0, tunnel_cost(prefix(7), prefix(100)))
    down = bench.report(ev.TunnelDown(offered.tunnel, "ping timeout"))
    assert [type(effect) for effect in down] == [fx.DetachTunnel]
    assert (
        only(bench.ask(8), fx.RefuseTunnel).reason is RefusalReason.FULL
    )  # 11 left, and we want 10 ourselves
    bench.report(ev.SlotQuiet(0))
    assert only(bench.ask(8), fx.OfferTunnel).slot == 0


def test_a_slot_of_which_nothing_is_heard_is_used_again_after_eighteen_hellos() -> None:
    bench = Bench(slots=12)
    bench.report(
        ev.ParametersAccepted(NetworkParameters(version=1, network=str(NETWORK), hello_interval=2.0))
    )
    offered = bench.admit(7)
    bench.report(ev.TunnelDown(offered.tunnel, "gone"))
    bench.wait(35)
    assert every(bench.ask(8), fx.RefuseTunnel)
    bench.wait(2)
    assert only(bench.ask(8), fx.OfferTunnel).slot == 0


def test_an_offer_that_nobody_uses_ends_after_a_while_and_frees_its_port() -> None:
    bench = Bench(tunnel_ports=(5000,))
    offered = only(bench.ask(7), fx.OfferTunnel)
    assert only(bench.ask(8), fx.RefuseTunnel).reason is RefusalReason.FULL
    closed = only(bench.wait(16), fx.CloseTunnel)
    assert (closed.tunnel, closed.notify) == (offered.tunnel, True)
    assert every(bench.ask(8), fx.RefuseTunnel)
    bench.report(ev.TunnelDown(offered.tunnel, "closed"))
    assert only(bench.ask(8), fx.OfferTunnel).port == 5000


def test_a_driver_that_does_not_end_is_asked_twice_and_then_given_up() -> None:
    bench = Bench()
    only(bench.ask(7), fx.OfferTunnel)
    assert len(every(bench.wait(16), fx.CloseTunnel)) == 1
    assert len(every(bench.wait(10), fx.CloseTunnel)) == 1
    bench.wait(11)
    assert bench.core.tunnels() == ()


def test_a_second_request_is_refused_unless_it_knows_better() -> None:
    bench = Bench()
    first = bench.admit(7)
    assert only(bench.ask(7), fx.RefuseTunnel).reason is RefusalReason.ALREADY_CONNECTED
    for changes in ({"replace": True}, {"boot_id": "b2"}):
        effects = bench.ask(7, **changes)
        assert [type(e) for e in effects] == [fx.DetachTunnel, fx.CloseTunnel]
        assert only(effects, fx.CloseTunnel).tunnel == first.tunnel
        first = only(bench.report(ev.TunnelDown(first.tunnel, "closed")), fx.OfferTunnel)
        bench.report(ev.TunnelUp(first.tunnel))


def test_a_full_node_names_others_and_makes_room_for_the_isolated() -> None:
    bench = Bench(outgoing=1, tunnel_ports=(1, 2), slots=20)
    bench.dial(50)
    bench.learn(*(peer(number) for number in range(60, 70)))
    tunnels = {bench.admit(7).tunnel, bench.admit(8).tunnel}
    bench.wait(61)
    refusal = only(bench.ask(9), fx.RefuseTunnel)
    assert refusal.reason is RefusalReason.FULL
    assert 0 < len(refusal.hints) <= 6
    assert prefix(9) not in {hint.prefix for hint in refusal.hints}
    effects = bench.ask(10, isolated=True)
    assert only(effects, fx.RefuseTunnel).reason is RefusalReason.FULL
    drained = only(effects, fx.DrainTunnel)
    assert drained.tunnel in tunnels
    # Not a second one at once, and the room is kept for the one it was made for.
    assert not every(bench.ask(11, isolated=True), fx.DrainTunnel)
    evicted = only(bench.report(ev.TunnelDrained(drained.tunnel)), fx.CloseTunnel)
    assert evicted.notify
    bench.report(ev.TunnelDown(evicted.tunnel, "closed"))
    assert every(bench.ask(11), fx.RefuseTunnel)
    assert every(bench.ask(10, isolated=True), fx.OfferTunnel)


# -- crossing ---------------------------------------------------------------------------------------------


def test_the_lower_prefix_insists_on_its_own_request() -> None:
    bench = Bench(own=5)
    request = only(bench.learn(peer(9)), fx.RequestTunnel)
    assert only(bench.ask(9), fx.RefuseTunnel).reason is RefusalReason.ALREADY_CONNECTED
    bench.offer(request.tunnel, 9)
    assert only(bench.ask(9, replace=True), fx.RefuseTunnel).reason is RefusalReason.ALREADY_CONNECTED
    # But an offer of an earlier life of the peer is worth nothing.
    effects = bench.ask(9, boot_id="b2")
    assert every(effects, fx.CloseTunnel)
    assert every(effects, fx.OfferTunnel)


def test_the_higher_prefix_gives_its_own_request_up() -> None:
    bench = Bench(own=9)
    request = only(bench.learn(peer(5)), fx.RequestTunnel)
    effects = bench.ask(5)
    assert [type(effect) for effect in effects] == [fx.CancelRequest, fx.OfferTunnel]
    # The answer that crossed the cancellation means nothing.
    assert bench.offer(request.tunnel, 5) == []
    assert [tunnel.direction for tunnel in bench.core.tunnels()] == [Direction.INCOMING]


def test_the_peer_that_asks_again_has_given_its_first_request_up() -> None:
    bench = Bench()
    first = only(bench.ask(7), fx.OfferTunnel)
    effects = bench.ask(7)
    assert only(effects, fx.CloseTunnel).tunnel == first.tunnel
    second = only(bench.report(ev.TunnelDown(first.tunnel, "closed")), fx.OfferTunnel)
    assert second.tunnel != first.tunnel


# -- dialling ---------------------------------------------------------------------------------------------


def test_several_peers_are_dialled_at_once_and_no_more_than_wanted() -> None:
    bench = Bench(outgoing=10, attempts=4)
    requests = every(bench.learn(*(peer(number) for number in range(30))), fx.RequestTunnel)
    assert len(requests) == 4
    while requests:
        request = requests.pop()
        effects = bench.offer(request.tunnel, int(request.peer.name[1:]))
        effects += bench.report(ev.TunnelUp(request.tunnel))
        requests += every(effects, fx.RequestTunnel)
    assert bench.core.counts().outgoing == 10
    assert len({tunnel.peer.prefix for tunnel in bench.core.tunnels()}) == 10


def test_a_peer_that_fails_is_tried_ever_more_rarely_until_its_record_changes() -> None:
    bench = Bench()
    bench.learn(peer(7))
    moments = []
    begin = bench.now
    while bench.now < begin + 3000:
        for request in every(bench.effects, fx.RequestTunnel):
            moments.append(bench.now)
            bench.effects.clear()
            bench.report(ev.TunnelRequestFailed(request.tunnel, "no answer"))
        bench.wait(0.5)
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert gaps[0] < 4
    assert 200 < max(gaps) <= 380
    assert len(moments) < 25
    assert bench.core.peers()[0].failures > 5
    assert every(bench.learn(peer(7, sequence=2)), fx.RequestTunnel)


def test_hints_of_a_full_peer_are_tried() -> None:
    bench = Bench()
    request = only(bench.learn(peer(7)), fx.RequestTunnel)
    effects = bench.report(ev.TunnelRefused(request.tunnel, RefusalReason.FULL, "", (peer(8), peer(9))))
    assert {effect.peer.name for effect in every(effects, fx.RequestTunnel)} == {"n8", "n9"}


def test_a_peer_that_thinks_it_is_connected_is_asked_to_replace() -> None:
    bench = Bench()
    request = only(bench.learn(peer(7)), fx.RequestTunnel)
    assert not request.replace
    bench.report(ev.TunnelRefused(request.tunnel, RefusalReason.ALREADY_CONNECTED))
    assert only(bench.wait(8), fx.RequestTunnel).replace


def test_requests_and_dials_without_end_are_cancelled() -> None:
    bench = Bench()
    request = only(bench.learn(peer(7)), fx.RequestTunnel)
    assert only(bench.wait(15.1), fx.CancelRequest).tunnel == request.tunnel
    bench = Bench()
    request = only(bench.learn(peer(7)), fx.RequestTunnel)
    dialled = only(bench.offer(request.tunnel, 7), fx.DialTunnel)
    assert only(bench.wait(15.1), fx.CloseTunnel).tunnel == dialled.tunnel


def test_an_offer_of_somebody_else_or_with_an_unknown_driver_is_not_dialled() -> None:
    bench = Bench()
    request = only(bench.learn(peer(7)), fx.RequestTunnel)
    assert not every(bench.offer(request.tunnel, 8), fx.DialTunnel)


def test_without_anybody_left_the_registry_is_asked_soon_and_then_more_rarely() -> None:
    bench = Bench()
    asked = 0
    for _ in range(600):
        for effect in every(bench.wait(1), fx.AskRegistry):
            asked += effect.operation is ev.RegistryOperation.SAMPLE
            bench.report(ev.RegistryAnswered(effect.operation))
        if bench.now == 60:
            assert 4 <= asked <= 9
    assert 6 <= asked <= 16


# -- the rest of a tunnel's life --------------------------------------------------------------------------


def test_unknown_handles_are_ignored() -> None:
    bench = Bench()
    assert (
        bench.report(
            ev.TunnelUp(7),
            ev.TunnelDown(7, ""),
            ev.TunnelCancelled(7, ""),
            ev.TunnelRefused(7, RefusalReason.FULL),
            ev.TunnelRequestFailed(7, ""),
            ev.TrafficCounted(((7, 1),)),
            ev.SlotQuiet(3),
            ev.GossipFailed(prefix(3), ""),
            ev.DocumentFailed(ev.Document.PARAMETERS, ""),
            ev.RegistryAnswered(ev.RegistryOperation.RENEW),
        )
        == []
    )


def test_a_revoked_peer_is_dropped_at_once() -> None:
    bench = Bench()
    request = bench.dial(7)
    effects = bench.report(ev.RevocationsAccepted(2, frozenset({"7"})))
    assert only(effects, fx.CloseTunnel).tunnel == request.tunnel
    assert every(effects, fx.DetachTunnel)
    assert bench.core.peer(prefix(7)) is None
    assert bench.core.is_revoked("7")
    assert not every(bench.learn(peer(7, sequence=9)), fx.RequestTunnel)


def test_rotation_takes_the_new_tunnel_first_and_drops_the_one_that_carried_least() -> None:
    bench = Bench(outgoing=2, tunnel_refresh=100.0, rotation_overlap=20.0)
    busy, idle = bench.dial(1), bench.dial(2)
    bench.learn(peer(3))
    bench.report(ev.TrafficCounted(((busy.tunnel, 5000), (idle.tunnel, 10))))
    request = bench.wait_for(fx.RequestTunnel, 125)
    assert request.peer.name == "n3"
    bench.offer(request.tunnel, 3)
    bench.report(ev.TunnelUp(request.tunnel))
    assert not every(bench.wait(19), fx.DrainTunnel)
    assert only(bench.wait(7), fx.DrainTunnel).tunnel == idle.tunnel
    assert not every(bench.wait(5), fx.CloseTunnel)
    closed = only(bench.report(ev.TunnelDrained(idle.tunnel)), fx.CloseTunnel)
    assert (closed.tunnel, closed.notify) == (idle.tunnel, True)
    assert bench.core.counts().outgoing == 2


def test_a_tunnel_that_does_not_drain_in_time_ends_by_force(caplog) -> None:
    bench = Bench()
    offered = bench.admit(7)
    bench.report(ev.TunnelDraining(offered.tunnel, leaving=False))
    assert only(bench.effects, fx.DrainTunnel).drain is fx.Drain.PEER
    assert not every(bench.wait(85), fx.CloseTunnel)
    assert only(bench.wait(10), fx.CloseTunnel).tunnel == offered.tunnel
    assert "by force" in caplog.text


def test_a_node_that_leaves_keeps_its_tunnels_until_all_are_drained() -> None:
    bench = Bench()
    dialled, admitted = bench.dial(7), bench.admit(8)
    drained = every(bench.core.drain(bench.now), fx.DrainTunnel)
    assert {(effect.tunnel, effect.drain) for effect in drained} == {
        (dialled.tunnel, fx.Drain.NODE),
        (admitted.tunnel, fx.Drain.NODE),
    }
    assert every(bench.ask(9), fx.RefuseTunnel)
    assert not every(bench.report(ev.TunnelDrained(dialled.tunnel)), fx.CloseTunnel)
    assert not bench.core.drained
    bench.report(ev.TunnelDrained(admitted.tunnel))
    assert bench.core.drained
    assert len(every(bench.core.stop(bench.now), fx.CloseTunnel)) == 2


def test_a_node_that_leaves_asks_a_peer_that_drains_a_tunnel_when_it_is_drained() -> None:
    bench = Bench()
    admitted = bench.admit(7)
    bench.report(ev.TunnelDraining(admitted.tunnel, leaving=True))
    drain = only(bench.core.drain(bench.now), fx.DrainTunnel)
    assert (drain.tunnel, drain.drain) == (admitted.tunnel, fx.Drain.NODE)
    assert not bench.core.drained
    bench.report(ev.TunnelDrained(admitted.tunnel))
    assert bench.core.drained


def test_a_tunnel_whose_peer_drains_it_is_replaced_before_it_ends() -> None:
    bench = Bench(outgoing=1)
    dialled = bench.dial(7)
    bench.learn(peer(8))
    effects = bench.report(ev.TunnelDraining(dialled.tunnel, leaving=True))
    assert only(effects, fx.RequestTunnel).peer.name == "n8"


def test_a_rotation_without_a_new_peer_drops_nothing() -> None:
    bench = Bench(outgoing=2, tunnel_refresh=100.0)
    bench.dial(1)
    bench.dial(2)
    bench.learn(peer(3))
    for _ in range(400):
        for request in every(bench.wait(1), fx.RequestTunnel):
            bench.report(ev.TunnelRequestFailed(request.tunnel, "no answer"))
    assert bench.core.counts().outgoing == 2
    assert not every(bench.effects, fx.CloseTunnel)


def test_stopping_ends_everything_and_begins_nothing() -> None:
    bench = Bench()
    request = bench.dial(7)
    pending = only(bench.learn(peer(8)), fx.RequestTunnel)
    effects = bench.core.stop(bench.now)
    assert only(effects, fx.CloseTunnel) == fx.CloseTunnel(request.tunnel, "this node stops", notify=True)
    assert only(effects, fx.CancelRequest).tunnel == pending.tunnel
    assert {stored.name for stored in only(effects, fx.StorePeers).stored} == {"n7", "n8"}
    assert every(bench.ask(9), fx.RefuseTunnel)
    assert not every(bench.learn(peer(10)), fx.RequestTunnel)


# -- documents, gossip, registry --------------------------------------------------------------------------


def test_a_newer_document_is_fetched_once_and_from_another_if_the_first_fails() -> None:
    bench = Bench()
    bench.learn(peer(7, reachable=False), peer(8, reachable=False))
    seen = [ev.VersionSeen(prefix(number), ev.Document.REVOCATIONS, 3) for number in (7, 8)]
    assert only(bench.report(*seen), fx.FetchDocument).peer == peer(7, reachable=False)
    failed = ev.DocumentFailed(ev.Document.REVOCATIONS, "no answer")
    assert only(bench.report(failed), fx.FetchDocument).peer == peer(8, reachable=False)
    assert only(bench.report(failed), fx.FetchDocument).peer is None
    assert bench.report(failed) == []
    # Who had nothing to show is not believed for a while.
    assert bench.report(seen[0]) == []
    bench.wait(301)
    assert every(bench.report(seen[0]), fx.FetchDocument)
    assert not every(bench.report(ev.RevocationsAccepted(3, frozenset())), fx.FetchDocument)
    assert bench.report(seen[1]) == []


def test_gossip_begins_soon_after_the_first_tunnel_and_goes_on() -> None:
    bench = Bench(gossip_interval=60.0)
    bench.dial(7)
    exchange = only(bench.wait(3), fx.ExchangeGossip)
    assert exchange.peer.name == "n7"
    assert not every(bench.wait(15), fx.ExchangeGossip)
    bench.report(ev.GossipAnswered(prefix(7)))
    assert len(every(bench.wait(76), fx.ExchangeGossip)) == 1
    # No answer ever comes: the exchange times out and the next one is not far.
    assert len(every(bench.wait(30), fx.ExchangeGossip)) == 1


def test_records_are_stored_together_and_those_from_disk_not_again() -> None:
    bench = Bench()
    bench.report(ev.PeersLearned((peer(1),), ev.Source.BOOK))
    bench.learn(peer(2))
    bench.wait(1)
    bench.learn(peer(3))
    stored = only(bench.wait(6), fx.StorePeers)
    assert [kept.name for kept in stored.stored] == ["n2", "n3"]


def test_the_own_record_is_published_at_the_start_and_after_changes() -> None:
    bench = Bench()
    publish = fx.AskRegistry(ev.RegistryOperation.PUBLISH)
    assert bench.wait(1).count(publish) == 1
    bench.report(ev.RegistryAnswered(ev.RegistryOperation.PUBLISH))
    endpoint = Endpoint(Transport.TCP, "192.0.2.9", 4226)
    bench.report(ev.OwnEndpointsChanged((endpoint,)), ev.OwnEndpointsChanged((endpoint,)))
    assert bench.wait(1).count(publish) == 1
    # A change while a request is under way is not forgotten.
    bench.report(ev.OwnEndpointsChanged(()), ev.RegistryAnswered(ev.RegistryOperation.PUBLISH))
    assert bench.wait(1).count(publish) == 1


def test_the_certificate_is_renewed_after_two_thirds_of_its_life() -> None:
    bench = Bench()
    bench.report(ev.ClockRead(WALL - bench.now), ev.OwnCertificateChanged(WALL, WALL + 9000))
    renew = fx.AskRegistry(ev.RegistryOperation.RENEW)
    assert renew not in bench.wait(5500)
    while renew not in bench.wait(1):
        assert bench.now < 6600
    bench.report(ev.RegistryFailed(ev.RegistryOperation.RENEW, "no answer"))
    assert renew in bench.wait(40)
    bench.report(ev.OwnCertificateChanged(WALL + 6000, WALL + 15000))
    bench.report(ev.RegistryAnswered(ev.RegistryOperation.RENEW))
    assert renew not in bench.wait(3000)


def test_the_certificate_is_renewed_when_the_registry_wants_it() -> None:
    bench = Bench()
    bench.report(ev.ClockRead(WALL - bench.now), ev.OwnCertificateChanged(WALL, WALL + 9000))
    renew = fx.AskRegistry(ev.RegistryOperation.RENEW)
    bench.report(ev.RenewalWanted(), ev.RenewalWanted())
    assert bench.wait(1).count(renew) == 1
    bench.report(ev.RenewalWanted(), ev.RegistryAnswered(ev.RegistryOperation.RENEW))
    assert renew not in bench.wait(60)


# -- anything at all --------------------------------------------------------------------------------------

numbers = st.integers(0, 12)
peers = st.builds(peer, numbers, sequence=st.integers(1, 5), reachable=st.booleans())
events = st.one_of(
    st.builds(ev.PeersLearned, st.lists(peers, max_size=4).map(tuple), st.sampled_from(ev.Source)),
    st.builds(ev.ClockRead, st.floats(0, 2e9)),
    st.builds(ev.OwnCertificateChanged, st.floats(0, 1e9), st.floats(1e9, 2e9)),
    st.builds(ev.RenewalWanted),
    st.builds(
        ev.TunnelRequested,
        st.integers(0, 2**31),
        peers,
        st.sampled_from(("b1", "b2")),
        st.integers(0, 2),
        st.sampled_from(((), ("openvpn",))),
        st.integers(1280, 9000),
        st.booleans(),
        st.booleans(),
        fragments=st.booleans(),
    ),
    st.builds(ev.TunnelNarrow, numbers),
    st.builds(ev.TunnelRefused, numbers, st.sampled_from(RefusalReason), st.just(""), st.tuples(peers)),
    st.builds(ev.TunnelRequestFailed, numbers, st.just("")),
    st.builds(ev.TunnelUp, numbers),
    st.builds(ev.TunnelDown, numbers, st.just("")),
    st.builds(ev.TunnelCancelled, numbers, st.just("")),
    st.builds(ev.SlotQuiet, numbers),
    st.builds(ev.GossipAnswered, numbers.map(prefix)),
    st.builds(ev.GossipFailed, numbers.map(prefix), st.just("")),
    st.builds(ev.VersionSeen, numbers.map(prefix), st.sampled_from(ev.Document), st.integers(0, 9)),
    st.builds(ev.DocumentFailed, st.sampled_from(ev.Document), st.just("")),
    st.builds(ev.RevocationsAccepted, st.integers(0, 9), st.frozensets(numbers.map("{:x}".format))),
    st.builds(ev.RegistryFailed, st.sampled_from(ev.RegistryOperation), st.just(""), st.booleans()),
    st.builds(ev.RegistryAnswered, st.sampled_from(ev.RegistryOperation)),
)
steps = st.one_of(events, st.floats(0, 100), st.integers(1, 20))


@settings(max_examples=120)
@given(st.lists(steps, max_size=60))
def test_no_sequence_of_events_breaks_a_promise(course: list[ev.Event | float | int]) -> None:
    """A float lets time pass; an integer offers a tunnel for that handle."""
    bench = Bench(own=6, outgoing=3, tunnel_ports=(1, 2, 3), slots=9, book_capacity=6)
    for step in course:
        if isinstance(step, float):
            bench.wait(step)
        elif isinstance(step, int):
            bench.offer(step, step % 12)
        else:
            bench.report(step)
        tunnels = bench.core.tunnels()
        assert len({tunnel.slot for tunnel in tunnels}) == len(tunnels) <= 9
        assert sum(tunnel.direction is Direction.INCOMING for tunnel in tunnels) <= 3
        assert bench.core.counts().outgoing + bench.core.counts().attempts <= 5
        assert bench.core.counts().peers <= 6
        live = [t for t in tunnels if t.state in {TunnelState.UP, TunnelState.OPENING, TunnelState.REQUESTED}]
        assert all(not bench.core.is_revoked(tunnel.peer.serial) for tunnel in live)
        deadline = bench.core.next_deadline()
        assert deadline is not None
    bench.wait(11)
    asked = [effect.request for effect in every(bench.effects, fx.RefuseTunnel)]
    asked += [effect.request for effect in every(bench.effects, fx.OfferTunnel)]
    assert len(asked) == sum(isinstance(step, ev.TunnelRequested) for step in course)
    handles = [effect.tunnel for effect in every(bench.effects, fx.RequestTunnel)]
    handles += [effect.tunnel for effect in every(bench.effects, fx.OfferTunnel)]
    assert len(handles) == len(set(handles))
