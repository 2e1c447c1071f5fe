"""A train of pings at a steady rate from one host to another, in a thread, to see what is lost and when."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from types import TracebackType

from re6st.lab.namespace import Namespace
from re6st.lab.pinger import ECHO_REPLY, ECHO_REQUEST, ICMPV6_FILTER

INTERVAL = 0.02
"""Seconds between pings: 50 a second."""

PATIENCE = 1.0
"""Seconds after which a ping that was not answered is lost."""

_HEADER = struct.Struct("!BBHHI")


class PingTrain:
    """Pings ``target`` for as long as the block runs.

    A reading comes when its time has come, not when the machine is busy: a ping that could not be sent in
    time is left out and is not counted as lost.
    """

    def __init__(self, namespace: Namespace, target: str) -> None:
        """Send from ``namespace``."""
        self._target = target
        self._identifier = threading.get_native_id() & 0xFFFF ^ os.getpid() & 0xFFFF
        with namespace.entered():
            self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        self._socket.setblocking(False)
        words = [0xFFFFFFFF] * 8
        words[ECHO_REPLY >> 5] &= ~(1 << (ECHO_REPLY & 31))
        self._socket.setsockopt(socket.IPPROTO_ICMPV6, ICMPV6_FILTER, struct.pack("=8I", *words))
        self._sent: list[float] = []
        self._answered: dict[int, float] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pings", daemon=True)

    def __enter__(self) -> PingTrain:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._socket.close()

    def wait_steady(self, duration: float, timeout: float, since: float = 0.0) -> bool:
        """Wait until all pings of the last ``duration`` seconds, all sent after ``since``, were answered.

        Return whether that was so within ``timeout`` seconds (``since``: :func:`time.monotonic`).
        """
        deadline = time.monotonic() + timeout
        wanted = int(duration / INTERVAL * 0.8)
        while time.monotonic() < deadline:
            # The last few may still be on their way.
            now = time.monotonic() - 5 * INTERVAL
            recent = [
                number for number, sent in enumerate(self._sent) if max(since, now - duration) <= sent <= now
            ]
            if len(recent) >= wanted and all(number in self._answered for number in recent):
                return True
            time.sleep(INTERVAL)
        return False

    def lost(self) -> list[float]:
        """Return when the pings were sent that got no answer, those of the last moment left out."""
        until = time.monotonic() - PATIENCE
        return [
            sent
            for number, sent in enumerate(self._sent)
            if sent <= until and self._answered.get(number, float("inf")) - sent > PATIENCE
        ]

    def unanswered(self, since: float, until: float) -> list[float]:
        """Return when those pings were sent, between two times (:func:`time.monotonic`), that have got no
        answer so far, not even a late one.
        """
        sent = enumerate(list(self._sent))
        return [when for number, when in sent if since <= when <= until and number not in self._answered]

    def pings(self, since: float) -> list[tuple[float, float | None]]:
        """Return when each ping was sent, in seconds after ``since`` (:func:`time.monotonic`), and how long
        its answer took; None for the lost ones.
        """
        lost = set(self.lost())
        return [
            (sent - since, None if sent in lost else self._answered[number] - sent)
            for number, sent in enumerate(list(self._sent))
            if sent in lost or number in self._answered
        ]

    def outage(self, since: float = 0.0) -> float:
        """Return how long pings sent after ``since`` were lost, seconds: from the first to the last lost one,
        ends included.
        """
        lost = [sent for sent in self.lost() if sent >= since]
        return lost[-1] - lost[0] + INTERVAL if lost else 0.0

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ending.is_set():
            self._send()
            due = max(due + INTERVAL, time.monotonic())
            while (rest := due - time.monotonic()) > 0:
                if select.select([self._socket], [], [], rest)[0]:
                    self._receive()

    def _send(self) -> None:
        number = len(self._sent)
        self._sent.append(time.monotonic())
        try:
            packet = _HEADER.pack(ECHO_REQUEST, 0, 0, self._identifier, number) + bytes(48)
            self._socket.sendto(packet, (self._target, 0))
        except OSError:
            # No route: lost like any other.
            return

    def _receive(self) -> None:
        while True:
            try:
                packet = self._socket.recv(512)
            except OSError:
                return
            _, _, _, identifier, number = _HEADER.unpack_from(packet)
            if identifier == self._identifier:
                self._answered.setdefault(number, time.monotonic())
