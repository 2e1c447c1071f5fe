"""Pings between all ordered pairs of nodes for long: how many were answered for each pair and second.

One thread serves all sources, with one raw ICMPv6 socket each (RFC 4443, 4.1), since hundreds of processes
would load a small machine so much that the lab would measure itself.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
import time
from array import array
from collections.abc import Mapping
from types import TracebackType

from re6st.lab.namespace import Namespace
from re6st.lab.pinger import ECHO_REPLY, ECHO_REQUEST, ICMPV6_FILTER, Pair

RATE = 4
"""Pings a second and pair."""

PATIENCE = 1.0
"""Seconds after which a ping that was not answered is lost."""

_HEADER = struct.Struct("!BBHHHIId")
"""Type, code, checksum, identifier, unused; number of the pair, second, time of sending."""


_PADDING = bytes(36)
"""Makes the packets as large as those of ping(8): smaller ones are taken for routing's own."""


class AllPairs:
    """Pings for as long as the block runs, at most for the time that was said."""

    def __init__(self, sources: Mapping[str, Namespace], targets: Mapping[str, str], duration: float) -> None:
        """``targets`` are the IPv6 addresses of all sources; ``duration`` is in seconds."""
        self.pairs: list[Pair] = [(one, other) for one in sources for other in targets if one != other]
        self._targets = [(targets[other], 0) for _, other in self.pairs]
        self.seconds = int(duration)
        self.sent = [array("B", bytes(self.seconds)) for _ in self.pairs]
        """By pair and second."""
        self.answered = [array("B", bytes(self.seconds)) for _ in self.pairs]
        self.processor_time = 0.0
        """Seconds that the pings have cost this process."""
        self._identifier = os.getpid() & 0xFFFF
        self._selector = selectors.DefaultSelector()
        self._sockets: dict[str, socket.socket] = {}
        words = [0xFFFFFFFF] * 8
        words[ECHO_REPLY >> 5] &= ~(1 << (ECHO_REPLY & 31))
        for name, namespace in sources.items():
            with namespace.entered():
                endpoint = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            endpoint.setblocking(False)
            endpoint.setsockopt(socket.IPPROTO_ICMPV6, ICMPV6_FILTER, struct.pack("=8I", *words))
            self._sockets[name] = endpoint
            self._selector.register(endpoint, selectors.EVENT_READ)
        self._from = [self._sockets[source] for source, _ in self.pairs]
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pings", daemon=True)
        self.began = 0.0

    def __enter__(self) -> AllPairs:
        self.began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._selector.close()
        for endpoint in self._sockets.values():
            endpoint.close()

    def worked(self, pair: int, second: int) -> bool | None:
        """Say whether at least half of the pings of that second were answered; None if none was sent."""
        sent = self.sent[pair][second]
        return 2 * self.answered[pair][second] >= sent if sent else None

    def _run(self) -> None:
        step = 1.0 / (RATE * len(self.pairs))
        number, end = 0, self.seconds * RATE * len(self.pairs)
        while number < end and not self._ending.is_set():
            now = time.monotonic() - self.began
            due = min(end, int(now / step))
            # What a busy machine did not send in time is left out, rather than sent in a burst.
            number = max(number, due - len(self.pairs) // 2)
            for turn in range(number, due):
                self._send(turn % len(self.pairs), int(now))
            number = due
            for key, _ in self._selector.select(0.004):
                self._receive(key.fileobj)  # type: ignore[arg-type]
            time.sleep(0.003)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not self._ending.is_set():
            for key, _ in self._selector.select(0.1):
                self._receive(key.fileobj)  # type: ignore[arg-type]
        self.processor_time = time.thread_time()

    def _send(self, pair: int, second: int) -> None:
        if second >= self.seconds:
            return
        self.sent[pair][second] += 1
        header = _HEADER.pack(ECHO_REQUEST, 0, 0, self._identifier, 0, pair, second, time.monotonic())
        try:
            self._from[pair].sendto(header + _PADDING, self._targets[pair])
        except OSError:
            # No route: lost like any other.
            return

    def _receive(self, endpoint: socket.socket) -> None:
        while True:
            try:
                packet = endpoint.recv(512)
            except OSError:
                return
            if len(packet) < _HEADER.size:
                continue
            _, _, _, identifier, _, pair, second, sent = _HEADER.unpack_from(packet)
            if identifier == self._identifier and time.monotonic() - sent <= PATIENCE:
                self.answered[pair][second] += 1
