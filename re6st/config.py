"""Configuration of a node: one TOML file, every key optional.

All mistakes of a file are reported at once, each with file and key, so that the owner corrects it in
one go. Durations are seconds.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from re6st.errors import ConfigError, StorageError, file_failure
from re6st.proxy import parse_url

INTERFACE_NAME_LENGTH = 15
"""Longest name of an interface (IFNAMSIZ without the final NUL)."""

SLOTS = 96
"""Interfaces of the tunnel pool: outgoing, incoming, and room for those that cool down.

That takes a minute or so, and a host whose uplink comes and goes loses all tunnels each time.
"""

UPLINKS = 8
"""Most uplinks that can be named."""

_INTERFACE_NAME = r"^[A-Za-z0-9_.-]{1,15}$(?!\n)"
_LOG_LEVEL = "^(error|warning|info|debug)$"

InterfaceName = Annotated[str, Meta(pattern=_INTERFACE_NAME)]
PortNumber = Annotated[int, Meta(ge=1, le=65535)]


class NodeConfig(Struct, frozen=True, kw_only=True, rename="kebab"):
    """Settings of one node in one network."""

    state_directory: Path
    """Key, certificates, address book. Survives restarts."""
    runtime_directory: Path
    """Sockets, records of child processes. May vanish at boot."""
    registry: tuple[str, ...] = ()
    """URLs of the registry, best first, that are asked before those in the network parameters."""
    control_port: PortNumber = 4226
    """TCP port of the control API."""
    tunnel_ports: str = "4227-4242"
    """UDP ports of incoming tunnels, one each: ``first-last``."""
    interface_prefix: InterfaceName = "re6st"
    """Tunnel interfaces are called by this and a number."""
    main_interface: InterfaceName = "lo"
    """Interface that holds the node address."""
    outgoing_tunnels: Annotated[int, Meta(ge=1, le=20)] = 10
    """How many tunnels this node dials."""
    tunnel_refresh: Annotated[float, Meta(ge=10, le=31_536_000)] = 3600.0
    """Every so many seconds the outgoing tunnel that carries least is replaced."""
    tunnel_mtu: Annotated[int, Meta(ge=1280, le=9000)] = 9000
    """Largest MTU of tunnels, octets: what is used is measured for each of them."""
    upnp: bool = True
    """Ask the home router for port mappings."""
    advertise: tuple[str, ...] = ()
    """Public addresses at which the ports above can be reached, when the owner forwards them by hand."""
    proxy: str = ""
    """HTTP proxy through which others are reached where nothing else is let out: ``http://HOST:PORT``."""
    proxy_credentials: Path | None = None
    """File of mode 0600 with user and password for it, in a line each."""
    uplinks: tuple[InterfaceName, ...] = ()
    """Interfaces over which dialled tunnels are spread; without any the host's routes decide."""
    report_state: bool = True
    """Tell the registry's operators how this node is: reachability, tunnels, clock, versions."""
    lan_interfaces: Annotated[tuple[InterfaceName, ...], Meta(max_length=8)] = ()
    """Interfaces of trusted LANs, in which other nodes are neighbours without a tunnel."""
    lan_key_file: Path | None = None
    """File of mode 0600 with the key that those neighbours share: 64 hexadecimal digits."""
    lan_discovery: bool = False
    """Announce this node in its LANs by multicast, and get to know nodes there that no route leads to."""
    log_level: Annotated[str, Meta(pattern=_LOG_LEVEL)] = "info"

    @property
    def tunnel_port_range(self) -> range:
        """The ports of incoming tunnels."""
        first, _, last = self.tunnel_ports.partition("-")
        return range(int(first), int(last or first) + 1)

    def interface(self, slot: int) -> str:
        """Return the name of the tunnel interface of ``slot``."""
        return f"{self.interface_prefix}{slot}"


@dataclass(frozen=True, slots=True)
class Locations:
    """Where a network instance keeps its files unless told otherwise."""

    config: Path
    state: Path
    runtime: Path


def default_locations(network: str) -> Locations:
    """Return the places of the network instance called ``network``.

    Raises :class:`ConfigError` when the name could not be part of a file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", network):
        raise ConfigError(f"{network!r} cannot name a network here: use letters, digits, '-' and '_'")
    return Locations(
        config=Path("/etc/re6st") / f"{network}.toml",
        state=Path("/var/lib/re6st") / network,
        runtime=Path("/run/re6st") / network,
    )


IMMOVABLE = ("state-directory", "runtime-directory", "interface-prefix", "main-interface")
"""Settings that hold what a running node has made: they change only while it does not run."""


def load(path: Path, defaults: Locations) -> NodeConfig:
    """Return the configuration in the file ``path``.

    Raises :class:`StorageError` when it cannot be read and :class:`ConfigError` with all mistakes.
    """
    return from_values(read_values(path, defaults), str(path))


def moved(running: NodeConfig, path: Path, defaults: Locations) -> list[str]:
    """Return which of the :data:`IMMOVABLE` settings differ between a running node and the file ``path``.

    The file may be for a newer program, so nothing else in it is looked at. Raises as :func:`load` does.
    """
    values = read_values(path, defaults)
    fields = {field.encode_name: field for field in msgspec.structs.fields(NodeConfig)}
    return [
        key
        for key in IMMOVABLE
        if str(values.get(key, fields[key].default)) != str(getattr(running, fields[key].name))
    ]


def read_values(path: Path, defaults: Locations) -> dict[str, Any]:
    """Return what the file ``path`` says, with places that are not named there taken from ``defaults``.

    Raises :class:`ConfigError` when it does not exist, may not be read or is no TOML, and
    :class:`StorageError` when the disk does not give it.
    """
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist: join a network first (re6st-node join LINK)") from error
    except UnicodeDecodeError as error:
        raise ConfigError(file_failure(error, path)) from error
    except (PermissionError, IsADirectoryError) as error:
        raise ConfigError(f"cannot read the configuration: {file_failure(error, path)}") from error
    except OSError as error:
        raise StorageError(f"cannot read the configuration: {file_failure(error, path)}") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    values.setdefault("state-directory", str(defaults.state))
    values.setdefault("runtime-directory", str(defaults.runtime))
    return values


def from_values(values: dict[str, Any], origin: str, options: Collection[str] = ()) -> NodeConfig:
    """Return the configuration made of ``values`` (keys as in the file).

    Raises :class:`ConfigError` that lists every mistake, each line beginning with ``origin``; or with ``--``
    if the key is among ``options``, those that were given on the command line.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(NodeConfig)}
    mistakes: list[str] = []
    accepted: dict[str, Any] = {}
    for key, value in values.items():
        field = fields.get(key)
        if field is None:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            mistakes.append(f"{key}: no such setting{hint}")
            continue
        try:
            accepted[field.name] = msgspec.convert(value, field.type, strict=True, dec_hook=_decode_path)
        except msgspec.ValidationError as error:
            shown = msgspec.json.encode(value).decode()
            mistakes.append(f"{key} = {shown}: {_in_words(str(error))}")
    mistakes += _check(accepted)
    if mistakes:
        raise ConfigError("\n".join(_placed(mistake, origin, options) for mistake in mistakes))
    return NodeConfig(**accepted)


def _placed(mistake: str, origin: str, options: Collection[str]) -> str:
    """Return ``mistake``, which begins with its key, with where it was made."""
    key = re.split("[ :]", mistake, maxsplit=1)[0]
    return f"--{mistake}" if key in options else f"{origin}: {mistake}"


_KINDS = {
    "array": "a list in brackets",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "str": "a text in quotes",
}

_PATTERNS = {
    repr(_INTERFACE_NAME): "the name of an interface: 1 to 15 letters, digits, '_', '.' and '-'",
    repr(_LOG_LEVEL): '"error", "warning", "info" or "debug"',
}


def _in_words(complaint: str) -> str:
    """Return a complaint of msgspec in the words of who writes TOML."""
    match = re.match(r"Expected `(\w+)`(?:, got `\w+`)?(.*?)(?: - at `\$\[(\d+)\]`)?$", complaint, re.DOTALL)
    if match is None or match[1] not in _KINDS:
        return complaint
    kind, limit, index = match.groups()
    entry = f"entry {int(index) + 1} " if index is not None else ""
    wanted = _PATTERNS.get(limit.removeprefix(" matching regex "), f"{_KINDS[kind]}{limit}")
    return f"{entry}must be {wanted}"


def _decode_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError("must be a text in quotes")


def _check(accepted: dict[str, Any]) -> list[str]:
    """Return the mistakes that the type of a single value does not show."""
    mistakes = [
        f"{name.replace('_', '-')}: must be an absolute path"
        for name in ("state_directory", "runtime_directory", "proxy_credentials", "lan_key_file")
        if name in accepted and not accepted[name].is_absolute()
    ]
    ports = _port_range(accepted.get("tunnel_ports", "4227-4242"))
    if ports is None:
        mistakes.append("tunnel-ports: must be FIRST-LAST with 1 <= FIRST <= LAST <= 65535, at most 24 ports")
    elif accepted.get("control_port", 4226) in ports:
        mistakes.append("control-port: lies within tunnel-ports")
    prefix = accepted.get("interface_prefix", "re6st")
    if len(f"{prefix}{SLOTS - 1}") > INTERFACE_NAME_LENGTH:
        mistakes.append(f"interface-prefix: {prefix!r} is too long, 13 characters are possible")
    lans = accepted.get("lan_interfaces", ())
    pool = {f"{prefix}{slot}" for slot in range(SLOTS)}
    mistakes += [
        f"lan-interfaces: {name} is no interface of a LAN" for name in lans if name == "lo" or name in pool
    ]
    if len(set(lans)) < len(lans):
        mistakes.append("lan-interfaces: an interface is named twice")
    for address in accepted.get("advertise", ()):
        try:
            ipaddress.ip_address(address)
        except ValueError:
            mistakes.append(f"advertise: {address!r} is not an IP address")
    mistakes += _check_uplinks(accepted.get("uplinks", ()), prefix, accepted.get("main_interface", "lo"))
    if accepted.get("proxy"):
        try:
            parse_url(accepted["proxy"])
        except ConfigError as error:
            mistakes.append(f"proxy: {error}")
    mistakes += [
        f"registry: {url!r} does not begin with https://"
        for url in accepted.get("registry", ())
        if not url.startswith("https://")
    ]
    return mistakes


def _check_uplinks(uplinks: tuple[str, ...], prefix: str, main_interface: str) -> list[str]:
    mistakes = []
    if len(uplinks) > UPLINKS:
        mistakes.append(f"uplinks: {UPLINKS} are possible, not {len(uplinks)}")
    for name in dict.fromkeys(uplinks):
        if uplinks.count(name) > 1:
            mistakes.append(f"uplinks: {name!r} is there twice")
        if name in ("lo", main_interface) or re.fullmatch(re.escape(prefix) + "[0-9]{1,3}", name):
            mistakes.append(f"uplinks: {name!r} does not lead out of this host; name interfaces that do")
    return mistakes


def _port_range(text: str) -> range | None:
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2] or match[1])
    ports = range(first, last + 1)
    return ports if 1 <= first <= last <= 65535 and len(ports) <= 24 else None


def render(values: dict[str, Any]) -> str:
    """Return ``values`` (keys as in the file: texts, numbers, booleans, lists of texts) as TOML."""
    lines = []
    for key, value in values.items():
        # JSON strings, numbers, booleans and arrays of strings are valid TOML.
        lines.append(f"{key} = {msgspec.json.encode(value).decode()}")
    return "\n".join(lines) + "\n"
