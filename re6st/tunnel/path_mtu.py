"""How large packets may be that a tunnel carries: a search, as a pure state machine (after RFC 8899).

An interface's MTU is right when the packets that the tunnel's process makes of full ones just fit the
underlay's path. A tunnel begins with 1280 octets, the least that IPv6 allows. Then probes of the size in
question are sent through the tunnel to the other end, which answers them in pieces as small as it likes: an
answer shows that *our* direction carries packets of that size. Each end looks for itself.

What is tried first is what the underlay's interface would allow, which is right nearly everywhere. Otherwise
there are two cases. A router that tells (ICMP "too big") makes the kernel know the path MTU: the search jumps
to it. Routers that drop silently (a black hole) leave only bisection, over sizes that occur on the Internet:
a value between two of them would win little and cost probes.

Before all that, packets of 1280 octets must pass. Where they do not and small ones do, the path is *narrow*:
nothing else is tried, and the tunnel has to be replaced by one whose ends cut packets. The answers to probes
of that size have it, too, so that both ends come to the same verdict even if the path is narrow in one
direction only. Where a router tells, the kernel cuts the tunnel's packets, and the next probes come through.

Afterwards the size is *guarded* while the tunnel is in use: now and then a packet of full size must come
through, or it is as if nothing was known. Congestion loses packets, too, but of all sizes: so a small one
goes with each of full size, and only if that is answered the loss of the other one counts
(:class:`Comparison`). Larger sizes are tried again at long intervals: paths change.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from re6st.messages import Endpoint, Transport

SMALLEST = 1280
"""MTU with which a tunnel begins, octets: the least that IPv6 allows (RFC 8200, 5)."""

OVERHEAD_IPV4 = 52
"""Octets that a tunnel adds: IPv4 (20), UDP (8), OpenVPN's header (4), packet number (4), GCM tag (16)."""

OVERHEAD_IPV6 = 72

TRIES = 3
"""Probes of one size that must be lost."""

MOST_COMPARISONS = 6
"""Pairs of probes after which it stays unknown why they are lost."""

USUAL_MTUS = (9000, 8900, 4352, 1500, 1492, 1480, 1472, 1460, 1450, 1440, 1430, 1420, 1400, 1380, 1360)
"""MTUs of paths that occur: Ethernet, PPPoE, tunnels of all kinds, mobile networks."""


class Origin(enum.Enum):
    """Where the MTU of a tunnel comes from."""

    START = "start"
    AGREED = "agreed"
    UNDERLAY = "underlay"
    PROBES = "probes"
    STREAM = "tcp"
    FRAGMENTS = "fragments"
    PIECES = "pieces"
    NARROW = "narrow"
    UNCUT = "uncut"

    @property
    def explanation(self) -> str:
        """The same for people."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    Origin.START: "not measured yet",
    Origin.AGREED: "no more is wanted (tunnel-mtu), here or there",
    Origin.UNDERLAY: "as much as the host's interface carries, and routers on the way",
    Origin.PROBES: "larger packets vanish on the way without a word",
    Origin.STREAM: "over TCP, which makes of any packet what the path carries",
    Origin.FRAGMENTS: "a router says that even these are too large for the path: IP cuts them",
    Origin.PIECES: "even these vanish on the way if they are whole: both ends of the tunnel cut them",
    Origin.UNCUT: "even these vanish on the way, and the older re6st there cannot cut them (upgrade it): no"
    " tunnel while others carry them",
    Origin.NARROW: "even these vanish on the way: another tunnel, whose ends cut them, is asked for",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """The MTU of a tunnel's interface."""

    mtu: int = SMALLEST
    """Octets."""
    origin: Origin = Origin.START


UNMEASURED = Measured()
"""What holds when a tunnel begins."""


@dataclass(frozen=True, slots=True)
class TunnelPath:
    """A tunnel that is to be measured."""

    tunnel: int
    interface: str
    remote: Endpoint | None
    """The peer's end, None while unknown."""
    transport: Transport
    ceiling: int
    """What both ends take, octets."""
    uplink: str = ""
    """Interface of the host to which it is bound; empty where the host's routes decide."""
    fragments: bool = False
    """Its ends cut packets."""


def overhead(ipv6: bool) -> int:
    """Return how many octets a packet grows in a UDP tunnel over IPv4 or IPv6."""
    return OVERHEAD_IPV6 if ipv6 else OVERHEAD_IPV4


class Search:
    """Looks for the largest size between :data:`SMALLEST` and a ceiling that passes."""

    def __init__(self, ceiling: int, added: int) -> None:
        """``ceiling`` is the largest size worth a try, ``added`` what the tunnel adds to each packet."""
        self.proven = SMALLEST
        """The largest size of which it is known that it passes; the smallest one is taken for granted."""
        usual = {mtu - added for mtu in USUAL_MTUS}
        self._sizes: Sequence[int] = sorted(size for size in usual | {ceiling} if SMALLEST < size <= ceiling)
        self._first = True

    @property
    def next(self) -> int | None:
        """The size to try next, None when the search is over."""
        if not self._sizes:
            return None
        return self._sizes[-1] if self._first else self._sizes[len(self._sizes) // 2]

    def passed(self, size: int) -> None:
        """Probes of ``size`` come through."""
        self._first = False
        self.proven = max(self.proven, size)
        self._sizes = [larger for larger in self._sizes if larger > size]

    def failed(self, size: int) -> None:
        """Probes of ``size`` do not come through."""
        self._first = False
        self._sizes = [smaller for smaller in self._sizes if smaller < size]

    def limited(self, size: int) -> None:
        """The kernel knows that nothing larger than ``size`` fits: that is worth the next try."""
        self._first = True
        self._sizes = [smaller for smaller in self._sizes if smaller < size]
        if size > self.proven:
            self._sizes = [*self._sizes, size]


class Comparison:
    """Tells a path that drops large packets from one that drops any, by pairs of a large and a small one."""

    def __init__(self) -> None:
        self.lost = 0
        """Pairs so far of which only the small probe was answered."""
        self._left = MOST_COMPARISONS
        self._passes = False

    @property
    def open(self) -> bool:
        """Whether another pair is needed."""
        return not self._passes and self.lost < TRIES and self._left > 0

    @property
    def drops_large_ones(self) -> bool:
        """Whether large packets do not pass where small ones do."""
        return not self._passes and self.lost >= TRIES

    def take(self, *, large: bool, small: bool) -> None:
        """Take note of which probes of a pair were answered."""
        self._left -= 1
        self._passes = self._passes or large
        self.lost += small and not large
