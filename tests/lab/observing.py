"""What end-to-end tests wait for and look at."""

import time

from re6st import status
from re6st.lab.lab import Lab
from re6st.status import TunnelStatus

PATIENCE = 90.0
"""Seconds that what must happen may take on a busy machine; normally it takes a small part of that."""


def until(condition, timeout=PATIENCE):
    """Return what ``condition`` says as soon as that is true."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)
    return value


def tunnels(lab: Lab, name: str) -> dict[str, TunnelStatus]:
    """Return the tunnels of a node that are up, by their peer."""
    found = status.fetch(lab.nodes[name].runtime, "tunnels", list[TunnelStatus])
    return {tunnel.peer: tunnel for tunnel in found if tunnel.state == "up"}
