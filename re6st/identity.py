"""Identities: keys, X.509 certificates with IPv6 prefixes, chains, signatures of documents.

A node is known by its certificate, issued by the network's certification authority (CA, EC P-256):

- subject CN: the node name; SAN IP address: the node address;
- RFC 3779 address block (non-critical): the node prefix;
- further prefixes of the node, if any, with the same syntax in a non-critical extension of our own. Whoever
  does not know it sees the node prefix only, and gets along with that.

The CA certificate carries the network prefix as critical name constraint (RFC 5280, 4.2.1.10) and as RFC
3779 block, so that OpenSSL itself refuses a certificate for an address outside the network. Chains are
verified by OpenSSL (through pyOpenSSL's ``X509Store``); this module checks what OpenSSL does not know:
that block, SAN and CN describe one node.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import ipaddress
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier
from OpenSSL import crypto

from re6st.errors import ExpiredError, NotYetValidError, StorageError, UntrustedError, file_failure
from re6st.messages import SignedDocument
from re6st.prefix import node_address

REGISTRY_NAME = "registry.re6st.internal"
"""DNS SAN of a registry's certificate: what a client expects, whatever the URL says."""

ADDRESS_BLOCKS = ObjectIdentifier("1.3.6.1.5.5.7.1.7")
"""id-pe-ipAddrBlocks (RFC 3779, 2.2.1)."""

FURTHER_BLOCKS = ObjectIdentifier("2.25.195268698713485163303927114660976424870")
"""Further prefixes of a node (IPAddrBlocks); the number is a UUID (X.667), which needs no registration."""

MAXIMUM_FURTHER = 15
"""Further prefixes in one certificate: certificates are sent around a lot."""

CONTEXT_PARAMETERS = "parameters"
CONTEXT_REVOCATIONS = "revocations"
CONTEXT_PEER = "peer"
"""Contexts of signatures: one for each kind of document."""

_BLOCK_HEADER = bytes([0x04, 0x02, 0x00, 0x02])  # addressFamily OCTET STRING: AFI 2 (IPv6), no SAFI


def encode_address_block(*prefixes: IPv6Network) -> bytes:
    """Return the DER of an ``IPAddrBlocks`` with these IPv6 prefixes, in their order (RFC 3779, 2.2.3)."""
    return sequence(sequence(_BLOCK_HEADER + sequence(b"".join(map(_bit_string, prefixes)))))


def _bit_string(prefix: IPv6Network) -> bytes:
    octets = (prefix.prefixlen + 7) // 8
    unused = octets * 8 - prefix.prefixlen
    return bytes([0x03, octets + 1, unused]) + prefix.network_address.packed[:octets]


def sequence(content: bytes) -> bytes:
    """Return ``content`` as a SEQUENCE (X.690, 8.1.3)."""
    length = len(content)
    if length < 128:
        return bytes([0x30, length]) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([0x30, 0x80 | len(octets)]) + octets + content


def decode_address_block(der: bytes) -> IPv6Network:
    """Return the prefix in an ``IPAddrBlocks`` that holds exactly one IPv6 prefix.

    Raises :class:`UntrustedError` for anything else.
    """
    prefixes = decode_address_blocks(der)
    if len(prefixes) != 1:
        raise UntrustedError("the address block of the certificate is not one IPv6 prefix")
    return prefixes[0]


def decode_address_blocks(der: bytes) -> tuple[IPv6Network, ...]:
    """Return the IPv6 prefixes in an ``IPAddrBlocks``, the lowest first; they do not overlap.

    Raises :class:`UntrustedError` for anything else.
    """
    family = _content(_content(der))
    rest = _content(family.removeprefix(_BLOCK_HEADER))
    prefixes: list[IPv6Network] = []
    while rest:
        end = 2 + rest[1] if len(rest) > 1 else 0
        prefix = _prefix_in(rest[:end])
        if prefixes and prefix.network_address <= prefixes[-1].broadcast_address:
            raise UntrustedError("the prefixes in the address block of the certificate are not in order")
        prefixes.append(prefix)
        rest = rest[end:]
    if encode_address_block(*prefixes) != der:
        raise UntrustedError("the address block of the certificate is malformed")
    return tuple(prefixes)


def _content(der: bytes) -> bytes:
    """Return what is in the SEQUENCE ``der``. Raises :class:`UntrustedError`."""
    long = len(der) > 1 and der[1] & 0x80
    content = der[2 + (der[1] & 0x7F if long else 0) :]
    if sequence(content) != der:
        raise UntrustedError("the address block of the certificate is malformed")
    return content


def _prefix_in(bits: bytes) -> IPv6Network:
    """Return the prefix in a BIT STRING. Raises :class:`UntrustedError`."""
    if 3 <= len(bits) <= 19 and bits[2] < 8:
        length = (len(bits) - 3) * 8 - bits[2]
        if length >= 0:
            prefix = IPv6Network((bits[3:].ljust(16, b"\0"), length), strict=False)
            if _bit_string(prefix) == bits:
                return prefix
    raise UntrustedError("the address block of the certificate is malformed")


def address_block(prefix: IPv6Network) -> x509.UnrecognizedExtension:
    """Return the RFC 3779 extension with ``prefix``, for a certificate builder."""
    return x509.UnrecognizedExtension(ADDRESS_BLOCKS, encode_address_block(prefix))


def further_blocks(prefixes: Sequence[IPv6Network]) -> x509.UnrecognizedExtension:
    """Return the extension with a node's further prefixes, for a certificate builder."""
    return x509.UnrecognizedExtension(FURTHER_BLOCKS, encode_address_block(*sorted(prefixes)))


# -- keys and files -------------------------------------------------------------------------------------


def generate_key() -> ec.EllipticCurvePrivateKey:
    """Return a new private key (EC P-256)."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """Return ``key`` as PKCS #8 PEM, encrypted if a passphrase is given. Write it with mode 0600 only."""
    encryption = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def is_encrypted(pem: bytes) -> bool:
    """Return whether the private key in ``pem`` needs a passphrase (RFC 7468, 11)."""
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in pem


def load_key(path: Path, passphrase: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """Return the private key in the PEM file ``path``; ``passphrase`` counts only if it is encrypted.

    Raises :class:`StorageError` when it cannot be read, :class:`UntrustedError` when it is no EC key or
    encrypted with another passphrase.
    """
    try:
        pem = path.read_bytes()
        key = serialization.load_pem_private_key(pem, passphrase if is_encrypted(pem) else None)
    except OSError as error:
        raise StorageError(f"cannot read the private key: {file_failure(error, path)}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if passphrase is not None and is_encrypted(pem):
            raise UntrustedError(f"{path} is encrypted with another passphrase") from error
        raise UntrustedError(
            f"{path} is not an unencrypted private key in PEM format: restore it from a backup"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UntrustedError(f"{path}: the key must be an EC P-256 key")
    return key


def load_certificate(path: Path) -> bytes:
    """Return the certificate in the PEM file ``path`` as DER.

    Raises :class:`StorageError` or :class:`UntrustedError`.
    """
    try:
        return pem_to_der(path.read_bytes())
    except UntrustedError as error:
        raise UntrustedError(f"{path} holds no certificate (PEM): restore it from a backup") from error
    except OSError as error:
        raise StorageError(f"cannot read the certificate: {file_failure(error, path)}") from error


def pem_to_der(pem: bytes) -> bytes:
    """Return the (first) certificate in ``pem`` as DER. Raises :class:`UntrustedError`."""
    try:
        return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    except _MALFORMED as error:
        raise UntrustedError(f"not a certificate in PEM format: {error}") from error


_PEM_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def pem_to_ders(pem: bytes) -> tuple[bytes, ...]:
    """Return all certificates in ``pem`` as DER. Raises :class:`UntrustedError`."""
    return tuple(pem_to_der(block) for block in _PEM_CERTIFICATE.findall(pem))


def der_to_pem(der: bytes) -> bytes:
    """Return the certificate ``der`` as PEM. Raises :class:`UntrustedError`."""
    return _load_der(der).public_bytes(serialization.Encoding.PEM)


def fingerprint(der: bytes) -> str:
    """Return the SHA-256 fingerprint of a certificate: 64 lower-case hexadecimal digits."""
    return hashlib.sha256(der).hexdigest()


def public_key_digest(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the SHA-256 of ``key`` (SubjectPublicKeyInfo, DER)."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest()


def build_request(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """Return a certification request (PKCS #10, DER) for ``key`` with ``name``, or none if empty, as CN."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    request = x509.CertificateSigningRequestBuilder(x509.Name(attributes)).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


# -- certificates ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeCertificate:
    """What a node certificate says."""

    der: bytes = field(repr=False)
    name: str
    prefix: IPv6Network
    serial: int
    not_before: float
    """Start of validity, seconds since the epoch."""
    not_after: float
    """End of validity, seconds since the epoch."""
    further: tuple[IPv6Network, ...] = ()
    """Other prefixes of the node, the lowest first."""

    @property
    def prefixes(self) -> tuple[IPv6Network, ...]:
        """All that the node owns, the node prefix first."""
        return self.prefix, *self.further

    @property
    def address(self) -> IPv6Address:
        """The node address."""
        return node_address(self.prefix)

    @property
    def serial_hex(self) -> str:
        """The serial number as revocations write it: lower-case hexadecimal."""
        return f"{self.serial:x}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, lower-case hexadecimal."""
        return fingerprint(self.der)


_MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    crypto.Error,
)
"""What the libraries raise for malformed certificates; anyone may send us such ones."""


def _load_der(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except _MALFORMED as error:
        raise UntrustedError(f"not a certificate: {error}") from error


def _load_public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    try:
        key = certificate.public_key()
    except _MALFORMED as error:
        raise UntrustedError(f"the key of the certificate is not usable: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UntrustedError("the key of the certificate is not an EC key")
    return key


def parse_node_certificate(der: bytes) -> NodeCertificate:
    """Return what the node certificate ``der`` says, without verifying who issued it.

    Raises :class:`UntrustedError` unless CN, SAN and address block describe one node.
    """
    certificate = _load_der(der)
    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        extensions = certificate.extensions
        san = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        blocks = extensions.get_extension_for_oid(ADDRESS_BLOCKS).value
    except _MALFORMED as error:
        raise UntrustedError(f"not a node certificate: {error}") from error
    if not isinstance(blocks, x509.UnrecognizedExtension) or len(names) != 1:
        raise UntrustedError("not a node certificate: CN or address block is malformed")
    prefix = decode_address_block(blocks.value)
    if list(san) != [x509.IPAddress(ipaddress.IPv6Address(node_address(prefix)))]:
        raise UntrustedError(f"the certificate's alternative name is not the node address of {prefix}")
    return NodeCertificate(
        der=der,
        name=str(names[0].value),
        prefix=prefix,
        serial=certificate.serial_number,
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        further=_further_prefixes(extensions, prefix),
    )


def _further_prefixes(extensions: x509.Extensions, prefix: IPv6Network) -> tuple[IPv6Network, ...]:
    """Return the further prefixes of the node with ``prefix``. Raises :class:`UntrustedError`."""
    value = next((item.value for item in extensions if item.oid == FURTHER_BLOCKS), None)
    if value is None:
        return ()
    if not isinstance(value, x509.UnrecognizedExtension):
        raise UntrustedError("not a node certificate: the list of further prefixes is malformed")
    further = decode_address_blocks(value.value)
    if len(further) > MAXIMUM_FURTHER or any(prefix.overlaps(other) for other in further):
        raise UntrustedError("not a node certificate: its further prefixes are too many, or overlap")
    return further


def authority_network(der: bytes) -> IPv6Network:
    """Return the network prefix in the CA certificate ``der``. Raises :class:`UntrustedError`."""
    try:
        extension = _load_der(der).extensions.get_extension_for_oid(ADDRESS_BLOCKS).value
    except _MALFORMED as error:
        raise UntrustedError(f"not the certificate of a re6st authority: {error}") from error
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise UntrustedError("not the certificate of a re6st authority: malformed address block")
    return decode_address_block(extension.value)


REMEMBERED = 2048
"""Certificates whose chain was verified that a trust store remembers by default: two kilobytes each."""


class TrustStore:
    """The CA certificates of one network; verifies chains and signatures against them."""

    def __init__(self, authorities: Sequence[bytes], remembered: int = REMEMBERED) -> None:
        """Trust the CA certificates ``authorities`` (DER). All must be of the same network.

        Up to ``remembered`` certificates whose chain was verified are remembered.
        Raises :class:`UntrustedError`.
        """
        if not authorities:
            raise UntrustedError("no CA certificate is given")
        self.authorities = tuple(authorities)
        networks = {authority_network(der) for der in authorities}
        if len(networks) != 1:
            raise UntrustedError("the CA certificates are of different networks")
        self.network: IPv6Network = networks.pop()
        self._remembered = remembered
        self._certificates = [_load_der(der) for der in authorities]
        self._verified: OrderedDict[bytes, NodeCertificate] = OrderedDict()
        """By the SHA-256 of the certificate, that seen last at the end."""

    def verify(self, der: bytes, wall: float) -> NodeCertificate:
        """Return the node certificate ``der`` if its chain is valid at ``wall`` (seconds since the epoch).

        A chain that was verified once holds again while all certificates of the store and the node's are
        valid. Raises :class:`ExpiredError` or :class:`UntrustedError`. Revocation is the caller's to check.
        """
        digest = hashlib.sha256(der).digest()
        known = self._verified.get(digest)
        if known is not None and known.not_before <= wall <= known.not_after and self._is_current(wall):
            self._verified.move_to_end(digest)
            return known
        certificate = self._verify_chain(der, wall)
        self._verified[digest] = certificate
        if len(self._verified) > self._remembered:
            self._verified.popitem(last=False)
        return certificate

    def _is_current(self, wall: float) -> bool:
        return all(
            certificate.not_valid_before_utc.timestamp()
            <= wall
            <= certificate.not_valid_after_utc.timestamp()
            for certificate in self._certificates
        )

    def _verify_chain(self, der: bytes, wall: float) -> NodeCertificate:
        certificate = parse_node_certificate(der)
        store = crypto.X509Store()
        for authority in self._certificates:
            store.add_cert(crypto.X509.from_cryptography(authority))
        store.set_time(datetime.datetime.fromtimestamp(wall, datetime.UTC))
        try:
            leaf = crypto.X509.from_cryptography(_load_der(der))
            crypto.X509StoreContext(store, leaf).verify_certificate()
        except crypto.X509StoreContextError as error:
            span = f"from {format_time(certificate.not_before)} to {format_time(certificate.not_after)}"
            problem = f"the certificate of {certificate.name} is valid only {span}"
            if wall < certificate.not_before:
                raise NotYetValidError(
                    f"{problem}, and this machine's clock is at {format_time(wall)}: set the clock"
                ) from error
            if wall > certificate.not_after:
                raise ExpiredError(problem) from error
            raise UntrustedError(f"the certificate of {certificate.name} is not valid: {error}") from error
        except _MALFORMED as error:
            raise UntrustedError(f"the certificate of {certificate.name} is malformed: {error}") from error
        for prefix in certificate.prefixes:
            if not prefix.subnet_of(self.network) or prefix == self.network:
                raise UntrustedError(f"{prefix} is not inside the network {self.network}")
        return certificate

    def verify_document(self, context: str, document: SignedDocument) -> bytes:
        """Return the payload of ``document`` if a CA of the network signed it for ``context``.

        Raises :class:`UntrustedError`.
        """
        signatures = [
            signature for signature in (document.signature, document.further_signature) if signature
        ]
        for authority in self._certificates:
            key = _load_public_key(authority)
            if any(_holds(key, context, document.payload, signature) for signature in signatures):
                return document.payload
        raise UntrustedError(f"the signature of the {context} document is not of this network's CA")

    def issuer(self, der: bytes) -> bytes | None:
        """Return the CA certificate that issued the certificate ``der``, None if it is none of ours."""
        certificate = _load_der(der)
        for authority, trusted in zip(self._certificates, self.authorities, strict=True):
            with contextlib.suppress(InvalidSignature, *_MALFORMED):
                certificate.verify_directly_issued_by(authority)
                return trusted
        return None

    def adopt(self, authorities: Sequence[bytes]) -> bool:
        """Trust these CA certificates (DER) instead, for everyone who uses this store; return if that is new.

        Raises :class:`UntrustedError`, with nothing changed, unless all are of this network.
        """
        other = TrustStore(authorities)
        if other.network != self.network:
            raise UntrustedError(f"the CA certificates are of {other.network}, not of {self.network}")
        changed = self.authorities != other.authorities
        self.authorities, self._certificates = other.authorities, other._certificates
        self._verified.clear()
        return changed


_LATEST = datetime.datetime.max.replace(tzinfo=datetime.UTC, microsecond=0).timestamp()


def format_time(wall: float) -> str:
    """Return a time for people: ``2026-01-31 12:00 UTC``; what is later than the year 9999 is its end."""
    return datetime.datetime.fromtimestamp(min(wall, _LATEST), datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


# -- signatures -----------------------------------------------------------------------------------------


def _covered(context: str, payload: bytes) -> bytes:
    return context.encode() + b"\0" + payload


def _holds(key: ec.EllipticCurvePublicKey, context: str, payload: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, _covered(context, payload), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def sign(key: ec.EllipticCurvePrivateKey, context: str, payload: bytes) -> bytes:
    """Return the signature (ECDSA, SHA-256, DER) of ``payload`` as a document of the kind ``context``."""
    return key.sign(_covered(context, payload), ec.ECDSA(hashes.SHA256()))


def sign_document(
    key: ec.EllipticCurvePrivateKey,
    context: str,
    payload: bytes,
    further_key: ec.EllipticCurvePrivateKey | None = None,
) -> SignedDocument:
    """Return ``payload`` as a signed document, signed with ``further_key``, too, if there is one."""
    further = sign(further_key, context, payload) if further_key is not None else b""
    return SignedDocument(payload=payload, signature=sign(key, context, payload), further_signature=further)


def verify_signature(certificate: NodeCertificate, context: str, payload: bytes, signature: bytes) -> None:
    """Raise :class:`UntrustedError` unless the node of ``certificate`` signed ``payload``."""
    if not _holds(_load_public_key(_load_der(certificate.der)), context, payload, signature):
        raise UntrustedError(f"a {context} document is not signed by {certificate.name}")
