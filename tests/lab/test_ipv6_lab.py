"""Nodes with IPv4 only, with IPv6 only and with both in one mesh, end to end."""

import os
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest
from observing import until

from re6st import status
from re6st.lab import topology
from re6st.lab.lab import Lab
from re6st.status import PeerStatus, Reachability, TunnelStatus

FORMING = 90.0
OLD = {"old-one", "old-two"}
NEW = {"new-one", "new-two"}
TEMPORARY = "2a00:1:2::abcd"
STABLE = "2a00:1:2::77"

pytestmark = pytest.mark.timeout(300)


def tunnels(lab: Lab, name: str) -> list[TunnelStatus]:
    return status.fetch(lab.nodes[name].runtime, "tunnels", list[TunnelStatus])


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(topology.load(topology.find("ipv6")), name=f"t{os.getpid()}six") as built:
        built.start_registry()
        built.enrol()
        # An owner's mistake: a tunnel to this address would run through the overlay.
        node = built.nodes["dual"]
        node.config.write_text(f'{node.config.read_text()}\nadvertise = ["{node.address()}"]\n')
        built.hosts["new-one"].run(
            ["ip", "address", "add", f"{TEMPORARY}/64", "dev", "eth0", "preferred_lft", "0", "nodad"]
        )
        built.start_nodes()
        matrix = built.wait_for_all_pairs(FORMING)
        assert matrix.complete, f"these pairs do not ping: {matrix.missing}"
        yield built


def test_no_tunnel_runs_through_the_overlay(lab):
    overlay = ip_network(str(lab.topology.mesh.network))
    for name in lab.nodes:
        for tunnel in until(lambda name=name: [one for one in tunnels(lab, name) if one.remote]):
            assert tunnel.remote == "" or remote(tunnel) not in overlay, (name, tunnel)
    assert lab.nodes["dual"].log.read_text().count("is not advertised: it belongs to the network itself") == 1


def remote(tunnel: TunnelStatus):
    host = tunnel.remote.partition(":")[2].rpartition(":")[0]
    return ip_address(host.strip("[]"))


def test_each_node_uses_what_it_has(lab):
    for name in OLD:
        up = [one for one in tunnels(lab, name) if one.remote]
        assert {remote(one).version for one in up} == {4}
        assert not {one.peer for one in up} & NEW
    for name in NEW:
        up = [one for one in tunnels(lab, name) if one.remote]
        assert {remote(one).version for one in up} == {6}
        assert not {one.peer for one in up} & OLD


def test_status_names_the_addresses(lab):
    for name in NEW:
        told = lab.nodes[name].status()
        assert told.reachability is Reachability.PUBLIC
        assert told.endpoints == [f"tcp:[{lab.hosts[name].address}]:4226"]
        assert told.mappings == []
        assert told.registry_reachable
    told = lab.nodes["dual"].status()
    assert told.endpoints == [
        f"tcp:{lab.hosts['dual'].addresses[0]}:4226",
        f"tcp:[{lab.hosts['dual'].addresses[1]}]:4226",
    ]


def test_deprecated_addresses_are_not_published(lab):
    """A second address is published while it is preferred, and no longer."""
    node, host = lab.nodes["new-one"], lab.hosts["new-one"]

    def published(address: str) -> bool:
        return any(address in endpoint for endpoint in node.status().endpoints)

    assert not published(TEMPORARY)
    host.run(["ip", "address", "add", f"{STABLE}/64", "dev", "eth0", "nodad"])
    until(lambda: published(STABLE))
    host.run(["ip", "address", "change", f"{STABLE}/64", "dev", "eth0", "preferred_lft", "0"])
    until(lambda: not published(STABLE))


def test_a_node_that_moves_is_found_at_its_new_address(lab):
    """It has peers that dialled it, and peers that it dialled."""
    lab.move("new-two", "modern-one")
    here = f"tcp:[{lab.hosts['new-two'].address}]:4226"
    until(lambda: lab.nodes["new-two"].status().endpoints == [here])
    matrix = lab.wait_for_all_pairs(FORMING)
    assert matrix.complete, f"these pairs do not ping: {matrix.missing}"
    for name in ("dual", "new-one"):
        until(lambda name=name: endpoints(lab, name, "new-two") == [here])


def endpoints(lab: Lab, name: str, of: str) -> list[str]:
    """Return where ``name`` believes ``of`` to be."""
    known = status.fetch(lab.nodes[name].runtime, "peers", list[PeerStatus])
    return next((peer.endpoints for peer in known if peer.name == of), [])


def test_the_worlds_stay_together_while_one_node_knows_both(lab):
    lab.power_off("registry")
    try:
        names = [name for name in lab.nodes if name != "registry"]
        matrix = lab.wait_for_all_pairs(FORMING, names)
        assert matrix.complete, f"these pairs do not ping: {matrix.missing}"
    finally:
        lab.power_on("registry")
