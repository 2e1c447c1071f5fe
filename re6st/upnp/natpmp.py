"""Packets of the NAT Port Mapping Protocol (RFC 6886, 3; pure).

    0 0                                               asks for the outside address
    0 128  result  epoch  address                     tells it
    0 OP  0 0  internal port  external port  lifetime asks for a mapping: OP 1 UDP, 2 TCP
    0 128+OP  result  epoch  internal port  external port  lifetime

What does not look like that is no answer, and is ignored as a stranger's packet: :func:`parse` returns None.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from re6st.messages import Transport

_ANSWER = 128
_HEADER = struct.Struct("!BBH")
_ADDRESS = struct.Struct("!BBHI4s")
_MAPPED = struct.Struct("!BBHIHHI")
_REQUEST = struct.Struct("!BBHHHI")
_OPCODES = {Transport.UDP: 1, Transport.TCP: 2}

ADDRESS_REQUEST = bytes(2)
"""Asks for the outside address (3.2)."""


class Result(enum.IntEnum):
    """What the server says (3.5); others are possible."""

    SUCCESS = 0
    UNSUPPORTED_VERSION = 1
    NOT_AUTHORIZED = 2
    NETWORK_FAILURE = 3
    OUT_OF_RESOURCES = 4
    UNSUPPORTED_OPCODE = 5


@dataclass(frozen=True, slots=True)
class Address:
    """The outside address."""

    result: int
    epoch: int
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Mapped:
    """What became of a mapping."""

    result: int
    epoch: int
    transport: Transport
    internal_port: int
    external_port: int
    lifetime: int


def map_port(transport: Transport, internal_port: int, external_port: int, lifetime: int) -> bytes:
    """Return the request for a mapping, if possible of ``external_port`` (3.3); ``lifetime`` 0: remove it."""
    return _REQUEST.pack(0, _OPCODES[transport], 0, internal_port, external_port, lifetime)


def parse(packet: bytes) -> Address | Mapped | None:
    """Return what ``packet`` says, None if it is no answer."""
    if len(packet) < _HEADER.size or packet[0] != 0:
        return None
    opcode = packet[1] - _ANSWER
    if opcode == 0 and len(packet) >= _ADDRESS.size:
        _, _, result, epoch, address = _ADDRESS.unpack_from(packet)
        return Address(result, epoch, IPv4Address(address))
    for transport, known in _OPCODES.items():
        if opcode == known and len(packet) >= _MAPPED.size:
            _, _, result, epoch, internal_port, external_port, lifetime = _MAPPED.unpack_from(packet)
            return Mapped(result, epoch, transport, internal_port, external_port, lifetime)
    return None


def refuses_version(packet: bytes) -> bool:
    """Whether ``packet`` is how a server that knows NAT-PMP only answers to PCP (RFC 6887, 9)."""
    return (
        len(packet) >= _HEADER.size
        and packet[0] == 0
        and packet[1] >= _ANSWER
        and int.from_bytes(packet[2:4]) == Result.UNSUPPORTED_VERSION
    )
