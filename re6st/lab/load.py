"""Load on an HTTPS server: ready-made requests over raw TLS connections, so that it costs little (I/O).

The load and the server share the machine. An HTTP client would use as much of it as the server; here a
request is a string of octets that is sent as it is, and of an answer only status and length are looked at.
Connections belong to the network namespace of the thread that asks for load.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from re6st.errors import ChildError

TIMEOUT = 30.0
"""Seconds that the server may be silent."""

AT_ONCE = 8
"""Questions at the same time of those that have a connection each."""

HEARTBEATS_AT_ONCE = 32
"""The same for heartbeats, which do not wait for each other."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request and what it must be answered by."""

    data: bytes
    status: int = 200


def request(method: str, path: str, body: bytes = b"", *, status: int, headers: str = "") -> Request:
    """Return an HTTP request; each of ``headers`` ends with ``\\r\\n``."""
    if body:
        headers += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    head = f"{method} {path} HTTP/1.1\r\nHost: registry\r\n{headers}\r\n"
    return Request(head.encode() + body, status)


@dataclass(slots=True)
class Visitor:
    """Somebody who may come again, perhaps with a certificate."""

    address: tuple[str, int]
    context: ssl.SSLContext
    name: str
    """Of the server, in its certificate."""

    @classmethod
    def make(cls, address: tuple[str, int], authority: bytes, identity: Path | None, name: str) -> Visitor:
        """Return a visitor that trusts ``authority`` (DER); ``identity`` holds key and certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=authority)
        if identity is not None:
            context.load_cert_chain(identity)
        return cls(address, context, name)

    def connect(self) -> Connection:
        """Return a new connection. Raises :class:`OSError`."""
        plain = socket.create_connection(self.address, TIMEOUT)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connection(self.context.wrap_socket(plain, server_hostname=self.name))

    def visit(self, asked: Request) -> None:
        """Ask over a connection of its own. Raises :class:`ChildError`, :class:`OSError`."""
        connection = self.connect()
        try:
            connection.send(asked)
            connection.receive()
        finally:
            connection.tls.close()


class Connection:
    """A TLS connection with one question at a time."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self.tls = tls
        self._asked: Request | None = None

    def send(self, asked: Request) -> None:
        """Ask."""
        self._asked = asked
        self.tls.sendall(asked.data)

    def receive(self) -> bytes:
        """Return the body of the answer. Raises :class:`ChildError` when it is not the expected one."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        status = int(lines[0].split()[1])
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        while len(body) < length:
            body += self._more()
        if self._asked is None or status != self._asked.status:
            raise ChildError(f"the registry answers with status {status}: {body[:300]!r}")
        return body

    def _more(self) -> bytes:
        data = self.tls.recv(65536)
        if not data:
            raise ChildError("the registry closed a connection without an answer: its log says why")
        return data


def saturate(connections: Sequence[Connection], requests: Iterable[Request]) -> int:
    """Keep one question open at each connection until all ``requests`` are answered; return their number."""
    waiting: list[Connection] = []
    asked = iter(requests)
    for connection, first in zip(connections, asked, strict=False):
        connection.send(first)
        waiting.append(connection)
    count = 0
    while waiting:
        connection = waiting.pop(0)
        connection.receive()
        count += 1
        further = next(asked, None)
        if further is not None:
            connection.send(further)
            waiting.append(connection)
    return count


def visit_all(visits: Iterable[tuple[Visitor, Request]]) -> int:
    """Let visitors ask, :data:`AT_ONCE` at a time, each over a new connection; return their number."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return sum(pool.map(lambda visit: visit[0].visit(visit[1]) or 1, visits))


class Heartbeat:
    """Questions at an even rate, whatever the server does; each over a new connection.

    A question is counted from the moment when it was due to the end of the answer, so that none hides
    behind a slow one.
    """

    def __init__(self, visitors: Sequence[Visitor], asked: Request, rate: float) -> None:
        """Let ``visitors`` take turns, ``rate`` questions a second in all."""
        self._visitors = visitors
        self._asked = asked
        self._rate = rate
        self._stopped = threading.Event()
        self._delays: list[float] = []
        self._failures: list[Exception] = []
        self._threads: list[threading.Thread] = []
        self._number = 0
        self._turn = threading.Lock()
        self._began = 0.0

    def start(self) -> None:
        """Begin."""
        self._began = time.monotonic()
        self._threads = [threading.Thread(target=self._run) for _ in range(HEARTBEATS_AT_ONCE)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[float]:
        """End, and return how long each question waited for its answer, in seconds.

        Raises :class:`ChildError` when one was not answered.
        """
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise ChildError(f"a heartbeat failed: {self._failures[0]}") from self._failures[0]
        return self._delays

    def _run(self) -> None:
        while True:
            with self._turn:
                number = self._number
                self._number += 1
            due = self._began + number / self._rate
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                return
            try:
                self._visitors[number % len(self._visitors)].visit(self._asked)
            except (OSError, ChildError) as error:
                self._failures.append(error)
                return
            self._delays.append(time.monotonic() - due)
