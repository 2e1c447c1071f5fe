"""The life of one supervised child as a state machine: what is wanted against what is (pure).

                  want                  okay delay over
    STOPPED ------------> STARTING ----------------------> RUNNING
       ^  ^                  |  |                            |  |
       |  | exited, no       |  +--------- exited -----------+  | unwant
       |  | restart          |      v                           |
       |  +------------------|-- WAITING --(delay over)--> STARTING
       |                     | unwant                           |
       |       exited        v                                  |
       +----------------- STOPPING <----------------------------+
                             |  still there long after SIGKILL
                             v
                           STUCK  --exited--> STOPPED

Each input returns the actions to carry out; :attr:`ChildMachine.deadline` says when
:meth:`ChildMachine.handle_timer` wants to be called. Times are seconds of any monotonic clock.
"""

from __future__ import annotations

import enum
import logging

from re6st.supervisor.backoff import Backoff, RestartPolicy

logger = logging.getLogger(__name__)


class ChildState(enum.Enum):
    """What a child is doing."""

    STOPPED = "stopped"
    STARTING = "starting"
    """Its process runs, but not for long enough to be trusted."""
    RUNNING = "running"
    WAITING = "waiting"
    """It has ended and is started again after a delay."""
    STOPPING = "stopping"
    """It was told to end."""
    STUCK = "stuck"
    """It did not even end after SIGKILL."""


class Action(enum.Enum):
    """What the machine wants done."""

    SPAWN = "spawn"
    TERMINATE = "terminate"
    """Send SIGTERM."""
    KILL = "kill"
    """Send SIGKILL."""


DEFAULT_OKAY = 0.2
"""Seconds after which a child without restart policy counts as started."""

KILL_PATIENCE = 2.0
"""Seconds that the kernel has to end a process after SIGKILL."""


class ChildMachine:
    """Decides about one child."""

    def __init__(self, name: str, policy: RestartPolicy | None) -> None:
        self._name = name
        self._policy = policy
        self._backoff = Backoff(policy or RestartPolicy())
        self._spawned_at = 0.0
        self._wanted = False
        self._killed = False
        self.state = ChildState.STOPPED
        self.deadline: float | None = None
        """When :meth:`handle_timer` is due, or None."""

    @property
    def wanted(self) -> bool:
        """Whether the child is meant to run."""
        return self._wanted

    def want(self, now: float) -> list[Action]:
        """Let the child run."""
        self._wanted = True
        return self._spawn(now) if self.state is ChildState.STOPPED else []

    def adopt(self) -> None:
        """Take note that the process runs already: another daemon has started it."""
        self._wanted = True
        self._spawned_at = float("-inf")
        self._set_state(ChildState.RUNNING, None)

    def unwant(self, now: float, grace: float) -> list[Action]:
        """Let the child end; SIGKILL follows after ``grace`` seconds."""
        self._wanted = False
        if self.state is ChildState.WAITING:
            self._set_state(ChildState.STOPPED, None)
        elif self.state in (ChildState.STARTING, ChildState.RUNNING):
            self._killed = False
            self._set_state(ChildState.STOPPING, now + grace)
            return [Action.TERMINATE]
        return []

    def exited(self, now: float, randomness: float) -> None:
        """Note that the process has ended, or could not be started; ``randomness`` lies in [0, 1)."""
        if self._policy is None or not self._wanted:
            self._wanted = False
            self._set_state(ChildState.STOPPED, None)
            return
        if now - self._spawned_at >= self._policy.healthy:
            self._backoff.forget()
        self._set_state(ChildState.WAITING, now + self._backoff.next_delay(randomness))

    def handle_timer(self, now: float) -> list[Action]:
        """Do what is due; nothing if it is not yet."""
        if self.deadline is None or now < self.deadline:
            return []
        match self.state:
            case ChildState.STARTING:
                self._set_state(ChildState.RUNNING, None)
            case ChildState.WAITING:
                return self._spawn(now)
            case ChildState.STOPPING if not self._killed:
                self._killed = True
                self.deadline = now + KILL_PATIENCE
                return [Action.KILL]
            case ChildState.STOPPING:
                self._set_state(ChildState.STUCK, None)
        return []

    def _spawn(self, now: float) -> list[Action]:
        self._spawned_at = now
        self._set_state(ChildState.STARTING, now + (self._policy.okay if self._policy else DEFAULT_OKAY))
        return [Action.SPAWN]

    def _set_state(self, state: ChildState, deadline: float | None) -> None:
        logger.debug("= %s: %s -> %s", self._name, self.state.value, state.value)
        self.state = state
        self.deadline = deadline
