"""Benchmark ``join``: how soon a new node is part of a running mesh of nine.

Counted from the start of the ``join`` command: through its end, the start of the daemon, to the first
answer of the registry's node, and to the first answer of the last node.
"""

from __future__ import annotations

import shutil
import time

from re6st.lab import topology, worlds
from re6st.lab.daemons import Node
from re6st.lab.lab import Lab
from re6st.lab.measurement import PAIRS_TIMEOUT, Options, Result, Series, converged
from re6st.lab.pinger import Pinger
from re6st.lab.topology import RouterKind

GUESTS = {
    "guest-public": None,
    "guest-upnp": RouterKind.UPNP,
    "guest-plain": RouterKind.PLAIN,
}
"""Who joins: one after the other, in each run anew."""

PING_INTERVAL = 0.02
"""Seconds: how exact the result is."""


def run(options: Options) -> list[Result]:
    """Measure. Raises :class:`ChildError` when the mesh does not form."""
    world = topology.load(topology.find("demo"))
    residents = list(world.nodes)
    series = Series("join")
    with Lab(worlds.with_guests(world, GUESTS), name=options.lab) as lab:
        lab.start_registry(options.step)
        lab.enrol(residents)
        lab.start_nodes(residents)
        converged(lab, residents)
        for number in range(1, options.runs + 1):
            for guest in GUESTS:
                _join(lab, guest, f"{guest}-{number}", residents, series)
                _send_away(lab.nodes[guest])
            options.step(f"  run {number} of {options.runs} is done")
    return series.results()


def _join(lab: Lab, guest: str, name: str, residents: list[str], series: Series) -> None:
    node = lab.nodes[guest]
    link = lab.registry.join_link(name)
    targets = {resident: lab.nodes[resident].address() for resident in residents}
    pairs = [(guest, resident) for resident in residents]
    began = time.monotonic()
    node.join(link, name)
    joined = time.monotonic() - began
    node.launch()
    with Pinger({guest: node.host.namespace}, targets, pairs=pairs) as pinger:
        before = time.monotonic() - began
        matrix = pinger.run(PAIRS_TIMEOUT, interval=PING_INTERVAL, until=lambda: not node.running)
    node.wait_ready()
    if pinger.missing:
        raise node.failure(f"does not reach {', '.join(target for _, target in pinger.missing)}")
    where = lab.topology.situation(guest).partition(" r-")[0]
    series.add(f"{where}: the join command alone", joined, "s")
    series.add(f"{where}: first ping", before + matrix.answered[guest, lab.registry.host.name], "s")
    series.add(f"{where}: all 9 nodes", before + matrix.duration, "s")


def _send_away(node: Node) -> None:
    node.stop()
    node.run("leave", "--yes")
    shutil.rmtree(node.state, ignore_errors=True)
    node.config.unlink(missing_ok=True)
    node.forget_address()
