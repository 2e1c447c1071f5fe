"""The registry on a real PostgreSQL: what the unit tests ask of its service, moving there, crashes."""

import contextlib
import importlib
import json
import select
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import psycopg
import pytest
from test_registry_migration_real import make_schema, work_with
from test_registry_store_real import ENROLLER

from re6st.errors import StorageError
from re6st.identity import build_request, generate_key, parse_node_certificate
from re6st.lab.postgresql import running_cluster
from re6st.messages import EnrolmentRequest
from re6st.registry.adapter import schema_scripts
from re6st.registry.backup import back_up, check, restore
from re6st.registry.operators import Scope
from re6st.registry.place import PostgresqlUrl
from re6st.registry.sqlite import SqliteAdapter
from re6st.registry.state import StateDirectory
from re6st.registry.store import Store
from re6st.registry.transfer import copy_rows
from re6st.registry.usecases import SYSTEM

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from registry_world import DAY, NETWORK, World

SUITES = (
    "test_service",
    "test_registry_lifecycle",
    "test_approval",
    "test_invitations",
    "test_grouping",
    "test_assigning",
)
"""Unit tests of the registry's service, which are repeated here."""

FOR_SQLITE = {
    "test_a_sample_does_not_look_at_all_records",
    "test_init_overwrites_nothing",
    "test_the_database_does_not_know_the_token_itself",
}
"""Tests that look into the file, or at what SQLite does."""

for suite in SUITES:
    module = importlib.import_module(suite)
    for name, function in vars(module).items():
        if name.startswith("test_") and name not in FOR_SQLITE:
            assert name not in globals(), f"two tests are called {name}"
            globals()[name] = function


@pytest.fixture(scope="module")
def cluster():
    with running_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def database(cluster):
    return cluster.database()


@pytest.fixture
def place(database):
    """Where the database of one test is: a schema takes less time than a database."""
    with psycopg.connect(str(database), autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS re6st CASCADE")
    return database


@pytest.fixture
def world(tmp_path, place, monkeypatch):
    assert isinstance(place, PostgresqlUrl)
    with monkeypatch.context() as patch:
        patch.setattr(World, "place", place)
        world = World(tmp_path / "state")
    yield world
    world.close()


# -- tables ---------------------------------------------------------------------------------------------


def shape_of_sqlite(store):
    """Return kind and nullability of each column by table and name."""
    kinds = {"TEXT": "text", "BLOB": "bytea", "REAL": "double precision", "INTEGER": "bigint"}
    return {
        (table.name, name): (kinds[kind], bool(filled))
        for table in store.adapter.tables()
        for name, kind, filled, key in store.execute(
            'SELECT name, type, "notnull" OR pk, pk FROM pragma_table_info(?)', (table.name,)
        )
    }


def shape_of_postgresql(store):
    rows = store.execute(
        "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
        " JOIN information_schema.tables USING (table_schema, table_name)"
        " WHERE table_schema = 're6st' AND table_type = 'BASE TABLE' AND table_name <> 'schema_version'"
    )
    shape = {(table, name): (kind, nullable == "NO") for table, name, kind, nullable in rows}
    del shape["certificates", "rowid"]  # SQLite has it by itself
    return {place: (kind.replace("boolean", "bigint"), filled) for place, (kind, filled) in shape.items()}


def test_both_kinds_of_databases_have_the_same_tables(tmp_path, place):
    assert schema_scripts("sqlite")[-1][0] == schema_scripts("postgresql")[-1][0]
    numbers = {number for number, _ in schema_scripts("sqlite") if number > 6}
    assert numbers == {number for number, _ in schema_scripts("postgresql") if number > 6}
    with Store.create(tmp_path / "store") as sqlite, Store.create(place) as postgresql:
        assert shape_of_sqlite(sqlite) == shape_of_postgresql(postgresql)
        for first, length in (
            ("2001:db8:42::", 64),
            ("2001:db8:42:8::", 61),
            ("2001:db8:0:1:0:0:0:100", 120),
        ):
            packed = IPv6Address(first).packed
            written = [
                store.execute("SELECT prefix_text(?, ?)", (packed, length)) for store in (sqlite, postgresql)
            ]
            assert written == [[(str(IPv6Network((packed, length))),)]] * 2


def rows_of(store, tables):
    """Return everything in the tables, but not which of two equal values is a boolean."""
    return {
        table.name: sorted(
            tuple(int(value) if isinstance(value, bool) else value for value in row)
            for row in store.execute(f"SELECT {', '.join(table.columns)} FROM {table.name}")
        )
        for table in tables
        if table.name not in ("settings", "documents", "parameter_history", "audit")
    }


def test_a_backup_leads_from_one_kind_to_the_other_and_back(tmp_path, place, monkeypatch):
    with contextlib.closing(World(tmp_path / "first")) as world:
        key, attic = world.node("attic")
        world.publish(key, attic)
        world.node("Cellar")
        world.service.revoke("cellar")
        world.now += 40 * DAY
        # Somebody else has the former member's prefix now.
        world.service.tidy()
        world.node("garage", prefix_length=60)
        world.node("shed")
        world.service.create_operator_token("alice", Scope.ADMIN)
        world.service.create_group("office", maximum_nodes=5)
        world.node("desk", group="office", owner="anna")
        world.service.reserve("barn")
        world.service.add_prefix("desk")
        world.service.remove_prefix("desk", world.service.add_prefix("desk"))
        assert len({node.prefix for node in world.store.nodes()}) < len(world.store.nodes())
        before = rows_of(world.store, world.store.adapter.tables())
        audit = world.service.audit()
        tables = world.store.adapter.tables()
        back_up(world.state, tmp_path / "backup", SYSTEM, include_keys=True)
    second = StateDirectory(tmp_path / "second")
    assert restore(second, tmp_path / "backup", SYSTEM, place=place) == []
    names = {path.name for path in second.path.iterdir()}
    assert names == {"ca.pem", "ca-key.pem", "server.pem", "store.url"}
    with pytest.raises(StorageError, match="holds a registry already"):
        restore(StateDirectory(tmp_path / "other"), tmp_path / "backup", SYSTEM, place=place)
    assert list((tmp_path / "other").iterdir()) == []
    with second.service() as service:
        assert service.audit()[: len(audit)] == audit
        assert rows_of(service._store, tables) == before
    back_up(second, tmp_path / "backup2", SYSTEM, include_keys=True)
    third = StateDirectory(tmp_path / "third")
    assert restore(third, tmp_path / "backup2", SYSTEM) == []
    with third.service() as service, second.service() as other:
        assert rows_of(service._store, tables) == before
        assert service.audit()[: len(audit)] == audit
        # Numbers go on where they were.
        assert enrol(service).prefix == enrol(other).prefix
        assert [row.identifier for row in service.tokens()] == [row.identifier for row in other.tokens()]


@pytest.mark.parametrize("version", [number for number, _ in schema_scripts("postgresql")])
def test_each_earlier_schema_is_migrated_as_that_of_sqlite(tmp_path, place, monkeypatch, version):
    file = StateDirectory(tmp_path / "state")
    file.create(NETWORK, ["https://192.0.2.1:8443"])
    certificates = make_schema(file, version)
    with monkeypatch.context() as patch, sqlite3.connect(file.database) as connection:
        known = [script for script in schema_scripts("postgresql") if script[0] <= version]
        patch.setattr("re6st.registry.postgresql.schema_scripts", lambda _: known)
        earlier = SqliteAdapter(connection, file.database)
        with Store.create(place) as store, store.transaction():
            copy_rows(earlier, store.adapter, earlier.tables())
    connection.close()
    with Store.open(file.database) as sqlite, Store.open(place) as postgresql:
        assert shape_of_sqlite(sqlite) == shape_of_postgresql(postgresql)
        tables = sqlite.adapter.tables()
        rows = [rows_of(store, tables) for store in (sqlite, postgresql)]
        assert rows[0] == rows[1]
        work_with(postgresql, file.authority(), version, certificates)
        assert postgresql.find_damage() == []


# -- crashes --------------------------------------------------------------------------------------------


def enrol(service):
    request = build_request(generate_key(), "")
    message = EnrolmentRequest(token=service.create_token(), request=request)
    return parse_node_certificate(service.enrol(message).certificate)


@pytest.fixture
def state(tmp_path, place):
    state = StateDirectory(tmp_path / "state")
    state.create(NETWORK, ["https://192.0.2.1:8443"], place=place)
    return state


def verify(state, acknowledged):
    """Assert that all that was acknowledged is there, and nothing half done."""
    with state.service() as service:
        members = {member.node.name: member for member in service.members()}
        for name, prefix, serial in acknowledged:
            assert (str(members[name].node.prefix), members[name].serial) == (prefix, serial)
        assert len({member.node.prefix for member in members.values()}) == len(members)
        used = {row.last_node for row in service.tokens() if row.last_used is not None}
        assert all(member.serial for member in members.values())
        assert used == {member.node.identifier for member in members.values()}
    assert check(state) == []


@contextlib.contextmanager
def enrolling(state):
    """Run two processes that enrol nodes as fast as they can; yield them."""
    with contextlib.ExitStack() as stack:
        children = []
        for _ in range(2):
            command = [sys.executable, "-c", ENROLLER, str(state.path)]
            child = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(child.kill)
            children.append(child)
        yield children


def acknowledged_by(child, first):
    """Return what a child that was killed has told; its last line may be cut off in the middle."""
    lines = [first, *child.stdout]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def test_kill_9_of_registries_and_of_the_server_loses_no_acknowledged_enrolment(state, cluster):
    acknowledged = []
    for round_number in range(2):
        with enrolling(state) as children:
            firsts = [child.stdout.readline() for child in children]
            for child, first in zip(children, firsts, strict=True):
                deadline = time.monotonic() + 0.05 + 0.05 * round_number
                while time.monotonic() < deadline and child.poll() is None:
                    select.select([], [], [], 0.01)
                child.kill()
                acknowledged += acknowledged_by(child, first)
        verify(state, acknowledged)
    with enrolling(state) as children:
        firsts = [child.stdout.readline() for child in children]
        cluster.stop("immediate")
        for child, first in zip(children, firsts, strict=True):
            acknowledged += acknowledged_by(child, first)
            assert child.wait(60) == 1  # it told why
    cluster.start()
    verify(state, acknowledged)
    assert len(acknowledged) >= 6


def test_a_restart_of_postgresql_while_the_registry_runs(state, cluster):
    with state.service() as service:
        enrol(service)
        cluster.stop()
        with pytest.raises(StorageError, match=r"cannot use the database postgresql://.*tried again"):
            service.members()
        with pytest.raises(StorageError, match="check that PostgreSQL runs there"):
            enrol(service)
        cluster.start()
        deadline = time.monotonic() + 60
        while True:
            try:
                names = [member.node.name for member in service.members()]
                break
            except StorageError:
                assert time.monotonic() < deadline
                select.select([], [], [], 0.1)
        assert len(names) == 1
        # A connection that was lost unnoticed costs nobody a request.
        cluster.stop()
        cluster.start()
        assert enrol(service).name
        # In the middle of a transaction all of it is lost.
        with pytest.raises(StorageError):
            make_half(service, cluster)
        assert [row.name for row in service.tokens() if row.name] == []


def make_half(service, cluster):
    with service._store.transaction():
        service.create_token("half")
        cluster.stop()
        cluster.start()
        service.create_token("whole")


def test_a_writer_that_stands_still_is_not_waited_for_for_ever(state, place):
    with Store.open(place) as one, Store.open(place, busy_timeout=0.2) as other:
        with one.transaction():
            one.set_setting("a", "1")
            with pytest.raises(StorageError, match="locked by another program"), other.transaction():
                pass
            assert other.setting("a") is None  # readers do not wait
        with other.transaction():
            assert other.setting("a") == "1"


def read_as_writer(place):
    with Store.open(place) as store, store.transaction():
        return store.setting("a")


def test_a_writer_sees_what_was_written_while_it_waited(state, place):
    with psycopg.connect(str(place), autocommit=True) as connection, ThreadPoolExecutor(1) as pool:
        database = connection.info.dbname
        connection.execute(f'ALTER DATABASE "{database}" SET default_transaction_isolation = serializable')
        try:
            with Store.open(place) as store, store.transaction():
                reading = pool.submit(read_as_writer, place)
                deadline = time.monotonic() + 60
                while not connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall():
                    assert time.monotonic() < deadline
                    select.select([], [], [], 0.01)
                store.set_setting("a", "1")
            assert reading.result(60) == "1"
        finally:
            connection.execute(f'ALTER DATABASE "{database}" RESET default_transaction_isolation')


def test_what_cannot_be_opened(cluster, place, tmp_path):
    with pytest.raises(StorageError, match=r"holds no registry: .*init --store"):
        Store.open(place)
    missing = PostgresqlUrl(str(place).replace("re6st_", "missing_"))
    with pytest.raises(StorageError, match=r'cannot use the database .*database "missing_.*" does not exist'):
        Store.open(missing)
    Store.create(place).close()
    with psycopg.connect(str(place), autocommit=True) as connection:
        connection.execute("UPDATE re6st.schema_version SET version = 99")
    with pytest.raises(StorageError, match=r"newer version of re6st-registry.*upgrade"):
        Store.open(place)
