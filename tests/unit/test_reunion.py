"""Peers to which there is no route are dialled now and then, beside all other tunnels."""

from test_node_core import Bench, every, peer, prefix

from re6st.core import effects as fx
from re6st.core import events as ev


def content(*known: int) -> Bench:
    """Return a node that has the one tunnel that it wants, and knows some more peers."""
    bench = Bench(outgoing=1)
    bench.dial(7)
    bench.learn(*(peer(number) for number in known))
    return bench


def test_nobody_is_dialled_while_there_are_routes_to_all() -> None:
    bench = content(8, 9)
    bench.report(ev.RoutesKnown(frozenset(prefix(number) for number in (7, 8, 9))))
    assert not every(bench.wait(600), fx.RequestTunnel)


def test_an_unrouted_peer_is_dialled_although_there_are_enough_tunnels() -> None:
    bench = content(8, 9)
    bench.report(ev.RoutesKnown(frozenset((prefix(7), prefix(8)))))
    for _ in range(50):
        requests = every(bench.wait(46), fx.RequestTunnel)
        assert {request.peer.name for request in requests} == {"n9"}
        for request in requests:
            bench.report(ev.TunnelRequestFailed(request.tunnel, "no answer"))
    # Its failures are no sign that the network has no room: a lost tunnel is replaced at once.
    bench.report(ev.RoutesKnown(frozenset(prefix(number) for number in (7, 8, 9))))
    lost = bench.core.tunnels()[0]
    assert every(bench.report(ev.TunnelDown(lost.handle, "gone")), fx.RequestTunnel)


def test_a_peer_whose_route_is_only_on_its_way_is_not_dialled() -> None:
    bench = content(8)
    bench.report(ev.RoutesKnown(frozenset((prefix(7),))))
    bench.wait(24)
    bench.report(ev.RoutesKnown(frozenset((prefix(7), prefix(8)))))
    assert not every(bench.wait(600), fx.RequestTunnel)


def test_a_peer_that_was_met_in_the_lan_is_dialled_though_it_publishes_no_address() -> None:
    bench = content()
    bench.learn(peer(8, reachable=False))
    requests = every(bench.report(ev.PeerNearby(prefix(8))), fx.RequestTunnel)
    assert [(request.peer.name, request.punched) for request in requests] == [("n8", False)]
    # Once is enough, and nobody unknown is dialled.
    assert not every(bench.report(ev.PeerNearby(prefix(8))), fx.RequestTunnel)
    assert not every(bench.report(ev.PeerNearby(prefix(9))), fx.RequestTunnel)
