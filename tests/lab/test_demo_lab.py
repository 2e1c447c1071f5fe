"""The demo's world, end to end.

registry   anna   boris   clara
    |        |      |       |
====+========+======+=======+====+============+============+============+====  internet
                                 |            |            |            |
                              home-one     home-two    office-one   office-two
                                UPnP         PCP        neither      neither
                               /    \\         |            |            |
                            dora    emil    frida        gustav       hanna
"""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from observing import until

from re6st.lab import daemons, nftables
from re6st.lab.leftovers import assert_clean
from re6st.lab.namespace import processes
from re6st.status import Reachability

HEALING = 60.0
"""Seconds after a failure until all others must ping; how fast it really is, is for the benchmarks."""

pytestmark = pytest.mark.timeout(300)


def assert_all_ping(lab, names=None):
    """All pairs must ping within the time for healing, and then all of them at once."""
    matrix = lab.wait_for_all_pairs(HEALING, names)
    assert matrix.complete, f"these pairs do not ping: {matrix.missing}"
    until(lambda: lab.ping_matrix(names).complete)


def others(lab, name):
    return [other for other in lab.nodes if other != name]


def test_all_pairs_ping(demo_lab):
    assert_all_ping(demo_lab)


def test_nodes_know_how_they_can_be_reached(demo_lab):
    expected = dict.fromkeys(("registry", "anna", "boris", "clara"), Reachability.PUBLIC)
    expected |= dict.fromkeys(("dora", "emil", "frida"), Reachability.MAPPED)
    expected |= dict.fromkeys(("gustav", "hanna"), Reachability.NONE)

    def found():
        return {name: node.status().reachability for name, node in demo_lab.nodes.items()}

    until(lambda: found() == expected)
    for name, method in (("dora", "UPnP"), ("frida", "PCP")):
        until(lambda name=name, method=method: methods(demo_lab.nodes[name]) == {method})


def methods(node):
    """Return how the ports of a node that are mapped were mapped."""
    return {one.method for one in node.status().mappings if one.state == "mapped"}


def test_nodes_have_routes_to_all_others(demo_lab):
    for name, node in demo_lab.nodes.items():
        until(lambda node=node: node.status().routes >= len(demo_lab.nodes) - 1)
        status = node.status()
        assert status.name == name
        assert status.address == node.address()
        assert status.tunnels_out + status.tunnels_in > 0


@pytest.mark.parametrize("victim", ["registry", "anna", "dora", "gustav"])
def test_a_host_that_dies_takes_nobody_else_along(demo_lab, victim):
    """All processes of a host are killed at once; the registry host loses registry and node."""
    demo_lab.power_off(victim)
    try:
        assert_all_ping(demo_lab, others(demo_lab, victim))
    finally:
        demo_lab.power_on(victim)
    assert_all_ping(demo_lab)


def test_a_daemon_killed_alone_comes_back_over_its_leftovers(demo_lab):
    node = demo_lab.nodes["boris"]
    node.stop(signal.SIGKILL)
    node.start()
    assert_all_ping(demo_lab)


def test_a_cut_between_two_hosts_is_routed_around(demo_lab):
    demo_lab.cut("anna", "boris")
    try:
        assert_all_ping(demo_lab)
    finally:
        demo_lab.heal("anna", "boris")


def test_one_process_asks_the_router_whatever_becomes_of_the_daemon(demo_lab):
    node = demo_lab.nodes["dora"]

    def helpers():
        """Return the pids of those that ask the router, and of the daemon's ended children."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                is_child = int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == daemon
                words = (entry / "cmdline").read_bytes()
                if is_child and (not words or b"upnp/helper.py" in words):
                    found.append(int(entry.name))
        return found

    def is_mapped_by_another():
        return node.status().reachability is Reachability.MAPPED and (
            len(helpers()) == 1 and helpers() != before and not Path(f"/proc/{before[0]}").exists()
        )

    daemon = node.status().pid
    until(lambda: len(helpers()) == 1)
    before = helpers()
    node.run("restart")
    until(is_mapped_by_another)
    before = helpers()
    node.stop(signal.SIGKILL)
    node.start()
    daemon = node.status().pid
    until(is_mapped_by_another)


def test_a_node_that_ends_leaves_nothing_on_its_host(demo_lab):
    node, namespace = demo_lab.nodes["emil"], demo_lab.hosts["emil"].namespace
    router = demo_lab.namespace("home-one")

    def mapped():
        with router.entered():
            rules = subprocess.run(
                ["nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd"],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        return str(demo_lab.hosts["emil"].address) in rules

    until(mapped)
    node.stop()
    assert processes([namespace]) == {}
    links = demo_lab.hosts["emil"].run(["ip", "-br", "link"]).stdout.splitlines()
    assert sorted(line.split()[0].partition("@")[0] for line in links) == ["eth0", "lo"]
    for arguments in (["route", "show", "table", "all"], ["address"]):
        assert "2001:db8:42:" not in demo_lab.hosts["emil"].run(["ip", "-6", *arguments]).stdout
    assert nftables.tables(namespace) == []
    assert not mapped()
    assert not list(node.runtime.glob("**/*.sock"))
    node.start()
    assert_all_ping(demo_lab)


def test_the_demo_shows_itself_and_cleans_up():
    name = f"t{os.getpid()}once"
    done = subprocess.run(
        [*daemons.script("re6st-lab"), "demo", "--once", "--name", name],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All 72 ordered pairs of nodes reach each other." in done.stdout
    for word in ("gustav", "upnp router home-one", "outgoing only", "from the start of 9 nodes"):
        assert word in done.stdout
    assert_clean(name)


def test_other_invocations_find_the_lab(demo_lab):
    command = daemons.script("re6st-lab")

    def call(*arguments):
        words = [*command, *arguments]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)

    option = ("--name", demo_lab.name)
    assert call("ping", *option).returncode == 0
    status = call("status", *option)
    assert status.returncode == 0
    assert "office-two" in status.stdout
    target = demo_lab.nodes["hanna"].address()
    done = call("exec", *option, "dora", "--", "ping", "-n", "-c1", "-W3", target)
    assert done.returncode == 0, done.stdout + done.stderr
    assert call("exec", *option, "dora", "--", "sh", "-c", "exit 3").returncode == 3
    done = call("node", *option, "dora", "status", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["name"] == "dora"
