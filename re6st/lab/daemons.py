"""Registry and nodes of the lab: the real programs, each on its host."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import msgspec

from re6st import status
from re6st.config import render
from re6st.errors import ChildError, ConfigError
from re6st.files import write_atomically
from re6st.identity import load_certificate, parse_node_certificate
from re6st.lab.host import Host
from re6st.lab.namespace import processes
from re6st.lab.process import Process, last_lines
from re6st.lab.proxy import CREDENTIALS
from re6st.lab.topology import MeshSpec, Settings
from re6st.messages import NetworkParameters
from re6st.status import NodeStatus

READY_TIMEOUT = 90.0
"""Seconds within which a daemon must be ready; generous, since many start at once on a busy machine."""


def script(name: str) -> list[str]:
    """Return the beginning of the command line of one of our programs: this Python, that script.

    Raises :class:`ConfigError` when it is not installed.
    """
    places = (Path(__file__).parents[2] / "scripts", Path(sysconfig.get_path("scripts")))
    for place in places:
        if (place / name).is_file():
            return [sys.executable, str(place / name)]
    raise ConfigError(f"{name} is neither in {places[0]} nor in {places[1]}: install re6st first")


class Registry:
    """The registry on its host."""

    def __init__(self, host: Host, mesh: MeshSpec) -> None:
        self.host = host
        self._mesh = mesh
        self._process: Process | None = None
        self._command = [*script("re6st-registry"), "--state", str(host.directory / "registry")]

    @property
    def url(self) -> str:
        """Where nodes reach it."""
        return self.urls[0]

    @property
    def urls(self) -> list[str]:
        """Where nodes reach it: at each of its addresses, the IPv4 one first."""
        return [self._url(address) for address in self.host.addresses]

    @property
    def port(self) -> int:
        """TCP port at each of its addresses."""
        return self._mesh.registry_port

    def initialise(self, *options: str) -> None:
        """Make CA and store, with further options of the command. Raises :class:`ChildError`."""
        urls = [word for url in self.urls for word in ("--url", url)]
        self.host.run([*self._command, "init", "--network", str(self._mesh.network), *urls, *options])

    def start(self) -> None:
        """Start serving and wait until connections are accepted. Raises :class:`ChildError`."""
        where = f"[::]:{self._mesh.registry_port}"
        self._process = self.host.start([*self._command, "serve", "--listen", where], log="registry.log")
        deadline = time.monotonic() + READY_TIMEOUT
        while not self._accepts():
            self._process.check()
            if time.monotonic() > deadline:
                raise self._process.failure(f"does not listen after {READY_TIMEOUT:g} seconds")
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it. Raises :class:`ChildError` when it does not end."""
        if self._process is not None:
            self._process.stop(how)
            self._process = None

    def reap(self) -> None:
        """Wait for its end, after it was killed from elsewhere."""
        if self._process is not None:
            self._process.reap()
            self._process = None

    def check(self) -> None:
        """Raise :class:`ChildError` if it was started and has died."""
        if self._process is not None:
            self._process.check()

    def join_link(self, name: str, host: Host | None = None) -> str:
        """Return a join link for a node to be called ``name``, which works on ``host``.

        Raises :class:`ChildError`.
        """
        return self._link_for(host or self.host, self._token("--name", name))

    def join_links(self, hosts: Sequence[Host]) -> list[str]:
        """Return a join link for each of ``hosts``, which works there. They share a token for so many nodes.

        Raises :class:`ChildError`.
        """
        token = self._token("--uses", str(len(hosts)))
        return [self._link_for(host, token) for host in hosts]

    def _token(self, *options: str) -> str:
        return self.run("token", "create", *options).strip().partition("#")[2]

    def _link_for(self, host: Host, token: str) -> str:
        versions = {address.version for address in host.addresses}
        usable = next((one for one in self.host.addresses if one.version in versions), self.host.address)
        return f"{self._url(usable)}/#{token}"

    def run(self, *arguments: str) -> str:
        """Run an operator's command and return what it printed. Raises :class:`ChildError`."""
        return self.host.run([*self._command, *arguments]).stdout

    def babel_port(self) -> int:
        """Return the UDP port of babel in this network. Raises :class:`ChildError`."""
        answer = self.host.run([*self._command, "parameters", "--json"]).stdout
        return msgspec.json.decode(answer, type=NetworkParameters).babel_port

    def _accepts(self) -> bool:
        family = socket.AF_INET if self.host.address.version == 4 else socket.AF_INET6
        with self.host.namespace.entered(), socket.socket(family) as probe:
            probe.settimeout(1)
            return probe.connect_ex((str(self.host.address), self._mesh.registry_port)) == 0

    def _url(self, address: IPv4Address | IPv6Address) -> str:
        host = f"[{address}]" if address.version == 6 else str(address)
        return f"https://{host}:{self._mesh.registry_port}"


class Node:
    """A node on its host."""

    def __init__(self, host: Host, settings: Settings, proxy: str = "") -> None:
        """``settings`` are added to its configuration when it joins, through ``proxy`` if one is given."""
        self.host = host
        self._settings = settings
        self._proxy = proxy
        self._process: Process | None = None
        self._address = ""
        self._command = [*script("re6st-node"), "--config", str(self.config)]

    @property
    def name(self) -> str:
        """Name of host and node."""
        return self.host.name

    @property
    def config(self) -> Path:
        """The configuration file, which joining writes."""
        return self.host.directory / "node.toml"

    @property
    def state(self) -> Path:
        """The state directory: key, certificates, address book."""
        return self.host.directory / "state"

    @property
    def runtime(self) -> Path:
        """The runtime directory: sockets and records of children. Short, as names of sockets must be."""
        return self.host.directory / "run"

    @property
    def log(self) -> Path:
        """What the daemon says."""
        return self.host.directory / "node.log"

    def command(self, *words: str) -> list[str]:
        """Return the command line of re6st-node with this node's configuration, followed by ``words``."""
        return [*self._command, *words]

    def join(self, link: str, name: str | None = None) -> None:
        """Enrol by a join link, as ``name`` or by the host's name.

        Raises :class:`ChildError` with what the command printed.
        """
        places = ["--state-directory", str(self.state), "--runtime-directory", str(self.runtime)]
        if self._proxy:
            credentials = self.host.directory / "proxy"
            write_atomically(credentials, CREDENTIALS.encode(), 0o600)
            places += ["--proxy", self._proxy, "--proxy-credentials", str(credentials)]
        self.host.run([*self._command, "join", link, "--name", name or self.name, *places])
        if self._settings:
            written = tomllib.loads(self.config.read_text())
            self.config.write_text(render({**written, **self._settings}))

    def launch(self) -> None:
        """Start the daemon without waiting for it (see :meth:`wait_ready`)."""
        self._process = self.host.start([*self._command, "run"], log="node.log", notify=True)

    def wait_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Wait until the daemon reports readiness. Raises :class:`ChildError` if it dies or is late."""
        if self._process is not None:
            self._process.wait_ready(timeout)

    def start(self, timeout: float = READY_TIMEOUT) -> None:
        """Start the daemon and wait until it is ready. Raises :class:`ChildError`."""
        self.launch()
        self.wait_ready(timeout)

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout: float = 40.0) -> None:
        """End the daemon. Raises :class:`ChildError` when it does not end, or not cleanly.

        SIGKILL hits the daemon only; its children live on, as after a crash.
        """
        if self._process is None:
            raise ConfigError(f"{self.name}: the daemon was not started by this lab object")
        process, self._process = self._process, None
        result = process.stop(how, timeout)
        if how is signal.SIGTERM and result != 0:
            raise process.failure(f"ended with status {result} after SIGTERM", result)

    def stop_running(self, how: signal.Signals, timeout: float = 40.0) -> None:
        """End the daemon whoever started it. Raises :class:`ChildError` when it does not end."""
        pid = self.status().pid
        os.kill(pid, how)
        deadline = time.monotonic() + timeout
        while pid in processes([self.host.namespace]):
            if time.monotonic() > deadline:
                raise ChildError(f"{self.name}: process {pid} still runs {timeout:g} s after {how.name}")
            time.sleep(0.05)

    @property
    def running(self) -> bool:
        """Whether the daemon, started by this object, runs."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int:
        """Process id of the daemon. Raises :class:`ChildError` unless it runs."""
        if self._process is None:
            raise ChildError(f"{self.name}: the daemon does not run")
        self._process.check()
        return self._process.child.pid

    def reap(self) -> None:
        """Wait for the daemon's end, which something else than :meth:`stop` has brought about."""
        if self._process is not None:
            self._process.reap()
            self._process = None

    def terminate(self) -> None:
        """Ask the daemon to end without waiting for it (see :meth:`reap`)."""
        os.kill(self.pid, signal.SIGTERM)

    def failure(self, what: str) -> ChildError:
        """Return an error that says ``what`` is wrong with the node, with the end of its log."""
        return ChildError(f"{self.name}: {what}; its log is {self.log}", output=last_lines(self.log))

    def check(self) -> None:
        """Raise :class:`ChildError` with the end of the log if the daemon was started and has died."""
        if self._process is not None:
            self._process.check()

    def status(self) -> NodeStatus:
        """Return what the daemon says of itself. Raises :class:`ConfigError` when it does not answer."""
        return status.fetch(self.runtime, "status", NodeStatus)

    def address(self) -> str:
        """Return the node address, which is in the certificate. Raises :class:`IdentityError`."""
        if not self._address:
            certificate = load_certificate(self.state / "certificate.pem")
            self._address = str(parse_node_certificate(certificate).address)
        return self._address

    def forget_address(self) -> None:
        """Look the address up again next time: the node is going to join anew."""
        self._address = ""

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``re6st-node`` with ``arguments``, for example ``tunnels``, on the host."""
        return self.host.run([*self._command, *arguments], check=check)


def describe(node: Node) -> dict[str, object]:
    """Return the status of ``node`` as plain values, with ``error`` instead when it does not answer."""
    try:
        plain: dict[str, object] = msgspec.to_builtins(node.status())
    except ConfigError as error:
        return {"name": node.name, "error": str(error)}
    return plain
