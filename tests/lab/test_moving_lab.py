"""A laptop moves and sleeps, a desk's router connects anew, while somebody pings them and a transfer
runs: they are back by themselves, found at their new place, and no octet is lost.

registry anna boris     cafe (NAT)  hotel (NAT)  home (UPnP) - desk
   |      |     |          |            |          |
===+======+=====+==========+============+==========+====  internet: hosting and town

How long it takes is logged ("back after"), not asserted.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from conftest import FORMING, formed_lab
from observing import Transfer, until

from re6st import status
from re6st.lab import topology
from re6st.lab.lab import Lab
from re6st.lab.namespace import processes
from re6st.lab.ping_train import PingTrain
from re6st.status import NodeStatus, PeerStatus

HEALING = 60.0
LONG_SLEEP = 9.0
"""Seconds: long enough for peers to give the laptop up."""

logger = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with formed_lab(topology.load(topology.find("moving")), "move") as built:
        yield built


def is_back(lab: Lab, what: str, strike: Callable[[], None], target: str = "laptop") -> None:
    """Assert that anna reaches ``target`` again after ``strike``, and log how soon; a transfer goes on."""
    with PingTrain(lab.hosts["anna"].namespace, lab.nodes[target].address()) as train:
        assert train.wait_steady(1, HEALING), "no connection before anything has changed"
        transfer = Transfer(lab, "anna", target)
        strike()
        struck = time.monotonic()
        assert train.wait_steady(1, HEALING, since=struck + 0.5), f"no connection after {what}"
        logger.info("%s: back after %.1f s", what, time.monotonic() - struck - 1)
        assert transfer.goes_on(), f"the transfer stands still after {what}"
        logger.info("%s: the transfer goes on after %.1f s", what, time.monotonic() - struck)
        assert transfer.complete(), f"octets were lost at {what}"


def known_endpoints(lab: Lab, node: str, target: str = "laptop") -> list[str]:
    """Return where ``node`` believes ``target`` to be."""
    peers = status.fetch(lab.nodes[node].runtime, "peers", list[PeerStatus])
    return next((peer.endpoints for peer in peers if peer.name == target), [])


def is_published(lab: Lab) -> bool:
    here = f"tcp:{lab.hosts['laptop'].address}:4226"
    return all(known_endpoints(lab, node) == [here] for node in ("anna", "boris"))


def desk(lab: Lab) -> NodeStatus:
    return status.fetch(lab.nodes["desk"].runtime, "status", NodeStatus)


def is_dialled(lab: Lab) -> bool:
    """Whether peers have dialled the desk, and know where it is now."""
    at = f":{lab.wiring.attachments['home'].address.ip}:"
    told, known = desk(lab), [known_endpoints(lab, node, "desk") for node in ("anna", "boris")]
    is_found = len(told.endpoints) == 1 and at in told.endpoints[0] and known == [told.endpoints] * 2
    return is_found and told.tunnels_in > 0


def test_from_one_router_to_another(lab):
    # Behind this router nobody can be dialled: all tunnels are the laptop's own.
    is_back(lab, "another outside address of the dialer", lambda: lab.move("cafe", "town"))
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


def test_a_listener_whose_router_gets_another_address_and_that_gets_one_itself(lab):
    # It wants to dial one of its peers only, so others dial it.
    until(lambda: is_dialled(lab), "the desk is dialled")
    for what, machine in (("another outside address", "home"), ("another address in the LAN", "desk")):
        before = lab.wiring.attachments[machine].address
        is_back(lab, what, lambda who=machine: lab.move(who, "town" if who == "home" else "home"), "desk")
        assert lab.wiring.attachments[machine].address != before
        struck = time.monotonic()
        until(lambda: is_dialled(lab), f"the desk is dialled with {what}")
        logger.info("%s: dialled, and known to all, %.1f s after that", what, time.monotonic() - struck)


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
