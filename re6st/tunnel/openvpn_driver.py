"""The OpenVPN driver: makes tunnels and knows those that exist (I/O)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from re6st.errors import ChildError, ConfigError, StorageError
from re6st.messages import Endpoint, Transport
from re6st.proxy import Proxy
from re6st.supervisor import ChildRecord, Supervisor
from re6st.tunnel import openvpn
from re6st.tunnel.driver import DriverEvent, Link, Survivor, host_routes
from re6st.tunnel.openvpn import Credentials, TunnelFiles
from re6st.tunnel.openvpn_tunnel import KIND, Attempt, OpenVpnTunnel

DEFAULT_COUNTER_INTERVAL = 10
"""Seconds between reports of traffic."""

NOTE = "note"
"""Under this name the record of a child keeps what :meth:`OpenVpnDriver.annotate` was given."""

_LONGEST_SOCKET_PATH = 107  # sun_path of unix(7) without its final NUL


class OpenVpnDriver:
    """Tunnels by OpenVPN; implements :class:`re6st.tunnel.driver.Driver`."""

    name = "openvpn"

    def __init__(
        self,
        directory: Path,
        credentials: Credentials,
        supervisor: Supervisor,
        counter_interval: int = DEFAULT_COUNTER_INTERVAL,
        proxy: Proxy | None = None,
    ) -> None:
        """Keep the files of tunnels in ``directory``.

        ``counter_interval``: seconds between reports of :class:`re6st.tunnel.driver.Counters`. TCP is tried
        through ``proxy`` first, if there is one. Raises :class:`StorageError`.
        """
        self._directory = directory
        self._credentials = credentials
        self._supervisor = supervisor
        self._counter_interval = counter_interval
        self._proxy = proxy
        self._tunnels: dict[int, OpenVpnTunnel] = {}
        self._report: Callable[[DriverEvent], None] | None = None
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {directory} for the files of tunnels: {error}") from error

    def set_listener(self, report: Callable[[DriverEvent], None]) -> None:
        """Report all events to ``report`` from now on."""
        self._report = report

    async def prepare(self) -> str:
        """Return a fresh ``--tls-crypt`` key."""
        return openvpn.generate_static_key()

    async def listen(self, link: Link, port: int, transport: Transport = Transport.UDP) -> None:
        """Wait for the peer on ``port``; see :meth:`re6st.tunnel.driver.Driver.listen`."""
        files = self._files(link)
        argv = openvpn.listener_argv(link, port, self._credentials, files, transport)
        await self._open(link, files, [Attempt(lambda _: argv, transport)])

    async def dial(
        self,
        link: Link,
        endpoints: tuple[Endpoint, ...],
        local_port: int = 0,
        uplink: Callable[[Endpoint], str] = host_routes,
    ) -> None:
        """Connect to the peer; see :meth:`re6st.tunnel.driver.Driver.dial`."""
        if not endpoints:
            raise ConfigError(f"{link.peer_name} has no endpoint to dial")
        files = self._files(link)
        attempts = []
        ways: list[tuple[Endpoint, Proxy | None]] = [(endpoint, None) for endpoint in endpoints]
        if self._proxy is not None:
            # Where it is needed the direct ways are lost without an answer, so they come last.
            proxied = openvpn.through_proxy(endpoints)
            ways = [*((endpoint, self._proxy) for endpoint in proxied), *ways][: openvpn.MOST_ATTEMPTS]
        for endpoint, proxy in ways:
            command = partial(
                openvpn.dialer_argv,
                *(link, endpoint, self._credentials, files),
                proxy=proxy,
                local_port=local_port,
                uplink="" if proxy is not None else uplink(endpoint),
            )
            attempts.append(Attempt(command, endpoint.transport, endpoint if proxy is not None else None))
        await self._open(link, files, attempts)

    def annotate(self, tunnel: int, note: str) -> None:
        """Keep ``note`` with ``tunnel``. Raises :class:`StorageError`."""
        found = self._tunnels.get(tunnel)
        child = self._supervisor.get(found.child) if found is not None else None
        if child is not None:
            child.annotate({NOTE: note})

    def survivors(self) -> list[Survivor]:
        """Return the tunnels of an earlier daemon that have a note."""
        return [
            Survivor(str(entry.data.get("interface", "")), str(entry.data[NOTE]))
            for entry in self._supervisor.survivors(KIND)
            if NOTE in entry.data
        ]

    async def adopt(self, link: Link, transport: Transport) -> Endpoint | None:
        """Take over the survivor on the interface of ``link``: :meth:`re6st.tunnel.driver.Driver.adopt`."""
        files = TunnelFiles(self._directory / link.interface)
        tunnel = OpenVpnTunnel(link, files, self._supervisor, self._counter_interval, self._on_event)
        found = next((one for one in self._supervisor.survivors(KIND) if one.name == tunnel.child), None)
        if found is None or not self._is_meant(found, link, files):
            raise ChildError(f"no process of an earlier run is the one of {link.interface}")
        remote = await tunnel.adopt(found, transport, lambda: self._forget(link.tunnel))
        self._tunnels[link.tunnel] = tunnel
        return remote

    @staticmethod
    def _is_meant(found: ChildRecord, link: Link, files: TunnelFiles) -> bool:
        """Whether the process of ``found`` carries ``link``, by its arguments: interface, peer, socket."""
        wanted = openvpn.identifying_arguments(link, files)
        return all(_contains(found.argv, part) for part in wanted)

    def remove_leftovers(self) -> None:
        """Remove the files of tunnels that were not adopted. Raises :class:`StorageError`."""
        kept = {tunnel.link.interface for tunnel in self._tunnels.values()}
        try:
            for path in self._directory.iterdir():
                if path.name not in kept:
                    shutil.rmtree(path)
        except OSError as error:
            raise StorageError(f"cannot remove what an earlier run has left: {error}") from error

    async def close(self, tunnel: int) -> None:
        """End ``tunnel``: when this returns its process and files are gone and Closed was reported."""
        found = self._tunnels.get(tunnel)
        if found is not None:
            await found.close()

    def _files(self, link: Link) -> TunnelFiles:
        """Check what came from outside and return where the files of the tunnel will be."""
        openvpn.check_static_key(link.key)
        files = TunnelFiles(self._directory / link.interface)
        if len(os.fsencode(files.management)) > _LONGEST_SOCKET_PATH:
            raise ConfigError(
                f"{files.management} is too long for a socket: choose a shorter runtime directory"
            )
        return files

    async def _open(self, link: Link, files: TunnelFiles, attempts: list[Attempt]) -> None:
        if any(link.interface == other.link.interface for other in self._tunnels.values()):
            raise ChildError(f"the interface {link.interface} is in use by another tunnel")
        tunnel = OpenVpnTunnel(link, files, self._supervisor, self._counter_interval, self._on_event)
        self._tunnels[link.tunnel] = tunnel
        await tunnel.open(attempts, lambda: self._forget(link.tunnel))

    def _forget(self, tunnel: int) -> None:
        self._tunnels.pop(tunnel, None)

    def _on_event(self, event: DriverEvent) -> None:
        if self._report is not None:
            self._report(event)


def _contains(argv: Sequence[str], part: Sequence[str]) -> bool:
    return any(tuple(argv[i : i + len(part)]) == tuple(part) for i in range(len(argv)))
