"""A network that was split becomes one again by itself, also when each part believes itself healthy."""

from __future__ import annotations

import pytest
from world import SimNode, World, mixed

OUTAGE = 1200.0
"""Seconds for which the network is split: long enough for failed dials to become rare."""


def halved(count: int, seed: int) -> tuple[World, set[SimNode]]:
    """Return a world that has been in two parts for an hour, and the nodes of one of them."""
    world = World(seed, routing=4.0)
    nodes = mixed(world, count, 0.2)
    for node in nodes:
        world.later(world.random.uniform(0, 10), lambda node=node: world.start(node))
    world.run(180)
    assert world.is_connected()
    east = set(world.random.sample(nodes, count // 2))
    world.registry_up = False
    world.blocked = lambda one, other: (one in east) != (other in east)
    world.cut_blocked()
    world.run(OUTAGE)
    assert len(world.components()) == 2
    return world, east


@pytest.mark.parametrize(("count", "seed"), [(4, 1), (20, 3), (60, 4)])
def test_two_healthy_halves_find_each_other_within_a_minute(count: int, seed: int) -> None:
    world, _ = halved(count, seed)
    world.blocked = lambda one, other: False
    world.run_until(world.is_connected, 60)


def test_halves_unite_with_nodes_that_were_down_meanwhile() -> None:
    """A third of all nodes, of both halves, die during the outage, and come back only after its end."""
    world, east = halved(30, 5)
    sleepers = world.random.sample(world.living, 10)
    for node in sleepers:
        world.kill(node)
    world.run(600)
    world.blocked = lambda one, other: False
    for node in sleepers[:5]:
        world.start(node)
    world.run_until(world.is_connected, 60)
    for node in sleepers[5:]:
        world.start(node)
    world.run_until(world.is_connected, 60)
    assert world.duplicates() == []
    assert any((one in east) != (other in east) for one, other in world.links())
