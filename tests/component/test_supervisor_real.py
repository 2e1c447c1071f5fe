"""The supervisor with real processes."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from re6st.errors import ChildError
from re6st.supervisor import ChildExit, ChildRecord, ChildSpec, ChildState, RestartPolicy, Supervisor, output

STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(tmp_path / "children")
    yield supervisor
    for child in supervisor.children():
        await supervisor.stop(child.spec.name, grace=0.1)
    assert list((tmp_path / "children").iterdir()) == []


@pytest.fixture
def exits() -> list[ChildExit]:
    return []


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        await asyncio.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether ``pid`` runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descriptors(pid: int | None) -> set[str]:
    """What ``pid`` has open; a program that is just being loaded opens and closes its libraries."""
    try:
        return {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    except FileNotFoundError:
        return set()


async def test_an_exit_is_reported_with_status_and_last_lines(
    supervisor: Supervisor, exits: list[ChildExit]
) -> None:
    script = "for i in $(seq 40); do echo line $i; done; exit 3"
    await supervisor.start(ChildSpec(name="job", kind="test", argv=["sh", "-c", script]), exits.append)
    await until(lambda: len(exits) == 1)
    assert exits[0].status == 3
    assert exits[0].output[-1] == "line 40"
    assert len(exits[0].output) == output.LAST_LINES
    assert not exits[0].requested
    assert "line 40" in str(exits[0].error())
    assert supervisor.get("job") is None


async def test_a_child_has_its_session_no_descriptors_of_ours_and_a_record(
    supervisor: Supervisor, exits: list[ChildExit], tmp_path: Path
) -> None:
    leak = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leak, True)
    spec = ChildSpec(name="sleeper", kind="test", argv=["sleep", "100"], data={"slot": 3})
    child = await supervisor.start(spec, exits.append)
    os.close(leak)
    assert child.pid is not None
    assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid
    await until(lambda: descriptors(child.pid) == {"/dev/null", str(child.log_path)})
    record = msgspec.json.decode((tmp_path / "children/sleeper.json").read_bytes(), type=ChildRecord)
    assert (record.pid, record.data, record.kind) == (child.pid, {"slot": 3}, "test")
    assert record.find() == child.pid
    await until(lambda: child.state is ChildState.RUNNING)
    await supervisor.stop("sleeper")
    assert exits[0].status == -signal.SIGTERM
    assert exits[0].requested
    assert record.find() is None


async def test_who_ignores_sigterm_is_killed(supervisor: Supervisor, exits: list[ChildExit]) -> None:
    await supervisor.start(ChildSpec(name="stubborn", kind="test", argv=["sh", "-c", STUBBORN]), exits.append)
    await until(lambda: supervisor.last_output("stubborn") == ("ready",))
    await supervisor.stop("stubborn", grace=0.1)
    assert exits[0].status == -signal.SIGKILL


async def test_a_child_is_started_again_and_before_each_start_it_is_prepared(
    supervisor: Supervisor, exits: list[ChildExit]
) -> None:
    prepared: list[int] = []
    spec = ChildSpec(
        name="restless",
        kind="test",
        argv=["sh", "-c", "echo once; exit 1"],
        restart=RestartPolicy(first=0.02),
        before_start=lambda: prepared.append(1),
    )
    await supervisor.start(spec, exits.append)
    await until(lambda: len(exits) >= 3)
    assert all(exit_.restart_in is not None and exit_.output == ("once",) for exit_ in exits)
    await supervisor.stop("restless")
    started = len(prepared)
    assert started >= 3
    assert supervisor.children() == []
    await asyncio.sleep(0)
    assert len(prepared) == started


async def test_what_cannot_be_started_is_a_clear_error(
    supervisor: Supervisor, exits: list[ChildExit], tmp_path: Path
) -> None:
    with pytest.raises(ChildError, match="no-such-program is not installed"):
        await supervisor.start(ChildSpec(name="none", kind="test", argv=["no-such-program"]), exits.append)
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    with pytest.raises(ChildError, match="Permission denied"):
        await supervisor.start(ChildSpec(name="none", kind="test", argv=[str(script)]), exits.append)
    assert exits == []
    assert supervisor.children() == []


@pytest.fixture
def no_descriptors() -> Iterator[Callable[[bool], None]]:
    """Switch on and off that this process can open nothing (EMFILE)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def switch(on: bool) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3 if on else soft, hard))

    yield switch
    switch(False)


async def test_a_restart_without_free_descriptors_is_tried_again(
    supervisor: Supervisor, exits: list[ChildExit], no_descriptors: Callable[[bool], None]
) -> None:
    policy = RestartPolicy(first=0.02, cap=0.05)
    argv = ["sh", "-c", "echo up; exec sleep 100"]
    child = await supervisor.start(
        ChildSpec(name="job", kind="test", argv=argv, restart=policy), exits.append
    )
    await until(lambda: supervisor.last_output("job") == ("up",))
    assert child.pid is not None
    no_descriptors(True)
    os.kill(child.pid, signal.SIGKILL)
    await until(lambda: len(exits) >= 3)
    no_descriptors(False)
    assert exits[0].status == -signal.SIGKILL
    assert all("Too many open files" in exit_.output[0] for exit_ in exits[:3])
    assert all(exit_.restart_in is not None for exit_ in exits)
    await until(lambda: child.pid is not None and child.state is ChildState.RUNNING)


async def test_an_error_of_the_system_before_a_restart_does_not_end_the_restarts(
    supervisor: Supervisor, exits: list[ChildExit]
) -> None:
    faults = iter([None, OSError(errno.EIO, "input/output error"), None])

    def prepare() -> None:
        if (fault := next(faults, None)) is not None:
            raise fault

    policy = RestartPolicy(first=0.02)
    spec = ChildSpec(name="job", kind="test", argv=["false"], restart=policy, before_start=prepare)
    await supervisor.start(spec, exits.append)
    await until(lambda: len(exits) >= 3)
    assert [exit_.status for exit_ in exits[:3]] == [1, None, 1]
    assert "cannot start job: [Errno 5] input/output error" in exits[1].output[0]


async def test_two_children_cannot_have_one_name(supervisor: Supervisor, exits: list[ChildExit]) -> None:
    spec = ChildSpec(name="one", kind="test", argv=["sleep", "100"])
    await supervisor.start(spec, exits.append)
    with pytest.raises(ChildError, match="runs already"):
        await supervisor.start(spec, exits.append)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65])
def test_a_name_is_never_a_path(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a child"):
        ChildSpec(name=name, kind="test", argv=["true"])


def test_a_log_is_cut_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    descriptor = output.create(log)
    for number in range(40_000):
        os.write(descriptor, b"line %d\n" % number)
    assert log.stat().st_size > output.LIMIT
    output.cut(log)
    assert log.stat().st_size <= output.KEPT
    os.write(descriptor, b"last\n")
    os.close(descriptor)
    assert output.tail(log, 2) == ("line 39999", "last")
    assert log.read_bytes().startswith(b"line ")


# -- what an earlier daemon has left --------------------------------------------------------------------

DAEMON = """
import asyncio, sys
from pathlib import Path
from re6st.supervisor import ChildSpec, Supervisor
async def main():
    supervisor = Supervisor(Path(sys.argv[1]))
    for name, script in (("gentle", "exec sleep 1000"), ("stubborn", sys.argv[2])):
        await supervisor.start(ChildSpec(name=name, kind="test", argv=["sh", "-c", script]), print)
    while supervisor.last_output("stubborn") != ("ready",):
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""


def killed_daemon(directory: Path) -> dict[str, ChildRecord]:
    """Run a daemon that starts two children, kill it, and return the records that it leaves."""
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(directory), STUBBORN], stdout=subprocess.PIPE
    ) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"ready\n"
        daemon.kill()
    return {
        path.stem: msgspec.json.decode(path.read_bytes(), type=ChildRecord)
        for path in directory.glob("*.json")
    }


async def test_children_outlive_a_killed_daemon_and_the_next_one_ends_them(tmp_path: Path) -> None:
    records = killed_daemon(tmp_path)
    pids = [record.pid for record in records.values() if record.pid is not None]
    assert len(pids) == 2
    assert all(runs(pid) for pid in pids)
    found = await Supervisor(tmp_path).reconcile(grace=0.2)
    assert {record.name for record in found} == {"gentle", "stubborn"}
    assert not any(runs(pid) for pid in pids)
    assert list(tmp_path.iterdir()) == []


async def test_a_process_that_was_started_before_its_record_was_complete_is_found(tmp_path: Path) -> None:
    records = killed_daemon(tmp_path)
    for record in records.values():
        incomplete = msgspec.structs.replace(record, pid=None, start_time=0, executable="")
        (tmp_path / f"{record.name}.json").write_bytes(msgspec.json.encode(incomplete))
    assert len(await Supervisor(tmp_path).reconcile(grace=0.1)) == 2
    assert not any(runs(record.pid) for record in records.values() if record.pid is not None)


@pytest.mark.parametrize("change", [{"start_time": 1}, {"boot_id": "other"}, {"executable": "/bin/other"}])
async def test_a_process_that_only_has_the_pid_of_a_record_is_left_alone(
    tmp_path: Path, change: dict[str, object]
) -> None:
    with subprocess.Popen(["sleep", "100"]) as bystander:
        pid = bystander.pid
        await until(lambda: Path(f"/proc/{pid}/exe").readlink().name == "sleep")
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        record = ChildRecord(
            name="child",
            kind="test",
            argv=("sleep", "100"),
            token="0",
            boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            pid=pid,
            start_time=int(fields[19]),
            executable=str(Path(f"/proc/{pid}/exe").readlink()),
        )
        assert record.find() == pid
        (tmp_path / "child.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(record, **change)))
        assert await Supervisor(tmp_path).reconcile() == []
        assert bystander.poll() is None
        assert list(tmp_path.iterdir()) == []
        bystander.kill()


async def test_damaged_records_are_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "broken.json").write_bytes(b'{"name": "bro')
    (tmp_path / "huge.json").write_bytes(b" " * 100_000)
    assert await Supervisor(tmp_path).reconcile() == []
    assert list(tmp_path.iterdir()) == []
    assert "broken.json is not the record of a child" in caplog.text


# -- adoption -------------------------------------------------------------------------------------------


def specification(record: ChildRecord, **changes: object) -> ChildSpec:
    return ChildSpec(**({"name": record.name, "kind": record.kind, "argv": record.argv} | changes))  # type: ignore[arg-type]


async def test_a_child_of_a_killed_daemon_is_adopted_and_then_like_any_other(tmp_path: Path) -> None:
    records = killed_daemon(tmp_path)
    ends: list[ChildExit] = []
    supervisor = Supervisor(tmp_path)
    survivors = {record.name: record for record in supervisor.survivors("test")}
    assert survivors.keys() == records.keys()
    assert supervisor.survivors("other") == []
    child = supervisor.adopt(specification(records["gentle"]), survivors["gentle"], ends.append)
    assert (child.pid, child.state) == (records["gentle"].pid, ChildState.RUNNING)
    assert [record.name for record in await supervisor.reconcile(grace=0.1)] == ["stubborn"]
    child.annotate({"slot": 4})
    (kept,) = msgspec.json.decode(
        b"[" + (tmp_path / "gentle.json").read_bytes() + b"]", type=list[ChildRecord]
    )
    assert (kept.data, kept.pid) == ({"slot": 4}, child.pid)
    await supervisor.stop("gentle")
    assert [(end.name, end.requested) for end in ends] == [("gentle", True)]
    assert list(tmp_path.iterdir()) == []


async def test_an_adopted_child_is_started_again_when_it_dies(tmp_path: Path) -> None:
    records = killed_daemon(tmp_path)
    ends: list[ChildExit] = []
    supervisor = Supervisor(tmp_path)
    spec = specification(records["gentle"], restart=RestartPolicy(first=0.02))
    child = supervisor.adopt(spec, records["gentle"], ends.append)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    await until(lambda: child.state is ChildState.RUNNING and child.pid != records["gentle"].pid)
    assert ends[0].restart_in is not None
    await supervisor.stop(spec.name)
    await supervisor.reconcile(grace=0.1)
    assert list(tmp_path.iterdir()) == []


async def test_what_is_not_as_it_should_be_is_not_adopted(tmp_path: Path) -> None:
    """Another command line, a recycled pid, a record of another version: all end, and nothing is left."""
    records = killed_daemon(tmp_path)
    supervisor = Supervisor(tmp_path)
    with pytest.raises(ChildError, match="not what it should be"):
        supervisor.adopt(specification(records["gentle"], argv=("true",)), records["gentle"], print)
    recycled = msgspec.structs.replace(records["gentle"], start_time=1)
    with pytest.raises(ChildError, match="not what it should be"):
        supervisor.adopt(specification(recycled), recycled, print)
    assert supervisor.children() == []
    for record in records.values():
        other = msgspec.structs.replace(record, version=record.version + 1)
        (tmp_path / f"{record.name}.json").write_bytes(msgspec.json.encode(other))
    assert supervisor.survivors("test") == []
    assert len(await supervisor.reconcile(grace=0.1)) == 2
    assert not any(runs(record.pid) for record in records.values() if record.pid is not None)
    assert list(tmp_path.iterdir()) == []


async def test_a_process_that_has_lost_its_record_is_ended(tmp_path: Path) -> None:
    records = killed_daemon(tmp_path)
    (tmp_path / "gentle.json").unlink()
    (tmp_path / "stubborn.json").write_bytes(b"{}")
    assert await Supervisor(tmp_path).reconcile(grace=0.1) == []
    assert not any(runs(record.pid) for record in records.values() if record.pid is not None)
