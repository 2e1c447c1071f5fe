"""Databases that earlier versions made are opened by this one, with all their content, on a real disk."""

import sqlite3
import threading
from ipaddress import IPv6Network

import pytest

from re6st.errors import StorageError
from re6st.identity import build_request, generate_key, parse_node_certificate
from re6st.messages import EnrolmentRequest
from re6st.registry.adapter import schema_scripts
from re6st.registry.backup import check
from re6st.registry.operators import Scope
from re6st.registry.service import Service
from re6st.registry.sqlite import APPLICATION_ID
from re6st.registry.state import StateDirectory
from re6st.registry.store import Store
from re6st.registry.usecases import digest

NETWORK = IPv6Network("2001:db8:42::/48")
PREFIXES = list(NETWORK.subnets(new_prefix=64))[:16]
NOW = 1_900_000_000.0
VERSIONS = [number for number, _ in schema_scripts("sqlite")]
TOKEN = "re6st-operators-token"


@pytest.fixture
def state(tmp_path):
    state = StateDirectory(tmp_path / "state")
    state.create(NETWORK, ["https://192.0.2.1:8443"])
    return state


def make_schema(state, newest):
    """Turn the database into one of version ``newest``, with what each version until then could hold.

    Return the certificates of its nodes by name.
    """
    with state.service() as service:
        authority, store = service.authority, service._store
        settings = store.execute("SELECT key, value FROM settings")
        documents = store.execute("SELECT kind, version, payload, signature FROM documents")
    state.database.unlink()
    state.database.touch(0o600)
    connection = sqlite3.connect(state.database, isolation_level=None)
    connection.create_function("prefix_text", 2, lambda first, length: "")
    connection.executescript(f"PRAGMA journal_mode = WAL; PRAGMA application_id = {APPLICATION_ID};")
    certificates = {}

    def add_node(number, name, **columns):
        prefix = PREFIXES[number]
        add("nodes", id=number + 1, name=name, prefix_first=prefix[0].packed, prefix_last=prefix[-1].packed,
            prefix_length=64, created=NOW, **columns)  # fmt: skip
        der = authority.issue_node(generate_key().public_key(), name, prefix, NOW)
        certificates[name] = der
        add("certificates", serial=parse_node_certificate(der).serial_hex, node=number + 1, der=der,
            key_digest=b"key", issued=NOW, expires=NOW + 86400, revoked=columns.get("released"))  # fmt: skip

    def add(table, **columns):
        marks = ", ".join("?" * len(columns))
        connection.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", list(columns.values())
        )

    def fill_1():
        """A member, a former one, and tokens in every state."""
        connection.executemany("INSERT INTO settings (key, value) VALUES (?, ?)", settings)
        connection.executemany("INSERT INTO documents VALUES (?, ?, ?, ?)", documents)
        add_node(0, "attic")
        add_node(1, "gone", released=NOW)
        for number, name in enumerate(["attic", "gone"], 1):
            add("tokens", id=number, digest=bytes([number]), name=name, prefix_length=64, created=NOW,
                expires=NOW + 60, used=NOW + 1, node=number, key_digest=b"key")  # fmt: skip
        add("tokens", id=3, digest=b"open", name="cellar", prefix_length=60, created=NOW, expires=NOW + 60)
        serial = parse_node_certificate(certificates["attic"]).serial_hex
        add("records", node=1, sequence=5, serial=serial, payload=b"p", signature=b"s", reachable=1,
            departed=0, software="x", published=NOW)  # fmt: skip

    def fill_2():
        """A suspended node, what is reserved, a token for several nodes, an operator, the audit log."""
        add_node(2, "shed", suspended=NOW)
        add("reservations", name="barn", prefix_first=PREFIXES[9][0].packed, prefix_length=64, created=NOW)
        add("tokens", id=4, digest=b"many", prefix_length=64, created=NOW, expires=NOW + 60, maximum_uses=5)
        add("token_uses", token=4, key_digest=b"key", node=3, used=NOW + 2)
        add("audit", id=7, time=NOW, actor_kind="local", actor="alice", origin="local",
            action="node.suspended", subject="shed", details="{}")  # fmt: skip
        add("operator_tokens", id=1, name="alice", digest=digest(TOKEN), scope="admin", created=NOW)
        add("answers", operator=1, key_digest=b"k", request_digest=b"r", status=200, answer=b"a", created=NOW)

    def fill_3():
        """A report, with what reports had to have from the beginning."""
        payload = (
            b'{"time": 1900000000.0, "uptime": 5.0, "software": "0.1", "reachability": "direct", "routes": 1,'
            b' "peers": 2, "parameters_version": 1, "revocations_version": 1}'
        )
        add("reports", node=1, received=NOW, payload=payload)

    def fill_4():
        """A former member whose prefix is free again."""
        add_node(3, "old", released=NOW - 40 * 86400, recycled=NOW)

    def fill_6():
        """A change that waits."""
        add("planned_parameters", id=2, due=NOW + 5, changes='{"hello_interval": "3"}', created=NOW)

    def fill_7():
        """Somebody who asks, and a mail that waits."""
        add("requests", id=3, digest=b"ask", key_digest=b"key", name="roof", message="m", origin="192.0.2.1",
            source="192.0.2.1", state="pending", reason="", created=NOW, expires=NOW + 60)  # fmt: skip
        add("mails", id=4, mailbox="a@example.org", source="192.0.2.1", state="waiting", reason="",
            created=NOW, due=NOW, attempts=0)  # fmt: skip

    def fill_8():
        """A group, who is in it and belongs to whom, and a link for it."""
        add(
            "node_groups",
            id=5,
            name="office",
            description="d",
            prefix_length=62,
            maximum_nodes=3,
            created=NOW,
        )
        connection.execute("UPDATE nodes SET node_group = 5, owner = 'anna' WHERE name = 'attic'")
        add("tokens", id=8, digest=b"desk", prefix_length=64, created=NOW, expires=NOW + 60, maximum_uses=2,
            node_group=5, owner="bert")  # fmt: skip

    def fill_9():
        """Further prefixes, one of them in quarantine."""
        for number, released in ((10, None), (11, NOW)):
            prefix = PREFIXES[number]
            add("further_prefixes", node=1, prefix_first=prefix[0].packed, prefix_last=prefix[-1].packed,
                prefix_length=64, created=NOW, released=released)  # fmt: skip

    fillers = {1: fill_1, 2: fill_2, 3: fill_3, 4: fill_4, 6: fill_6, 7: fill_7, 8: fill_8, 9: fill_9}
    for number, script in schema_scripts("sqlite"):
        if number <= newest:
            connection.executescript(script)
            fillers.get(number, lambda: None)()
            connection.execute(f"PRAGMA user_version = {number}")
    connection.close()
    return certificates


def tell(service):
    """Return what a registry says of itself."""
    return {
        "nodes": {
            view.node.name: (view.state(NOW + 10), view.node.prefix, view.reachable, view.software)
            for view in service.members()
        },
        "owners": {view.node.name: (view.node.group, view.node.owner) for view in service.members()},
        "further": {view.node.name: view.further for view in service.members() if view.further},
        "groups": [
            (row.name, row.prefix_length, row.maximum_nodes, service.count_group(row))
            for row in service.groups()
        ],
        "tokens": [(row.name, row.state(NOW + 10), row.uses, row.last_node) for row in service.tokens()],
        "links": [(row.group, row.owner) for row in service.tokens() if row.owner],
        "reservations": [(row.name, row.prefix) for row in service.reservations()],
        "audit": [(row.identifier, row.actor, row.action) for row in service.audit()],
        "operators": [row.name for row in service.operator_tokens()],
        "history": [(item.parameters.version, item.created) for item in service.parameter_history()],
        "plans": [(plan.identifier, dict(plan.changes)) for plan in service.plans()],
        "requests": [(row.identifier, row.name) for row in service.requests()],
        "reports": sorted(service._store.reports([1])),
    }


def expected(version):
    """Return what it must say after it came from this version."""
    nodes = {
        "attic": ("active", PREFIXES[0], True, "x"),
        "gone": ("released", PREFIXES[1], None, None),
        "shed": ("suspended", PREFIXES[2], None, None),
        "old": ("released", PREFIXES[3], None, None),
    }
    tokens = [
        ("attic", "used", 1, 1), ("gone", "used", 1, 2), ("cellar", "open", 0, None), (None, "open", 1, 3),
        (None, "open", 0, None)
    ]  # fmt: skip
    known = dict(list(nodes.items())[: 2 + (version >= 2) + (version >= 4)])
    owners = dict.fromkeys(known, ("default", ""))
    members = 1 + (version >= 2)
    groups = [("default", None, None, members), ("office", 62, 3, 1)]
    if version >= 8:
        owners["attic"] = ("office", "anna")
        groups[0] = ("default", None, None, members - 1)
    return {
        "nodes": known,
        "owners": owners,
        "further": {"attic": (PREFIXES[10],)} if version >= 9 else {},
        "groups": groups[: 1 + (version >= 8)],
        "links": [("office", "bert")] if version >= 8 else [],
        "tokens": tokens[: 3 + (version >= 2) + (version >= 8)],
        "reservations": [("barn", PREFIXES[9])] if version >= 2 else [],
        "audit": [(7, "alice", "node.suspended")] if version >= 2 else [],
        "operators": ["alice"] if version >= 2 else [],
        "history": [(1, None)],
        "plans": [(2, {"hello_interval": "3"})] if version >= 6 else [],
        "requests": [(3, "roof")] if version >= 7 else [],
        "reports": [1] if version >= 3 else [],
    }


def work_with(store, authority, version, certificates):
    """Assert that everything works on with what came from ``version``."""
    service = Service(store, authority, clock=lambda: NOW + 10)
    assert tell(service) == expected(version)
    assert service.authenticate(certificates["attic"]).node.name == "attic"
    if version >= 2:
        assert service.authenticate_operator(TOKEN, Scope.ADMIN).name == "alice"
    assert service.carry_out_plans() == (1 if version >= 6 else 0)
    assert service.change_parameters({"hello_interval": "2"}).version == (3 if version >= 6 else 2)
    service.revoke("attic")
    request = EnrolmentRequest(token=service.create_token(), request=build_request(generate_key(), "new"))
    new = parse_node_certificate(service.enrol(request).certificate)
    assert new.prefix == PREFIXES[2 if version < 2 else 3]


@pytest.mark.parametrize("version", VERSIONS)
def test_each_earlier_schema_is_migrated_with_all_its_data(state, version):
    certificates = make_schema(state, version)
    with Store.open(state.database) as store:
        assert store.find_damage() == []
        work_with(store, state.authority(), version, certificates)
    assert check(state) == []


def test_two_programs_may_migrate_at_once(state):
    make_schema(state, 1)
    failures = []

    def work():
        try:
            Store.open(state.database).close()
        except StorageError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with Store.open(state.database) as store:
        assert store.execute("PRAGMA user_version") == [(VERSIONS[-1],)]


def test_a_migration_that_fails_changes_nothing(state, monkeypatch):
    make_schema(state, 1)
    scripts = [(1, ""), (2, "CREATE TABLE half (x);\nSELECT nonsense();")]
    monkeypatch.setattr("re6st.registry.sqlite.schema_scripts", lambda kind: scripts)
    with pytest.raises(StorageError, match="nonsense"):
        Store.open(state.database)
    with sqlite3.connect(state.database) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert connection.execute("SELECT name FROM sqlite_schema WHERE name = 'half'").fetchall() == []
    connection.close()
