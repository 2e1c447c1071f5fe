"""The underlay is split in halves for a while; when it is whole again, so is the mesh.

registry  node1  node2   :   node3  node4  node5
   |        |      |     :      |      |      |
===+========+======+=====:======+======+======+===  internet: all addresses are public
                         :
                       the cut

Each node wants one outgoing tunnel only, which it finds within its half: no half misses anything. One node is
down while the cut is made and healed.
"""

import os
import signal
import time
from collections.abc import Iterator

import msgspec
import pytest
from conftest import FORMING

from re6st import status
from re6st.lab import worlds
from re6st.lab.lab import Lab
from re6st.lab.leftovers import assert_clean, host_interfaces
from re6st.status import RouteStatus

PATIENCE = 90.0
"""Seconds in which the halves must have parted, and again in which they must have met."""

WEST = ("registry", "node1", "node2")
EAST = ("node3", "node4", "node5")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def lab() -> Iterator[Lab]:
    name = f"t{os.getpid()}part"
    before = host_interfaces()
    world = worlds.with_guests(worlds.mixed(1), {f"node{number}": None for number in range(1, 6)})
    world = msgspec.structs.replace(
        world, mesh=msgspec.structs.replace(world.mesh, settings={"outgoing-tunnels": 1})
    )
    with Lab(world, name=name) as built:
        built.start_mesh()
        assert built.wait_for_all_pairs(FORMING).complete
        yield built
    assert_clean(name)
    assert host_interfaces() == before


def routed(lab, name):
    """Return the names of the nodes to which the node ``name`` has a route."""
    routes = status.fetch(lab.nodes[name].runtime, "routes", list[RouteStatus])
    return {route.peer for route in routes if route.installed and route.metric < 65535}


def test_halves_that_miss_nothing_unite(lab, record_property):
    lab.nodes["node5"].stop(signal.SIGTERM)
    for one in WEST:
        for other in EAST:
            lab.cut(one, other)
    # Each half keeps together, and knows no way to the other one any more.
    deadline = time.monotonic() + PATIENCE
    while any(routed(lab, one) & set(EAST) for one in WEST) or any(
        routed(lab, one) & set(WEST) for one in ("node3", "node4")
    ):
        assert time.monotonic() < deadline, {name: routed(lab, name) for name in (*WEST, *EAST[:2])}
        time.sleep(0.5)
    for half in (WEST, EAST[:2]):
        assert lab.wait_for_all_pairs(PATIENCE, half).complete
    lab.heal_all()
    began = time.monotonic()
    assert lab.wait_for_all_pairs(PATIENCE, [*WEST, *EAST[:2]]).complete
    record_property("seconds", time.monotonic() - began)
    lab.nodes["node5"].start()
    assert lab.wait_for_all_pairs(PATIENCE).complete
