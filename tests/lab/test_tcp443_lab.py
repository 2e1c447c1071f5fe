"""Nodes behind a firewall that lets nothing out but TCP to port 443, or only a proxy, end to end."""

import os
import time
from collections.abc import Iterator

import pytest

from re6st import status
from re6st.lab import topology
from re6st.lab.lab import Lab
from re6st.status import TunnelStatus

FORMING = 90.0

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(topology.load(topology.find("tcp443")), name=f"t{os.getpid()}web") as built:
        built.start_mesh()
        yield built


def tunnels(lab: Lab, name: str) -> dict[str, TunnelStatus]:
    found = status.fetch(lab.nodes[name].runtime, "tunnels", list[TunnelStatus])
    return {tunnel.peer: tunnel for tunnel in found if tunnel.state == "up"}


def until(condition, timeout=FORMING):
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)
    return value


def test_all_nodes_reach_each_other_through_the_one_that_listens_at_443(lab):
    matrix = lab.wait_for_all_pairs(FORMING)
    assert matrix.complete, f"these pairs do not ping: {matrix.missing}"
    outside = f"tcp:{lab.hosts['anna'].address}:443"
    for name, established in (("clerk", "tcp"), ("teller", "proxy")):
        tunnel = until(lambda name=name: tunnels(lab, name).get("anna"))
        assert (tunnel.established, tunnel.remote) == (established, outside)
        assert not {"registry", "boris"} & set(tunnels(lab, name)), "these listen elsewhere"
