"""re6st.registry.parameters: first values, changes, what is sound."""

from ipaddress import IPv6Network

import pytest

from re6st.errors import ConfigError
from re6st.registry.parameters import change_parameters, choose_babel_port, first_parameters

NETWORK = IPv6Network("2001:db8:42::/48")
FIRST = first_parameters(NETWORK, "aa" * 32, ["https://192.0.2.1:8443/"])


def test_first_parameters():
    assert (FIRST.version, FIRST.network) == (1, "2001:db8:42::/48")
    assert FIRST.registry_urls == ("https://192.0.2.1:8443",)
    assert FIRST.babel_port in range(16384, 32768)


def test_two_networks_have_two_babel_ports():
    ports = {choose_babel_port(NETWORK, f"{number:064x}") for number in range(50)}
    assert len(ports) > 45
    assert choose_babel_port(NETWORK, "aa" * 32) == FIRST.babel_port


def test_versions_go_forward():
    second = change_parameters(
        FIRST, {"hello_interval": "2.5", "registry_urls": "https://a,https://b:1"}, NETWORK
    )
    assert (second.version, second.hello_interval) == (2, 2.5)
    assert second.registry_urls == ("https://a", "https://b:1")
    assert second.babel_port == FIRST.babel_port
    assert change_parameters(second, {"registry_urls": ""}, NETWORK).registry_urls == ()


def test_all_mistakes_at_once():
    changes = {"helo_interval": "1", "version": "9", "babel_port": "x", "hello_interval": "1000"}
    with pytest.raises(ConfigError) as caught:
        change_parameters(FIRST, changes, NETWORK)
    for text in (
        "did you mean hello_interval?",
        "version: cannot be set",
        "babel_port: cannot be set",
        "hello_interval=1000",
    ):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"registry_urls": "http://192.0.2.1"},
        {"hello_interval": "20", "update_interval": "10"},
        {"hello_interval": "nan"},
        {"network": "2001:db8:43::/48"},
        {"babel_port": "17000"},
    ],
)
def test_unsound_changes(changes):
    with pytest.raises(ConfigError):
        change_parameters(FIRST, changes, NETWORK)
