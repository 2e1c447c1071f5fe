"""The monitor over a real pair of tun devices: host a watches its tunnel to host b.

a: re6st0 (tun) ==== packets carried by the test ==== re6st0 (tun) :b
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest
from namespaced import Host, Tunnel, remove_all, wait_until

from re6st.node.liveness_monitor import LivenessMonitor
from re6st.tunnel.liveness import State

INTERFACE = "re6st0"


class Watch:
    """The monitor of a host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.silent: list[int] = []
        self.monitor = host.do(lambda: LivenessMonitor(self.silent.append))
        host.call(self.monitor.start())
        host.do(lambda: self.monitor.watch(7, INTERFACE))

    @property
    def state(self) -> State:
        detector = self.host.do(lambda: self.monitor.detector(INTERFACE))
        return State.DEAD if detector is None else detector.state

    def stop(self) -> None:
        self.host.call(self.monitor.stop())


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    made = Host("a"), Host("b")
    for number, host in enumerate(made, 1):
        host.run("ip", "tuntap", "add", INTERFACE, "mode", "tun")
        host.run("sysctl", "-qw", f"net.ipv6.conf.{INTERFACE}.accept_dad=0")
        host.ip("link", "set", INTERFACE, "up")
        host.ip("address", "add", f"2001:db8:1::{number}/64", "dev", INTERFACE, "nodad")
    yield made
    remove_all(made)


@pytest.fixture
def tunnel(hosts: tuple[Host, Host]) -> Iterator[Tunnel]:
    made = Tunnel(hosts[0], INTERFACE, hosts[1], INTERFACE)
    yield made
    made.close()


@pytest.fixture
def watch(hosts: tuple[Host, Host], tunnel: Tunnel) -> Iterator[Watch]:
    made = Watch(hosts[0])
    yield made
    made.stop()


def lose(host: Host, descriptor: int) -> None:
    """Read what the device at ``descriptor`` sends, as a tunnel does, and lose it."""
    host.do(lambda: host.loop.add_reader(descriptor, os.read, descriptor, 65536))


@pytest.fixture
def pings(hosts: tuple[Host, Host]) -> Iterator[None]:
    command = ["ip", "netns", "exec", hosts[0].namespace.name, "ping", "-i", "0.02", "2001:db8:1::2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        yield
        process.kill()


def test_a_tunnel_that_works_is_proven_and_stays_so(hosts: tuple[Host, Host], watch: Watch) -> None:
    wait_until(lambda: watch.state is State.TRUSTED, 30, "a probe is answered")
    assert hosts[0].pings("2001:db8:1::2", "-c", "50", "-i", "0.02")
    assert watch.state is State.TRUSTED
    assert watch.silent == []


@pytest.mark.parametrize("sender", ["_left", "_right"])
def test_a_tunnel_in_use_that_loses_one_direction_is_dead_soon(
    hosts: tuple[Host, Host], tunnel: Tunnel, watch: Watch, pings: None, sender: str
) -> None:
    wait_until(lambda: watch.state is State.TRUSTED, 30, "a probe is answered")
    time.sleep(0.3)  # the pings are to be under way
    lose(hosts[0], getattr(tunnel, sender))
    wait_until(lambda: watch.silent == [7], 60, "the tunnel is dead")
    assert watch.state is State.DEAD


def test_a_host_that_answers_no_pings_is_not_judged(
    hosts: tuple[Host, Host], tunnel: Tunnel, pings: None
) -> None:
    hosts[1].run("sysctl", "-qw", "net.ipv6.icmp.echo_ignore_all=1")
    watch = Watch(hosts[0])
    try:
        time.sleep(3)  # nothing is to happen in a time in which it could
        assert watch.state is State.UNPROVEN
        assert watch.silent == []
    finally:
        watch.stop()


def test_a_stranger_on_another_interface_cannot_answer(hosts: tuple[Host, Host], watch: Watch) -> None:
    wait_until(lambda: watch.state is State.TRUSTED, 30, "a probe is answered")
    prober = watch.monitor._prober
    seen: list[tuple[str, int]] = []
    hosts[0].do(lambda: setattr(prober, "_answered", lambda *answer: seen.append(answer)))

    def forge() -> None:
        nonce = os.urandom(8)
        prober._waiting[nonce] = (INTERFACE, 4711, 5)
        packet = bytes((129, 0, 0, 0)) + prober._identifier.to_bytes(2, "big") + bytes((0, 5)) + nonce
        prober._take(packet, "fe80::1", 1)
        prober._take(packet, "2001:db8:1::2", 4711)
        prober._take(packet[:-1], "fe80::1", 4711)
        assert seen == []
        prober._take(packet, "fe80::1", 4711)
        assert seen == [(INTERFACE, 5)]

    hosts[0].do(forge)
