"""Pings between many machines at once: one ICMPv6 socket per source, one loop for all (RFC 4443, 4.1).

Thousands of ``ping`` processes would load a small machine so much that the lab would measure itself.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType

from re6st.lab.namespace import Namespace

ECHO_REQUEST, ECHO_REPLY = 128, 129
ICMPV6_FILTER = 1
"""Socket option of level ``IPPROTO_ICMPV6`` (RFC 3542, 3.2): a set bit blocks a type."""

HEADER = struct.Struct("!BBHHHd")
"""Type, code, checksum, identifier, sequence number; then the time of sending, seconds."""

Pair = tuple[str, str]
"""Name of the source, name of the destination."""


@dataclass(slots=True)
class Matrix:
    """Who reached whom."""

    names: list[str]
    sources: list[str]
    round_trips: dict[Pair, float] = field(default_factory=dict)
    """Round-trip time of the first answer, seconds."""
    answered: dict[Pair, float] = field(default_factory=dict)
    """When the first answer came, seconds since the pings began."""

    @property
    def pairs(self) -> list[Pair]:
        """Every ordered pair that was asked for."""
        return [(source, name) for source in self.sources for name in self.names if name != source]

    @property
    def missing(self) -> list[Pair]:
        """The pairs that do not ping."""
        return [pair for pair in self.pairs if pair not in self.round_trips]

    @property
    def complete(self) -> bool:
        """Whether all pairs ping."""
        return len(self.round_trips) == len(self.pairs)

    @property
    def duration(self) -> float:
        """When the last pair answered for the first time, seconds since the pings began."""
        return max(self.answered.values(), default=0.0)


Listener = Callable[[Matrix], None]


class Pinger:
    """Pings from every source to every target."""

    def __init__(
        self,
        sources: Mapping[str, Namespace],
        targets: Mapping[str, str],
        *,
        pairs: Iterable[Pair] | None = None,
    ) -> None:
        """``targets`` are IPv6 addresses by name; ``pairs`` restricts who pings whom."""
        self.matrix = Matrix(list(targets), list(sources))
        # A dictionary keeps the order, in which sources take turns.
        self._missing = dict.fromkeys(pairs if pairs is not None else self.matrix.pairs)
        self._targets = targets
        self._identifier = os.getpid() & 0xFFFF
        self._sequence = 0
        self._flying: dict[int, Pair] = {}
        self._selector = selectors.DefaultSelector()
        self._sockets: dict[str, socket.socket] = {}
        self._began = time.monotonic()
        for name, namespace in sources.items():
            with namespace.entered():
                endpoint = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            endpoint.setblocking(False)
            endpoint.setsockopt(socket.IPPROTO_ICMPV6, ICMPV6_FILTER, _only(ECHO_REPLY))
            self._sockets[name] = endpoint
            self._selector.register(endpoint, selectors.EVENT_READ, name)

    def __enter__(self) -> Pinger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._selector.close()
        for endpoint in self._sockets.values():
            endpoint.close()

    @property
    def missing(self) -> list[Pair]:
        """The wanted pairs that have not answered yet."""
        return list(self._missing)

    def run(
        self,
        timeout: float,
        *,
        interval: float = 0.2,
        listener: Listener | None = None,
        until: Callable[[], bool] | None = None,
    ) -> Matrix:
        """Ping until every wanted pair has answered once, but not longer than ``timeout`` seconds.

        Pairs without an answer are asked again every ``interval`` seconds, evenly spread over it, so that
        the round trips are not those of a burst; ``listener`` hears of each round; ``until`` may end it.
        """
        deadline = time.monotonic() + timeout
        while missing := self.missing:
            began = time.monotonic()
            if began >= deadline or (until is not None and until()):
                break
            for number, (source, target) in enumerate(missing, 1):
                if (source, target) in self._missing:
                    self._send(source, target)
                self._receive(min(deadline, began + interval * number / len(missing)))
            if listener is not None:
                listener(self.matrix)
        return self.matrix

    def _send(self, source: str, target: str) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._flying[self._sequence] = (source, target)
        packet = HEADER.pack(ECHO_REQUEST, 0, 0, self._identifier, self._sequence, time.monotonic())
        try:
            self._sockets[source].sendto(packet, (self._targets[target], 0))
        except OSError:
            # No route (yet): that is an answer too, and not the one that was hoped for.
            return

    def _receive(self, until: float) -> None:
        while (rest := until - time.monotonic()) > 0 and self._missing:
            for key, _ in self._selector.select(rest):
                self._drain(self._sockets[key.data])

    def _drain(self, endpoint: socket.socket) -> None:
        while True:
            try:
                packet = endpoint.recv(512)
            except OSError:
                return
            now = time.monotonic()
            if len(packet) < HEADER.size:
                continue
            _, _, _, identifier, sequence, sent = HEADER.unpack_from(packet)
            pair = self._flying.get(sequence)
            if identifier == self._identifier and pair in self._missing:
                del self._missing[pair]
                self.matrix.round_trips[pair] = now - sent
                self.matrix.answered[pair] = now - self._began


def _only(kind: int) -> bytes:
    """Return an ICMPv6 filter that lets only messages of type ``kind`` through."""
    words = [0xFFFFFFFF] * 8
    words[kind >> 5] &= ~(1 << (kind & 31))
    return struct.pack("=8I", *words)
