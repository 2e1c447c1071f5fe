"""Two nodes that dial each other at the same time end with exactly one tunnel, whatever the delays.

In the world below every request, answer and driver takes a random time, requests may get lost, and both
nodes begin at a random moment; each node knows the other from the start.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from world import Nat, World

from re6st.core.events import PeersLearned, Source
from re6st.tunnel.lifecycle import TunnelState


def acquainted(seed: int, count: int, slowest: float, failing: float = 0.0) -> World:
    """Make a world of nodes that know each other without a registry."""
    world = World(seed, latency=(0.001, slowest), connecting=(0.01, 3.0), failing=failing)
    world.registry_up = False
    for _ in range(count):
        node = world.add(Nat.PUBLIC)
        world.later(world.random.uniform(0, slowest), lambda node=node: world.start(node))
    world.run(slowest)
    records = tuple(node.record for node in world.nodes)
    for node in world.nodes:
        delay = world.random.uniform(0, 2 * slowest)
        world.later(delay, lambda node=node: world.report(node, PeersLearned(records, Source.GOSSIP)))
    return world


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), slowest=st.floats(0.002, 4.0))
def test_crossing_dials_make_one_tunnel(seed: int, slowest: float) -> None:
    world = acquainted(seed, 2, slowest)
    # Two latencies for the exchange and one for the driver, and once more for a crossing that both gave up.
    world.run(20 + 8 * slowest)
    assert len(world.links()) == 1
    world.run(60)
    assert len(world.links()) == 1
    assert world.halves() == []
    for node in world.nodes:
        assert [tunnel.state for tunnel in node.core.tunnels()] == [TunnelState.UP]


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), slowest=st.floats(0.002, 2.0))
def test_a_small_mesh_becomes_full_in_spite_of_losses(seed: int, slowest: float) -> None:
    world = acquainted(seed, 5, slowest, failing=0.2)
    world.run_until(lambda: len(world.links()) == 10, 400)
    world.run(120)
    assert len(world.links()) == 10
    assert world.duplicates() == []
    assert world.halves() == []


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), slowest=st.floats(0.002, 2.0), downtime=st.floats(0.0, 5.0))
def test_a_restart_in_the_middle_leaves_no_half_tunnel(seed: int, slowest: float, downtime: float) -> None:
    world = acquainted(seed, 2, slowest)
    world.run(world.random.uniform(0, 10))
    victim = world.random.choice(world.nodes)
    records = tuple(node.record for node in world.nodes)
    world.kill(victim)
    world.run(downtime)
    world.start(victim)
    world.report(victim, PeersLearned(records, Source.BOOK))
    world.run(120)
    assert len(world.links()) == 1
    assert world.halves() == []


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), slowest=st.floats(0.002, 2.0))
def test_crossing_replacements_make_one_tunnel(seed: int, slowest: float) -> None:
    world = acquainted(seed, 2, slowest)
    world.run(20 + 8 * slowest)
    for node in world.nodes:
        world.later(world.random.uniform(0, 2 * slowest), lambda node=node: world.dial_anew(node))
    world.run(90)
    assert len(world.links()) == 1
    assert world.halves() == []
