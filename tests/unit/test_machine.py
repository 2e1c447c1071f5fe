"""re6st.supervisor.machine: the states of a child process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from re6st.supervisor.backoff import RestartPolicy
from re6st.supervisor.machine import KILL_PATIENCE, Action, ChildMachine, ChildState

POLICY = RestartPolicy(first=1.0, factor=2.0, cap=8.0, jitter=0.0, okay=0.5, healthy=60.0)


def running(policy: RestartPolicy | None) -> ChildMachine:
    machine = ChildMachine("child", policy)
    assert machine.want(0.0) == [Action.SPAWN]
    assert machine.deadline is not None
    assert machine.handle_timer(machine.deadline) == []
    assert machine.state is ChildState.RUNNING
    return machine


def test_a_child_counts_as_started_after_the_okay_delay() -> None:
    machine = ChildMachine("child", POLICY)
    machine.want(10.0)
    assert machine.handle_timer(10.4) == []
    assert machine.state is ChildState.STARTING
    machine.handle_timer(10.5)
    assert machine.state is ChildState.RUNNING
    assert machine.deadline is None


def test_without_a_policy_an_exit_is_final() -> None:
    machine = running(None)
    machine.exited(5.0, 0.0)
    assert machine.state is ChildState.STOPPED
    assert not machine.wanted
    assert machine.deadline is None


def test_failures_in_a_row_wait_longer_and_a_healthy_stretch_is_rewarded() -> None:
    machine = running(POLICY)
    now = 1.0
    delays = []
    for _ in range(3):
        machine.exited(now, 0.0)
        assert machine.state is ChildState.WAITING
        assert machine.deadline is not None
        delays.append(machine.deadline - now)
        now = machine.deadline
        assert machine.handle_timer(now) == [Action.SPAWN]
    assert delays == [1.0, 2.0, 4.0]
    machine.exited(now + 60.0, 0.0)
    assert machine.deadline == now + 61.0


def test_a_child_that_ignores_sigterm_is_killed_and_failure_is_admitted() -> None:
    machine = running(POLICY)
    assert machine.unwant(100.0, grace=3.0) == [Action.TERMINATE]
    assert machine.handle_timer(102.9) == []
    assert machine.handle_timer(103.0) == [Action.KILL]
    assert machine.handle_timer(103.0 + KILL_PATIENCE) == []
    assert machine.state is ChildState.STUCK
    machine.exited(200.0, 0.0)
    assert machine.state is ChildState.STOPPED


def test_a_child_that_waits_for_its_restart_can_be_stopped() -> None:
    machine = running(POLICY)
    machine.exited(1.0, 0.0)
    assert machine.unwant(1.1, grace=3.0) == []
    assert machine.state is ChildState.STOPPED
    assert machine.handle_timer(100.0) == []


def test_a_stopped_child_is_not_started_again_when_it_ends() -> None:
    machine = running(POLICY)
    machine.unwant(1.0, grace=3.0)
    machine.exited(1.1, 0.0)
    assert machine.state is ChildState.STOPPED
    assert machine.deadline is None


@given(
    st.lists(st.tuples(st.sampled_from(["want", "unwant", "exit", "timer"]), st.floats(0, 20)), max_size=60)
)
def test_there_is_never_more_than_one_process(steps: list[tuple[str, float]]) -> None:
    machine = ChildMachine("child", POLICY)
    alive = False
    now = 0.0
    for step, delay in steps:
        now += delay
        actions: list[Action] = []
        if step == "want":
            actions = machine.want(now)
        elif step == "unwant":
            actions = machine.unwant(now, 3.0)
        elif step == "timer":
            actions = machine.handle_timer(now)
        elif alive:
            machine.exited(now, 0.5)
            alive = False
        for action in actions:
            assert alive is not (action is Action.SPAWN)
            alive = True
        assert alive == (machine.state not in (ChildState.STOPPED, ChildState.WAITING))
