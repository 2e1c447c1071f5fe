"""What a node does to its host, in a real kernel.

    lan ---- lan0 host re6st0 ==== re6st0 member
                   |
                 box0 ---- container (2001:db8:42:1::c0de)

``host`` is the node 2001:db8:42:1::/64 in the house of its owner, with a LAN that is none of our business.
``member`` is another node of the network. The tunnel and the routes are there; babeld is not needed.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest
from namespaced import Host, Tunnel, connect, remove_all, wait_until

from re6st.errors import NetlinkError
from re6st.node.firewall import Firewall, FirewallConfiguration
from re6st.node.netlink import BabelRoute, Kernel
from re6st.node.network_watch import NetworkChange, NetworkWatch
from re6st.node.sysctl import ForwardingSettings

NETWORK = IPv6Network("2001:db8:42::/48")
HOST = IPv6Network("2001:db8:42:1::/64")
MEMBER = IPv6Network("2001:db8:42:2::/64")
NEIGHBOUR = IPv6Network("2001:db8:42:3::/64")
INTERFACES = tuple(f"re6st{slot}" for slot in range(32))


@dataclass
class House:
    """Everything in the drawing."""

    host: Host
    member: Host
    lan: Host
    container: Host
    directory: Path
    tunnel: Tunnel | None = None
    lan_interfaces: tuple[str, ...] = ()

    def settings(self) -> ForwardingSettings:
        return self.host.do(lambda: ForwardingSettings("re6st", directory=self.directory))

    def firewall(self) -> Firewall:
        return Firewall(FirewallConfiguration("re6st", INTERFACES, NETWORK, HOST, self.lan_interfaces))

    def kernel(self, host: Host) -> Kernel:
        kernel = Kernel("re6st")
        host.call(kernel.open())
        return kernel

    def start(self) -> None:
        """Do what a node does when it starts, and set one tunnel up."""
        settings = self.settings()
        self.host.do(settings.acquire)
        self.host.call(self.firewall().apply())
        for host, prefix in ((self.host, HOST), (self.member, MEMBER)):
            kernel = self.kernel(host)
            host.call(kernel.add_prefix(prefix, "lo"))
            host.call(kernel.ensure_tun("re6st0", mtu=1280, alias="peer"))
            host.call(kernel.close())
        self.tunnel = Tunnel(self.host, "re6st0", self.member, "re6st0")
        for host in (self.host, self.member):
            kernel = self.kernel(host)
            host.call(kernel.set_link("re6st0", up=True))
            host.call(kernel.close())
        self.host.ip("route", "add", str(MEMBER), "dev", "re6st0", "proto", "42", "src", "2001:db8:42:1::1")
        # The member is not honest: it sends everything through the tunnel.
        self.member.ip("route", "add", "default", "dev", "re6st0", "src", "2001:db8:42:2::1")
        wait_until(lambda: self.member.pings("2001:db8:42:1::1"), 10, "the tunnel works")

    def stop(self) -> None:
        """Do what a node does when it stops."""
        kernel = self.kernel(self.host)
        for name in self.host.call(kernel.tunnel_links()):
            self.host.call(kernel.remove_link(name))
        self.host.call(kernel.flush_routes(NETWORK))
        self.host.call(kernel.remove_prefix(HOST, "lo"))
        self.host.call(kernel.close())
        self.host.call(self.firewall().remove())
        self.host.do(self.settings().release)

    def state(self) -> dict[str, Any]:
        """Return everything of the host that a node might change."""
        settings = self.settings()
        return {
            "links": [line.split(": ")[1] for line in self.host.ip("-o", "link").splitlines()],
            "addresses": self.host.ip("-o", "address"),
            "routes": sorted(self.host.ip("route", "show", "table", "all").splitlines()),
            "rules": self.host.ip("rule"),
            "firewall": self.host.run("nft", "list", "ruleset"),
            "settings": self.host.do(settings.read),
            "files": sorted(path.name for path in self.directory.iterdir()),
        }


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    hosts = [Host(name) for name in ("host", "member", "lan", "container")]
    host, member, lan, container = hosts
    connect(host, "lan0", lan, "eth0")
    host.ip("address", "add", "2001:db8:1a:1::1/64", "dev", "lan0", "nodad")
    lan.ip("address", "add", "2001:db8:1a:1::2/64", "dev", "eth0", "nodad")
    lan.ip("route", "add", "default", "via", "2001:db8:1a:1::1")
    connect(host, "box0", container, "eth0")
    host.ip("address", "add", "fe80::1/64", "dev", "box0", "nodad")
    container.ip("route", "add", "default", "via", "fe80::1", "dev", "eth0")
    house = House(host, member, lan, container, tmp_path)
    yield house
    if house.tunnel is not None:
        house.tunnel.close()
    remove_all(hosts)


def give_address(house: House, address: str) -> None:
    """Let the container have an address of the node prefix."""
    house.container.ip("address", "add", f"{address}/128", "dev", "eth0", "nodad")
    house.host.ip("route", "add", f"{address}/128", "dev", "box0")


def test_a_container_takes_any_address_of_the_prefix(house: House) -> None:
    house.start()
    give_address(house, "2001:db8:42:1::c0de")
    assert house.member.pings("2001:db8:42:1::c0de")
    assert house.container.pings("2001:db8:42:2::1")


def test_an_unused_address_answers_unreachable_at_once(house: House) -> None:
    house.start()
    output = house.member.run("ping", "-6", "-c", "1", "-W", "2", "2001:db8:42:1::dead", check=False)
    assert "Destination unreachable" in output
    assert "From 2001:db8:42:1::1" in output


def test_members_do_not_reach_the_lan_and_the_lan_does_not_reach_members(house: House) -> None:
    house.start()
    # Routes back exist everywhere: only the firewall is in the way.
    assert house.host.pings("2001:db8:1a:1::2")
    output = house.member.run("ping", "-6", "-c", "1", "-W", "2", "2001:db8:1a:1::2", check=False)
    assert "administratively prohibited" in output.lower()
    assert not house.member.pings("2001:db8:1a:1::1"), "an address of the host that is not of the overlay"
    assert not house.lan.pings("2001:db8:42:2::1")
    # A machine of the LAN pretends to be a container, and then another node.
    for pretended in ("2001:db8:42:1::bad", "2001:db8:42:7::1"):
        house.lan.ip("address", "add", f"{pretended}/128", "dev", "eth0", "nodad")
        house.lan.ip("route", "replace", "2001:db8:42:2::/64", "via", "2001:db8:1a:1::1", "src", pretended)
        assert not house.lan.pings("2001:db8:42:2::1")
    # Without the firewall at least the first of these would have passed.
    house.host.call(house.firewall().remove())
    assert house.member.pings("2001:db8:1a:1::2", "-I", "2001:db8:42:2::1")


def test_a_trusted_lan_carries_packets_of_the_network_and_no_others(house: House) -> None:
    house.lan_interfaces = ("lan0",)
    house.start()
    # The machine in the LAN is a node, too.
    house.lan.ip("address", "add", f"{NEIGHBOUR[1]}/128", "dev", "lo", "nodad")
    house.host.ip("route", "add", str(NEIGHBOUR), "via", "2001:db8:1a:1::2", "src", "2001:db8:42:1::1")
    house.lan.ip("route", "add", str(NETWORK), "via", "2001:db8:1a:1::1", "src", str(NEIGHBOUR[1]))
    give_address(house, "2001:db8:42:1::c0de")
    for target in ("2001:db8:42:1::1", "2001:db8:42:1::c0de", "2001:db8:42:2::1"):
        assert house.lan.pings(target), target
    assert house.member.pings(str(NEIGHBOUR[1]))
    assert house.container.pings(str(NEIGHBOUR[1]))
    # The owner's addresses there are none of the network's business, nor is the network theirs.
    output = house.member.run("ping", "-6", "-c", "1", "-W", "2", "2001:db8:1a:1::2", check=False)
    assert "administratively prohibited" in output.lower()
    assert not house.lan.pings("2001:db8:42:2::1", "-I", "2001:db8:1a:1::2")
    # Nobody in the LAN is a container of this host.
    house.lan.ip("address", "add", "2001:db8:42:1::bad/128", "dev", "eth0", "nodad")
    assert not house.lan.pings("2001:db8:42:2::1", "-I", "2001:db8:42:1::bad")
    # Where no route of the overlay leads, the default route into the LAN does not either.
    house.host.ip("route", "add", "default", "via", "2001:db8:1a:1::2", "dev", "lan0")
    kernel = house.kernel(house.host)
    house.host.call(kernel.close_network(NETWORK))
    output = house.member.run("ping", "-6", "-c", "1", "-W", "2", "2001:db8:42:77::1", check=False)
    assert "Destination unreachable: No route" in output
    house.host.call(kernel.reopen_network(NETWORK))
    house.host.call(kernel.reopen_network(NETWORK))
    assert str(NETWORK) not in house.host.ip("route")
    house.host.call(kernel.close())


def test_members_do_not_reach_the_host_or_its_lan_by_ipv4(house: House) -> None:
    def reached(address: str) -> bool:
        output = house.member.run("ping", "-4", "-c", "2", "-i", "0.2", "-W", "1", address, check=False)
        return " bytes from " in output

    house.start()
    # The host is a router of its LAN, and knows a way back; the member sends IPv4 into the tunnel.
    house.host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    house.host.run("ip", "address", "add", "192.168.7.1/24", "dev", "lan0")
    house.lan.run("ip", "address", "add", "192.168.7.2/24", "dev", "eth0")
    house.lan.run("ip", "route", "add", "10.66.0.0/24", "via", "192.168.7.1")
    house.host.run("ip", "route", "add", "10.66.0.0/24", "dev", "re6st0")
    house.member.run("ip", "address", "add", "10.66.0.1/24", "dev", "lo")
    house.member.run("ip", "route", "add", "192.168.7.0/24", "dev", "re6st0", "src", "10.66.0.1")
    assert not reached("192.168.7.1")
    assert not reached("192.168.7.2")
    house.host.call(house.firewall().remove())
    assert reached("192.168.7.2"), "only the firewall was in the way"


def test_other_forwarding_of_the_host_goes_on(house: House) -> None:
    house.host.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    house.container.ip("address", "add", "2001:db8:1a:2::2/64", "dev", "eth0", "nodad")
    house.host.ip("address", "add", "2001:db8:1a:2::1/64", "dev", "box0", "nodad")
    assert house.lan.pings("2001:db8:1a:2::2")
    house.start()
    assert house.lan.pings("2001:db8:1a:2::2")
    house.stop()
    assert house.host.run("sysctl", "-n", "net.ipv6.conf.all.forwarding").strip() == "1"


def test_nothing_is_left_afterwards(house: House) -> None:
    house.host.run("sysctl", "-qw", "net.ipv6.conf.box0.forwarding=1")
    # As if it were learnt from a router advertisement, which forwarding would remove.
    house.host.ip(
        "route", "add", "default", "via", "fe80::99", "dev", "lan0", "proto", "ra", "expires", "1800"
    )
    before = house.state()
    house.start()
    during = house.state()
    assert during["firewall"] != before["firewall"]
    settings = house.host.do(house.settings().read)
    assert settings["net/ipv6/conf/lan0/accept_ra"] == "2"
    assert settings["net/ipv6/conf/all/forwarding"] == "1"
    assert settings["net/ipv6/conf/re6st0/accept_ra"] == "0", "a peer must not configure this host"
    # Killed and started again, it still knows what was there before.
    assert house.tunnel is not None
    house.tunnel.close()
    house.member.ip("route", "del", "default")
    house.host.ip("route", "del", str(MEMBER))
    house.start()
    house.stop()
    after = house.state()
    assert any(" proto ra " in line for line in after["routes"])
    assert _without_timers(after) == _without_timers(before)


def _without_timers(state: dict[str, Any]) -> dict[str, Any]:
    routes = [line.partition(" expires ")[0] for line in state["routes"]]
    return {**state, "routes": routes}


def change_very_many_routes() -> None:
    """Called in the event loop of a host: nobody there reads what comes meanwhile."""
    routes = [f"unreachable 2001:db8:77:{number:x}::/64" for number in range(3000)]
    commands = "".join(f"route {verb} {route}\n" for verb in ("add", "del") for route in routes)
    subprocess.run(["ip", "-6", "-batch", "-"], input=commands.encode(), check=True)


def test_many_may_ask_at_once_while_very_many_routes_change(house: House) -> None:
    kernel = house.kernel(house.host)
    wanted = IPv6Network("2001:db8:42:7::/64")
    house.host.ip("route", "add", "unreachable", str(wanted), "proto", "babel")

    async def ask() -> list[list[BabelRoute]]:
        return await asyncio.gather(*(kernel.babel_routes(NETWORK) for _ in range(3)))

    for _ in range(2):
        assert [[route.destination for route in found] for found in house.host.call(ask())] == [[wanted]] * 3
        house.host.do(change_very_many_routes)


def test_changes_of_the_underlay_are_noticed(house: House) -> None:
    kernel = house.kernel(house.host)
    seen: list[NetworkChange] = []

    async def watch() -> None:
        async for change in NetworkWatch("re6st", NETWORK).changes():
            seen.append(change)  # noqa: PERF401  (what is seen so far is looked at meanwhile)

    async def begin() -> asyncio.Task[None]:
        return asyncio.create_task(watch())

    async def end(task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await kernel.close()

    def changed() -> bool:
        house.host.ip("address", "add", "2001:db8:1a:1::7/64", "dev", "lan0", "nodad")
        house.host.ip("address", "del", "2001:db8:1a:1::7/64", "dev", "lan0")
        return NetworkChange.ADDRESS in seen

    task = house.host.call(begin())
    wait_until(changed, 60, "the address is noticed")
    house.host.ip("route", "add", "default", "via", "fe80::99", "dev", "lan0")
    wait_until(lambda: NetworkChange.ROUTE in seen, 60, "the default route is noticed")
    seen.clear()
    house.host.do(change_very_many_routes)
    house.host.call(kernel.ensure_tun("re6st3", mtu=1280, alias="peer"))
    house.host.call(kernel.remove_link("re6st3"))
    house.host.ip("address", "add", "2001:db8:42:1::9/128", "dev", "lo", "nodad")
    house.host.ip("link", "set", "box0", "down")
    wait_until(lambda: NetworkChange.LINK in seen, 60, "the link is noticed")
    assert set(seen) == {NetworkChange.LINK}
    house.host.call(end(task))


def test_a_foreign_interface_of_that_name_is_not_touched(house: House) -> None:
    house.host.ip("link", "add", "re6st4", "type", "bridge")
    kernel = house.kernel(house.host)
    with pytest.raises(NetlinkError, match="no tun device"):
        house.host.call(kernel.ensure_tun("re6st4", mtu=1280, alias="peer"))
    assert house.host.call(kernel.tunnel_links()) == []
    with pytest.raises(NetlinkError, match="not one of our"):
        house.host.call(kernel.remove_link("lan0"))
    house.host.call(kernel.close())


def test_only_routes_of_babel_inside_the_network_are_flushed(house: House) -> None:
    for prefix, protocol in (("2001:db8:42:5::/64", 42), ("2001:db8:43::/64", 42), ("2001:db8:42:6::/64", 4)):
        house.host.ip("route", "add", prefix, "dev", "lan0", "proto", str(protocol))
    kernel = house.kernel(house.host)
    assert house.host.call(kernel.flush_routes(NETWORK)) == 1
    routes = house.host.ip("route")
    assert "2001:db8:42:5::/64" not in routes
    assert "2001:db8:43::/64" in routes
    assert "2001:db8:42:6::/64" in routes
    house.host.call(kernel.close())
