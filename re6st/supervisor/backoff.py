"""How long to wait before a child is started again: exponential, with a cap and jitter (pure).

The n-th restart in a row waits ``first * factor ** n`` seconds, at most ``cap``, spread by ``jitter`` so
that many children felled by one cause do not come back in step. A child that stayed alive for ``healthy``
seconds has earned a fresh start: what came before is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a child that ended by itself is started again. All times in seconds."""

    first: float = 0.2
    """Delay before the first restart."""
    factor: float = 2.0
    """Each further delay is this many times longer."""
    cap: float = 30.0
    """No delay is longer than this, jitter included."""
    jitter: float = 0.25
    """Delays are shortened at random by up to this fraction, 0 to 1."""
    okay: float = 0.5
    """A child counts as started when it has lived this long."""
    healthy: float = 60.0
    """After living this long, earlier failures are forgotten."""


class Backoff:
    """Counts failures in a row and turns them into delays."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self.failures = 0
        """Failures since the last healthy stretch."""

    def next_delay(self, randomness: float) -> float:
        """Count a failure and return the seconds to wait; ``randomness`` lies in [0, 1)."""
        delay = self._policy.first
        for _ in range(self.failures):
            delay *= self._policy.factor
            if delay >= self._policy.cap:
                break
        self.failures += 1
        return min(delay, self._policy.cap) * (1.0 - self._policy.jitter * randomness)

    def forget(self) -> None:
        """Forget all failures."""
        self.failures = 0
