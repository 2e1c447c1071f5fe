"""Checks before the daemon starts that this machine can run it, so that failures come early and clear."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from re6st.errors import ConfigError

TUN_DEVICE = Path("/dev/net/tun")


@dataclass(frozen=True, slots=True)
class Program:
    """A program that the daemon runs."""

    name: str
    package: str
    """Debian package that contains it."""
    version_argument: str
    minimum: tuple[int, ...]


PROGRAMS = (
    Program("openvpn", "openvpn", "--version", (2, 6)),
    Program("babeld", "babeld", "-V", (1, 12)),
    Program("nft", "nftables", "--version", (1, 0)),
)


def parse_version(output: str, name: str) -> tuple[int, ...] | None:
    """Return the version in what ``name`` prints of itself, None if it prints none."""
    match = re.search(rf"{re.escape(name)}\S*?[ -]v?(\d+(?:\.\d+)+)", output, re.IGNORECASE) or re.search(
        r"v(\d+(?:\.\d+)+)", output
    )
    return tuple(int(part) for part in match[1].split(".")) if match else None


def version_problem(program: Program, output: str) -> str | None:
    """Return what is wrong with a program that prints ``output`` as its version, None if nothing."""
    version = parse_version(output, program.name)
    needed = ".".join(map(str, program.minimum))
    if version is None:
        return f"{program.name}: cannot tell its version; {needed} or newer is needed"
    if version < program.minimum:
        found = ".".join(map(str, version))
        remedy = f"upgrade the package {program.package}"
        return f"{program.name} {found} is too old, {needed} or newer is needed: {remedy}"
    return None


def problems(programs: Sequence[Program] = PROGRAMS) -> list[str]:
    """Return everything that keeps the daemon from running here, each with what to do."""
    found = []
    if os.geteuid() != 0:
        found.append("re6st-node changes interfaces and routes and must run as root (try sudo)")
    if not TUN_DEVICE.exists():
        found.append(
            f"{TUN_DEVICE} is missing: load the kernel module (modprobe tun) or allow it in the container"
        )
    elif not os.access(TUN_DEVICE, os.R_OK | os.W_OK):
        found.append(f"{TUN_DEVICE} cannot be opened: this user or container may not use it")
    for program in programs:
        problem = _program_problem(program)
        if problem is not None:
            found.append(problem)
    return found


def _program_problem(program: Program) -> str | None:
    path = shutil.which(program.name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        return f"{program.name} is not installed: apt-get install {program.package}"
    try:
        result = subprocess.run(
            [path, program.version_argument],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program.name} cannot be run: {error}"
    return version_problem(program, result.stdout + result.stderr)


def check() -> None:
    """Raise :class:`ConfigError` with everything that keeps the daemon from running here."""
    found = problems()
    if found:
        raise ConfigError("\n".join(found))
