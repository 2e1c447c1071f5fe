"""What happens in the life of a mesh without any failure: rotation, renewal, and a registry that is away.

registry  node1  node2  node3  node4  node5
   |        |      |      |      |      |
===+========+======+======+======+======+===  internet: all addresses are public

Each node dials only two others, and replaces a tunnel every ten seconds; certificates live for
less than a minute.
"""

import os
import signal
import time
from collections.abc import Iterator

import msgspec
import pytest
from conftest import FORMING
from observing import PATIENCE, until

from re6st.lab import worlds
from re6st.lab.lab import Lab
from re6st.lab.leftovers import assert_clean, host_interfaces
from re6st.lab.ping_train import PingTrain
from re6st.registry.state import StateDirectory
from re6st.status import TunnelStatus, fetch

VALIDITY = 45.0
"""Seconds that a certificate lives."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    name = f"t{os.getpid()}life"
    before = host_interfaces()
    world = worlds.with_guests(worlds.mixed(1), {f"node{number}": None for number in range(1, 6)})
    settings = {"outgoing-tunnels": 2, "tunnel-refresh": 10}
    world = msgspec.structs.replace(world, mesh=msgspec.structs.replace(world.mesh, settings=settings))
    with Lab(world, name=name) as built:
        # The command refuses lives as short as this.
        state = StateDirectory(built.registry.host.directory / "registry")
        state.create(world.mesh.network, built.registry.urls, node_validity=VALIDITY)
        built.registry.start()
        built.enrol()
        built.start_nodes()
        assert built.wait_for_all_pairs(FORMING).complete
        yield built
    assert_clean(name)
    assert host_interfaces() == before


def outgoing(lab, name):
    """Return the tunnels that the node has dialled, as (peer, handle)."""
    tunnels = fetch(lab.nodes[name].runtime, "tunnels", list[TunnelStatus])
    return {(one.peer, one.tunnel) for one in tunnels if one.direction == "out" and one.state == "up"}


def test_tunnels_rotate_while_packets_flow(lab):
    before = outgoing(lab, "node1")
    with PingTrain(lab.hosts["node2"].namespace, lab.nodes["node3"].address()) as train:
        until(
            lambda: outgoing(lab, "node1") - before and before - outgoing(lab, "node1"),
            "a tunnel is replaced",
        )
        assert train.wait_steady(2, PATIENCE, since=time.monotonic())
    assert lab.wait_for_all_pairs(PATIENCE).complete


def test_certificates_are_renewed_and_tunnels_outlive_them(lab):
    node = lab.nodes["node4"]
    first = node.status().certificate_expires
    until(lambda: node.status().certificate_expires > first, "the certificate is renewed")
    until(lambda: time.time() > first + 2, "the first certificate has expired")
    assert lab.wait_for_all_pairs(PATIENCE).complete
    assert node.status().certificate_expires > time.time()


def test_a_node_comes_back_from_its_book_while_the_registry_is_away(lab):
    lab.registry.stop(signal.SIGKILL)
    try:
        node = lab.nodes["node5"]
        node.stop(signal.SIGKILL)
        node.start()
        assert lab.wait_for_all_pairs(FORMING).complete
        until(lambda: not node.status().registry_reachable, "the node notices that the registry is away")
    finally:
        lab.registry.start()
    until(lambda: node.status().registry_reachable, "the registry is found again")
