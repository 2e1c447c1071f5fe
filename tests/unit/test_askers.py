"""re6st.registry.askers: who asks for much takes nothing from the others."""

import pytest

from re6st.registry.askers import (
    MOST_ASKED,
    MOST_FOR_DOMAIN,
    SIZES,
    Asked,
    in_turn,
    is_crowded,
    network_around,
)


def asked(*sources, mailbox="anna@example.org"):
    return [
        Asked(number, source, mailbox, 1000.0 + number, 1000.0 + number)
        for number, source in enumerate(sources)
    ]


@pytest.mark.parametrize(
    ("source", "networks"),
    [
        ("192.0.2.7", ["192.0.2.0/24", "192.0.0.0/20", "192.0.0.0/16"]),
        ("2001:db8:1:203::/64", ["2001:db8:1:200::/56", "2001:db8:1::/48", "2001:db8::/32"]),
        ("", ["", "", ""]),
    ],
)
def test_networks_grow(source, networks):
    assert [network_around(source, size) for size in SIZES] == networks


@pytest.mark.parametrize(
    ("sources", "stranger", "neighbour"),
    [
        ([f"192.0.2.{host}" for host in range(50)], "192.0.3.1", "192.0.2.99"),
        ([f"2001:db8:0:{host:x}::/64" for host in range(50)], "2001:db8:0:100::/64", "2001:db8:0:ff::/64"),
        ([f"192.0.{host}.1" for host in range(16)] * 7, "192.0.16.1", "192.0.9.9"),
        ([f"2001:db8:0:{host:x}00::/64" for host in range(100)], "2001:db8:1::/64", "2001:db8:0:fe00::/64"),
        ([f"192.0.{host}.1" for host in range(250)], "192.1.0.1", "192.0.255.1"),
        ([f"2001:db8:{host:x}::/64" for host in range(250)], "2001:db9::/64", "2001:db8:ffff::/64"),
    ],
)
def test_a_network_cannot_use_up_what_is_for_all(sources, stranger, neighbour):
    recent = asked(*sources)
    assert is_crowded(recent, neighbour, "bea@example.org")
    assert not is_crowded(recent, stranger, "bea@example.org")


def test_a_domain_cannot_use_up_what_is_for_all():
    everywhere = [f"{number % 100 + 1}.{number // 100}.0.1" for number in range(MOST_ASKED)]
    recent = asked(*everywhere[:MOST_FOR_DOMAIN])
    assert is_crowded(recent, "198.51.100.1", "bea@EXAMPLE.org")
    assert not is_crowded(recent, "198.51.100.1", "bea@school.example")
    recent += asked(*everywhere[MOST_FOR_DOMAIN:], mailbox="cleo@other.example")
    assert is_crowded(recent, "198.51.100.1", "bea@school.example")


def test_the_network_that_got_least_is_next():
    flood = asked(*[f"192.0.2.{host}" for host in range(40)])
    late = Asked(99, "198.51.100.1", "bea@example.org", 5000.0, 5000.0)
    school = Asked(98, "192.0.2.200", "cleo@school.example", 4000.0, 4000.0)
    assert in_turn([*flood, late], [])[0] == flood[0]
    assert in_turn([*flood[1:], late], flood[:1]) == [late, *flood[1:]]
    assert in_turn([*flood[2:], school, late], flood[:2])[:3] == [late, school, flood[2]]
