"""Certificates for tests: an authority and node certificates as the design describes them."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from ipaddress import IPv6Network
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from re6st.identity import address_block, fingerprint, generate_key, key_to_pem
from re6st.prefix import node_address

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class NodeFiles:
    """Key and certificate of a node, and the CA's, as files."""

    name: str
    prefix: IPv6Network
    fingerprint: str
    authority: Path
    certificate: Path
    key: Path


class TestAuthority:
    """A CA of one network."""

    __test__ = False

    def __init__(self, directory: Path, network: str = "2001:db8:42::/48") -> None:
        self.directory = directory
        self.network = IPv6Network(network)
        self.key = generate_key()
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"re6st {network}")])
        now = datetime.datetime.now(datetime.UTC)
        self.certificate = (
            self._builder(self.name, self.key.public_key(), now - DAY, now + 365 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.NameConstraints([x509.IPAddress(self.network)], excluded_subtrees=None), critical=True
            )
            .add_extension(address_block(self.network), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "ca.crt"
        self.path.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str, number: int, *, days: int = 30, trust: Path | None = None) -> NodeFiles:
        """Issue a certificate for the node with the ``number``-th /64; expired if ``days`` is negative."""
        network = int(self.network.network_address)
        prefix = IPv6Network((network + (number << 64), 64))
        key = generate_key()
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            self._builder(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
                key.public_key(),
                now - 60 * DAY,
                now + days * DAY,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(node_address(prefix))]), critical=False
            )
            .add_extension(address_block(prefix), critical=False)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=True,
                    key_cert_sign=False,
                    crl_sign=False,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )
        files = NodeFiles(
            name=name,
            prefix=prefix,
            fingerprint=fingerprint(certificate.public_bytes(Encoding.DER)),
            authority=trust or self.path,
            certificate=self.directory / f"{name}.crt",
            key=self.directory / f"{name}.key",
        )
        files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        files.key.touch(mode=0o600)
        files.key.write_bytes(key_to_pem(key))
        return files

    def _builder(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        not_before: datetime.datetime,
        not_after: datetime.datetime,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
        )
