"""The lab: builds the internet of a topology, runs the daemons in it, takes everything down again.

    with Lab(topology.load(path), name="mine") as lab:
        lab.start_mesh()
        assert lab.wait_for_all_pairs(60).complete
        lab.cut("anna", "boris")

The order is chosen so that :func:`take_down` works at any moment, also after ``kill -9``: first the record
of what is going to be made, then the namespaces, then everything inside them, which dies with them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType

import msgspec

from re6st.errors import ChildError, ConfigError
from re6st.lab import link, nat, nftables, record, requirements
from re6st.lab.daemons import Node, Registry
from re6st.lab.diagnosis import keep_logs, logs_wanted
from re6st.lab.faults import FaultBox
from re6st.lab.gateway import start_gateway
from re6st.lab.host import Host
from re6st.lab.namespace import Namespace, kill_inside
from re6st.lab.pinger import Listener, Matrix, Pair, Pinger
from re6st.lab.process import Process
from re6st.lab.proxy import address, start_proxy
from re6st.lab.record import Record
from re6st.lab.topology import INTERNET, Topology, check
from re6st.lab.wiring import moved, wire

JOIN_WORKERS = 3
"""Joins at a time: each is a process that computes for most of its time."""

Step = Callable[[str], None]
"""Hears what the lab is about to do, for people."""


def ignore(_: str) -> None:
    """Be told of a step and do nothing about it."""


class Lab:
    """A lab, built by this object or found by :meth:`attach`."""

    def __init__(self, topology: Topology, *, name: str = record.DEFAULT_NAME) -> None:
        check(topology)
        self._set_up(record.new_record(name, topology))

    @classmethod
    def attach(cls, name: str = record.DEFAULT_NAME) -> Lab:
        """Return the running lab called ``name``. Raises :class:`ConfigError` when there is none.

        Daemons that another object started can be asked, but not stopped by it.
        """
        lab = cls.__new__(cls)
        lab._set_up(record.load(name))
        return lab

    def _set_up(self, entry: Record) -> None:
        self.record = entry
        self.name = entry.name
        self.topology = entry.topology
        self.directory = entry.directory
        self.wiring = wire(entry.topology)
        self.failed = False
        """Set by who finds that something went wrong: the logs are kept then."""
        self.hosts = {name: self._host(name) for name in self.topology.hosts}
        self.nodes = {name: self._node(name) for name in self.topology.nodes}
        home = self.topology.registry
        self._registry = None if home is None else Registry(self.hosts[home], self.topology.mesh)
        self.gateways: dict[str, Process] = {}
        self.proxies: dict[str, Process] = {}
        self._faults = FaultBox(self.directory, {name: host.namespace for name, host in self.hosts.items()})

    def _host(self, name: str) -> Host:
        addresses = tuple(one.ip for one in self.wiring.attachments[name].addresses)
        return Host(name, self.namespace(name), addresses, self.directory / name)

    def _node(self, name: str) -> Node:
        host = self.topology.hosts[name]
        router = self.topology.routers.get(host.network)
        settings = {**self.topology.mesh.settings, **host.settings}
        proxy = address(router.lan) if router is not None and router.proxy else ""
        return Node(self.hosts[name], settings, proxy)

    def namespace(self, machine: str) -> Namespace:
        """Return the namespace of a host, a router or ``internet``. Raises :class:`ConfigError`."""
        if machine not in self.wiring.machines:
            known = ", ".join(self.wiring.machines)
            raise ConfigError(f"there is no machine {machine!r} in the lab; there are: {known}")
        return self.record.namespace(machine)

    @property
    def registry(self) -> Registry:
        """The registry. Raises :class:`ConfigError` when the topology has none."""
        if self._registry is None:
            raise ConfigError("this topology has no host with the role registry")
        return self._registry

    # -- building and taking down -----------------------------------------------------------------------

    def __enter__(self) -> Lab:
        self.build()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.failed |= kind is not None and issubclass(kind, Exception)
        self.close()

    def build(self, step: Step = ignore) -> None:
        """Build the internet. Raises :class:`ConfigError` before anything was touched, if it cannot be.

        After any other error, nothing is left of it.
        """
        requirements.check(self.topology)
        record.claim(self.record)
        try:
            step(f"building an internet of {len(self.wiring.machines)} namespaces")
            self._build_machines()
            for name, router in self.topology.routers.items():
                self._start_router(name)
                if router.blocks_udp:
                    self.block_udp(name)
                if router.allows_tcp or router.proxy:
                    nftables.load(self.namespace(name), nat.firewall_ruleset(router.allows_tcp))
                if router.proxy:
                    where = self.directory / name
                    self.proxies[name] = start_proxy(self.namespace(name), router.lan, where)
        except BaseException:
            self.close()
            raise

    def _start_router(self, name: str) -> None:
        """Let a router translate addresses, from the beginning, and map ports if it is of such a kind."""
        router = self.topology.routers[name]
        nftables.load(self.namespace(name), nat.ruleset(router.kind))
        if router.kind.maps_ports:
            self.gateways[name] = start_gateway(
                self.namespace(name), name, router.lan, self.directory / name, router.claims, router.kind
            )

    def _build_machines(self) -> None:
        for machine in self.wiring.machines:
            namespace = self.namespace(machine)
            namespace.create()
            link.raise_loopback(namespace)
            (self.directory / machine).mkdir(mode=0o700)
        for segment in self.wiring.segments.values():
            link.add_bridge(self.namespace(segment.owner), segment)
        for machine in (INTERNET, *self.topology.routers):
            self.namespace(machine).set_sysctl("ipv4/ip_forward", "1")
        self.namespace(INTERNET).set_sysctl("ipv6/conf/all/forwarding", "1")
        wiring = self.wiring
        cables = (*wiring.attachments.items(), *wiring.second_attachments.items())
        for name, attachment in cables:
            link.plug(self.namespace(name), self.namespace(attachment.segment.owner), attachment)
        for name, network in self.topology.networks.items():
            if network.black_hole is not None:
                self.swallow(name, network.black_hole)

    def close(self) -> None:
        """Take the lab down, whatever state it is in; keep its logs if somebody will want them."""
        if logs_wanted(failed=self.failed):
            keep_logs(self.record)
        take_down(self.name)
        self.gateways.clear()
        self.proxies.clear()

    # -- the mesh ---------------------------------------------------------------------------------------

    def start_mesh(self, step: Step = ignore) -> None:
        """Start the registry, enrol all nodes and start them. Raises :class:`ChildError`."""
        self.start_registry(step)
        self.enrol(step=step)
        step(f"starting {len(self.nodes)} nodes")
        self.start_nodes()

    def start_registry(self, step: Step = ignore) -> None:
        """Make a network and serve it. Raises :class:`ChildError`."""
        step(f"starting the registry on {self.registry.host.name}")
        self.registry.initialise()
        self.registry.start()

    def enrol(self, names: Iterable[str] | None = None, step: Step = ignore) -> None:
        """Join the nodes called ``names`` (all by default). Raises :class:`ChildError`."""

        names = list(self.nodes if names is None else names)
        step(f"enrolling {len(names)} nodes by join links")
        links = self.registry.join_links([self.hosts[name] for name in names])

        def join(name: str, link: str) -> str:
            self.nodes[name].join(link)
            return name

        with ThreadPoolExecutor(JOIN_WORKERS) as pool:
            for name in pool.map(join, names, links):
                step(f"  {name} has joined")

    def start_nodes(self, names: Iterable[str] | None = None) -> None:
        """Start the daemons of the nodes called ``names`` (all by default), all at once."""
        nodes = [self.nodes[name] for name in (self.nodes if names is None else names)]
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait_ready()

    def failures(self) -> Iterator[ChildError]:
        """Yield an error for each daemon that this object started and that has died by itself."""
        registry = () if self._registry is None else (self._registry,)
        for daemon in (*self.gateways.values(), *self.proxies.values(), *registry, *self.nodes.values()):
            try:
                daemon.check()
            except ChildError as error:
                yield error

    def check_daemons(self) -> None:
        """Raise the first of :meth:`failures`, if any."""
        for error in self.failures():
            raise error

    # -- pings ------------------------------------------------------------------------------------------

    @contextmanager
    def pinger(
        self, names: Iterable[str] | None = None, *, pairs: Iterable[Pair] | None = None
    ) -> Iterator[Pinger]:
        """Yield a pinger between the nodes called ``names`` (all by default) or between ``pairs``."""
        chosen = list(self.nodes if names is None else names)
        sources = {name: self.hosts[name].namespace for name in chosen}
        targets = {name: self.nodes[name].address() for name in chosen}
        with Pinger(sources, targets, pairs=pairs) as pinger:
            yield pinger

    def ping_matrix(self, names: Iterable[str] | None = None, *, timeout: float = 3.0) -> Matrix:
        """Ping between all ordered pairs of nodes; each has ``timeout`` seconds to answer once."""
        with self.pinger(names) as pinger:
            return pinger.run(timeout, interval=0.5)

    def wait_for_all_pairs(
        self, timeout: float, names: Iterable[str] | None = None, *, listener: Listener | None = None
    ) -> Matrix:
        """Ping until every ordered pair of nodes has answered once, at most ``timeout`` seconds.

        Raises :class:`ChildError` if a daemon dies meanwhile.
        """

        def watch(matrix: Matrix) -> None:
            self.check_daemons()
            if listener is not None:
                listener(matrix)

        with self.pinger(names) as pinger:
            return pinger.run(timeout, listener=watch)

    # -- faults -----------------------------------------------------------------------------------------

    def cut(self, first: str, second: str, *, one_way: bool = False) -> None:
        """Lose all packets between two hosts silently, or only those from ``first`` to ``second``."""
        self._faults.cut(first, second, one_way=one_way)

    def set_cuts(self, pairs: Collection[Pair]) -> None:
        """Lose all packets between exactly these pairs of hosts, silently."""
        self._faults.set_cuts(pairs)

    def heal(self, first: str, second: str) -> None:
        """Undo :meth:`cut`."""
        self._faults.heal(first, second)

    def heal_all(self) -> None:
        """Undo all cuts."""
        self._faults.heal_all()

    def block_udp(self, router: str) -> None:
        """Have ``router`` lose all UDP that it should forward, silently, from now on."""
        nftables.load(self._router(router), nat.udp_ruleset(blocked=True))

    def allow_udp(self, router: str) -> None:
        """Undo :meth:`block_udp`, or ``blocks-udp`` of the topology."""
        nftables.load(self._router(router), nat.udp_ruleset(blocked=False))

    def swallow(self, network: str, largest: int) -> None:
        """Have packets larger than ``largest`` octets vanish on all cables of ``network``, without a word."""
        if network not in self.topology.networks:
            known = ", ".join(self.topology.networks)
            raise ConfigError(f"there is no network {network!r} in the lab; there are: {known}")
        cables = (*self.wiring.attachments.items(), *self.wiring.second_attachments.items())
        for name, attachment in cables:
            if attachment.segment.name == network:
                link.swallow(self.namespace(name), self.namespace(INTERNET), attachment, largest)

    def cut_off(self, router: str) -> None:
        """Have ``router`` lose all that it should forward, silently, from now on, as if its provider did."""
        nftables.load(self._router(router), nat.outage_ruleset(out=True))

    def switch_off(self, router: str) -> None:
        """Have ``router`` forget its connections and port mappings, and forward nothing any more."""
        self.cut_off(router)
        if router in self.gateways:
            self.gateways.pop(router).stop(signal.SIGKILL)
        link.forget_connections(self._router(router))

    def switch_on(self, router: str) -> None:
        """Start ``router`` anew, after :meth:`switch_off`."""
        self._start_router(router)
        nftables.load(self._router(router), nat.outage_ruleset(out=False))

    def _router(self, name: str) -> Namespace:
        if name not in self.topology.routers:
            known = ", ".join(self.topology.routers)
            raise ConfigError(f"there is no router {name!r} in the lab; there are: {known}")
        return self.namespace(name)

    def move(self, machine: str, place: str) -> None:
        """Plug a host or router into the network or router ``place``, under other addresses, as it is carried
        there. If it is there already its addresses are replaced, as DHCP and a provider do it.

        Raises :class:`ConfigError` when there is no such machine or place.
        """
        if machine not in (*self.topology.hosts, *self.topology.routers):
            known = ", ".join((*self.topology.hosts, *self.topology.routers))
            raise ConfigError(f"there is no host or router {machine!r} in the lab; there are: {known}")
        topology = moved(self.topology, machine, place)
        check(topology)
        before, wiring = self.wiring.attachments[machine], wire(topology)
        attachment = wiring.attachments[machine]
        owner = self.namespace(attachment.segment.owner)
        self.topology, self.wiring = topology, wiring
        self.record = msgspec.structs.replace(self.record, topology=topology)
        record.save(self.record)
        if attachment.segment == before.segment:
            link.renumber(self.namespace(machine), owner, before, attachment)
        else:
            link.unplug(self.namespace(machine), before.interface)
            link.plug(self.namespace(machine), owner, attachment)
        if machine in self.hosts:
            self.hosts[machine] = self._host(machine)
        if machine in self.nodes:
            self.nodes[machine].host = self.hosts[machine]

    def power_off(self, host: str) -> None:
        """Kill everything on a host at once, as a power failure would; its files stay."""
        kill_inside([self.hosts[host].namespace])
        if host == self.topology.registry:
            self.registry.reap()
        if host in self.nodes:
            self.nodes[host].reap()

    def power_on(self, host: str) -> None:
        """Start the daemons of a host, after :meth:`power_off`. Raises :class:`ChildError`."""
        if host == self.topology.registry:
            self.registry.start()
        if host in self.nodes:
            self.nodes[host].start()

    @property
    def cuts(self) -> tuple[Pair, ...]:
        """The pairs of hosts that are cut."""
        return self._faults.load().cuts


def take_down(name: str) -> bool:
    """Remove everything of the lab called ``name``; return whether there was anything.

    Works for half-built labs and after a crash. Touches only what the lab's own record names.
    """
    if not record.lab_directory(name).exists():
        return False
    try:
        namespaces = record.load(name).all_namespaces
    except ConfigError:
        # The record comes before everything else: without it, nothing was made.
        namespaces = []
    kill_inside(namespaces)
    for namespace in namespaces:
        namespace.remove()
    record.forget(name)
    return True
