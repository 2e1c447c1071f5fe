"""The command re6st-registry as operators run it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from re6st.errors import Re6stError, RegistryUnavailableError, RevokedError
from re6st.identity import build_request, der_to_pem, generate_key, key_to_pem
from re6st.registry.cli import cli
from re6st.registry.client import ClientCertificate, JoinLink, RegistryClient, fetch_authorities

SCRIPT = Path(__file__).parents[2] / "scripts" / "re6st-registry"


class Operator:
    """Runs the command on one state directory."""

    def __init__(self, state):
        self.state = state

    def arguments(self, *arguments):
        return [sys.executable, str(SCRIPT), "--state", str(self.state), *arguments]

    def run(self, *arguments):
        return subprocess.run(
            self.arguments(*arguments), capture_output=True, text=True, check=False, timeout=30
        )

    def __call__(self, *arguments):
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, *arguments):
        done = self.run(*arguments)
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr


class QuickOperator(Operator):
    """Runs the command inside this process: starting Python takes longer than all the rest."""

    def __call__(self, *arguments):
        done = CliRunner().invoke(cli, ["--state", str(self.state), *arguments])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout


class Server:
    """A running ``serve`` that is waited for by the readiness notification."""

    def __init__(self, operator, directory):
        address = str(directory / "notify.sock")
        self.notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notifications.bind(address)
        self.notifications.settimeout(60)
        self.process = subprocess.Popen(
            operator.arguments("serve", "--listen", "127.0.0.1:0"),
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"NOTIFY_SOCKET": address},
        )

    def __enter__(self):
        assert self.notifications.recv(100) == b"READY=1"
        line = self.process.stdout.readline()
        assert line.startswith("Registry of 2001:db8:42::/48 listens on https://127.0.0.1:")
        self.url = line.split()[-1]
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self.process.stdout.close()
        self.notifications.close()


@pytest.fixture
def operator(tmp_path):
    operator = Operator(tmp_path / "state")
    operator("init", "--network", "2001:db8:42::/48")
    return operator


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A registry for commands that need nothing of their own."""
    operator = QuickOperator(tmp_path_factory.mktemp("quick") / "state")
    operator("init", "--network", "2001:db8:42::/48")
    return operator


async def enrol(link, directory):
    directory.mkdir()
    (authority,) = await fetch_authorities(link)
    key = generate_key()
    enrolment = await RegistryClient([link.url], [authority]).enrol(link.token, build_request(key, ""))
    files = ClientCertificate(directory / "certificate.pem", directory / "key.pem")
    files.certificate.write_bytes(der_to_pem(enrolment.certificate))
    files.key.write_bytes(key_to_pem(key))
    return RegistryClient([link.url], [authority], files)


def test_a_network_from_init_to_revocation(operator, tmp_path):
    with Server(operator, tmp_path) as server:
        operator("parameters", "set", f"registry_urls={server.url}", "hello_interval=2")
        output = operator("token", "create", "--name", "attic", "--prefix-length", "60", "--expires", "2h")
        link = JoinLink.parse(output)
        assert output == f"{link}\n"
        assert link.url.base == server.url
        client = asyncio.run(enrol(link, tmp_path / "node"))
        [node] = json.loads(operator("nodes", "--json"))
        assert (node["name"], node["prefix"], node["state"]) == ("attic", "2001:db8:42::/60", "active")
        assert node["address"] == "2001:db8:42::1"
        assert "attic" in operator("nodes")
        [token] = json.loads(operator("token", "list", "--json"))
        assert (token["state"], token["node"]) == ("used", "attic")
        parameters = json.loads(operator("parameters", "--json"))
        assert (parameters["version"], parameters["hello_interval"]) == (2, 2.0)
        assert json.loads(operator("parameters", "show", "--json")) == parameters

        asyncio.run(client.sample())
        assert "in quarantine until" in operator.run("revoke", "2001:db8:42::/60").stderr
        with pytest.raises(RevokedError):
            asyncio.run(client.sample())
        [node] = json.loads(operator("nodes", "--json"))
        assert node["state"] == "released"
        assert node["quarantine_until"] == pytest.approx(time.time() + 30 * 86400, abs=60)


def test_the_life_of_a_node_on_the_command_line(operator, tmp_path, monkeypatch):
    operator = QuickOperator(operator.state)
    monkeypatch.setenv("SUDO_USER", "alice")
    operator("parameters", "set", "registry_urls=https://192.0.2.1:8443")
    assert operator("reservation", "create", "attic", "--prefix-length", "62") == "2001:db8:42::/62\n"
    assert "attic" in operator("reservation", "list")
    operator("token", "create", "--name", "attic")
    operator("token", "create", "--uses", "5")
    operator("token", "revoke", "2")
    tokens = json.loads(operator("token", "list", "--json"))
    assert [(row["state"], row["uses"]) for row in tokens] == [("open", "0/1"), ("revoked", "0/5")]
    assert "there is no token 7" in operator.fails("token", "revoke", "7")
    assert "leave --name and --uses away" in operator.fails(
        "token", "create", "--return", "attic", "--name", "x"
    )

    with Server(operator, tmp_path) as server:
        link = JoinLink.parse(operator("token", "create", "--url", server.url))
        client = asyncio.run(enrol(link, tmp_path / "node"))
        [node] = json.loads(operator("nodes", "--json"))
        operator("rename", node["name"], "cellar")
        operator("suspend", "cellar")
        assert json.loads(operator("nodes", "show", "cellar", "--json"))["state"] == "suspended"
        with pytest.raises(RevokedError, match="suspended"):
            asyncio.run(client.sample())
        operator("resume", "cellar")
        asyncio.run(client.sample())
        operator("group", "create", "office", "--description", "2nd floor", "--maximum-nodes", "9")
        operator("group", "set", "office", "--prefix-length", "72", "--maximum-nodes", "none")
        operator("move", "cellar", "office")
        further = operator("add-prefix", "cellar", "--prefix-length", "70").strip()
        assert f"further prefixes: {further}" in operator("nodes", "show", "cellar")
        operator("remove-prefix", "cellar", further)
        assert "quarantine" not in operator("add-prefix", "cellar", "--prefix", further)
        operator("owner", "cellar", "anna@example.org")
        [found] = json.loads(operator("nodes", "--group", "office", "--owner", "anna@example.org", "--json"))
        assert (found["group"], found["owner"]) == ("office", "anna@example.org")
        assert operator("nodes", "--group", "default", "--json") == "[]\n"
        assert operator("nodes", "--unwell", "--json") == "[]\n"
        operator("owner", "cellar", "a" * 80 + "@example.org")
        # Whatever the terminal's width, a line has everything.
        [line] = operator("nodes").splitlines()[1:]
        assert line.split()[:5] == ["cellar", node["prefix"], "active", "office", "a" * 80 + "@example.org"]
        assert json.loads(operator("group", "list", "--json"))[1] == {
            "name": "office",
            "nodes": 1,
            "maximum_nodes": None,
            "prefix_length": 72,
            "description": "2nd floor",
        }
        assert "it has 1 nodes" in operator.fails("group", "remove", "office")
        shown = operator("nodes", "show", "cellar")
        assert f"certificate {node['serial']}: until" in shown
        link = JoinLink.parse(operator("token", "create", "--return", "cellar", "--url", server.url))
        again = asyncio.run(enrol(link, tmp_path / "again"))
        asyncio.run(again.sample())
        with pytest.raises(RevokedError):
            asyncio.run(client.sample())
        assert [row["prefix"] for row in json.loads(operator("nodes", "--json"))] == [node["prefix"]]
        operator("delete", "cellar")
        operator("group", "remove", "office")
        assert operator("nodes", "--json") == "[]\n"
    operator("reservation", "remove", "attic")

    change = f"hello_interval: {json.loads(operator('parameters', '--json'))['hello_interval']} -> 2.0\n"
    assert operator("parameters", "set", "--preview", "hello_interval=2") == change
    operator("parameters", "set", "hello_interval=2")
    assert operator("parameters", "diff") == change
    operator("parameters", "undo")
    history = json.loads(operator("parameters", "history", "--json"))
    assert [row["version"] for row in history] == [4, 3, 2, 1]

    entries = [json.loads(line) for line in operator("audit", "--json", "--since", "1h").splitlines()]
    assert {"token.created", "node.enrolled", "node.suspended", "node.deleted", "parameters.undone"} <= {
        entry["action"] for entry in entries
    }
    by = {(entry["actor_kind"], entry["actor"], entry["origin"]) for entry in entries}
    assert ("local", "alice", "local") in by
    assert ("joiner", "", "127.0.0.1") in by
    assert "hello_interval" in operator("audit")
    assert operator("audit", "--json", "--since", "2100-01-01") == ""


def test_backup_restore_and_check_on_the_command_line(operator, tmp_path):
    operator("operator-token", "create", "alice", "--scope", "write")
    assert "does not contain the CA's private key" in operator.run("backup", str(tmp_path / "b")).stderr
    assert "give it with --authority-key" in Operator(tmp_path / "new").fails("restore", str(tmp_path / "b"))
    other = Operator(tmp_path / "new")
    other("restore", str(tmp_path / "b"), "--authority-key", str(operator.state / "ca-key.pem"))
    [token] = json.loads(other("operator-token", "list", "--json"))
    assert (token["name"], token["scope"]) == ("alice", "write")
    other("operator-token", "revoke", "alice")
    assert other.run("check").stderr == "No problem found\n"
    (other.state / "ca-key.pem").chmod(0o644)
    assert "chmod 600" in other.fails("check")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_stops_cleanly(operator, tmp_path, number):
    with Server(operator, tmp_path) as server:
        server.process.send_signal(number)
        assert server.process.wait(10) == 0
        assert server.notifications.recv(100) == b"STOPPING=1"
        link = JoinLink.parse(operator("token", "create", "--url", server.url))
        with pytest.raises(RegistryUnavailableError):
            asyncio.run(fetch_authorities(link))
    assert not list(operator.state.glob("registry.sqlite3-*"))


def test_a_port_in_use(operator):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = operator.fails("serve", "--listen", f"127.0.0.1:{port}")
    assert f"cannot listen on 127.0.0.1:{port}: another program uses this port already" in message


def test_mistakes_are_one_line(operator, tmp_path):
    assert "is not empty: nothing in it is overwritten" in operator.fails(
        "init", "--network", "2001:db8::/48"
    )
    assert "did you mean hello_interval?" in operator.fails("parameters", "set", "hello_intervall=2")
    assert "is not KEY=VALUE" in operator.fails("parameters", "set", "hello_interval")
    assert "no registry URL yet" in operator.fails("token", "create")
    assert "from 49 to 120, not 48" in operator.fails(
        "token", "create", "--url", "https://r", "--prefix-length", "48"
    )
    assert "no member is called nobody" in operator.fails("revoke", "nobody")
    assert "is not an IPv6 prefix" in operator.fails("revoke", "2001:db8::x")
    assert "is not an address to listen on" in operator.fails("serve", "--listen", "8443")
    fresh = Operator(tmp_path / "fresh")
    assert "holds no registry" in fresh.fails("serve")
    assert "between /32 and /56" in fresh.fails("init", "--network", "2001:db8::/64")
    assert "does not begin with https://" in fresh.fails(
        "init", "--network", "2001:db8::/48", "--url", "http://r"
    )
    assert not fresh.state.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("token revoke 99999999999999999999999", "is not in the range"),
        ("token create --url https://r --expires 99999999w", "a hundred years"),
        ("parameters set hello_interval=2 hello_interval=3", "hello_interval is given twice"),
        ("parameters set hello_interval=soon", "hello_interval=soon: must be a number"),
        ("parameters set hello_interval=-1", "hello_interval=-1: must be 0.2 at least"),
        ("admission set requests=perhaps", "requests=perhaps: must be on or off"),
        ("admission set requests_pending=1.5", "must be a whole number"),
        ("admission set mail_security=some", "must be one of starttls, tls, none"),
        ("admission set mail_server=smtp.example.org", "must be HOST:PORT"),
        ("mail test somebody", "'somebody' is not an e-mail address"),
        ("group create r&d", "'r&d' cannot be a name"),
        ("group set default", "say what to change"),
        ("parameters cancel 7", "see re6st-registry parameters planned"),
    ],
)
def test_mistakes_are_told_to_people(quick, arguments, message):
    done = CliRunner().invoke(cli, ["--state", str(quick.state), *arguments.split()])
    assert isinstance(done.exception, Re6stError | SystemExit), done.exception
    assert message in done.output + str(done.exception)
    assert done.stdout == ""


@pytest.mark.parametrize(("options", "advice"), [("size=600k", "is full"), ("size=600k,ro", "read-only")])
def test_a_disk_that_takes_nothing(tmp_path, options, advice):
    disk, operator = tmp_path / "disk", QuickOperator(tmp_path / "disk" / "state")
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], check=True)
    try:
        operator("init", "--network", "2001:db8:42::/48")
        with contextlib.suppress(OSError), (disk / "fill").open("wb", buffering=0) as file:
            while "ro" not in options:
                file.write(bytes(4096))
        subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)
        for command in (["token", "create", "--url", "https://r"], ["backup", str(disk / "backup")]):
            done = CliRunner().invoke(cli, ["--state", str(operator.state), *command])
            assert isinstance(done.exception, Re6stError), done.exception
            assert advice in str(done.exception)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_changes_are_told(quick):
    def told(*arguments):
        done = CliRunner().invoke(cli, ["--state", str(quick.state), *arguments])
        assert (done.exit_code, done.stdout) == (0, ""), (done.output, done.exception)
        return done.stderr

    assert "requests: off -> on" in told("admission", "set", "requests=on")
    assert "Nothing is different" in told("admission", "set", "requests=on")
    assert "update_interval: 40.0 -> 30.0" in told("parameters", "set", "update_interval=30")
    assert "update_interval: 30.0 -> 40.0" in told("parameters", "undo")


def test_a_corrupted_database_is_refused(operator):
    database = operator.state / "registry.sqlite3"
    octets = bytearray(database.read_bytes())
    octets[8192:] = os.urandom(len(octets) - 8192)
    database.write_bytes(octets)
    for command in (("serve", "--listen", "127.0.0.1:0"), ("nodes",)):
        assert "corrupted" in operator.fails(*command)
    assert database.read_bytes() == octets


def test_a_locked_database_is_refused(operator):
    holder = sqlite3.connect(operator.state / "registry.sqlite3", isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    try:
        message = operator.fails("serve", "--listen", "127.0.0.1:0")
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    assert "is locked by another program" in message
    assert operator("nodes", "--json") == "[]\n"
