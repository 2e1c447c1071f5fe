"""What the brain does about a tunnel through which nothing comes any more."""

from __future__ import annotations

import itertools

from test_node_core import Bench, every, only, peer

from re6st.core import effects as fx
from re6st.core import events as ev
from re6st.messages import Endpoint, Transport


def connect(bench: Bench, number: int) -> int:
    """Let the node dial ``number``, whose tunnel comes up; return its handle."""
    handle = bench.wait_for(fx.RequestTunnel, 2000).tunnel
    return establish(bench, handle, number)


def establish(bench: Bench, handle: int, number: int) -> int:
    bench.offer(handle, number)
    bench.report(ev.TunnelUp(handle))
    return handle


def die(bench: Bench, handle: int) -> list[fx.Effect]:
    new = bench.report(ev.TunnelSilent(handle))
    bench.report(ev.TunnelDown(handle, "closed on request"))
    return new


def test_it_is_taken_from_routing_before_anything_else_and_the_peer_is_told() -> None:
    bench = Bench()
    handle = establish(bench, only(bench.learn(peer(1)), fx.RequestTunnel).tunnel, 1)
    detached, closed = bench.report(ev.TunnelSilent(handle))[:2]
    assert isinstance(detached, fx.DetachTunnel)
    assert isinstance(closed, fx.CloseTunnel)
    assert closed.notify


def test_an_incoming_one_is_treated_alike() -> None:
    bench = Bench()
    handle = bench.admit(1).tunnel
    new = bench.report(ev.TunnelSilent(handle))
    assert [type(effect) for effect in new[:2]] == [fx.DetachTunnel, fx.CloseTunnel]


def test_one_that_is_not_up_or_not_known_is_no_matter() -> None:
    bench = Bench()
    handle = only(bench.learn(peer(1)), fx.RequestTunnel).tunnel
    assert bench.report(ev.TunnelSilent(handle), ev.TunnelSilent(handle + 7)) == []


def test_a_peer_whose_tunnels_die_again_and_again_is_left_alone_ever_longer() -> None:
    bench = Bench()
    bench.admit(2)
    handle = establish(bench, only(bench.learn(peer(1)), fx.RequestTunnel).tunnel, 1)
    pauses = []
    for _ in range(6):
        bench.wait(20)
        die(bench, handle)
        began = bench.now
        handle = connect(bench, 1)
        pauses.append(bench.now - began)
    assert 2 < pauses[0] < 8
    assert all(later > 1.1 * earlier for earlier, later in itertools.pairwise(pauses))


def test_a_death_long_ago_does_not_count() -> None:
    bench = Bench()
    bench.admit(2)
    handle = establish(bench, only(bench.learn(peer(1)), fx.RequestTunnel).tunnel, 1)
    for _ in range(4):
        bench.wait(3600)
        die(bench, handle)
        began = bench.now
        handle = connect(bench, 1)
        assert bench.now - began < 8


def test_a_node_that_has_lost_all_tunnels_blames_nobody() -> None:
    bench = Bench()
    handle = establish(bench, only(bench.learn(peer(1)), fx.RequestTunnel).tunnel, 1)
    for _ in range(5):
        bench.wait(20)
        die(bench, handle)
        began = bench.now
        handle = connect(bench, 1)
        assert bench.now - began <= 1


def test_all_that_fell_silent_together_are_dialled_soon_even_if_they_did_so_before() -> None:
    """As when a router starts anew, twice."""
    bench = Bench()
    handles = [
        establish(bench, only(bench.learn(peer(number)), fx.RequestTunnel).tunnel, number)
        for number in (1, 2, 3)
    ]
    for _ in range(2):
        bench.wait(20)
        for handle in handles:
            bench.wait(0.2)
            die(bench, handle)
        asked = every(bench.wait(1), fx.RequestTunnel)
        handles = [establish(bench, one.tunnel, int(one.peer.name[1:])) for one in asked]
        assert len(handles) == 3


def test_a_node_whose_only_path_comes_and_goes_dials_ever_less_often() -> None:
    bench = Bench()
    handle = establish(bench, only(bench.learn(peer(1)), fx.RequestTunnel).tunnel, 1)
    pauses = []
    for _ in range(5):
        bench.wait(2)
        die(bench, handle)
        began = bench.now
        handle = connect(bench, 1)
        pauses.append(bench.now - began)
    assert pauses[-1] > 2


def test_the_first_sign_of_life_from_outside_ends_the_waiting() -> None:
    bench = Bench()
    handles = [
        establish(bench, only(bench.learn(peer(number)), fx.RequestTunnel).tunnel, number)
        for number in (1, 2)
    ]
    bench.wait(100)
    for handle in handles:
        die(bench, handle)
    for _ in range(8):
        bench.report(ev.TunnelRequestFailed(bench.wait_for(fx.RequestTunnel, 400).tunnel, "no route"))
    began = bench.now
    found = every(bench.report(ev.RegistryAnswered(ev.RegistryOperation.SAMPLE)), fx.RequestTunnel)
    assert {one.peer.name for one in found} <= {"n1", "n2"}
    assert len(found) == 2
    assert bench.now == began


def test_a_held_down_peer_may_still_dial_us() -> None:
    bench = Bench()
    die(bench, bench.admit(1).tunnel)
    assert every(bench.ask(1), fx.OfferTunnel)


def test_after_a_move_silent_tunnels_are_made_anew_at_once() -> None:
    bench = Bench()
    bench.learn(peer(1))
    handle = connect(bench, 1)
    bench.wait(100)
    bench.report(ev.NetworkChanged())
    die(bench, handle)
    again = bench.wait_for(fx.RequestTunnel, 1)
    # What had failed before the next move is forgotten, too.
    bench.report(ev.TunnelRequestFailed(again.tunnel, "no route"))
    assert not every(bench.wait(0.5), fx.RequestTunnel)
    assert only(bench.report(ev.NetworkChanged()), fx.RequestTunnel).peer.name == "n1"


def test_who_has_just_fallen_silent_hears_of_new_endpoints_too_as_soon_as_there_is_a_way() -> None:
    bench = Bench()
    handles = []
    for number in (1, 2):
        handle = only(bench.learn(peer(number)), fx.RequestTunnel).tunnel
        handles.append(establish(bench, handle, number))
    for number, handle in enumerate(handles, 1):
        die(bench, handle)
        bench.report(ev.GossipFailed(peer(number).prefix, "no route"))
    moved = ev.OwnEndpointsChanged((Endpoint(Transport.TCP, "192.0.2.9", 4226),))
    assert {effect.peer.name for effect in every(bench.report(moved), fx.ExchangeGossip)} == {"n1", "n2"}
    for number in (1, 2):
        bench.report(ev.GossipFailed(peer(number).prefix, "no route"))
    establish(bench, only(bench.learn(peer(3)), fx.RequestTunnel).tunnel, 3)
    told = {effect.peer.name for effect in every(bench.wait(3), fx.ExchangeGossip)}
    assert told == {"n1", "n2"}, "the third one was told by the request"
    # Who has heard of it is left alone.
    bench.report(ev.GossipAnswered(peer(1).prefix))
    bench.report(ev.GossipFailed(peer(2).prefix, "no route"))
    establish(bench, only(bench.learn(peer(4)), fx.RequestTunnel).tunnel, 4)
    assert {effect.peer.name for effect in every(bench.wait(3), fx.ExchangeGossip)} == {"n2"}


def test_new_endpoints_are_told_to_all_neighbours_at_once() -> None:
    bench = Bench()
    for number in (1, 2):
        bench.learn(peer(number))
        connect(bench, number)
    new = bench.report(ev.OwnEndpointsChanged((Endpoint(Transport.TCP, "192.0.2.9", 4226),)))
    # With the first one an exchange was under way: it is told again.
    new += bench.report(ev.GossipAnswered(peer(1).prefix))
    assert {effect.peer.name for effect in every(new, fx.ExchangeGossip)} == {"n1", "n2"}
