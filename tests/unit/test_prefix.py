"""re6st.prefix: validation of prefixes and what is derived from them."""

from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from re6st.errors import ConfigError
from re6st.prefix import (
    check_node_length,
    format_router_id,
    node_address,
    parse_network,
    parse_prefix,
    router_id,
)

NETWORK = IPv6Network("2001:db8:42::/48")


@pytest.mark.parametrize(
    "text", ["", "2001:db8::1", "2001:db8::1/48", "10.0.0.0/8", "2001:db8::/129", "x/48"]
)
def test_a_text_that_is_no_canonical_prefix_is_refused(text):
    if text == "2001:db8::1":
        assert parse_prefix(text).prefixlen == 128
        return
    with pytest.raises(ConfigError, match="is not an IPv6 prefix"):
        parse_prefix(text)


@pytest.mark.parametrize(
    ("text", "good"), [("fd00::/31", False), ("fd00::/32", True), ("fd00::/56", True), ("fd00::/57", False)]
)
def test_a_network_is_between_32_and_56_bits_long(text, good):
    if good:
        assert str(parse_network(text)) == text
    else:
        with pytest.raises(ConfigError, match="between /32 and /56"):
            parse_network(text)


def test_the_node_address_is_the_first_of_the_prefix():
    assert node_address(IPv6Network("2001:db8:42:7::/64")) == IPv6Address("2001:db8:42:7::1")


@pytest.mark.parametrize("length", [48, 121, 128, 0])
def test_impossible_node_lengths_are_refused(length):
    with pytest.raises(ConfigError):
        check_node_length(NETWORK, length)


def test_the_router_id_of_a_64_is_its_first_half():
    assert format_router_id(router_id(IPv6Network("2001:db8:42:7::/64"))) == "20:01:0d:b8:00:42:00:07"


@given(st.integers(min_value=0, max_value=2**32 - 1))
def test_router_ids_of_prefixes_inside_one_64_differ(low):
    prefix = IPv6Network((int(NETWORK.network_address) + (low << 32), 96))
    other = IPv6Network((int(NETWORK.network_address) + ((low + 1) % 2**32 << 32), 96))
    assert router_id(prefix) != router_id(other)
    assert len(router_id(prefix)) == 8
