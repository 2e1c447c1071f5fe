"""Decides through which uplink of the host a tunnel is dialled, where the owner names several (pure).

The kernel's routing table uses one default route at a time, so a second provider idles until the first one
is known to be lost. Tunnels and requests are therefore bound to an interface, and the kernel considers
the routes through that interface only (SO_BINDTODEVICE, socket(7)).

            failures in a row reach the limit
    TRUSTED ---------------------------------> PASSED OVER --(hold is over)--> on trial
       ^                                           ^                              |   |
       |                                           +------ failure: longer hold --+   |
       +------------------------------- success --------------------------------------+

A failed dial may be the peer's fault as well. So being passed over only means to come after the others.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from re6st.messages import Endpoint

logger = logging.getLogger(__name__)

FAILURES = 2
"""In a row, from when on an uplink is passed over."""

FIRST_HOLD = 30.0
"""Seconds for which it is passed over at first."""

LONGEST_HOLD = 900.0
"""Seconds; the hold doubles until then."""


@dataclass(slots=True)
class _Record:
    """How an uplink has done since its last success."""

    failures: int = 0
    hold: float = 0.0
    """Seconds for which it was passed over last."""
    until: float = 0.0
    """When that is over (monotonic seconds)."""


class Uplinks:
    """The interfaces that the owner names, and how each has done."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        """Without ``names`` the host's own routes decide."""
        self._records = {name: _Record() for name in names}

    def order(self, now: float) -> tuple[str, ...]:
        """Return all uplinks, those that are passed over last."""
        return tuple(sorted(self._records, key=lambda name: self._is_passed_over(name, now)))

    def choose(self, load: Mapping[str, int], usable: Callable[[str], bool], now: float) -> str:
        """Return the uplink for the next tunnel: of the ``usable`` ones that with the fewest tunnels.

        ``load`` says how many tunnels each has. Empty when none is usable: the host's routes decide then.
        """
        candidates = [name for name in self.order(now) if usable(name)]
        return min(
            candidates, key=lambda name: (self._is_passed_over(name, now), load.get(name, 0)), default=""
        )

    def succeeded(self, name: str) -> None:
        """Take note that a tunnel has come up through the uplink ``name``."""
        if name in self._records:
            self._set(name, _Record())

    def failed(self, name: str, now: float) -> None:
        """Take note that a tunnel through the uplink ``name`` did not come up, or has fallen silent."""
        record = self._records.get(name)
        # What fails together has failed once: tunnels of a lost uplink do so all at the same time.
        if record is None or self._is_passed_over(name, now):
            return
        failures = record.failures + 1
        if failures < FAILURES:
            self._set(name, _Record(failures))
            return
        hold = min(2 * record.hold or FIRST_HOLD, LONGEST_HOLD)
        self._set(name, _Record(failures, hold, now + hold))

    def reset(self) -> None:
        """Forget all failures: the host's network has changed."""
        for name in self._records:
            self._set(name, _Record())

    def _is_passed_over(self, name: str, now: float) -> bool:
        return now < self._records[name].until

    def _set(self, name: str, record: _Record) -> None:
        before, self._records[name] = self._records[name], record
        if record.hold > before.hold:
            logger.warning(
                "The uplink %s is used only if no other one is, for %.0f s: tunnels through it fail",
                name,
                record.hold,
            )
        elif before.hold and not record.hold:
            logger.info("The uplink %s is used again", name)


def is_bound(endpoint: Endpoint) -> bool:
    """Whether what goes to ``endpoint`` is bound to an uplink: private addresses are left to the routes."""
    try:
        return ipaddress.ip_address(endpoint.address).is_global
    except ValueError:
        return False
