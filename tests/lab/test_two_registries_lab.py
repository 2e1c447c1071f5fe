"""Two registries on one PostgreSQL serve a mesh; one of them is killed.

registry  second  node1  node2  node3  late
   |        |       |      |      |      |
===+========+=======+======+======+======+===  internet: all addresses are public
   |        |
   PostgreSQL (a unix socket)
"""

import os
import shutil
import signal
from collections.abc import Iterator

import msgspec
import pytest
from conftest import FORMING
from observing import until

from re6st.lab import worlds
from re6st.lab.bench_revocation import knows
from re6st.lab.daemons import Registry
from re6st.lab.lab import Lab
from re6st.lab.leftovers import assert_clean, host_interfaces
from re6st.lab.postgresql import running_cluster

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def lab() -> Iterator[Lab]:
    name = f"t{os.getpid()}regs"
    before = host_interfaces()
    world = worlds.with_guests(worlds.mixed(1), dict.fromkeys(("second", "node1", "node2", "node3", "late")))
    hosts = dict(world.hosts)
    hosts["second"] = msgspec.structs.replace(hosts["second"], roles=())
    with Lab(msgspec.structs.replace(world, hosts=hosts), name=name) as built:
        yield built
    assert_clean(name)
    assert host_interfaces() == before


def test_nodes_go_on_at_the_other_registry(lab):
    with running_cluster() as cluster:
        first, second = lab.registry, Registry(lab.hosts["second"], lab.topology.mesh)
        urls = [word for one in (first, second) for word in ("--url", one.url)]
        first.run(
            "init", "--network", str(lab.topology.mesh.network), "--store", str(cluster.database()), *urls
        )
        state, copy = (one.host.directory / "registry" for one in (first, second))
        copy.mkdir(mode=0o700)
        for file in ("ca.pem", "ca-key.pem", "store.url"):
            shutil.copy2(state / file, copy / file)
        try:
            for registry in (first, second):
                registry.start()
            use(lab, first, second)
        finally:
            second.stop()


def use(lab, first, second):
    early = [name for name in lab.nodes if name != "late"]
    lab.enrol(early)
    for name in early:
        lab.nodes[name].start()
    assert lab.wait_for_all_pairs(FORMING, early).complete

    first.stop(signal.SIGKILL)
    late = lab.nodes["late"]
    late.join(second.join_link("late", late.host))
    late.start()
    assert lab.wait_for_all_pairs(FORMING).complete

    # Who starts anew publishes; nobody else has lost the registry for longer than one question.
    lab.nodes["node1"].stop()
    lab.nodes["node1"].start()
    assert lab.wait_for_all_pairs(FORMING).complete
    until(lambda: all(node.status().registry_reachable for node in lab.nodes.values()), "all have a registry")

    # A revocation at the one that is left reaches all.
    second.run("revoke", "node3")
    others = [name for name in lab.nodes if name != "node3"]
    until(lambda: not any(knows(lab, name, "node3") for name in others), "node3 is cut off")
    assert lab.wait_for_all_pairs(FORMING, others).complete
