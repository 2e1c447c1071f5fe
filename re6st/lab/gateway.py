"""The gateway of a router that maps ports: miniupnpd, its configuration and its start."""

from __future__ import annotations

import uuid
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from re6st.lab import nat
from re6st.lab.namespace import Namespace
from re6st.lab.process import Process, start
from re6st.lab.topology import RouterKind
from re6st.lab.wiring import ROUTER_INSIDE, ROUTER_OUTSIDE


def configuration(
    router: str, lan: IPv4Network, claims: IPv4Address | None = None, kind: RouterKind = RouterKind.UPNP
) -> str:
    """Return the configuration file of miniupnpd for ``router``, whose LAN is ``lan``.

    It says that its outside address is the one that it ``claims``, or the truth.
    """
    return "\n".join(
        (
            f"ext_ifname={ROUTER_OUTSIDE}",
            *(() if claims is None else (f"ext_ip={claims}",)),
            f"listening_ip={ROUTER_INSIDE}",
            f"enable_upnp={'no' if kind is RouterKind.PCP else 'yes'}",
            "enable_natpmp=yes",  # and PCP
            "secure_mode=yes",
            "system_uptime=yes",
            f"friendly_name={router}",
            # Each router needs its own: clients tell gateways apart by it.
            f"uuid={uuid.uuid5(uuid.NAMESPACE_DNS, f'{router}.lab')}",
            f"upnp_table_name={nat.TABLE}",
            f"upnp_nat_table_name={nat.TABLE}",
            f"upnp_forward_chain={nat.FORWARD_CHAIN}",
            f"upnp_nat_chain={nat.PREROUTING_CHAIN}",
            f"upnp_nat_postrouting_chain={nat.POSTROUTING_CHAIN}",
            f"allow 1024-65535 {lan} 1024-65535",
            "deny 0-65535 0.0.0.0/0 0-65535",
            "",
        )
    )


def start_gateway(
    namespace: Namespace,
    router: str,
    lan: IPv4Network,
    directory: Path,
    claims: IPv4Address | None = None,
    kind: RouterKind = RouterKind.UPNP,
) -> Process:
    """Start miniupnpd in ``namespace`` with its files in ``directory``. Raises :class:`ChildError`."""
    path = directory / "miniupnpd.conf"
    path.write_text(configuration(router, lan, claims, kind))
    command = ["miniupnpd", "-d", "-f", str(path), "-P", str(directory / "miniupnpd.pid")]
    return start(namespace, command, log=directory / "miniupnpd.log")
