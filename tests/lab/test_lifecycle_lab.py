"""Certificates that live for less than a minute are renewed, and the mesh outlives them.

registry  node1  node2
   |        |      |
===+========+======+===  internet: all addresses are public
"""

import os
import time
from collections.abc import Iterator

import pytest
from conftest import FORMING
from observing import PATIENCE, until

from re6st.lab import worlds
from re6st.lab.lab import Lab
from re6st.lab.leftovers import assert_clean, host_interfaces
from re6st.registry.state import StateDirectory

VALIDITY = 45.0
"""Seconds that a certificate lives."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def lab() -> Iterator[Lab]:
    name = f"t{os.getpid()}life"
    before = host_interfaces()
    world = worlds.with_guests(worlds.mixed(1), {f"node{number}": None for number in range(1, 3)})
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


def test_certificates_are_renewed_and_tunnels_outlive_them(lab):
    first = {name: node.status().certificate_expires for name, node in lab.nodes.items()}
    for name, node in lab.nodes.items():
        until(lambda name=name, node=node: node.status().certificate_expires > first[name], "the renewal")
    until(lambda: time.time() > max(first.values()) + 2, "the end of the first ones")
    assert lab.wait_for_all_pairs(PATIENCE).complete
    for node in lab.nodes.values():
        assert node.status().certificate_expires > time.time()
