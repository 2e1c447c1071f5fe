"""The registry's database on a real disk: corrupted, locked, newer, foreign; kill -9 at any time."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from ipaddress import IPv6Network

import pytest

from re6st.errors import StorageError
from re6st.identity import TrustStore, build_request, generate_key
from re6st.messages import EnrolmentRequest
from re6st.registry.allocator import Lease, free_blocks
from re6st.registry.backup import check
from re6st.registry.service import Service
from re6st.registry.state import StateDirectory
from re6st.registry.store import Store

NETWORK = IPv6Network("2001:db8:42::/48")


@pytest.fixture
def state(tmp_path):
    state = StateDirectory(tmp_path / "state")
    state.create(NETWORK, ["https://192.0.2.1:8443"])
    return state


def content(state):
    return {path.name: path.read_bytes() for path in state.path.iterdir()}


def fill(state):
    with state.service() as service:
        for number in range(200):
            service.create_token(f"node{number}")


def refuse(state, message):
    """Assert that the database is refused and nothing in its directory changes."""
    before = content(state)
    with pytest.raises(StorageError, match=message):
        Store.open(state.database, busy_timeout=0.2)
    assert content(state) == before


@pytest.mark.parametrize("damage", ["header", "middle", "truncated", "empty"])
def test_a_corrupted_database_is_refused_and_not_touched(state, damage):
    fill(state)
    octets = bytearray(state.database.read_bytes())
    if damage == "header":
        octets[:100] = os.urandom(100)
    elif damage == "middle":
        octets[4096 : len(octets) - 4096] = os.urandom(len(octets) - 8192)
    elif damage == "truncated":
        del octets[len(octets) // 2 :]
    else:
        octets.clear()
    state.database.write_bytes(octets)
    refuse(state, "corrupted|not the database of a re6st registry")


def test_a_database_of_a_newer_version_is_refused(state):
    with sqlite3.connect(state.database) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    refuse(state, "newer version of re6st-registry.*upgrade")


def test_somebody_elses_database_is_refused(state):
    state.database.unlink()
    with sqlite3.connect(state.database) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    refuse(state, "not the database of a re6st registry")


def test_what_a_killed_process_left_in_the_log_is_not_lost(state):
    fill_and_die = FILL_AND_DIE.format(path=str(state.path))
    assert subprocess.run([sys.executable, "-c", fill_and_die], check=False).returncode == -signal.SIGKILL
    assert (state.path / "registry.sqlite3-wal").stat().st_size > 0
    with state.service() as service:
        assert [row.name for row in service.tokens()] == ["attic"]


FILL_AND_DIE = """
import os, signal
from pathlib import Path
from re6st.registry.state import StateDirectory
with StateDirectory(Path({path!r})).service() as service:
    service.create_token("attic")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_missing_database(state):
    state.database.unlink()
    refuse(state, "does not exist")


def test_a_locked_database_is_refused_with_the_reason(state):
    holder = sqlite3.connect(state.database, isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageError, match="locked by another program"):
        Store.open(state.database, busy_timeout=0.2)
    holder.execute("ROLLBACK")
    holder.close()
    Store.open(state.database).close()


def test_a_writer_waits_for_another_one(state):
    with state.service() as service:
        holder = sqlite3.connect(state.database, isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, lambda: holder.execute("COMMIT"))
        release.start()
        service.create_token("attic")
        release.join()
        holder.close()
        assert [row.name for row in service.tokens()] == ["attic"]


ENROLLER = """
import json, sys
from pathlib import Path
from re6st.identity import build_request, generate_key, parse_node_certificate
from re6st.messages import EnrolmentRequest
from re6st.registry.state import StateDirectory

with StateDirectory(Path(sys.argv[1])).service() as service:
    while True:
        token = service.create_token()
        enrolment = service.enrol(EnrolmentRequest(token=token, request=build_request(generate_key(), "")))
        node = parse_node_certificate(enrolment.certificate)
        print(json.dumps([node.name, str(node.prefix), node.serial_hex]), flush=True)
"""


def test_kill_9_loses_no_acknowledged_enrolment_and_gives_no_prefix_twice(state):
    acknowledged = []
    for round_number in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", ENROLLER, str(state.path)], stdout=subprocess.PIPE, text=True
        ) as child:
            first = child.stdout.readline()
            timer = threading.Timer(0.05 + 0.07 * round_number, child.send_signal, (signal.SIGKILL,))
            timer.start()
            lines = [first, *child.stdout]
            assert child.wait(10) == -signal.SIGKILL
        # The last line may be cut off in the middle.
        acknowledged += [json.loads(line) for line in lines if line.endswith("\n")]
        with state.service() as service:
            members = {member.node.name: member for member in service.members()}
            for name, prefix, serial in acknowledged:
                assert str(members[name].node.prefix) == prefix
                assert members[name].serial == serial
            prefixes = [member.node.prefix for member in members.values()]
            assert len(set(prefixes)) == len(prefixes)
            # Nothing half done: whoever has a prefix has a certificate and used a token.
            used = {row.last_node for row in service.tokens() if row.last_used is not None}
            assert all(member.serial for member in members.values())
            assert used == {member.node.identifier for member in members.values()}
    assert len(acknowledged) > 8


CHANGER = """
import sys
from pathlib import Path
from click.testing import CliRunner
from re6st.registry.cli_authority import authority
from re6st.registry.rollover import Stage
from re6st.registry.state import StateDirectory

state = StateDirectory(Path(sys.argv[1]))

def change_ca(*words):
    done = CliRunner().invoke(authority, words, obj=state)
    assert done.exit_code == 0, done

while True:
    with state.service() as service:
        names = [group.name for group in service.groups()]
        if "office" not in names:
            service.create_group("office")
        for member in service.members():
            service.move(member.node.name, "office")
            service.add_prefix(member.node.name)
        for member in service.members():
            for prefix in member.further:
                service.remove_prefix(member.node.name, prefix)
            service.move(member.node.name, "default")
        service.remove_group("office")
        stage = service.rollover_status().stage
    print(stage.value, flush=True)
    if stage is Stage.SINGLE:
        change_ca("prepare")
    elif stage is Stage.PREPARED:
        change_ca("switch", "--force")
    else:
        change_ca("finish", "--force")
"""


def test_kill_9_while_prefixes_groups_and_the_ca_change_leaves_no_half(state):
    with state.service() as service:
        for name in ("attic", "barn"):
            enrol(service, name)
    seen = []
    for round_number in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", CHANGER, str(state.path)], stdout=subprocess.PIPE, text=True
        ) as child:
            seen += [child.stdout.readline() for _ in range(1 + round_number)]
            timer = threading.Timer(0.03 * round_number, child.send_signal, (signal.SIGKILL,))
            timer.start()
            assert child.wait(60) == -signal.SIGKILL
        assert check(state) == []
        with state.service() as service, Store.open(state.place) as store:
            assert {member.node.name for member in service.members()} == {"attic", "barn"}
            for authority in service._trust.authorities:
                trust = TrustStore([authority])
                trust.verify_document("parameters", service.parameters())
                trust.verify_document("revocations", service.revocations())
            expected = free_blocks(Lease.of(NETWORK), store.holders(NETWORK))
            assert store.free_space() == [IPv6Network((block.start, block.length)) for block in expected]
    assert {"single\n", "prepared\n", "switched\n"} <= set(seen)


def enrol(service, name):
    request = build_request(generate_key(), name)
    return service.enrol(EnrolmentRequest(token=service.create_token(), request=request))


def test_thousands_of_nodes_are_no_burden(state):
    with Store.open(state.database) as store:
        with store.transaction():
            for number, prefix in enumerate(NETWORK.subnets(new_prefix=64)):
                if number == 10_000:
                    break
                store.add_node(f"n{number}", prefix, time.time())
        service = Service(store, state.authority())
        request = EnrolmentRequest(
            token=service.create_token(), request=build_request(generate_key(), "attic")
        )
        start = time.process_time()
        service.enrol(request)
        assert time.process_time() - start < 0.5
