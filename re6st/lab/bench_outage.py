"""Benchmark ``outage``: for how long two nodes do not reach each other when something on the way fails.

One node pings another one 50 times a second. Then the path below the tunnel in use is cut silently, in both
directions or in one, its interface is set down, or one of its processes is killed; or, between two nodes
that have no tunnel because their hosts do not reach each other, something on the host of the relay ends or
is killed, or the host falls mute; or the router of a home reboots, which itself takes three seconds. And
when a cut heals: how long until the direct tunnel is used again. Each run takes another pair, drawn at
random but in the same way each time.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from re6st import status
from re6st.errors import ChildError, ConfigError
from re6st.files import write_atomically
from re6st.lab import worlds
from re6st.lab.daemons import Node
from re6st.lab.lab import Lab
from re6st.lab.latency_plot import plot
from re6st.lab.measurement import Options, Result, Series, converged
from re6st.lab.namespace import processes
from re6st.lab.ping_train import PingTrain
from re6st.lab.topology import RouterKind, Topology
from re6st.status import RouteStatus, TunnelStatus

GUESTS = 6
"""Nodes beside the registry's with public addresses."""

HOME = "home"
"""The node behind a router with UPnP, which takes part in nothing but the reboot of that."""

RETURN = "return to the direct path"
"""What is measured after a cut has healed."""

REBOOT = 3.0
"""Seconds for which a router that reboots forwards nothing."""

RECOVERY = 60.0
"""Seconds after which nobody waits any longer for a pair to reach each other again: it counts as so long."""

COOLING = 120.0
"""Seconds within which a node that has lost all tunnels at once, time after time, has one that is settled."""

STEADY = 1.0
"""Seconds for which all pings must be answered before and after a failure."""

SETTLING = 8.0
"""Seconds that a mesh has to know the quality of its tunnels."""

DETOUR = 30.0
"""Seconds within which two nodes without a tunnel use another way."""

MOST_PAIRS = 5
"""Pairs that are tried until one has a relay that can be killed without losing the registry."""

Pair = tuple[str, str]


def run(options: Options) -> list[Result]:
    """Measure. Raises :class:`ConfigError` for an unknown case, :class:`ChildError` if the mesh breaks."""
    known = (*FAULTS, RETURN)
    if unknown := [case for case in options.cases if case not in known]:
        raise ConfigError(f"there is no case {unknown[0]!r}; there are: {', '.join(known)}")
    chosen = options.cases or known
    series = Series("outage")
    drawn = random.Random(6)  # noqa: S311 - any pairs will do, but the same each time
    with Lab(world(GUESTS), name=options.lab) as lab:
        lab.start_mesh(options.step)
        converged(lab)
        for case in (case for case in FAULTS if case in chosen):
            for number in range(1, options.runs + 1):
                with FAULTS[case](lab, drawn) as (pair, strike):
                    picture = options.plots / f"{_file_name(case)}-{number}.svg" if options.plots else None
                    series.add(case, _outage(lab, pair, strike, picture), "s")
                text = f"  {case}, run {number} of {options.runs}: {' -> '.join(pair)} {series.last:.2f} s"
                options.step(text)
                converged(lab)
        for number in range(1, options.runs + 1) if RETURN in chosen else ():
            series.add(RETURN, _return(lab, drawn), "s")
            options.step(f"  return, run {number} of {options.runs}: {series.last:.2f} s")
    return series.results()


def world(guests: int) -> Topology:
    """Return where it happens: the registry's node, ``guests`` public ones, and :data:`HOME`."""
    kinds: dict[str, RouterKind | None] = {f"node{number}": None for number in range(1, guests + 1)}
    return worlds.with_guests(worlds.mixed(1), {**kinds, HOME: RouterKind.UPNP})


def _outage(lab: Lab, pair: Pair, strike: Callable[[], None], picture: Path | None) -> float:
    source, target = pair
    with PingTrain(lab.hosts[source].namespace, lab.nodes[target].address()) as train:
        if not train.wait_steady(STEADY, RECOVERY):
            raise lab.nodes[source].failure(f"does not reach {target} before anything has failed")
        struck = time.monotonic()
        strike()
        # The effect of a failure may come late: a connection may have been refused only then.
        recovered = train.wait_steady(2 * STEADY, RECOVERY, since=time.monotonic() + STEADY)
        if picture is not None:
            picture.parent.mkdir(parents=True, exist_ok=True)
            title = f"{picture.stem}: {source} pings {target}"
            write_atomically(picture, plot(title, train.pings(struck)).encode(), 0o644)
        return train.outage(since=struck) if recovered else RECOVERY


def _file_name(case: str) -> str:
    return case.replace("'", "").replace(" ", "-")


def _return(lab: Lab, drawn: random.Random) -> float:
    """Return how long after a cut has healed two nodes use a tunnel between them again, both of them."""
    pair, _ = cut_until_relayed(lab, drawn)
    time.sleep(SETTLING)
    lab.heal_all()
    healed = time.monotonic()
    ends = [lab.nodes[name] for name in pair]
    while time.monotonic() < healed + 2 * RECOVERY:
        if next_hop(ends[0], ends[1]) == pair[1] and next_hop(ends[1], ends[0]) == pair[0]:
            return time.monotonic() - healed
        time.sleep(0.1)
    raise lab.nodes[pair[0]].failure(
        f"does not use a tunnel to {pair[1]} {2 * RECOVERY:g} s after the cut healed"
    )


# -- what fails -----------------------------------------------------------------------------------------

Fault = Iterator[tuple[Pair, Callable[[], None]]]


@contextmanager
def _silent_cut(lab: Lab, drawn: random.Random) -> Fault:
    pair = neighbours(lab, drawn)
    try:
        yield pair, lambda: lab.cut(*pair)
    finally:
        lab.heal_all()


@contextmanager
def _one_way_cut(lab: Lab, drawn: random.Random) -> Fault:
    pair = neighbours(lab, drawn)
    sender, receiver = drawn.sample(pair, 2)
    try:
        yield pair, lambda: lab.cut(sender, receiver, one_way=True)
    finally:
        lab.heal_all()


@contextmanager
def _killed_tunnel(lab: Lab, drawn: random.Random) -> Fault:
    pair = neighbours(lab, drawn)
    node, peer = drawn.sample(pair, 2)
    yield pair, lambda: kill_tunnel(lab.nodes[node], peer)


@contextmanager
def _killed_relay(lab: Lab, drawn: random.Random) -> Fault:
    pair, relay = cut_until_relayed(lab, drawn)
    try:
        yield pair, lambda: lab.power_off(relay)
    finally:
        lab.heal_all()
        lab.power_on(relay)


@contextmanager
def _interface_down(lab: Lab, drawn: random.Random) -> Fault:
    pair = neighbours(lab, drawn)
    node, peer = drawn.sample(pair, 2)
    (interface,) = {tunnel.interface for tunnel in _tunnels(lab.nodes[node]) if tunnel.peer == peer}
    command = ["ip", "link", "set", "dev", interface, "down"]

    def set_down() -> None:
        lab.hosts[node].run(command)

    yield pair, set_down


@contextmanager
def _mute_relay(lab: Lab, drawn: random.Random) -> Fault:
    pair, relay = cut_until_relayed(lab, drawn)

    def mute() -> None:
        for other in lab.nodes:
            if other != relay:
                lab.cut(relay, other)

    try:
        yield pair, mute
    finally:
        lab.heal_all()


@contextmanager
def _killed_daemon(lab: Lab, drawn: random.Random) -> Fault:
    pair, relay = cut_until_relayed(lab, drawn)
    try:
        yield pair, lambda: lab.nodes[relay].stop(signal.SIGKILL)
    finally:
        lab.heal_all()
        lab.nodes[relay].start()


@contextmanager
def _killed_babeld(lab: Lab, drawn: random.Random) -> Fault:
    pair, relay = cut_until_relayed(lab, drawn)
    try:
        yield pair, lambda: _kill_babeld(lab.nodes[relay])
    finally:
        lab.heal_all()


@contextmanager
def _router_reboot(lab: Lab, drawn: random.Random) -> Fault:
    """What the router has known of connections and port mappings is gone when it is back."""
    peer = drawn.choice(_public(lab))
    router = lab.topology.hosts[HOME].network
    deadline = time.monotonic() + COOLING
    while next_hop(lab.nodes[HOME], lab.nodes[peer]) != peer or not _settled(lab.nodes[HOME], peer):
        if time.monotonic() > deadline:
            raise lab.nodes[HOME].failure(f"has no tunnel to {peer} in use after {COOLING:g} s")
        time.sleep(0.2)

    def reboot() -> None:
        lab.switch_off(router)
        time.sleep(REBOOT)
        lab.switch_on(router)

    yield (HOME, peer), reboot


def babelds(node: Node) -> list[int]:
    """Return the processes of babeld on a node's host."""
    found = []
    for pid in processes([node.host.namespace]):
        with suppress(OSError):  # it has just ended
            if Path(f"/proc/{pid}/comm").read_text().strip() == "babeld":
                found.append(pid)
    return found


def _kill_babeld(node: Node) -> None:
    found = babelds(node)
    if not found:
        raise node.failure("has no babeld")
    os.kill(found[0], signal.SIGKILL)


@contextmanager
def _stopped_relay(lab: Lab, drawn: random.Random) -> Fault:
    pair, relay = cut_until_relayed(lab, drawn)
    try:
        yield pair, lab.nodes[relay].stop
    finally:
        lab.heal_all()
        lab.nodes[relay].start()


FAULTS = {
    "silent cut": _silent_cut,
    "one-way cut": _one_way_cut,
    "kill of one openvpn": _killed_tunnel,
    "interface down": _interface_down,
    "kill of the relay host": _killed_relay,
    "mute relay host": _mute_relay,
    "kill of the relay's daemon": _killed_daemon,
    "kill of the relay's babeld": _killed_babeld,
    "relay is stopped": _stopped_relay,
    "reboot of the UPnP router": _router_reboot,
}


# -- what is in use -------------------------------------------------------------------------------------


def next_hop(node: Node, target: Node) -> str:
    """Return the name of the peer through which ``node`` reaches ``target``; empty if it does not."""
    for route in status.fetch(node.runtime, "routes", list[RouteStatus]):
        if route.installed and route.peer == target.name and route.metric < 65535:
            return route.next_hop
    return ""


def neighbours(lab: Lab, drawn: random.Random) -> Pair:
    """Return two public nodes, not the registry's, that reach each other by a tunnel in both directions."""
    names = _public(lab)
    pairs = [(one, other) for one in names for other in names if one != other]
    drawn.shuffle(pairs)
    deadline = time.monotonic() + RECOVERY
    while time.monotonic() < deadline:
        for one, other in pairs:
            ends = lab.nodes[one], lab.nodes[other]
            if next_hop(*ends) == other and next_hop(*reversed(ends)) == one and _settled(ends[0], other):
                return one, other
        time.sleep(0.5)
    raise ChildError(f"no two nodes use a tunnel between them {RECOVERY:g} s after the last failure")


def _public(lab: Lab) -> list[str]:
    return [name for name in lab.nodes if name not in (HOME, lab.topology.registry)]


def _settled(node: Node, peer: str) -> bool:
    return any(tunnel.peer == peer and tunnel.age > SETTLING for tunnel in _tunnels(node))


def cut_until_relayed(lab: Lab, drawn: random.Random) -> tuple[Pair, str]:
    """Cut two nodes for good; return them and the node through which the first one reaches the second.

    That can be killed: it is neither the registry's nor :data:`HOME`, from which the first one is cut off as
    well where it would go that way. Raises :class:`ChildError` when no such pair is found.
    """
    for _ in range(MOST_PAIRS):
        pair = neighbours(lab, drawn)
        # While nobody uses it, nobody would notice soon that a path is cut.
        with PingTrain(lab.hosts[pair[0]].namespace, lab.nodes[pair[1]].address()):
            lab.cut(*pair)
            relay = _find_relay(lab, pair)
        if relay:
            return pair, relay
        lab.heal_all()
    raise ChildError(f"of {MOST_PAIRS} pairs of nodes without a tunnel none has a relay that can be killed")


def _find_relay(lab: Lab, pair: Pair) -> str:
    """Return the relay of ``pair``, once it can be killed; empty if that takes too long."""
    source, target = (lab.nodes[name] for name in pair)
    avoided: set[str] = set()
    deadline = time.monotonic() + DETOUR
    while time.monotonic() < deadline:
        hop = next_hop(source, target)
        if hop in (HOME, lab.topology.registry):
            if hop not in avoided:
                lab.cut(source.name, hop)
                avoided.add(hop)
        elif hop not in ("", target.name):
            return hop
        time.sleep(0.2)
    return ""


def kill_tunnel(node: Node, peer: str) -> None:
    """Kill the OpenVPN process of the tunnel from ``node`` to ``peer``. Raises :class:`ChildError`."""
    interfaces = {tunnel.interface for tunnel in _tunnels(node) if tunnel.peer == peer}
    for pid in processes([node.host.namespace]):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        if words[0] == "openvpn" and interfaces & set(words):
            os.kill(pid, signal.SIGKILL)
            return
    raise node.failure(f"has no tunnel to {peer}")


def _tunnels(node: Node) -> list[TunnelStatus]:
    found = status.fetch(node.runtime, "tunnels", list[TunnelStatus])
    return [tunnel for tunnel in found if tunnel.state == "up"]
