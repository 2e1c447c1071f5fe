"""An office with two providers: both carry tunnels, and one that is lost without a sign costs seconds.

How long it takes is logged ("back after"), not asserted.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from conftest import formed_lab
from observing import until

from re6st import status
from re6st.lab import topology
from re6st.lab.lab import Lab
from re6st.lab.ping_train import PingTrain
from re6st.status import TunnelStatus
from re6st.tunnel.path_mtu import OVERHEAD_IPV4

HEALING = 120.0

logger = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with formed_lab(topology.load(topology.find("two-isps")), "isps") as built:
        yield built


def uplinks(lab: Lab) -> Counter[str]:
    """Return how many of the office's tunnels have carried something through which of its interfaces."""
    tunnels = status.fetch(lab.nodes["office"].runtime, "tunnels", list[TunnelStatus])
    return Counter(tunnel.uplink for tunnel in tunnels if tunnel.state == "up" and tunnel.mtu > 1280)


def packet_sizes(lab: Lab) -> set[tuple[str, int]]:
    """Return the interfaces through which the office's tunnels lead, and what these carry."""
    tunnels = status.fetch(lab.nodes["office"].runtime, "tunnels", list[TunnelStatus])
    return {(tunnel.uplink, tunnel.mtu) for tunnel in tunnels if tunnel.state == "up"}


def test_both_providers_carry_tunnels_and_losing_one_loses_no_connectivity(lab):
    until(lambda: uplinks(lab).keys() == {"eth0", "eth1"}, "tunnels through both providers", HEALING)
    until(lambda: uplinks(lab).total() == 5, "a tunnel to each other node", HEALING)
    each = {("eth0", 1400 - OVERHEAD_IPV4), ("eth1", 1500 - OVERHEAD_IPV4)}
    until(lambda: packet_sizes(lab) == each, "a size for each provider", HEALING)
    with PingTrain(lab.hosts["anna"].namespace, lab.nodes["office"].address()) as train:
        assert train.wait_steady(1, HEALING), "no connection before anything has changed"
        # Fibre is where the default route leads, and the office sees neither link nor route go.
        lab.cut_off("fibre")
        struck = time.monotonic()
        assert train.wait_steady(1, HEALING, since=struck + 0.5), "no connection after fibre was lost"
        logger.info("one provider lost: back after %.1f s", time.monotonic() - struck - 1)
        until(
            lambda: not uplinks(lab)["eth0"] and uplinks(lab)["eth1"] == 5,
            "tunnels through the other one",
            HEALING,
        )
        logger.info("all tunnels through the other provider after %.1f s", time.monotonic() - struck)
        assert train.wait_steady(1, HEALING)
