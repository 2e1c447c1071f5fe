"""The node daemon: makes all parts, connects them, starts and stops them in order.

    control server --> correspondence --+                  +--> correspondence --> control client
    tunnel driver ---> tunnel operator -+--> core (pure) --+--> tunnel operator --> driver, kernel, babeld
    babeld ------------------------------+   via brain      +--> registry link
    registry link, reachability ---------+                  +--> cache

Events go to the core from the left, its effects are carried out on the right; :meth:`Daemon._execute` is
the one place where an effect finds its adapter.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from re6st.config import SLOTS, NodeConfig
from re6st.core import CoreSettings, NodeCore
from re6st.core.effects import (
    AskRegistry,
    AttachTunnel,
    CancelRequest,
    CloseTunnel,
    DetachTunnel,
    DialTunnel,
    DrainTunnel,
    Effect,
    ExchangeGossip,
    FetchDocument,
    OfferTunnel,
    RefuseTunnel,
    RequestTunnel,
    StorePeers,
)
from re6st.core.events import (
    ClockRead,
    Event,
    NetworkChanged,
    OwnCertificateChanged,
    OwnEndpointsChanged,
    ParametersAccepted,
    PeersLearned,
    RevocationsAccepted,
    RoutesKnown,
    SlotQuiet,
    Source,
    TunnelAdopted,
    TunnelDown,
    TunnelSilent,
)
from re6st.errors import ChildError, Re6stError, StorageError
from re6st.node import pauses, restart
from re6st.node.adoption import Adopter, RunRecord, note_of
from re6st.node.brain import Brain
from re6st.node.cache import Cache
from re6st.node.control_client import ControlClient
from re6st.node.control_server import ControlServer
from re6st.node.control_service import NodeControlService
from re6st.node.credentials import load_credentials
from re6st.node.discovery import Discovery
from re6st.node.document_exchange import DocumentExchange
from re6st.node.documents import Documents
from re6st.node.drainage import Drainage
from re6st.node.enrolment import CACHE_NAME
from re6st.node.gossiping import Gossiping
from re6st.node.host import Host
from re6st.node.lan import LAN_KEYS_NAME, LanKeyring, load_key
from re6st.node.lan_key_search import LanKeySearch
from re6st.node.liveness_monitor import LivenessMonitor
from re6st.node.negotiation import Negotiation
from re6st.node.netlink import Kernel
from re6st.node.observation import Observation
from re6st.node.outside import OutsideTester
from re6st.node.own_record import OwnRecord
from re6st.node.path_mtu_monitor import PathMtuMonitor
from re6st.node.peer_notices import PeerNotices
from re6st.node.port_share import PortShare
from re6st.node.puncher import Puncher
from re6st.node.reachability import ReachabilityKeeper
from re6st.node.registry_link import RegistryLink
from re6st.node.route_repair import RouteRepair
from re6st.node.status_server import StatusServer
from re6st.node.stun_server import StunServer
from re6st.node.tasks import Tasks
from re6st.node.tunnel import Tunnel
from re6st.node.tunnel_operator import TunnelOperator
from re6st.node.underlay import Listener
from re6st.node.uplinks import Uplinks
from re6st.node.verifier import Verifier
from re6st.node.whereabouts import Whereabouts
from re6st.notify import notify
from re6st.peers import Peer
from re6st.proxy import load_proxy
from re6st.routing.babeld import Babeld, Started
from re6st.routing.configuration import BabelConfiguration
from re6st.routing.monitor import Route
from re6st.routing.table import Change, InterfaceQuiet, RoutesChanged
from re6st.supervisor import Supervisor
from re6st.tunnel.openvpn import Credentials as TunnelCredentials
from re6st.tunnel.openvpn_driver import OpenVpnDriver

logger = logging.getLogger(__name__)

ROUTES_DELAY = 2.0
"""Seconds for which changes of routes are collected before the core hears of them."""

CLOCK_INTERVAL = 60.0
"""Seconds between comparisons of the wall clock with the monotonic one."""


DRAIN_POLL = 0.1
"""Seconds between looks whether all tunnels are drained."""


class Daemon:
    """One node in one network."""

    def __init__(
        self, config: NodeConfig, network: str, supervisor: Supervisor, moved: Callable[[], list[str]]
    ) -> None:
        """Load what the state directory holds. ``moved`` names changed settings that need a full restart.

        Raises :class:`Re6stError`.
        """
        self._config = config
        self._moved = moved
        self._supervisor = supervisor
        self._credentials = load_credentials(config.state_directory, time.time())
        self._tasks = Tasks()
        self._run_record = RunRecord.begin(self._credentials.certificate.prefix)
        trust = self._credentials.trust
        self._documents = Documents(config.state_directory, trust, self._credentials.certificate.der)
        self._cache = Cache(config.state_directory / CACHE_NAME)
        self._verifier = Verifier(trust, lambda: self._documents.revoked, time.time)
        self._own = OwnRecord(self._credentials, self._cache, config.control_port, time.time)
        self._core = self._make_core()
        self._brain = Brain(self._core, self._execute)
        self._kernel = Kernel(config.interface_prefix)
        self._host = Host(config, network, self._credentials.certificate.prefix, trust.network, self._kernel)
        seed = str(self._credentials.certificate.prefix)
        self._reachability = ReachabilityKeeper(
            config,
            trust.network,
            seed,
            self._kernel,
            self._on_endpoints_changed,
            self._on_moved,
        )
        self._lan_key = load_key(config.lan_key_file) if config.lan_key_file else None
        self._proxy = load_proxy(config.proxy, config.proxy_credentials)
        self._uplinks = Uplinks(config.uplinks)
        self._client = ControlClient(
            self._verifier,
            config.control_port,
            self._proxy,
            lambda: self._uplinks.order(time.monotonic()),
        )
        files = self._credentials.files
        self._driver = OpenVpnDriver(
            config.runtime_directory / "tunnels",
            TunnelCredentials(files.authority, files.certificate, files.key),
            supervisor,
            proxy=self._proxy,
        )
        self._continues = self._find_predecessor()
        self._make_adapters()
        self._stopping = asyncio.Event()
        self._restarting = False
        self._routes_timer: asyncio.TimerHandle | None = None
        self._forced = asyncio.Event()
        self._undo: list[Callable[[], Awaitable[None]]] = []
        self._handlers = self._make_handlers()

    def _find_predecessor(self) -> bool:
        """Return whether tunnels of an earlier run may be adopted; this run keeps its boot id then."""
        former = RunRecord.read(self._config.runtime_directory, self._credentials.certificate.prefix)
        if former is None or not self._driver.survivors():
            return False
        self._run_record = former
        return True

    def _make_core(self) -> NodeCore:
        config, certificate = self._config, self._credentials.certificate
        settings = CoreSettings(
            prefix=certificate.prefix,
            name=certificate.name,
            network=self._credentials.trust.network,
            outgoing=config.outgoing_tunnels,
            tunnel_ports=tuple(config.tunnel_port_range),
            slots=SLOTS,
            mtu=config.tunnel_mtu,
            tunnel_refresh=config.tunnel_refresh,
        )
        return NodeCore(settings, random.SystemRandom())

    def _make_adapters(self) -> None:
        self._port_share = PortShare()
        outside = self._outside = OutsideTester(self._client, self._reachability, self._own, self._testers)
        self._document_exchange = DocumentExchange(self._documents, self._report)
        self._gossiping = Gossiping(
            book=self._core,
            own=self._own,
            verifier=self._verifier,
            documents=self._documents,
            document_exchange=self._document_exchange,
            client=self._client,
            underlay=self._reachability,
            tasks=self._tasks,
            report=self._report,
        )
        prefix = self._credentials.certificate.prefix
        self._babeld = Babeld(
            self._config.runtime_directory,
            self._config.state_directory,
            self._supervisor,
            BabelConfiguration.from_parameters(
                prefix, self._documents.parameters, self._config.lan_interfaces
            ),
            self._on_routing_change,
        )
        self._route_repair = RouteRepair(
            self._kernel, self._credentials.trust.network, self._installed_routes
        )
        self._monitor = LivenessMonitor(self._on_silent)
        self._sizes = PathMtuMonitor(self._kernel, self._monitor, self._on_measured)
        notices = PeerNotices(self._client, self._reachability, self._tasks)
        drainage = Drainage(self._babeld, notices)
        self._operator = TunnelOperator(
            self._config,
            self._driver,
            self._kernel,
            self._babeld,
            self._monitor,
            self._sizes,
            self._tasks,
            self._report,
            self._on_tunnel_ended,
            notices,
            drainage,
            note_of,
            uplinks=self._uplinks,
        )
        self._adopter = Adopter(self._config, self._driver, self._kernel, self._operator, self._verifier.open)
        self._registry = RegistryLink(
            urls=self._config.registry,
            credentials=self._credentials,
            documents=self._documents,
            document_exchange=self._document_exchange,
            own=self._own,
            verifier=self._verifier,
            tasks=self._tasks,
            report=self._report,
            renewed=self._on_renewed,
            describe=lambda: self._observation.report() if self._config.report_state else None,
            proxy=self._proxy,
        )
        self._discovery = Discovery(
            prefix=prefix,
            network=self._credentials.trust.network,
            port=self._config.control_port,
            addresses=self._reachability.addresses,
            reachable_here=self._reachability.in_lan,
            routed=lambda prefix: any(route.prefix == prefix for route in self._installed_routes()),
            meet=self._gossiping.meet,
        )
        whereabouts = Whereabouts(self._reachability, self._discovery.endpoint)
        self._negotiation = Negotiation(
            config=self._config,
            boot_id=self._run_record.boot_id,
            own=self._own,
            verifier=self._verifier,
            documents=self._documents,
            document_exchange=self._document_exchange,
            client=self._client,
            whereabouts=whereabouts,
            underlay=self._reachability,
            operator=self._operator,
            notices=notices,
            port_share=self._port_share,
            puncher=Puncher(self._reachability, self._testers),
            tasks=self._tasks,
            report=self._report,
        )
        self._keyring: LanKeyring | None = None
        if self._config.lan_interfaces and self._lan_key is None:
            search = LanKeySearch(self._registry.lan_keys, self._client, whereabouts, self._testers)
            self._keyring = LanKeyring(
                self._config.state_directory / LAN_KEYS_NAME,
                lambda: self._documents.parameters.lan_keys,
                search.found,
                self._babeld.use_lan_key,
                random.SystemRandom().random,
            )
        self._stun_server = StunServer(self._config.control_port)
        service = NodeControlService(
            verifier=self._verifier,
            negotiation=self._negotiation,
            operator=self._operator,
            drainage=drainage,
            gossiping=self._gossiping,
            documents=self._documents,
            outside=outside,
            keyring=self._keyring,
            report=self._report,
        )
        self._control_server = ControlServer(service, self._config.control_port, self._port_share.take)
        self._observation = Observation(
            core=self._core,
            credentials=lambda: self._credentials,
            documents=self._documents,
            operator=self._operator,
            babeld=self._babeld,
            reachability=self._reachability,
            registry=self._registry,
            outside=outside,
            monitor=self._monitor,
        )
        self._status_server = StatusServer(self._observation, self._config.runtime_directory)

    def _installed_routes(self) -> list[Route]:
        return self._babeld.table.installed()

    def _testers(self) -> list[Peer]:
        """Return whom this node can ask to test it, neighbours first."""
        known = sorted(self._core.peers(), key=lambda entry: (not entry.connected, entry.failures))
        return [entry.peer for entry in known]

    # -- effects and events -----------------------------------------------------------------------------

    def _make_handlers(self) -> dict[type, Callable[[Any], None]]:
        return {
            RequestTunnel: self._negotiation.request,
            CancelRequest: self._negotiation.cancel_request,
            OfferTunnel: self._negotiation.offer,
            RefuseTunnel: self._negotiation.refuse,
            DialTunnel: self._operator.dial,
            AttachTunnel: self._operator.attach,
            DrainTunnel: self._operator.drain,
            DetachTunnel: self._operator.detach,
            CloseTunnel: self._operator.close,
            ExchangeGossip: self._gossiping.exchange,
            FetchDocument: self._fetch_document,
            AskRegistry: self._registry.ask,
            StorePeers: self._store_peers,
        }

    def _execute(self, effect: Effect) -> None:
        self._handlers[type(effect)](effect)

    def _report(self, event: Event) -> None:
        if isinstance(event, ParametersAccepted):
            self._babeld.use(event.parameters)
            if self._keyring is not None:
                self._keyring.wake()
        self._brain.report(event)

    def _fetch_document(self, effect: FetchDocument) -> None:
        if effect.peer is None:
            self._registry.fetch(effect)
        else:
            ask = partial(self._client.fetch_document, effect.peer)
            work = self._document_exchange.fetch(effect.document, effect.peer.name, ask)
            self._tasks.spawn(work, f"fetch the {effect.document.value} of {effect.peer.name}")

    def _store_peers(self, effect: StorePeers) -> None:
        try:
            self._cache.store(((peer.prefix, peer.signed) for peer in effect.stored), effect.forgotten)
        except StorageError as error:
            logger.warning("The address book is not kept for the next start: %s", error)

    def _on_routing_change(self, change: Change | Started) -> None:
        if isinstance(change, Started):
            self._route_repair.begin()
        if isinstance(change, InterfaceQuiet):
            self._report(SlotQuiet(int(change.interface.removeprefix(self._config.interface_prefix))))
        elif isinstance(change, RoutesChanged) and self._routes_timer is None:
            loop = asyncio.get_running_loop()
            self._routes_timer = loop.call_later(ROUTES_DELAY, self._report_routes)

    def _report_routes(self) -> None:
        self._routes_timer = None
        self._report(RoutesKnown(frozenset(route.prefix for route in self._babeld.table.installed())))

    def _on_tunnel_ended(self, tunnel: Tunnel) -> None:
        if tunnel.incoming:
            self._reachability.release(tunnel.port)
            self._port_share.forget(tunnel.port)

    def _on_silent(self, tunnel: int) -> None:
        if self._operator.silent(tunnel):
            self._reachability.suspect_router()
        self._report(TunnelSilent(tunnel))

    def _on_measured(self, tunnel: int, mtu: int) -> None:
        self._operator.measured(tunnel, mtu)

    def _on_endpoints_changed(self) -> None:
        situation = self._reachability.situation
        try:
            if self._own.update(situation.endpoints, mapped=situation.mapped):
                self._report(OwnEndpointsChanged(situation.endpoints))
        except StorageError as error:
            logger.error("The changed endpoints cannot be published: %s", error)

    def _on_moved(self) -> None:
        """Find out which tunnels have survived, and dial anew: the host is elsewhere, or was asleep."""
        self._uplinks.reset()
        self._monitor.suspect_all()
        self._report(NetworkChanged())

    def _on_renewed(self, certificate: bytes) -> None:
        """Use a renewed certificate for everything that begins from now on."""
        self._credentials.files.store_certificate(certificate)
        renewed = load_credentials(self._config.state_directory, time.time())
        self._credentials = replace(renewed, trust=self._credentials.trust)
        self._documents.own = self._credentials.certificate.der
        self._server_context.load_cert_chain(self._credentials.files.certificate, self._credentials.files.key)
        self._tasks.spawn(self._client.start(self._credentials.client_context()), "use the new certificate")
        self._own.renew(self._credentials)
        self._registry.use(self._credentials)
        self._report_certificate()

    def _on_trust_changed(self) -> None:
        """Trust other CAs for everything that begins from now on."""
        self._store_authorities()
        # A context forgets no CA; every certificate is verified by the trust store once more.
        self._server_context.load_verify_locations(cadata=b"".join(self._credentials.trust.authorities))
        self._tasks.spawn(self._client.start(self._credentials.client_context()), "use the new CA")
        self._report_certificate()

    def _store_authorities(self) -> None:
        try:
            self._credentials.files.store_authorities(self._credentials.trust.authorities)
        except StorageError as error:
            logger.error("New tunnels do not trust the new CA, since it cannot be written: %s", error)

    def _report_certificate(self) -> None:
        certificate, trust = self._credentials.certificate, self._credentials.trust
        superseded = trust.issuer(certificate.der) != trust.authorities[0]
        self._report(OwnCertificateChanged(certificate.not_before, certificate.not_after, superseded))

    # -- life -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring the node up. Raises :class:`Re6stError`; :meth:`stop` undoes what was done until then."""
        self._store_authorities()
        context = self._server_context = self._credentials.server_context()
        self._documents.trust_changed = self._on_trust_changed
        self._control_server.bind()
        await self._step(self._status_server.start, self._status_server.stop)
        await self._step(self._host.start, self._host.stop)
        if not self._continues:
            await self._remove_leftovers(())
            await self._host.clean_routes()
        self._run_record.write(self._config.runtime_directory)
        await self._step(lambda: self._client.start(self._credentials.client_context()), self._client.stop)
        self._undo.append(self._tasks.stop)
        await self._step(self._reachability.start, self._reachability.stop)
        self._undo.append(self._route_repair.stop)
        await self._step(self._stun_server.start, self._stun_server.stop)
        await self._step(self._babeld.start, self._babeld.stop)
        if self._lan_key is not None:
            # A babeld that has just died is told when it is back.
            with contextlib.suppress(ChildError):
                await self._babeld.use_lan_key(self._lan_key)
        elif self._keyring is not None:
            await self._keyring.apply()
        await self._step(self._monitor.start, self._monitor.stop)
        await self._step(self._sizes.start, self._sizes.stop)
        self._undo.append(self._operator.close_all)
        adopted = await self._take_over() if self._continues else []
        self._on_endpoints_changed()
        self._brain.start()
        self._feed_core(adopted)
        await self._control_server.start(context)
        if self._config.lan_discovery:
            await self._step(self._discovery.start, self._discovery.stop)
            self._tasks.spawn(self._discovery.announce(), "announce this node in its LANs")
        if self._keyring is not None:
            self._tasks.spawn(self._keyring.run(), "keep the keys of LANs")
        self._tasks.spawn(self._watch_clock(), "watch the clock")
        self._tasks.spawn(self._reachability.watch(), "watch the network")
        self._tasks.spawn(self._reachability.watch_mapping(self._outside.ask), "watch the port mapping")

    async def _step(self, do: Callable[[], Awaitable[None]], undo: Callable[[], Awaitable[None]]) -> None:
        """Do a step of the start, and take note of how it is undone even if it fails half way."""
        self._undo.append(undo)
        await do()

    async def _take_over(self) -> list[TunnelAdopted]:
        """Adopt what is sound of the run before, and remove the rest."""
        adopted = await self._adopter.adopt()
        await self._remove_leftovers([self._config.interface(tunnel.slot) for tunnel in adopted])
        for tunnel in self._operator.tunnels():
            if tunnel.incoming and not tunnel.punched:
                self._reachability.resume(Listener(tunnel.transport, tunnel.port))
        return adopted

    async def _remove_leftovers(self, kept: Collection[str]) -> None:
        """Remove processes, files and interfaces of an earlier run, except the interfaces to be ``kept``."""
        await self._supervisor.reconcile()
        self._driver.remove_leftovers()
        await self._host.remove_interfaces(kept)

    def _feed_core(self, adopted: Sequence[TunnelAdopted]) -> None:
        """Tell the core what is known at the start."""
        self._read_clock()
        self._report_certificate()
        if self._documents.parameters.version:
            self._report(ParametersAccepted(self._documents.parameters))
        if self._documents.revocations.version:
            self._report(RevocationsAccepted(self._documents.revocations.version, self._documents.revoked))
        self._report(OwnEndpointsChanged(self._reachability.situation.endpoints))
        running = {tunnel.number for tunnel in self._operator.tunnels()}
        for event in adopted:
            self._report(event)
            if event.tunnel not in running:
                self._report(TunnelDown(event.tunnel, "its process has ended meanwhile"))
        peers = self._verifier.open_all(self._cache.records())
        self._report(PeersLearned(peers, Source.BOOK))

    def _read_clock(self) -> None:
        self._report(ClockRead(time.time() - asyncio.get_running_loop().time()))

    async def _watch_clock(self) -> None:
        compared = before = time.clock_gettime(time.CLOCK_BOOTTIME)
        while True:
            await asyncio.sleep(pauses.INTERVAL)
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            if pause := pauses.pause_between(before, now):
                logger.info("This host or process has slept for %.0f s", pause)
                self._reachability.search_router()
                self._on_moved()
            if pause or now - compared >= CLOCK_INTERVAL:
                self._read_clock()
                compared = now
            before = now

    def request_stop(self) -> None:
        """End the daemon when its peers send nothing more through it; asked again, at once."""
        if self._stopping.is_set() and not self._restarting:
            self._forced.set()
        self._restarting = False
        self._stopping.set()

    def request_restart(self) -> None:
        """Let a new program with the configuration of now take over soon, if that can succeed."""
        self._tasks.spawn(self._restart(), "restart in place")

    async def _restart(self) -> None:
        restart.announce()
        refused = await restart.objection(restart.check_command())
        if not refused and (moved := self._moved()):
            refused = f"{', '.join(moved)}: cannot change while the node runs; stop and start it for that"
        if refused:
            self._observation.restart_was_refused(refused)
            logger.error("No restart, the node goes on as before: %s", refused)
            notify("READY=1\nSTATUS=A restart was refused; see the log")
        elif not self._stopping.is_set():
            self._restarting = True
            self._stopping.set()

    async def run(self) -> None:
        """Run until asked to stop, then leave nothing behind, or all to the program that takes over."""
        try:
            await self.start()
            self._observation.ready = True
            notify("READY=1\nSTATUS=")
            certificate = self._credentials.certificate
            logger.info("Node %s runs: %s", certificate.name, certificate.prefix)
            await self._stopping.wait()
            if self._restarting:
                await self._reachability.hand_over()
                self._hand_over()
            notify("STOPPING=1")
            await self._drain()
        finally:
            notify("STOPPING=1")
            await self.stop()

    def _hand_over(self) -> None:
        """Become the new program. Returns only if that fails; then there is nothing but to stop."""
        self._brain.hand_over()
        self._cache.close()
        try:
            restart.execute()
        except OSError as error:
            logger.error("Cannot restart in place, so the node stops: %s", error)

    async def _drain(self) -> None:
        """Wait until nobody sends packets for others through this node, or until told to hurry."""
        self._brain.drain()
        deadline = time.monotonic() + self._core.settings.leaving_timeout
        while not self._core.drained and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._forced.wait(), DRAIN_POLL)
                return

    async def stop(self) -> None:
        """Take down everything that was set up, in the reverse order; each step is tried in any case."""
        logger.info("Stopping")
        self._brain.finish()
        if self._routes_timer is not None:
            self._routes_timer.cancel()
        for undo in (self._control_server.stop, *reversed(self._undo)):
            try:
                await undo()
            except Re6stError as error:
                logger.error("While stopping: %s", error)
            except Exception:
                logger.exception("While stopping")
        self._brain.stop()
        self._cache.close()
