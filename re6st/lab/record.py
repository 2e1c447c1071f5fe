"""What a lab leaves on disk, so that other invocations find it: ``/run/re6st-lab/<lab>/``.

``record.json`` is written before anything else is made and names every namespace that the lab is going
to make. So a lab can be taken down from whatever half-built state, without touching what is not its own.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec
from msgspec import Struct

from re6st.errors import ConfigError, StorageError
from re6st.files import write_atomically
from re6st.lab.namespace import Namespace
from re6st.lab.topology import Topology, convert_address
from re6st.lab.wiring import wire

ROOT = Path("/run/re6st-lab")
"""Directory of all labs of this machine."""

DEFAULT_NAME = "re6st"


class Record(Struct, frozen=True, kw_only=True):
    """Everything that must be known of a lab."""

    name: str
    topology: Topology
    namespaces: tuple[str, ...]

    @property
    def directory(self) -> Path:
        """Where the lab keeps its files."""
        return lab_directory(self.name)

    def namespace(self, machine: str) -> Namespace:
        """Return the namespace of ``machine``: ``<lab>-<machine>``."""
        return Namespace(f"{self.name}-{machine}")

    @property
    def all_namespaces(self) -> list[Namespace]:
        """Every namespace of the lab."""
        return [Namespace(name) for name in self.namespaces]


def lab_directory(name: str) -> Path:
    """Return the directory of the lab called ``name``. Raises :class:`ConfigError` for an unfit name."""
    # No '-' here: it separates lab and machine in the names of namespaces.
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,23}", name):
        raise ConfigError(f"{name!r} cannot name a lab: use at most 24 small letters, digits and '_'")
    return ROOT / name


def new_record(name: str, topology: Topology) -> Record:
    """Return the record of a lab that is not built yet."""
    machines = wire(topology).machines
    return Record(name=name, topology=topology, namespaces=tuple(f"{name}-{one}" for one in machines))


def claim(record: Record) -> None:
    """Take the name of the lab and write its record.

    Raises :class:`ConfigError` when a lab or a namespace of that name is there already.
    """
    directory = record.directory
    if taken := [namespace.name for namespace in record.all_namespaces if namespace.exists]:
        if directory.exists():
            raise _already_up(record.name)
        raise ConfigError(
            f"the network namespace {taken[0]} exists, but belongs to no lab: choose another --name,"
            f" or remove it (ip netns del {taken[0]})"
        )
    try:
        ROOT.mkdir(mode=0o755, exist_ok=True)
        directory.mkdir(mode=0o700)
    except FileExistsError as error:
        raise _already_up(record.name) from error
    except OSError as error:
        raise StorageError(f"cannot make the directory of the lab: {error}") from error
    save(record)


def save(record: Record) -> None:
    """Write the record of a lab that is up, or about to be."""
    write_atomically(record.directory / "record.json", msgspec.json.encode(record, enc_hook=str), 0o600)


def load(name: str) -> Record:
    """Return the record of the lab called ``name``. Raises :class:`ConfigError` when it is not up."""
    path = lab_directory(name) / "record.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record, dec_hook=convert_address)
    except FileNotFoundError as error:
        raise ConfigError(f"no lab {name!r} is up{_others(name)}; start one with 're6st-lab up'") from error
    except (OSError, msgspec.DecodeError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from error


def forget(name: str) -> None:
    """Remove the directory of the lab."""
    try:
        shutil.rmtree(lab_directory(name))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"cannot remove the files of the lab: {error}") from error


def existing() -> list[str]:
    """Return the names of all labs of this machine."""
    try:
        return sorted(path.name for path in ROOT.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []


def _others(name: str) -> str:
    others = [other for other in existing() if other != name]
    return f" (but: {', '.join(others)}; choose with --name)" if others else ""


def _already_up(name: str) -> ConfigError:
    return ConfigError(
        f"the lab {name!r} is up already: take it down with 're6st-lab down --name {name}',"
        " or use another --name"
    )
