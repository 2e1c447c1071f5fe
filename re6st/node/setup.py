"""The configuration that a join writes: what was asked for, and ports that no other network here uses."""

from __future__ import annotations

import hashlib
import re
import socket
import tomllib
from pathlib import Path
from typing import Any

from re6st.config import Locations, NodeConfig, from_values, render
from re6st.errors import ConfigError, StorageError, file_failure
from re6st.files import write_atomically
from re6st.messages import NAME_PATTERN
from re6st.registry.client import JoinLink

_DEFAULT_CONTROL_PORT = 4226
_TUNNEL_PORTS = 16
_BLOCK = 1 + _TUNNEL_PORTS

_HEADER = "# Written by re6st-node join. See re6st-node(8) and conf/node.toml for all settings.\n\n"


def host_name() -> str:
    """Return this host's name if it could name a node, else the empty text."""
    name = socket.gethostname().partition(".")[0]
    return name if re.fullmatch(NAME_PATTERN, name) and name != "localhost" and len(name) <= 63 else ""


def plan(
    path: Path, network: str, locations: Locations, link: JoinLink, options: dict[str, Any]
) -> dict[str, Any]:
    """Return the values of the configuration file ``path`` after a join with ``link``.

    What stands there already stays; ``options`` (by the names of the command line) go before it. A
    network of its own name gets interfaces and ports apart from those of others in the same directory.
    """
    values = _existing(path)
    values.setdefault("state-directory", str(locations.state))
    values.setdefault("runtime-directory", str(locations.runtime))
    values["registry"] = [str(url) for url in link.urls]
    for option, value in options.items():
        if value is not None:
            values[option.replace("_", "-")] = str(value) if isinstance(value, Path) else value
    if network != "re6st":
        values.setdefault("interface-prefix", _interface_prefix(network))
    if "control-port" not in values and "tunnel-ports" not in values:
        control = _free_block(path)
        if control != _DEFAULT_CONTROL_PORT:
            values["control-port"] = control
            values["tunnel-ports"] = f"{control + 1}-{control + _TUNNEL_PORTS}"
    return values


def _interface_prefix(network: str) -> str:
    """Return what tunnel interfaces of ``network`` are called by, different for similar names."""
    letters = re.sub("[^A-Za-z0-9]", "", network)[:7]
    return f"{letters}{hashlib.sha256(network.encode()).hexdigest()[:4]}-"


def _existing(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot read the present configuration {file_failure(error, path)}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}; correct it, or move it away") from error


def _free_block(path: Path) -> int:
    """Return the first control port from the default on whose block no other configuration here uses."""
    used = set()
    for other in path.parent.glob("*.toml"):
        if other != path:
            try:
                port = tomllib.loads(other.read_text()).get("control-port", _DEFAULT_CONTROL_PORT)
            except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
                continue
            used.add(port)
    block = _DEFAULT_CONTROL_PORT
    while any(abs(block - port) < _BLOCK for port in used if isinstance(port, int)):
        block += _BLOCK
    return block


def check(values: dict[str, Any], path: Path, options: dict[str, Any]) -> NodeConfig:
    """Return the configuration made of ``values``, some of them from ``options`` as in :func:`plan`.

    Raises :class:`ConfigError` with all mistakes.
    """
    given = {option.replace("_", "-") for option, value in options.items() if value is not None}
    return from_values(values, str(path), given)


def write(path: Path, values: dict[str, Any]) -> None:
    """Write ``values`` to the configuration file ``path``. Raises :class:`StorageError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make the directory of the configuration: {file_failure(error, path.parent)}"
        ) from error
    text = render(values)
    if path.exists() and tomllib.loads(path.read_text()) == values:
        return
    write_atomically(path, (_HEADER + text).encode(), 0o644)
