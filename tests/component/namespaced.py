"""What the tests of routing and of the kernel's state share: hosts in namespaces, links between them.

A host is a namespace with a thread inside that runs an event loop: what is started from that loop, sockets
and children alike, belongs to the host.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from re6st.lab.namespace import Namespace, kill_inside

Result = TypeVar("Result")

_numbers = itertools.count()
_TUNSETIFF = 0x400454CA
_TUN_WITHOUT_HEADER = 0x1001


def wait_until(condition: Callable[[], object], timeout: float, what: str) -> float:
    """Return the seconds after which ``condition`` holds; fail after ``timeout``."""
    start = time.monotonic()
    while not condition():
        elapsed = time.monotonic() - start
        assert elapsed < timeout, f"not within {timeout} s: {what}"
        time.sleep(0.005)
    return time.monotonic() - start


class Host:
    """A namespace and an event loop inside it."""

    def __init__(self, name: str) -> None:
        self.namespace = Namespace(f"t{os.getpid()}-{next(_numbers)}-{name}")
        self.namespace.create()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self.ip("link", "set", "lo", "up")

    def _run(self) -> None:
        with self.namespace.entered():
            self.loop.run_forever()

    def call(self, coroutine: Coroutine[Any, Any, Result], timeout: float = 20.0) -> Result:
        """Run ``coroutine`` on the host."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def do(self, function: Callable[[], Result]) -> Result:
        """Call ``function`` on the host."""

        async def calling() -> Result:
            return function()

        return self.call(calling())

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a program on the host; return what it prints."""
        command = ["ip", "netns", "exec", self.namespace.name, *argv]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, f"{' '.join(argv)}: {output}"
        return output

    def ip(self, *argv: str) -> str:
        """Run ``ip -6`` on the host."""
        return self.run("ip", "-6", *argv)

    def pings(self, address: str, *options: str) -> bool:
        """Return whether ``address`` answers to one of a few quick pings from the host."""
        output = self.run("ping", "-6", "-c", "3", "-i", "0.2", "-W", "1", *options, address, check=False)
        return " bytes from " in output

    def remove(self) -> None:
        """End everything on the host and remove it."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()
        kill_inside([self.namespace])
        self.namespace.remove()


def connect(left: Host, left_name: str, right: Host, right_name: str) -> None:
    """Connect two hosts by an Ethernet cable (veth), up at both ends."""
    left.ip(
        "link", "add", left_name, "type", "veth", "peer", "name", right_name, "netns", right.namespace.name
    )
    for host, name in ((left, left_name), (right, right_name)):
        host.run("sysctl", "-qw", f"net.ipv6.conf.{name}.accept_dad=0")
        host.ip("link", "set", name, "up")


class Tunnel:
    """Carries packets between tun devices, which exist already, of two hosts: a tunnel without encryption."""

    def __init__(self, left: Host, left_name: str, right: Host, right_name: str) -> None:
        self._left = left.do(lambda: _attach(left_name))
        self._right = right.do(lambda: _attach(right_name))
        self._loop = left.loop
        left.do(self._begin)

    def _begin(self) -> None:
        for source, target in ((self._left, self._right), (self._right, self._left)):
            self._loop.add_reader(source, self._carry, source, target)

    @staticmethod
    def _carry(source: int, target: int) -> None:
        # The device at the other end may be down: its packets are lost, as in a real tunnel.
        with suppress(OSError):
            os.write(target, os.read(source, 65536))

    def close(self) -> None:
        """Stop carrying; the devices stay."""

        async def closing() -> None:
            for descriptor in (self._left, self._right):
                self._loop.remove_reader(descriptor)
                os.close(descriptor)

        asyncio.run_coroutine_threadsafe(closing(), self._loop).result(5)


def _attach(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TUN_WITHOUT_HEADER))
    return descriptor


def remove_all(hosts: Iterable[Host]) -> None:
    """Remove all ``hosts``."""
    for host in hosts:
        host.remove()
