"""The CA's private key in another process: question and answer over its Unix socket.

    question   length of what follows (4 octets, network byte order),
               which key (SHA-256 of its SubjectPublicKeyInfo, 32 octets), what is to be signed
    answer     verdict (1 octet: 0 signed, 1 refused), length (4 octets), signature (ECDSA, DER) or reason

The whole that is to be signed is sent, not its digest, so that the other side can judge it
(:mod:`re6st.registry.signing`). One connection for each signature: neither side keeps a state.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from re6st.errors import SignerTimeoutError, StorageError
from re6st.identity import public_key_digest
from re6st.registry.held_key import HeldKey, certified_key

TIMEOUT = 5.0
"""Seconds that the other process may take for each step."""

LENGTH = struct.Struct("!I")

SIGNED, REFUSED = 0, 1
"""Verdicts."""

LONGEST_ANSWER = 4096


def question(key: bytes, data: bytes) -> bytes:
    """Return what asks for the signature of ``data`` with the key that has the digest ``key``."""
    return LENGTH.pack(len(key) + len(data)) + key + data


class RemoteKey(HeldKey):
    """A key that another process holds."""

    def __init__(self, path: Path, certificate: bytes) -> None:
        """Use the key of ``certificate`` (DER) at the socket ``path``. Raises :class:`UntrustedError`."""
        super().__init__(certified_key(certificate))
        self._path = path
        self._digest = public_key_digest(self.public_key())

    def sign_whole(self, data: bytes) -> bytes:
        """Return the signature of ``data``.

        Raises :class:`StorageError` when the other process is away or refuses, :class:`SignerTimeoutError`
        when it hangs.
        """
        try:
            verdict, answer = self._ask(data)
        except OSError as error:
            kind = SignerTimeoutError if isinstance(error, TimeoutError) else StorageError
            raise kind(
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
            connection.sendall(question(self._digest, data))
            with connection.makefile("rb") as stream:
                head = stream.read(1 + LENGTH.size)
                if len(head) < 1 + LENGTH.size:
                    raise ConnectionResetError("it closed the connection")
                (length,) = LENGTH.unpack(head[1:])
                return head[0], stream.read(min(length, LONGEST_ANSWER))
