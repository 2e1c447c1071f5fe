"""A node's daemon is replaced, killed, and cleaned up after, while packets flow through the node; and a node
starts while the registry is away.

registry and node   node1  node2
        |             |      |
========+=============+======+===  internet: all addresses are public

The path between node1 and node2 is cut, so what they send each other goes through the node of the registry's
host, whose daemon restarts. Not one ping may be lost, and every tunnel stays the process that it was.
"""

import os
import signal
import time
from collections.abc import Iterator

import pytest
from conftest import FORMING
from observing import PATIENCE, children, lost, until

from re6st.lab import worlds
from re6st.lab.bench_outage import next_hop
from re6st.lab.lab import Lab
from re6st.lab.ping_train import PingTrain
from re6st.status import TunnelStatus, fetch
from re6st.supervisor.process import executable

RELAY = worlds.REGISTRY

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def lab(trio) -> Iterator[Lab]:
    with PingTrain(trio.hosts["node1"].namespace, trio.nodes["node2"].address()):
        trio.cut("node1", "node2")
        until(lambda: next_hop(trio.nodes["node1"], trio.nodes["node2"]) == RELAY, "a detour")
    yield trio
    trio.heal("node1", "node2")


@pytest.fixture(scope="module")
def pings(lab) -> Iterator[PingTrain]:
    """Pings from node1 to node2, all the time."""
    with PingTrain(lab.hosts["node1"].namespace, lab.nodes["node2"].address()) as running:
        yield running


@pytest.fixture
def recovering_train(pings) -> Iterator[PingTrain]:
    """The pings when they work; a few may be lost meanwhile."""
    assert pings.wait_steady(2, PATIENCE)
    begin = time.monotonic()
    yield pings
    assert pings.wait_steady(2, PATIENCE, since=time.monotonic())
    print(f"lost {sum(sent > begin for sent in pings.lost())} pings")


def tunnels(node):
    return {
        (one.peer, one.tunnel, one.interface) for one in fetch(node.runtime, "tunnels", list[TunnelStatus])
    }


@pytest.fixture
def train(pings) -> Iterator[PingTrain]:
    """The pings, which are to arrive whatever happens to the relay's daemon."""
    assert pings.wait_steady(2, PATIENCE)
    begin = time.monotonic()
    yield pings
    assert pings.wait_steady(2, PATIENCE, since=time.monotonic())
    assert lost([pings], begin) == []


def test_a_restart_in_place(lab, train):
    node = lab.nodes[RELAY]
    before, processes, pid = tunnels(node), children(node), node.status().pid
    assert "tunnels kept" in node.run("restart").stdout
    assert (tunnels(node), children(node), node.status().pid) == (before, processes, pid)


def test_a_restart_with_a_mistake_in_the_configuration_is_refused(lab, train):
    node = lab.nodes[RELAY]
    good = node.config.read_text()
    uptime = node.status().uptime
    for mistake, reason in (
        ("outgoing-tunnels = 99\n", "outgoing-tunnels"),
        ('interface-prefix = "other"\n', "cannot change while the node runs"),
    ):
        key = mistake.partition(" ")[0]
        kept = "".join(f"{line}\n" for line in good.splitlines() if not line.startswith(key))
        node.config.write_text(kept + mistake)
        os.kill(node.pid, signal.SIGHUP)
        until(lambda wanted=reason: wanted in node.status().restart_refused, "the refusal")
    node.config.write_text(good)
    assert node.status().uptime > uptime


def test_a_killed_daemon_is_followed_by_one_that_adopts_everything(lab, train):
    node = lab.nodes[RELAY]
    before, processes = tunnels(node), children(node)
    node.stop(signal.SIGKILL)
    node.start()
    assert (tunnels(node), children(node)) == (before, processes)


def test_a_killed_babeld_is_replaced(lab, recovering_train):
    node = lab.nodes[RELAY]
    before = children(node)["babeld"]
    os.kill(before, signal.SIGKILL)
    until(lambda: children(node).get("babeld") not in (None, before), "another babeld")
    until(lambda: node.status().routes == 2, "it knows the routes")


def test_a_babeld_that_dies_without_its_daemon_is_replaced(lab, recovering_train):
    node = lab.nodes[RELAY]
    before, processes = tunnels(node), children(node)
    node.stop(signal.SIGKILL)
    os.kill(processes.pop("babeld"), signal.SIGKILL)
    node.start()
    until(lambda: node.status().routes == 2, "it knows the routes")
    assert tunnels(node) == before
    assert processes.items() < children(node).items()


def test_cleaning_up_after_a_killed_daemon_leaves_nothing(lab):
    node = lab.nodes[RELAY]
    processes = children(node)
    assert node.run("cleanup", check=False).returncode != 0
    node.stop(signal.SIGKILL)
    node.run("cleanup")
    assert not node.runtime.exists()
    assert not any(executable(pid) for pid in processes.values())
    host = node.host
    assert "re6st" not in host.run(["ip", "-o", "link"]).stdout
    assert host.run(["ip", "-6", "route", "show", "proto", "babel"]).stdout == ""
    assert host.run(["nft", "list", "tables"]).stdout == ""
    node.start()
    assert lab.wait_for_all_pairs(FORMING).complete


def test_a_node_comes_back_from_its_book_while_the_registry_is_away(lab):
    lab.registry.stop(signal.SIGKILL)
    try:
        node = lab.nodes["node2"]
        lab.power_off("node2")
        node.start()
        assert lab.wait_for_all_pairs(FORMING).complete
        until(lambda: not node.status().registry_reachable, "the node notices that the registry is away")
    finally:
        lab.registry.start()
    until(lambda: node.status().registry_reachable, "the registry is found again")
