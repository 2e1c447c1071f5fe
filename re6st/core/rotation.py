"""Rotation: every now and then the outgoing tunnel that carries least gives way to a new random one.

So the graph stays random while nodes come and go, and tunnels that matter stay. The new tunnel comes
first: a rotation only raises the number of wanted tunnels by one; when one more than needed has been up
for a while, long enough for routes to know it, the one that carried least since the last
rotation is drained and ends. If no new peer is found in time, nothing happens.
"""

from __future__ import annotations

from re6st.core.context import Context
from re6st.core.deadlines import Timer
from re6st.core.effects import Drain
from re6st.core.tunnels import Tunnel, TunnelTable
from re6st.peers import Peer


class Rotation:
    """Decides when there is to be one tunnel more, and which one is then too many."""

    def __init__(self, context: Context, tunnels: TunnelTable) -> None:
        self._context = context
        self._tunnels = tunnels
        self._seeking_until: float | None = None

    def start(self) -> None:
        """Set the first deadline."""
        self._rest()

    @property
    def wanted(self) -> int:
        """How many outgoing tunnels are wanted now."""
        return self._context.settings.outgoing + (self._seeking_until is not None)

    def due(self, *, candidates: bool) -> Peer | None:
        """Take the next step; ``candidates`` says whether there is a new peer to be had.

        Return the peer whose tunnel drains now, if one does.
        """
        if self._seeking_until is None:
            if candidates and len(self._settled()) >= self._context.settings.outgoing:
                self._seeking_until = self._context.now + self._context.settings.rotation_patience
                self._look_again()
            else:
                self._rest()
            return None
        settled = self._settled()
        overlapped = min((self._context.now - tunnel.life.since for tunnel in settled), default=0.0)
        if len(settled) > self._context.settings.outgoing:
            if overlapped >= self._context.settings.rotation_overlap:
                return self._retire(settled)
        elif self._context.now >= self._seeking_until:
            self._finish()
            return None
        self._look_again()
        return None

    def count(self, octets: tuple[tuple[int, int], ...]) -> None:
        """Take note of what tunnels have carried since they are up."""
        for handle, total in octets:
            tunnel = self._tunnels.get(handle)
            if tunnel is not None:
                tunnel.octets = total

    def _settled(self) -> list[Tunnel]:
        return [tunnel for tunnel in self._tunnels.outgoing() if tunnel.up]

    def _retire(self, settled: list[Tunnel]) -> Peer:
        newest = max(settled, key=lambda tunnel: tunnel.life.since)
        old = [tunnel for tunnel in settled if tunnel is not newest]
        least = min(tunnel.octets - tunnel.counted for tunnel in old)
        retired = self._context.random.choice([t for t in old if t.octets - t.counted == least])
        patience = self._context.settings.drain_timeout
        self._tunnels.drain(retired, "replaced by a tunnel to a new peer", patience, Drain.TUNNEL)
        self._finish()
        return retired.peer

    def _finish(self) -> None:
        self._seeking_until = None
        for tunnel in self._tunnels:
            tunnel.counted = tunnel.octets
        self._rest()

    def _rest(self) -> None:
        self._context.schedule(self._context.vary(self._context.settings.tunnel_refresh, 0.2), Timer.ROTATE)

    def _look_again(self) -> None:
        self._context.schedule(self._context.settings.rotation_overlap / 4, Timer.ROTATE)
