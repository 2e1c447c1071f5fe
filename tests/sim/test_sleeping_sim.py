"""A node that was suspended for an hour is back at once: no delay from before outlasts its sleep."""

from __future__ import annotations

import pytest
from world import Nat, SimNode, World, mixed

HOUR = 3600.0
SOON = 10.0


def tunnels(world: World, node: SimNode) -> int:
    return sum(node in link for link in world.links())


def settled(world: World, count: int) -> None:
    for node in mixed(world, count, 0.2):
        world.later(world.random.uniform(0, 10), lambda node=node: world.start(node))
    world.run(120)
    assert world.is_connected()


@pytest.mark.parametrize("nat", [Nat.PUBLIC, Nat.OUTGOING])
def test_who_slept_for_an_hour_is_back_within_seconds(nat: Nat) -> None:
    world = World(3)
    settled(world, 20)
    laptop = world.add(nat)
    world.start(laptop)
    world.run(HOUR)
    before = tunnels(world, laptop)
    assert before >= 10
    world.sleep(laptop)
    world.run(HOUR)
    assert tunnels(world, laptop) == 0
    world.wake(laptop)
    world.run_until(lambda: world.is_connected() and tunnels(world, laptop) >= 10, SOON)
    world.run(60)
    assert world.duplicates() == []
    assert world.halves() == []


def test_who_met_nothing_but_failures_before_it_slept_does_not_wait_for_them() -> None:
    """It knew everybody, then for hours nobody answered and the registry refused it, until it slept."""
    world = World(4)
    settled(world, 12)
    laptop = world.add()
    world.start(laptop)
    world.run(60)
    world.blocked = lambda one, other: laptop in (one, other)
    world.cut_blocked()
    world.refused.add(laptop)
    world.renew(laptop)
    world.run(2 * HOUR)
    assert tunnels(world, laptop) == 0
    assert world.registry_records[laptop.prefix].sequence < laptop.sequence
    world.sleep(laptop)
    world.run(HOUR)
    world.blocked = lambda one, other: False
    world.refused.clear()
    world.run(600)
    world.wake(laptop)
    world.run_until(lambda: tunnels(world, laptop) >= 10, SOON)
    assert world.registry_records[laptop.prefix].sequence == laptop.sequence
