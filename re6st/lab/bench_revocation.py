"""Benchmark ``revocation``: how soon a node that the operator keeps out is cut off by all others.

Counted from the start of the ``re6st-registry`` command to the moment when no other node has a tunnel to the
node, nor a route to its prefix. Only nodes know revocations and enforce them, so this is how long it takes
that all of them have heard of it. A suspension is measured, since it can be taken back for the next run; a
revocation goes the same way.
"""

from __future__ import annotations

import time

from re6st import status
from re6st.errors import ChildError
from re6st.lab import worlds
from re6st.lab.lab import Lab
from re6st.lab.measurement import PAIRS_TIMEOUT, Options, Result, Series, converged
from re6st.status import RouteStatus, TunnelStatus

NODES = 10


def run(options: Options) -> list[Result]:
    """Measure. Raises :class:`ChildError` when somebody does not cut the node off."""
    series = Series("revocation")
    with Lab(worlds.mixed(NODES), name=options.lab) as lab:
        lab.start_mesh(options.step)
        converged(lab)
        victims = [name for name in lab.nodes if name != lab.topology.registry]
        for number in range(options.runs):
            victim = victims[number % len(victims)]
            series.add(f"suspension, {NODES} nodes", withdraw(lab, "suspend", victim), "s")
            options.step(f"  run {number + 1} of {options.runs}: {victim} after {series.last:.2f} s")
            lab.registry.run("resume", victim)
            converged(lab)
    return series.results()


def withdraw(lab: Lab, command: str, victim: str, timeout: float = PAIRS_TIMEOUT) -> float:
    """Have the registry ``suspend`` or ``revoke`` a node; return after how many seconds it was cut off.

    Raises :class:`ChildError` if it is not after ``timeout`` seconds.
    """
    others = [name for name in lab.nodes if name != victim]
    began = time.monotonic()
    lab.registry.run(command, victim)
    # All at the same time: who has not cut it off yet may announce a route to those who have.
    while remaining := [name for name in others if knows(lab, name, victim)]:
        if time.monotonic() - began > timeout:
            raise ChildError(f"{timeout:g} s after {command} {victim} is not cut off by {remaining}")
        time.sleep(0.1)
    return time.monotonic() - began


def knows(lab: Lab, name: str, victim: str) -> bool:
    """Say whether the node ``name`` has a tunnel to ``victim`` or a route to its prefix."""
    node = lab.nodes[name]
    tunnels = status.fetch(node.runtime, "tunnels", list[TunnelStatus])
    routes = status.fetch(node.runtime, "routes", list[RouteStatus])
    return any(one.peer == victim and one.state == "up" for one in tunnels) or any(
        one.peer == victim and one.installed and one.metric < 65535 for one in routes
    )
