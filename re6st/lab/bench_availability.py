"""Benchmark ``availability``: for which share of the time pairs of nodes reach each other in bad weather.

Twenty nodes at four providers; paths, providers and nodes fail as :mod:`re6st.lab.weather` draws it, the same
each time. All ordered pairs ping each other; a second counts as failed for a pair when more than half of its
pings get no answer. What is direct is known without measuring: the path of the pair is dead or not. Pairs of
which one node has no power, or got it back a moment ago, do not count.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from re6st.lab.all_pairs import AllPairs
from re6st.lab.lab import Lab
from re6st.lab.measurement import Options, Result, Series, converged
from re6st.lab.topology import HostSpec, NetworkSpec, Role, RouterKind, RouterSpec, Topology
from re6st.lab.weather import Fault, cuts_at, draw

PROVIDERS = 4
NODES_EACH = 5

SETTLING = 30.0
"""Seconds that the mesh has before the weather begins."""

COMEBACK = 20.0
"""Seconds after its power is back in which a node starts and connects, and does not count."""

SHOWN = 15
"""Longest failures that are told."""


def run(options: Options) -> list[Result]:
    """Measure. Raises :class:`ChildError` when the mesh does not form."""
    series = Series("availability")
    duration = options.minutes * 60
    world, providers = _world()
    faults = draw(providers, duration, random.Random(8), immortal=[_REGISTRY])  # noqa: S311 - the same each time
    with Lab(world, name=options.lab) as lab:
        lab.start_mesh(options.step)
        converged(lab)
        time.sleep(SETTLING)
        namespaces = {name: lab.hosts[name].namespace for name in lab.nodes}
        addresses = {name: node.address() for name, node in lab.nodes.items()}
        options.step(f"{len(faults)} faults in {options.minutes:g} minutes")
        with AllPairs(namespaces, addresses, duration) as pings:
            _let_it_rain(lab, faults, pings, options)
    judgement = judge(pings, faults)
    for line in judgement.lines():
        options.step(line)
    series.add("direct, failed pair-seconds", 100 * judgement.direct, "%")
    series.add("overlay, failed pair-seconds", 100 * judgement.overlay, "%")
    series.add("the pings themselves", 100 * pings.processor_time / duration, "% of a core")
    return series.results()


_REGISTRY = "registry"


def _world() -> tuple[Topology, dict[str, list[str]]]:
    """Return a world of public hosts and some behind UPnP routers, and the nodes of each provider."""
    networks: dict[str, NetworkSpec] = {}
    routers: dict[str, RouterSpec] = {}
    hosts: dict[str, HostSpec] = {}
    providers: dict[str, list[str]] = {}
    for number in range(1, PROVIDERS + 1):
        provider = f"isp{number}"
        networks[provider] = NetworkSpec(prefix=IPv4Network(f"20.{15 + number}.0.0/22"))
        providers[provider] = []
        for position in range(NODES_EACH):
            name = f"n{number}{position}"
            where = provider
            if position == NODES_EACH - 1:
                where = f"r-{name}"
                routers[where] = RouterSpec(
                    network=provider, kind=RouterKind.UPNP, lan=IPv4Network("192.168.1.0/24")
                )
            roles: tuple[Role, ...] = (Role.NODE,)
            if not hosts:
                name, roles = _REGISTRY, (Role.REGISTRY, Role.NODE)
            hosts[name] = HostSpec(network=where, roles=roles)
            providers[provider].append(name)
    return Topology(networks=networks, routers=routers, hosts=hosts), providers


def _let_it_rain(lab: Lab, faults: Sequence[Fault], pings: AllPairs, options: Options) -> None:
    """Carry out ``faults`` as their times come, until the pings end."""
    moments = sorted({moment for fault in faults for moment in (fault.begin, fault.end)})
    for moment in [*(moment for moment in moments if moment < pings.seconds), float(pings.seconds)]:
        time.sleep(max(0.0, pings.began + moment - time.monotonic()))
        lab.set_cuts(cuts_at(faults, moment))
        for fault in faults:
            if fault.host and fault.begin == moment:
                lab.power_off(fault.host)
            elif fault.host and fault.end == moment:
                lab.nodes[fault.host].launch()
        for fault in faults:
            if fault.begin == moment:
                what = fault.host or " ".join("-".join(pair) for pair in sorted(fault.cuts)[:1])
                options.step(f"  {moment:6.0f} s: {fault.kind} {what} for {fault.end - fault.begin:.0f} s")
    time.sleep(1.5)
    lab.set_cuts(frozenset())


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came out."""

    counted: int
    """Pair-seconds."""
    direct_failed: int
    overlay_failed: int
    failures: list[tuple[int, int, str, str, str]]
    """Length and beginning in seconds, source, target, and what had happened."""

    @property
    def direct(self) -> float:
        """Share of pair-seconds in which the direct path was dead."""
        return self.direct_failed / max(1, self.counted)

    @property
    def overlay(self) -> float:
        """Share of pair-seconds in which the overlay did not work."""
        return self.overlay_failed / max(1, self.counted)

    def lines(self) -> list[str]:
        """Return it for people."""
        causes: dict[str, int] = defaultdict(int)
        for length, _, _, _, cause in self.failures:
            causes[cause] += length
        shares = (
            f"{100 * (1 - self.direct):.3f} % directly, {100 * (1 - self.overlay):.4f} % over the overlay"
        )
        found = [f"  of {self.counted:,} pair-seconds worked {shares}"]
        for cause, seconds in sorted(causes.items(), key=lambda item: -item[1]):
            found.append(f"  {seconds} failed pair-seconds {cause}")
        for length, begin, source, target, cause in sorted(self.failures, reverse=True)[:SHOWN]:
            found.append(f"    {source} -> {target}: {length} s from {begin} s, {cause}")
        return found


def judge(pings: AllPairs, faults: Sequence[Fault]) -> Judgement:
    """Return which pair-seconds count, and which failed."""
    counted = direct_failed = overlay_failed = 0
    failures: list[tuple[int, int, str, str, str]] = []
    cuts = [cuts_at(faults, second + 0.5) for second in range(pings.seconds)]
    dead = [_without_power(faults, second) for second in range(pings.seconds)]
    for number, (source, target) in enumerate(pings.pairs):
        pair = (min(source, target), max(source, target))
        begin = None
        for second in range(pings.seconds + 1):
            worked = pings.worked(number, second) if second < pings.seconds else None
            counts = worked is not None and not {source, target} & dead[second]
            if counts:
                counted += 1
                direct_failed += pair in cuts[second]
                overlay_failed += not worked
            if counts and not worked:
                begin = second if begin is None else begin
            elif begin is not None:
                failures.append((second - begin, begin, source, target, _cause(faults, pair, begin)))
                begin = None
    return Judgement(counted, direct_failed, overlay_failed, failures)


def _without_power(faults: Sequence[Fault], second: int) -> set[str]:
    return {fault.host for fault in faults if fault.host and fault.begin - 1 <= second < fault.end + COMEBACK}


def _cause(faults: Sequence[Fault], pair: tuple[str, str], second: int) -> str:
    """Return what most likely made a pair fail from ``second`` on."""

    def recent(moment: float) -> bool:
        return -2 <= second - moment <= 15

    if any(pair in fault.cuts and recent(fault.begin) for fault in faults):
        return "after the direct path was lost"
    if any(fault.host and recent(fault.begin) for fault in faults):
        return "after the power failure of another node"
    if any(fault.host and recent(fault.end) for fault in faults):
        return "after another node came back"
    if any(pair in fault.cuts and recent(fault.end) for fault in faults):
        return "after the direct path was back"
    if any(
        set(pair) & {host for cut in fault.cuts for host in cut} and recent(fault.begin) for fault in faults
    ):
        return "after another path of the two was lost"
    return "for no reason that is known"
