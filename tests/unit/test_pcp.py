"""Packets of PCP and NAT-PMP, and what the router's clock says."""

import asyncio
import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from re6st.errors import UpnpError
from re6st.messages import Transport
from re6st.upnp import natpmp, pcp
from re6st.upnp.actions import Add, Grant
from re6st.upnp.epoch import EpochWatch
from re6st.upnp.port_control import PortControl, _Answers, _Questions

CLIENT = IPv4Address("192.168.1.2")
MAPPED_CLIENT = bytes(10) + b"\xff\xff\xc0\xa8\x01\x02"
OUTSIDE = bytes(10) + b"\xff\xff\x14\x02\x01\x02"
NONCE = bytes(range(12))


def map_answer(result=0, protocol=6, nonce=NONCE, address=OUTSIDE):
    header = struct.pack("!BBBBII12x", 2, 0x81, 0, result, 3600, 77)
    return header + struct.pack("!12sB3xHH16s", nonce, protocol, 4226, 5000, address)


def test_pcp_requests():
    assert pcp.announce(CLIENT) == b"\x02\x00\x00\x00" + bytes(4) + MAPPED_CLIENT
    packet = pcp.map_port(CLIENT, NONCE, Transport.UDP, 4227, 5000, 3600)
    assert packet[:24] == b"\x02\x01\x00\x00" + (3600).to_bytes(4) + MAPPED_CLIENT
    assert packet[24:] == NONCE + b"\x11\0\0\0" + struct.pack("!HH", 4227, 5000) + bytes(
        10
    ) + b"\xff\xff" + bytes(4)


def test_pcp_answers():
    answer = pcp.parse(map_answer())
    mapped = pcp.Mapped(NONCE, Transport.TCP, 4226, 5000, IPv4Address("20.2.1.2"))
    assert answer == pcp.Answer(pcp.Opcode.MAP, pcp.Result.SUCCESS, 3600, 77, mapped)
    assert pcp.parse(map_answer(address=bytes(15) + b"\1")).mapped.external_address is None
    announced = pcp.parse(struct.pack("!BBBBII12x", 2, 0x80, 0, 0, 0, 5))
    assert announced == pcp.Answer(pcp.Opcode.ANNOUNCE, 0, 0, 5, None)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        map_answer()[:-4],
        map_answer() + b"x",
        map_answer() + bytes(1100),
        map_answer(protocol=1),
        b"\1" + map_answer()[1:],
        pcp.map_port(CLIENT, NONCE, Transport.TCP, 1, 2, 3),
    ],
)
def test_what_is_no_pcp_answer(packet):
    assert pcp.parse(packet) is None


def test_nat_pmp():
    assert natpmp.map_port(Transport.TCP, 4226, 5000, 60) == struct.pack("!BBHHHI", 0, 2, 0, 4226, 5000, 60)
    address = natpmp.parse(bytes([0, 128, 0, 0, 0, 0, 0, 9, 20, 2, 1, 2]))
    assert address == natpmp.Address(0, 9, IPv4Address("20.2.1.2"))
    mapped = natpmp.parse(struct.pack("!BBHIHHI", 0, 129, 0, 9, 4227, 5000, 60))
    assert mapped == natpmp.Mapped(0, 9, Transport.UDP, 4227, 5000, 60)
    assert natpmp.parse(natpmp.ADDRESS_REQUEST) is None
    assert natpmp.refuses_version(bytes([0, 128, 0, 1, 0, 0, 0, 9]))
    assert not natpmp.refuses_version(bytes([0, 128, 0, 0, 0, 0, 0, 9, 20, 2, 1, 2]))


@given(st.binary(max_size=1200))
def test_any_packet_is_read_or_ignored(packet):
    pcp.parse(packet)
    natpmp.parse(packet)
    natpmp.refuses_version(packet)


@pytest.mark.parametrize(
    ("passed", "epoch", "continued"),
    [
        (60, 1060, True),
        (60, 1058, True),
        (60, 1064, True),
        (60, 5, False),
        (0.5, 998, False),
        (0.5, 999, True),
        (3600, 1060, False),
        (60, 5000, False),
    ],
)
def test_a_router_whose_clock_jumps_has_restarted(passed, epoch, continued):
    watch = EpochWatch()
    assert watch.is_continued(1000, 50.0)
    assert watch.is_continued(epoch, 50.0 + passed) is continued
    assert watch.is_continued(epoch + 10, 60.0 + passed), "from there on it goes on"


class Granting(PortControl):
    """A router that grants whatever it likes."""

    def __init__(self, granted):
        super().__init__(b"secret", lambda: None, lambda: None)
        self.granted = granted

    async def _map(self, *_):
        if isinstance(self.granted, UpnpError):
            raise self.granted
        return self.granted


@pytest.mark.parametrize(("told", "taken"), [(0, 120), (3600, 3600), (2**32 - 1, 86_400)])
def test_leases_are_neither_moments_nor_for_ever(told, taken):
    wanted = Add(Transport.TCP, 4226, 4226, 3600)
    assert asyncio.run(Granting(Grant(5000, told)).add(wanted)) == Grant(5000, taken)


PCP = struct.pack("!BBBBII12x", 2, 0x80, 0, 0, 0, 5)
PCP_ONLY = struct.pack("!BBBBII12x", 2, 0x80, 0, 1, 0, 5)
NAT_PMP = struct.pack("!BBHI4s", 0, 128, 0, 5, bytes((20, 2, 1, 3)))
NO_ADDRESS = struct.pack("!BBHI4s", 0, 128, 3, 5, bytes(4))
NAT_PMP_ONLY = struct.pack("!BBHI", 0, 128, 1, 5)
PROBED = Grant(5000, 120, "20.2.1.2")


@pytest.mark.parametrize(
    ("packets", "mapped", "protocol", "outside"),
    [
        ([PCP, NAT_PMP], None, "PCP", "20.2.1.3"),
        ([NO_ADDRESS, PCP], None, "PCP", ""),
        ([NAT_PMP_ONLY, NAT_PMP], None, "NAT-PMP", "20.2.1.3"),
        ([NO_ADDRESS, NAT_PMP_ONLY], None, "NAT-PMP", ""),
        ([PCP_ONLY, PCP], PROBED, "PCP", "20.2.1.2"),
        ([PCP, PCP_ONLY], UpnpError("it is offline", code=7), "PCP", ""),
        ([PCP, PCP_ONLY], UpnpError("it is not allowed", code=2), "PCP", None),
    ],
)
def test_the_outside_address_is_known_before_anything_is_mapped(packets, mapped, protocol, outside):
    router, answers = Granting(mapped), _Answers()
    assert [answers.read(packet) for packet in packets] == [None, answers]

    async def ask():
        return await router._outside_address(_Questions(CLIENT), answers)

    assert asyncio.run(ask()) == outside
    assert router.protocol == protocol


def test_a_router_that_refuses_to_tell_its_address():
    answers = _Answers()
    answers.read(struct.pack("!BBHI4s", 0, 128, 2, 5, bytes(4)))
    with pytest.raises(UpnpError, match="NOT_AUTHORIZED"):
        asyncio.run(Granting(None)._outside_address(_Questions(CLIENT), answers))


def test_a_mapping_without_a_port_is_none():
    with pytest.raises(UpnpError, match="names no port") as raised:
        asyncio.run(Granting(Grant(0, 3600)).add(Add(Transport.TCP, 4226, 4226, 3600)))
    assert raised.value.code is not None
