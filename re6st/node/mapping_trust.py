"""Decides whether the home router's word is true, by what peers say who tried the mapped port (pure).

A router behind another one may call an outside address its own that is not: what it maps leads nowhere, and
an endpoint that is published all the same costs everybody failed dials. So peers are asked to try it:

    UNKNOWN --a peer got through--> TRUSTED: asked again now and then
       ^ |                             |
       | +--- two peers did not -------+
       |               v
       +--later-- DISTRUSTED: not published, since none gets through

One peer alone proves nothing: its own firewall may be in the way. Another outside address is judged anew.
"""

from __future__ import annotations

import enum
import logging

from re6st.messages import Endpoint

logger = logging.getLogger(__name__)

WITNESSES = 2
"""Peers that must have failed, and none succeeded since, before the mapping is given up."""

FIRST_TEST = 8.0
"""Seconds until a mapping is tried, and until the next peer is asked while it is not known to work."""

NEXT_TEST = 900.0
"""Seconds until a mapping that works is tried again."""

DISTRUST = 3600.0
"""Seconds until a mapping that does not work is given another chance: the router may have been put right."""

REMEDY = (
    "look for a firewall in the router, or a second router before it; otherwise ask the provider for a public"
    " IPv4 address, or use IPv6"
)
"""What an owner can do about a mapping that does not work."""


class TrustState(enum.Enum):
    """What is known of the mapping."""

    UNKNOWN = "unknown"
    TRUSTED = "trusted"
    DISTRUSTED = "distrusted"


class MappingTrust:
    """What peers say of one endpoint at a time."""

    def __init__(self) -> None:
        self.state = TrustState.UNKNOWN
        self._endpoint: Endpoint | None = None
        self._witnesses: set[str] = set()
        self._until = 0.0

    @property
    def reason(self) -> str:
        """Why the mapping is not used, for people; empty if it is."""
        if self.state is not TrustState.DISTRUSTED:
            return ""
        names = " and ".join(sorted(self._witnesses))
        return (
            f"the home router says that {self._endpoint} leads here, but {names} do not get through:"
            " there may be a second router or carrier-grade NAT before it, or a firewall"
        )

    def consider(self, endpoint: Endpoint | None, now: float) -> bool:
        """Return whether the mapped ``endpoint`` (None: there is none) may be published."""
        if endpoint != self._endpoint or (self.state is TrustState.DISTRUSTED and now >= self._until):
            self._endpoint = endpoint
            self.reset()
        return self.state is not TrustState.DISTRUSTED

    def reset(self) -> None:
        """Judge anew: the network has changed."""
        self._witnesses.clear()
        self._set_state(TrustState.UNKNOWN)

    def tried(self, tester: str, *, reached: bool, now: float) -> None:
        """Take note whether the peer ``tester`` got through to the endpoint."""
        if reached:
            self._witnesses.clear()
            self._set_state(TrustState.TRUSTED)
            return
        self._witnesses.add(tester)
        if len(self._witnesses) >= WITNESSES and self.state is not TrustState.DISTRUSTED:
            self._until = now + DISTRUST
            self._set_state(TrustState.DISTRUSTED)
            logger.warning("Not reachable from outside: %s", self.reason)

    def delay(self) -> float:
        """Return after how many seconds to look again."""
        return NEXT_TEST if self.state is TrustState.TRUSTED and not self._witnesses else FIRST_TEST

    def _set_state(self, state: TrustState) -> None:
        if state is not self.state:
            logger.debug("= mapping %s: %s -> %s", self._endpoint, self.state.value, state.value)
            self.state = state
