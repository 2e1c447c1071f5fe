"""Nodes behind a firewall that lets nothing out but TCP to port 443, or only a proxy, end to end."""

import os
from collections.abc import Iterator

import pytest
from observing import tunnels, until

from re6st.lab import topology
from re6st.lab.lab import Lab

FORMING = 90.0

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(topology.load(topology.find("tcp443")), name=f"t{os.getpid()}web") as built:
        built.start_mesh()
        yield built


def test_all_nodes_reach_each_other_through_the_one_that_listens_at_443(lab):
    matrix = lab.wait_for_all_pairs(FORMING)
    assert matrix.complete, f"these pairs do not ping: {matrix.missing}"
    outside = f"tcp:{lab.hosts['anna'].address}:443"
    for name, established in (("clerk", "tcp"), ("teller", "proxy")):
        tunnel = until(lambda name=name: tunnels(lab, name).get("anna"))
        assert (tunnel.established, tunnel.remote) == (established, outside)
        assert not {"registry", "boris"} & set(tunnels(lab, name)), "these listen elsewhere"
