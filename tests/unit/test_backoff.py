"""re6st.supervisor.backoff: how long restarts wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from re6st.supervisor.backoff import Backoff, RestartPolicy

POLICY = RestartPolicy(first=0.2, factor=2.0, cap=5.0, jitter=0.5)


def test_delays_double_up_to_the_cap() -> None:
    backoff = Backoff(POLICY)
    assert [backoff.next_delay(0.0) for _ in range(7)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_after_a_healthy_stretch_it_begins_anew() -> None:
    backoff = Backoff(POLICY)
    for _ in range(5):
        backoff.next_delay(0.0)
    backoff.forget()
    assert backoff.next_delay(0.0) == 0.2


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=300))
def test_jitter_only_shortens_and_never_below_its_share(randomness: list[float]) -> None:
    backoff = Backoff(POLICY)
    for number, value in enumerate(randomness):
        full = min(POLICY.first * POLICY.factor**number, POLICY.cap)
        assert full * (1 - POLICY.jitter) <= backoff.next_delay(value) <= full
