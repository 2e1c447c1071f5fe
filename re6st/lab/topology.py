"""Topologies: which networks, routers and hosts a lab has, read from TOML.

A topology has three kinds of tables, and everything in them has a name of its own:

``[networks.NAME]``
    A routed network of the internet: ``prefix`` (IPv4), ``ipv6`` or both (globally routable, because real
    software treats private and documentation addresses differently; they never leave the namespaces),
    ``mtu`` and ``black-hole``.
``[routers.NAME]``
    A home router or a carrier's NAT box: ``network`` outside, ``kind`` and the prefix of its ``lan``. Its
    name is also the name of the LAN, so a router behind a router (CGNAT) only names the other one. Routers
    know IPv4 only.
``[hosts.NAME]``
    A machine: the ``network`` (or router) that it is plugged into, its ``roles``, if wanted its ``address``
    and ``ipv6`` address. It has an address of each kind that its network has. A host with a
    ``second-network`` is plugged into that as well, and its default route there has a higher metric.

``[mesh]`` holds what the daemons need to know. All mistakes of a file are reported at once.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from re6st.errors import ConfigError
from re6st.lab.contradictions import contradictions, hint
from re6st.lab.specs import (
    INTERNET,
    HostSpec,
    MeshSpec,
    NetworkSpec,
    Role,
    RouterKind,
    RouterSpec,
    Settings,
    Topology,
    convert_address,
)

__all__ = [
    "INTERNET",
    "HostSpec",
    "MeshSpec",
    "NetworkSpec",
    "Role",
    "RouterKind",
    "RouterSpec",
    "Settings",
    "Topology",
    "check",
    "convert_address",
    "find",
    "from_values",
    "load",
]

Spec = TypeVar("Spec", bound=Struct)


def find(text: str) -> Path:
    """Return the file that ``text`` means: a path, or the name of a topology that comes with the lab.

    Raises :class:`ConfigError` when there is none.
    """
    shipped = Path(__file__).parent / "topologies"
    for candidate in (Path(text), shipped / f"{text}.toml"):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(path.stem for path in shipped.glob("*.toml")))
    raise ConfigError(f"there is no topology {text!r}: give the path of a TOML file, or one of: {known}")


def load(path: Path) -> Topology:
    """Return the topology in the file ``path``. Raises :class:`ConfigError` with all mistakes."""
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the topology: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    return from_values(values, str(path))


def from_values(values: Mapping[str, Any], origin: str) -> Topology:
    """Return the topology made of ``values``.

    Raises :class:`ConfigError` that lists every mistake, each line beginning with ``origin``.
    """
    mistakes: list[str] = []
    sections = ("mesh", "networks", "routers", "hosts")
    mistakes += [f"{key}: no such table{hint(key, sections)}" for key in values if key not in sections]
    topology = Topology(
        networks=_entries(values.get("networks", {}), "networks", NetworkSpec, mistakes),
        routers=_entries(values.get("routers", {}), "routers", RouterSpec, mistakes),
        hosts=_entries(values.get("hosts", {}), "hosts", HostSpec, mistakes),
        mesh=_entry(values.get("mesh", {}), "mesh", MeshSpec, mistakes) or MeshSpec(),
    )
    given = [(f"{section}.{name}", name) for section in sections[1:] for name in _names(values.get(section))]
    mistakes += contradictions(topology, given)
    if mistakes:
        raise ConfigError("\n".join(f"{origin}: {mistake}" for mistake in mistakes))
    return topology


def check(topology: Topology) -> None:
    """Raise :class:`ConfigError` that lists all mistakes of a topology that a program has made."""
    sections: dict[str, Mapping[str, Struct]] = {
        "networks": topology.networks,
        "routers": topology.routers,
        "hosts": topology.hosts,
    }
    given = [(f"{section}.{name}", name) for section, specs in sections.items() for name in specs]
    if mistakes := list(contradictions(topology, given)):
        raise ConfigError("\n".join(mistakes))


# -- decoding, one value at a time so that every mistake is found ---------------------------------------


def _entries(table: object, section: str, kind: type[Spec], mistakes: list[str]) -> dict[str, Spec]:
    if not isinstance(table, dict):
        mistakes.append(f"{section}: must be a table of tables, [{section}.NAME]")
        return {}
    decoded = {name: _entry(entry, f"{section}.{name}", kind, mistakes) for name, entry in table.items()}
    return {name: spec for name, spec in decoded.items() if spec is not None}


def _entry(table: object, origin: str, kind: type[Spec], mistakes: list[str]) -> Spec | None:
    """Return the struct of type ``kind`` in ``table``; on mistakes add them to the list and return None."""
    if not isinstance(table, dict):
        mistakes.append(f"{origin}: must be a table, [{origin}]")
        return None
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    found = len(mistakes)
    accepted: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            mistakes.append(f"{origin}.{key}: no such key{hint(key, fields)}")
            continue
        field = fields[key]
        try:
            accepted[field.name] = msgspec.convert(value, field.type, dec_hook=convert_address)
        except msgspec.ValidationError as error:
            mistakes.append(f"{origin}.{key} = {value!r}: {error}")
    mistakes += [
        f"{origin}.{key}: is missing" for key, field in fields.items() if field.required and key not in table
    ]
    return kind(**accepted) if len(mistakes) == found else None


def _names(table: object) -> list[str]:
    return list(table) if isinstance(table, dict) else []
