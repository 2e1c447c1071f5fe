"""What end-to-end tests wait for and look at."""

import os
import socket
import threading
import time
from collections.abc import Iterable

from re6st import status
from re6st.lab.daemons import Node
from re6st.lab.lab import Lab
from re6st.lab.ping_train import PingTrain
from re6st.status import TunnelStatus
from re6st.supervisor.record import read_all

PATIENCE = 90.0
"""Seconds that what must happen may take on a busy machine; normally it takes a small part of that."""

HEADERS = 48
"""Octets of the headers of an ICMPv6 echo request, and of a datagram of UDP."""
TRANSFER = 100_000
"""Octets of a transfer over TCP."""

IPV6_DONTFRAG = 62
"""RFC 3542, 11.2; Python has no name for it."""

LATENESS = 10.0
"""Seconds after which a ping without an answer is lost: more than a busy machine keeps anybody waiting."""


def until(condition, what="what the test waits for", timeout=PATIENCE):
    """Return what ``condition`` says as soon as that is true."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout:g} seconds: {what}"
        time.sleep(0.1)
    return value


def tunnels(lab: Lab, name: str) -> dict[str, TunnelStatus]:
    """Return the tunnels of a node that are up, by their peer."""
    found = status.fetch(lab.nodes[name].runtime, "tunnels", list[TunnelStatus], timeout=PATIENCE)
    return {tunnel.peer: tunnel for tunnel in found if tunnel.state == "up"}


def children(node: Node) -> dict[str, int]:
    """Return the processes of the node's tunnels and of its babeld, by name."""
    return {record.name: record.pid for record in read_all(node.runtime / "children")}


def carries_full_packets(lab: Lab, source: str, target: str, mtu: int) -> None:
    """Wait until a datagram of ``mtu`` octets arrives whole, and a transfer over TCP ends."""
    address = str(lab.nodes[target].address())
    namespaces = lab.hosts[source].namespace, lab.hosts[target].namespace
    with namespaces[0].entered():
        sender, client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), socket.socket(socket.AF_INET6)
    with namespaces[1].entered():
        receiver = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        listener = socket.create_server((address, 0), family=socket.AF_INET6)
    with sender, client, receiver, listener:
        sender.setsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG, 1)
        receiver.bind((address, 0))
        receiver.settimeout(1.0)
        datagram = os.urandom(mtu - HEADERS)

        def arrives() -> bool:
            try:
                sender.sendto(datagram, receiver.getsockname())
                return receiver.recv(65536) == datagram
            except OSError:
                return False

        until(arrives)
        for one in (client, listener):
            one.settimeout(60.0)
        client.connect(listener.getsockname())
        connection, _ = listener.accept()
        with connection:
            sending = threading.Thread(target=client.sendall, args=(bytes(TRANSFER),), daemon=True)
            sending.start()
            connection.settimeout(60.0)
            received = 0
            while received < TRANSFER:
                received += len(connection.recv(65536))
            sending.join()


def lost(trains: Iterable[PingTrain], since: float) -> list[float]:
    """Return when those pings were sent, in seconds after ``since``, that are lost of all since then. Late is
    not lost: each has :data:`LATENESS` seconds.
    """
    now = time.monotonic()

    def missing() -> list[float]:
        return sorted(sent - since for train in trains for sent in train.unanswered(since, now))

    while (waited := missing()) and time.monotonic() < now + LATENESS:
        time.sleep(0.1)
    return waited


class Transfer:
    """A TCP connection from one node to another that carries octets until it is told to end."""

    def __init__(self, lab: Lab, source: str, target: str) -> None:
        address = lab.nodes[target].address()
        with lab.hosts[target].namespace.entered():
            self._listener = socket.create_server((address, 0), family=socket.AF_INET6)
        with lab.hosts[source].namespace.entered():
            self._client = socket.socket(socket.AF_INET6)
        self._client.settimeout(PATIENCE)
        self._client.connect(self._listener.getsockname()[:2])
        self._ending = threading.Event()
        self._sent = self._received = 0
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        with self._client:
            while not self._ending.wait(0.01):
                self._client.sendall(bytes(4096))
                self._sent += 4096

    def _receive(self) -> None:
        connection, _ = self._listener.accept()
        with connection, self._listener:
            while octets := connection.recv(65536):
                self._received += len(octets)

    def goes_on(self) -> bool:
        """Wait until more arrives than was on its way; return whether it does."""
        wanted = self._sent + 4096
        try:
            return until(lambda: self._received > wanted)
        except AssertionError:
            return False

    def complete(self) -> bool:
        """End it; return whether all that was sent has arrived."""
        self._ending.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        return self._sent == self._received > 0
