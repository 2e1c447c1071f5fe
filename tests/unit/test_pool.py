"""re6st.tunnel.pool: slots and ports, taken and given back."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from re6st.tunnel.pool import PortPool, SlotPool


def test_slots_are_taken_from_below_until_none_is_left() -> None:
    pool = SlotPool(3)
    assert [pool.take() for _ in range(4)] == [0, 1, 2, None]
    assert pool.available == 0
    assert not pool.release(1)
    assert pool.take() == 1


def test_a_noisy_slot_needs_release_and_calm_in_either_order() -> None:
    for calm_first in (True, False):
        pool = SlotPool(1)
        pool.take()
        pool.disturb(0)
        if calm_first:
            pool.calm(0)
            assert pool.take() is None
            assert not pool.release(0)
        else:
            assert pool.release(0)
            assert pool.take() is None
            pool.calm(0)
        assert pool.take() == 0


def test_the_port_that_was_free_for_longest_comes_first() -> None:
    pool = PortPool([7, 8, 9])
    assert [pool.take(), pool.take()] == [7, 8]
    pool.release(7)
    assert [pool.take(), pool.take(), pool.take()] == [9, 7, None]
    assert pool.available == 0


class SlotMachine(RuleBasedStateMachine):
    """Slots in use and slots that are noisy are never handed out."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = SlotPool(4)
        self.taken: set[int] = set()
        self.noisy: set[int] = set()

    @rule()
    def take(self) -> None:
        slot = self.pool.take()
        if slot is not None:
            assert slot not in self.taken | self.noisy
            self.taken.add(slot)
        else:
            assert len(self.taken | self.noisy) == 4

    @rule(slot=st.integers(0, 3))
    def release(self, slot: int) -> None:
        assert self.pool.release(slot) == (slot in self.noisy)
        self.taken.discard(slot)

    @rule(slot=st.integers(0, 3))
    def disturb(self, slot: int) -> None:
        self.pool.disturb(slot)
        self.noisy.add(slot)

    @rule(slot=st.integers(0, 3))
    def calm(self, slot: int) -> None:
        self.pool.calm(slot)
        self.noisy.discard(slot)

    @invariant()
    def counts(self) -> None:
        assert self.pool.available == 4 - len(self.taken | self.noisy)


TestSlotMachine = SlotMachine.TestCase
