"""What each peer has asked of this listener lately: bounds on what one member can take from the others.

Every member may ask for tunnels, and a request costs the listener more than the peer: a port until a driver
has ended, a slot until routing has forgotten it, and, if the peer says that it is isolated, another
member's tunnel. So each peer has

- a bucket of requests that are granted (a token bucket: :data:`BURST` at once, one more every
  :data:`REFILL` seconds), which an honest peer does not empty: it waits longer after each failure;
- one eviction in its favour per :data:`EVICTION_PAUSE`, and none while the last tunnel that it was offered
  has never come up: who takes the place of others must use it.

Peers of which nothing was heard for longest are forgotten beyond :data:`REMEMBERED`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv6Network

BURST = 4
"""Requests of one peer that are granted one right after the other."""

REFILL = 10.0
"""Seconds after which one more is."""

EVICTION_PAUSE = 600.0
"""Seconds between evictions in favour of the same peer."""

UNUSED_FORGIVEN = 3600.0
"""Seconds after which an offer that was not used is forgiven: the path may have been at fault."""

REMEMBERED = 4096
"""Peers that are remembered."""


@dataclass(slots=True)
class _Claim:
    """One peer's account; times are monotonic seconds."""

    tokens: float
    counted_at: float
    evicted_at: float = float("-inf")
    unused_since: float | None = None
    """When it was offered a tunnel that has not come up."""


class Claims:
    """The accounts of all peers that asked lately."""

    def __init__(self) -> None:
        self._claims: OrderedDict[IPv6Network, _Claim] = OrderedDict()

    def __len__(self) -> int:
        return len(self._claims)

    def spend(self, peer: IPv6Network, now: float) -> bool:
        """Count a request of ``peer`` that could be granted; return False if it has made too many."""
        claim = self._get(peer, now)
        claim.tokens = min(float(BURST), claim.tokens + (now - claim.counted_at) / REFILL)
        claim.counted_at = now
        if claim.tokens < 1:
            return False
        claim.tokens -= 1
        return True

    def may_evict(self, peer: IPv6Network, now: float) -> bool:
        """Whether another peer's tunnel may be ended for the sake of ``peer``."""
        claim = self._get(peer, now)
        unused = claim.unused_since is not None and now < claim.unused_since + UNUSED_FORGIVEN
        return not unused and now >= claim.evicted_at + EVICTION_PAUSE

    def evicted(self, peer: IPv6Network, now: float) -> None:
        """Take note that a tunnel was ended for the sake of ``peer``."""
        self._get(peer, now).evicted_at = now

    def offered(self, peer: IPv6Network, now: float) -> None:
        """Take note that ``peer`` was offered a tunnel."""
        self._get(peer, now).unused_since = now

    def used(self, peer: IPv6Network, now: float) -> None:
        """Take note that a tunnel that ``peer`` was offered has come up."""
        self._get(peer, now).unused_since = None

    def _get(self, peer: IPv6Network, now: float) -> _Claim:
        claim = self._claims.get(peer)
        if claim is None:
            claim = self._claims[peer] = _Claim(float(BURST), now)
            if len(self._claims) > REMEMBERED:
                self._claims.popitem(last=False)
        self._claims.move_to_end(peer)
        return claim
