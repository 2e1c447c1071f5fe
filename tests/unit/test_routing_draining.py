"""re6st.routing.draining: what is said to babel on behalf of others."""

import struct
from ipaddress import IPv6Network

from re6st.routing.draining import (
    ASKED_AT_ONCE,
    DEAR,
    dear_packet,
    flush_packet,
    route_requests,
)
from re6st.routing.packets import _ipv6_datagram


def records(packet: bytes) -> list[tuple[int, bytes]]:
    magic, version, length = struct.unpack_from("!BBH", packet)
    assert (magic, version, length) == (42, 2, len(packet) - 4)
    found, rest = [], packet[4:]
    while rest:
        kind, size = rest[0], rest[1]
        found.append((kind, rest[2 : 2 + size]))
        rest = rest[2 + size :]
    return found


def test_a_dear_link_is_said_in_an_ihu_that_holds_for_a_while() -> None:
    (ihu, body), flush = records(dear_packet(4.0))
    assert ihu == 5
    assert struct.unpack("!BBHH", body) == (0, 0, DEAR, 1200)
    assert [flush] == records(flush_packet())
    assert struct.unpack("!HHH", flush[1])[2] == 1


def test_routes_are_asked_for_by_prefix_in_packets_that_fit() -> None:
    longest = [IPv6Network(f"2001:db8:42:{number:x}::/128") for number in range(ASKED_AT_ONCE)]
    assert len(route_requests(longest)) <= 1280 - 48
    prefix = IPv6Network("2001:db8:42:7::/64")
    first = records(route_requests([prefix]))[0]
    assert first == (9, bytes((2, 64)) + prefix.network_address.packed[:8])


def test_an_injected_datagram_has_a_correct_checksum() -> None:
    packet = _ipv6_datagram("fe80::1", "fe80::2", 6696, b"odd")
    source, destination, datagram = packet[8:24], packet[24:40], packet[40:]
    assert packet[:8] == bytes.fromhex("6000 0000 000b 1101".replace(" ", ""))
    summed = source + destination + struct.pack("!II", len(datagram), 17) + datagram + b"\0"
    total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
