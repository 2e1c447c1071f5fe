"""A private key that this process does not have: what :mod:`cryptography` needs of it beside signatures."""

from __future__ import annotations

import abc
from typing import NoReturn, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from re6st.errors import ConfigError, UntrustedError


def certified_key(certificate: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key in ``certificate`` (DER). Raises :class:`UntrustedError`."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UntrustedError("the CA certificate has no elliptic curve key")
    return key


class HeldKey(ec.EllipticCurvePrivateKey):
    """The key of a certificate, held by somebody who signs with it."""

    def __init__(self, public_key: ec.EllipticCurvePublicKey) -> None:
        """Stand for the private key of ``public_key``."""
        self._public_key = public_key

    @abc.abstractmethod
    def sign_whole(self, data: bytes) -> bytes:
        """Return the signature (DER) of ``data`` by ECDSA with SHA-256. Raises :class:`StorageError`."""

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Return the public key."""
        return self._public_key

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve of the key."""
        return self._public_key.curve

    @property
    def key_size(self) -> int:
        """Bits of the key."""
        return self._public_key.key_size

    def sign(
        self,
        data: bytes | bytearray | memoryview,
        signature_algorithm: ec.EllipticCurveSignatureAlgorithm,
    ) -> bytes:
        """Return the signature of ``data``, by ECDSA with SHA-256 only. Raises :class:`StorageError`."""
        algorithm = signature_algorithm.algorithm
        if isinstance(algorithm, Prehashed) or not isinstance(algorithm, hashes.SHA256):
            raise TypeError("a key that is held elsewhere signs with SHA-256 only")
        return self.sign_whole(bytes(data))

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        """Agree on no secret: the key only signs."""
        raise _not_here()

    def private_numbers(self) -> NoReturn:
        """Give nothing away: the key is not here."""
        raise _not_here()

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,  # noqa: A002 - the name in the interface
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> NoReturn:
        """Give nothing away: the key is not here."""
        raise _not_here()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self


def _not_here() -> ConfigError:
    return ConfigError("the CA's key is held elsewhere: do this there")
