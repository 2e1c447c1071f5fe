"""Packets of the Port Control Protocol (RFC 6887), as far as mappings of IPv4 ports need them (pure).

A request is the common header (7.1) and, for MAP, its opcode's data (11.1); an answer (7.2) is alike:

    version  R|opcode  reserved  result   lifetime    client's address / epoch and reserved
    nonce (12)  protocol  reserved (3)   internal port  external port   external address (16)

What does not look like that is no answer, and is ignored as a stranger's packet: :func:`parse` returns None.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from re6st.messages import Transport

PORT = 5351
"""UDP port of the server, for PCP and NAT-PMP (19.1)."""

ANNOUNCEMENT_GROUP, ANNOUNCEMENT_PORT = "224.0.0.1", 5350
"""Where a server says that it has started (14.1.2)."""

VERSION = 2
NONCE_SIZE = 12
LONGEST_PACKET = 1100
"""Octets (7)."""

_ANSWER = 0x80
_REQUEST_HEADER = struct.Struct("!BBHI16s")
_ANSWER_HEADER = struct.Struct("!BBBBII12x")
_MAP = struct.Struct("!12sB3xHH16s")
_NUMBERS = {Transport.TCP: 6, Transport.UDP: 17}


class Opcode(enum.IntEnum):
    """What is asked (19.2)."""

    ANNOUNCE = 0
    MAP = 1


class Result(enum.IntEnum):
    """What the server says of it (7.4); others are possible."""

    SUCCESS = 0
    UNSUPP_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPP_OPCODE = 4
    UNSUPP_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPP_PROTOCOL = 9
    USER_EX_QUOTA = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    EXCESSIVE_REMOTE_PEERS = 13


@dataclass(frozen=True, slots=True)
class Mapped:
    """The part of an answer that tells of a mapping."""

    nonce: bytes
    transport: Transport
    internal_port: int
    external_port: int
    external_address: IPv4Address | None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, or an announcement."""

    opcode: int
    result: int
    lifetime: int
    """Seconds: of the mapping, or of the error."""
    epoch: int
    """Seconds for which the server has kept its mappings."""
    mapped: Mapped | None


def announce(client: IPv4Address) -> bytes:
    """Return the request that only asks for the epoch (14.1)."""
    return _header(Opcode.ANNOUNCE, client, 0)


def map_port(
    client: IPv4Address,
    nonce: bytes,
    transport: Transport,
    internal_port: int,
    external_port: int,
    lifetime: int,
) -> bytes:
    """Return the request for a mapping to ``client``, if possible of ``external_port`` (11.1).

    ``nonce`` must be that of the request that made the mapping. ``lifetime`` 0 removes it (15.1).
    """
    data = _MAP.pack(nonce, _NUMBERS[transport], internal_port, external_port, _mapped(IPv4Address(0)))
    return _header(Opcode.MAP, client, lifetime) + data


def parse(packet: bytes) -> Answer | None:
    """Return what ``packet`` says, None if it is no answer of this version."""
    if not _ANSWER_HEADER.size <= len(packet) <= LONGEST_PACKET or len(packet) % 4:
        return None
    version, opcode, _, result, lifetime, epoch = _ANSWER_HEADER.unpack_from(packet)
    if version != VERSION or not opcode & _ANSWER:
        return None
    opcode &= ~_ANSWER
    mapped = None
    if opcode == Opcode.MAP:
        mapped = _parse_map(packet[_ANSWER_HEADER.size :])
        if mapped is None:
            return None
    return Answer(opcode, result, lifetime, epoch, mapped)


def _parse_map(data: bytes) -> Mapped | None:
    if len(data) < _MAP.size:
        return None
    nonce, number, internal_port, external_port, address = _MAP.unpack_from(data)
    for transport, known in _NUMBERS.items():
        if known == number:
            external = IPv6Address(address).ipv4_mapped
            return Mapped(nonce, transport, internal_port, external_port, external)
    return None


def _header(opcode: Opcode, client: IPv4Address, lifetime: int) -> bytes:
    return _REQUEST_HEADER.pack(VERSION, opcode, 0, lifetime, _mapped(client))


def _mapped(address: IPv4Address) -> bytes:
    """Return ``address`` as an IPv4-mapped IPv6 address (5)."""
    return b"\0" * 10 + b"\xff\xff" + address.packed
