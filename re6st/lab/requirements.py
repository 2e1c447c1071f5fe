"""What a lab needs of the machine: root, and programs, named with the Debian package that has them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from re6st.errors import ConfigError
from re6st.lab.topology import Topology

PACKAGES = {
    "ip": "iproute2",
    "nft": "nftables",
    "miniupnpd": "miniupnpd-nftables",
    "tinyproxy": "tinyproxy-bin",
    "openvpn": "openvpn",
    "babeld": "babeld",
}
"""Debian package by program."""


def programs(topology: Topology) -> list[str]:
    """Return the programs that a lab of ``topology`` runs."""
    needed = ["ip", "nft"]
    if any(router.kind.maps_ports for router in topology.routers.values()):
        needed.append("miniupnpd")
    if any(router.proxy for router in topology.routers.values()):
        needed.append("tinyproxy")
    if topology.nodes:
        needed += ["openvpn", "babeld"]
    return needed


def extend_path() -> None:
    """Let programs of the administrator be found also where PATH is that of an ordinary user."""
    known = os.environ.get("PATH", os.defpath).split(":")
    os.environ["PATH"] = ":".join(
        [*known, *(place for place in ("/usr/sbin", "/sbin") if place not in known)]
    )


def check_root() -> None:
    """Raise :class:`ConfigError` unless we are root."""
    if os.geteuid() != 0:
        raise ConfigError("the lab makes network namespaces, for which it must be root: try again with sudo")


def check(topology: Topology) -> None:
    """Raise :class:`ConfigError` that lists all that is missing."""
    check_root()
    missing = [program for program in programs(topology) if shutil.which(program) is None]
    problems = []
    if missing:
        packages = " ".join(PACKAGES[program] for program in missing)
        problems.append(f"missing programs: {', '.join(missing)}; on Debian: apt-get install {packages}")
    if topology.nodes and not Path("/dev/net/tun").exists():
        problems.append("there is no /dev/net/tun: load the kernel module with 'modprobe tun'")
    if problems:
        raise ConfigError("\n".join(problems))
