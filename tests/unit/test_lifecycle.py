"""re6st.tunnel.lifecycle: the states of a tunnel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from re6st.tunnel.lifecycle import LIVE, TRANSITIONS, Action, Direction, Input, Lifecycle, TunnelState


def begin(direction: Direction = Direction.OUTGOING) -> Lifecycle:
    return Lifecycle("1 to n1", direction, 0.0)


def test_a_dialer_begins_with_a_request_and_a_listener_with_its_driver() -> None:
    assert begin(Direction.OUTGOING).state is TunnelState.REQUESTED
    assert begin(Direction.INCOMING).state is TunnelState.OPENING


def test_the_whole_life_of_a_dialer() -> None:
    life = begin()
    assert life.feed(Input.OFFERED, 1.0) == (Action.DIAL,)
    assert life.feed(Input.CONNECTED, 2.0) == (Action.ATTACH,)
    assert (life.state, life.since, life.live) == (TunnelState.UP, 2.0, True)
    assert life.feed(Input.END, 3.0) == (Action.DETACH, Action.END_DRIVER)
    assert (life.state, life.live, life.ended) == (TunnelState.DETACHED, False, True)
    assert life.feed(Input.GONE, 4.0) == (Action.RELEASE,)
    assert life.state is TunnelState.CLOSED


def test_a_tunnel_drains_before_it_is_detached() -> None:
    life = begin()
    life.feed(Input.OFFERED, 1.0)
    life.feed(Input.CONNECTED, 2.0)
    assert life.feed(Input.DRAIN, 3.0) == (Action.DRAIN,)
    assert (life.state, life.live, life.ended) == (TunnelState.DRAINING, False, False)
    assert life.feed(Input.DRAIN, 3.5) == ()
    assert life.feed(Input.END, 4.0) == (Action.DETACH, Action.END_DRIVER)


def test_a_driver_that_dies_is_detached_but_not_ended() -> None:
    life = begin(Direction.INCOMING)
    life.feed(Input.CONNECTED, 1.0)
    assert life.feed(Input.GONE, 2.0) == (Action.DETACH, Action.RELEASE)


def test_a_driver_that_connects_while_it_is_ended_changes_nothing() -> None:
    life = begin(Direction.INCOMING)
    life.feed(Input.END, 1.0)
    assert life.feed(Input.CONNECTED, 2.0) == ()
    assert (life.state, life.since) == (TunnelState.CLOSING, 1.0)


@pytest.mark.parametrize("state", TunnelState)
def test_every_state_has_a_row_and_can_reach_the_end(state: TunnelState) -> None:
    seen, queue = set(), [state]
    while queue:
        current = queue.pop()
        seen.add(current)
        queue += [t.state for t in TRANSITIONS[current].values() if t.state not in seen]
    assert TunnelState.CLOSED in seen


def test_live_tunnels_can_always_be_ended() -> None:
    assert all(Input.END in TRANSITIONS[state] for state in LIVE)


@given(st.sampled_from(Direction), st.lists(st.sampled_from(Input), max_size=30))
def test_what_is_taken_is_given_back_exactly_once(direction: Direction, inputs: list[Input]) -> None:
    life = begin(direction)
    actions = [action for number, happened in enumerate(inputs) for action in life.feed(happened, number)]
    closed = life.state is TunnelState.CLOSED
    assert actions.count(Action.RELEASE) == closed
    assert actions.count(Action.ATTACH) <= 1
    attached_now = life.state in {TunnelState.UP, TunnelState.DRAINING}
    assert actions.count(Action.ATTACH) == actions.count(Action.DETACH) + attached_now
    assert actions.count(Action.END_DRIVER) <= 1
    if Action.RELEASE in actions:
        assert actions[-1] is Action.RELEASE
