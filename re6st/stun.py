"""STUN binding requests and their answers: what address and port does a packet of ours have outside (pure).

Of RFC 8489 this is what a node needs to learn how its router translates it: a request without attributes
that count, and a success response with the address from which the request came, in XOR-MAPPED-ADDRESS.

    0               16              32                                    160
    | type          | length        | magic cookie | transaction id       | attributes ...

There are no credentials. That an answer belongs to a request is shown by its transaction id, 96 random bits,
and by where it comes from. An answer without attributes other than the address has 32 octets, 44 with an
IPv6 address; a request has 20. So nobody gains much by having answers sent to somebody else.
"""

from __future__ import annotations

import ipaddress
import secrets
import struct
from ipaddress import IPv4Address, IPv6Address

from re6st.errors import RemoteProtocolError

LONGEST = 548
"""Octets that are looked at of a message: what RFC 8489, 6.1 lets pass over IPv4 when the path is unknown."""

_HEADER = struct.Struct("!HHI12s")
_ATTRIBUTE = struct.Struct("!HH")
_MAGIC_COOKIE = 0x2112A442
_BINDING_REQUEST = 0x0001
_BINDING_SUCCESS = 0x0101
_XOR_MAPPED_ADDRESS = 0x0020
_COMPREHENSION_OPTIONAL = 0x8000
_FAMILIES = {1: 4, 2: 16}
_IDENTIFIER_OCTETS = 12

Address = IPv4Address | IPv6Address


def new_transaction() -> bytes:
    """Return a fresh transaction id."""
    return secrets.token_bytes(_IDENTIFIER_OCTETS)


def binding_request(transaction: bytes) -> bytes:
    """Return a binding request."""
    return _HEADER.pack(_BINDING_REQUEST, 0, _MAGIC_COOKIE, transaction)


def read_request(message: bytes) -> bytes:
    """Return the transaction id of a binding request.

    Raises :class:`RemoteProtocolError` for anything else, also for a request with attributes that must be
    understood: none are.
    """
    transaction, attributes = _read(message, _BINDING_REQUEST)
    unknown = [kind for kind, _ in attributes if kind < _COMPREHENSION_OPTIONAL]
    if unknown:
        raise RemoteProtocolError(f"a STUN request with attribute {unknown[0]:#06x}, which is not understood")
    return transaction


def binding_response(transaction: bytes, address: Address, port: int) -> bytes:
    """Return the answer to a binding request that came from ``address`` and ``port``."""
    mask = _mask(transaction)
    family = 1 if address.version == 4 else 2
    value = struct.pack("!BBH", 0, family, port ^ (_MAGIC_COOKIE >> 16)) + _xor(address.packed, mask)
    attribute = _ATTRIBUTE.pack(_XOR_MAPPED_ADDRESS, len(value)) + value
    return _HEADER.pack(_BINDING_SUCCESS, len(attribute), _MAGIC_COOKIE, transaction) + attribute


def read_response(message: bytes, transaction: bytes) -> tuple[Address, int]:
    """Return the address and port that the answer to the request ``transaction`` tells.

    Raises :class:`RemoteProtocolError` when it is no such answer.
    """
    answered, attributes = _read(message, _BINDING_SUCCESS)
    if not secrets.compare_digest(answered, transaction):
        raise RemoteProtocolError("a STUN response to another request")
    value = next((value for kind, value in attributes if kind == _XOR_MAPPED_ADDRESS), b"")
    if len(value) < 4 or _FAMILIES.get(value[1]) != len(value) - 4:
        raise RemoteProtocolError("a STUN response without a valid XOR-MAPPED-ADDRESS")
    port = int.from_bytes(value[2:4]) ^ (_MAGIC_COOKIE >> 16)
    if not port:
        raise RemoteProtocolError("a STUN response that tells port 0")
    return ipaddress.ip_address(_xor(value[4:], _mask(transaction))), port


def _read(message: bytes, expected: int) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Return transaction id and attributes of a message of the type ``expected``."""
    if not _HEADER.size <= len(message) <= LONGEST:
        raise RemoteProtocolError(f"{len(message)} octets are no STUN message")
    kind, length, cookie, transaction = _HEADER.unpack_from(message)
    if cookie != _MAGIC_COOKIE or kind != expected or length % 4 or length != len(message) - _HEADER.size:
        raise RemoteProtocolError("not a STUN message of the kind expected")
    attributes = []
    position = _HEADER.size
    while position < len(message):
        kind, length = _ATTRIBUTE.unpack_from(message, position)
        position += _ATTRIBUTE.size
        if position + length > len(message):
            raise RemoteProtocolError("a STUN attribute goes beyond the end of its message")
        attributes.append((kind, message[position : position + length]))
        position += length + -length % 4
    return transaction, attributes


def _mask(transaction: bytes) -> bytes:
    return _MAGIC_COOKIE.to_bytes(4) + transaction


def _xor(value: bytes, mask: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(value, mask, strict=False))
