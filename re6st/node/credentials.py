"""Key, certificate and CA of this node: where they lie on disk and how they are loaded.

key.pem           private key, made here, never leaves (0600)
certificate.pem   the node's certificate
ca.pem            CA certificates of the network
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from re6st.errors import ConfigError, StorageError, UntrustedError, file_failure
from re6st.files import write_atomically
from re6st.identity import (
    NodeCertificate,
    TrustStore,
    der_to_pem,
    load_certificate,
    load_key,
    pem_to_ders,
)


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """Paths of the credentials in a state directory."""

    directory: Path

    @property
    def key(self) -> Path:
        """The private key."""
        return self.directory / "key.pem"

    @property
    def pending_key(self) -> Path:
        """The key of a join that is not finished."""
        return self.directory / "key.pem.new"

    @property
    def pending_token(self) -> Path:
        """The secret of a request for admission that is not answered."""
        return self.directory / "request.token"

    @property
    def certificate(self) -> Path:
        """The node's certificate."""
        return self.directory / "certificate.pem"

    @property
    def authority(self) -> Path:
        """The CA certificates."""
        return self.directory / "ca.pem"

    def exist(self) -> bool:
        """Whether this node has joined: key and certificate are there. Raises :class:`StorageError`."""
        try:
            return self.key.exists() and self.certificate.exists()
        except OSError as error:
            raise StorageError(f"cannot look for the key: {file_failure(error, self.key)}") from error

    def store_certificate(self, der: bytes) -> None:
        """Write the node's certificate. Raises :class:`StorageError`."""
        write_atomically(self.certificate, der_to_pem(der), 0o644)

    def store_authorities(self, authorities: Sequence[bytes]) -> None:
        """Write the CA certificates (DER). Raises :class:`StorageError`."""
        self.prepare()
        write_atomically(self.authority, b"".join(der_to_pem(der) for der in authorities), 0o644)

    def prepare(self) -> None:
        """Make the directory, for its owner only. Raises :class:`StorageError`."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make the state directory: {file_failure(error, self.directory)}"
            ) from error


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who this node is and whom it trusts."""

    files: CredentialFiles
    key: ec.EllipticCurvePrivateKey
    certificate: NodeCertificate
    trust: TrustStore

    def server_context(self) -> ssl.SSLContext:
        """Return a TLS context for a server that demands a certificate of the network."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        return self._complete(context)

    def client_context(self) -> ssl.SSLContext:
        """Return a TLS context for a client that shows the node's certificate."""
        return self._complete(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def _complete(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=b"".join(self.trust.authorities))
        context.load_cert_chain(self.files.certificate, self.files.key)
        return context


def load_credentials(directory: Path, wall: float) -> Credentials:
    """Return the credentials in ``directory``, verified at ``wall`` (seconds since the epoch).

    Raises :class:`ConfigError` before joining, :class:`StorageError`, :class:`ExpiredError` or
    :class:`UntrustedError`.
    """
    files = CredentialFiles(directory)
    if not files.exist():
        raise ConfigError(f"{directory} holds no key and certificate: join first (re6st-node join LINK)")
    try:
        authority = files.authority.read_bytes()
    except OSError as error:
        raise StorageError(
            f"cannot read the CA certificate: {file_failure(error, files.authority)}"
        ) from error
    try:
        if not (authorities := pem_to_ders(authority)):
            raise UntrustedError(f"{files.authority} is damaged: it holds no certificate")
        trust = TrustStore(authorities)
        key = load_key(files.key)
        der = load_certificate(files.certificate)
        certificate = trust.verify(der, wall)
        if not same_key(key, der):
            raise UntrustedError(f"{files.key} is not the key of {files.certificate}")
    except UntrustedError as error:
        remedy = "if that cannot be mended, ask for a join link and use re6st-node join --force"
        raise UntrustedError(f"{error}; {remedy}") from error
    return Credentials(files=files, key=key, certificate=certificate, trust=trust)


def same_key(key: ec.EllipticCurvePrivateKey, der: bytes) -> bool:
    """Return whether the certificate ``der`` is for ``key``."""
    from cryptography import x509

    return x509.load_der_x509_certificate(der).public_key() == key.public_key()
