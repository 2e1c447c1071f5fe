"""The network's certification authority: issues certificates, signs documents.

    CA certificate      EC P-256, signs only leaves (pathlen 0); the network prefix as critical name
                        constraint for IP addresses and as RFC 3779 address block
    node certificate    CN node name, SAN node address, address block node prefix; client and server
    registry's own      SAN DNS REGISTRY_NAME; server only. Its URL may hold any address: a SAN with an
                        underlay address would violate the constraint.

Nothing here asks the clock or keeps a file.
"""

from __future__ import annotations

import datetime
import secrets
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Network

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from re6st.errors import UntrustedError
from re6st.identity import (
    CONTEXT_PARAMETERS,
    CONTEXT_REVOCATIONS,
    REGISTRY_NAME,
    TrustStore,
    address_block,
    fingerprint,
    further_blocks,
    sign_document,
)
from re6st.messages import NetworkParameters, Revocations, SignedDocument, encode
from re6st.prefix import node_address
from re6st.registry.parameters import check_parameters

DAY = 86400.0

AUTHORITY_VALIDITY = 20 * 365.25 * DAY
"""Seconds for which a new CA certificate is valid."""

NODE_VALIDITY = 365 * DAY
"""Seconds for which a node certificate is valid unless the operator chose otherwise."""

SERVER_VALIDITY = 365 * DAY
"""Seconds for which the certificate of the registry's server is valid; it renews it by itself."""

CLOCK_TOLERANCE = 3600.0
"""Seconds by which certificates are antedated: the clocks of small machines are often slow after boot."""


REMEMBERED = 16_384
"""Nodes whose certificate is not verified anew each time that they ask, which takes longer than to answer."""


def new_serial() -> int:
    """Return a random serial number (RFC 5280, 4.1.2.2): 64 unpredictable bits, 17 hexadecimal digits.

    Shorter than the 20 octets that are possible, since revocations list serial numbers.
    """
    return (1 << 64) + secrets.randbits(64)


def build_authority(
    key: ec.EllipticCurvePrivateKey, network: IPv6Network, now: float, validity: float = AUTHORITY_VALIDITY
) -> bytes:
    """Return the self-signed CA certificate (DER) of ``network``; times in seconds (since the epoch)."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"re6st network {network}")])
    constraints = x509.NameConstraints([x509.IPAddress(network)], None)
    builder = (
        _builder(subject, subject, key.public_key(), now - CLOCK_TOLERANCE, now + validity, new_serial())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(authority=True), critical=True)
        .add_extension(constraints, critical=True)
        .add_extension(address_block(network), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA certificate with its private key, and the other one while one takes over from the other."""

    certificate: bytes
    """DER."""
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    other: Authority | None = None
    """Trusted as well, and signs documents as well, but issues no certificates."""

    def __post_init__(self) -> None:
        """Raise :class:`UntrustedError` when certificate and key do not belong together."""
        if x509.load_der_x509_certificate(self.certificate).public_key() != self.key.public_key():
            raise UntrustedError("the CA's private key does not belong to the CA certificate")

    @property
    def trust(self) -> TrustStore:
        """What verifies certificates and documents of this authority."""
        certificates = [self.certificate, *([self.other.certificate] if self.other else [])]
        return TrustStore(certificates, REMEMBERED)

    def led_by(self, certificate: bytes) -> Authority:
        """Return the same authorities, the one with ``certificate`` issuing, if it is one of them."""
        if self.other is None or self.other.certificate != certificate:
            return self
        return replace(self.other, other=replace(self, other=None))

    @property
    def network(self) -> IPv6Network:
        """The prefix of the network."""
        return self.trust.network

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the CA certificate, 64 hexadecimal digits."""
        return fingerprint(self.certificate)

    def issue_node(
        self,
        public_key: ec.EllipticCurvePublicKey,
        name: str,
        prefix: IPv6Network,
        now: float,
        validity: float = NODE_VALIDITY,
        further: tuple[IPv6Network, ...] = (),
    ) -> bytes:
        """Return a certificate (DER) for the node ``name`` that owns ``prefix`` and ``further`` ones.

        ``now`` is in seconds since the epoch, ``validity`` in seconds; no certificate outlives the CA.
        """
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        san = x509.SubjectAlternativeName([x509.IPAddress(node_address(prefix))])
        builder = self._leaf(subject, public_key, usages, san, now, validity)
        builder = builder.add_extension(address_block(prefix), critical=False)
        if further:
            builder = builder.add_extension(further_blocks(further), critical=False)
        return self._sign(builder)

    def issue_server(
        self, public_key: ec.EllipticCurvePublicKey, now: float, validity: float = SERVER_VALIDITY
    ) -> bytes:
        """Return a certificate (DER) for the registry's own HTTPS server; times as for nodes."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, REGISTRY_NAME)])
        san = x509.SubjectAlternativeName([x509.DNSName(REGISTRY_NAME)])
        return self._sign(
            self._leaf(subject, public_key, [ExtendedKeyUsageOID.SERVER_AUTH], san, now, validity)
        )

    def sign_parameters(self, parameters: NetworkParameters) -> SignedDocument:
        """Return ``parameters`` signed. Raises :class:`ConfigError` unless they are sound."""
        check_parameters(parameters, self.network)
        return self._sign_document(CONTEXT_PARAMETERS, encode(parameters))

    def sign_revocations(self, revocations: Revocations) -> SignedDocument:
        """Return ``revocations`` signed."""
        return self._sign_document(CONTEXT_REVOCATIONS, encode(revocations))

    def _sign_document(self, context: str, payload: bytes) -> SignedDocument:
        return sign_document(self.key, context, payload, self.other.key if self.other else None)

    def _leaf(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        usages: list[x509.ObjectIdentifier],
        san: x509.SubjectAlternativeName,
        now: float,
        validity: float,
    ) -> x509.CertificateBuilder:
        issuer = x509.load_der_x509_certificate(self.certificate)
        start = max(now - CLOCK_TOLERANCE, issuer.not_valid_before_utc.timestamp())
        end = min(now + validity, issuer.not_valid_after_utc.timestamp())
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return (
            _builder(subject, issuer.subject, public_key, start, end, new_serial())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(san, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(identifier, critical=False)
        )

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    start: float,
    end: float,
    serial: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(datetime.datetime.fromtimestamp(int(start), datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(int(end), datetime.UTC))
    )


def key_usage(*, authority: bool) -> x509.KeyUsage:
    """Return what the key of the CA, or of any other certificate, may be used for."""
    # The CA's key also signs documents: parameters and revocations.
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
