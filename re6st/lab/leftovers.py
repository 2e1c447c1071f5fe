"""Leftovers: what a lab must not leave behind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from re6st.lab import record
from re6st.lab.namespace import DIRECTORY, Namespace, processes


def leftovers(name: str) -> list[str]:
    """Return, for people, everything that is still there of the lab called ``name``."""
    found = []
    namespaces = [Namespace(path.name) for path in _listed(DIRECTORY) if path.name.startswith(f"{name}-")]
    found += [f"process {pid} in {where}" for pid, where in processes(namespaces).items()]
    found += [f"network namespace {namespace.name}" for namespace in namespaces]
    directory = record.lab_directory(name)
    found += [f"file {path}" for path in (directory, *directory.rglob("*")) if path.exists()]
    found += [f"process {pid} ({command})" for pid, command in _mentioning(str(directory))]
    return found


def assert_clean(name: str) -> None:
    """Raise :class:`AssertionError` that lists what is left of the lab called ``name``."""
    found = leftovers(name)
    if found:
        raise AssertionError(f"the lab {name!r} left behind:\n  " + "\n  ".join(found))


def host_interfaces() -> set[str]:
    """Return the names of the interfaces outside of all namespaces; a lab must not change them."""
    return {path.name for path in Path("/sys/class/net").iterdir()}


def _mentioning(directory: str) -> Iterable[tuple[int, str]]:
    """Yield the processes whose command line names a file of the lab, wherever they run."""
    for entry in _listed(Path("/proc")):
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.startswith(f"{directory}/".encode()) for word in words):
            yield int(entry.name), b" ".join(words).decode(errors="replace").strip()


def _listed(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []
