"""What the brain does about paths on which not even the smallest packets pass."""

from __future__ import annotations

from test_node_core import NOTHING_SIGNED, Bench, every, only, peer

from re6st.core import effects as fx
from re6st.core import events as ev
from re6st.core.narrow_paths import REMEMBERED_FOR
from re6st.messages import Endpoint, Transport, TunnelOffer
from re6st.node.observation import packet_sizes
from re6st.node.tunnel import Tunnel
from re6st.tunnel.path_mtu import SMALLEST, Measured, Origin

RECHECK = 60.0
"""Seconds between two verdicts on a path that stays narrow."""

SURELY_FORGOTTEN = 1.25 * REMEMBERED_FOR[0] + 1
"""Seconds after the first verdict."""


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


def test_a_narrow_path_is_forgotten_after_a_while_and_remembered_longer_the_next_time() -> None:
    bench = Bench()
    handle = bench.admit(1).tunnel
    bench.report(ev.TunnelNarrow(handle))
    bench.wait(SURELY_FORGOTTEN)
    bench.report(ev.TunnelNarrow(handle))
    bench.wait(SURELY_FORGOTTEN)
    assert next_request(bench, handle).fragments


def test_a_narrow_path_is_forgotten_when_nobody_finds_it_narrow_any_more() -> None:
    bench = Bench()
    handle = bench.admit(1).tunnel
    bench.report(ev.TunnelNarrow(handle))
    bench.wait(SURELY_FORGOTTEN)
    assert not next_request(bench, handle).fragments


def test_a_narrow_path_is_forgotten_when_the_host_moves() -> None:
    bench = Bench()
    handle = bench.admit(1).tunnel
    bench.report(ev.TunnelNarrow(handle), ev.NetworkChanged())
    assert not next_request(bench, handle).fragments


def find_older(bench: Bench) -> tuple[int, fx.RequestTunnel, list[fx.Effect]]:
    """Let node 1, which does not cut, be asked to; return the first tunnel, the request and the rest."""
    old = bench.dial(1).tunnel
    request = find_narrow(bench, old)
    return old, request, offer(bench, request.tunnel, 1, fragments=False)


def test_an_older_peer_is_left_alone_while_there_are_others() -> None:
    bench = Bench()
    bench.dial(2)
    old, _, effects = find_older(bench)
    assert not every(effects, fx.DialTunnel)
    assert only(effects, fx.CloseTunnel).tunnel == old
    assert [one.name for one in bench.core.beyond_narrow_paths()] == ["n1"]
    bench.report(ev.TunnelDown(old, "closed"))
    assert not every(bench.wait(10), fx.RequestTunnel)
    request = bench.wait_for(fx.RequestTunnel, 60)
    assert (request.peer.name, request.fragments) == ("n1", True)
    assert every(offer(bench, request.tunnel, 1, fragments=True), fx.DialTunnel)
    assert not bench.core.beyond_narrow_paths()


def test_an_older_peer_is_better_than_none_until_there_is_another() -> None:
    bench = Bench()
    old, request, effects = find_older(bench)
    assert only(effects, fx.CloseTunnel).tunnel == old
    assert only(effects, fx.DialTunnel).tunnel == request.tunnel
    bench.report(ev.TunnelDown(old, "closed"), ev.TunnelUp(request.tunnel))
    for _ in range(60):
        assert not bench.report(ev.TunnelNarrow(request.tunnel))
        bench.wait(RECHECK)
    bench.dial(2)
    effects = bench.report(ev.TunnelNarrow(request.tunnel))
    assert only(effects, fx.CloseTunnel).tunnel == request.tunnel


def test_a_tunnel_that_cuts_gives_way_when_the_path_may_be_wide_again() -> None:
    bench = Bench()
    old = bench.dial(1)
    cutting = find_narrow(bench, old.tunnel).tunnel
    offer(bench, cutting, 1, fragments=True)
    bench.report(ev.TunnelUp(cutting), ev.TunnelDrained(old.tunnel), ev.TunnelDown(old.tunnel, "closed"))
    assert not every(bench.wait(RECHECK), fx.RequestTunnel)
    bench.report(ev.NetworkChanged())
    whole = bench.wait_for(fx.RequestTunnel, RECHECK)
    assert (whole.fragments, whole.replace) == (False, True)
    assert not every(offer(bench, whole.tunnel, 1, fragments=False), fx.CloseTunnel)
    assert only(bench.report(ev.TunnelUp(whole.tunnel)), fx.DrainTunnel).tunnel == cutting
    assert find_narrow(bench, whole.tunnel).fragments


def test_the_listener_keeps_a_tunnel_that_cuts_until_the_one_that_does_not_is_up() -> None:
    bench = Bench()
    cutting = only(bench.ask(1, fragments=True), fx.OfferTunnel).tunnel
    bench.report(ev.TunnelUp(cutting))
    effects = bench.ask(1, replace=True)
    assert not every(effects, fx.CloseTunnel)
    whole = only(effects, fx.OfferTunnel)
    assert only(bench.report(ev.TunnelUp(whole.tunnel)), fx.DrainTunnel).tunnel == cutting


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


def test_status_tells_of_an_older_peer_with_and_without_a_tunnel() -> None:
    def tunnel(origin: Origin) -> Tunnel:
        made = Tunnel(1, "t", peer(1), 0, "re6st0", incoming=False, driver="openvpn")
        made.measured = Measured(SMALLEST, origin)
        return made

    for found in ([], [tunnel(Origin.NARROW)]):
        (size,) = packet_sizes(found, [peer(1)])
        assert (size.peers, size.origin) == (("n1",), Origin.UNCUT.value)
        assert "upgrade" in size.explanation
    (size,) = packet_sizes([tunnel(Origin.UNDERLAY)], [peer(1)])
    assert size.origin == Origin.UNDERLAY.value
