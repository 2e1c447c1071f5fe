"""A laptop moves and sleeps while somebody pings it: it is back by itself, and found at its new place.

registry anna boris     cafe (NAT)  hotel (NAT)
   |      |     |          |            |
===+======+=====+==========+============+====  internet: hosting and town

How long it takes is logged ("back after"), not asserted.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from re6st import status
from re6st.lab import topology
from re6st.lab.lab import Lab
from re6st.lab.leftovers import assert_clean, host_interfaces
from re6st.lab.namespace import processes
from re6st.lab.ping_train import PingTrain
from re6st.status import PeerStatus

FORMING = 90.0
HEALING = 60.0
LONG_SLEEP = 9.0
"""Seconds: long enough for peers to give the laptop up."""

logger = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    name = f"t{os.getpid()}move"
    before = host_interfaces()
    with Lab(topology.load(topology.find("moving")), name=name) as built:
        built.start_mesh()
        assert built.wait_for_all_pairs(FORMING).complete
        yield built
    assert_clean(name)
    assert host_interfaces() == before


def is_back(lab: Lab, what: str, strike: Callable[[], None]) -> None:
    """Assert that anna reaches the laptop again after ``strike``, and log how soon."""
    with PingTrain(lab.hosts["anna"].namespace, lab.nodes["laptop"].address()) as train:
        assert train.wait_steady(1, HEALING), "no connection before anything has changed"
        strike()
        struck = time.monotonic()
        assert train.wait_steady(1, HEALING, since=struck + 0.5), f"no connection after {what}"
        logger.info("%s: back after %.1f s", what, time.monotonic() - struck - 1)


def known_endpoints(lab: Lab, node: str) -> list[str]:
    """Return where ``node`` believes the laptop to be."""
    peers = status.fetch(lab.nodes[node].runtime, "peers", list[PeerStatus])
    return next((peer.endpoints for peer in peers if peer.name == "laptop"), [])


def is_published(lab: Lab) -> bool:
    here = f"tcp:{lab.hosts['laptop'].address}:4226"
    return all(known_endpoints(lab, node) == [here] for node in ("anna", "boris"))


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + HEALING
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.1)


def test_from_one_router_to_another(lab):
    is_back(lab, "cafe to hotel", lambda: lab.move("laptop", "hotel"))


def test_to_a_public_address_and_to_the_next_one(lab):
    is_back(lab, "hotel to a public address", lambda: lab.move("laptop", "town"))
    until(lambda: is_published(lab), "the public address is known to peers")
    # Now peers dial it, too: it is a listener that moves.
    for node in ("anna", "boris"):
        lab.nodes[node].stop()
        lab.nodes[node].start()
    assert lab.wait_for_all_pairs(FORMING).complete
    is_back(lab, "public address to another one", lambda: lab.move("laptop", "hosting"))
    until(lambda: is_published(lab), "the other public address is known to peers")


def test_a_long_sleep(lab):
    """All processes of the laptop stand still until its peers have dropped their tunnels, then go on."""
    pids = sorted(processes([lab.hosts["laptop"].namespace]))

    def sleep() -> None:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        fallen_asleep = time.monotonic()
        try:
            until(lambda: time.monotonic() - fallen_asleep > LONG_SLEEP, "the sleep")
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    is_back(lab, "a long sleep", sleep)
    until(lambda: "has slept for" in lab.nodes["laptop"].log.read_text(), "the pause is noticed")
