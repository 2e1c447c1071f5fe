"""Which next hop the default route has."""

import sys
from ipaddress import IPv4Address

import pytest

from re6st.node.addresses import next_hop

HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


def line(interface, destination, gateway, mask, metric=0):
    def word(address):
        return f"{int.from_bytes(IPv4Address(address).packed, sys.byteorder):08X}"

    return f"{interface}\t{word(destination)}\t{word(gateway)}\t0003\t0\t0\t{metric}\t{word(mask)}\t0\t0\t0\n"


LAN = line("eth0", "192.168.1.0", "0.0.0.0", "255.255.255.0")
OFFICE = line("eth0", "172.16.0.0", "192.168.1.9", "255.240.0.0")
HALF_OF_A_VPN = line("tun0", "0.0.0.0", "10.8.0.1", "128.0.0.0")
LINE = line("ppp0", "0.0.0.0", "0.0.0.0", "0.0.0.0")
HOME = line("eth0", "0.0.0.0", "192.168.1.1", "0.0.0.0", 100)
MOBILE = line("wwan0", "0.0.0.0", "10.0.0.1", "0.0.0.0", 600)


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ([], None),
        ([LAN, OFFICE], None),
        ([LINE, LAN], None),
        ([HALF_OF_A_VPN, HOME, MOBILE, LAN, OFFICE], "192.168.1.1"),
        ([LINE, MOBILE], "10.0.0.1"),
    ],
)
def test_next_hop_of_the_default_route(routes, expected):
    found = next_hop([HEADER, *routes])
    assert found == (expected and IPv4Address(expected))
