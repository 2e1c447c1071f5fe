"""The address book: the bounded set of peers that a node knows, and its experience with each.

Of two records of one node the one with the higher sequence number is kept. A node that has left for good
remains as a tombstone for a while, lest older records of it, which still travel, bring it back. What has
changed lately is *news*: it goes first into the next few samples, so that it spreads through the network
exponentially, whereas the rest of a sample is drawn evenly.
"""

from __future__ import annotations

import random as random_module
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Network

from re6st.peers import Peer

NEWS_COPIES = 8
"""Samples into which a piece of news goes first."""

NEWS_LIMIT = 256
"""Pieces of news that are remembered."""

TOMBSTONES = 256
"""Departed nodes that are remembered."""

_QUICK_TRIES = 16
_EVICTION_CANDIDATES = 8


@dataclass(slots=True)
class Entry:
    """One peer and our experience with it."""

    peer: Peer
    failures: int = 0
    """Dials in a row that failed."""
    refusals: int = 0
    """Dials in a row that were refused because the peer is full."""
    not_before: float = float("-inf")
    """When it may be dialled again (monotonic seconds)."""
    deaths: int = 0
    """Tunnels in a row that fell silent, each soon after the one before."""
    died_at: float = float("-inf")
    """When the last one did (monotonic seconds)."""
    replace: bool = False
    """The peer thinks that we have a tunnel, which we do not know of."""


class AddressBook:
    """Peers by their prefix."""

    def __init__(
        self,
        own: IPv6Network,
        capacity: int,
        random: random_module.Random,
        connected: Callable[[IPv6Network], bool],
    ) -> None:
        """Ignore records of ``own``; when full, never drop peers that are ``connected``."""
        self._own = own
        self._capacity = capacity
        self._random = random
        self._connected = connected
        self._entries: dict[IPv6Network, Entry] = {}
        self._order: list[IPv6Network] = []
        self._places: dict[IPv6Network, int] = {}
        self._tombstones: dict[IPv6Network, Peer] = {}
        self._news: dict[IPv6Network, int] = {}
        self._unsaved: set[IPv6Network] = set()
        self._unforgotten: set[IPv6Network] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, prefix: IPv6Network) -> Entry | None:
        """Return what is known of the node that owns ``prefix``."""
        return self._entries.get(prefix)

    # -- learning and forgetting ------------------------------------------------------------------------

    def learn(self, peer: Peer, *, saved: bool = False, news: bool = True) -> bool:
        """Keep ``peer`` unless as new a record of it is known; return whether it is kept.

        ``saved`` tells that it is on disk already, ``news`` that others may not know it yet.
        """
        prefix = peer.prefix
        if prefix == self._own:
            return False
        entry = self._entries.get(prefix)
        known = entry.peer if entry else self._tombstones.get(prefix)
        if known is not None and known.sequence >= peer.sequence:
            return False
        if peer.departed:
            self.forget(prefix)
            self._bury(peer)
        else:
            self._tombstones.pop(prefix, None)
            self._keep(peer)
            self._unforgotten.discard(prefix)
            if not saved:
                self._unsaved.add(prefix)
        if news:
            self._news.pop(prefix, None)
            self._news[prefix] = NEWS_COPIES
            _limit(self._news, NEWS_LIMIT)
        return True

    def forget(self, prefix: IPv6Network) -> None:
        """Remove the node that owns ``prefix``."""
        if self._entries.pop(prefix, None) is None:
            return
        place, last = self._places.pop(prefix), self._order.pop()
        if last != prefix:
            self._order[place], self._places[last] = last, place
        self._news.pop(prefix, None)
        self._unsaved.discard(prefix)
        self._unforgotten.add(prefix)

    def purge(self, valid: Callable[[Peer], bool]) -> None:
        """Remove all peers that are not ``valid`` any more."""
        for peer in [entry.peer for entry in self if not valid(entry.peer)]:
            self.forget(peer.prefix)
        for peer in [peer for peer in self._tombstones.values() if not valid(peer)]:
            del self._tombstones[peer.prefix]

    def take_changes(self) -> tuple[tuple[Peer, ...], tuple[IPv6Network, ...]]:
        """Return what must be stored and what removed on disk since the last call."""
        stored = tuple(self._entries[prefix].peer for prefix in sorted(self._unsaved))
        forgotten = tuple(sorted(self._unforgotten))
        self._unsaved.clear()
        self._unforgotten.clear()
        return stored, forgotten

    @property
    def changed(self) -> bool:
        """Whether :meth:`take_changes` has something to return."""
        return bool(self._unsaved or self._unforgotten)

    def _keep(self, peer: Peer) -> None:
        prefix = peer.prefix
        if prefix not in self._entries:
            if len(self._entries) >= self._capacity:
                self._evict()
            self._places[prefix] = len(self._order)
            self._order.append(prefix)
        self._entries[prefix] = self._fresh(peer)

    def _fresh(self, peer: Peer) -> Entry:
        """Return an entry without bad experience, except with tunnels that have been up."""
        old = self._entries.get(peer.prefix)
        return Entry(peer) if old is None else Entry(peer, deaths=old.deaths, died_at=old.died_at)

    def _bury(self, peer: Peer) -> None:
        self._tombstones.pop(peer.prefix, None)
        self._tombstones[peer.prefix] = peer
        _limit(self._tombstones, TOMBSTONES)

    def _evict(self) -> None:
        """Remove the least useful of a few random peers that are not connected."""
        drawn = (self._random.choice(self._order) for _ in range(_EVICTION_CANDIDATES))
        candidates = [prefix for prefix in drawn if not self._connected(prefix)]
        candidates = candidates or [prefix for prefix in self._order if not self._connected(prefix)]
        self.forget(max(candidates or self._order, key=self._uselessness))

    def _uselessness(self, prefix: IPv6Network) -> tuple[int, bool]:
        entry = self._entries[prefix]
        return entry.failures, not entry.peer.reachable

    # -- experience -------------------------------------------------------------------------------------

    def postpone(self, prefix: IPv6Network, until: float) -> None:
        """Do not dial the node that owns ``prefix`` before ``until``."""
        entry = self._entries.get(prefix)
        if entry is not None:
            entry.not_before = max(entry.not_before, until)

    def succeeded(self, prefix: IPv6Network) -> None:
        """Forget all failed dials of the node that owns ``prefix``."""
        entry = self._entries.get(prefix)
        if entry is not None:
            self._entries[prefix] = self._fresh(entry.peer)

    # -- drawing ----------------------------------------------------------------------------------------

    def pick(self, now: float, usable: Callable[[Peer], bool]) -> Entry | None:
        """Return a random entry that is ``usable`` and may be dialled at ``now``."""

        def fits(entry: Entry) -> bool:
            return entry.not_before <= now and _diallable(entry.peer) and usable(entry.peer)

        if not self._order:
            return None
        for _ in range(_QUICK_TRIES):
            entry = self._entries[self._random.choice(self._order)]
            if fits(entry):
                return entry
        fitting = [entry for entry in self if fits(entry)]
        return self._random.choice(fitting) if fitting else None

    def next_retry(self, usable: Callable[[Peer], bool]) -> float | None:
        """Return when the first peer that is ``usable`` may be dialled; None if there is none."""
        return min(
            (entry.not_before for entry in self if _diallable(entry.peer) and usable(entry.peer)),
            default=None,
        )

    def sample(self, count: int, exclude: Iterable[IPv6Network] = ()) -> tuple[Peer, ...]:
        """Return up to ``count`` peers: up to half of them the latest news, the others random."""
        chosen: dict[IPv6Network, Peer] = {}
        excluded = set(exclude)
        for prefix in [prefix for prefix in reversed(self._news) if prefix not in excluded][: count // 2]:
            entry = self._entries.get(prefix)
            peer = entry.peer if entry else self._tombstones.get(prefix)
            if peer is not None:
                chosen[prefix] = peer
            self._news[prefix] -= 1
            if peer is None or self._news[prefix] <= 0:
                del self._news[prefix]
        for prefix in self._random.sample(self._order, min(len(self._order), count + len(excluded))):
            if len(chosen) >= count:
                break
            if prefix not in excluded:
                chosen.setdefault(prefix, self._entries[prefix].peer)
        return tuple(chosen.values())

    def draw_roomy(self, count: int, exclude: IPv6Network) -> tuple[Peer, ...]:
        """Return up to ``count`` peers that can be dialled, and never failed or refused us.

        Half of them were learned lately: in a growing network old nodes are full and new ones are not.
        """

        def good(prefixes: Iterable[IPv6Network]) -> list[Peer]:
            entries = [self._entries[prefix] for prefix in prefixes if prefix != exclude]
            return [e.peer for e in entries if e.peer.reachable and not e.failures and not e.refusals]

        latest = good(self._order[-4 * count :])
        drawn = self._random.sample(latest, min(len(latest), count // 2))
        drawn += good(self._random.sample(self._order, min(len(self._order), 4 * count)))
        return tuple({peer.prefix: peer for peer in drawn}.values())[:count]


def _diallable(peer: Peer) -> bool:
    return peer.reachable or peer.punchable


def _limit(mapping: dict[IPv6Network, Peer] | dict[IPv6Network, int], size: int) -> None:
    """Drop the oldest entries of ``mapping`` until it has at most ``size``."""
    while len(mapping) > size:
        del mapping[next(iter(mapping))]
