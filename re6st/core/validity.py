"""Validity: tunnels and peers whose certificates expire, are renewed, or were withdrawn.

A tunnel stands on the two certificates with which it began. Some time before the first of them expires its
dialer drains it, ends it and asks for a new one, one tunnel at a time, provided that a newer certificate is
known by then; the deadline differs a little from tunnel to tunnel. Both ends drop a tunnel whose
certificates have expired, and at once one to a peer whose certificate was withdrawn.
"""

from __future__ import annotations

from re6st.core.book import AddressBook
from re6st.core.context import Context
from re6st.core.deadlines import Timer
from re6st.core.effects import Drain
from re6st.core.tunnels import Tunnel, TunnelTable


class Validity:
    """Compares certificates with the wall clock and with the revocations."""

    def __init__(self, context: Context, book: AddressBook, tunnels: TunnelTable) -> None:
        self._context = context
        self._book = book
        self._tunnels = tunnels

    def sweep(self) -> None:
        """Remove what is not valid any more and replace what soon will not be."""
        self._context.schedule(self._context.vary(self._context.settings.sweep_interval, 0.1), Timer.SWEEP)
        self._book.purge(self._context.valid)
        for tunnel in self._tunnels:
            if tunnel.life.ended:
                continue
            if tunnel.peer.serial in self._context.revoked:
                self._tunnels.end(tunnel, "the certificate of the peer was withdrawn", notify=False)
            elif self._context.wall is not None and self._context.wall >= tunnel.expires:
                self._tunnels.end(tunnel, "a certificate has expired", notify=True)
            elif self._context.wall is not None and self._context.wall >= tunnel.replace_at:
                self._renew(tunnel)

    def _renew(self, tunnel: Tunnel) -> None:
        prefix = tunnel.peer.prefix
        entry = self._book.get(prefix)
        if not (tunnel.outgoing and tunnel.up) or entry is None or not entry.peer.reachable:
            return
        own = self._context.own_expires
        expires = entry.peer.expires if own is None else min(own, entry.peer.expires)
        waiting = entry.not_before > self._context.now or len(self._tunnels.live(prefix)) > 1
        if expires > tunnel.expires and not waiting and not self._tunnels.draining():
            tunnel.renews = True
            patience = self._context.settings.drain_timeout
            self._tunnels.drain(tunnel, "its certificates expire soon", patience, Drain.TUNNEL)

    def replace(self, tunnel: Tunnel) -> None:
        """Ask for a new tunnel in the place of ``tunnel``, which was drained for that and has been ended."""
        entry = self._book.get(tunnel.peer.prefix)
        if entry is not None and self._context.valid(entry.peer):
            self._tunnels.request(entry.peer, replace=True, transport=tunnel.transport)
