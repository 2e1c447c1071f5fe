"""Remembers by which protocols nothing could be had of the home router lately (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Avoidance:
    """Protocols that are worth another try after some time, and sooner only if there is no better one."""

    duration: float
    """Seconds."""
    _until: dict[str, float] = field(default_factory=dict)

    def add(self, protocol: str, now: float) -> None:
        """Avoid ``protocol`` from ``now`` on."""
        self._until[protocol] = now + self.duration

    def at(self, now: float) -> frozenset[str]:
        """Return what is to be avoided."""
        return frozenset(protocol for protocol, until in self._until.items() if now < until)

    def end(self) -> None:
        """Give all another chance: the router is another one, or a changed one."""
        self._until.clear()
