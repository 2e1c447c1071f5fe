"""Hole punching among many nodes: who gets direct tunnels, and what hopeless attempts cost."""

from functools import partial

from world import Nat, World


def pairs(world: World) -> set[frozenset]:
    return {frozenset(link) for link in world.links()}


def hidden_pairs(world: World) -> int:
    """Tunnels between two nodes that nobody can dial."""
    return sum(all(node.nat not in {Nat.PUBLIC, Nat.MAPPED} for node in pair) for pair in pairs(world))


def build(nat: Nat, hidden: int = 12, public: int = 4) -> World:
    world = World(seed=7)
    for number in range(public + hidden):
        node = world.add(Nat.PUBLIC if number < public else nat)
        world.later(number * 0.2, partial(world.start, node))
    return world


def test_nodes_behind_cone_nat_relieve_the_few_that_can_be_dialled():
    world = build(Nat.CONE)
    world.run(600)
    assert world.is_connected()
    assert hidden_pairs(world) >= 60
    assert not world.duplicates()
    assert not world.halves()


def test_nodes_behind_symmetric_nat_stop_trying():
    world = build(Nat.SYMMETRIC)
    world.run(600)
    assert world.is_connected()
    assert hidden_pairs(world) == 0
    symmetric = [node for node in world.nodes if node.nat is Nat.SYMMETRIC]
    before = sum(node.effects["RequestTunnel"] for node in symmetric)
    world.run(4 * 3600)
    attempts = sum(node.effects["RequestTunnel"] for node in symmetric) - before
    # They have all the tunnels that they can have: what is left is one attempt or two an hour.
    assert attempts <= 8 * len(symmetric)
    assert world.is_connected()


def test_a_cone_and_a_symmetric_router_do_not_go_together_and_harm_nobody():
    world = World(seed=9)
    nats = [Nat.PUBLIC] * 3 + [Nat.CONE] * 4 + [Nat.SYMMETRIC] * 4
    for nat in nats:
        world.start(world.add(nat))
    world.run(1200)
    assert world.is_connected()
    assert hidden_pairs(world) == 6
    assert not world.halves()
