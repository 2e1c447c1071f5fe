"""What the benchmarks compute from what they measure."""

import msgspec
import pytest

from re6st.errors import ChildError, ConfigError
from re6st.lab import bench, bench_join, topology, worlds
from re6st.lab.bench_control import TUNNEL_OVERHEAD, split
from re6st.lab.bench_registry import percentile
from re6st.lab.measurement import Options, Result, Series
from re6st.lab.resources import parse_smaps
from re6st.lab.topology import RouterKind
from re6st.lab.wiring import wire

SMAPS = """\
55d0a8a00000-55d0a8a01000 r--p 00000000 fe:00 1234                       /usr/bin/python3.11
Size:                  4 kB
Rss:                   4 kB
Pss:                   1 kB
Anonymous:             0 kB
55d0a8a01000-55d0a8a09000 rw-p 00001000 fe:00 1234                       /usr/bin/python3.11
Rss:                  32 kB
Anonymous:            20 kB
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
Rss:                 100 kB
Anonymous:           100 kB
VmFlags: rd wr mr mw me ac
"""


def test_memory_counts_what_is_its_own_and_pages_of_files():
    memory = parse_smaps(SMAPS)
    assert memory.anonymous == 120
    assert memory.files == {("fe:00", "1234", "00000000"): 4, ("fe:00", "1234", "00001000"): 12}
    assert memory.total == 136


def test_pages_of_one_file_are_there_once():
    memory = parse_smaps(SMAPS)
    memory.add(parse_smaps(SMAPS))
    assert memory.total == 2 * 120 + 16


@pytest.mark.parametrize("count", [5, 10, 20])
def test_mixed_worlds_have_the_wanted_size(count):
    world = worlds.mixed(count)
    topology.check(world)
    assert len(world.nodes) == count
    assert world.nodes[0] == world.registry
    assert {router.kind for router in world.routers.values()} == {RouterKind.UPNP, RouterKind.PLAIN}
    assert wire(world).attachments[world.nodes[-1]].address.ip


def test_the_crowd_gives_its_centre_one_tunnel_each():
    world = worlds.crowd_around("subject", 10)
    assert len(world.nodes) == 11
    assert [name for name in world.nodes if world.situation(name) != "public address"] == ["subject"]


def test_guests_of_the_demo_get_networks_of_their_own():
    demo = topology.load(topology.find("demo"))
    topology.check(worlds.with_guests(demo, bench_join.GUESTS))


def test_guests_are_added_to_a_world():
    world = worlds.with_guests(worlds.mixed(3), {"open": None, "hidden": RouterKind.SYMMETRIC})
    assert world.nodes[-2:] == ["open", "hidden"]
    assert world.situation("hidden") == "symmetric router r-hidden"


def test_series_becomes_results_with_the_keys_that_programs_expect():
    series = Series("join")
    for value in (3.0, 1.0, 2.0):
        series.add("first ping", value, "s")
    (result,) = series.results()
    assert msgspec.to_builtins(result) == {
        "name": "join",
        "case": "first ping",
        "unit": "s",
        "values": [3.0, 1.0, 2.0],
        "median": 2.0,
        "more_is_better": False,
    }
    assert result.worst == 3.0


def test_markdown_has_one_line_per_case():
    result = Result(name="control", case="all", unit="bytes", values=[123456.7], median=123456.7)
    lines = bench.markdown([result]).splitlines()
    assert lines[0].startswith("Machine: ")
    assert "cores" in lines[0]
    assert lines[-1] == "| control | all | 123,457 | 123,457 | bytes |"


def test_unknown_benchmarks_are_refused_before_anything_runs():
    with pytest.raises(
        ConfigError, match="there is no benchmark 'joyn'; there are: join, cold, node, control"
    ):
        bench.run(["join", "joyn"], Options("bench", 1, 1.0, print))


def test_idle_traffic_is_split_without_a_rest():
    names = ("underlay", "tunnels", "registry", "upnp", "control", "overlay", "babel")
    before = dict.fromkeys(names, (0, 0))
    babel, gossip = (10, 1000), (4, 2000)
    overlay = (babel[0] + gossip[0], babel[1] + gossip[1])
    keepalive = 500
    tunnels = (99, overlay[1] + overlay[0] * TUNNEL_OVERHEAD + keepalive)
    after = {
        "underlay": (0, tunnels[1] + 300 + 70 + 40),
        "tunnels": tunnels,
        "registry": (1, 300),
        "upnp": (1, 70),
        "control": (1, 40),
        "overlay": overlay,
        "babel": babel,
    }
    parts = split(before, after)
    assert parts["babel"] == 1000 + 10 * TUNNEL_OVERHEAD
    assert parts["openvpn itself"] == keepalive
    assert parts["control API"] == 40 + 2000 + 4 * TUNNEL_OVERHEAD
    assert sum(octets for case, octets in parts.items() if case != "all") == parts["all"]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)])
def test_a_percentile_is_one_of_the_values(share, expected):
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, share) == expected
    with pytest.raises(ChildError, match="--window"):
        percentile([], share)
