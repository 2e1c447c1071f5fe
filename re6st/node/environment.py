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

IPV6 = Path("/proc/sys/net/ipv6/conf")
"""Settings of the kernel, as of each interface."""


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
    if os.geteuid() == 0 and (problem := ipv6_problem()) is not None:
        found.append(problem)
    return found + program_problems(programs)


def ipv6_problem(settings: Path = IPV6) -> str | None:
    """Return what keeps IPv6 from being used and forwarded here, with what to do; None if nothing."""
    if not settings.exists():
        return "this kernel has no IPv6: remove ipv6.disable=1 from its command line"
    for name in ("lo", "default"):
        if _setting(settings / name / "disable_ipv6") == "1":
            return (
                f"IPv6 is switched off by a sysctl: remove it from /etc/sysctl.d, and run"
                f" sysctl -w net.ipv6.conf.{name}.disable_ipv6=0"
            )
    forwarding = settings / "all" / "forwarding"
    if _setting(forwarding) == "0" and not os.access(forwarding, os.W_OK):
        return (
            "IPv6 forwarding is off and the kernel's settings cannot be written: have who runs this container"
            " set net.ipv6.conf.all.forwarding=1, or make /proc/sys/net writable"
        )
    return None


def _setting(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def program_problems(programs: Sequence[Program] = PROGRAMS) -> list[str]:
    """Return which programs are missing or too old, each with what to do."""
    return [problem for program in programs if (problem := _program_problem(program)) is not None]


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
        return f"{program.name} cannot be run: {getattr(error, 'strerror', None) or error}"
    return version_problem(program, result.stdout + result.stderr)


def check() -> None:
    """Raise :class:`ConfigError` with everything that keeps the daemon from running here."""
    found = problems()
    if found:
        raise ConfigError("\n".join(found))
