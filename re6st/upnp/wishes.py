"""One wish for a port mapping: its state, and which external ports are tried for it (pure)."""

from __future__ import annotations

import enum
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from re6st.messages import Transport

logger = logging.getLogger(__name__)

LOWEST_EXTERNAL_PORT = 1024
"""Many routers refuse to map the ports below."""

STABLE_CANDIDATES = 4
"""External ports that depend on the node only, tried after the internal port and before random ones."""

SEARCHING_REASON = "the search for a home router that maps ports is under way"


class WishState(enum.Enum):
    """What became of a wish."""

    WAITING = "waiting"
    MAPPED = "mapped"
    REFUSED = "refused"


@dataclass(slots=True)
class Wish:
    """A port of ours that should be reachable from outside, and what became of that."""

    transport: Transport
    internal_port: int
    state: WishState = WishState.WAITING
    external_port: int = 0
    """Of the mapping while MAPPED, otherwise the one to try next."""
    reason: str = SEARCHING_REASON
    attempt: int = 0
    """How many external ports were tried in vain."""
    failures: int = 0
    made: float = 0.0
    """When the router last agreed to it."""
    seen: bool = False
    """The router has shown the mapping since it was made."""
    unseen: int = 0
    """How often it was made in a row without being shown."""
    due: float = 0.0
    """When to make or to renew the mapping."""

    def set_state(self, state: WishState, reason: str = "") -> None:
        """Change the state; ``reason`` is for people."""
        if (state, reason) != (self.state, self.reason):
            logger.debug("= mapping %s: %s -> %s %s", self, self.state.value, state.value, reason)
        self.state, self.reason = state, reason

    def __str__(self) -> str:
        return f"{self.transport.value} port {self.internal_port}"


def external_candidate(
    seed: str, transport: Transport, internal_port: int, attempt: int, draw: Callable[[], float]
) -> int:
    """Return the external port to try after ``attempt`` others were taken.

    ``seed`` tells this node from others behind the same router; ``draw`` gives a number from 0 up to 1.
    """
    if attempt == 0:
        return internal_port
    span = 65536 - LOWEST_EXTERNAL_PORT
    if attempt <= STABLE_CANDIDATES:
        text = f"{seed} {transport.value} {internal_port} {attempt}"
        return LOWEST_EXTERNAL_PORT + int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % span
    return LOWEST_EXTERNAL_PORT + int(draw() * span)
