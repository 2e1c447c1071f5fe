"""Benchmark ``node``: what one node with ten tunnels costs its machine.

The node is behind a home router, so that UPnP is in use; its metrics are asked for before, so that
everything that it ever loads is loaded. It is started anew for each run, and measured when it has settled.
"""

from __future__ import annotations

import socket
import time

from re6st.errors import ConfigError
from re6st.lab import resources, worlds
from re6st.lab.daemons import Node
from re6st.lab.lab import Lab
from re6st.lab.measurement import PAIRS_TIMEOUT, Options, Result, Series, converged
from re6st.lab.namespace import processes
from re6st.status import SOCKET_NAME

SUBJECT = "subject"
TUNNELS = 10
SETTLING = 20.0
"""Seconds after the last change before anything is measured."""


def run(options: Options) -> list[Result]:
    """Measure. Raises :class:`ChildError` when the mesh does not form."""
    series = Series("node")
    with Lab(worlds.crowd_around(SUBJECT, TUNNELS), name=options.lab) as lab:
        lab.start_mesh(options.step)
        converged(lab)
        node = lab.nodes[SUBJECT]
        for number in range(1, options.runs + 1):
            if number > 1:
                node.stop()
                node.start()
                converged(lab)
            _settle(lab, node)
            _measure(node, options.window, series)
            options.step(f"  run {number} of {options.runs} is done")
    return series.results()


def _settle(lab: Lab, node: Node) -> None:
    """Wait until the node has its tunnels and has had some quiet."""
    deadline = time.monotonic() + PAIRS_TIMEOUT
    while (count := tunnels(node)) < TUNNELS:
        lab.check_daemons()
        if time.monotonic() > deadline:
            raise node.failure(f"has {count} instead of {TUNNELS} tunnels after {PAIRS_TIMEOUT:g} s")
        time.sleep(0.5)
    _ask_for_metrics(node)
    time.sleep(SETTLING)


def tunnels(node: Node) -> int:
    """Return how many tunnels of the node are up."""
    status = node.status()
    return status.tunnels_out + status.tunnels_in


def _measure(node: Node, window: float, series: Series) -> None:
    pids = list(processes([node.host.namespace]))
    daemon = [node.pid]
    groups = {
        "daemon": daemon,
        "openvpn, all tunnels": [pid for pid in pids if resources.program(pid) == "openvpn"],
        "babeld": [pid for pid in pids if resources.program(pid) == "babeld"],
        "whole node": pids,
    }
    before = {name: resources.processor_time(group) for name, group in groups.items()}
    began = time.monotonic()
    time.sleep(window)
    elapsed = time.monotonic() - began
    for name, group in groups.items():
        series.add(f"memory, {name}", resources.memory(group).total / 1024, "MB")
    series.add(
        "memory, daemon, PSS beside 10 other daemons", resources.proportional_memory(daemon) / 1024, "MB"
    )
    for name, group in groups.items():
        used = resources.processor_time(group) - before[name]
        series.add(f"idle processor time, {name}", 100 * used / elapsed, "% of a core")
    series.add("processes", len(pids), "processes")
    series.add("tunnels", tunnels(node), "tunnels")


def _ask_for_metrics(node: Node) -> None:
    """Fetch the metrics once, as a monitoring system would. Raises :class:`ConfigError`."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(node.runtime / SOCKET_NAME))
        connection.sendall(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
        with connection.makefile("rb") as answer:
            text = answer.read()
    if b" 200 " not in text.splitlines()[0] or b"re6st_tunnels" not in text:
        raise ConfigError(f"{node.name} gives no metrics: {text[:200]!r}")
