"""Nodes behind routers that let only TCP out, end to end."""

import os
import time
from collections.abc import Iterator

import msgspec
import pytest
from observing import lost, until

from re6st import status
from re6st.lab import nftables, topology
from re6st.lab.lab import Lab
from re6st.lab.ping_train import PingTrain
from re6st.node.doctor import Finding, Verdict
from re6st.status import TunnelStatus

FORMING = 90.0
Tunnels = list[TunnelStatus]
BLOCKED = {"guest", "homer"}

WALL = """
table inet wall {
    chain input {
        type filter hook input priority 0;
        iifname "eth0" tcp dport 4226 drop
    }
}
"""

pytestmark = pytest.mark.timeout(300)


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


def doctor(lab: Lab, name: str) -> tuple[int, dict[str, Finding]]:
    done = lab.nodes[name].run("doctor", "--json", check=False)
    findings = msgspec.json.decode(done.stdout, type=list[Finding])
    return done.returncode, {finding.check: finding for finding in findings}


def examined(lab: Lab, name: str) -> tuple[int, dict[str, Finding]] | None:
    """Return what the doctor says, once a peer has tested the node."""
    status, found = doctor(lab, name)
    return None if "not tested" in found["from outside"].detail else (status, found)


def test_the_doctor_finds_a_node_on_a_public_address_healthy(lab):
    status, found = until(lambda: examined(lab, "anna"))
    assert [finding for finding in found.values() if finding.verdict is not Verdict.OK] == []
    assert status == 0
    assert f"tcp:{lab.hosts['anna'].address}:4226" in found["from outside"].detail
    assert "registry is reached by" in found["registry's node"].detail
    assert doctor(lab, "registry")[1]["registry's node"].detail == "this is it"


def test_the_doctor_has_a_mapped_port_tested_by_a_peer_and_notices_that_udp_is_blocked(lab):
    status, found = until(lambda: examined(lab, "homer"))
    assert status == 0
    assert found["port mapping"].verdict is Verdict.OK
    outside = lab.wiring.attachments["home"].address.ip
    assert f"reaches tcp:{outside}:" in found["from outside"].detail
    assert found["tunnels"].verdict is Verdict.WARNING
    assert "UDP does not get through" in found["tunnels"].detail


def test_the_doctor_says_why_a_node_cannot_be_dialled(lab):
    status, found = doctor(lab, "guest")
    assert status == 0
    assert found["address"].verdict is Verdict.WARNING
    assert found["port mapping"].verdict is Verdict.WARNING
    assert "publishes no endpoint" in found["from outside"].detail


def test_the_doctor_finds_a_firewall(lab):
    nftables.load(lab.hosts["anna"].namespace, WALL)
    try:
        # Peers do not test a node again and again: it may take a moment until one does.
        status, found = until(lambda: examined(lab, "anna"))
        assert status == 1
        bad = {check for check, finding in found.items() if finding.verdict is Verdict.FAILED}
        assert bad == {"from outside"}
        assert "firewall" in found["from outside"].remedy
    finally:
        nftables.load(lab.hosts["anna"].namespace, "delete table inet wall")


def test_the_doctor_speaks_to_people_and_notices_that_nothing_runs(lab):
    node = lab.nodes["guest"]
    node.stop()
    try:
        done = node.run("doctor", check=False)
        lines = done.stdout.splitlines()
        assert done.returncode == 1
        assert [line.split()[0] for line in lines[:7]] == ["ok"] * 7
        assert lines[-2].startswith("failed   daemon: ")
        assert lines[-1].lstrip().startswith("-> systemctl enable --now re6st-node")
    finally:
        node.start()
    assert lab.wait_for_all_pairs(FORMING).complete
    until(lambda: len(ways(lab, "guest")) == len(lab.nodes) - 1)


def draining(lab: Lab) -> bool:
    found = [status.fetch(node.runtime, "tunnels", Tunnels) for node in lab.nodes.values()]
    return any(tunnel.state == "draining" for tunnels in found for tunnel in tunnels)


def test_udp_is_used_again_when_it_works_and_nothing_is_lost(lab):
    with PingTrain(lab.hosts["guest"].namespace, lab.nodes["anna"].address()) as train:
        assert train.wait_steady(1, FORMING)
        begun = time.monotonic()
        lab.allow_udp("hotel")
        move(lab, "guest", "192.168.1.77/24")
        until(lambda: {ways(lab, "guest").get(peer) for peer in ("registry", "anna")} == {"direct"})
        until(lambda: not draining(lab))
        changed = time.monotonic()
        assert train.wait_steady(1, FORMING, since=changed)
        assert lost([train], begun) == []
    assert ways(lab, "registry")["guest"] == "direct"
    assert ways(lab, "guest")["homer"] == "tcp"
    assert lab.wait_for_all_pairs(FORMING).complete


def test_udp_that_is_blocked_later_is_replaced_by_tcp(lab):
    lab.block_udp("hotel")
    until(lambda: {ways(lab, "guest").get(peer) for peer in ("registry", "anna", "homer")} == {"tcp"})
    assert lab.wait_for_all_pairs(FORMING).complete
