"""Command lines, key files and last words of OpenVPN: all that can be said without running it (pure).

Each tunnel is one process in point-to-point TLS mode (openvpn(8), ``--tls-server``/``--tls-client``) on an
interface that exists already. TLS 1.3 with the certificates of the network; the peer must hold a certificate
that is valid under the network's CA *and* has the one fingerprint expected. ``--tls-crypt`` with a key for
this tunnel alone drops whatever a stranger sends before TLS sees it. A process whose tunnel has failed
ends (``--remap-usr1``): what happens next is not OpenVPN's decision.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from re6st.errors import ConfigError
from re6st.messages import Endpoint, Transport
from re6st.proxy import Proxy
from re6st.segments import LARGEST_SEGMENT
from re6st.tunnel.driver import Link

_BUFFER = 2 * 1024 * 1024
_LARGEST_PACKET = LARGEST_SEGMENT + 40  # with headers of IPv4 and TCP: it passes where tunnels are negotiated
_LARGEST_FRAGMENT = (
    _LARGEST_PACKET - 28
)  # of UDP's payload; with headers of IPv6 (40) and UDP (8) still below 1280
_PING = 10
_HANDSHAKE = {Transport.UDP: 6, Transport.TCP: 10}  # TCP is what is tried when nothing comes through over UDP
_HANDSHAKE_OF_MANY = {Transport.UDP: 4, Transport.TCP: 6}  # OpenVPN looks once a second for what TCP does
_HANDSHAKE_OF_LATER = 2
_STATIC_KEY_OCTETS = 256

HANDSHAKES = 14
"""Seconds for all ways to reach a peer together: less than a tunnel may take to open."""

MOST_ATTEMPTS = HANDSHAKES
"""Ways to reach a peer that are tried for one tunnel, one second each at least."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files with which this node authenticates itself and its peers, PEM."""

    authority: Path
    """CA certificates of the network."""
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class TunnelFiles:
    """The files of one tunnel, in a directory of its own."""

    directory: Path

    @property
    def key(self) -> Path:
        """The pre-shared key (``--tls-crypt``)."""
        return self.directory / "tls-crypt.key"

    @property
    def management(self) -> Path:
        """The management socket."""
        return self.directory / "management.sock"


def listener_argv(
    link: Link, port: int, credentials: Credentials, files: TunnelFiles, transport: Transport = Transport.UDP
) -> list[str]:
    """Return how to run the end that waits on ``port`` of all addresses, IPv4 and IPv6."""
    if transport is Transport.UDP:
        # --multihome: answers leave from the address that was asked, or the dialer would not take them.
        protocol = ["--proto", "udp6", "--multihome", "--explicit-exit-notify", "1"]
    else:
        protocol = ["--proto", "tcp6-server", "--socket-flags", "TCP_NODELAY"]
    return [
        *_common(link, credentials, files),
        *("--tls-server", "--dh", "none", "--remote-cert-tls", "client"),
        *protocol,
        *("--lport", str(port)),
        "--float",  # a NAT box in front of the dialer may change its port
    ]


def share_patience(transport: Transport, left: float, later: int) -> int:
    """Return for how many seconds, 1 at least, to try an endpoint while ``later`` ones wait for their turn.

    ``left`` is what remains of :data:`HANDSHAKES`. Those that come later are left some of it; what one that
    fails sooner did not need is theirs, too. The last one has all that is left.
    """
    if later:
        most, share = (
            _HANDSHAKE_OF_MANY[transport],
            max(left / (later + 1), left - _HANDSHAKE_OF_LATER * later),
        )
    else:
        most, share = _HANDSHAKE[transport], left
    return max(1, min(most, int(share)))


def dialer_argv(
    link: Link,
    endpoint: Endpoint,
    credentials: Credentials,
    files: TunnelFiles,
    patience: int | None = None,
    proxy: Proxy | None = None,
    local_port: int = 0,
    uplink: str = "",
) -> list[str]:
    """Return how to run the end that connects to ``endpoint``, trying for ``patience`` seconds.

    It does so from ``local_port``, or from any if that is 0. Over TCP it goes through ``proxy`` if one is
    given. Only routes through the interface ``uplink`` are considered, unless that is empty.

    Raises :class:`ConfigError` when the address of the endpoint is no IP address.
    """
    try:
        address = ipaddress.ip_address(endpoint.address)
    except ValueError as error:
        raise ConfigError(f"{endpoint}: tunnels need an IP address, not a name") from error
    if patience is None:
        patience = share_patience(endpoint.transport, HANDSHAKES, 0)
    if endpoint.transport is Transport.UDP:
        protocol = ["--proto", f"udp{address.version}", "--explicit-exit-notify", "1"]
    elif proxy is None:
        protocol = ["--proto", f"tcp{address.version}-client", "--socket-flags", "TCP_NODELAY"]
    else:
        # The family is that of the proxy's address.
        protocol = ["--proto", "tcp-client", "--socket-flags", "TCP_NODELAY"]
        protocol += ["--http-proxy", proxy.host, str(proxy.port)]
        protocol += [str(proxy.credentials), "basic"] if proxy.credentials is not None else []
    return [
        *_common(link, credentials, files),
        *("--hand-window", str(patience)),
        *("--tls-client", "--remote-cert-tls", "server"),
        *protocol,
        *(("--bind", "--lport", str(local_port)) if local_port else ("--nobind",)),
        *(("--bind-dev", uplink) if uplink else ()),
        *("--remote", str(address), str(endpoint.port)),
        *("--connect-retry", "1", "1", "--connect-timeout", str(patience), "--resolv-retry", "0"),
    ]


def identifying_arguments(link: Link, files: TunnelFiles) -> list[tuple[str, ...]]:
    """Return the options by which one tells whether a process carries ``link``."""
    return [
        ("openvpn", "--dev", link.interface),
        ("--management", str(files.management), "unix"),
        ("--peer-fingerprint", format_fingerprint(link.peer_fingerprint)),
        ("--verify-x509-name", link.peer_name, "name"),
    ]


def through_proxy(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """Return those of ``endpoints`` that OpenVPN can have a proxy connect to: TCP and IPv4."""
    return [one for one in endpoints if one.transport is Transport.TCP and ":" not in one.address]


def _common(link: Link, credentials: Credentials, files: TunnelFiles) -> list[str]:
    fragment = ("--fragment", str(_LARGEST_FRAGMENT)) if link.fragments else ()
    return [
        "openvpn",
        *("--dev", link.interface, "--dev-type", "tun", "--persist-tun"),
        "--disable-dco",  # the kernel's offload cannot take over a device that exists
        *("--max-packet-size", str(_LARGEST_PACKET)),  # of the control channel; it sets --mssfix, too
        *("--tun-mtu", str(link.mtu), "--mssfix", "0", *fragment),
        *("--mtu-disc", "maybe"),  # routers must not cut packets whose size is measured
        *("--management", str(files.management), "unix", "--management-hold"),
        *("--ca", str(credentials.authority)),
        *("--cert", str(credentials.certificate), "--key", str(credentials.key)),
        *("--peer-fingerprint", format_fingerprint(link.peer_fingerprint)),
        *("--verify-x509-name", link.peer_name, "name"),
        *("--tls-version-min", "1.3", "--tls-crypt", str(files.key)),
        *("--data-ciphers", "AES-256-GCM", "--cipher", "AES-256-GCM"),
        *("--allow-compression", "no", "--script-security", "1"),
        *("--remap-usr1", "SIGTERM", "--tls-exit"),
        *("--tls-timeout", "1"),
        # No --ping-exit: it goes by the wall clock, which may be set forward.
        *("--ping", str(_PING)),
        *("--sndbuf", str(_BUFFER), "--rcvbuf", str(_BUFFER), "--fast-io"),
        *("--verb", "1", "--mute", "20", "--suppress-timestamps"),
    ]


def format_fingerprint(digits: str) -> str:
    """Return 64 hexadecimal digits as OpenVPN writes a fingerprint: octets separated by colons.

    Raises :class:`ConfigError` for anything else.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", digits):
        raise ConfigError(f"{digits[:80]!r} is not a SHA-256 fingerprint")
    return ":".join(digits[i : i + 2] for i in range(0, 64, 2)).upper()


_MOST_TELLING = re.compile(r"VERIFY \w* ?ERROR|hash verification failed|Socket bind failed")
_TELLING = re.compile(r"error|failed|fatal|cannot|exiting|timeout|refused", re.IGNORECASE)
_HARMLESS = re.compile(r"^(?:NOTE|WARNING|DEPRECATED|MANAGEMENT|write to TUN/TAP|SIG[A-Z0-9]+\[)")


def telling_line(output: Sequence[str]) -> str:
    """Return the line of ``output`` that says best why OpenVPN has ended; empty if there is none."""
    for pattern in (_MOST_TELLING, _TELLING):
        for line in output:
            if pattern.search(line) and not _HARMLESS.search(line):
                return line
    return next(reversed(output), "")


def generate_static_key() -> str:
    """Return a new key in the format of ``openvpn --genkey secret``: 2048 random bits."""
    digits = secrets.token_hex(_STATIC_KEY_OCTETS)
    lines = [digits[i : i + 32] for i in range(0, len(digits), 32)]
    body = "\n".join(lines)
    return f"-----BEGIN OpenVPN Static key V1-----\n{body}\n-----END OpenVPN Static key V1-----\n"


def check_static_key(text: str) -> None:
    """Raise :class:`ConfigError` unless ``text``, which a peer has sent, is a static key."""
    pattern = (
        r"-----BEGIN OpenVPN Static key V1-----\n(?:[0-9a-f]{32}\n){16}-----END OpenVPN Static key V1-----\n"
    )
    if not re.fullmatch(pattern, text):
        raise ConfigError("the key of the tunnel is not an OpenVPN static key")
