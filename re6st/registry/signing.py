"""What a CA's signing process signs: what the registry of this network has to sign, and nothing else.

Whoever breaks into the registry can then let nodes in until he is noticed, but has neither the key nor a CA
of his own. Allowed are, with exactly the extensions that :mod:`re6st.registry.authority` gives them:

    node certificate     with an address block inside the network and its node address, for a limited time
    server certificate   for :data:`REGISTRY_NAME`
    documents            sound network parameters that name no CA whose key is elsewhere, revocations

The text says what was judged, for the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Network

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from re6st.errors import ConfigError, Re6stError, UntrustedError
from re6st.identity import (
    ADDRESS_BLOCKS,
    CONTEXT_PARAMETERS,
    CONTEXT_REVOCATIONS,
    FURTHER_BLOCKS,
    REGISTRY_NAME,
    authority_network,
    format_time,
    parse_node_certificate,
    sequence,
)
from re6st.messages import NetworkParameters, Revocations, decode
from re6st.prefix import check_node_length
from re6st.registry.authority import CLOCK_TOLERANCE, key_usage
from re6st.registry.certification import check_name
from re6st.registry.parameters import check_parameters

_ALGORITHM = bytes.fromhex("300a06082a8648ce3d040302")
"""AlgorithmIdentifier of ecdsa-with-SHA256 (RFC 5758, 3.2)."""

_NO_SIGNATURE = bytes.fromhex("030100")

_COMMON = {
    x509.BasicConstraints.oid,
    x509.KeyUsage.oid,
    x509.ExtendedKeyUsage.oid,
    x509.SubjectAlternativeName.oid,
    x509.SubjectKeyIdentifier.oid,
    x509.AuthorityKeyIdentifier.oid,
}

_MALFORMED = (ValueError, TypeError, x509.DuplicateExtension, x509.InvalidVersion, x509.ExtensionNotFound)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What may be signed."""

    text: str
    context: str | None = None
    """Of a document; None for a certificate."""
    version: int = 0
    """Of a document."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What is signed with the key of one CA certificate."""

    certificate: bytes
    """Of the CA (DER)."""
    authority: x509.Certificate
    """The same, parsed."""
    network: IPv6Network
    longest: float
    """Seconds for which a certificate may be valid from now on."""
    trusted: tuple[bytes, ...]
    """The CAs (DER) whose keys are held here, this one among them."""

    @classmethod
    def of(cls, certificate: bytes, longest: float, trusted: tuple[bytes, ...] = ()) -> Policy:
        """Return the policy of the CA ``certificate`` (DER), which is ``trusted`` with or without others.

        Raises :class:`UntrustedError`.
        """
        parsed = x509.load_der_x509_certificate(certificate)
        return cls(certificate, parsed, authority_network(certificate), longest, trusted or (certificate,))

    def judge(self, data: bytes, now: float) -> Judgement:
        """Return what ``data`` is, if it may be signed at ``now`` (seconds since the epoch).

        Raises :class:`UntrustedError`.
        """
        try:
            if data[:1] == b"\x30":
                return Judgement(self._judge_certificate(data, now))
            return self._judge_document(data)
        except UntrustedError:
            raise
        except Re6stError as error:
            raise UntrustedError(str(error)) from error
        except _MALFORMED as error:
            raise UntrustedError(f"malformed: {error}") from error

    def _judge_document(self, data: bytes) -> Judgement:
        context, _, payload = data.partition(b"\0")
        if context == CONTEXT_PARAMETERS.encode():
            parameters = decode(payload, NetworkParameters)
            check_parameters(parameters, self.network)
            if not set(parameters.authorities) <= set(self.trusted):
                raise UntrustedError("parameters that name another CA, which nodes would trust")
            text = f"parameters version={parameters.version}"
            return Judgement(text, CONTEXT_PARAMETERS, parameters.version)
        if context == CONTEXT_REVOCATIONS.encode():
            revocations = decode(payload, Revocations)
            text = f"revocations version={revocations.version} serials={len(revocations.serials)}"
            return Judgement(text, CONTEXT_REVOCATIONS, revocations.version)
        raise UntrustedError("neither a certificate nor a document of the network")

    def _judge_certificate(self, tbs: bytes, now: float) -> str:
        der = sequence(tbs + _ALGORITHM + _NO_SIGNATURE)
        certificate = x509.load_der_x509_certificate(der)
        if certificate.tbs_certificate_bytes != tbs:
            raise UntrustedError("not exactly one certificate")
        self._check_frame(certificate, now)
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        identifiers = {extension.oid for extension in certificate.extensions}
        until = f"serial={certificate.serial_number:x} until={format_time(_end(certificate))}"
        if identifiers == _COMMON:
            self._check_server(certificate, usages)
            return f"server certificate {until}"
        node = parse_node_certificate(der)
        if identifiers - {FURTHER_BLOCKS} != _COMMON | {ADDRESS_BLOCKS} or set(usages) != {
            ExtendedKeyUsageOID.CLIENT_AUTH,
            ExtendedKeyUsageOID.SERVER_AUTH,
        }:
            raise UntrustedError("a node certificate has other extensions than every node's")
        for prefix in node.prefixes:
            if not prefix.subnet_of(self.network):
                raise UntrustedError(f"{prefix} is not inside the network {self.network}")
            check_node_length(self.network, prefix.prefixlen)
        check_name(node.name)
        prefixes = ",".join(str(prefix) for prefix in node.prefixes)
        return f"node certificate name={node.name} prefix={prefixes} {until}"

    def _check_frame(self, certificate: x509.Certificate, now: float) -> None:
        """Refuse what is wrong for every certificate: issuer, time, key, powers."""
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
        usage = extensions.get_extension_for_class(x509.KeyUsage)
        key = certificate.public_key()
        if certificate.issuer != self.authority.subject or len(certificate.subject) != 1:
            raise UntrustedError("a certificate of another issuer, or with a subject of several parts")
        if constraints.value.ca or not constraints.critical:
            raise UntrustedError("a certificate of a CA")
        if usage.value != key_usage(authority=False) or not usage.critical:
            raise UntrustedError("a certificate with other key usages than every node's")
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise UntrustedError("a certificate for a key that is not EC P-256")
        if any(key == x509.load_der_x509_certificate(der).public_key() for der in self.trusted):
            raise UntrustedError("a certificate for the CA's own key")
        begin, end = certificate.not_valid_before_utc.timestamp(), _end(certificate)
        if begin < now - 2 * CLOCK_TOLERANCE or end > min(_end(self.authority), now + self.longest):
            raise UntrustedError(
                f"a certificate from {format_time(begin)} to {format_time(end)}: longer than allowed"
            )

    def _check_server(self, certificate: x509.Certificate, usages: x509.ExtendedKeyUsage) -> None:
        names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if (
            names != [REGISTRY_NAME]
            or list(san) != [x509.DNSName(REGISTRY_NAME)]
            or list(usages) != [ExtendedKeyUsageOID.SERVER_AUTH]
        ):
            raise UntrustedError("a server certificate that is not the registry's")


def check_longest(longest: float) -> None:
    """Raise :class:`ConfigError` unless certificates may be valid for ``longest`` seconds."""
    if longest < CLOCK_TOLERANCE:
        raise ConfigError("certificates must be allowed to be valid for one hour (1h) at least")


def _end(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()
