"""Tunnels that outlive a daemon, as the brain of the next one sees them."""

from __future__ import annotations

import pytest
from test_node_core import WALL, Bench, every, only, peer, prefix

from re6st.core import effects as fx
from re6st.core import events as ev
from re6st.messages import RefusalReason, Transport
from re6st.tunnel.lifecycle import Direction, TunnelState


def adopted(number: int, tunnel: int = 41, **changes: object) -> ev.TunnelAdopted:
    values: dict[str, object] = {
        "tunnel": tunnel,
        "peer": peer(number),
        "slot": 0,
        "outgoing": True,
        "transport": Transport.UDP,
        "port": 0,
        "cost": 70,
        "boot_id": "b1",
        "since": 10.0,
        "expires": WALL + 9000,
    }
    return ev.TunnelAdopted(**(values | changes))  # type: ignore[arg-type]


def test_an_adopted_tunnel_is_up_at_once_and_no_second_one_is_dialled() -> None:
    bench = Bench(outgoing=1)
    new = bench.report(adopted(7))
    assert not every(new, fx.AttachTunnel)
    (tunnel,) = bench.core.tunnels()
    assert (tunnel.handle, tunnel.state, tunnel.direction) == (41, TunnelState.UP, Direction.OUTGOING)
    assert (tunnel.since, tunnel.cost) == (10.0, 70)
    assert not every(bench.learn(peer(7), peer(8)), fx.RequestTunnel)
    down = bench.report(ev.TunnelDown(41, "ping timeout"))
    assert only(down, fx.DetachTunnel).slot == 0


def test_new_tunnels_get_other_handles_slots_and_ports() -> None:
    bench = Bench(tunnel_ports=(5000, 5001))
    bench.report(adopted(7, outgoing=False, port=5000), adopted(8, tunnel=12, slot=1))
    offered = only(bench.ask(9), fx.OfferTunnel)
    assert (offered.tunnel, offered.slot, offered.port) == (42, 2, 5001)
    assert only(bench.ask(10), fx.RefuseTunnel).reason is RefusalReason.FULL
    bench.report(ev.TunnelCancelled(41, "the peer ended it"), ev.TunnelDown(41, "closed on request"))
    assert only(bench.ask(10), fx.OfferTunnel).port == 5000


def test_a_port_outside_the_configured_range_is_not_given_to_anybody() -> None:
    bench = Bench(tunnel_ports=(5000,))
    bench.report(adopted(7, outgoing=False, port=4000))
    bench.report(ev.TunnelDown(41, "gone"))
    assert only(bench.ask(8), fx.OfferTunnel).port == 5000
    assert only(bench.ask(9), fx.RefuseTunnel).reason is RefusalReason.FULL


def test_what_cannot_be_adopted_is_closed() -> None:
    bench = Bench()
    bench.report(adopted(7))
    closed = only(bench.report(adopted(8, tunnel=43)), fx.CloseTunnel)
    assert closed.tunnel == 43
    assert only(bench.report(adopted(8, tunnel=44, slot=99)), fx.CloseTunnel).tunnel == 44
    assert len(bench.core.tunnels()) == 1


def test_the_peer_that_has_forgotten_its_end_is_let_in_and_the_one_that_has_not_is_refused() -> None:
    bench = Bench()
    bench.report(adopted(7, outgoing=False, port=4227))
    assert only(bench.ask(7), fx.RefuseTunnel).reason is RefusalReason.ALREADY_CONNECTED
    closed = bench.ask(7, boot_id="b2")
    assert only(closed, fx.CloseTunnel).tunnel == 41


def test_an_adopted_tunnel_ends_with_its_certificates_and_with_a_revocation() -> None:
    bench = Bench()
    clock = ev.ClockRead(WALL - bench.now)
    bench.report(clock, ev.OwnCertificateChanged(WALL, WALL + 90_000))
    bench.report(adopted(7, expires=WALL + 600), adopted(8, tunnel=42, slot=1))
    bench.wait(700)
    assert [tunnel.handle for tunnel in bench.core.tunnels() if tunnel.state is TunnelState.UP] == [42]
    bench.report(ev.RevocationsAccepted(1, frozenset({"9"})))
    late = bench.report(adopted(9, tunnel=50, slot=2))
    assert only(late, fx.CloseTunnel).tunnel == 50


def test_what_a_later_run_needs_is_told_when_a_tunnel_is_attached() -> None:
    bench = Bench()
    bench.report(ev.ClockRead(WALL - bench.now), ev.OwnCertificateChanged(WALL, WALL + 500))
    bench.dial(7)
    attached = only(bench.effects, fx.AttachTunnel)
    assert (attached.boot_id, attached.expires) == ("b1", WALL + 500)


def test_handing_over_saves_the_book_and_ends_nothing() -> None:
    bench = Bench()
    bench.learn(peer(7))
    bench.dial(8)
    effects = bench.core.hand_over(bench.now)
    assert [type(effect) for effect in effects] == [fx.StorePeers]
    stored = only(effects, fx.StorePeers).stored
    assert {one.prefix for one in stored} == {prefix(7), prefix(8)}


@pytest.mark.parametrize("since", [-5.0, 1e9])
def test_the_beginning_of_a_tunnel_is_never_in_the_future(since: float) -> None:
    bench = Bench()
    bench.report(adopted(7, since=since))
    assert bench.core.tunnels()[0].since <= bench.now
