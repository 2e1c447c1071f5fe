"""re6st.lab.wiring: addresses and links that follow from a topology."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from re6st.lab import topology
from re6st.lab.wiring import moved, wire

CROWD = """
[networks.alpha]
prefix = "20.1.1.0/28"
[routers.home]
network = "alpha"
lan = "192.168.1.0/24"
lan-mtu = 1400
"""


def build(hosts: str) -> topology.Topology:
    return topology.from_values(tomllib.loads(CROWD + hosts), "lab.toml")


def test_everyone_gets_the_next_free_address():
    wiring = wire(
        build(
            '[hosts.one]\nnetwork = "alpha"\n[hosts.two]\nnetwork = "alpha"\naddress = "20.1.1.3"\n'
            '[hosts.three]\nnetwork = "home"\n'
        )
    )
    addresses = {name: str(attachment.address) for name, attachment in wiring.attachments.items()}
    assert addresses == {
        "home": "20.1.1.2/28",
        "one": "20.1.1.4/28",
        "two": "20.1.1.3/28",
        "three": "192.168.1.2/24",
    }
    assert wiring.machines == ["internet", "home", "one", "two", "three"]


def test_a_lan_is_a_bridge_in_its_router_and_a_network_one_in_the_internet():
    wiring = wire(build('[hosts.three]\nnetwork = "home"\n'))
    lan, network = wiring.segments["home"], wiring.segments["alpha"]
    assert (lan.owner, lan.bridge, str(lan.gateway), lan.mtu) == ("home", "lan", "192.168.1.1/24", 1400)
    assert (network.owner, network.bridge, str(network.gateway)) == ("internet", "alpha", "20.1.1.1/28")
    assert wiring.attachments["home"].interface == "wan"
    assert wiring.attachments["three"].interface == "eth0"


@given(st.sets(st.integers(2, 14), max_size=12), st.integers(0, 12))
def test_addresses_never_collide(fixed, automatic):
    automatic = min(automatic, 12 - len(fixed))
    hosts = [f'[hosts.f{number}]\nnetwork = "alpha"\naddress = "20.1.1.{number}"\n' for number in fixed]
    hosts += [f'[hosts.a{number}]\nnetwork = "alpha"\n' for number in range(automatic)]
    wiring = wire(build("".join(hosts)))
    addresses = [attachment.address for attachment in wiring.attachments.values()]
    assert len(set(addresses)) == len(addresses) == len(hosts) + 1
    assert all(address.ip != wiring.segments["alpha"].gateway.ip for address in addresses)


def test_hosts_have_an_address_of_each_kind_that_their_network_has():
    wiring = wire(
        build(
            '[networks.both]\nprefix = "20.1.2.0/28"\nipv6 = "2a00:1::/64"\n'
            '[networks.six]\nipv6 = "2a00:2::/64"\n'
            '[hosts.one]\nnetwork = "both"\nipv6 = "2a00:1::2"\n[hosts.two]\nnetwork = "both"\n'
            '[hosts.three]\nnetwork = "six"\n'
        )
    )
    addresses = {name: list(map(str, one.addresses)) for name, one in wiring.attachments.items()}
    assert addresses["one"] == ["20.1.2.2/28", "2a00:1::2/64"]
    assert addresses["two"] == ["20.1.2.3/28", "2a00:1::3/64"]
    assert addresses["three"] == ["2a00:2::2/64"]
    assert str(wiring.attachments["three"].address) == "2a00:2::2/64"
    assert list(map(str, wiring.segments["both"].gateways)) == ["20.1.2.1/28", "2a00:1::1/64"]


def test_who_moves_gets_another_address_and_all_others_keep_theirs():
    before = build(
        '[hosts.one]\nnetwork = "alpha"\naddress = "20.1.1.9"\n[hosts.two]\nnetwork = "alpha"\n'
        '[hosts.three]\nnetwork = "home"\n'
    )
    after = moved(before, "one", "home")
    topology.check(after)
    assert {name: str(one.address) for name, one in wire(after).attachments.items()} == {
        "home": "20.1.1.2/28",
        "two": "20.1.1.3/28",
        "three": "192.168.1.2/24",
        "one": "192.168.1.3/24",
    }


def test_who_moves_to_where_it_is_gets_another_address_too():
    before = build('[hosts.one]\nnetwork = "alpha"\n[hosts.two]\nnetwork = "home"\n')
    for machine, place in (("home", "alpha"), ("two", "home")):
        after = moved(before, machine, place)
        topology.check(after)
        old, new = wire(before).attachments, wire(after).attachments
        assert new[machine].address.network == old[machine].address.network
        assert [name for name in new if new[name] != old[name]] == [machine]


def test_a_host_with_two_cables_has_two_interfaces_and_prefers_the_first():
    wiring = wire(
        build('[hosts.one]\nnetwork = "home"\nsecond-network = "alpha"\n[hosts.two]\nnetwork = "alpha"\n')
    )
    first, second = wiring.attachments["one"], wiring.second_attachments["one"]
    assert (first.interface, first.port, str(first.address)) == ("eth0", "one", "192.168.1.2/24")
    assert (second.interface, second.port, str(second.address)) == ("eth1", "one-2", "20.1.1.4/28")
    assert first.metric < second.metric
