"""The operator keeps a node out: all others cut it off, whoever heard of it first. Then the
registry goes back in time.

registry  node1  node2  node3  node4  node5
   |        |      |      |      |      |
===+========+======+======+======+======+===  internet: all addresses are public

Each node dials only two others, so that most hear of it from a neighbour. The registry's backup is made
before the last two nodes have joined, and restored after one of them was revoked.
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
        built.start_registry()
        built.enrol(list(built.nodes)[:-2])
        built.registry.run("backup", "--include-keys", str(built.directory / "yesterday"))
        built.enrol(list(built.nodes)[-2:])
        built.start_nodes()
        assert built.wait_for_all_pairs(FORMING).complete
        yield built
    assert_clean(name)
    assert host_interfaces() == before


def has_way(lab, name, victim):
    """Say whether the kernel of a node knows a way to another one's address."""
    found = lab.hosts[name].run(["ip", "-6", "route", "get", lab.nodes[victim].address()], check=False)
    return not found.returncode and "unreachable" not in found.stdout


def test_a_suspended_node_is_cut_off_and_comes_back(lab, record_property):
    record_property("seconds", withdraw(lab, "suspend", "node3", PATIENCE))
    lab.registry.run("resume", "node3")
    assert lab.wait_for_all_pairs(FORMING).complete


def test_a_revoked_node_is_cut_off_for_good(lab, record_property):
    record_property("seconds", withdraw(lab, "revoke", "node5", PATIENCE))
    others = [name for name in lab.nodes if name != "node5"]
    assert lab.wait_for_all_pairs(FORMING, others).complete
    deadline = time.monotonic() + PATIENCE
    while left := [name for name in others if has_way(lab, name, "node5")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    # It runs on and asks everybody for a tunnel, in vain.
    until = time.monotonic() + 5
    while time.monotonic() < until:
        assert not any(knows(lab, name, "node5") for name in others)
        time.sleep(0.5)
    assert lab.nodes["node5"].running


def test_a_registry_restored_from_an_old_backup_goes_on(lab):
    """Nobody notices but by higher versions; who joined after the backup is a member; changes count again."""
    members = [name for name in lab.nodes if name != "node5"]
    before = {name: lab.nodes[name].status() for name in members}
    lab.registry.stop()
    state = lab.registry.host.directory / "registry"
    state.rename(state.with_name("lost"))
    lab.registry.run("restore", str(lab.directory / "yesterday"))
    lab.registry.start()
    lab.registry.run("parameters", "set", "gossip_interval=200")

    def caught_up(name):
        now = lab.nodes[name].status()
        # A node that was suspended asks the registry again only after ten minutes, but hears it from others.
        return (
            (now.registry_reachable or name == "node3")
            and now.parameters_version > before[name].parameters_version
            and now.revocations_version > before[name].revocations_version
        )

    deadline = time.monotonic() + 3 * PATIENCE
    while waiting := [name for name in members if not caught_up(name)]:
        assert time.monotonic() < deadline, waiting
        time.sleep(0.5)
    assert lab.wait_for_all_pairs(PATIENCE, members).complete
    # A node that the backup does not know is a member again as soon as it asks for something.
    lab.nodes["node4"].stop()
    lab.nodes["node4"].start()
    deadline = time.monotonic() + PATIENCE
    while "node4" not in lab.registry.run("nodes"):
        assert time.monotonic() < deadline, "node4 is not known to the registry"
        time.sleep(0.5)
    withdraw(lab, "suspend", "node4", PATIENCE)
    lab.registry.run("resume", "node4")
    assert lab.wait_for_all_pairs(PATIENCE, members).complete
