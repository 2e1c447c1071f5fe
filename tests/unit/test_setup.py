"""re6st.node.setup: the configuration that a join writes."""

import tomllib
from ipaddress import IPv6Network

import pytest

from re6st.config import default_locations, load
from re6st.errors import ConfigError
from re6st.node import setup
from re6st.node.firewall import FirewallConfiguration
from re6st.registry.client import JoinLink

LINK = JoinLink.parse(f"https://11.0.1.2:8443/#ca={'a' * 64}&token={'t' * 32}")


def join(directory, network, **options):
    path = directory / f"{network}.toml"
    values = setup.plan(path, network, default_locations(network), LINK, options)
    setup.check(values, path, options)
    setup.write(path, values)
    return tomllib.loads(path.read_text())


def test_a_first_join_writes_little(tmp_path):
    values = join(tmp_path, "re6st")
    assert set(values) == {"state-directory", "runtime-directory", "registry"}
    assert values["registry"] == ["https://11.0.1.2:8443"]
    assert "token" not in (tmp_path / "re6st.toml").read_text()


def test_a_second_network_gets_ports_and_interfaces_of_its_own(tmp_path):
    join(tmp_path, "re6st")
    join(tmp_path, "work")
    join(tmp_path, "club")
    configs = [load(tmp_path / f"{n}.toml", default_locations(n)) for n in ("re6st", "work", "club")]
    ports = [{config.control_port, *config.tunnel_port_range} for config in configs]
    assert len(set.union(*ports)) == sum(len(block) for block in ports)
    assert len({config.interface(0) for config in configs}) == 3


def test_what_the_owner_has_set_stays(tmp_path):
    path = tmp_path / "re6st.toml"
    path.write_text("upnp = false\ncontrol-port = 9000\ntunnel-ports = '9001-9004'\n")
    values = join(tmp_path, "re6st")
    assert values["upnp"] is False
    assert values["control-port"] == 9000


def test_options_go_before_what_is_there(tmp_path):
    join(tmp_path, "re6st")
    values = join(tmp_path, "re6st", control_port=9000, tunnel_ports=None)
    assert values["control-port"] == 9000


def test_a_bad_option_is_a_mistake_of_the_configuration(tmp_path):
    with pytest.raises(ConfigError, match="tunnel-ports"):
        join(tmp_path, "re6st", tunnel_ports="nine")
    assert not (tmp_path / "re6st.toml").exists()


def test_similar_names_get_different_interfaces_and_firewall_tables(tmp_path):
    names = ("office-network-1", "office-network-2", "a-b", "a_b", "ab")
    for name in names:
        join(tmp_path, name)
    configs = [load(tmp_path / f"{name}.toml", default_locations(name)) for name in names]
    assert len({config.interface_prefix for config in configs}) == len(names)
    prefix = IPv6Network("2001:db8:42:1::/64")
    tables = {FirewallConfiguration(name, (), prefix.supernet(new_prefix=48), prefix).table for name in names}
    assert len(tables) == len(names)
