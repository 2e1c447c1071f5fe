"""Notices that this host, or this process, has not run for a while, or that its clock was set (pure).

Of a suspended laptop the monotonic clock stands still, and that with the time since boot goes on
(``CLOCK_MONOTONIC`` and ``CLOCK_BOOTTIME``, clock_gettime(2)). A frozen process, container or virtual
machine shows by a look that comes much later than it was meant to. Both mean the same to a node: its peers
have given it up, and its addresses may be others.

A wall clock that was set shows by its distance from the clock since boot. Certificates that were not valid
yet may be so now: what has failed is worth another try.
"""

from __future__ import annotations

INTERVAL = 2.0
"""Seconds between looks."""

LONGEST_DELAY = 5.0
"""Seconds by which a look may be late on a busy host without being taken for a pause."""

LARGEST_ADJUSTMENT = 10.0
"""Seconds by which the wall clock may be corrected between two looks without anybody being told."""


def pause_between(before: float, now: float) -> float:
    """Return for how many seconds nothing ran between two looks, 0 if that is nothing unusual.

    ``before`` and ``now`` are readings of ``CLOCK_BOOTTIME``, seconds: it includes the time that the
    monotonic clock has counted, so it alone tells of both kinds of pauses.
    """
    pause = now - before - INTERVAL
    return pause if pause > LONGEST_DELAY else 0.0


def step_between(before: float, now: float) -> float:
    """Return by how many seconds the wall clock was set forward between two looks, 0 if by nothing unusual.

    ``before`` and ``now`` are by how much it was ahead of ``CLOCK_BOOTTIME``, seconds.
    """
    step = now - before
    return step if abs(step) > LARGEST_ADJUSTMENT else 0.0
