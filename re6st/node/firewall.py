"""The nftables table of a node: what may be forwarded between tunnels, own prefix and the rest of the host.

The host is a guest house. These packets are ours to judge, all others pass as if we were not there:

- *forwarded packets with a tunnel on either side*. From tunnel to tunnel they pass when source and
  destination belong to the network. From a tunnel into the host only to its node prefix (containers), and
  from the host into a tunnel only from its node prefix. So no member reaches the owner's LAN or the Internet
  through this host, and no machine of the LAN reaches the network.
- *forwarded packets with a trusted LAN on either side* (``lan-interfaces``), where nodes are neighbours:
  those with source and destination in the network pass as between tunnels. Others from or to the network
  do not, and all else there is the owner's.
- *packets from a tunnel to the host itself*, which has more addresses than that of the overlay: only to those
  of the overlay and of the link.
- *IPv4 in a tunnel*: there is none in the overlay, so it is dropped in both directions.
- *connections over TCP to the ports of tunnels*: both ends are told to use small segments (the option MSS,
  RFC 9293, 3.7.1), as if the other one had asked for that. TCP stalls on paths that swallow larger packets
  without a word, and OpenVPN, which opens the connections, has no option for it.
- *packets that pretend*: with a source in the network they come from a tunnel or from this host; with a
  source in the node prefix they come from where the route to that source leads, a container. Everywhere
  else they are dropped, except that a trusted LAN may send what comes from other nodes.

A verdict ``accept`` ends only our own table: other tables still have their say (nft(8)).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network

from re6st.errors import NetlinkError
from re6st.segments import LARGEST_SEGMENT

TIMEOUT = 10.0
"""Seconds that nft may take."""

_RULES = string.Template("""\
table inet $table {
    set tunnels {
        type ifname
        $tunnels
    }
    set lans {
        type ifname
        $lans
    }
    set overlay {
        type ifname
        $overlay
    }
    chain prerouting {
        type filter hook prerouting priority raw; policy accept;
        iifname @tunnels meta nfproto ipv4 drop
        iifname @tunnels accept
        iifname "lo" accept
        ip6 saddr $own fib saddr . iif oif exists accept
        ip6 saddr $own drop
        iifname @lans accept
        ip6 saddr $network drop
    }
    chain input {
        type filter hook input priority filter; policy accept;
        $called
        iifname != @tunnels accept
        ip6 saddr != { $network, fe80::/10 } drop
        ip6 daddr != { $network, fe80::/10, ff02::/16 } drop
    }
    chain forward {
        type filter hook forward priority filter; policy accept;
        oifname @tunnels meta nfproto ipv4 drop
        iifname @overlay oifname @overlay ip6 saddr $network ip6 daddr $network accept
        iifname @overlay oifname != @overlay ip6 saddr $network ip6 daddr $own accept
        iifname != @overlay oifname @overlay ip6 saddr $own ip6 daddr $network accept
        iifname @lans ip6 saddr $network reject with icmpv6 admin-prohibited
        oifname @lans ip6 daddr $network reject with icmpv6 admin-prohibited
        iifname @tunnels reject with icmpv6 admin-prohibited
        oifname @tunnels reject with icmpv6 admin-prohibited
    }
    chain output {
        type filter hook output priority filter; policy accept;
        oifname @tunnels meta nfproto ipv4 drop
        $answered
    }
}
""")


@dataclass(frozen=True, slots=True)
class FirewallConfiguration:
    """What the rules depend on."""

    name: str
    """Of the network instance: letters, digits, ``-`` and ``_``."""
    interfaces: tuple[str, ...]
    """Names of all tunnel interfaces there can be. A wildcard would also fit those of another network."""
    network: IPv6Network
    prefix: IPv6Network
    """The node prefix."""
    lan_interfaces: tuple[str, ...] = ()
    """Interfaces of trusted LANs."""
    further: tuple[IPv6Network, ...] = ()
    """Further prefixes of the node."""
    tunnel_ports: range = range(0)
    """At which tunnels come in, one after the other."""

    @property
    def table(self) -> str:
        """Name of the table, of family ``inet``."""
        name = re.sub(r"[^A-Za-z0-9_]", "_", self.name)
        if name != self.name:
            # Names that differ in the replaced characters only must not share a table.
            name += "_" + hashlib.sha256(self.name.encode()).hexdigest()[:6]
        return f"re6st_{name}"


def render(configuration: FirewallConfiguration) -> str:
    """Return the input of ``nft -f`` that replaces our table, whatever it holds, in one transaction."""
    own = ", ".join(str(prefix) for prefix in (configuration.prefix, *configuration.further))
    rules = _RULES.substitute(
        table=configuration.table,
        tunnels=_elements(configuration.interfaces),
        lans=_elements(configuration.lan_interfaces),
        overlay=_elements((*configuration.interfaces, *configuration.lan_interfaces)),
        called=_small_segments(configuration.tunnel_ports, "iifname", "dport"),
        answered=_small_segments(configuration.tunnel_ports, "oifname", "sport"),
        network=configuration.network,
        own=f"{{ {own} }}" if configuration.further else own,
    )
    return render_removal(configuration) + rules


def _elements(names: Sequence[str]) -> str:
    """Return the line that gives a set its elements, nothing for none."""
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"elements = {{ {quoted} }}" if names else ""


def _small_segments(ports: range, interface: str, end: str) -> str:
    """Return the rule that lowers the MSS of connections to ``ports``, nothing if there are none."""
    if not ports:
        return ""
    syn = f'{interface} != "lo" tcp {end} {ports[0]}-{ports[-1]} tcp flags & (syn | rst) == syn'
    return f"{syn} tcp option maxseg size set {LARGEST_SEGMENT}"


def render_removal(configuration: FirewallConfiguration) -> str:
    """Return the input of ``nft -f`` that removes our table, whether it exists or not."""
    # Declaring it first makes the deletion succeed in any case, also with versions without "destroy".
    return f"table inet {configuration.table}\ndelete table inet {configuration.table}\n"


class Firewall:
    """Puts the rules into the kernel, through the ``nft`` program."""

    def __init__(self, configuration: FirewallConfiguration) -> None:
        self._configuration = configuration

    async def apply(self) -> None:
        """Install the rules, or replace those of an earlier run. Raises :class:`NetlinkError`."""
        await _run_nft(render(self._configuration))

    async def remove(self) -> None:
        """Remove the rules if they are there. Raises :class:`NetlinkError`."""
        await _run_nft(render_removal(self._configuration))


async def _run_nft(text: str) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            "nft",
            "-f",
            "-",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise NetlinkError(f"cannot run nft: {error.strerror}; install the package nftables") from error
    try:
        output, _ = await asyncio.wait_for(process.communicate(text.encode()), TIMEOUT)
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise NetlinkError(f"nft does not end within {TIMEOUT:.0f} s") from error
    if process.returncode != 0:
        reason = output.decode(errors="replace").strip()[:1000]
        raise NetlinkError(f"nft refuses the firewall rules: {reason}")
