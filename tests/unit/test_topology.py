"""re6st.lab.topology: what a topology file may say."""

import tomllib
from ipaddress import IPv4Address, IPv4Network

import msgspec
import pytest

from re6st.errors import ConfigError
from re6st.lab import topology
from re6st.lab.topology import Role, RouterKind, Topology, convert_address

GOOD = """
[networks.alpha]
prefix = "20.1.1.0/24"
[networks.beta]
prefix = "20.1.2.0/24"
mtu = 1400
[routers.carrier]
network = "beta"
lan = "100.64.0.0/24"
[routers.home]
network = "carrier"
kind = "upnp"
lan = "192.168.1.0/24"
[hosts.hub]
network = "alpha"
roles = ["registry", "node"]
[hosts.inner]
network = "home"
roles = ["node"]
address = "192.168.1.77"
"""


def parse(text: str) -> Topology:
    return topology.from_values(tomllib.loads(text), "lab.toml")


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    lines = str(caught.value).splitlines()
    assert all(line.startswith("lab.toml: ") for line in lines)
    return [line.removeprefix("lab.toml: ") for line in lines]


def test_good_topology_is_understood():
    parsed = parse(GOOD)
    assert parsed.networks["beta"].prefix == IPv4Network("20.1.2.0/24")
    assert parsed.networks["beta"].mtu == 1400
    assert parsed.routers["carrier"].kind is RouterKind.PLAIN
    assert parsed.routers["home"].kind is RouterKind.UPNP
    assert parsed.hosts["hub"].roles == (Role.REGISTRY, Role.NODE)
    assert parsed.hosts["inner"].address == IPv4Address("192.168.1.77")
    assert parsed.registry == "hub"
    assert parsed.nodes == ["hub", "inner"]
    assert parsed.situation("hub") == "public address"
    assert parsed.situation("inner") == "upnp router home behind plain router carrier"


def test_topology_survives_the_way_to_disk():
    parsed = parse(GOOD)
    stored = msgspec.json.encode(parsed, enc_hook=str)
    assert msgspec.json.decode(stored, type=Topology, dec_hook=convert_address) == parsed


SHIPPED = sorted(path.stem for path in topology.find("demo").parent.glob("*.toml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_topologies_are_good(name):
    assert topology.load(topology.find(name)).hosts


def test_demo_is_the_world_that_the_readme_promises():
    demo = topology.load(topology.find("demo"))
    situations = [demo.situation(name) for name in demo.nodes]
    assert len(demo.nodes) == 9
    assert demo.nodes[0] == demo.registry
    assert situations.count("public address") == 4
    assert sum(text.startswith("upnp") for text in situations) == 2
    assert sum(text.startswith("pcp") for text in situations) == 1
    assert sum(text.startswith("plain") for text in situations) == 2
    assert len({text for text in situations if text.startswith("upnp")}) == 1, "two share a router"


def test_unknown_topology_lists_what_there_is():
    with pytest.raises(ConfigError, match=r"demo, .*ipv6, .*nat-zoo, .*udp-blocked"):
        topology.find("dmeo")


def test_all_mistakes_are_reported_at_once_with_their_keys():
    found = mistakes(
        """
        [network]
        [networks.alpha]
        prefix = "20.1.1.0/33"
        [networks.private]
        prefix = "10.0.0.0/24"
        mtu = 100
        [routers.home]
        network = "alhpa"
        kind = "magic"
        lan = "192.168.1.0/24"
        [hosts.one]
        network = "alpha"
        rolls = ["node"]
        [hosts.two]
        roles = ["cook"]
        """
    )
    text = "\n".join(found)
    for expected in (
        "network: no such table; did you mean networks?",
        "networks.alpha.prefix = '20.1.1.0/33'",
        "networks.private.mtu = 100",
        "routers.home.kind = 'magic'",
        "hosts.one.rolls: no such key; did you mean roles?",
        "hosts.two.network: is missing",
        "hosts.two.roles = ['cook']",
    ):
        assert expected in text
    # A host in a network that is there, though faulty, is not accused as well.
    assert "there is no network or router 'alpha'" not in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("20.1.1.0/24", "10.1.1.0/24"), "networks.alpha.prefix: 10.1.1.0/24 is not globally routable"),
        (("20.1.1.0/24", "203.0.113.0/24"), "networks.alpha.prefix: 203.0.113.0/24 is not globally"),
        (("20.1.1.0/24", "20.1.0.0/16"), "networks.beta.prefix: 20.1.2.0/24 overlaps that of alpha"),
        (('network = "carrier"', 'network = "carier"'), "'carier'; did you mean carrier?"),
        (('network = "beta"', 'network = "home"'), "routers.carrier.network: the router is behind itself"),
        (('network = "home"', 'network = "hub"'), "hosts.inner.network: there is no network or router 'hub'"),
        (("192.168.1.0/24", "100.64.0.0/25"), "routers.home.lan: 100.64.0.0/25 overlaps the network outside"),
        (("192.168.1.0/24", "8.8.8.0/24"), "routers.home.lan: 8.8.8.0/24 is a public prefix"),
        (("192.168.1.77", "192.168.2.77"), "hosts.inner.address: 192.168.2.77 is outside of 192.168.1.0/24"),
        (
            ("192.168.1.77", "192.168.1.1"),
            "hosts.inner.address: 192.168.1.1 is the network itself",
        ),
        (("hosts.inner", "hosts.a-very-long-name-x"), "at most 15 small letters"),
        (("hosts.inner", "hosts.lan"), "hosts.lan: the lab uses the name 'lan' itself"),
        (("hosts.inner", "hosts.home"), "hosts.home: the name is taken by routers.home"),
        (('"registry", "node"', '"node"'), "a mesh needs a host with the role registry"),
        (('roles = ["node"]', 'roles = ["registry"]'), "hub is the registry already"),
    ],
)
def test_each_mistake_is_named(change, expected):
    assert any(expected in mistake for mistake in mistakes(GOOD.replace(*change)))


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        ('second-network = "betta"', "there is no network or router 'betta'; did you mean beta?"),
        ('second-network = "hub"', "there is no network or router 'hub'"),
        ('second-network = "home"', "home is its first network already"),
        ('second-network = "beta"\n[hosts.inner-2]\nnetwork = "alpha"', "second cable is called inner-2"),
    ],
)
def test_each_mistake_about_a_second_cable_is_named(addition, expected):
    found = mistakes(GOOD.replace('address = "192.168.1.77"', addition))
    assert [expected in mistake for mistake in found] == [True]
    assert found[0].startswith("hosts.inner.second-network: ")


def test_registry_behind_a_router_is_refused():
    text = GOOD.replace('"registry", "node"', '"node"').replace(
        'roles = ["node"]\naddress', 'roles = ["registry", "node"]\naddress'
    )
    assert any("the registry must have a public address" in mistake for mistake in mistakes(text))


def test_two_machines_with_one_address():
    text = GOOD + '[hosts.twin]\nnetwork = "home"\naddress = "192.168.1.77"\n'
    assert mistakes(text) == ["hosts.twin.address: 192.168.1.77 is taken by inner"]


def test_too_many_machines_for_a_prefix():
    text = GOOD.replace("20.1.1.0/24", "20.1.1.0/30") + '[hosts.second]\nnetwork = "alpha"\n'
    assert mistakes(text) == ["alpha: 20.1.1.0/30 has too few addresses for 2 machines"]


IPV6 = GOOD + '[networks.gamma]\nipv6 = "2a00:1::/64"\n[hosts.six]\nnetwork = "gamma"\nipv6 = "2a00:1::9"\n'


def test_networks_of_both_kinds():
    parsed = parse(IPV6.replace('prefix = "20.1.1.0/24"', 'prefix = "20.1.1.0/24"\nipv6 = "2a00:2::/64"'))
    assert parsed.networks["gamma"].prefix is None
    assert parsed.situation("six") == "public IPv6 address"
    assert parsed.situation("hub") == "public IPv4 and IPv6 addresses"
    stored = msgspec.json.encode(parsed, enc_hook=str)
    assert msgspec.json.decode(stored, type=Topology, dec_hook=convert_address) == parsed


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('ipv6 = "2a00:1::/64"', "mtu = 1400"), "networks.gamma: needs a prefix, an ipv6 prefix, or both"),
        (("2a00:1::/64", "fd00:1::/64"), "networks.gamma.ipv6: fd00:1::/64 is not globally routable"),
        (("2a00:1::9", "2a00:2::9"), "hosts.six.ipv6: 2a00:2::9 is outside of 2a00:1::/64"),
        (("2a00:1::9", "2a00:1::1"), "hosts.six.ipv6: 2a00:1::1 is outside of 2a00:1::/64, or its gateway"),
        (('network = "gamma"', 'network = "alpha"'), "hosts.six.ipv6: alpha has no IPv6 prefix"),
        (('ipv6 = "2a00:1::9"', 'address = "20.1.1.9"'), "hosts.six.address: the network has no IPv4 prefix"),
        (('network = "carrier"', 'network = "gamma"'), "routers.home.network: gamma has no IPv4 prefix"),
    ],
)
def test_each_mistake_about_ipv6_is_named(change, expected):
    assert any(expected in mistake for mistake in mistakes(IPV6.replace(*change)))


def test_the_internet_is_no_part_of_the_overlay():
    text = IPV6 + '[mesh]\nnetwork = "2a00:1::/32"\n'
    assert any("2a00:1::/64 overlaps that of the mesh" in mistake for mistake in mistakes(text))


def test_settings_of_nodes_are_checked_as_a_node_would():
    found = mistakes(GOOD + '[mesh.settings]\ntunnel-mtu = 100\n"outgoing-tunels" = 3\n')
    assert any("tunnel-mtu = 100" in mistake for mistake in found)
    assert any("did you mean outgoing-tunnels?" in mistake for mistake in found)


def test_network_of_the_mesh_is_checked():
    assert any("mesh.network: " in one for one in mistakes(GOOD + '[mesh]\nnetwork = "2001:db8::/64"\n'))


def test_tables_must_be_tables():
    found = mistakes('networks = 3\n[hosts]\nhub = "alpha"\n')
    assert "networks: must be a table of tables, [networks.NAME]" in found
    assert "hosts.hub: must be a table, [hosts.hub]" in found


def test_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the topology"):
        topology.load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[networks")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        topology.load(tmp_path / "bad.toml")


def test_topologies_made_by_programs_are_checked_as_well():
    world = topology.Topology(networks={"alpha": topology.NetworkSpec(prefix=IPv4Network("10.0.0.0/24"))})
    with pytest.raises(ConfigError, match=r"networks\.alpha\.prefix: \S+ is not globally routable"):
        topology.check(world)
