"""Underlay faults as native IPv6 knew them: which paths and nodes are dead when, drawn from a seed (pure).

- Each pair of hosts loses its direct path now and then, independently of all others: it is dead for
  :data:`PAIR_SHARE` of the time. Lengths are log-normal: the median is a minute, few last for many.
- Now and then a whole provider loses another one: all pairs of hosts between the two.
- Now and then a host loses power, and gets it back.
"""

from __future__ import annotations

import itertools
import math
import random as random_module
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Pair = tuple[str, str]
"""Two hosts in alphabetical order."""

PAIR_SHARE = 0.01
"""Part of the time for which each pair's direct path is dead by itself."""

MEDIAN = 60.0
"""Median length of a fault, seconds."""

SPREAD = 1.0
"""Standard deviation of the logarithm of its length."""

PROVIDERS_EVERY = 600.0
"""Mean seconds between two losses of a provider by another one."""

DEATH_EVERY = 420.0
"""Mean seconds between two power failures of hosts."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something is dead for a while."""

    begin: float
    """Seconds from the start."""
    end: float
    kind: str
    cuts: frozenset[Pair] = frozenset()
    host: str = ""
    """The host without power."""


def draw(
    providers: Mapping[str, Sequence[str]],
    duration: float,
    random: random_module.Random,
    immortal: Sequence[str] = (),
) -> list[Fault]:
    """Return the faults of ``duration`` seconds, by their beginning. ``providers`` are hosts by provider."""
    hosts = sorted(host for members in providers.values() for host in members)
    faults: list[Fault] = []
    mean = MEDIAN * math.exp(SPREAD**2 / 2)
    for pair in itertools.combinations(hosts, 2):
        for begin, end in _times(random, duration, mean * (1 - PAIR_SHARE) / PAIR_SHARE):
            faults.append(Fault(begin, end, "path", frozenset((pair,))))
    for begin, end in _times(random, duration, PROVIDERS_EVERY):
        one, other = random.sample(sorted(providers), 2)
        cuts = frozenset(
            (min(a, b), max(a, b)) for a, b in itertools.product(providers[one], providers[other])
        )
        faults.append(Fault(begin, end, f"{one} loses {other}", cuts))
    mortal = [host for host in hosts if host not in immortal]
    dead_until = dict.fromkeys(mortal, 0.0)
    for begin, end in _times(random, duration, DEATH_EVERY):
        host = random.choice(mortal)
        if begin > dead_until[host]:
            dead_until[host] = end
            faults.append(Fault(begin, end, "power", host=host))
    return sorted(faults, key=lambda fault: fault.begin)


def _times(random: random_module.Random, duration: float, pause: float) -> list[tuple[float, float]]:
    """Return beginnings and ends of faults one after the other, with ``pause`` seconds between on average."""
    found = []
    begin = random.expovariate(1 / pause)
    while begin < duration:
        end = begin + random.lognormvariate(math.log(MEDIAN), SPREAD)
        found.append((begin, end))
        begin = end + random.expovariate(1 / pause)
    return found


def cuts_at(faults: Sequence[Fault], moment: float) -> frozenset[Pair]:
    """Return the pairs whose direct path is dead at ``moment``."""
    return frozenset().union(*(fault.cuts for fault in faults if fault.begin <= moment < fault.end))
