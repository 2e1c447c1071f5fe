"""Notices that this host, or this process, has not run for a while (pure).

Of a suspended laptop the monotonic clock stands still, and that with the time since boot goes on
(``CLOCK_MONOTONIC`` and ``CLOCK_BOOTTIME``, clock_gettime(2)). A frozen process, container or virtual
machine shows by a look that comes much later than it was meant to. Both mean the same to a node: its peers
have given it up, and its addresses may be others.
"""

from __future__ import annotations

INTERVAL = 2.0
"""Seconds between looks."""

LONGEST_DELAY = 5.0
"""Seconds by which a look may be late on a busy host without being taken for a pause."""


def pause_between(before: float, now: float) -> float:
    """Return for how many seconds nothing ran between two looks, 0 if that is nothing unusual.

    ``before`` and ``now`` are readings of ``CLOCK_BOOTTIME``, seconds: it includes the time that the
    monotonic clock has counted, so it alone tells of both kinds of pauses.
    """
    pause = now - before - INTERVAL
    return pause if pause > LONGEST_DELAY else 0.0
