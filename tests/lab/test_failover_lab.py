"""What fails under traffic is routed around, without a word from outside.

registry  node1  node2  node3  node4  [router with UPnP] -- home
   |        |      |      |      |            |
===+========+======+======+======+============+====  internet

One node pings another one 50 times a second while something on the way fails: all that the benchmark
"outage" measures. Here it must only end well.
"""

import random
import time
from collections.abc import Iterator

import pytest
from conftest import FORMING, formed_lab

from re6st.lab.bench_outage import FAULTS, next_hop, world
from re6st.lab.lab import Lab
from re6st.lab.ping_train import PingTrain

HEALING = 60.0
"""Seconds after a failure until all must be well again."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with formed_lab(world(4), "fail") as built:
        yield built


@pytest.mark.parametrize("case", FAULTS)
def test_what_fails_is_routed_around(lab, case):
    with FAULTS[case](lab, random.Random(case)) as ((source, target), strike):
        with PingTrain(lab.hosts[source].namespace, lab.nodes[target].address()) as train:
            assert train.wait_steady(1, HEALING), "no connection before anything has failed"
            strike()
            assert train.wait_steady(2, HEALING, since=time.monotonic() + 1), "no connection afterwards"
        if case == "silent cut":
            assert next_hop(lab.nodes[source], lab.nodes[target]) != target
    assert lab.wait_for_all_pairs(FORMING).complete
