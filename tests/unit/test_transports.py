"""When the brain asks for TCP instead of UDP, and when for UDP again."""

from __future__ import annotations

from test_node_core import Bench, every, only, peer

from re6st.core import effects as fx
from re6st.core import events as ev
from re6st.messages import RefusalReason, Transport

UDP, TCP = Transport.UDP, Transport.TCP
RETRY = 400.0
"""Seconds within which UDP is tried again: the first delay, its jitter, and the interval of the sweep."""


def fail(bench: Bench, request: fx.RequestTunnel, number: int) -> None:
    """Let the peer offer a tunnel that does not come up."""
    bench.offer(request.tunnel, number)
    bench.report(ev.TunnelDown(request.tunnel, "no answer"))


def succeed(bench: Bench, request: fx.RequestTunnel, number: int) -> list[fx.Effect]:
    bench.offer(request.tunnel, number)
    return bench.report(ev.TunnelUp(request.tunnel))


def fall_back(bench: Bench, number: int) -> fx.RequestTunnel:
    """Have node ``number`` reached over TCP after UDP has failed; return the request for TCP."""
    first = only(bench.learn(peer(number)), fx.RequestTunnel)
    assert first.transport is UDP
    fail(bench, first, number)
    second = bench.wait_for(fx.RequestTunnel, 2)
    assert second.transport is TCP
    succeed(bench, second, number)
    return second


def test_a_peer_that_answers_but_not_over_udp_is_asked_for_tcp_at_once() -> None:
    bench = Bench()
    fall_back(bench, 1)
    assert bench.core.counts().outgoing == 1


def test_a_driver_that_never_says_anything_counts_as_well() -> None:
    bench = Bench()
    first = only(bench.learn(peer(1)), fx.RequestTunnel)
    bench.offer(first.tunnel, 1)
    assert bench.wait_for(fx.RequestTunnel, 20).transport is TCP


def test_a_peer_that_does_not_answer_or_calls_it_off_says_nothing_about_udp() -> None:
    bench = Bench()
    bench.report(ev.TunnelRequestFailed(only(bench.learn(peer(1)), fx.RequestTunnel).tunnel, "no answer"))
    second = bench.wait_for(fx.RequestTunnel, 10)
    assert second.transport is UDP
    bench.offer(second.tunnel, 1)
    bench.report(ev.TunnelCancelled(second.tunnel, "it stops"), ev.TunnelDown(second.tunnel, ""))
    assert bench.wait_for(fx.RequestTunnel, 20).transport is UDP


def test_when_tcp_fails_too_everything_begins_anew() -> None:
    bench = Bench()
    fail(bench, only(bench.learn(peer(1)), fx.RequestTunnel), 1)
    fail(bench, bench.wait_for(fx.RequestTunnel, 2), 1)
    assert bench.wait_for(fx.RequestTunnel, 10).transport is UDP


def test_after_two_such_peers_all_are_asked_for_tcp_until_one_comes_up_over_udp() -> None:
    bench = Bench()
    fall_back(bench, 1)
    fall_back(bench, 2)
    third = only(bench.learn(peer(3)), fx.RequestTunnel)
    assert third.transport is TCP
    succeed(bench, third, 3)
    bench.admit(4)
    assert only(bench.learn(peer(5)), fx.RequestTunnel).transport is UDP


def test_udp_is_tried_again_while_the_tunnel_over_tcp_stays() -> None:
    bench = Bench()
    old = fall_back(bench, 1)
    again = bench.wait_for(fx.RequestTunnel, RETRY)
    assert (again.transport, again.replace) == (UDP, True)
    assert not every(bench.offer(again.tunnel, 1), fx.CloseTunnel)
    effects = bench.report(ev.TunnelUp(again.tunnel))
    assert not every(effects, fx.CloseTunnel)
    drained = only(effects, fx.DrainTunnel)
    assert (drained.tunnel, drained.drain) == (old.tunnel, fx.Drain.TUNNEL)
    assert only(bench.report(ev.TunnelDrained(old.tunnel)), fx.CloseTunnel).tunnel == old.tunnel
    bench.report(ev.TunnelDown(old.tunnel, "closed on request"))
    assert bench.core.counts().outgoing == 1


def test_a_retry_that_fails_changes_nothing_and_comes_later_next_time() -> None:
    bench = Bench()
    fall_back(bench, 1)
    again = bench.wait_for(fx.RequestTunnel, RETRY)
    fail(bench, again, 1)
    assert bench.core.counts().outgoing == 1
    assert not every(bench.wait(RETRY), fx.RequestTunnel)
    assert bench.wait_for(fx.RequestTunnel, 3 * RETRY).transport is UDP


def test_a_retry_that_fails_does_not_keep_the_others_from_theirs() -> None:
    bench = Bench()
    fall_back(bench, 1)
    fall_back(bench, 2)
    first = only(bench.report(ev.NetworkChanged()), fx.RequestTunnel)
    bench.offer(first.tunnel, int(first.peer.name[1:]))
    second = only(bench.report(ev.TunnelDown(first.tunnel, "no answer")), fx.RequestTunnel)
    assert {first.peer.name, second.peer.name} == {"n1", "n2"}
    bench.offer(second.tunnel, int(second.peer.name[1:]))
    assert not every(bench.report(ev.TunnelDown(second.tunnel, "no answer")), fx.RequestTunnel)


def test_udp_is_tried_at_once_in_another_place_one_peer_after_the_other() -> None:
    bench = Bench()
    fall_back(bench, 1)
    fall_back(bench, 2)
    first = only(bench.report(ev.NetworkChanged()), fx.RequestTunnel)
    number = int(first.peer.name[1:])
    second = only(succeed(bench, first, number), fx.RequestTunnel)
    assert {first.peer.name, second.peer.name} == {"n1", "n2"}
    assert first.transport is second.transport is UDP


def test_a_tunnel_over_tcp_that_was_asked_for_in_the_place_before_is_tried_over_udp_soon() -> None:
    bench = Bench()
    fail(bench, only(bench.learn(peer(1)), fx.RequestTunnel), 1)
    request = bench.wait_for(fx.RequestTunnel, 2)
    bench.report(ev.NetworkChanged())
    succeed(bench, request, 1)
    assert bench.wait_for(fx.RequestTunnel, 60).transport is UDP


def test_a_listener_keeps_its_tunnel_over_tcp_until_the_one_over_udp_is_up() -> None:
    bench = Bench()
    old = only(bench.ask(1, transports=(TCP,)), fx.OfferTunnel)
    assert old.transport is TCP
    bench.report(ev.TunnelUp(old.tunnel))
    effects = bench.ask(1, transports=(UDP,), replace=True)
    new = only(effects, fx.OfferTunnel)
    assert new.transport is UDP
    assert not every(effects, fx.CloseTunnel)
    effects = bench.report(ev.TunnelUp(new.tunnel))
    assert not every(effects, fx.CloseTunnel)
    drained = only(effects, fx.DrainTunnel)
    assert (drained.tunnel, drained.drain) == (old.tunnel, fx.Drain.PEER)
    assert only(bench.wait(91), fx.CloseTunnel).tunnel == old.tunnel


def test_a_tunnel_over_tcp_that_was_drained_by_the_daemon_before_is_drained_again() -> None:
    bench = Bench()
    for number, transport in enumerate((TCP, UDP), 1):
        bench.report(
            ev.TunnelAdopted(
                tunnel=number,
                peer=peer(1),
                slot=number,
                outgoing=True,
                transport=transport,
                port=0,
                cost=100,
                boot_id="b1",
                since=bench.now,
                expires=1e18,
            )
        )
    assert bench.wait_for(fx.DrainTunnel, RETRY).tunnel == 1


def test_a_listener_drops_the_tunnel_of_an_earlier_boot_and_one_over_udp_at_once() -> None:
    bench = Bench()
    old = only(bench.ask(1, transports=(TCP,)), fx.OfferTunnel)
    bench.report(ev.TunnelUp(old.tunnel))
    assert only(bench.ask(1, boot_id="b2"), fx.CloseTunnel).tunnel == old.tunnel
    bench.ask(1, boot_id="b2", replace=True, transports=(TCP,))
    assert only(bench.report(ev.TunnelDown(old.tunnel, "closed")), fx.OfferTunnel).transport is TCP


def test_a_listener_prefers_udp_and_refuses_who_has_neither() -> None:
    bench = Bench()
    assert only(bench.ask(1, transports=(TCP, UDP)), fx.OfferTunnel).transport is UDP
    assert only(bench.ask(2, transports=()), fx.RefuseTunnel).reason is RefusalReason.INCOMPATIBLE
