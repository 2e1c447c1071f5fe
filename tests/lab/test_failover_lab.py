"""What fails under traffic is routed around, without a word from outside.

registry  node1  node2  node3  node4
   |        |      |      |      |
===+========+======+======+======+===  internet: all addresses are public

Two nodes ping each other 50 times a second while the path between them fails. How long it takes is for the
benchmark "outage"; here it must only end well.
"""

import os
import random
import time
from collections.abc import Iterator

import pytest
from conftest import FORMING

from re6st.lab import worlds
from re6st.lab.bench_outage import cut_until_relayed, kill_tunnel, neighbours, next_hop
from re6st.lab.lab import Lab
from re6st.lab.leftovers import assert_clean, host_interfaces
from re6st.lab.ping_train import PingTrain

HEALING = 60.0
"""Seconds after a failure until all must be well again."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    name = f"t{os.getpid()}fail"
    before = host_interfaces()
    guests = {f"node{number}": None for number in range(1, 5)}
    with Lab(worlds.with_guests(worlds.mixed(1), guests), name=name) as built:
        built.start_mesh()
        assert built.wait_for_all_pairs(FORMING).complete
        yield built
    assert_clean(name)
    assert host_interfaces() == before


@pytest.fixture
def pair(lab: Lab) -> tuple[str, str]:
    return neighbours(lab, random.Random(1))


def survives(lab, pair, strike):
    source, target = pair
    with PingTrain(lab.hosts[source].namespace, lab.nodes[target].address()) as train:
        assert train.wait_steady(1, HEALING), "no connection before anything has failed"
        strike()
        assert train.wait_steady(2, HEALING, since=time.monotonic() + 1), "no connection afterwards"


def test_a_silent_cut(lab, pair):
    try:
        survives(lab, pair, lambda: lab.cut(*pair))
        assert next_hop(lab.nodes[pair[0]], lab.nodes[pair[1]]) != pair[1]
    finally:
        lab.heal_all()
    assert lab.wait_for_all_pairs(HEALING).complete


@pytest.mark.parametrize("direction", [1, -1])
def test_a_cut_in_one_direction(lab, pair, direction):
    try:
        survives(lab, pair, lambda: lab.cut(*pair[::direction], one_way=True))
    finally:
        lab.heal_all()
    assert lab.wait_for_all_pairs(HEALING).complete


def test_a_killed_process_of_a_tunnel(lab, pair):
    survives(lab, pair, lambda: kill_tunnel(lab.nodes[pair[0]], pair[1]))
    assert lab.wait_for_all_pairs(HEALING).complete


def test_a_relay_that_loses_power(lab):
    pair, relay = cut_until_relayed(lab, random.Random(2))
    try:
        survives(lab, pair, lambda: lab.power_off(relay))
    finally:
        lab.heal_all()
    lab.power_on(relay)
    assert lab.wait_for_all_pairs(FORMING).complete
