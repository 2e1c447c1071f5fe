"""Nodes behind routers that let only TCP out, end to end."""

import os
import time
from collections.abc import Iterator

import pytest

from re6st import status
from re6st.lab import topology
from re6st.lab.lab import Lab
from re6st.status import TunnelStatus

FORMING = 90.0
BLOCKED = {"guest", "homer"}

pytestmark = pytest.mark.timeout(300)


def until(condition, timeout=FORMING):
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)
    return value


def ways(lab: Lab, name: str) -> dict[str, str]:
    """Return how each tunnel of ``name`` that is up was established, by the name of the peer."""
    found = status.fetch(lab.nodes[name].runtime, "tunnels", list[TunnelStatus])
    return {tunnel.peer: tunnel.established for tunnel in found if tunnel.state == "up"}


def move(lab: Lab, name: str, address: str) -> None:
    """Let a host notice a change of its network, as one that comes to another place does."""
    lab.hosts[name].run(["ip", "address", "add", address, "dev", "eth0"])


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(topology.load(topology.find("udp-blocked")), name=f"t{os.getpid()}tcp") as built:
        built.start_mesh()
        matrix = built.wait_for_all_pairs(FORMING)
        assert matrix.complete, f"these pairs do not ping: {matrix.missing}"
        yield built


def test_tunnels_are_made_over_tcp_where_udp_does_not_get_through(lab):
    until(lambda: all(len(ways(lab, name)) == 3 for name in lab.nodes))
    for name in lab.nodes:
        for peer, way in ways(lab, name).items():
            assert (way == "tcp") is bool({name, peer} & BLOCKED), (name, peer, way)


def test_a_router_forwards_tcp_for_a_node_that_is_dialled_over_tcp(lab):
    """The guest cannot be dialled: its tunnel to the other blocked node goes through a port mapping."""
    tunnels = status.fetch(lab.nodes["guest"].runtime, "tunnels", list[TunnelStatus])
    to_homer = next(one for one in tunnels if one.peer == "homer")
    assert to_homer.direction == "out"
    outside = lab.wiring.attachments["home"].address.ip
    assert to_homer.remote.startswith(f"tcp:{outside}:")
    mappings = lab.nodes["homer"].status().mappings
    assert {one.protocol for one in mappings if one.internal_port != 4226 and one.external_port} == {"tcp"}


def test_udp_is_used_again_when_it_works(lab):
    lab.allow_udp("hotel")
    move(lab, "guest", "192.168.1.77/24")
    until(lambda: {ways(lab, "guest").get(peer) for peer in ("registry", "anna")} == {"direct"})
    assert ways(lab, "registry")["guest"] == "direct"
    assert ways(lab, "guest")["homer"] == "tcp"
    assert lab.wait_for_all_pairs(FORMING).complete


def test_udp_that_is_blocked_later_is_replaced_by_tcp(lab):
    lab.block_udp("hotel")
    until(lambda: {ways(lab, "guest").get(peer) for peer in ("registry", "anna", "homer")} == {"tcp"})
    assert lab.wait_for_all_pairs(FORMING).complete
