"""Pauses of the host or the process."""

import pytest

from re6st.node.pauses import INTERVAL, LARGEST_ADJUSTMENT, LONGEST_DELAY, pause_between, step_between


@pytest.mark.parametrize("late", [0.0, 0.5, LONGEST_DELAY])
def test_being_late_on_a_busy_host_is_no_pause(late):
    assert pause_between(100.0, 100.0 + INTERVAL + late) == 0.0


def test_an_hour_of_sleep():
    assert pause_between(100.0, 100.0 + INTERVAL + 3600) == 3600


@pytest.mark.parametrize("adjusted", [0.0, 0.5, -LARGEST_ADJUSTMENT])
def test_a_clock_that_is_adjusted_was_not_set(adjusted):
    assert step_between(1.7e9, 1.7e9 + adjusted) == 0.0


@pytest.mark.parametrize("step", [86_400.0, -86_400.0])
def test_a_clock_that_is_set_by_a_day(step):
    assert step_between(1.7e9, 1.7e9 + step) == step
