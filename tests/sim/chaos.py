"""Chaos: a large network whose nodes are killed at random for hours, judged every minute on a virtual clock.

    python tests/sim/chaos.py --nodes 1000 --hours 2

Each node runs for an hour on average and is then killed without a word; it comes back after a few minutes.
The registry is away for half of the time. Reported: whether the tunnel graph of the living hangs together,
how many tunnels a node has, and for which share of destinations a node that loses its next hop has another
neighbour that is provably closer (a feasible successor, RFC 8966, 2.4), over shortest paths by tunnel cost.
"""

from __future__ import annotations

import argparse
import heapq
import math
import time
from collections import defaultdict
from dataclasses import dataclass, field

from world import SimNode, World, mixed

from re6st.core.tunnels import tunnel_cost

UPTIME = 3600.0
"""Mean seconds between a node's start and its death."""

DOWNTIME = (300.0, 1.0)
"""Median seconds that it stays away, and standard deviation of the logarithm."""

SETTLED = 60.0
"""Seconds after its start from which on a node is expected to be part of the network."""

REGISTRY_PERIOD = 1200.0
"""Seconds for which the registry is away, and then again there."""

SAMPLED = 10
"""Destinations for which routes are computed each time."""


@dataclass
class Report:
    """What was seen; one value for each look at the network."""

    deaths: int = 0
    cut_off: list[int] = field(default_factory=list)
    """Settled nodes outside of the largest component."""
    outgoing: list[int] = field(default_factory=list)
    """The most and ..."""
    incoming: list[int] = field(default_factory=list)
    fewest: list[int] = field(default_factory=list)
    """... fewest tunnels of a settled node."""
    average: list[float] = field(default_factory=list)
    feasible: list[float] = field(default_factory=list)
    """Share of pairs of node and destination with a feasible successor."""

    def lines(self) -> list[str]:
        looks = len(self.cut_off)
        whole = sum(not count for count in self.cut_off)
        return [
            f"deaths: {self.deaths}",
            f"looks at the network: {looks}, of which {whole} found all settled nodes connected",
            f"settled nodes cut off: at most {max(self.cut_off)} at a time, {sum(self.cut_off)} in all",
            f"tunnels of a node: {sum(self.average) / looks:.1f} on average, at least {min(self.fewest)}",
            f"at most {max(self.outgoing)} outgoing, {max(self.incoming)} incoming",
            f"feasible successor: {100 * sum(self.feasible) / looks:.2f} % of pairs on average",
            f"in the worst minute: {100 * min(self.feasible):.2f} %",
        ]


class Chaos:
    """A world in which nodes die and come back."""

    def __init__(self, count: int, seed: int) -> None:
        self.world = World(seed, routing=20.0)
        self.report = Report()
        self._started: dict[SimNode, float] = {}
        for node in mixed(self.world, count, 0.2):
            self.world.later(self.world.random.uniform(0, 60), lambda node=node: self._start(node))
        self.world.run(240)
        self._toggle_registry()

    def run(self, duration: float) -> Report:
        end = self.world.now + duration
        while self.world.now < end:
            self.world.run(60)
            self._judge()
        return self.report

    def _start(self, node: SimNode) -> None:
        self._started[node] = self.world.now
        self.world.start(node)
        self.world.later(self.world.random.expovariate(1 / UPTIME), lambda: self._kill(node))

    def _kill(self, node: SimNode) -> None:
        self.report.deaths += 1
        self.world.kill(node)
        median, spread = DOWNTIME
        pause = self.world.random.lognormvariate(math.log(median), spread)
        self.world.later(pause, lambda: self._start(node))

    def _toggle_registry(self) -> None:
        self.world.registry_up = not self.world.registry_up
        self.world.later(REGISTRY_PERIOD, self._toggle_registry)

    def _judge(self) -> None:
        world, report = self.world, self.report
        settled = {node for node in world.living if world.now - self._started[node] > SETTLED}
        largest = set(max(world.components(), key=len))
        outgoing, incoming = world.degrees()
        report.cut_off.append(len(settled - largest))
        report.outgoing.append(max(outgoing[node] for node in world.living))
        report.incoming.append(max(incoming[node] for node in world.living))
        report.fewest.append(min(outgoing[node] + incoming[node] for node in settled))
        report.average.append(2 * sum(outgoing.values()) / len(world.living))
        report.feasible.append(self._feasible(largest))

    def _feasible(self, nodes: set[SimNode]) -> float:
        edges: dict[SimNode, list[tuple[SimNode, int]]] = defaultdict(list)
        for one, other in self.world.links():
            if one in nodes and other in nodes:
                cost = tunnel_cost(one.prefix, other.prefix)
                edges[one].append((other, cost))
                edges[other].append((one, cost))
        pairs = found = 0
        for destination in self.world.random.sample(sorted(nodes, key=lambda node: node.index), SAMPLED):
            distances = _distances(edges, destination)
            for node in nodes - {destination}:
                ways = sorted((distances[via] + cost, distances[via]) for via, cost in edges[node])
                pairs += 1
                found += any(beyond < distances[node] for _, beyond in ways[1:])
        return found / pairs


def _distances(edges: dict[SimNode, list[tuple[SimNode, int]]], destination: SimNode) -> dict[SimNode, float]:
    """The cost of the best path from each node to ``destination`` (Dijkstra)."""
    distances: dict[SimNode, float] = defaultdict(lambda: math.inf)
    distances[destination] = 0
    queue: list[tuple[float, int, SimNode]] = [(0, 0, destination)]
    while queue:
        distance, _, node = heapq.heappop(queue)
        if distance > distances[node]:
            continue
        for neighbour, cost in edges[node]:
            if distance + cost < distances[neighbour]:
                distances[neighbour] = distance + cost
                heapq.heappush(queue, (distance + cost, neighbour.index, neighbour))
    return distances


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill nodes of a simulated network at random.")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    chaos = Chaos(arguments.nodes, arguments.seed)
    for line in chaos.run(arguments.hours * 3600).lines():
        print(line)
    print(f"{chaos.world.events} events in {time.monotonic() - began:.0f} s of real time")


if __name__ == "__main__":
    main()
