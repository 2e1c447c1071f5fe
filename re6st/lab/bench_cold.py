"""Benchmark ``cold``: how soon a whole mesh works after all its machines are switched on at once.

The nodes are enrolled and the registry is up, but no node has run yet, so each knows only what it was
told when it joined. Counted from the start of the first daemon until every ordered pair of nodes has
answered. Each run begins with the same files.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from re6st.lab import worlds
from re6st.lab.lab import Lab
from re6st.lab.measurement import PAIRS_TIMEOUT, Options, Result, Series

SIZES = (5, 10, 20)


def run(options: Options) -> list[Result]:
    """Measure. Raises :class:`ChildError` when the mesh does not form."""
    series = Series("cold")
    for size in SIZES:
        with Lab(worlds.mixed(size), name=options.lab) as lab:
            lab.start_registry()
            lab.enrol()
            for node in lab.nodes.values():
                shutil.copytree(node.state, _snapshot(node.state))
            for number in range(1, options.runs + 1):
                series.add(f"{size} nodes", _start(lab), "s")
                options.step(f"  {size} nodes, run {number} of {options.runs}: {series.last:.1f} s")
                _stop(lab)
    return series.results()


def _start(lab: Lab) -> float:
    began = time.monotonic()
    with lab.pinger() as pinger:
        for node in lab.nodes.values():
            node.launch()
        before = time.monotonic() - began
        matrix = pinger.run(PAIRS_TIMEOUT, interval=0.1, until=lambda: any(lab.failures()))
    lab.check_daemons()
    if not matrix.complete:
        source, target = matrix.missing[0]
        raise lab.nodes[source].failure(
            f"does not reach {target} after {PAIRS_TIMEOUT:g} s, like {len(matrix.missing)} pairs in all"
        )
    for node in lab.nodes.values():
        node.wait_ready()
    return before + matrix.duration


def _stop(lab: Lab) -> None:
    """Stop all nodes, all at once, and put the files of the beginning back."""
    for node in lab.nodes.values():
        node.terminate()
    for node in lab.nodes.values():
        node.reap()
        shutil.rmtree(node.state)
        shutil.copytree(_snapshot(node.state), node.state)


def _snapshot(state: Path) -> Path:
    return state.with_name("state.enrolled")
