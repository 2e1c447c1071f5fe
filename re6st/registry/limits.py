"""Limits per network address: whoever guesses is slowed down, others do not notice.

A token bucket (RFC 2698 calls it that) for each address holds ``burst`` attempts and refills at ``rate``
attempts a second. IPv6 addresses count by their /64, since a host may choose the rest. The table is bounded:
the address that was seen longest ago is forgotten first, which gives it at most a fresh burst.
"""

from __future__ import annotations

from collections import OrderedDict

from re6st.errors import RegistryRefusedError
from re6st.gate import source_group

MAXIMUM_ADDRESSES = 10_000


class RateLimiter:
    """Counts attempts per address."""

    def __init__(self, burst: float, rate: float, maximum: int = MAXIMUM_ADDRESSES) -> None:
        """Allow ``burst`` attempts at once and ``rate`` a second from then on, for ``maximum`` addresses."""
        self._burst = burst
        self._rate = rate
        self._maximum = maximum
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def delay(self, address: str | None, now: float) -> float:
        """Return after how many seconds ``address`` may try again, 0 for at once; ``now`` is monotonic."""
        left = self._left(source_group(address), now)
        return 0.0 if left >= 1 else (1 - left) / self._rate

    def check(self, address: str | None, now: float) -> None:
        """Refuse an address that tried too often. Raises :class:`RegistryRefusedError`."""
        delay = self.delay(address, now)
        if delay:
            raise RegistryRefusedError(
                f"too many refused attempts from {address}: try again in {delay:.0f} s",
                code="too-many-requests",
            )

    def count(self, address: str | None, now: float) -> None:
        """Count an attempt of ``address``."""
        group = source_group(address)
        self._buckets[group] = (max(0.0, self._left(group, now) - 1), now)
        self._buckets.move_to_end(group)
        if len(self._buckets) > self._maximum:
            self._buckets.popitem(last=False)

    def _left(self, group: str, now: float) -> float:
        left, since = self._buckets.get(group, (self._burst, now))
        return min(self._burst, left + (now - since) * self._rate)
