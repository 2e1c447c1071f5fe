"""Judges by a router's clock whether it has restarted, and has lost its mappings (RFC 6887, 8.5; pure).

Each answer of PCP and NAT-PMP tells for how many seconds the router has kept its mappings. Between two
answers its clock and ours must have gone on by about the same time.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class EpochWatch:
    """The last answer of one router."""

    _server: int | None = None
    _client: float = 0.0

    def is_continued(self, epoch: int, now: float) -> bool:
        """Take note of ``epoch``, told at ``now`` (monotonic seconds); return whether the state goes on."""
        before, server, client = self._server, epoch, now - self._client
        self._server, self._client = epoch, now
        if before is None:
            return True
        if server + 1 < before:
            return False
        passed = server - before
        return not (client + 2 < passed - passed / 16 or passed + 2 < client - client / 16)
