"""The weather of the availability benchmark: the same each time, and as bad as it says."""

import itertools
import random

from re6st.lab.bench_availability import judge
from re6st.lab.weather import MEDIAN, PAIR_SHARE, Fault, cuts_at, draw

PROVIDERS = {"a": ["a1", "a2", "a3"], "b": ["b1", "b2", "b3"], "c": ["c1", "c2", "c3"]}
PAIRS = list(itertools.combinations(sorted(host for hosts in PROVIDERS.values() for host in hosts), 2))


def test_a_path_is_dead_for_its_share_of_the_time():
    duration = 2e6
    faults = [fault for fault in draw(PROVIDERS, duration, random.Random(1)) if fault.kind == "path"]
    lengths = sorted(fault.end - fault.begin for fault in faults)
    assert abs(sum(lengths) / (len(PAIRS) * duration) / PAIR_SHARE - 1) < 0.1
    assert abs(lengths[len(lengths) // 2] / MEDIAN - 1) < 0.1


def test_the_same_seed_gives_the_same_weather():
    assert draw(PROVIDERS, 9000, random.Random(1)) == draw(PROVIDERS, 9000, random.Random(1))
    assert draw(PROVIDERS, 9000, random.Random(1)) != draw(PROVIDERS, 9000, random.Random(2))


def test_providers_lose_each_other_and_hosts_their_power():
    faults = draw(PROVIDERS, 30000, random.Random(3), immortal=["a1"])
    lost = next(fault for fault in faults if " loses " in fault.kind)
    assert len(lost.cuts) == 9
    assert cuts_at(faults, lost.begin) >= lost.cuts
    dark = [fault for fault in faults if fault.host]
    assert dark
    assert "a1" not in {fault.host for fault in dark}


class Pings:
    """Four seconds of pings between two nodes."""

    pairs = (("a", "b"), ("b", "a"))
    seconds = 4

    def worked(self, pair, second):
        return [[True, False, False, True], [True, True, None, False]][pair][second]


def test_seconds_without_pings_or_without_power_do_not_count():
    cut = Fault(1, 3, "path", frozenset({("a", "b")}))
    judged = judge(Pings(), [cut])
    assert (judged.counted, judged.direct_failed, judged.overlay_failed) == (7, 3, 3)
    assert (2, 1, "a", "b", "after the direct path was lost") in judged.failures
    judged = judge(Pings(), [cut, Fault(3, 4, "power", host="b")])
    assert (judged.counted, judged.overlay_failed) == (4, 1)
