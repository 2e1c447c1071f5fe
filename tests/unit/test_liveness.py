"""The detector on simulated paths, with the monitor's rhythm of looks.

Each path is a tunnel with two ends: ours with the detector, the other one answers probes and, if wanted,
packets. Time is virtual.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from re6st.tunnel.liveness import (
    FIRST_PATIENCE,
    IDLE_REFRESH,
    LONGEST_PATIENCE,
    LONGEST_SILENCE,
    PROBES,
    SHORTEST_PATIENCE,
    Counts,
    Liveness,
    RoundTrip,
    State,
)

LOOK = 0.1
PING, HELLO, PROBE, TINY = 104, 60, 64, 56


@dataclass
class Path:
    """A tunnel: round-trip time ``delay`` plus ``jitter`` (mean, exponential), ``loss`` per direction."""

    seed: int = 1
    delay: float = 0.02
    jitter: float = 0.0
    loss: float = 0.0
    mute: bool = False
    stalls: Callable[[float], float] = lambda now: 0.0
    """By how much a look that is due now comes late."""
    now: float = 100.0
    cut_there: bool = False
    cut_back: bool = False
    probes: int = 0
    sent: list[int] = field(default_factory=lambda: [0, 0])
    received: list[int] = field(default_factory=lambda: [0, 0])

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._answers: list[int] = []
        self.detector = Liveness("a tunnel", self.now, self.counts())
        self.later(0.0, lambda: self._look(self.now))

    def counts(self) -> Counts:
        return Counts(*self.sent, *self.received)

    def later(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._order), action))

    def run(self, duration: float) -> None:
        end = self.now + duration
        while self._queue[0][0] <= end:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = end

    def until_dead(self, limit: float) -> float:
        """Return the seconds until the verdict."""
        began = self.now
        while self.detector.state is not State.DEAD:
            assert self.now - began < limit, f"not dead after {limit} s"
            self.run(0.005)
        return self.now - began

    # -- traffic ----------------------------------------------------------------------------------------

    def send(self, size: int, answer: Callable[[], None] | None = None) -> None:
        self.sent[0] += 1
        self.sent[1] += size
        if answer is not None and not self.cut_there and self.random.random() >= self.loss:
            self.later(self._one_way(), answer)

    def come(self, size: int, arrive: Callable[[], None] | None = None) -> None:
        """Let a packet come from the other end, which has sent it now."""

        def land() -> None:
            self.received[0] += 1
            self.received[1] += size
            if arrive is not None:
                arrive()

        if not self.cut_back and self.random.random() >= self.loss:
            self.later(self._one_way(), land)

    def every(self, interval: float, action: Callable[[], None]) -> None:
        def again() -> None:
            action()
            self.later(interval, again)

        self.later(self.random.uniform(0, interval), again)

    def ping(self, interval: float) -> None:
        self.every(interval, lambda: self.send(PING, lambda: self.come(PING)))

    def be_pinged(self, interval: float) -> None:
        """The other end pings: our end only answers what it gets."""
        self.every(interval, lambda: self.come(PING, lambda: self.send(PING)))

    def hello(self, interval: float = 4.0) -> None:
        self.every(interval, lambda: self.send(HELLO))
        self.every(interval, lambda: self.come(HELLO))

    def _one_way(self) -> float:
        jitter = self.random.expovariate(1 / self.jitter) if self.jitter else 0.0
        return (self.delay + jitter) / 2

    # -- the monitor ------------------------------------------------------------------------------------

    def _look(self, due: float) -> None:
        for number in self._answers:
            self.detector.answered(self.now, number)
        self._answers.clear()
        number = self.detector.look(self.now, self.counts(), self.now - due)
        if number is not None:
            self._probe(number)
        interval = LOOK if self.detector.in_use else 0.25
        due = max(self.now + 0.001, min(self.now + interval, self.detector.deadline))
        self.later(due - self.now + self.stalls(due), lambda: self._look(due))

    def _probe(self, number: int) -> None:
        self.probes += 1

        def answered() -> None:
            if not self.mute:
                self.come(PROBE, lambda: self._answers.append(number))

        self.send(PROBE, answered)

    def cut(self) -> None:
        self.cut_there = self.cut_back = True


def paths() -> Iterable[tuple[str, dict[str, float]]]:
    yield "a local network", {"delay": 0.0005}
    yield "a good line", {"delay": 0.03, "jitter": 0.004}
    yield "a jittery line", {"delay": 0.05, "jitter": 0.03}
    yield "satellite", {"delay": 0.3, "jitter": 0.02}
    yield "two satellites", {"delay": 0.6, "jitter": 0.03}
    yield "5 % loss", {"delay": 0.04, "jitter": 0.005, "loss": 0.05}
    yield "satellite with 5 % loss", {"delay": 0.3, "jitter": 0.02, "loss": 0.05}


PATHS = dict(paths())


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("traffic", ["ping", "be_pinged", "one way", "one way, tiny", "bursts", "none"])
def test_no_false_alarm(name: str, traffic: str) -> None:
    for seed in range(4):
        path = Path(seed=seed, **PATHS[name])
        path.hello()
        match traffic:
            case "ping":
                path.ping(0.02)
            case "be_pinged":
                path.be_pinged(0.02)
            case "one way":
                path.every(0.01, lambda path=path: path.send(1000))
            case "one way, tiny":
                path.every(0.02, lambda path=path: path.send(TINY))
            case "bursts":
                path.every(1.3, lambda path=path: path.send(PING, lambda: path.come(PING)))
        path.run(300)
        assert path.detector.state is not State.DEAD
        assert path.detector.state is not State.UNPROVEN


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    delay=st.floats(0.0002, 0.7),
    jitter=st.floats(0, 0.05),
    loss=st.floats(0, 0.05),
    interval=st.floats(0.005, 2),
)
def test_no_false_alarm_on_any_normal_path(
    seed: int, delay: float, jitter: float, loss: float, interval: float
) -> None:
    path = Path(seed=seed, delay=delay, jitter=jitter, loss=loss)
    path.hello()
    path.ping(interval)
    path.be_pinged(interval * 1.7)
    path.run(60)
    assert path.detector.state is not State.DEAD


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), share=st.floats(0, 0.5), longest=st.floats(0.05, 0.9))
def test_a_busy_machine_is_no_dead_path(seed: int, share: float, longest: float) -> None:
    """Some of the looks come late; answers that arrived meanwhile are read then."""
    chance = random.Random(seed)
    path = Path(
        seed=seed,
        delay=0.03,
        jitter=0.01,
        loss=0.02,
        stalls=lambda now: chance.uniform(0, longest) if chance.random() < share else 0.0,
    )
    path.ping(0.02)
    path.run(60)
    assert path.detector.state is not State.DEAD


def frozen_machine(path: Path, since: float, length: float) -> Callable[[float], float]:
    """Everything on our machine stops for ``length`` seconds: nobody looks, nothing is received."""
    return lambda due: max(0.0, since + length - due) if due >= since else 0.0


def test_a_machine_that_slept_gives_answers_time_to_arrive() -> None:
    path = Path(delay=0.02)
    path.run(20)
    began = path.now
    path.stalls = frozen_machine(path, began, 5.0)
    path.cut_back = True
    path.every(0.02, lambda: path.send(PING, lambda: path.come(PING)))
    path.run(5.0)
    path.cut_back = False
    path.run(10)
    assert path.detector.state is State.TRUSTED


@pytest.mark.parametrize("traffic", ["ping", "be_pinged"])
@pytest.mark.parametrize("seed", range(10))
def test_a_cut_is_noticed_at_both_ends_in_some_hundred_milliseconds(traffic: str, seed: int) -> None:
    path = Path(seed=seed, delay=0.02, jitter=0.004)
    path.hello()
    getattr(path, traffic)(0.02)
    path.run(20 + seed * 0.013)
    path.cut()
    assert path.until_dead(2) < 0.85


def test_on_a_long_path_it_takes_some_round_trips() -> None:
    path = Path(delay=0.3, jitter=0.01)
    path.ping(0.02)
    path.run(20)
    path.cut()
    assert 0.6 < path.until_dead(4) < 2.5


@pytest.mark.parametrize("direction", ["there", "back"])
def test_a_one_way_cut_is_noticed_by_the_end_that_hears_nothing(direction: str) -> None:
    path = Path()
    path.ping(0.02)
    path.run(20)
    setattr(path, f"cut_{direction}", True)
    assert path.until_dead(2) < 0.85


def test_a_single_packet_into_a_dead_idle_tunnel_is_enough() -> None:
    path = Path()
    path.hello()
    path.run(200)
    path.cut()
    path.send(80)
    assert path.until_dead(2) < 1.2


@pytest.mark.parametrize(("interval", "limit"), [(0.02, 1.2), (0.2, 2.2), (1.0, 7.0)])
def test_a_flow_of_tiny_packets_into_a_dead_tunnel_is_noticed(interval: float, limit: float) -> None:
    path = Path()
    path.hello()
    path.every(interval, lambda: path.send(TINY, lambda: path.come(TINY)))
    path.run(200)
    path.cut()
    assert path.until_dead(10) < limit


def test_an_idle_dead_tunnel_is_found_by_its_keepalive() -> None:
    path = Path()
    path.hello()
    path.run(200)
    path.cut()
    assert path.until_dead(IDLE_REFRESH + 2)


def test_an_idle_tunnel_costs_its_keepalives_only() -> None:
    path = Path()
    path.hello()
    path.run(60)
    before = path.probes
    path.run(3600)
    assert path.probes - before <= 3600 / IDLE_REFRESH + 1


@pytest.mark.parametrize("size", [1000, TINY])
def test_a_flow_in_one_direction_costs_few_probes(size: int) -> None:
    path = Path()
    path.every(0.01, lambda: path.send(size))
    path.run(20)
    before = path.probes
    path.run(100)
    assert path.probes - before <= 260


def test_a_peer_that_answers_no_echo_requests_is_called_dead_only_after_a_long_silence() -> None:
    path = Path(mute=True)
    path.hello()
    path.ping(0.02)
    path.run(60)
    assert path.detector.state is State.UNPROVEN
    assert path.probes < 60
    path.cut()
    path.run(120)
    assert path.detector.state is State.UNPROVEN
    path.run(LONGEST_SILENCE)
    assert path.detector.state is State.DEAD


def test_all_probes_must_be_lost_and_nothing_be_heard() -> None:
    detector = Liveness("a tunnel", 0.0, Counts(0, 0, 0, 0))
    number = detector.look(0.0, Counts(0, 0, 0, 0))
    assert number is not None
    detector.answered(0.01, number)
    now, numbers, sent = 10.0, [], Counts(9, 900, 0, 0)
    while detector.state is not State.DEAD and len(numbers) < 20:
        number = detector.look(now, sent)
        if number is not None:
            numbers.append(number)
        now = max(now, detector.deadline)
    assert len(numbers) == PROBES
    assert detector.look(now + 1, Counts(9, 900, 5, 500)) is None
    detector.answered(now + 1, numbers[-1])
    assert detector.state is State.DEAD


def test_answers_that_nobody_waits_for_change_nothing() -> None:
    detector = Liveness("a tunnel", 0.0, Counts(0, 0, 0, 0))
    detector.answered(1.0, 77)
    assert detector.state is State.UNPROVEN


@given(st.lists(st.floats(0, 10), max_size=50))
def test_patience_has_bounds(samples: list[float]) -> None:
    estimate = RoundTrip()
    assert estimate.patience == FIRST_PATIENCE
    for sample in samples:
        estimate.measure(sample)
        assert SHORTEST_PATIENCE <= estimate.patience <= LONGEST_PATIENCE


def test_the_estimate_follows_rfc_6298() -> None:
    estimate = RoundTrip()
    estimate.measure(0.2)
    assert (estimate.smoothed, estimate.variation) == (0.2, 0.1)
    estimate.measure(0.4)
    assert estimate.variation == pytest.approx(0.75 * 0.1 + 0.25 * 0.2)
    assert estimate.smoothed == pytest.approx(0.225)
