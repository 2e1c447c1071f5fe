"""A world of many brains on a virtual clock: an idealised underlay, registry and drivers, all seeded.

What is modelled: latency of control requests, who can be dialled, requests that fail, drivers that need a
moment to connect, the routing daemon's quiet time, a registry that may be down, nodes that are killed and
restarted, or asleep for a while. What is not: packets, bandwidth, routing. Broken promises of the core (a
slot used twice, a port used twice, an answer to a request that nobody made) fail at once.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network

import msgspec

from re6st.core import CoreSettings, NodeCore
from re6st.core import effects as fx
from re6st.core import events as ev
from re6st.messages import Endpoint, NetworkParameters, RefusalReason, Transport, TunnelOffer
from re6st.peers import NOTHING_SIGNED, Peer
from re6st.tunnel.lifecycle import TunnelState

NETWORK = IPv6Network("2001:db8:42::/48")
WALL = 1_800_000_000.0
QUIET_AFTER = 17.0
PING_TIMEOUT = 20.0
CONNECT_TIMEOUT = 3.0


class Nat(enum.Enum):
    PUBLIC = "public"
    MAPPED = "mapped"
    OUTGOING = "outgoing only"
    CONE = "cone: holes can be punched"
    SYMMETRIC = "symmetric: another port for each flow"


HIDDEN = {Nat.OUTGOING, Nat.CONE, Nat.SYMMETRIC}


@dataclass(eq=False)
class Side:
    """One end of a link, as the driver of a node has it."""

    node: SimNode
    boot: int
    handle: int
    slot: int
    port: int | None
    open: bool = True
    up: bool = False

    @property
    def alive(self) -> bool:
        return self.open and self.node.alive and self.node.boot == self.boot


@dataclass(eq=False)
class Link:
    listener: Side
    dialer: Side | None = None

    def other(self, side: Side) -> Side | None:
        return self.dialer if side is self.listener else self.listener


@dataclass(eq=False)
class Request:
    """A tunnel request under way."""

    dialer: SimNode
    boot: int
    handle: int
    listener: SimNode
    cancelled: bool = False


@dataclass(eq=False)
class SimNode:
    index: int
    nat: Nat
    settings: CoreSettings
    lifetime: float
    core: NodeCore = field(init=False)
    alive: bool = False
    boot: int = 0
    sequence: int = 1
    endpoints: tuple[Endpoint, ...] = ()
    serial: str = ""
    issued: float = WALL
    sides: dict[int, tuple[Side, Link]] = field(default_factory=dict)
    requests: dict[int, Request] = field(default_factory=dict)
    noisy: set[int] = field(default_factory=set)
    disk: dict[IPv6Network, Peer] = field(default_factory=dict)
    versions: dict[ev.Document, int] = field(default_factory=lambda: dict.fromkeys(ev.Document, 1))
    effects: Counter[str] = field(default_factory=Counter)
    refusals: Counter[RefusalReason] = field(default_factory=Counter)
    timer: int = 0
    routed: frozenset[IPv6Network] = frozenset()
    asleep: bool = False
    fell_asleep: float = 0.0
    slept: float = 0.0
    """Seconds for which its monotonic clock stood still."""
    postponed: list[Callable[[], None]] = field(default_factory=list)
    """What would have happened on it while it was asleep."""

    @property
    def listening(self) -> bool:
        return self.alive and not self.asleep

    @property
    def prefix(self) -> IPv6Network:
        return self.settings.prefix

    @property
    def record(self) -> Peer:
        return Peer(
            prefix=self.prefix,
            name=self.settings.name,
            sequence=self.sequence,
            endpoints=self.endpoints,
            capabilities=() if self.nat is Nat.OUTGOING else ("punch",),
            serial=self.serial,
            expires=self.issued + self.lifetime,
        )

    def __repr__(self) -> str:
        return self.settings.name


class World:
    def __init__(
        self,
        seed: int = 1,
        *,
        latency: tuple[float, float] = (0.01, 0.15),
        connecting: tuple[float, float] = (0.6, 1.4),
        failing: float = 0.0,
        routing: float | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.latency = latency
        self.connecting = connecting
        self.failing = failing
        """Part of the requests that get lost."""
        self.nodes: list[SimNode] = []
        self.by_prefix: dict[IPv6Network, SimNode] = {}
        self.registry_up = True
        self.refused: set[SimNode] = set()
        """Whom the registry turns away."""
        self.registry_records: dict[IPv6Network, Peer] = {}
        self.registry_calls: Counter[ev.RegistryOperation] = Counter()
        self.versions = dict.fromkeys(ev.Document, 1)
        self.revoked: frozenset[str] = frozenset()
        self.parameters = NetworkParameters(version=1, network=str(NETWORK))
        self.blocked: Callable[[SimNode, SimNode], bool] = lambda one, other: False
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._numbers = itertools.count(1)
        self._requests: dict[int, Request] = {}
        self._links: dict[str, Link] = {}
        self.events = 0
        if routing is not None:
            self._route(routing)

    # -- people -------------------------------------------------------------------------------------------

    def add(self, nat: Nat = Nat.PUBLIC, *, lifetime: float = 90 * 86400.0, **settings: object) -> SimNode:
        index = len(self.nodes) + 1
        prefix = IPv6Network((int(NETWORK.network_address) + (self.random.getrandbits(16) << 64), 64))
        while prefix in self.by_prefix:
            prefix = IPv6Network((int(NETWORK.network_address) + (self.random.getrandbits(16) << 64), 64))
        node = SimNode(
            index=index,
            nat=nat,
            settings=CoreSettings(prefix=prefix, name=f"n{index}", network=NETWORK, **settings),  # type: ignore[arg-type]
            lifetime=lifetime,
        )
        node.serial = f"{next(self._numbers):x}"
        self.nodes.append(node)
        self.by_prefix[prefix] = node
        return node

    def start(self, node: SimNode) -> None:
        node.boot += 1
        node.alive = True
        node.sequence += 1
        node.endpoints = ()
        node.sides, node.requests, node.noisy = {}, {}, set()
        node.routed = frozenset()
        node.core = NodeCore(node.settings, random.Random(self.random.getrandbits(64)))
        self._perform(node, node.core.start(self.time(node)))
        if node.disk:
            self.report(node, ev.PeersLearned(tuple(node.disk.values()), ev.Source.BOOK))
        self.report(node, ev.ClockRead(self.wall - self.time(node)))
        self.report(node, ev.OwnCertificateChanged(node.issued, node.issued + node.lifetime))
        if node.nat is Nat.PUBLIC:
            self.reach(node)
        elif node.nat is Nat.MAPPED:
            self.later(self.random.uniform(1, 3), self._if_running(node, lambda: self.reach(node)))

    def reach(self, node: SimNode) -> None:
        address = str(IPv6Address((0x2001_0DB8_FFFF << 80) + node.index))
        node.endpoints = (Endpoint(Transport.TCP, address, 4226),)
        node.sequence += 1
        self.report(node, ev.OwnEndpointsChanged(node.endpoints))

    def kill(self, node: SimNode) -> None:
        """End a node without a word."""
        node.alive = False
        for side, link in list(node.sides.values()):
            self._silence(side, link)

    def sleep(self, node: SimNode) -> None:
        """Suspend a node: nothing of it runs, and its monotonic clock stands still."""
        node.asleep, node.fell_asleep = True, self.now
        for side, link in list(node.sides.values()):
            self._silence(side, link)
            side.open = True

    def wake(self, node: SimNode) -> None:
        """Let a node go on; it notices the pause as :mod:`re6st.node.pauses` does, then what is silent."""
        node.slept += self.now - node.fell_asleep
        node.asleep = False
        silent = list(node.sides)
        for action in node.postponed:
            self.later(self.random.uniform(0, 1), action)
        node.postponed.clear()
        self._arm(node)

        def notice() -> None:
            self.report(node, ev.NetworkChanged())
            self.report(node, ev.ClockRead(self.wall - self.time(node)))
            for handle in silent:
                self._tell(node, ev.TunnelSilent(handle), 0.5)

        self.later(self.random.uniform(0, 2), self._if_running(node, notice))

    def time(self, node: SimNode) -> float:
        """Return what the monotonic clock of ``node`` shows."""
        return self.now - node.slept

    def cut_blocked(self) -> None:
        """Let all tunnels over blocked paths die of silence."""
        for node in self.living:
            for side, link in list(node.sides.values()):
                other = link.other(side)
                if other is not None and self.blocked(node, other.node):
                    self._silence(side, link)
                    side.open = True

    def stop(self, node: SimNode) -> None:
        """End a node in good order."""
        self._perform(node, node.core.stop(self.time(node)))
        self.run(0.001)
        node.alive = False

    def renew(self, node: SimNode) -> None:
        node.serial = f"{next(self._numbers):x}"
        node.issued = self.wall
        node.sequence += 1
        self.report(node, ev.OwnCertificateChanged(node.issued, node.issued + node.lifetime))

    def dial_anew(self, node: SimNode) -> None:
        """Let a node give up its tunnels and ask for new ones, as after losing sight of a peer."""
        for tunnel in node.core.tunnels():
            if tunnel.handle in node.sides:
                side, link = node.sides[tunnel.handle]
                self._driver_ended(side, link, "lost")

    def revoke(self, *nodes: SimNode) -> None:
        """Publish new revocations at the registry."""
        self.revoked |= {node.serial for node in nodes}
        self.versions[ev.Document.REVOCATIONS] += 1

    @property
    def wall(self) -> float:
        return WALL - 1000.0 + self.now

    # -- time ---------------------------------------------------------------------------------------------

    def later(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._order), action))

    def run(self, duration: float) -> None:
        """Let ``duration`` seconds pass."""
        end = self.now + duration
        while self._queue and self._queue[0][0] <= end:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit: float, step: float = 1.0) -> float:
        """Let time pass until ``condition`` holds; return how long it took."""
        begin = self.now
        while not condition():
            assert self.now - begin < limit, f"not within {limit} s"
            self.run(step)
        return self.now - begin

    def report(self, node: SimNode, event: ev.Event) -> None:
        if node.alive:
            self.events += 1
            self._perform(node, node.core.handle(event, self.time(node)))

    def _tell(self, node: SimNode, event: ev.Event, delay: float) -> None:
        self.later(delay, self._if_running(node, lambda: self.report(node, event)))

    @staticmethod
    def _if_running(node: SimNode, action: Callable[[], None]) -> Callable[[], None]:
        boot = node.boot

        def run() -> None:
            if node.asleep:
                node.postponed.append(run)
            elif node.alive and node.boot == boot:
                action()

        return run

    def _arm(self, node: SimNode) -> None:
        deadline = node.core.next_deadline()
        node.timer += 1
        timer = node.timer
        if deadline is None:
            return

        def fire() -> None:
            if node.timer == timer:
                self.events += 1
                self._perform(node, node.core.advance(self.time(node)))

        # The difference of two clocks is rounded: a timer must not go off just before its time for ever.
        rounding = 1e-6 if node.slept else 0.0
        self.later(max(0.0, deadline - self.time(node)) + rounding, self._if_running(node, fire))

    def _route(self, interval: float) -> None:
        """Tell all nodes every so often to whom there are tunnels, directly or through others."""
        for component in self.components():
            prefixes = frozenset(node.prefix for node in component)
            for node in component:
                if prefixes != node.routed:
                    node.routed = prefixes
                    self.report(node, ev.RoutesKnown(prefixes - {node.prefix}))
        self.later(interval, lambda: self._route(interval))

    def delay(self) -> float:
        return self.random.uniform(*self.latency)

    # -- effects ------------------------------------------------------------------------------------------

    def _perform(self, node: SimNode, effects: Iterable[fx.Effect]) -> None:
        for effect in effects:
            name = type(effect).__name__
            node.effects[name] += 1
            getattr(self, f"_do_{name}")(node, effect)
        self._arm(node)

    def _do_RequestTunnel(self, node: SimNode, effect: fx.RequestTunnel) -> None:  # noqa: N802
        listener = self.by_prefix[effect.peer.prefix]
        lost = self.random.random() < self.failing or self.blocked(node, listener)
        request = Request(node, node.boot, effect.tunnel, listener)
        node.requests[effect.tunnel] = request
        closed = not effect.punched and (not effect.peer.endpoints or listener.nat in HIDDEN)
        if lost or not listener.listening or closed:
            timeout = 0.1 if self.random.random() < 0.3 else CONNECT_TIMEOUT
            failure = ev.TunnelRequestFailed(effect.tunnel, "no answer")
            self.later(timeout, lambda: self._answer(request, failure))
            return
        if effect.punched and listener.nat is Nat.SYMMETRIC:
            refusal = ev.TunnelRefused(effect.tunnel, RefusalReason.UNAVAILABLE)
            self.later(2 * self.delay(), lambda: self._answer(request, refusal))
            return
        number = next(self._numbers)
        event = ev.TunnelRequested(
            request=number,
            peer=node.record,
            boot_id=str(node.boot),
            protocol=node.settings.protocol,
            drivers=node.settings.drivers,
            mtu=1280,
            replace=effect.replace,
            isolated=effect.isolated,
            fragments=effect.fragments,
        )

        def answered() -> None:
            assert number not in self._requests, "an event TunnelRequested got no answer"

        def arrive() -> None:
            self._requests[number] = request
            self.report(listener, ev.PeersLearned((event.peer,), ev.Source.DIRECT))
            self.report(listener, event)
            self.later(node.settings.request_timeout, self._if_running(listener, answered))

        self.later(self.delay(), self._if_running(listener, arrive))

    def _answer(self, request: Request, event: ev.Event) -> None:
        if not request.cancelled and request.dialer.alive and request.dialer.boot == request.boot:
            del request.dialer.requests[request.handle]
            self.report(request.dialer, event)

    def _do_CancelRequest(self, node: SimNode, effect: fx.CancelRequest) -> None:  # noqa: N802
        node.requests.pop(effect.tunnel).cancelled = True

    def _do_RefuseTunnel(self, node: SimNode, effect: fx.RefuseTunnel) -> None:  # noqa: N802
        request = self._requests.pop(effect.request)
        node.refusals[effect.reason] += 1
        event = ev.TunnelRefused(request.handle, effect.reason, effect.detail, effect.hints)
        self.later(self.delay(), lambda: self._answer(request, event))

    def _open(self, node: SimNode, handle: int, slot: int, port: int | None) -> Side:
        in_use = [side for side, _ in node.sides.values()]
        assert slot not in {side.slot for side in in_use}, f"{node}: slot {slot} is in use"
        assert slot not in node.noisy, f"{node}: slot {slot} is not quiet"
        assert port is None or port not in {side.port for side in in_use}, f"{node}: port {port} is in use"
        return Side(node, node.boot, handle, slot, port)

    def _do_OfferTunnel(self, node: SimNode, effect: fx.OfferTunnel) -> None:  # noqa: N802
        request = self._requests.pop(effect.request)
        side = self._open(node, effect.tunnel, effect.slot, effect.port)
        link = Link(side)
        node.sides[effect.tunnel] = (side, link)
        name = f"t{next(self._numbers)}"
        self._links[name] = link
        offer = TunnelOffer(
            tunnel=name,
            boot_id=str(node.boot),
            record=NOTHING_SIGNED,
            driver="openvpn",
            endpoints=(Endpoint(Transport.UDP, "192.0.2.1", effect.port),),
            key="",
            mtu=effect.mtu,
            fragments=effect.fragments,
        )
        event = ev.TunnelOffered(request.handle, offer, node.record)
        self.later(self.delay(), lambda: self._answer(request, event))

    def _do_DialTunnel(self, node: SimNode, effect: fx.DialTunnel) -> None:  # noqa: N802
        side = self._open(node, effect.tunnel, effect.slot, None)
        link = self._links.pop(effect.offer.tunnel)
        link.dialer = side
        node.sides[effect.tunnel] = (side, link)
        if node.nat is Nat.SYMMETRIC and link.listener.node.nat in HIDDEN:
            return  # what it sends comes from another port than the one for which a hole was punched
        self.later(self.random.uniform(*self.connecting), lambda: self._connect(link))

    def _connect(self, link: Link) -> None:
        assert link.dialer is not None
        if not (link.listener.alive and link.dialer.alive):
            return
        for side in (link.listener, link.dialer):
            side.up = True
            self._tell(side.node, ev.TunnelUp(side.handle), self.random.uniform(0, 0.1))

    def _do_AttachTunnel(self, node: SimNode, effect: fx.AttachTunnel) -> None:  # noqa: N802
        assert effect.tunnel in node.sides
        node.noisy.add(effect.slot)

    def _do_DrainTunnel(self, node: SimNode, effect: fx.DrainTunnel) -> None:  # noqa: N802
        side, link = node.sides[effect.tunnel]
        other = link.other(side)
        if effect.drain is fx.Drain.PEER:
            return
        if other is not None and other.alive:
            self._tell(
                other.node, ev.TunnelDraining(other.handle, effect.drain is fx.Drain.NODE), self.delay()
            )
        self._tell(node, ev.TunnelDrained(effect.tunnel), self.random.uniform(1.5, 3.0))

    def _do_DetachTunnel(self, node: SimNode, effect: fx.DetachTunnel) -> None:  # noqa: N802
        def calm() -> None:
            node.noisy.discard(effect.slot)
            self.report(node, ev.SlotQuiet(effect.slot))

        self.later(QUIET_AFTER, self._if_running(node, calm))

    def _do_CloseTunnel(self, node: SimNode, effect: fx.CloseTunnel) -> None:  # noqa: N802
        found = node.sides.get(effect.tunnel)
        if found is None:
            return
        side, link = found
        other = link.other(side)
        if effect.notify and other is not None and other.alive and other.node.listening:
            self._tell(other.node, ev.TunnelCancelled(other.handle, effect.reason), self.delay())
        self.later(0.1, self._if_running(node, lambda: self._driver_ended(side, link, "closed on request")))

    def _driver_ended(self, side: Side, link: Link, reason: str) -> None:
        if side.handle in side.node.sides and side.alive:
            self._silence(side, link)
            del side.node.sides[side.handle]
            self.report(side.node, ev.TunnelDown(side.handle, reason))

    def _silence(self, side: Side, link: Link) -> None:
        """One end has fallen silent: the other one notices in time, if it was connected."""
        side.open = False
        other = link.other(side)
        if other is not None and other.alive and side.up:
            action = self._if_running(other.node, lambda: self._driver_ended(other, link, "ping timeout"))
            self.later(self.random.uniform(0.5, 1) * PING_TIMEOUT, action)

    def _do_ExchangeGossip(self, node: SimNode, effect: fx.ExchangeGossip) -> None:  # noqa: N802
        peer = self.by_prefix[effect.peer.prefix]
        assert len(effect.records) <= 60
        if not peer.listening or self.blocked(node, peer):
            self._tell(node, ev.GossipFailed(peer.prefix, "no answer"), CONNECT_TIMEOUT)
            return

        def arrive() -> None:
            self._learn(peer, node, effect.records)
            answer = peer.core.sample_peers(20)

            def back() -> None:
                self._learn(node, peer, answer)
                self.report(node, ev.GossipAnswered(peer.prefix))

            self.later(self.delay(), self._if_running(node, back))

        self.later(self.delay(), self._if_running(peer, arrive))

    def _learn(self, node: SimNode, sender: SimNode, records: tuple[Peer, ...]) -> None:
        for document, version in sender.versions.items():
            if version > node.versions[document]:
                self.report(node, ev.VersionSeen(sender.prefix, document, version))
        own = (
            () if sender.serial in self.revoked and node.core.is_revoked(sender.serial) else (sender.record,)
        )
        self.report(node, ev.PeersLearned((*own, *records), ev.Source.GOSSIP))

    def _do_FetchDocument(self, node: SimNode, effect: fx.FetchDocument) -> None:  # noqa: N802
        if effect.peer is None:
            source, available = self.versions, self.registry_up
        else:
            peer = self.by_prefix[effect.peer.prefix]
            source, available = peer.versions, peer.listening
        version = source[effect.document]

        def arrive() -> None:
            if not available or version <= node.versions[effect.document]:
                self.report(node, ev.DocumentFailed(effect.document, "not to be had"))
                return
            node.versions[effect.document] = version
            if effect.document is ev.Document.PARAMETERS:
                self.report(node, ev.ParametersAccepted(replace_version(self.parameters, version)))
            else:
                self.report(node, ev.RevocationsAccepted(version, self.revoked))

        self.later(2 * self.delay(), self._if_running(node, arrive))

    def _do_AskRegistry(self, node: SimNode, effect: fx.AskRegistry) -> None:  # noqa: N802
        self.registry_calls[effect.operation] += 1
        asked = self.now

        def arrive() -> None:
            has_news = any(version > node.versions[document] for document, version in self.versions.items())
            waiting = self.registry_up and not has_news and self.now - asked < effect.wait
            if effect.operation is ev.RegistryOperation.VERSIONS and waiting:
                self.later(1.0, self._if_running(node, arrive))
                return
            if not self.registry_up:
                self.report(node, ev.RegistryFailed(effect.operation, "no answer"))
                return
            if node in self.refused:
                self.report(node, ev.RegistryFailed(effect.operation, "not you", final=True))
                return
            match effect.operation:
                case ev.RegistryOperation.PUBLISH:
                    self.registry_records[node.prefix] = node.record
                case ev.RegistryOperation.SAMPLE:
                    known = list(self.registry_records.values())
                    drawn = self.random.sample(known, min(20, len(known)))
                    self.report(node, ev.PeersLearned(tuple(drawn), ev.Source.REGISTRY))
                case ev.RegistryOperation.RENEW:
                    self.renew(node)
                case ev.RegistryOperation.VERSIONS:
                    pass  # each answer tells them
            for document, version in self.versions.items():
                if version > node.versions[document]:
                    self.report(node, ev.VersionSeen(None, document, version))
            self.report(node, ev.RegistryAnswered(effect.operation))

        self.later(2 * self.delay(), self._if_running(node, arrive))

    @staticmethod
    def _do_StorePeers(node: SimNode, effect: fx.StorePeers) -> None:  # noqa: N802
        for prefix in effect.forgotten:
            node.disk.pop(prefix, None)
        node.disk.update({peer.prefix: peer for peer in effect.stored})

    # -- judgement ----------------------------------------------------------------------------------------

    @property
    def living(self) -> list[SimNode]:
        return [node for node in self.nodes if node.alive]

    def links(self) -> list[tuple[SimNode, SimNode]]:
        """Dialer and listener of all tunnels that are up at both ends, as both cores see it."""
        up = {
            (node.index, tunnel.handle)
            for node in self.living
            for tunnel in node.core.tunnels()
            if tunnel.state is TunnelState.UP
        }
        found = []
        for node in self.living:
            for side, link in node.sides.values():
                if side is link.dialer and link.listener.alive:
                    ends = {(node.index, side.handle), (link.listener.node.index, link.listener.handle)}
                    if ends <= up:
                        found.append((node, link.listener.node))
        return found

    def degrees(self) -> tuple[Counter[SimNode], Counter[SimNode]]:
        """Outgoing and incoming tunnels per node."""
        outgoing: Counter[SimNode] = Counter()
        incoming: Counter[SimNode] = Counter()
        for dialer, listener in self.links():
            outgoing[dialer] += 1
            incoming[listener] += 1
        return outgoing, incoming

    def components(self) -> list[list[SimNode]]:
        """The parts of the graph of living nodes."""
        edges: dict[SimNode, set[SimNode]] = {node: set() for node in self.living}
        for one, other in self.links():
            edges[one].add(other)
            edges[other].add(one)
        found: list[list[SimNode]] = []
        seen: set[SimNode] = set()
        for start in edges:
            if start in seen:
                continue
            seen.add(start)
            part, queue = [start], deque([start])
            while queue:
                for neighbour in edges[queue.popleft()] - seen:
                    seen.add(neighbour)
                    part.append(neighbour)
                    queue.append(neighbour)
            found.append(part)
        return found

    def is_connected(self) -> bool:
        return len(self.components()) <= 1

    def duplicates(self) -> list[frozenset[SimNode]]:
        """Pairs of nodes with more than one tunnel."""
        pairs = Counter(frozenset(link) for link in self.links())
        return [pair for pair, count in pairs.items() if count > 1]

    def halves(self) -> list[tuple[SimNode, int]]:
        """Tunnels that are up for one core only."""
        whole = Counter(node for link in self.links() for node in link)
        found = []
        for node in self.living:
            up = sum(tunnel.state is TunnelState.UP for tunnel in node.core.tunnels())
            if up != whole[node]:
                found.append((node, up - whole[node]))
        return found


def replace_version(parameters: NetworkParameters, version: int) -> NetworkParameters:
    return msgspec.structs.replace(parameters, version=version)


def mixed(world: World, count: int, unreachable: float = 0.3, **settings: object) -> list[SimNode]:
    """Add ``count`` nodes: this part cannot be dialled, half of the others are behind UPnP routers."""
    nodes = []
    for number in range(count):
        if int((number + 1) * unreachable) > int(number * unreachable):
            nat = Nat.OUTGOING
        else:
            nat = Nat.MAPPED if number % 2 else Nat.PUBLIC
        nodes.append(world.add(nat, **settings))
    return nodes


__all__ = ["NETWORK", "WALL", "Nat", "SimNode", "World", "mixed"]
