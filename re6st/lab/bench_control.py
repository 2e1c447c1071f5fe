"""Benchmark ``control``: what an idle mesh sends, split by what it is for.

All nodes are counted, each with ten tunnels, at their uplinks (IP octets, both directions) and at their
tunnel interfaces, by nftables counters. A packet inside a tunnel costs :data:`TUNNEL_OVERHEAD` octets more
on the underlay; what the tunnels carry beyond that is OpenVPN's own: keepalives and renegotiations.
Every packet is counted at both of its ends, as each owner pays for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from re6st.lab import nftables, worlds
from re6st.lab.bench_node import SUBJECT, TUNNELS
from re6st.lab.lab import Lab
from re6st.lab.measurement import Options, Result, Series, converged
from re6st.lab.wiring import HOST_INTERFACE

TUNNEL_OVERHEAD = 20 + 8 + 4 + 4 + 16
"""IPv4 and UDP headers; opcode and peer id, packet id, authentication tag of OpenVPN (DATA_V2, AEAD)."""

DAY = 86400

SETTLING = 60.0
"""Seconds after which a young mesh has told itself and the registry all that there is to tell."""

RULES = """\
table inet re6st_lab_meter {{
    counter underlay {{ }}
    counter tunnels {{ }}
    counter registry {{ }}
    counter upnp {{ }}
    counter control {{ }}
    counter overlay {{ }}
    counter babel {{ }}
    chain outside {{
        counter name underlay
        udp dport {{ 1900, 5351 }} counter name upnp return
        udp sport {{ 1900, 5351 }} counter name upnp return
        tcp dport 8443 counter name registry return
        tcp sport 8443 counter name registry return
        ip saddr 192.168.1.1 counter name upnp return
        ip daddr 192.168.1.1 counter name upnp return
        meta l4proto tcp counter name control return
        meta l4proto udp counter name tunnels return
    }}
    chain inside {{
        counter name overlay
        udp dport {babel_port} counter name babel
    }}
    chain receive {{
        type filter hook prerouting priority -400;
        iifname "{uplink}" jump outside
        iifname "re6st*" jump inside
    }}
    chain send {{
        type filter hook postrouting priority 400;
        oifname "{uplink}" jump outside
        oifname "re6st*" jump inside
    }}
}}
"""

Counted = Mapping[str, tuple[int, int]]
"""Packets and octets by name of the counter."""


def run(options: Options) -> list[Result]:
    """Measure. Raises :class:`ChildError` when the mesh does not form."""
    series = Series("control")
    with Lab(worlds.crowd_around(SUBJECT, TUNNELS), name=options.lab) as lab:
        lab.start_mesh(options.step)
        converged(lab)
        babel_port = lab.registry.babel_port()
        time.sleep(SETTLING)
        for host in lab.hosts.values():
            nftables.load(host.namespace, meter(babel_port))
        for number in range(1, options.runs + 1):
            before = _count(lab)
            began = time.monotonic()
            time.sleep(options.window)
            factor = DAY / (time.monotonic() - began) / len(lab.nodes)
            for case, octets in split(before, _count(lab)).items():
                series.add(f"{case}, per node with {TUNNELS} tunnels", octets * factor, "bytes per idle day")
            options.step(f"  run {number} of {options.runs} is done")
    return series.results()


def meter(babel_port: int) -> str:
    """Return the rules that count, in a network whose babel speaks on this port."""
    return RULES.format(uplink=HOST_INTERFACE, babel_port=babel_port)


def split(before: Counted, after: Counted) -> dict[str, int]:
    """Return the octets on the underlay between two counts, by what they were for."""
    packets = {name: after[name][0] - before[name][0] for name in after}
    octets = {name: after[name][1] - before[name][1] for name in after}
    inside = {name: octets[name] + TUNNEL_OVERHEAD * packets[name] for name in ("babel", "overlay")}
    return {
        "all": octets["underlay"],
        "babel": inside["babel"],
        "openvpn itself": octets["tunnels"] - inside["overlay"],
        "control API": octets["control"] + inside["overlay"] - inside["babel"],
        "registry": octets["registry"],
        "UPnP": octets["upnp"],
    }


def _count(lab: Lab) -> dict[str, tuple[int, int]]:
    """Return the sums of all hosts' counters."""
    sums: dict[str, tuple[int, int]] = {}
    for host in lab.hosts.values():
        for name, (packets, octets) in nftables.counters(host.namespace).items():
            earlier = sums.get(name, (0, 0))
            sums[name] = (earlier[0] + packets, earlier[1] + octets)
    return sums
