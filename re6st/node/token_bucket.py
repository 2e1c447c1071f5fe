"""Bounds what strangers can have done by sending datagrams (pure)."""

from __future__ import annotations


class TokenBucket:
    """Bounds how often something is done (pure)."""

    def __init__(self, rate: float, burst: float) -> None:
        """Allow ``rate`` a second in the long run and ``burst`` at once."""
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._last = float("-inf")

    def take(self, now: float) -> bool:
        """Return whether it may be done at ``now`` (monotonic seconds)."""
        if now > self._last:
            self._tokens = min(self._burst, self._tokens + (now - self._last) * self._rate)
            self._last = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
