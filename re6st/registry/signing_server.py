"""The CA's signing process: serves its key at a Unix socket, with a line in the log for each signature (I/O).

It knows neither the database nor the network. Who may ask is decided by the permissions of the socket and its
directory; what is signed by :class:`re6st.registry.signing.Policy`, and for documents
:class:`re6st.registry.signed_versions.SignedVersions`; how often by a token bucket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from re6st.errors import ConfigError, StorageError, UntrustedError
from re6st.identity import public_key_digest
from re6st.messages import MAXIMUM_BODY
from re6st.registry.authority import Authority
from re6st.registry.limits import RateLimiter
from re6st.registry.remote_key import LENGTH, REFUSED, SIGNED, TIMEOUT
from re6st.registry.signed_versions import SignedVersions
from re6st.registry.signing import Policy

logger = logging.getLogger(__name__)

BURST = 1000
"""Signatures at once: a registry of a large network begins anew."""

DIGEST_SIZE = 32
"""Octets of SHA-256."""

_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid (unix(7))."""


class SigningServer:
    """Signs what the policy allows."""

    def __init__(self, authority: Authority, longest: float, rate: float, versions: SignedVersions) -> None:
        """Sign ``rate`` times a second at most; certificates for ``longest`` seconds at most.

        While one CA takes over from another ``authority`` holds both.
        """
        held = [one for one in (authority, authority.other) if one is not None]
        trusted = tuple(one.certificate for one in held)
        self._signers = {
            public_key_digest(one.key.public_key()): (one.key, Policy.of(one.certificate, longest, trusted))
            for one in held
        }
        self._limiter = RateLimiter(BURST, rate)
        self._versions = versions
        self._server: asyncio.Server | None = None

    async def start(self, path: Path) -> None:
        """Listen at ``path``, readable and writable for owner and group. Raises :class:`ConfigError`."""
        self._server = await asyncio.start_unix_server(self._serve, sock=_bind(path))

    async def stop(self) -> None:
        """Close the socket."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                if not DIGEST_SIZE <= length <= DIGEST_SIZE + MAXIMUM_BODY:
                    raise UntrustedError("too long or too short")
                key = await reader.readexactly(DIGEST_SIZE)
                data = await reader.readexactly(length - DIGEST_SIZE)
            verdict, answer = self.answer(key, data, _user(writer), time.time(), time.monotonic())
            writer.write(bytes([verdict]) + LENGTH.pack(len(answer)) + answer)
            async with asyncio.timeout(TIMEOUT):
                await writer.drain()
        except (OSError, TimeoutError, UntrustedError, asyncio.IncompleteReadError) as error:
            logger.warning("A question of uid %s broke off: %s", _user(writer), error)
        except Exception:
            logger.exception("Cannot answer")
        finally:
            writer.close()

    def answer(self, key: bytes, data: bytes, user: int | None, wall: float, now: float) -> tuple[int, bytes]:
        """Return verdict and signature or reason for what ``user`` asks to sign with ``key`` (its digest).

        It is judged at ``wall`` (seconds since the epoch), and counted at ``now`` (monotonic).
        """
        if self._limiter.delay(None, now) > 0:
            logger.warning("Refused uid %s: more signatures than allowed", user)
            return REFUSED, b"more signatures than allowed: later again"
        self._limiter.count(None, now)
        try:
            if key not in self._signers:
                raise UntrustedError("the key of this CA is not held here")
            private, policy = self._signers[key]
            judgement = policy.judge(data, wall)
            if judgement.context is not None:
                self._versions.advance(judgement.context, judgement.version, wall)
            signature = private.sign(data, ec.ECDSA(hashes.SHA256()))
        except UntrustedError as error:
            logger.warning("Refused uid %s: %s", user, error)
            return REFUSED, str(error).encode()[:1024]
        except StorageError as error:
            logger.error("Cannot sign for uid %s: %s", user, error)
            return REFUSED, str(error).encode()[:1024]
        logger.info("Signed for uid %s: %s", user, judgement.text)
        return SIGNED, signature


def _bind(path: Path) -> socket.socket:
    """Return a socket at ``path`` in place of one that was left there. Raises :class:`ConfigError`."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            path.unlink()
        bound.bind(str(path))
        path.chmod(0o660)  # nobody can connect before it listens
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot listen at {path}: {error.strerror or error}") from error
    return bound


def _user(writer: asyncio.StreamWriter) -> int | None:
    """Return the user at the other end (SO_PEERCRED)."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(raw)[1])
    return None
