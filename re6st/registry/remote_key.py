"""The CA's private key in another process: question and answer over its Unix socket.

    question   length (4 octets, network byte order), what is to be signed
    answer     verdict (1 octet: 0 signed, 1 refused), length (4 octets), signature (ECDSA, DER) or reason

The whole that is to be signed is sent, not its digest, so that the other side can judge it
(:mod:`re6st.registry.signing`). One connection for each signature: neither side keeps a state.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import NoReturn, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from re6st.errors import ConfigError, StorageError, UntrustedError

TIMEOUT = 5.0
"""Seconds that the other process may take for each step."""

LENGTH = struct.Struct("!I")

SIGNED, REFUSED = 0, 1
"""Verdicts."""

LONGEST_ANSWER = 4096


class RemoteKey(ec.EllipticCurvePrivateKey):
    """A key that another process holds, for :mod:`cryptography` to build and sign with as with any other."""

    def __init__(self, path: Path, certificate: bytes) -> None:
        """Use the key of ``certificate`` (DER) at the socket ``path``. Raises :class:`UntrustedError`."""
        key = x509.load_der_x509_certificate(certificate).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise UntrustedError("the CA certificate has no elliptic curve key")
        self._path = path
        self._public_key = key

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
        self, data: bytes | bytearray | memoryview, signature_algorithm: ec.EllipticCurveSignatureAlgorithm
    ) -> bytes:
        """Return the signature of ``data``, by ECDSA with SHA-256 only.

        Raises :class:`StorageError` when the other process is away or refuses.
        """
        algorithm = signature_algorithm.algorithm
        if isinstance(algorithm, Prehashed) or not isinstance(algorithm, hashes.SHA256):
            raise TypeError("the signing process signs with SHA-256 only")
        try:
            verdict, answer = self._ask(bytes(data))
        except OSError as error:
            raise StorageError(
                f"the CA's signing process does not answer at {self._path} ({error.strerror or error}): see"
                " that re6st-registry signer runs, and that this user may use its socket"
            ) from error
        if verdict != SIGNED:
            reason = answer.decode(errors="replace")
            raise StorageError(f"the CA's signing process refuses: {reason}; its log says more")
        return answer

    def _ask(self, data: bytes) -> tuple[int, bytes]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(str(self._path))
            connection.sendall(LENGTH.pack(len(data)) + data)
            with connection.makefile("rb") as stream:
                head = stream.read(1 + LENGTH.size)
                if len(head) < 1 + LENGTH.size:
                    raise ConnectionResetError("it closed the connection")
                (length,) = LENGTH.unpack(head[1:])
                return head[0], stream.read(min(length, LONGEST_ANSWER))

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
    return ConfigError("the CA's key is with the signing process: do this on its side")
