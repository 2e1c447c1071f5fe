"""What end-to-end tests wait for and look at."""

import socket
import threading
import time

from re6st import status
from re6st.lab.daemons import Node
from re6st.lab.lab import Lab
from re6st.status import TunnelStatus
from re6st.supervisor.record import read_all

PATIENCE = 90.0
"""Seconds that what must happen may take on a busy machine; normally it takes a small part of that."""


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
