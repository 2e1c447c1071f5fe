"""A node gets a further prefix and loses it again, while it runs and others talk to it.

registry and node   node1  node2
        |             |      |
========+=============+======+===  internet: all addresses are public
"""

import time
from ipaddress import IPv6Network

import pytest
from observing import PATIENCE, children, until

from re6st.lab.lab import Lab
from re6st.lab.ping_train import PingTrain
from re6st.prefix import node_address

pytestmark = pytest.mark.timeout(300)


def reaches(lab: Lab, name: str, address: str) -> bool:
    command = ["ping", "-6", "-c", "1", "-W", "1", address]
    return lab.nodes[name].host.run(command, check=False).returncode == 0


def test_a_node_gets_a_further_prefix_and_loses_it_again(trio):
    node, others = trio.nodes["node2"], ("registry", "node1")
    daemon, babeld = node.pid, children(node)["babeld"]
    with PingTrain(trio.hosts["node1"].namespace, node.address()) as train:
        prefix = trio.registry.run("add-prefix", "node2", "--prefix-length", "60").strip()
        address = str(node_address(IPv6Network(prefix)))
        until(lambda: all(reaches(trio, name, address) for name in others), f"others reach {address}")
        assert node.status().further_prefixes == (prefix,)
        trio.registry.run("remove-prefix", "node2", prefix)
        until(lambda: not any(reaches(trio, name, address) for name in others), f"{address} is gone")
        assert node.status().further_prefixes == ()
        assert train.wait_steady(2, PATIENCE, since=time.monotonic())
    # Nothing had to begin anew for that.
    assert (node.status().pid, children(node)["babeld"]) == (daemon, babeld)
    for kind in (("address",), ("route", "show", "table", "all")):
        assert prefix.split("/")[0] not in node.host.run(["ip", "-6", *kind]).stdout
    assert trio.wait_for_all_pairs(PATIENCE).complete
