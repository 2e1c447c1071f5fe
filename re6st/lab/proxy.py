"""The HTTP proxy of a router that lets nothing else out: tinyproxy, its configuration and its start."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

from re6st.lab.namespace import Namespace
from re6st.lab.process import Process, start

PORT = 3128

CREDENTIALS = "clerk\ncorrect-horse\n"
"""User and password, as nodes read them from a file."""


def address(lan: IPv4Network) -> str:
    """Return the URL of the proxy for those in ``lan``."""
    return f"http://{lan[1]}:{PORT}"


def configuration(lan: IPv4Network) -> str:
    """Return the configuration file of tinyproxy (tinyproxy.conf(5)) for those in ``lan``."""
    user, password = CREDENTIALS.split()
    return "\n".join(
        (
            f"Port {PORT}",
            f"Listen {lan[1]}",
            f"Allow {lan}",
            f"BasicAuth {user} {password}",
            "ConnectPort 443",
            "Timeout 600",
            "MaxClients 100",
            "LogLevel Connect",
            "DisableViaHeader Yes",
            "",
        )
    )


def start_proxy(namespace: Namespace, lan: IPv4Network, directory: Path) -> Process:
    """Start tinyproxy in ``namespace`` with its files in ``directory``. Raises :class:`ChildError`."""
    path = directory / "tinyproxy.conf"
    path.write_text(configuration(lan))
    return start(namespace, ["tinyproxy", "-d", "-c", str(path)], log=directory / "tinyproxy.log")
