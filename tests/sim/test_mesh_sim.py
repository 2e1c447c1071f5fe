"""Many brains together: do they make, keep and heal a good graph?"""

from __future__ import annotations

import pytest
from world import Nat, SimNode, World, mixed

from re6st.core.events import (
    ClockRead,
    Document,
    OwnCertificateChanged,
    RegistryOperation,
    RevocationsAccepted,
)
from re6st.messages import NetworkParameters
from re6st.tunnel.lifecycle import TunnelState


def spread(world: World, seconds: float) -> None:
    """Start all nodes within ``seconds``."""
    for node in world.nodes:
        world.later(world.random.uniform(0, seconds), lambda node=node: world.start(node))


def assert_sound(world: World) -> None:
    """No pair has two tunnels, no tunnel has one end only, nobody has more than there are ports."""
    assert world.duplicates() == []
    assert world.halves() == []
    incoming = world.degrees()[1]
    assert max(incoming.values()) <= 16


def settled_world(count: int, seed: int, unreachable: float = 0.2, **settings: object) -> World:
    world = World(seed)
    mixed(world, count, unreachable, **settings)
    spread(world, 10)
    world.run(90)
    assert world.is_connected()
    return world


def test_three_hundred_nodes_converge_and_heal() -> None:
    world = World(1)
    nodes = mixed(world, 300, 0.2)
    spread(world, 20)
    world.run(80)
    assert world.is_connected()
    outgoing, _ = world.degrees()
    assert sum(outgoing[node] == 10 for node in nodes) >= 297
    assert min(outgoing[node] for node in nodes) >= 9
    assert max(outgoing.values()) == 10
    assert_sound(world)

    # 30 % die at once, and the registry with them.
    world.registry_up = False
    for node in world.random.sample(nodes, 90):
        world.kill(node)
    # Even before anybody has noticed, the others hang together.
    world.run(0.1)
    assert world.is_connected()
    world.run(120)
    assert world.is_connected()
    outgoing, _ = world.degrees()
    assert sum(outgoing[node] == 10 for node in world.living) >= 205
    assert_sound(world)


@pytest.mark.parametrize("seed", range(6))
def test_ten_nodes_start_together_within_seconds(seed: int) -> None:
    world = World(seed)
    nodes = mixed(world, 10)
    spread(world, 0.5)
    world.run(0.5)
    world.run_until(world.is_connected, 8, step=0.25)
    # All pairs that can have a tunnel get one: 7 can be dialled, 3 can not.
    outside = [node for node in nodes if node.nat is Nat.OUTGOING]
    pairs = 45 - len(outside) * (len(outside) - 1) // 2
    world.run_until(lambda: len(world.links()) == pairs, 90)
    world.run(30)
    assert len(world.links()) == pairs
    assert_sound(world)


def test_two_halves_that_never_met_are_joined_by_later_samples() -> None:
    world = World(4)
    nodes = [world.add() for _ in range(4)]
    for pair in (nodes[:2], nodes[2:]):
        world.registry_records.clear()
        for node in pair:
            world.start(node)
        world.run(1.5)
    world.run_until(lambda: world.is_connected() and len(world.links()) == 6, 120)


def test_nobody_notices_that_the_registry_is_away() -> None:
    world = settled_world(40, 5)
    before = sorted((dialer.index, listener.index) for dialer, listener in world.links())
    world.registry_up = False
    world.registry_calls.clear()
    world.run(1800)
    assert sorted((dialer.index, listener.index) for dialer, listener in world.links()) == before
    assert world.registry_calls[RegistryOperation.SAMPLE] < 40 * 15


def test_a_network_restarts_from_its_books_while_the_registry_is_down() -> None:
    world = settled_world(40, 6)
    world.registry_up = False
    for node in world.living:
        world.kill(node)
    for node in world.nodes:
        world.start(node)
    world.run(60)
    assert len(world.living) == 40
    assert world.is_connected()
    outgoing, _ = world.degrees()
    assert sum(outgoing.values()) >= 380
    assert_sound(world)


def test_a_restarted_node_replaces_its_old_tunnels() -> None:
    world = settled_world(12, 7, unreachable=0.0)
    node = world.nodes[0]
    world.kill(node)
    world.start(node)
    # Long before the others notice the silence of its old tunnels.
    world.run(8)
    assert sum(node in link for link in world.links()) >= 10
    world.run(60)
    assert sum(node in link for link in world.links()) == 11
    assert_sound(world)


def test_a_node_that_stops_in_good_order_is_missed_at_once() -> None:
    world = settled_world(12, 8, unreachable=0.0)
    node = world.nodes[0]
    world.stop(node)
    world.run(1)
    for other in world.living:
        up = [tunnel for tunnel in other.core.tunnels() if tunnel.state is TunnelState.UP]
        assert all(tunnel.peer.prefix != node.prefix for tunnel in up)
    assert node.disk


def test_few_reachable_nodes_let_everybody_in() -> None:
    """Three listeners have 48 ports; forty dialers would like three each, those who come first take all."""
    world = World(9)
    for _ in range(3):
        world.add()
    for _ in range(40):
        world.add(Nat.OUTGOING)
    for number, node in enumerate(world.nodes):
        world.later(5.0 * number, lambda node=node: world.start(node))
    world.run(5 * 43)
    world.run_until(world.is_connected, 2400, step=5)
    assert_sound(world)


def test_a_newcomer_is_known_everywhere_after_a_few_rounds() -> None:
    world = settled_world(100, 10)
    newcomer = world.add()
    world.start(newcomer)
    world.run(5)
    # Nobody can have it from the registry: gossip alone must do.
    world.registry_up = False
    world.run(5 * NetworkParameters(version=1, network="2001:db8:42::/48").gossip_interval)
    knowing = sum(node.core.peer(newcomer.prefix) is not None for node in world.living)
    assert knowing >= 0.95 * 100


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_revocations_flood_the_network_and_cut_the_revoked_off(seed: int) -> None:
    """One node hears of it by chance; the registry is away, and a fifth of the nodes has just died."""
    world = settled_world(100, seed)
    revoked, teller, *others = world.random.sample(world.living, 100)
    world.revoke(revoked)
    world.registry_up = False
    for node in others[:20]:
        world.kill(node)
    world.run(1)
    teller.versions[Document.REVOCATIONS] = 2
    world.report(teller, RevocationsAccepted(2, world.revoked))
    others = [node for node in world.living if node is not revoked]

    def informed() -> bool:
        return sum(node.core.is_revoked(revoked.serial) for node in others) >= 0.99 * len(others)

    assert world.run_until(informed, 30, step=0.25) <= 10
    world.run(90)
    assert all(node.core.is_revoked(revoked.serial) for node in others)
    assert not any(revoked in link for link in world.links())
    assert all(node.core.peer(revoked.prefix) is None for node in others)


def test_what_only_the_registry_knows_reaches_everybody_soon() -> None:
    world = settled_world(100, 12)
    times = []
    for revoked in world.nodes[10:13]:
        world.run(world.random.uniform(20, 100))
        world.revoke(revoked)
        others = [node for node in world.living if node is not revoked]

        def informed(revoked: SimNode = revoked, others: list[SimNode] = others) -> float:
            return sum(node.core.is_revoked(revoked.serial) for node in others) / len(others)

        times.append(world.run_until(lambda informed=informed: informed() >= 0.99, 150))
    assert sorted(times)[len(times) // 2] <= 10


@pytest.mark.parametrize(("count", "least", "most"), [(3, 27, 40), (10, 65, 135)])
def test_the_registry_is_asked_for_versions_about_as_often_by_networks_of_any_size(
    count: int, least: int, most: int
) -> None:
    world = settled_world(count, 13, 0.0)
    before = world.registry_calls[RegistryOperation.VERSIONS]
    world.run(1200)
    assert least <= world.registry_calls[RegistryOperation.VERSIONS] - before <= most


def test_a_registry_that_is_down_is_not_asked_more_often_for_versions() -> None:
    world = settled_world(10, 14, 0.0)
    world.registry_up = False
    world.registry_calls.clear()
    world.run(1200)
    assert world.registry_calls[RegistryOperation.VERSIONS] <= 1200 / 12 * 1.3


def test_rotation_renews_tunnels_and_never_lets_go_first() -> None:
    world = settled_world(60, 12, tunnel_refresh=300.0)
    before = {frozenset((dialer.index, listener.index)) for dialer, listener in world.links()}
    lowest = 10
    for _ in range(60):
        world.run(20)
        assert world.is_connected()
        outgoing, _ = world.degrees()
        assert max(outgoing.values()) <= 11
        lowest = min(lowest, *(outgoing[node] for node in world.living))
    after = {frozenset((dialer.index, listener.index)) for dialer, listener in world.links()}
    assert lowest >= 9
    assert len(after - before) > 100
    assert sum(world.degrees()[0].values()) >= 590
    assert_sound(world)


def test_a_full_mesh_does_not_rotate() -> None:
    world = settled_world(6, 13, unreachable=0.0, tunnel_refresh=60.0)
    world.run(60)
    before = set(world.links())
    world.run(1800)
    assert set(world.links()) == before


def test_renewed_certificates_replace_tunnels_before_they_expire() -> None:
    world = World(14)
    nodes = [world.add(lifetime=7200.0, certificate_margin=600.0) for _ in range(6)]
    spread(world, 5)
    world.run(60)
    for _ in range(30):
        world.run(600)
        assert world.is_connected()
    assert all(node.issued > 1_800_000_000 + 3600 for node in nodes)
    assert world.registry_calls[RegistryOperation.RENEW] >= 6 * 3
    world.run(60)
    assert len(world.links()) == 15
    assert_sound(world)


def test_an_expired_certificate_ends_the_membership() -> None:
    world = World(15)
    for _ in range(4):
        world.add()
    late = world.add(lifetime=900.0)
    spread(world, 2)
    world.run(120)
    world.registry_up = False
    assert any(late in link for link in world.links())
    world.run(1000)
    assert not any(late in link for link in world.links())
    assert all(node.core.peer(late.prefix) is None for node in world.living if node is not late)
    world.report(late, OwnCertificateChanged(world.wall, world.wall + 900))
    assert len(world.links()) == 6


def test_lossy_paths_and_partitions_heal() -> None:
    world = World(16, failing=0.2)
    nodes = mixed(world, 40, 0.2)
    spread(world, 10)
    world.run(180)
    assert world.is_connected()
    east = set(nodes[:20])
    world.blocked = lambda one, other: (one in east) != (other in east)
    world.cut_blocked()
    world.run(300)
    assert not world.is_connected()
    world.blocked = lambda one, other: False
    world.run_until(world.is_connected, 3600, step=30)


def test_clocks_that_are_off_by_a_day_and_jump_cost_no_tunnel() -> None:
    world = settled_world(30, 17, 0.0)
    before = set(world.links())
    for jump in (86400.0, -86400.0, 0.0):
        for node in world.nodes[:15]:
            world.report(node, ClockRead(world.wall - world.now + jump))
        world.run(400)
        assert set(world.links()) == before
