"""What the registry thinks is wrong with a node, and the mesh that nodes' reports make."""

import dataclasses

import pytest
from registry_world import DAY, World

from re6st.messages import NodeReport, TunnelReport
from re6st.registry.diagnosis import (
    CLOCK_BAD,
    CLOCK_WARNING,
    LONG_SILENCE,
    SETTLING,
    SILENCE,
    Kind,
    Severity,
    Standard,
    find_troubles,
)
from re6st.registry.kept import LONGEST, SHARE, Kept
from re6st.registry.mesh import draw_mesh

REPORT = NodeReport(
    time=0.0,
    uptime=3600.0,
    software="re6st 1.0.0",
    reachability="public",
    routes=3,
    peers=3,
    parameters_version=1,
    revocations_version=0,
    tunnels=(TunnelReport(peer="2001:db8::/64", outgoing=True, established="direct", age=60.0),),
)


def replace(report, **changes):
    values = {name: getattr(report, name) for name in report.__struct_fields__}
    return NodeReport(**values | changes)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "registry")
    yield world
    world.close()


def kinds(world, caller):
    member = world.service.member(caller.node.name)
    (condition,) = world.service.conditions([member])
    return {trouble.kind: trouble for trouble in condition.troubles}


def tell(world, caller, **changes):
    return world.service.report(caller.node, replace(REPORT, **{"time": world.now} | changes))


def test_a_healthy_node_has_no_trouble(world):
    _, caller = world.node("attic")
    assert not kinds(world, caller)  # it has just been let in
    versions = tell(world, caller)
    assert (versions.parameters_version, versions.revocations_version) == (1, 1)
    assert not kinds(world, caller)
    assert world.service.unwell(10) == []


@pytest.mark.parametrize(
    ("changes", "kind", "severity", "text"),
    [
        ({"time": CLOCK_WARNING + 1}, Kind.CLOCK, Severity.WARNING, "11 seconds ahead"),
        ({"time": -CLOCK_BAD - 1}, Kind.CLOCK, Severity.BAD, "5 minutes behind"),
        ({"tunnels": ()}, Kind.ALONE, Severity.BAD, "knows 3 nodes"),
        ({"software": "re6st 0.0.9"}, Kind.SOFTWARE, Severity.WARNING, "re6st 0.0.9"),
        ({"reachability": "outgoing only", "reason": "no UPnP"}, Kind.REACHABILITY, Severity.NOTE, "no UPnP"),
    ],
)
def test_what_a_report_tells(world, changes, kind, severity, text):
    _, caller = world.node("attic")
    if "time" in changes:
        changes = {"time": world.now + changes["time"]}
    tell(world, caller, **changes)
    trouble = kinds(world, caller)[kind]
    assert trouble.severity is severity
    assert text in trouble.text
    assert bool(world.service.unwell(10)) is (severity is not Severity.NOTE)


def test_a_node_may_be_alone_in_a_young_network_or_just_started(world):
    _, caller = world.node("attic")
    tell(world, caller, tunnels=(), peers=0)
    assert not kinds(world, caller)
    tell(world, caller, tunnels=(), uptime=5.0)
    assert not kinds(world, caller)


def test_silence(world):
    key, caller = world.node("attic")
    world.now += 2 * 3600
    assert "never heard" in kinds(world, caller)[Kind.SILENT].text
    world.publish(key, caller)
    world.now += SILENCE + 1
    assert not kinds(world, caller)  # it may not report at all
    tell(world, caller)
    world.now += SILENCE + 1
    assert set(kinds(world, caller)) == {Kind.SILENT}
    world.publish(key, caller, sequence=2)
    assert not kinds(world, caller)
    world.now += LONG_SILENCE
    assert kinds(world, caller)[Kind.SILENT].text == "nothing was heard of it for 36 hours"


def test_certificates(world):
    _, caller = world.node("attic")
    world.now += 300 * DAY
    tell(world, caller)
    assert "expires in 65 days" in kinds(world, caller)[Kind.CERTIFICATE].text
    world.now += 70 * DAY
    trouble = kinds(world, caller)[Kind.CERTIFICATE]
    assert trouble.severity is Severity.BAD
    world.service.suspend("attic")
    assert not kinds(world, caller)


def test_outdated_parameters_have_time_to_spread(world):
    _, caller = world.node("attic")
    world.service.change_parameters({"hello_interval": "2"})
    assert tell(world, caller).parameters_version == 2
    assert not kinds(world, caller)
    world.now += SETTLING + 1
    tell(world, caller)
    assert set(kinds(world, caller)) == {Kind.PARAMETERS}
    tell(world, caller, parameters_version=2)
    assert not kinds(world, caller)


def test_the_report_of_one_who_left_is_forgotten(world):
    _, caller = world.node("attic")
    tell(world, caller)
    world.service.revoke("attic")
    assert world.store.reports([caller.node.identifier]) == {}
    assert world.service.mesh(10, SILENCE) == []


def test_unwell_nodes_are_found_among_many(world):
    callers = [world.node(f"n{number}")[1] for number in range(6)]
    for number, caller in enumerate(callers):
        tell(world, caller, software="re6st 0.0.1" if number % 2 else REPORT.software)
    found = world.service.unwell(2)
    assert len(found) == 2
    last = found[-1].member.node
    rest = world.service.unwell(9, after=(last.prefix.network_address.packed, last.identifier))
    assert {item.member.node.name for item in found + rest} == {"n1", "n3", "n5"}


def test_troubles_are_counted_and_found_by_kind(world):
    attic, cellar, garage = (world.node(name)[1] for name in ("attic", "cellar", "garage"))
    tell(world, attic)
    tell(world, cellar, software="re6st 0.0.1", tunnels=())
    tell(world, garage, reachability="outgoing only")
    health = world.service.count_troubles()
    assert health.unwell == 1
    assert dict(health.troubles) == {
        (Kind.ALONE, Severity.BAD): 1,
        (Kind.SOFTWARE, Severity.WARNING): 1,
        (Kind.REACHABILITY, Severity.NOTE): 1,
    }
    for kind, name in ((Kind.ALONE, "cellar"), (Kind.REACHABILITY, "garage")):
        assert [item.member.node.name for item in world.service.unwell(9, kind=kind)] == [name]


def test_what_takes_long_is_kept_long_but_not_for_ever():
    now, took, made = [0.0], [0.5], []

    def make():
        made.append(now[0])
        now[0] += took[0]
        return len(made)

    kept = Kept(make, lambda: now[0])
    assert [kept.get(), kept.get()] == [1, 1]
    took[0] = 30.0  # the disk was busy
    now[0] += 0.5 / SHARE
    assert [kept.get(), kept.get()] == [2, 2]
    now[0] += LONGEST
    assert kept.get() == 3


def test_the_mesh(world):
    a, b, c = (world.node(name)[1] for name in "abc")
    link = {"established": "direct", "age": 5.0}
    tell(world, a, tunnels=(TunnelReport(peer=str(b.node.prefix), outgoing=True, round_trip=0.02, **link),))
    world.now += 1
    there = TunnelReport(peer=str(a.node.prefix), outgoing=False, **link | {"age": 9.0})
    unknown = TunnelReport(peer=str(c.node.prefix), outgoing=True, **link)
    stranger = TunnelReport(peer="<script>", outgoing=True, **link)
    tell(world, b, tunnels=(there, unknown, stranger))
    mesh = draw_mesh(world.service.mesh(10, SILENCE), 10)
    assert [node.name for node in mesh.nodes] == ["a", "b"]
    (tunnel,) = mesh.tunnels
    assert (tunnel.dialer, tunnel.listener) == (str(a.node.prefix), str(b.node.prefix))
    assert (tunnel.confirmed, tunnel.round_trip, tunnel.age) == (True, 0.02, 9.0)
    assert mesh.complete
    tell(world, c, software="re6st 0.0.1")
    mesh = draw_mesh(world.service.mesh(10, SILENCE), 10)
    assert {node.name: node.severity for node in mesh.nodes} == {"a": None, "b": None, "c": Severity.WARNING}
    tunnels = {(tunnel.dialer, tunnel.listener): tunnel.confirmed for tunnel in mesh.tunnels}
    assert tunnels[str(b.node.prefix), str(c.node.prefix)] is False
    assert not draw_mesh(world.service.mesh(3, SILENCE), 2).complete


def test_an_unknown_version_is_neither_older_nor_newer(world):
    _, caller = world.node("attic")
    member = world.service.member("attic")
    standard = Standard(world.now, 365 * DAY, 1, 0.0, "re6st 9.9.9")
    for theirs, ours, old in (
        ("re6st 9.9.8", "re6st 9.9.9", True),
        ("something else", "re6st 9.9.9", False),
        ("re6st 9.9.8", "unknown", False),
    ):
        tell(world, caller, software=theirs)
        report = world.store.reports([caller.node.identifier])[caller.node.identifier]
        found = find_troubles(member, report, dataclasses.replace(standard, software=ours))
        assert bool(found) is old
