"""Certification requests: what a node may ask for (PKCS #10, RFC 2986).

The registry decides on name and prefix; a request contributes the public key and a wished name. One that
asks for more (somebody else's name, any address or prefix but its own, other powers) is refused
rather than silently cut down: its sender is mistaken or malicious, and should hear of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Network

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID

from re6st.errors import RegistryRefusedError
from re6st.identity import ADDRESS_BLOCKS, encode_address_block, public_key_digest
from re6st.messages import NAME_PATTERN
from re6st.prefix import node_address

NAME_LENGTH = 63

_PARSING_ERRORS = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the x509 module raises for malformed requests."""


@dataclass(frozen=True, slots=True)
class CertificationRequest:
    """A request that may be granted."""

    name: str
    """The wished node name, or empty."""
    public_key: ec.EllipticCurvePublicKey

    @property
    def key_digest(self) -> bytes:
        """SHA-256 of the public key (SubjectPublicKeyInfo, DER)."""
        return public_key_digest(self.public_key)


def check_name(name: str) -> None:
    """Raise :class:`RegistryRefusedError` unless ``name`` can be a node name."""
    if len(name) > NAME_LENGTH or re.fullmatch(NAME_PATTERN, name) is None:
        raise RegistryRefusedError(
            f"{name[:80]!r} cannot be a name: 1 to {NAME_LENGTH} letters, digits, '.', '_' and '-',"
            " beginning and ending with a letter or digit",
            code="name-invalid",
        )


def open_request(der: bytes, prefix: IPv6Network | None = None) -> CertificationRequest:
    """Return what the request ``der`` asks for; ``prefix`` is that of a node which renews, else None.

    Raises :class:`RegistryRefusedError` with one of the codes ``request-malformed``,
    ``request-unsupported-key``, ``request-unsigned``, ``name-invalid``, ``foreign-prefix`` and
    ``extension-not-allowed``.
    """
    try:
        request = x509.load_der_x509_csr(der)
        key = request.public_key()
        attributes = list(request.subject)
        extensions = list(request.extensions)
    except _PARSING_ERRORS as error:
        raise RegistryRefusedError(
            f"not a certification request (PKCS #10, DER): {error}", code="request-malformed"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RegistryRefusedError(
            "the key of the request must be an EC P-256 key", code="request-unsupported-key"
        )
    if not _is_self_signed(request):
        raise RegistryRefusedError(
            "the request is not signed with its own key: its sender does not prove to hold it",
            code="request-unsigned",
        )
    for extension in extensions:
        _check_extension(extension, prefix)
    return CertificationRequest(_requested_name(attributes), key)


def _is_self_signed(request: x509.CertificateSigningRequest) -> bool:
    try:
        return request.is_signature_valid
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False


def _requested_name(attributes: list[x509.NameAttribute[str | bytes]]) -> str:
    if not attributes:
        return ""
    if len(attributes) != 1 or attributes[0].oid != NameOID.COMMON_NAME:
        raise RegistryRefusedError(
            "the subject of the request may only be a common name (CN)", code="name-invalid"
        )
    name = str(attributes[0].value)
    if name:
        check_name(name)
    return name


def _check_extension(extension: x509.Extension[x509.ExtensionType], prefix: IPv6Network | None) -> None:
    """Refuse addresses and prefixes other than the requester's own, and every other extension."""
    value = extension.value
    if extension.oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME:
        own = prefix is not None and value == x509.SubjectAlternativeName(
            [x509.IPAddress(node_address(prefix))]
        )
        what = "alternative name"
    elif extension.oid == ADDRESS_BLOCKS:
        own = (
            prefix is not None
            and isinstance(value, x509.UnrecognizedExtension)
            and value.value == encode_address_block(prefix)
        )
        what = "address block"
    else:
        raise RegistryRefusedError(
            f"the request may not ask for the extension {extension.oid.dotted_string}",
            code="extension-not-allowed",
        )
    if not own:
        raise RegistryRefusedError(
            f"the request asks for an {what} that is not the node's own: the registry assigns prefixes",
            code="foreign-prefix",
        )
