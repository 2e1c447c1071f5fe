"""Direct tunnels between nodes that nobody can dial, end to end.

    north -- nina     south -- sam, sue     carrier -- flat -- fred     random -- rosa     chance -- carl

All LANs have the same addresses. Two routers answer packets that nobody inside has asked for, as some do.
The carrier's line swallows packets of more than 1280 octets.
"""

import os
from collections.abc import Iterator

import pytest
from observing import carries_full_packets, tunnels, until

from re6st.lab import nftables, topology
from re6st.lab.lab import Lab
from re6st.tunnel.path_mtu import SMALLEST, Origin

FORMING = 90.0
PUBLIC = {"registry", "anna"}
CONES = {"nina": "north", "sam": "south", "sue": "south", "fred": "carrier"}
SYMMETRIC = {"rosa", "carl"}

ANSWERS = 'insert rule inet filter input iifname "wan" accept'

pytestmark = pytest.mark.timeout(300)


def ways(lab: Lab, name: str) -> dict[str, str]:
    return {peer: tunnel.established for peer, tunnel in tunnels(lab, name).items()}


def expected(one: str, other: str) -> str | None:
    """Return how two nodes are to be connected with each other."""
    if {one, other} & PUBLIC:
        return "direct"
    if {one, other} & SYMMETRIC:
        return None
    return "lan" if CONES[one] == CONES[other] else "punched"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(topology.load(topology.find("hole-punching")), name=f"t{os.getpid()}hole") as built:
        for router in ("north", "south"):
            nftables.load(built.namespace(router), ANSWERS)
        built.start_mesh()
        matrix = built.wait_for_all_pairs(FORMING)
        assert matrix.complete, f"these pairs do not ping: {matrix.missing}"
        yield built


def test_nodes_behind_cone_nat_get_direct_tunnels(lab):
    for name in CONES:
        for peer in CONES.keys() - {name}:
            until(lambda name=name, peer=peer: ways(lab, name).get(peer) == expected(name, peer))


def test_nodes_in_one_lan_use_its_addresses(lab):
    remote = tunnels(lab, "sam")["sue"].remote
    assert remote.startswith(f"udp:{lab.hosts['sue'].address}:")


def test_punched_tunnels_carry_full_packets_over_a_narrow_path(lab):
    for peer in ("nina", "sam"):

        def is_cut(peer=peer) -> bool:
            tunnel = tunnels(lab, "fred").get(peer)
            return tunnel is not None and tunnel.mtu_origin == Origin.PIECES.value

        until(is_cut)
        assert ways(lab, "fred")[peer] == "punched"
        carries_full_packets(lab, "fred", peer, SMALLEST)
        carries_full_packets(lab, peer, "fred", SMALLEST)


def test_nobody_else_gets_a_direct_tunnel_and_all_reach_each_other(lab):
    for name in lab.nodes:
        for peer, way in ways(lab, name).items():
            assert way == expected(name, peer), (name, peer, way)
    assert lab.wait_for_all_pairs(FORMING).complete
