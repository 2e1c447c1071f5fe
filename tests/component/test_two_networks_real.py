"""One host in two networks: each has its own daemon, interfaces, ports, firewall table and babeld.

left (registry of both networks, node in both) <-- veth --> right (node in both)
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
DEADLINE = 40.0
NETWORKS = {"home": "2001:db8:42::/48", "work": "2001:db8:43::/48"}
ADDRESSES = {"left": "20.9.0.1", "right": "20.9.0.2"}


class Host:
    """A namespace with the configuration files of two networks."""

    def __init__(self, name, directory):
        self.name = name
        self.namespace = f"two{os.getpid()}-{name}"
        self.directory = directory / name
        self.directory.mkdir()
        self.processes = []

    def run(self, *argv, check=True):
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace, *map(str, argv)],
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *argv):
        log = (self.directory / f"log{len(self.processes)}").open("w")
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, *map(str, argv)], stdout=log, stderr=log
        )
        self.processes.append(process)
        return process

    def node(self, network, *arguments):
        config = self.directory / f"{network}.toml"
        return [sys.executable, SCRIPTS / "re6st-node", "--network", network, "--config", config, *arguments]

    def join(self, network, link):
        self.run(
            *self.node(network, "join", link),
            *("--state-directory", self.directory / f"state-{network}"),
            *("--runtime-directory", self.directory / f"run-{network}"),
            *("--name", self.name),
        )

    def status(self, network):
        try:
            return json.loads(self.run(*self.node(network, "status", "--json")))
        except AssertionError:
            return None

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(20)


def registry(*arguments):
    return [sys.executable, SCRIPTS / "re6st-registry", *arguments]


@pytest.fixture
def directory():
    """Return a directory of its own with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="two") as path:
        yield Path(path)


@pytest.fixture
def hosts(directory):
    left, right = Host("left", directory), Host("right", directory)
    for host in (left, right):
        subprocess.run(["ip", "netns", "add", host.namespace], check=True)
    try:
        left.run(
            "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", right.namespace
        )
        for host in (left, right):
            host.run("ip", "link", "set", "lo", "up")
            host.run("ip", "address", "add", f"{ADDRESSES[host.name]}/24", "dev", "eth0")
            host.run("ip", "link", "set", "eth0", "up")
        yield left, right
    finally:
        for host in (left, right):
            host.stop()
            subprocess.run(["ip", "netns", "del", host.namespace], check=True)


def wait_until(condition, what):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {DEADLINE} s"
        time.sleep(0.2)


def start_network(hosts, network, port):
    """Start a registry for ``network``, let both hosts join and run."""
    left = hosts[0]
    state = left.directory / f"registry-{network}"
    url = f"https://{ADDRESSES['left']}:{port}"
    left.run(*registry("--state", state, "init", "--network", NETWORKS[network], "--url", url))
    left.start(*registry("--state", state, "serve", "--listen", f"{ADDRESSES['left']}:{port}"))
    wait_until(lambda: f":{port}" in left.run("ss", "-ltn"), "the registry's start")
    for host in hosts:
        host.join(network, left.run(*registry("--state", state, "token", "create")).strip())
    return [host.start(*host.node(network, "run")) for host in hosts]


def test_two_networks_on_one_host_do_not_disturb_each_other(hosts):
    left, right = hosts
    daemons = {network: start_network(hosts, network, 8443 + i) for i, network in enumerate(NETWORKS)}

    def connected(network):
        status = right.status(network)
        return status is not None and status["routes"] == 1

    addresses = {}
    for network in NETWORKS:
        wait_until(partial(connected, network), f"the mesh of {network}")
        addresses[network] = left.status(network)["address"]
        assert "1 received" in right.run("ping", "-c", "1", "-W", "3", addresses[network])
    tables = right.run("nft", "list", "tables")
    assert "re6st_home" in tables
    assert "re6st_work" in tables

    daemons["home"][1].terminate()
    assert daemons["home"][1].wait(20) == 0
    assert "1 received" in right.run("ping", "-c", "1", "-W", "3", addresses["work"])
    assert right.run("cat", "/proc/sys/net/ipv6/conf/all/forwarding").strip() == "1"
    left_over = right.run("nft", "list", "tables") + right.run("ip", "-6", "route")
    assert "re6st_home" not in left_over
    assert "2001:db8:42:" not in left_over
    assert "re6st_work" in left_over

    daemons["work"][1].terminate()
    assert daemons["work"][1].wait(20) == 0
    assert right.run("cat", "/proc/sys/net/ipv6/conf/all/forwarding").strip() == "0"
