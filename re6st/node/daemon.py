"""The life of the node daemon: its parts start in order, stop in the reverse order, or are handed over.

A start that fails half way is undone, and whatever ends the daemon, nothing it made is left. There are two
ways to end in good order: asked to stop, it first waits until nobody sends packets through it any more; asked
to restart in place, it leaves everything as it is to its successor (:mod:`re6st.node.restart`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence

from re6st.config import NodeConfig
from re6st.core.events import (
    OwnEndpointsChanged,
    ParametersAccepted,
    PeersLearned,
    RevocationsAccepted,
    Source,
    TunnelAdopted,
    TunnelDown,
)
from re6st.errors import ChildError, NetlinkError, Re6stError
from re6st.node import restart
from re6st.node.parts import Parts
from re6st.node.underlay import Listener
from re6st.notify import notify
from re6st.supervisor import Supervisor

logger = logging.getLogger(__name__)

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
        self._parts = Parts(config, network, supervisor)
        self._parts.renewal.prefixes_changed = self._on_prefixes_changed
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()
        self._restarting = False
        self._undo: list[Callable[[], Awaitable[None]]] = []

    # -- start ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring the node up. Raises :class:`Re6stError`; :meth:`stop` undoes what was done until then.

        The order has reasons: the firewall is there before anything can come in, babeld before any tunnel;
        and the core knows what is left of the run before, and whom the address book holds, before any peer
        is answered.
        """
        parts = self._parts
        parts.renewal.store_authorities()
        parts.control_server.bind()
        await self._step(parts.status_server.start, parts.status_server.stop)
        await self._step(parts.host.start, parts.host.stop)
        if not parts.continues:
            await self._remove_leftovers(())
            await parts.host.clean_routes()
        parts.run_record.write(self._config.runtime_directory)
        await self._step(self._start_client, parts.client.stop)
        self._undo.append(parts.tasks.stop)
        await self._step(parts.reachability.start, parts.reachability.stop)
        self._undo.append(parts.route_repair.stop)
        await self._step(parts.stun_server.start, parts.stun_server.stop)
        await self._step(parts.babeld.start, parts.babeld.stop)
        await self._enter_lans()
        await self._step(parts.monitor.start, parts.monitor.stop)
        await self._step(parts.sizes.start, parts.sizes.stop)
        self._undo.append(parts.operator.close_all)
        adopted = await self._take_over() if parts.continues else []
        parts.tell_endpoints()
        parts.brain.start()
        self._feed_core(adopted)
        await parts.control_server.start(parts.renewal.server_context)
        if self._config.lan_discovery:
            await self._step(parts.discovery.start, parts.discovery.stop)
        self._watch()

    async def _start_client(self) -> None:
        await self._parts.client.start(self._parts.renewal.credentials.client_context())

    async def _enter_lans(self) -> None:
        """Have babeld look for neighbours in LANs, as far as there is a key for that."""
        if (key := self._parts.lan_key) is not None:
            # A babeld that has just died is told when it is back.
            with contextlib.suppress(ChildError):
                await self._parts.babeld.use_lan_key(key)
        elif self._parts.keyring is not None:
            await self._parts.keyring.apply()

    def _watch(self) -> None:
        """Begin what goes on in the background until the end."""
        parts = self._parts
        if self._config.lan_discovery:
            parts.tasks.spawn(parts.discovery.announce(), "announce this node in its LANs")
        if parts.keyring is not None:
            parts.tasks.spawn(parts.keyring.run(), "keep the keys of LANs")
        parts.tasks.spawn(parts.clock_watch.run(), "watch the clock")
        parts.tasks.spawn(parts.reachability.watch(), "watch the network")
        parts.tasks.spawn(parts.reachability.watch_mapping(parts.outside.ask), "watch the port mapping")

    async def _step(self, do: Callable[[], Awaitable[None]], undo: Callable[[], Awaitable[None]]) -> None:
        """Do a step of the start, and take note of how it is undone even if it fails half way."""
        self._undo.append(undo)
        await do()

    async def _take_over(self) -> list[TunnelAdopted]:
        """Adopt what is sound of the run before, and remove the rest."""
        adopted = await self._parts.adopter.adopt()
        await self._remove_leftovers([self._config.interface(tunnel.slot) for tunnel in adopted])
        for tunnel in self._parts.operator.tunnels():
            if tunnel.incoming and not tunnel.punched:
                self._parts.reachability.resume(Listener(tunnel.transport, tunnel.port))
        return adopted

    async def _remove_leftovers(self, kept: Collection[str]) -> None:
        """Remove processes, files and interfaces of an earlier run, except the interfaces to be ``kept``."""
        await self._supervisor.reconcile()
        self._parts.driver.remove_leftovers()
        await self._parts.host.remove_interfaces(kept)

    def _feed_core(self, adopted: Sequence[TunnelAdopted]) -> None:
        """Tell the core what is known at the start."""
        self._parts.clock_watch.read()
        self._parts.renewal.report()
        if self._parts.documents.parameters.version:
            self._parts.report(ParametersAccepted(self._parts.documents.parameters))
        if self._parts.documents.revocations.version:
            self._parts.report(
                RevocationsAccepted(self._parts.documents.revocations.version, self._parts.documents.revoked)
            )
        self._parts.report(OwnEndpointsChanged(self._parts.reachability.situation.endpoints))
        running = {tunnel.number for tunnel in self._parts.operator.tunnels()}
        for event in adopted:
            self._parts.report(event)
            if event.tunnel not in running:
                self._parts.report(TunnelDown(event.tunnel, "its process has ended meanwhile"))
        peers = self._parts.verifier.open_all(self._parts.cache.records())
        self._parts.report(PeersLearned(peers, Source.BOOK))

    # -- end --------------------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """End the daemon when its peers send nothing more through it; asked again, at once."""
        if self._stopping.is_set() and not self._restarting:
            self._forced.set()
        self._restarting = False
        self._stopping.set()

    def request_restart(self) -> None:
        """Let a new program with the configuration of now take over soon, if that can succeed."""
        self._parts.tasks.spawn(self._restart(), "restart in place")

    def _on_prefixes_changed(self) -> None:
        self._parts.tasks.spawn(self._use_prefixes(), "use other prefixes")

    async def _use_prefixes(self) -> None:
        """Use the prefixes of the certificate in force. babeld follows the kernel's routes."""
        certificate = self._parts.renewal.credentials.certificate
        self._parts.babeld.own(certificate.further)
        try:
            await self._parts.host.use(certificate.prefixes)
        except NetlinkError as error:
            logger.error("Not all changed prefixes are in use ('re6st-node restart' tries again): %s", error)
        else:
            logger.info("This node's prefixes are now %s", ", ".join(map(str, certificate.prefixes)))

    async def _restart(self) -> None:
        restart.announce()
        refused = await restart.objection(restart.check_command())
        if not refused and (moved := self._moved()):
            refused = f"{', '.join(moved)}: cannot change while the node runs; stop and start it for that"
        if refused:
            self._parts.observation.restart_was_refused(refused)
            logger.error("No restart, the node goes on as before: %s", refused)
            notify("READY=1\nSTATUS=A restart was refused; see the log")
        elif not self._stopping.is_set():
            self._restarting = True
            self._stopping.set()

    async def run(self) -> None:
        """Run until asked to stop, then leave nothing behind, or all to the program that takes over."""
        try:
            await self.start()
            self._parts.observation.ready = True
            notify("READY=1\nSTATUS=")
            certificate = self._parts.renewal.credentials.certificate
            logger.info("Node %s runs: %s", certificate.name, ", ".join(map(str, certificate.prefixes)))
            await self._stopping.wait()
            if self._restarting:
                await self._parts.reachability.hand_over()
            # It may have been asked to stop meanwhile.
            if self._restarting:
                self._hand_over()
            notify("STOPPING=1")
            await self._drain()
        finally:
            notify("STOPPING=1")
            await self.stop()

    def _hand_over(self) -> None:
        """Become the new program. Returns only if that fails; then there is nothing but to stop."""
        self._parts.brain.hand_over()
        self._parts.cache.close()
        try:
            restart.execute()
        except OSError as error:
            logger.error("Cannot restart in place, so the node stops: %s", error)

    async def _drain(self) -> None:
        """Wait until nobody sends packets for others through this node, or until told to hurry."""
        self._parts.brain.drain()
        deadline = time.monotonic() + self._parts.core.settings.leaving_timeout
        while not self._parts.core.drained and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._forced.wait(), DRAIN_POLL)
                return

    async def stop(self) -> None:
        """Take down everything that was set up, in the reverse order; each step is tried in any case."""
        logger.info("Stopping")
        self._parts.brain.finish()
        self._parts.route_news.stop()
        for undo in (self._parts.control_server.stop, *reversed(self._undo)):
            try:
                await undo()
            except Re6stError as error:
                logger.error("While stopping: %s", error)
            except Exception:
                logger.exception("While stopping")
        self._parts.brain.stop()
        self._parts.cache.close()
