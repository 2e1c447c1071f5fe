"""Network address translation of a router: its nftables ruleset (pure).

One table of family ``inet`` holds everything, because miniupnpd refuses to map ports when its chains are
spread over several. Loaded, it lists as

    table inet filter {
        chain forward { ... policy drop; ct state established,related accept; iifname "lan" accept; ... }
        chain postrouting { ... oifname "wan" masquerade }
    }

What comes from outside unasked is dropped silently. A box that answered it would let its connection
tracking occupy the port, and give the flow from inside another one.
"""

from __future__ import annotations

from collections.abc import Sequence

from re6st.lab.topology import RouterKind
from re6st.lab.wiring import ROUTER_INSIDE, ROUTER_OUTSIDE

TABLE = "filter"
"""Name of the table, of family ``inet``."""

FORWARD_CHAIN = "miniupnpd"
PREROUTING_CHAIN = "prerouting_miniupnpd"
POSTROUTING_CHAIN = "postrouting_miniupnpd"

RULES = """\
table inet {table} {{
    chain {forward} {{ }}
    chain {prerouting} {{ }}
    chain {postrouting} {{ }}
    chain input {{
        type filter hook input priority 0; policy drop;
        ct state established,related accept
        iifname {{ "lo", "{inside}" }} accept
    }}
    chain forward {{
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname "{inside}" accept
        jump {forward}
    }}
    chain prerouting {{
        type nat hook prerouting priority -100;
        jump {prerouting}
    }}
    chain postrouting {{
        type nat hook postrouting priority 100;
        jump {postrouting}
        oifname "{outside}" masquerade{how}
    }}
}}
"""


UDP_TABLE = "re6st_lab_udp"
"""Name of the table, of family ``inet``, that blocks UDP."""

UDP_RULES = """\
table inet {table} {{
    chain forward {{
        type filter hook forward priority -10;
        meta l4proto udp drop
    }}
}}
"""


def udp_ruleset(*, blocked: bool) -> str:
    """Return the rules that make a router lose all UDP that it should forward, or that end this."""
    # Declaring the table first lets the removal succeed when there is none.
    fresh = f"table inet {UDP_TABLE} {{ }}\ndelete table inet {UDP_TABLE}\n"
    return fresh + UDP_RULES.format(table=UDP_TABLE) if blocked else fresh


FIREWALL_TABLE = "re6st_lab_firewall"
"""Name of the table, of family ``inet``, that lets little out."""

FIREWALL_RULES = """\
table inet {table} {{
    chain forward {{
        type filter hook forward priority -10;
{allowed}        iifname "{inside}" drop
    }}
}}
"""


def firewall_ruleset(ports: Sequence[int]) -> str:
    """Return the rules that let out nothing but TCP to ``ports``; it is lost silently."""
    allowed = "".join(f'        iifname "{ROUTER_INSIDE}" tcp dport {port} accept\n' for port in ports)
    return FIREWALL_RULES.format(table=FIREWALL_TABLE, inside=ROUTER_INSIDE, allowed=allowed)


OUTAGE_TABLE = "re6st_lab_outage"
"""Name of the table, of family ``inet``, that forwards nothing."""

OUTAGE_RULES = """\
table inet {table} {{
    chain forward {{
        type filter hook forward priority -10;
        drop
    }}
}}
"""


def outage_ruleset(*, out: bool) -> str:
    """Return the rules that make a router lose everything that it should forward, or that end this."""
    fresh = f"table inet {OUTAGE_TABLE} {{ }}\ndelete table inet {OUTAGE_TABLE}\n"
    return fresh + OUTAGE_RULES.format(table=OUTAGE_TABLE) if out else fresh


def ruleset(kind: RouterKind) -> str:
    """Return the rules of a router of this kind, as it has them when it has been switched on."""
    fresh = f"table inet {TABLE} {{ }}\ndelete table inet {TABLE}\n"
    return fresh + RULES.format(
        table=TABLE,
        forward=FORWARD_CHAIN,
        prerouting=PREROUTING_CHAIN,
        postrouting=POSTROUTING_CHAIN,
        inside=ROUTER_INSIDE,
        outside=ROUTER_OUTSIDE,
        how=" fully-random" if kind is RouterKind.SYMMETRIC else "",
    )
