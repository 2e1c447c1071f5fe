"""What goes wrong on and around a node's host costs none of its tunnels.

registry  node1  node2
   |        |      |
===+========+======+===  internet: all addresses are public

The node that is troubled is node1; node2 does to it what strangers can.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from observing import PATIENCE, until

from re6st import status
from re6st.lab.bench_outage import babelds
from re6st.lab.lab import Lab
from re6st.lab.namespace import processes
from re6st.lab.ping_train import PingTrain
from re6st.status import TunnelStatus

CONTROL_PORT = 4226

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def lab(trio) -> Lab:
    settle(trio)
    return trio


@pytest.fixture
def train(lab) -> Iterator[PingTrain]:
    """Pings from node2 to node1, which work."""
    with PingTrain(lab.hosts["node2"].namespace, lab.nodes["node1"].address()) as running:
        assert running.wait_steady(1, PATIENCE)
        yield running


def tunnels(lab, name="node1"):
    """Return the tunnels of a node that are up, by their peer."""
    found = status.fetch(lab.nodes[name].runtime, "tunnels", list[TunnelStatus])
    return {one.peer: one for one in found if one.state == "up"}


def settle(lab: Lab) -> None:
    assert lab.wait_for_all_pairs(PATIENCE).complete
    until(lambda: len(tunnels(lab)) == 2, "node1 has its tunnels")


def handles(lab):
    return {peer: one.tunnel for peer, one in tunnels(lab).items()}


def open_sockets(lab, count):
    """Return TCP connections from node2 to the control API of node1, as far as they can be had."""
    address = (str(lab.hosts["node1"].address), CONTROL_PORT)
    opened = []
    with lab.hosts["node2"].namespace.entered():
        for _ in range(count):
            client = socket.socket()
            client.settimeout(0.5)
            opened.append(client)
            with contextlib.suppress(OSError):
                client.connect(address)
    return opened


def test_floods_and_garbage_disturb_nothing(lab, train):
    before = handles(lab)
    opened = open_sockets(lab, 300)
    try:
        with lab.hosts["node2"].namespace.entered():
            datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with datagrams:
            for port in (CONTROL_PORT, 4227, 4228):
                for size in (0, 1, 20, 1400):
                    with contextlib.suppress(OSError):
                        datagrams.sendto(os.urandom(size), (str(lab.hosts["node1"].address), port))
        for client in opened:
            with contextlib.suppress(OSError):
                client.send(b"POST /v1/tunnels HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n")
        assert train.wait_steady(2, PATIENCE, since=time.monotonic())
        assert handles(lab) == before
    finally:
        for client in opened:
            client.close()


def test_a_disk_that_takes_nothing_costs_no_tunnel(lab, train):
    """Every write to a file fails, also to the log."""
    node, pid = lab.nodes["node1"], lab.nodes["node1"].pid
    before = handles(lab)
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        # A new document, and a new record of a peer: both would be written.
        wanted = node.status().parameters_version + 1
        lab.registry.run("parameters", "set", "gossip_interval=100")
        until(lambda: node.status().parameters_version == wanted, "the parameters are in force")
        assert train.wait_steady(2, PATIENCE, since=time.monotonic())
        assert handles(lab) == before
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    assert node.running


def answered_probes(lab):
    """Return how many of its own probes were answered to node1 (RFC 4443, 4.2)."""
    with lab.hosts["node1"].namespace.entered():
        lines = Path("/proc/thread-self/net/snmp6").read_text().splitlines()
    return int(dict(line.split() for line in lines).get("Icmp6InType129", "0"))


@contextlib.contextmanager
def flow_without_answer(lab) -> Iterator[Callable[[], int]]:
    """Yield what sends a datagram from node1 to the registry's node, where it is taken in silence."""
    with lab.hosts["registry"].namespace.entered():
        silent = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with lab.hosts["node1"].namespace.entered():
        sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with silent, sender:
        silent.bind((lab.nodes["registry"].address(), 0))
        sender.connect(silent.getsockname()[:2])
        yield lambda: sender.send(bytes(200))


def test_without_a_free_file_descriptor_healthy_tunnels_stay(lab, train):
    pid = lab.nodes["node1"].pid
    before = handles(lab)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with flow_without_answer(lab) as send:
            for _ in range(4):
                seen = answered_probes(lab)
                until(lambda seen=seen: send() and answered_probes(lab) > seen, "a tunnel is probed")
        assert train.wait_steady(2, PATIENCE, since=time.monotonic())
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert handles(lab) == before


def test_a_hanging_process_of_a_tunnel_is_replaced(lab, train):
    before = tunnels(lab)["node2"]
    for pid in processes([lab.hosts["node1"].namespace]):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        if words[0] == "openvpn" and before.interface in words:
            os.kill(pid, signal.SIGSTOP)
            break
    assert train.wait_steady(2, PATIENCE, since=time.monotonic() + 2)

    def replaced():
        found = tunnels(lab).get("node2")
        return found is not None and found.tunnel != before.tunnel

    until(replaced, "there is a new tunnel to node2")
    until(lambda: not Path(f"/proc/{pid}").exists(), "the process that hangs is ended")


def test_a_hanging_babeld_is_replaced(lab, train):
    (pid,) = babelds(lab.nodes["node1"])
    before = handles(lab)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: pid not in babelds(lab.nodes["node1"]), "the babeld that hangs is killed")
    until(lambda: babelds(lab.nodes["node1"]), "another one takes its place")
    assert train.wait_steady(2, PATIENCE, since=time.monotonic())
    assert handles(lab) == before


class MovableClock:
    """Lets node1 run with a clock that can be set, by libfaketime; monotonic clocks are true."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._node = lab.nodes["node1"]
        self._offset = directory / "offset"
        self.set("+0")
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
        faked = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.environment = {
            **os.environ,
            **faked,
            "PATH": f"{directory}:{os.environ['PATH']}",
            "PYTHONPATH": str(directory),
        }
        # The daemon's children inherit nothing but PATH.
        lines = ["#!/bin/bash", *(f"export {name}='{value}'" for name, value in faked.items())]
        openvpn = directory / "openvpn"
        openvpn.write_text("\n".join([*lines, f'exec -a openvpn {shutil.which("openvpn")} "$@"', ""]))
        openvpn.chmod(0o755)
        # libfaketime 0.9.10 makes clock_nanosleep() fail when monotonic clocks are true.
        sleep = "import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds)\n"
        (directory / "sitecustomize.py").write_text(sleep)

    def set(self, offset: str) -> None:
        """Set the clock to the true time and ``offset``, for example ``+1d``."""
        self._offset.write_text(f"{offset}\n")

    def complaints(self) -> str:
        """Return what the doctor says is wrong, by the same clock."""
        done = self._node.host.start(
            self._node.command("doctor", "--json"), log="doctor.json", environment=self.environment
        )
        done.reap(PATIENCE)
        findings = json.loads((self._node.host.directory / "doctor.json").read_text())
        (self._node.host.directory / "doctor.json").unlink()
        return " ".join(one["check"] + one["detail"] for one in findings if one["verdict"] == "failed")


@pytest.fixture
def clock(lab, tmp_path, monkeypatch) -> Iterator[MovableClock]:
    clock = MovableClock(lab, tmp_path)
    lab.power_off("node1")
    with monkeypatch.context() as patched:
        for name, value in clock.environment.items():
            patched.setenv(name, value)
        lab.power_on("node1")
    settle(lab)
    yield clock
    lab.power_off("node1")
    lab.power_on("node1")
    settle(lab)


def test_a_clock_that_is_set_by_a_day_costs_no_tunnel(lab, clock, train):
    node = lab.nodes["node1"]
    before = handles(lab)
    for offset, direction in (("+1d", "forward by 86400 s"), ("-1d", "back by 172800 s")):
        clock.set(offset)
        until(lambda found=direction: found in node.log.read_text(), "the step is noticed")
        assert "clock" in clock.complaints()
        assert train.wait_steady(2, PATIENCE, since=time.monotonic())
        assert handles(lab) == before
    # By this clock the node's own certificate is not valid yet.
    until(lambda: "set the clock" in node.status().registry, "the node says why it has no registry")
    clock.set("+0")
    until(lambda: node.status().registry_reachable, "the registry is found again")
    assert train.wait_steady(2, PATIENCE, since=time.monotonic())
    assert handles(lab) == before
