"""re6st.core.deadlines: what is due, in order and once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from re6st.core.deadlines import Deadlines, Timer


def test_deadlines_come_in_order_and_once() -> None:
    deadlines = Deadlines()
    deadlines.set(3.0, Timer.TUNNEL, 1)
    deadlines.set(1.0, Timer.TUNNEL, 2)
    deadlines.set(2.0, Timer.DIAL)
    assert deadlines.next() == 1.0
    assert deadlines.pop(0.5) is None
    assert [deadlines.pop(9.0) for _ in range(4)] == [
        (Timer.TUNNEL, 2),
        (Timer.DIAL, 0),
        (Timer.TUNNEL, 1),
        None,
    ]
    assert deadlines.next() is None


def test_a_key_has_one_deadline() -> None:
    deadlines = Deadlines()
    deadlines.set(1.0, Timer.DIAL)
    deadlines.set(5.0, Timer.DIAL)
    assert deadlines.pop(4.0) is None
    assert deadlines.get(Timer.DIAL) == 5.0
    deadlines.clear(Timer.DIAL)
    assert deadlines.next() is None


def test_deadlines_that_are_moved_all_the_time_do_not_pile_up() -> None:
    deadlines = Deadlines()
    for moment in range(10_000):
        deadlines.set(float(moment), Timer.GOSSIP)
    assert len(deadlines) == 1
    assert len(deadlines._heap) < 200


@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.floats(0, 100))), max_size=60))
def test_it_agrees_with_a_dictionary(changes: list[tuple[int, float | None]]) -> None:
    deadlines, expected = Deadlines(), dict[int, float]()
    for number, at in changes:
        if at is None:
            deadlines.clear(Timer.SLOT, number)
            expected.pop(number, None)
        else:
            deadlines.set(at, Timer.SLOT, number)
            expected[number] = at
    popped = []
    while (key := deadlines.pop(1000.0)) is not None:
        popped.append(expected.pop(key[1]))
    assert popped == sorted(popped)
    assert not expected
