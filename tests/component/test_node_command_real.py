"""The command re6st-node as a person meets it: joining, starting, and everything that can be missing."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
NODE = [sys.executable, str(SCRIPTS / "re6st-node")]
REGISTRY = [sys.executable, str(SCRIPTS / "re6st-registry")]
DEADLINE = 90.0


def run(argv, **options):
    return subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        stdin=subprocess.DEVNULL,
        check=False,
        **options,
    )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, what):
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {DEADLINE} s")


def is_alive(pid):
    """Return whether the process exists and is no zombie that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Registry:
    """A real registry on loopback."""

    def __init__(self, directory):
        self.state = directory / "registry"
        self.port = free_port()
        url = f"https://127.0.0.1:{self.port}"
        made = run([*REGISTRY, "--state", self.state, "init", "--network", "2001:db8:42::/48", "--url", url])
        assert made.returncode == 0, made.stderr
        self.process = subprocess.Popen(
            [*REGISTRY, "--state", self.state, "serve", "--listen", f"127.0.0.1:{self.port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self.listens, "the registry's start")

    def listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def link(self, *options):
        made = run([*REGISTRY, "--state", self.state, "token", "create", *options])
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def nodes(self):
        return json.loads(run([*REGISTRY, "--state", self.state, "nodes", "--json"]).stdout)

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    registry = Registry(tmp_path_factory.mktemp("registry"))
    yield registry
    registry.stop()


class Node:
    """A node with all its files below one directory."""

    def __init__(self, directory):
        self.config = directory / "node.toml"
        self.state = directory / "state"
        self.runtime = directory / "run"

    def command(self, *arguments, **options):
        return run([*NODE, "--config", self.config, *arguments], **options)

    def join(self, link, *options):
        return self.command(
            "join", link, "--state-directory", self.state, "--runtime-directory", self.runtime, *options
        )


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


@pytest.fixture
def joined(registry, tmp_path):
    node = Node(tmp_path)
    result = node.join(registry.link(), "--name", f"node{os.urandom(4).hex()}")
    assert result.returncode == 0, result.stderr
    return node


def test_a_join_writes_everything_and_says_what_comes_next(registry, node):
    result = node.join(registry.link("--name", "attic"))
    assert result.returncode == 0, result.stderr
    assert "as attic" in result.stdout
    assert re.search(r"prefix +2001:db8:42:[0-9a-f:]*/64", result.stdout)
    assert "re6st-node" in result.stdout
    assert stat.S_IMODE((node.state / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(node.state.stat().st_mode) == 0o700
    assert not (node.state / "key.pem.new").exists()
    assert f"https://127.0.0.1:{registry.port}" in node.config.read_text()
    assert any(entry["name"] == "attic" for entry in registry.nodes())


def test_joining_again_keeps_key_and_certificate(registry, joined):
    before = (joined.state / "key.pem").read_bytes(), (joined.state / "certificate.pem").read_bytes()
    result = joined.join(registry.link())
    assert result.returncode == 78
    assert "--force" in result.stderr
    assert before == (
        (joined.state / "key.pem").read_bytes(),
        (joined.state / "certificate.pem").read_bytes(),
    )


def test_a_request_survives_a_kill_and_is_approved(registry, node):
    def operate(*arguments):
        done = run([*REGISTRY, "--state", registry.state, *arguments])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def waiting():
        return [row for row in json.loads(operate("requests", "list", "--json")) if row["name"] == "tower"]

    link = operate("admission", "link").strip()
    refused = node.join(link, "--name", "tower")
    assert refused.returncode == 1
    assert "put it in quotes" in refused.stderr
    assert "sends no join links" in node.join(link, "--email", "anna@example.org").stderr
    operate(
        "admission",
        "set",
        "mail_server=127.0.0.1:9",
        "mail_sender=re6st@example.org",
        "mail_domains=*",
        "mail=on",
    )
    assert "one is on its way" in node.join(link, "--email", "anna@example.org").stdout
    assert not node.config.exists()
    operate("admission", "set", "mail=off")
    [mail] = json.loads(operate("mail", "list", "--json"))
    assert mail["mailbox"] == "anna@example.org"
    operate("admission", "set", "requests=on")
    asks = [*NODE, "--config", str(node.config), "join", link, "--name", "tower", "--message", "Anna",
            "--state-directory", str(node.state), "--runtime-directory", str(node.runtime)]  # fmt: skip
    first = subprocess.Popen(asks, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(waiting, "the request")
    first.kill()
    first.wait()
    second = subprocess.Popen(asks, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    shown = ""
    while "Waiting" not in shown:
        line = second.stdout.readline()
        assert line, shown
        shown += line
    [row] = waiting()
    assert row["message"] == "Anna"
    assert row["key"] in "".join(shown.split())
    operate("requests", "approve", str(row["id"]), "--prefix-length", "72")
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0, shown + output
    assert "as tower" in output
    assert not list(node.state.glob("request.token"))
    operate("admission", "set", "requests=off")


def test_a_join_that_was_interrupted_late_is_completed(registry, joined):
    before = joined.config.read_text()
    joined.config.unlink()
    result = joined.join(registry.link())
    assert result.returncode == 0, result.stderr
    assert joined.config.read_text() == before


def test_force_replaces_them(registry, joined):
    before = (joined.state / "key.pem").read_bytes()
    result = joined.join(registry.link(), "--force", "--name", f"again{os.urandom(4).hex()}")
    assert result.returncode == 0, result.stderr
    assert (joined.state / "key.pem").read_bytes() != before


def test_a_failed_forced_join_keeps_the_old_credentials(registry, joined):
    before = (joined.state / "key.pem").read_bytes(), (joined.state / "certificate.pem").read_bytes()
    link = re.sub("token=.*", f"token={'A' * 43}", registry.link())
    result = joined.join(link, "--force")
    assert result.returncode != 0
    assert before == (
        (joined.state / "key.pem").read_bytes(),
        (joined.state / "certificate.pem").read_bytes(),
    )


def test_a_wrong_fingerprint_sends_nothing_and_says_so(registry, node):
    link = registry.link()
    wrong = re.sub("ca=[0-9a-f]{64}", f"ca={'0' * 64}", link)
    result = node.join(wrong)
    assert result.returncode == 78
    assert "fingerprint" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (node.state / "certificate.pem").exists()
    assert not node.config.exists()
    assert node.join(link).returncode == 0, "the token was not used up"


def test_a_used_token_is_refused(registry, joined, tmp_path):
    link = registry.link()
    assert Node(tmp_path / "one").join(link, "--name", f"a{os.urandom(4).hex()}").returncode == 0
    result = Node(tmp_path / "two").join(link, "--name", f"b{os.urandom(4).hex()}")
    assert result.returncode != 0
    assert "used" in result.stderr


def test_an_interrupted_join_gets_the_same_prefix_again(registry, tmp_path):
    link = registry.link("--name", f"late{os.urandom(4).hex()}")
    first, second = Node(tmp_path / "first"), Node(tmp_path / "second")
    assert first.join(link).returncode == 0
    second.state.mkdir(parents=True)
    # The machine went down after the registry had answered: only the new key is on the disk.
    (second.state / "key.pem.new").write_bytes((first.state / "key.pem").read_bytes())
    result = second.join(link)
    assert result.returncode == 0, result.stderr
    assert (second.state / "certificate.pem").read_bytes() == (first.state / "certificate.pem").read_bytes()


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("nonsense", "https://"),
        ("https://127.0.0.1:1/", "'#'"),
        (f"https://127.0.0.1:1/#ca={'0' * 64}&token={'A' * 43}", "cannot be reached"),
    ],
)
def test_a_bad_link_is_said_in_one_line(node, link, words):
    result = node.join(link)
    assert result.returncode != 0
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_running_before_joining_says_what_to_do(node):
    result = node.command("run")
    assert result.returncode == 78
    assert "join" in result.stderr


def test_all_mistakes_of_a_configuration_are_told(node):
    node.config.write_text("control-port = 0\ncolour = 'green'\n")
    result = node.command("run")
    assert result.returncode == 78
    assert len(result.stderr.strip().splitlines()) == 2
    assert str(node.config) in result.stderr


def test_status_of_a_node_that_does_not_run(joined):
    result = joined.command("status")
    assert result.returncode == 1
    assert "the node does not run" in result.stderr


# -- what can be missing on this machine ------------------------------------------------------------


def test_not_being_root_is_said(joined, tmp_path_factory):
    for path in (joined.config.parent, *tmp_path_factory.getbasetemp().parents[:2]):
        path.chmod(0o755)
    tmp_path_factory.getbasetemp().chmod(0o755)
    result = run(
        ["setpriv", "--reuid", "65534", "--clear-groups", *NODE, "--config", joined.config, "run"],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert result.returncode == 78, result.stderr
    # Another test session closes the directory above to others.
    assert "must run as root" in result.stderr or "are you root?" in result.stderr


def test_a_missing_tun_device_is_said(joined):
    script = 'mount -t tmpfs none /dev/net && exec "$@"'
    result = run(["unshare", "-m", "sh", "-c", script, "sh", *NODE, "--config", joined.config, "run"])
    assert result.returncode == 78
    assert "/dev/net/tun is missing" in result.stderr


@pytest.mark.parametrize(
    ("name", "prints", "words"),
    [
        ("openvpn", "OpenVPN 2.4.7 x86_64-pc-linux-gnu", "openvpn 2.4.7 is too old, 2.6 or newer"),
        ("babeld", "babeld-1.8.4", "babeld 1.8.4 is too old, 1.12 or newer"),
    ],
)
def test_a_program_that_is_too_old_is_said(joined, tmp_path, name, prints, words):
    directory = tmp_path / "old"
    directory.mkdir()
    program = directory / name
    program.write_text(f"#!/bin/sh\necho '{prints}'\n")
    program.chmod(0o755)
    result = joined.command("run", env=os.environ | {"PATH": f"{directory}:{os.environ['PATH']}"})
    assert result.returncode == 78
    assert words in result.stderr


def test_missing_programs_are_said_with_their_packages(joined):
    script = 'mount -t tmpfs none /usr/sbin && exec "$@"'
    result = run(["unshare", "-m", "sh", "-c", script, "sh", *NODE, "--config", joined.config, "run"])
    assert result.returncode == 78
    assert "apt-get install openvpn" in result.stderr
    assert "apt-get install babeld" in result.stderr


# -- the daemon -------------------------------------------------------------------------------------


class Daemon:
    """A daemon in a network namespace of its own."""

    SCRIPT = 'ip link set lo up; exec "$@"'

    def __init__(self, node):
        self.node = node
        self.process = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", self.SCRIPT, "sh", *NODE, "--config", node.config, "run"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_running(self):
        wait_until(
            lambda: self.node.command("status").returncode == 0 or self.process.poll() is not None, "a start"
        )

    def hold_namespace(self):
        """Return a process that keeps the namespace when the daemon has gone."""
        holder = subprocess.Popen(["nsenter", "-t", str(self.process.pid), "-n", "sleep", "60"])
        wanted = Path(f"/proc/{self.process.pid}/ns/net").readlink()
        wait_until(lambda: Path(f"/proc/{holder.pid}/ns/net").readlink() == wanted, "entering")
        return holder

    def inside(self, *argv):
        return run(["nsenter", "-t", str(self.process.pid), "-n", *argv]).stdout

    def traces(self):
        return (
            self.inside("ip", "-6", "route")
            + self.inside("ip", "-6", "-o", "address", "show", "dev", "lo")
            + self.inside("nft", "list", "ruleset")
            + self.inside("ip", "-o", "link")
        )


def test_a_daemon_comes_up_alone_and_goes_without_a_trace(joined):
    daemon = Daemon(joined)
    try:
        daemon.wait_running()
        status = json.loads(joined.command("status", "--json").stdout)
        assert status["pid"] == daemon.process.pid
        assert status["routing"] == "running"
        assert "2001:db8:42" in daemon.traces()
        assert "re6st_" in daemon.traces()
        for resource in ("peers", "tunnels", "routes"):
            assert json.loads(joined.command(resource, "--json").stdout) == []
        assert "outgoing only" in joined.command("status").stdout
        second = joined.command("run")
        assert second.returncode == 78
        assert "another re6st-node runs" in second.stderr
        holder = daemon.hold_namespace()
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(DEADLINE) == 0
        left = run(["nsenter", "-t", str(holder.pid), "-n", "ip", "-6", "route"]).stdout
        left += run(["nsenter", "-t", str(holder.pid), "-n", "nft", "list", "ruleset"]).stdout
        left += run(["nsenter", "-t", str(holder.pid), "-n", "ip", "-o", "address"]).stdout
        holder.kill()
        holder.wait()
        assert "2001:db8:42" not in left
        assert "re6st" not in left
        assert not joined.runtime.exists()
    finally:
        daemon.process.kill()
        output = daemon.process.communicate()[0]
        assert "Traceback" not in output, output


def babeld_pid(joined):
    try:
        return int((joined.runtime / "babeld.pid").read_text())
    except (FileNotFoundError, ValueError):
        return None


def test_a_start_after_kill_9_cleans_up_what_was_left_and_so_does_leaving(joined):
    daemon = Daemon(joined)
    holder = None
    try:
        daemon.wait_running()
        wait_until(lambda: babeld_pid(joined) is not None, "babeld")
        babeld = babeld_pid(joined)
        holder = daemon.hold_namespace()
        daemon.process.kill()
        daemon.process.communicate()
        assert is_alive(babeld), "children outlive the daemon"
        again = subprocess.Popen(
            ["nsenter", "-t", str(holder.pid), "-n", *NODE, "--config", joined.config, "run"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_until(lambda: babeld_pid(joined) not in (None, babeld), "the second start")
        assert not is_alive(babeld)
        babeld = babeld_pid(joined)
        again.kill()
        again.communicate()
        inside = ["nsenter", "-t", str(holder.pid), "-n"]
        left = run([*inside, *NODE, "--config", joined.config, "leave", "--yes", "--force"])
        assert left.returncode == 0, left.stderr
        assert not is_alive(babeld)
        assert not joined.runtime.exists()
        assert "2001:db8:42" not in run([*inside, "ip", "-6", "route"]).stdout
        assert "re6st" not in run([*inside, "nft", "list", "tables"]).stdout
    finally:
        daemon.process.kill()
        if holder is not None:
            holder.kill()
            holder.wait()


def test_a_control_port_in_use_is_said_and_nothing_stays(joined):
    port = 4226
    listener = f"import socket,time; s=socket.socket(); s.bind(('', {port})); s.listen(); time.sleep(60)"
    script = (
        f'ip link set lo up; {sys.executable} -c "{listener}" >/dev/null 2>&1 & listener=$!;'
        ' while ! ss -ltn | grep -q 4226; do sleep 0.05; done; "$@"; code=$?; kill $listener; exit $code'
    )
    result = run(["unshare", "-n", "sh", "-c", script, "sh", *NODE, "--config", joined.config, "run"])
    assert result.returncode == 78, result.stderr
    assert f"TCP port {port} is in use" in result.stderr
    assert "control-port" in result.stderr
    assert not joined.runtime.exists()


def test_leaving_removes_the_keys_and_gives_the_prefix_back(registry, joined):
    name = json.loads(run([*REGISTRY, "--state", registry.state, "nodes", "--json"]).stdout)[-1]["name"]
    result = joined.command("leave", "--yes")
    assert result.returncode == 0, result.stderr
    assert not (joined.state / "key.pem").exists()
    assert not joined.config.exists()
    gone = [entry for entry in registry.nodes() if entry["name"] == name]
    assert not gone or gone[0].get("state") != "active"


def test_leaving_without_the_registry_keeps_the_keys(registry, joined):
    text = joined.config.read_text().replace(str(registry.port), "1")
    joined.config.write_text(text)
    parameters = joined.state / "parameters.json"
    parameters.unlink()
    result = joined.command("leave", "--yes")
    assert result.returncode != 0
    assert "--force" in result.stderr
    assert (joined.state / "key.pem").exists()
    assert joined.command("leave", "--yes", "--force").returncode == 0
    assert not (joined.state / "key.pem").exists()


def test_leave_asks_first(joined):
    result = joined.command("leave")
    assert result.returncode != 0
    assert (joined.state / "key.pem").exists()
