"""What the parts of the brain share: settings, randomness, the moment, deadlines and collected effects."""

from __future__ import annotations

import random as random_module

from re6st.core.deadlines import Deadlines, Timer
from re6st.core.effects import Effect
from re6st.core.settings import CoreSettings
from re6st.peers import Peer


class Context:
    """Handed to every part; only :class:`re6st.core.NodeCore` sets what it says of the whole node."""

    def __init__(self, settings: CoreSettings, random: random_module.Random) -> None:
        self.settings = settings
        self.random = random
        self.now = 0.0
        """Monotonic seconds."""
        self.clock_offset: float | None = None
        """Wall time minus ``now``; None until the clock was read."""
        self.own_expires: float | None = None
        """End of the own certificate's validity (seconds since the epoch); None until it is known."""
        self.revoked: frozenset[str] = frozenset()
        """Serial numbers of withdrawn certificates."""
        self.stopping = False
        """The node leaves: nothing new is begun."""
        self.deadlines = Deadlines()
        self._effects: list[Effect] = []

    @property
    def wall(self) -> float | None:
        """Seconds since the epoch; None until the clock was read."""
        return None if self.clock_offset is None else self.now + self.clock_offset

    def emit(self, effect: Effect) -> None:
        """Ask for ``effect``."""
        self._effects.append(effect)

    def take_effects(self) -> list[Effect]:
        """Return the effects collected since the last call."""
        effects, self._effects = self._effects, []
        return effects

    def vary(self, value: float, fraction: float) -> float:
        """Return ``value``, up to ``fraction`` of it more or less: nodes must not act in step."""
        return value * self.random.uniform(1 - fraction, 1 + fraction)

    def backoff(self, delays: tuple[float, float], failures: int) -> float:
        """Return how long to wait after so many failures in a row (from 1 up), jitter included.

        The wait begins with the first of ``delays``, doubles with each failure and ends at the second.
        """
        first, longest = delays
        return self.vary(min(longest, first * 2.0 ** min(failures - 1, 40)), 0.25)

    def schedule(self, delay: float, timer: Timer, number: int = 0) -> None:
        """Set a deadline ``delay`` seconds from now."""
        self.deadlines.set(self.now + delay, timer, number)

    def valid(self, peer: Peer) -> bool:
        """Whether the certificate of ``peer`` is neither revoked nor, as far as we know the time, expired."""
        return peer.serial not in self.revoked and (self.wall is None or self.wall < peer.expires)
