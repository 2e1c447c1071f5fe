"""The host is a guest house: its network works on under a node, and is as it was when the node has gone.

registry        guest
(node)          native IPv6 by router advertisement only, a firewall of its owner
   |               |
===+===============+===  internet, which advertises itself as IPv6 router
"""

import json
import os
import re
import signal
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from conftest import FORMING
from observing import until

from re6st.lab.host import Host
from re6st.lab.lab import Lab
from re6st.lab.leftovers import assert_clean, host_interfaces
from re6st.lab.topology import HostSpec, NetworkSpec, Role, Topology
from re6st.node.sysctl import JOURNAL_DIRECTORY, namespace_identity

NETWORK = IPv6Network("2a00:1:7::/64")
TOPOLOGY = Topology(
    networks={
        "hosting": NetworkSpec(prefix=IPv4Network("20.7.0.0/24")),
        "home": NetworkSpec(prefix=IPv4Network("20.7.1.0/24"), ipv6=NETWORK),
    },
    hosts={
        "registry": HostSpec(network="hosting", roles=(Role.REGISTRY, Role.NODE)),
        "guest": HostSpec(network="home", roles=(Role.NODE,), settings={"lan-interfaces": ["eth0"]}),
    },
)
OWNERS_FIREWALL = """
table inet owner {
    set friends {
        type ipv6_addr
        elements = { 2a00:1:7::1 }
    }
    chain input {
        type filter hook input priority 0; policy accept;
        ip6 saddr @friends counter accept
    }
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established accept
    }
}
"""
VOLATILE = re.compile(r"conntrack_count|nf_conntrack_\w*generation|stable_secret|random|dev-id|mib")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    name = f"t{os.getpid()}guest"
    before = host_interfaces()
    with Lab(TOPOLOGY, name=name) as built:
        guest = built.hosts["guest"]
        guest.run(["ip", "-6", "route", "flush", "default"])
        guest.run(["ip", "-6", "address", "flush", "dev", "eth0", "scope", "global"])
        for key, value in (("accept_ra", "1"), ("autoconf", "1"), ("accept_dad", "0")):
            guest.namespace.set_sysctl(f"ipv6/conf/eth0/{key}", value)
        guest.run(["nft", OWNERS_FIREWALL])
        guest.run(["ip", "-6", "rule", "add", "from", "2a00:9::/64", "lookup", "77", "priority", "500"])
        guest.run(["ip", "-6", "route", "add", "2a00:8::/64", "dev", "eth0", "table", "77"])
        built.start_registry()
        built.enrol()
        built.start_nodes(["registry"])
        yield built
    assert_clean(name)
    assert host_interfaces() == before


def advertise(lab: Lab, lifetime: int) -> None:
    """Send a router advertisement (RFC 4861, 4.2) for the guest's network, as a router does now and then."""
    information = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 7200, 3600, 0, NETWORK.network_address.packed)
    message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, lifetime, 0, 0) + information
    with lab.namespace("internet").entered():
        sender = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        index = socket.if_nametoindex("home")
    with sender:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sender.sendto(message, ("ff02::1", 0, 0, index))


def advertised_default(lab: Lab) -> dict | None:
    """Return the default route that the guest has learnt by router advertisement."""
    routes = json.loads(lab.hosts["guest"].run(["ip", "-6", "-j", "route", "show", "default"]).stdout)
    return next((route for route in routes if route["protocol"] == "ra"), None)


def has_internet(lab: Lab) -> bool:
    """Whether the guest reaches the internet by native IPv6, from the address that it has made itself."""
    command = ["ping", "-6", "-n", "-c", "1", "-W", "2", str(NETWORK[1])]
    return lab.hosts["guest"].run(command, check=False).returncode == 0


def settle(lab: Lab, lifetime: int) -> None:
    """Advertise, and wait until the guest has taken notice of just this advertisement."""

    def refreshed() -> bool:
        advertise(lab, lifetime)
        route = advertised_default(lab)
        return route is not None and lifetime - 30 < route["expires"] <= lifetime

    until(refreshed, f"a default route for {lifetime} s")


def state(lab: Lab) -> dict[str, object]:
    """Return all of the guest's network that a node could change."""
    guest = lab.hosts["guest"]

    def lines(*command: str) -> list[str]:
        text = guest.run(command).stdout
        text = re.sub(r"(expires|valid_lft|preferred_lft) \d+s(ec)?", r"\1", text)
        return sorted(re.sub(r"packets \d+ bytes \d+", "", text).splitlines())

    settings = guest.run(["sysctl", "-a", "--pattern", r"^net\."]).stdout.splitlines()
    return {
        "links": lines("ip", "-o", "link"),
        "addresses": lines("ip", "address"),
        "multicast": lines("ip", "maddress"),
        "routes": lines("ip", "-4", "route", "show", "table", "all"),
        "routes6": lines("ip", "-6", "route", "show", "table", "all"),
        "rules": lines("ip", "-4", "rule"),
        "rules6": lines("ip", "-6", "rule"),
        "firewall": lines("nft", "list", "ruleset"),
        "settings": sorted(line for line in settings if not VOLATILE.search(line)),
        "sockets": lines("ss", "-Hlnptu"),
        "resolver": Path("/etc/resolv.conf").read_bytes(),
        "journals": journals(guest),
        "runtime": sorted(path.name for path in lab.nodes["guest"].runtime.glob("*")),
    }


def journals(guest: Host) -> list[str]:
    """Return what nodes have noted for the namespace of ``guest``."""
    with guest.namespace.entered():
        return sorted(path.name for path in JOURNAL_DIRECTORY.glob(f"*{namespace_identity()}*"))


def differences(before: dict[str, object], after: dict[str, object]) -> dict[str, object]:
    """Return what has come and gone, legible in a failure."""
    found = {}
    for key, old in before.items():
        if (new := after[key]) != old and isinstance(old, list) and isinstance(new, list):
            found[key] = {
                "gone": [one for one in old if one not in new],
                "come": [one for one in new if one not in old],
            }
        elif new != old:
            found[key] = (old, new)
    return found


def lives_on(lab: Lab) -> None:
    """The guest's own network works under the running node, and goes on hearing its router."""
    assert lab.wait_for_all_pairs(FORMING).complete
    assert lab.hosts["guest"].run(["sysctl", "-n", "net.ipv6.conf.all.forwarding"]).stdout.strip() == "1"
    assert advertised_default(lab) is not None, "forwarding has removed the native default route"
    assert has_internet(lab)
    # Learnt anew and changed, not only kept: the lifetimes tell one advertisement from another.
    settle(lab, 900)
    settle(lab, 1800)


def test_the_native_network_works_under_the_node_and_is_left_as_it_was(lab):
    settle(lab, 1800)
    assert has_internet(lab)
    before = state(lab)
    node = lab.nodes["guest"]
    node.start()
    lives_on(lab)
    during = differences(before, state(lab))
    assert {"links", "routes6", "firewall", "settings"} <= during.keys()
    assert not {"routes", "rules", "rules6", "resolver"} & during.keys()
    owners = [line for line in before["firewall"] if line not in state(lab)["firewall"]]
    assert not owners, "rules of the owner have gone"
    node.stop()
    assert has_internet(lab)
    assert differences(before, state(lab)) == {}
    settle(lab, 900)
    settle(lab, 1800)


def test_after_a_crash_the_next_stop_leaves_it_as_it_was(lab):
    settle(lab, 1800)
    before = state(lab)
    node = lab.nodes["guest"]
    node.start()
    node.stop(signal.SIGKILL)
    settle(lab, 900)
    assert has_internet(lab)
    node.start()
    settle(lab, 1800)
    node.stop()
    assert differences(before, state(lab)) == {}
