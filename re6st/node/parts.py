"""The parts of a node, made and connected.

    control server -> negotiation, gossiping -+                 +-> negotiation, gossiping -> control client
    tunnel driver -> tunnel operator ---------+-> core (pure) --+-> tunnel operator -> driver, kernel, babeld
    babeld -> route news ---------------------+   via brain     +-> registry link
    registry link, reachability, clock watch -+                 +-> cache

Events go to the core from the left, its effects are carried out on the right; :meth:`Parts.execute` is
the one place where an effect finds its adapter. In which order the parts start and stop is the business of
:mod:`re6st.node.daemon`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv6Network
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
    Event,
    NetworkChanged,
    OwnEndpointsChanged,
    ParametersAccepted,
    TunnelNarrow,
    TunnelSilent,
)
from re6st.errors import StorageError
from re6st.node import mapping_secret
from re6st.node.adoption import Adopter, RunRecord, note_of
from re6st.node.brain import Brain
from re6st.node.cache import Cache
from re6st.node.clock_watch import ClockWatch
from re6st.node.control_client import ControlClient
from re6st.node.control_server import ControlServer
from re6st.node.control_service import NodeControlService
from re6st.node.credentials import load_credentials
from re6st.node.discovery import Discovery
from re6st.node.document_exchange import DocumentExchange
from re6st.node.documents import Documents
from re6st.node.drainage import Drainage
from re6st.node.gossiping import Gossiping
from re6st.node.host import Host
from re6st.node.lan import LAN_KEYS_NAME, LanKeyring, load_key
from re6st.node.lan_key_search import LanKeySearch
from re6st.node.liveness_monitor import LivenessMonitor
from re6st.node.negotiation import Negotiation
from re6st.node.netlink import Kernel
from re6st.node.network_watch import NetworkWatch
from re6st.node.observation import Observation
from re6st.node.outside import OutsideTester
from re6st.node.own_record import OwnRecord
from re6st.node.path_mtu_monitor import PathMtuMonitor
from re6st.node.peer_notices import PeerNotices
from re6st.node.port_share import PortShare
from re6st.node.puncher import Puncher
from re6st.node.reachability import ReachabilityKeeper
from re6st.node.registry_link import RegistryLink
from re6st.node.renewal import Renewal
from re6st.node.route_news import RouteNews
from re6st.node.route_repair import RouteRepair
from re6st.node.state_directory import CACHE_NAME
from re6st.node.status_server import StatusServer
from re6st.node.stun_server import StunServer
from re6st.node.tasks import Tasks
from re6st.node.tunnel import Tunnel
from re6st.node.tunnel_operator import TunnelOperator
from re6st.node.uplinks import Uplinks
from re6st.node.verifier import Verifier
from re6st.node.whereabouts import Whereabouts
from re6st.peers import Peer
from re6st.proxy import load_proxy
from re6st.routing.babeld import Babeld
from re6st.routing.configuration import BabelConfiguration
from re6st.routing.monitor import Route
from re6st.supervisor import Supervisor
from re6st.tunnel.openvpn import Credentials as TunnelCredentials
from re6st.tunnel.openvpn_driver import OpenVpnDriver
from re6st.tunnel.path_mtu import Measured

logger = logging.getLogger(__name__)


class Parts:
    """All that a node consists of. Nothing runs before the daemon starts it."""

    def __init__(self, config: NodeConfig, network: str, supervisor: Supervisor) -> None:
        """Load what the state directory holds, and make everything. ``network`` is the name of the network.

        Raises :class:`Re6stError`.
        """
        self.config = config
        self.supervisor = supervisor
        self.tasks = Tasks()
        self._load_state()
        self._make_underlay(network)
        self._make_core()
        self._make_routing()
        self._make_tunnels()
        self._make_correspondence()
        self._make_servers()
        self._handlers = self._make_handlers()

    # -- construction -----------------------------------------------------------------------------------

    def _load_state(self) -> None:
        """Make what lives in the state directory, and what verifies by it."""
        config = self.config
        self._loaded = load_credentials(config.state_directory, time.time())
        self._prefix = self._loaded.certificate.prefix
        self._trust = self._loaded.trust
        self.documents = Documents(config.state_directory, self._trust, self._loaded.certificate.der)
        self.cache = Cache(config.state_directory / CACHE_NAME)
        self.verifier = Verifier(self._trust, lambda: self.documents.revoked, time.time)
        self._own = OwnRecord(self._loaded, self.cache, config.control_port, time.time)
        self.lan_key = load_key(config.lan_key_file) if config.lan_key_file else None
        self._proxy = load_proxy(config.proxy, config.proxy_credentials)

    def _make_underlay(self, network: str) -> None:
        """Make what deals with the host and its place in the Internet."""
        config = self.config
        self._kernel = Kernel(config.interface_prefix)
        prefixes = self._loaded.certificate.prefixes
        self.host = Host(config, network, prefixes, self._trust.network, self._kernel)
        self.reachability = ReachabilityKeeper(
            config,
            self._trust.network,
            str(self._prefix),
            mapping_secret.load(config.state_directory),
            NetworkWatch(config.interface_prefix, self._trust.network),
            self.tell_endpoints,
            self._on_moved,
        )
        self._uplinks = Uplinks(config.uplinks)
        self.client = ControlClient(
            self.verifier, config.control_port, self._proxy, lambda: self._uplinks.order(time.monotonic())
        )
        self.clock_watch = ClockWatch(self.report, self._on_slept, self._on_moved)

    def _make_core(self) -> None:
        config = self.config
        settings = CoreSettings(
            prefix=self._prefix,
            name=self._loaded.certificate.name,
            network=self._trust.network,
            outgoing=config.outgoing_tunnels,
            tunnel_ports=tuple(config.tunnel_port_range),
            slots=SLOTS,
            mtu=config.tunnel_mtu,
            tunnel_refresh=config.tunnel_refresh,
        )
        self.core = NodeCore(settings, random.SystemRandom())
        self.brain = Brain(self.core, self.execute)

    def _make_routing(self) -> None:
        config = self.config
        self.route_repair = RouteRepair(
            self._kernel,
            self._trust.network,
            self._loaded.certificate.address,
            self._installed_routes,
            lambda: self.renewal.credentials.certificate.prefixes,
        )
        self.route_news = RouteNews(
            config.interface_prefix, self._installed_routes, self.route_repair, self.report
        )
        self.babeld = Babeld(
            config.runtime_directory,
            config.state_directory,
            self.supervisor,
            BabelConfiguration.from_parameters(
                self._prefix, self.documents.parameters, config.lan_interfaces
            ),
            self.route_news.take,
        )
        self.babeld.own(self._loaded.certificate.further)

    def _make_tunnels(self) -> None:
        config, files = self.config, self._loaded.files
        self.driver = OpenVpnDriver(
            config.runtime_directory / "tunnels",
            TunnelCredentials(files.authority, files.certificate, files.key),
            self.supervisor,
            proxy=self._proxy,
        )
        self.monitor = LivenessMonitor(self._on_silent)
        self.sizes = PathMtuMonitor(self._kernel, self.monitor, self._on_measured, self._on_narrow)
        self._port_share = PortShare()
        self._notices = PeerNotices(self.client, self.reachability, self.tasks)
        self._drainage = Drainage(self.babeld, self.route_repair, self._notices)
        self.operator = TunnelOperator(
            config,
            self.driver,
            self._kernel,
            self.babeld,
            self.monitor,
            self.sizes,
            self.tasks,
            self.report,
            self._on_tunnel_ended,
            self._notices,
            self._drainage,
            note_of,
            uplinks=self._uplinks,
        )
        self.adopter = Adopter(config, self.driver, self._kernel, self.operator, self.verifier.open)
        former = RunRecord.read(config.runtime_directory, self._prefix)
        self.continues = former is not None and bool(self.driver.survivors())
        """Whether tunnels of an earlier run may be adopted; this run keeps its boot id then."""
        self.run_record = former if former and self.continues else RunRecord.begin(self._prefix)

    def _make_correspondence(self) -> None:
        """Make what talks with peers and the registry."""
        config = self.config
        self._document_exchange = DocumentExchange(self.documents, self.report)
        self.outside = OutsideTester(self.client, self.reachability, self._own, self._known_peers)
        self.renewal = Renewal(
            self._loaded,
            config.state_directory,
            documents=self.documents,
            own=self._own,
            client=self.client,
            tasks=self.tasks,
            report=self.report,
        )
        self._registry = RegistryLink(
            urls=config.registry,
            credentials=lambda: self.renewal.credentials,
            documents=self.documents,
            document_exchange=self._document_exchange,
            own=self._own,
            verifier=self.verifier,
            tasks=self.tasks,
            report=self.report,
            renewed=self.renewal.use,
            describe=lambda: self.observation.report() if config.report_state else None,
            proxy=self._proxy,
        )
        self._gossiping = Gossiping(
            book=self.core,
            own=self._own,
            verifier=self.verifier,
            documents=self.documents,
            document_exchange=self._document_exchange,
            client=self.client,
            underlay=self.reachability,
            tasks=self.tasks,
            report=self.report,
        )
        self._make_negotiation()

    def _make_negotiation(self) -> None:
        """Make what finds nodes in LANs, and what asks nodes, there and elsewhere, for tunnels and keys."""
        config = self.config
        self.discovery = Discovery(
            prefix=self._prefix,
            network=self._trust.network,
            port=config.control_port,
            addresses=self.reachability.addresses,
            reachable_here=self.reachability.in_lan,
            routed=self._is_routed,
            meet=self._gossiping.meet,
        )
        whereabouts = Whereabouts(self.reachability, self.discovery.endpoint)
        self._negotiation = Negotiation(
            config=config,
            boot_id=self.run_record.boot_id,
            own=self._own,
            verifier=self.verifier,
            documents=self.documents,
            document_exchange=self._document_exchange,
            client=self.client,
            whereabouts=whereabouts,
            underlay=self.reachability,
            operator=self.operator,
            notices=self._notices,
            port_share=self._port_share,
            puncher=Puncher(self.reachability, self._known_peers),
            tasks=self.tasks,
            report=self.report,
        )
        self.keyring: LanKeyring | None = None
        """None where no keys of the network are needed for LANs."""
        if config.lan_interfaces and self.lan_key is None:
            search = LanKeySearch(self._registry.lan_keys, self.client, whereabouts, self._known_peers)
            self.keyring = LanKeyring(
                config.state_directory / LAN_KEYS_NAME,
                lambda: self.documents.parameters.lan_keys,
                search.found,
                self.babeld.use_lan_key,
                random.SystemRandom().random,
            )

    def _make_servers(self) -> None:
        """Make what answers: peers, and people on this host."""
        config = self.config
        service = NodeControlService(
            verifier=self.verifier,
            negotiation=self._negotiation,
            operator=self.operator,
            drainage=self._drainage,
            gossiping=self._gossiping,
            documents=self.documents,
            outside=self.outside,
            keyring=self.keyring,
            report=self.report,
        )
        self.control_server = ControlServer(service, config.control_port, self._port_share.take)
        self.stun_server = StunServer(config.control_port)
        self.observation = Observation(
            core=self.core,
            credentials=lambda: self.renewal.credentials,
            documents=self.documents,
            operator=self.operator,
            babeld=self.babeld,
            reachability=self.reachability,
            registry=self._registry,
            outside=self.outside,
            monitor=self.monitor,
        )
        self.status_server = StatusServer(self.observation, config.runtime_directory)

    # -- what parts ask of each other -------------------------------------------------------------------

    def _installed_routes(self) -> list[Route]:
        return self.babeld.table.installed()

    def _is_routed(self, prefix: IPv6Network) -> bool:
        return any(route.prefix == prefix for route in self._installed_routes())

    def _known_peers(self) -> list[Peer]:
        """Return whom this node can ask for help, neighbours first."""
        known = sorted(self.core.peers(), key=lambda entry: (not entry.connected, entry.failures))
        return [entry.peer for entry in known]

    # -- from the core ----------------------------------------------------------------------------------

    def _make_handlers(self) -> dict[type, Callable[[Any], None]]:
        return {
            RequestTunnel: self._negotiation.request,
            CancelRequest: self._negotiation.cancel_request,
            OfferTunnel: self._negotiation.offer,
            RefuseTunnel: self._negotiation.refuse,
            DialTunnel: self.operator.dial,
            AttachTunnel: self.operator.attach,
            DrainTunnel: self.operator.drain,
            DetachTunnel: self.operator.detach,
            CloseTunnel: self.operator.close,
            ExchangeGossip: self._gossiping.exchange,
            FetchDocument: self._fetch_document,
            AskRegistry: self._registry.ask,
            StorePeers: self._store_peers,
        }

    def execute(self, effect: Effect) -> None:
        """Have ``effect`` carried out."""
        self._handlers[type(effect)](effect)

    def _fetch_document(self, effect: FetchDocument) -> None:
        if effect.peer is None:
            self._registry.fetch(effect)
        else:
            ask = partial(self.client.fetch_document, effect.peer)
            work = self._document_exchange.fetch(effect.document, effect.peer.name, ask)
            self.tasks.spawn(work, f"fetch the {effect.document.value} of {effect.peer.name}")

    def _store_peers(self, effect: StorePeers) -> None:
        try:
            self.cache.store(((peer.prefix, peer.signed) for peer in effect.stored), effect.forgotten)
        except StorageError as error:
            logger.warning("The address book is not kept for the next start: %s", error)

    # -- to the core ------------------------------------------------------------------------------------

    def report(self, event: Event) -> None:
        """Tell the core of ``event``, and whomever else it concerns."""
        if isinstance(event, ParametersAccepted):
            self.babeld.use(event.parameters)
            if self.keyring is not None:
                self.keyring.wake()
        self.brain.report(event)

    def tell_endpoints(self) -> None:
        """Publish where this node is reached, if that has changed."""
        situation = self.reachability.situation
        try:
            if self._own.update(situation.endpoints, mapped=situation.mapped):
                self.report(OwnEndpointsChanged(situation.endpoints))
        except StorageError as error:
            logger.error("The changed endpoints cannot be published: %s", error)

    def _on_tunnel_ended(self, tunnel: Tunnel) -> None:
        if tunnel.incoming:
            self.reachability.release(tunnel.port)
            self._port_share.forget(tunnel.port)

    def _on_silent(self, tunnel: int) -> None:
        if self.operator.silent(tunnel):
            self.reachability.suspect_router()
        self.report(TunnelSilent(tunnel))

    def _on_measured(self, tunnel: int, measured: Measured) -> None:
        self.operator.measured(tunnel, measured)

    def _on_narrow(self, tunnel: int) -> None:
        self.report(TunnelNarrow(tunnel))

    def _on_moved(self) -> None:
        """Find out which tunnels have survived, and dial anew: the host is elsewhere, was asleep, or has
        another time.
        """
        self._uplinks.reset()
        self.monitor.suspect_all()
        self.sizes.measure_again()
        self.report(NetworkChanged())

    def _on_slept(self) -> None:
        self.reachability.search_router()
        self._on_moved()
