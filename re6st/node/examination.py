"""Gathers what ``re6st-node doctor`` judges: of files, kernel, programs, registry and daemon (I/O)."""

from __future__ import annotations

import asyncio
import email.utils
import fcntl
import http.client
import itertools
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import urlsplit

from re6st.config import NodeConfig
from re6st.errors import NotRunningError, Re6stError
from re6st.node import doctor, environment
from re6st.node.credentials import Credentials, load_credentials
from re6st.node.doctor import Finding, failed, ok, warning
from re6st.node.documents import Documents
from re6st.node.registry_access import registry_client
from re6st.proxy import Proxy, load_proxy
from re6st.registry.links import RegistryUrl, parse_registry_url
from re6st.status import NodeStatus, OutsideStatus, PeerStatus, RouteStatus, TunnelStatus, fetch

CLOCK_TIMEOUT = 5.0
"""Seconds that a registry has to tell its time."""

OUTSIDE_TIMEOUT = 40.0
"""Seconds that peers have to test our endpoints."""

_TUNGETFEATURES = 0x800454CF  # linux/if_tun.h
_SETTINGS = Path("/proc/sys/net/ipv6/conf")
_ADDRESSES = Path("/proc/net/if_inet6")


def examine(load: Callable[[], NodeConfig], unit: str) -> Iterator[Finding]:
    """Yield one finding after the other; what needs something that failed is left out.

    ``unit`` is the systemd unit of the node.
    """
    if os.geteuid() != 0:
        yield failed(
            "root", "too little can be seen by this user", "run this as root: sudo re6st-node doctor"
        )
        return
    yield _kernel()
    yield _tun_device()
    yield _programs()
    try:
        config = load()
        credentials = load_credentials(config.state_directory, time.time())
    except Re6stError as error:
        yield failed("identity", str(error), "put that right first: everything else depends on it")
        return
    prefixes = ", ".join(str(prefix) for prefix in credentials.certificate.prefixes)
    yield ok("configuration", f"{credentials.certificate.name}, {prefixes}")
    yield doctor.certificate(credentials.certificate.not_after, time.time())
    urls = _registry_urls(config, credentials)
    try:
        proxy = load_proxy(config.proxy, config.proxy_credentials)
    except Re6stError as error:
        yield failed("proxy", str(error), "the daemon does not start before that is put right")
        proxy = None
    yield _clock(urls, proxy)
    yield _registry(credentials, urls, proxy)
    yield from _daemon(config, urls, unit)


# -- the machine ----------------------------------------------------------------------------------------


def _kernel() -> Finding:
    if (problem := environment.ipv6_problem()) is not None:
        return failed("kernel", problem, "the daemon does not start before that is put right")
    try:
        done = subprocess.run(
            ["nft", "list", "tables"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or "it does not end"
        return failed("kernel", f"nft cannot be run: {reason}", "apt-get install nftables")
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        return failed("kernel", f"nftables: {said[0]}", "use a kernel, and a container, that has nftables")
    return ok("kernel", "IPv6 and nftables")


def _tun_device() -> Finding:
    try:
        descriptor = os.open(environment.TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _TUNGETFEATURES, b"\0" * 4)
        finally:
            os.close(descriptor)
    except OSError as error:
        return failed(
            "tun device",
            f"{environment.TUN_DEVICE} cannot be opened: {error.strerror}",
            "load the kernel module (modprobe tun), or allow it in the container",
        )
    return ok("tun device", f"{environment.TUN_DEVICE} can be opened")


def _programs() -> Finding:
    found = environment.program_problems()
    names = ", ".join(program.name for program in environment.PROGRAMS)
    if found:
        return failed("programs", "; ".join(found), "install or upgrade what is named")
    return ok("programs", f"{names} are recent enough")


def _read_setting(key: str) -> str:
    try:
        return (_SETTINGS / key).read_text().strip()
    except OSError:
        return ""


# -- the registry ---------------------------------------------------------------------------------------


def _registry_urls(config: NodeConfig, credentials: Credentials) -> list[str]:
    documents = Documents(config.state_directory, credentials.trust)
    return list(dict.fromkeys((*config.registry, *documents.parameters.registry_urls)))


def _clock(urls: list[str], proxy: Proxy | None) -> Finding:
    for url, way in itertools.product(urls, (None,) if proxy is None else (proxy, None)):
        try:
            difference = time.time() - registry_time(parse_registry_url(url), way)
        except (Re6stError, OSError, http.client.HTTPException, ValueError, TypeError):
            continue
        return doctor.clock(difference)
    return warning("clock", "not compared: no registry tells its time", "see the next check")


def registry_time(url: RegistryUrl, proxy: Proxy | None = None) -> float:
    """Return what the registry takes for the time, seconds since the epoch; ask through ``proxy`` if given.

    A clock that is far off makes every certificate look invalid, so none is verified here: nothing but this
    diagnosis depends on the answer. Raises :class:`OSError` and others.
    """
    parts = urlsplit(url.base)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    host, port = parts.hostname or "", parts.port
    first = (host, port) if proxy is None else (proxy.host, proxy.port)
    connection = http.client.HTTPSConnection(*first, timeout=CLOCK_TIMEOUT, context=context)
    if proxy is not None:
        connection.set_tunnel(host, port, proxy.headers())
    try:
        connection.request("GET", "/healthz")
        date = connection.getresponse().getheader("Date")
    finally:
        connection.close()
    return email.utils.parsedate_to_datetime(date or "").timestamp()


def _registry(credentials: Credentials, urls: list[str], proxy: Proxy | None) -> Finding:
    try:
        asyncio.run(registry_client(credentials, urls, proxy).parameters())
    except Re6stError as error:
        return warning(
            "registry", str(error), "the mesh works without it; new certificates need it once a year or so"
        )
    return ok("registry", f"{urls[0]} answers")


# -- the running daemon ---------------------------------------------------------------------------------


def _daemon(config: NodeConfig, urls: list[str], unit: str) -> Iterator[Finding]:
    runtime = config.runtime_directory
    try:
        status = fetch(runtime, "status", NodeStatus)
        found = fetch(runtime, "tunnels", list[TunnelStatus])
        routes = fetch(runtime, "routes", list[RouteStatus])
        peers = fetch(runtime, "peers", list[PeerStatus])
    except NotRunningError:
        yield failed(
            "daemon", "it does not run", f"systemctl enable --now {unit}; its log: journalctl -u {unit}"
        )
        return
    except Re6stError as error:
        yield failed("daemon", str(error), f"systemctl restart {unit}; its log: journalctl -u {unit}")
        return
    yield ok("daemon", f"runs as process {status.pid} for {status.uptime:.0f} s")
    yield doctor.reachability(status)
    yield doctor.mapping(status.mappings, config.control_port)
    try:
        yield doctor.outside(fetch(runtime, "outside", OutsideStatus, OUTSIDE_TIMEOUT))
    except Re6stError as error:
        yield warning("from outside", str(error), "restart the node if it was upgraded")
    settings = {
        f"{path.parent.name}/{path.name}": _read_setting(f"{path.parent.name}/{path.name}")
        for name in ("forwarding", "accept_ra")
        for path in _SETTINGS.glob(f"*/{name}")
    }
    yield doctor.forwarding(settings)
    yield doctor.advertisements(settings, _host_addresses())
    yield doctor.tunnels(found)
    yield doctor.packet_size(found)
    yield doctor.routing(status, routes)
    yield doctor.lan(status.lan)
    yield doctor.registry_node(_resolve(urls), status, peers, routes)


def _host_addresses() -> list[tuple[str, IPv6Address, int]]:
    """Return interface, address and flags of each IPv6 address of this host."""
    try:
        lines = [line.split() for line in _ADDRESSES.read_text().splitlines()]
    except OSError:
        return []
    return [(one[5], IPv6Address(bytes.fromhex(one[0])), int(one[4], 16)) for one in lines]


def _resolve(urls: list[str]) -> set[str]:
    """Return the addresses of the hosts in ``urls``."""
    found: set[str] = set()
    for url in urls:
        try:
            host = urlsplit(parse_registry_url(url).base).hostname
            found |= {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
        except (Re6stError, OSError):
            continue
    return found
