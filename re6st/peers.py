"""Peers: verified records of other nodes, and how a record is sealed and opened.

A :class:`Peer` exists only after :func:`open_record` verified chain, signature and consistency, so the
rest of the program need not ask again. The bounded set of peers that a node knows is the
:class:`re6st.core.book.AddressBook`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network

from cryptography.hazmat.primitives.asymmetric import ec

from re6st.errors import ConfigError, RemoteProtocolError, UntrustedError
from re6st.identity import CONTEXT_PEER, TrustStore, fingerprint, sign, verify_signature
from re6st.messages import Endpoint, PeerRecord, SignedPeerRecord, decode, encode
from re6st.prefix import node_address, parse_prefix

PUNCHING = "punch"
"""Capability of nodes that take tunnel requests over the overlay and make both ends dial each other."""

NOTHING_SIGNED = SignedPeerRecord(certificate=b"", payload=b"", signature=b"")


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node, as its newest known record describes it."""

    prefix: IPv6Network
    name: str
    sequence: int
    endpoints: tuple[Endpoint, ...] = ()
    capabilities: tuple[str, ...] = ()
    software: str = ""
    departed: bool = False
    serial: str = ""
    """Serial number of its certificate, lower-case hexadecimal."""
    expires: float = float("inf")
    """End of its certificate's validity, seconds since the epoch."""
    further: tuple[IPv6Network, ...] = ()
    """Its further prefixes."""
    signed: SignedPeerRecord = field(default=NOTHING_SIGNED, repr=False, compare=False)
    """The record itself, to be passed on."""

    @property
    def address(self) -> IPv6Address:
        """The node address."""
        return node_address(self.prefix)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the node's certificate, lower-case hexadecimal."""
        return fingerprint(self.signed.certificate)

    @property
    def punchable(self) -> bool:
        """Whether the peer cannot be dialled but can take part in UDP hole punching."""
        return PUNCHING in self.capabilities and not self.endpoints and not self.departed

    @property
    def reachable(self) -> bool:
        """Whether the peer says that it can be dialled from outside."""
        return bool(self.endpoints) and not self.departed


def seal_record(key: ec.EllipticCurvePrivateKey, certificate: bytes, record: PeerRecord) -> SignedPeerRecord:
    """Return ``record`` signed with ``key``, together with the node's ``certificate`` (DER)."""
    payload = encode(record)
    return SignedPeerRecord(
        certificate=certificate, payload=payload, signature=sign(key, CONTEXT_PEER, payload)
    )


def open_record(signed: SignedPeerRecord, trust: TrustStore, wall: float) -> Peer:
    """Return the peer that ``signed`` describes, verified at ``wall`` (seconds since the epoch).

    Raises :class:`IdentityError` when certificate or signature do not hold, and
    :class:`RemoteProtocolError` when the payload is malformed.
    """
    certificate = trust.verify(signed.certificate, wall)
    verify_signature(certificate, CONTEXT_PEER, signed.payload, signed.signature)
    record = decode(signed.payload, PeerRecord)
    try:
        prefix = parse_prefix(record.prefix)
    except ConfigError as error:
        raise RemoteProtocolError(f"record of {certificate.name}: {error}") from error
    if prefix != certificate.prefix or record.name != certificate.name:
        raise UntrustedError(f"the record of {certificate.name} claims to be {record.name}, {record.prefix}")
    for endpoint in record.endpoints:
        try:
            ipaddress.ip_address(endpoint.address)
        except ValueError as error:
            raise RemoteProtocolError(f"record of {certificate.name}: {error}") from error
    return Peer(
        prefix=prefix,
        name=record.name,
        sequence=record.sequence,
        endpoints=record.endpoints,
        capabilities=record.capabilities,
        software=record.software,
        departed=record.departed,
        serial=certificate.serial_hex,
        expires=certificate.not_after,
        further=certificate.further,
        signed=signed,
    )
