"""What the brain does about paths on which not even the smallest packets pass."""

from __future__ import annotations

from test_node_core import NOTHING_SIGNED, Bench, every, only, peer

from re6st.core import effects as fx
from re6st.core import events as ev
from re6st.core.narrow_paths import REMEMBERED_FOR
from re6st.messages import Endpoint, Transport, TunnelOffer

RECHECK = 60.0
"""Seconds between two verdicts on a path that stays narrow."""


def offer(bench: Bench, handle: int, number: int, *, fragments: bool) -> list[fx.Effect]:
    offered = TunnelOffer(
        tunnel="t",
        boot_id="b1",
        record=NOTHING_SIGNED,
        driver="openvpn",
        endpoints=(Endpoint(Transport.UDP, "192.0.2.1", 4227),),
        key="",
        mtu=1280,
        fragments=fragments,
    )
    return bench.report(ev.TunnelOffered(handle, offered, peer(number)))


def find_narrow(bench: Bench, handle: int) -> fx.RequestTunnel:
    return only(bench.report(ev.TunnelNarrow(handle)), fx.RequestTunnel)


def test_another_tunnel_that_cuts_takes_the_place_of_the_first_which_stays_until_then() -> None:
    bench = Bench()
    old = bench.dial(1)
    assert not old.fragments
    new = find_narrow(bench, old.tunnel)
    assert (new.fragments, new.replace, new.transport) == (True, True, Transport.UDP)
    assert not every(offer(bench, new.tunnel, 1, fragments=True), fx.CloseTunnel)
    drained = only(bench.report(ev.TunnelUp(new.tunnel)), fx.DrainTunnel)
    assert (drained.tunnel, drained.drain) == (old.tunnel, fx.Drain.TUNNEL)
    assert not every(bench.report(ev.TunnelNarrow(new.tunnel)), fx.RequestTunnel)


def test_the_listener_keeps_the_first_tunnel_until_the_second_is_up() -> None:
    bench = Bench()
    old = bench.admit(1)
    assert not every(bench.report(ev.TunnelNarrow(old.tunnel)), fx.RequestTunnel)
    effects = bench.ask(1, replace=True, fragments=True)
    new = only(effects, fx.OfferTunnel)
    assert new.fragments
    assert not every(effects, fx.CloseTunnel)
    assert only(bench.report(ev.TunnelUp(new.tunnel)), fx.DrainTunnel).tunnel == old.tunnel


def next_request(bench: Bench, handle: int) -> fx.RequestTunnel:
    """Let the tunnel ``handle`` to node 1 end; return what is asked of that node then."""
    effects = bench.report(ev.TunnelDown(handle, "closed"))
    effects += bench.learn(peer(1))
    found = every(effects, fx.RequestTunnel)
    return found[0] if found else bench.wait_for(fx.RequestTunnel, 30)


def test_the_next_tunnel_to_that_peer_cuts_from_the_start() -> None:
    bench = Bench()
    handle = bench.admit(1).tunnel
    bench.report(ev.TunnelNarrow(handle))
    assert next_request(bench, handle).fragments


def test_a_narrow_path_is_forgotten_after_a_day() -> None:
    bench = Bench()
    handle = bench.admit(1).tunnel
    bench.report(ev.TunnelNarrow(handle))
    bench.wait(REMEMBERED_FOR + 1)
    assert not next_request(bench, handle).fragments


def test_a_narrow_path_is_forgotten_when_the_host_moves() -> None:
    bench = Bench()
    handle = bench.admit(1).tunnel
    bench.report(ev.TunnelNarrow(handle), ev.NetworkChanged())
    assert not next_request(bench, handle).fragments


def test_an_older_peer_that_does_not_cut_is_asked_ever_more_rarely() -> None:
    bench = Bench()
    handle, requests = bench.dial(1).tunnel, 0
    for _ in range(120):
        for request in every(bench.report(ev.TunnelNarrow(handle)), fx.RequestTunnel):
            requests += 1
            effects = offer(bench, request.tunnel, 1, fragments=False)
            assert handle in {effect.tunnel for effect in every(effects, fx.CloseTunnel)}
            bench.report(ev.TunnelDown(handle, "closed"), ev.TunnelUp(request.tunnel))
            handle = request.tunnel
        bench.wait(RECHECK)
    assert 3 <= requests <= 10


def test_an_adopted_tunnel_that_cuts_tells_of_its_path() -> None:
    bench = Bench()
    bench.report(
        ev.TunnelAdopted(
            tunnel=1,
            peer=peer(1),
            slot=1,
            outgoing=True,
            transport=Transport.UDP,
            port=0,
            cost=100,
            boot_id="b1",
            since=bench.now,
            expires=1e18,
            fragments=True,
        )
    )
    assert next_request(bench, 1).fragments
