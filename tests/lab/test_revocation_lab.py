"""The operator keeps a node out: all others cut it off, whoever heard of it first.

registry  node1  node2  node3  node4  node5
   |        |      |      |      |      |
===+========+======+======+======+======+===  internet: all addresses are public

Each node dials only two others, so that most hear of it from a neighbour.
"""

import os
import time
from collections.abc import Iterator

import msgspec
import pytest
from conftest import FORMING

from re6st.lab import worlds
from re6st.lab.bench_revocation import knows, withdraw
from re6st.lab.lab import Lab
from re6st.lab.leftovers import assert_clean, host_interfaces

PATIENCE = 60.0
"""Seconds until all must have cut the node off; the benchmark says how long it takes."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    name = f"t{os.getpid()}revo"
    before = host_interfaces()
    world = worlds.with_guests(worlds.mixed(1), {f"node{number}": None for number in range(1, 6)})
    world = msgspec.structs.replace(
        world, mesh=msgspec.structs.replace(world.mesh, settings={"outgoing-tunnels": 2})
    )
    with Lab(world, name=name) as built:
        built.start_mesh()
        assert built.wait_for_all_pairs(FORMING).complete
        yield built
    assert_clean(name)
    assert host_interfaces() == before


def kernel_routes(lab, name, victim):
    """Return what the kernel of a node knows about the way to another one's address."""
    address = lab.nodes[victim].address()
    return lab.hosts[name].run(["ip", "-6", "route", "get", address], check=False)


def test_a_suspended_node_is_cut_off_and_comes_back(lab, record_property):
    record_property("seconds", withdraw(lab, "suspend", "node3", PATIENCE))
    lab.registry.run("resume", "node3")
    assert lab.wait_for_all_pairs(FORMING).complete


def test_a_revoked_node_is_cut_off_for_good(lab, record_property):
    record_property("seconds", withdraw(lab, "revoke", "node5", PATIENCE))
    others = [name for name in lab.nodes if name != "node5"]
    assert lab.wait_for_all_pairs(FORMING, others).complete
    for name in others:
        found = kernel_routes(lab, name, "node5")
        assert found.returncode or "unreachable" in found.stdout, f"{name}: {found.stdout}"
    # It runs on and asks everybody for a tunnel, in vain.
    until = time.monotonic() + 5
    while time.monotonic() < until:
        assert not any(knows(lab, name, "node5") for name in others)
        time.sleep(0.5)
    assert lab.nodes["node5"].running
