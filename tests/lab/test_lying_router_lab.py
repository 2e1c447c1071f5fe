"""A router whose outside address is not the one that it claims, end to end."""

import os

import pytest
from observing import until

from re6st.lab import topology
from re6st.lab.lab import Lab
from re6st.status import Reachability

PATIENCE = 90.0

pytestmark = pytest.mark.timeout(200)


def test_what_it_maps_is_not_published_once_peers_have_tried_it():
    with Lab(topology.load(topology.find("lying-router")), name=f"t{os.getpid()}lie") as lab:
        lab.start_mesh()
        homer = lab.nodes["homer"]
        until(lambda: "do not get through" in homer.status().reachability_reason)
        found = homer.status()
        assert found.reachability is Reachability.NONE
        assert found.endpoints == []
        assert "20.2.1.200" in found.reachability_reason
        assert "anna and registry" in found.reachability_reason
        assert all(not one.external_port for one in found.mappings)
        assert "second router" in found.mappings[0].reason
        matrix = lab.wait_for_all_pairs(PATIENCE)
        assert matrix.complete, f"these pairs do not ping: {matrix.missing}"
