"""Admission: replacing tunnels at a full listener, and what one member can take from the others."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_node_core import Bench, every, only, prefix

from re6st.core import claims
from re6st.core import effects as fx
from re6st.core import events as ev
from re6st.core.claims import Claims
from re6st.messages import RefusalReason
from re6st.tunnel.lifecycle import Direction, TunnelState

PORTS = tuple(range(5000, 5016))


def full_listener(ports: tuple[int, ...] = PORTS) -> Bench:
    """A listener all of whose ports are taken by nodes 1, 2, ... for longer than they are sheltered."""
    bench = Bench(own=500, tunnel_ports=ports)
    for number in range(1, len(ports) + 1):
        bench.admit(number)
    bench.wait(61)
    return bench


def up(bench: Bench) -> set[str]:
    return {tunnel.peer.name for tunnel in bench.core.tunnels() if tunnel.state is TunnelState.UP}


def test_a_tunnel_is_replaced_at_a_full_listener() -> None:
    bench = full_listener()
    standing = next(t for t in bench.core.tunnels() if t.peer.prefix == prefix(3))
    effects = bench.ask(3, replace=True, request=77)
    assert only(effects, fx.CloseTunnel).tunnel == standing.handle
    assert not every(effects, fx.RefuseTunnel)
    # The port that is given back is not for others.
    assert only(bench.ask(99), fx.RefuseTunnel).reason is RefusalReason.FULL
    offered = only(bench.report(ev.TunnelDown(standing.handle, "closed")), fx.OfferTunnel)
    assert (offered.request, offered.peer.prefix) == (77, prefix(3))
    bench.report(ev.TunnelUp(offered.tunnel))
    assert len(up(bench)) == 16


def test_nothing_ends_for_a_replacement_for_which_there_is_no_room() -> None:
    bench = Bench(own=500, outgoing=1, slots=3, tunnel_ports=PORTS)
    bench.admit(1)
    effects = bench.ask(1, replace=True)  # one slot is used and two are for the own dials
    assert only(effects, fx.RefuseTunnel).reason is RefusalReason.FULL
    assert not every(effects, fx.CloseTunnel)
    assert up(bench) == {"n1"}


def test_a_request_does_not_wait_longer_than_the_peer() -> None:
    bench = full_listener()
    bench.ask(3, replace=True, request=77)
    refused = only(bench.wait(7), fx.RefuseTunnel)
    assert (refused.request, refused.reason) == (77, RefusalReason.UNAVAILABLE)


def test_a_request_that_waits_is_refused_when_the_node_stops_or_the_peer_asks_again() -> None:
    bench = full_listener()
    bench.ask(3, replace=True, request=77)
    assert only(bench.ask(3, replace=True, request=78), fx.RefuseTunnel).request == 77
    assert only(bench.core.stop(bench.now), fx.RefuseTunnel).request == 78


def test_a_peer_that_was_revoked_while_it_waited_gets_nothing() -> None:
    bench = full_listener()
    standing = next(t for t in bench.core.tunnels() if t.peer.prefix == prefix(3))
    bench.ask(3, replace=True)
    bench.report(ev.RevocationsAccepted(2, frozenset({"3"})))
    effects = bench.report(ev.TunnelDown(standing.handle, "closed"))
    assert only(effects, fx.RefuseTunnel).reason is RefusalReason.NOT_ALLOWED
    assert not every(effects, fx.OfferTunnel)


@pytest.mark.parametrize("reborn", [False, True])
def test_a_peer_that_asks_without_end_takes_one_port(reborn: bool) -> None:
    bench = Bench(own=500, tunnel_ports=PORTS)
    for number in range(16):
        bench.ask(7, replace=True, boot_id=f"b{number}" if reborn else "b1")
        bench.wait(0.02)
    assert sum(tunnel.direction is Direction.INCOMING for tunnel in bench.core.tunnels()) == 1
    assert all(every(bench.ask(number), fx.OfferTunnel) for number in range(8, 20))


def test_a_peer_that_claims_to_be_isolated_and_never_connects_costs_one_tunnel() -> None:
    bench = full_listener()
    before = up(bench)
    for _ in range(400):
        effects = bench.ask(99, isolated=True, replace=True)
        for closed in every(effects, fx.CloseTunnel):
            bench.report(ev.TunnelDown(closed.tunnel, "closed"))
        for drained in every(effects, fx.DrainTunnel):
            bench.report(ev.TunnelDrained(drained.tunnel), ev.TunnelDown(drained.tunnel, "closed"))
        for closed in every(bench.wait(10), fx.CloseTunnel):
            bench.report(ev.TunnelDown(closed.tunnel, "closed"))
    assert len(before - up(bench)) <= 2  # 4000 s: one at first, one when that was forgiven


def test_a_peer_that_connects_is_made_room_for_again_after_a_while() -> None:
    bench = full_listener(PORTS[:2])
    evicted = only(bench.ask(99, isolated=True), fx.DrainTunnel)
    bench.report(ev.TunnelDrained(evicted.tunnel), ev.TunnelDown(evicted.tunnel, "closed"))
    offered = only(bench.ask(99, isolated=True), fx.OfferTunnel)
    bench.report(ev.TunnelUp(offered.tunnel), ev.TunnelDown(offered.tunnel, "lost"))
    bench.wait(31)
    bench.admit(98)
    bench.wait(61)
    assert not every(bench.ask(99, isolated=True), fx.DrainTunnel)
    bench.wait(claims.EVICTION_PAUSE)
    drained = only(bench.ask(99, isolated=True), fx.DrainTunnel)
    assert only(bench.wait(9), fx.CloseTunnel).tunnel == drained.tunnel


STEPS = st.tuples(st.booleans(), st.booleans(), st.integers(0, 3), st.floats(0, 3), st.booleans())


@settings(max_examples=60)
@given(st.lists(STEPS, max_size=40))
def test_one_peer_never_holds_more_than_one_tunnel_that_opens_or_closes(
    steps: list[tuple[bool, bool, int, float, bool]],
) -> None:
    bench = Bench(own=500, tunnel_ports=PORTS)
    for replace, isolated, boot, pause, ends in steps:
        bench.ask(7, replace=replace, isolated=isolated, boot_id=f"b{boot}")
        bench.wait(pause)
        held = [tunnel for tunnel in bench.core.tunnels() if tunnel.peer.prefix == prefix(7)]
        assert len(held) <= 1
        for tunnel in held:
            if ends:
                bench.report(ev.TunnelDown(tunnel.handle, "closed"))
            else:
                bench.report(ev.TunnelUp(tunnel.handle))
    spent = sum(pause for *_, pause, _ in steps)
    assert len(every(bench.effects, fx.OfferTunnel)) <= claims.BURST + spent / claims.REFILL + 1


def test_only_so_many_peers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "REMEMBERED", 3)
    accounts = Claims()
    for number in range(10):
        assert accounts.spend(prefix(number), 0.0)
    assert len(accounts) == 3
