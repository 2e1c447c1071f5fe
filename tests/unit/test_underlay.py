"""Where the node is reached, and which endpoints of peers it tries."""

from ipaddress import IPv4Address, IPv6Network, ip_address

import pytest

from re6st.messages import Endpoint, Transport
from re6st.node.addresses import HostAddress, unstable_addresses
from re6st.node.underlay import (
    OFFERED,
    PUBLISHED,
    Listener,
    Underlay,
    assess,
    join_endpoints,
    tunnel_endpoints,
    usable,
)
from re6st.node.underlay import dial_order as order
from re6st.status import Reachability
from re6st.upnp.actions import Mapping

NETWORK = IPv6Network("2600:42::/48")
EXTERNAL = IPv4Address("20.2.1.2")
LOOPBACK = HostAddress("lo", ip_address("127.0.0.1"), 8)
OVERLAY = HostAddress("lo", ip_address("2600:42:0:1::1"), 128)
LAN = HostAddress("eth0", ip_address("192.168.1.2"), 24)
LINK_LOCAL = HostAddress("eth0", ip_address("fe80::1"), 64)
PUBLIC = HostAddress("eth0", ip_address("20.1.2.2"), 24)
PUBLIC6 = HostAddress("eth0", ip_address("2a00:1::5"), 64)
TEMPORARY = HostAddress("eth0", ip_address("2a00:1::abcd"), 64, stable=False)
NO_ROUTER = "no home router answers"
NEVER_DIALLED = [
    "127.0.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "169.254.1.1",
    "192.168.1.2",
    "::1",
    "fe80::5",
    "2600:42:0:1::1",
    "2600:42:0:7::1",
    "nonsense",
]


def underlay(*addresses, advertised=(), external=None):
    return Underlay(
        NETWORK,
        (LOOPBACK, OVERLAY, LINK_LOCAL, *addresses),
        tuple(ip_address(address) for address in advertised),
        external,
    )


ROUTED = {4: ip_address("192.168.1.2"), 6: ip_address("2a00:1::abcd")}


def dial_order(below, endpoints, source=lambda address: ROUTED[address.version]):
    return order(below, endpoints, source)


def mapping(transport=Transport.TCP, port=4226, external_port=4226):
    return Mapping(transport, port, EXTERNAL, external_port)


def tcp(*hosts, port=4226):
    return tuple(Endpoint(Transport.TCP, host, port) for host in hosts)


def udp(*hosts, port=4227):
    return tuple(Endpoint(Transport.UDP, host, port) for host in hosts)


class TestAssess:
    def test_public_address(self):
        situation = assess(underlay(PUBLIC), 4226, None, NO_ROUTER)
        assert situation.reachability is Reachability.PUBLIC
        assert situation.endpoints == tcp("20.1.2.2")
        assert "20.1.2.2 of eth0" in situation.reason
        assert not situation.mapped

    def test_mapped_at_another_port(self):
        situation = assess(underlay(LAN, external=EXTERNAL), 4226, mapping(external_port=5000), "")
        assert situation.reachability is Reachability.MAPPED
        assert situation.endpoints == tcp("20.2.1.2", port=5000)
        assert situation.mapped

    def test_outgoing_only_says_why(self):
        situation = assess(underlay(LAN), 4226, None, NO_ROUTER)
        assert situation.reachability is Reachability.NONE
        assert situation.endpoints == ()
        assert "192.168.1.2 of eth0 is not a public address" in situation.reason
        assert NO_ROUTER in situation.reason

    def test_offline(self):
        situation = assess(underlay(), 4226, None, NO_ROUTER)
        assert situation.reachability is Reachability.NONE
        assert "online" in situation.reason

    def test_advertised_addresses_come_first(self):
        situation = assess(underlay(LAN, advertised=["20.3.3.3"]), 4226, mapping(), "")
        assert situation.reachability is Reachability.CONFIGURED
        assert situation.endpoints == tcp("20.3.3.3", "20.2.1.2")

    def test_ipv6_comes_last_and_counts_alone(self):
        both = assess(underlay(PUBLIC6, PUBLIC), 4226, None, NO_ROUTER)
        assert both.endpoints == tcp("20.1.2.2", "2a00:1::5")
        alone = assess(underlay(PUBLIC6, LAN), 4226, None, NO_ROUTER)
        assert alone.reachability is Reachability.PUBLIC
        assert alone.endpoints == tcp("2a00:1::5")
        mapped = assess(underlay(PUBLIC6, LAN), 4226, mapping(), "")
        assert mapped.reachability is Reachability.MAPPED
        assert mapped.endpoints == tcp("20.2.1.2", "2a00:1::5")

    @pytest.mark.parametrize("one", [LOOPBACK, OVERLAY, LAN, LINK_LOCAL, TEMPORARY])
    def test_never_published(self, one):
        situation = assess(underlay(one), 4226, None, NO_ROUTER)
        assert situation.endpoints == ()

    def test_node_address_of_another_network_is_not_published(self):
        other = HostAddress("lo", ip_address("2a00:99::1"), 128)
        assert assess(underlay(other), 4226, None, NO_ROUTER).endpoints == ()

    def test_bounded(self):
        many = [HostAddress("eth0", ip_address(f"20.1.2.{n}"), 24) for n in range(1, 40)]
        assert len(assess(underlay(*many), 4226, None, "").endpoints) == PUBLISHED


class TestTunnelEndpoints:
    def offer(self, below, held=None, *, local, remote, dialer=(), transport=Transport.UDP):
        return tunnel_endpoints(
            below,
            Listener(transport, 4227),
            held,
            local=ip_address(local),
            remote=ip_address(remote),
            dialer=[ip_address(one) for one in dialer],
        )

    def test_address_that_the_dialer_used_comes_first(self):
        second = HostAddress("eth1", ip_address("20.1.9.9"), 24)
        found = self.offer(underlay(PUBLIC, second), local="20.1.9.9", remote="20.5.5.5")
        assert found == udp("20.1.9.9", "20.1.2.2")

    def test_mapping_for_a_dialer_from_outside(self):
        held = mapping(Transport.UDP, 4227, 40000)
        found = self.offer(
            underlay(LAN, external=EXTERNAL),
            held,
            local="192.168.1.2",
            remote="20.5.5.5",
            dialer=["20.5.5.5"],
        )
        assert found == udp("20.2.1.2", port=40000)

    def test_private_address_is_not_told_outside(self):
        assert self.offer(underlay(LAN), local="192.168.1.2", remote="20.5.5.5") == ()

    def test_dialer_in_the_same_lan(self):
        held = mapping(Transport.UDP, 4227, 4227)
        found = self.offer(underlay(LAN, external=EXTERNAL), held, local="192.168.1.2", remote="192.168.1.3")
        assert found == udp("192.168.1.2", "20.2.1.2")

    def test_dialer_behind_the_same_outside_address(self):
        held = mapping(Transport.UDP, 4227, 4227)
        below = underlay(LAN, external=EXTERNAL)
        hairpin = self.offer(below, held, local="192.168.1.2", remote="20.2.1.2")
        assert hairpin == udp("20.2.1.2", "192.168.1.2")
        overlay = self.offer(
            below, held, local="2600:42:0:1::1", remote="2600:42:0:2::1", dialer=["20.2.1.2"]
        )
        assert overlay == udp("20.2.1.2", "192.168.1.2")

    def test_over_tcp_at_the_mapping_of_tcp(self):
        held = mapping(Transport.TCP, 4227, 40000)
        below = underlay(LAN, external=EXTERNAL)
        found = self.offer(below, held, local="192.168.1.2", remote="20.5.5.5", transport=Transport.TCP)
        assert found == tcp("20.2.1.2", port=40000)

    def test_overlay_addresses_are_no_endpoints(self):
        assert self.offer(underlay(LAN), local="2600:42:0:1::1", remote="2600:42:0:2::1") == ()

    def test_bounded(self):
        many = [HostAddress("eth0", ip_address(f"20.1.2.{n}"), 24) for n in range(1, 40)]
        assert len(self.offer(underlay(*many), local="20.1.2.1", remote="20.5.5.5")) == OFFERED


class TestDialOrder:
    def test_keeps_the_order_of_the_peer(self):
        endpoints = tcp("20.9.9.9", "2a00:9::9", "20.8.8.8")
        assert dial_order(underlay(PUBLIC, PUBLIC6), endpoints) == endpoints

    def test_drops_families_that_this_host_does_not_have(self):
        assert dial_order(underlay(LAN), tcp("20.9.9.9", "2a00:9::9")) == tcp("20.9.9.9")

    def test_same_router_comes_late_and_the_lan_first(self):
        endpoints = udp("20.2.1.2", "20.9.9.9", "192.168.1.7")
        assert dial_order(underlay(LAN, external=EXTERNAL), endpoints) == udp(
            "192.168.1.7", "20.9.9.9", "20.2.1.2"
        )

    @pytest.mark.parametrize("external", [None, EXTERNAL])
    def test_our_lan_is_not_tried_for_a_peer_of_elsewhere(self, external):
        endpoints = udp("192.168.1.7", "20.9.9.9")
        assert dial_order(underlay(LAN, external=external), endpoints) == udp("20.9.9.9")

    def test_our_lan_is_tried_where_the_peer_has_nothing_better(self):
        assert dial_order(underlay(LAN), udp("192.168.1.7")) == udp("192.168.1.7")
        endpoints = udp("192.168.1.7", "10.7.7.7", "127.0.0.1", "2a00:9::9")
        assert dial_order(underlay(LAN), endpoints) == udp("10.7.7.7", "192.168.1.7")

    def test_public_addresses_of_our_own_subnet_come_first(self):
        assert dial_order(underlay(PUBLIC), udp("20.9.9.9", "20.1.2.7")) == udp("20.1.2.7", "20.9.9.9")

    def test_private_addresses_of_elsewhere_come_last(self):
        assert dial_order(underlay(LAN), udp("10.7.7.7", "20.9.9.9")) == udp("20.9.9.9", "10.7.7.7")

    @pytest.mark.parametrize("host", NEVER_DIALLED)
    def test_never_dialled(self, host):
        assert dial_order(underlay(LAN, PUBLIC6), tcp(host)) == ()

    def test_without_a_route_there_is_no_try(self):
        assert dial_order(underlay(LAN, PUBLIC6), tcp("2a00:9::9", "20.9.9.9"), lambda _: None) == ()


class TestUsable:
    """What a peer offers for a tunnel."""

    def test_keeps_the_order_of_the_listener(self):
        offered = udp("20.2.1.2", "192.168.1.7", "2a00:9::9")
        assert usable(underlay(LAN), offered, lambda address: ROUTED[address.version]) == offered

    @pytest.mark.parametrize("host", NEVER_DIALLED)
    def test_never_used(self, host):
        assert usable(underlay(LAN, PUBLIC6), udp(host), lambda address: ROUTED[address.version]) == ()

    @pytest.mark.parametrize("own", ["2600:42:0:1::1", "2a00:99::1"])
    def test_what_would_leave_from_a_node_address_runs_through_an_overlay(self, own):
        """The second one is the node address in another network on the same host."""
        other = HostAddress("lo", ip_address("2a00:99::1"), 128)
        below = underlay(PUBLIC6, other)
        assert usable(below, udp("2a00:77::1"), lambda _: ip_address(own)) == ()
        assert usable(below, udp("2a00:77::1"), lambda _: PUBLIC6.address) == udp("2a00:77::1")


def test_flags_of_the_kernel():
    table = (
        "2a000001000000000000000000000005 02 40 00 80     eth0\n"
        "2a00000100000000000000000000abcd 02 40 00 01     eth0\n"
        "2a00000100000000000000000000beef 02 40 00 20     eth0\n"
        "short line\n"
    )
    assert unstable_addresses(table) == {ip_address("2a00:1::abcd"), ip_address("2a00:1::beef")}


def test_shared_port_comes_after_the_own_one_and_both_fit():
    own = [Endpoint(Transport.TCP, f"20.0.0.{n}", 4227) for n in range(8)]
    shared = [Endpoint(Transport.TCP, f"20.0.0.{n}", 443) for n in range(8)]
    assert join_endpoints(own, shared[:1]) == (*own[:7], shared[0])
    assert join_endpoints(own, shared) == (*own[:4], *shared[:4])
    assert join_endpoints(own[:1], shared[:1]) == (own[0], shared[0])
    assert join_endpoints((), ()) == ()
