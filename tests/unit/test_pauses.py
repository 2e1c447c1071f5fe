"""Pauses of the host or the process."""

import pytest

from re6st.node.pauses import INTERVAL, LONGEST_DELAY, pause_between


@pytest.mark.parametrize("late", [0.0, 0.5, LONGEST_DELAY])
def test_being_late_on_a_busy_host_is_no_pause(late):
    assert pause_between(100.0, 100.0 + INTERVAL + late) == 0.0


def test_an_hour_of_sleep():
    assert pause_between(100.0, 100.0 + INTERVAL + 3600) == 3600
