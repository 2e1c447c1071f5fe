"""Tells for which tunnel the first packet of a dialer is, by the tunnel's ``--tls-crypt`` key (pure).

A control packet that is wrapped by ``--tls-crypt`` (OpenVPN's doc/tls-crypt-v2.txt and tls_crypt.h) is

    opcode and key id (1) | session id (8) | packet id (4) | time (4) | tag (32) | ciphertext

where the tag is the HMAC-SHA256 of what stands before it and of the plain text, and its first half is the
initial counter of AES-256-CTR. Only who holds the key can make one, so a stranger's packet fits no tunnel.
Over TCP each packet follows its length in two octets.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

LENGTH_OCTETS = 2
"""Of the length that precedes each packet over TCP."""

SHORTEST_PACKET = 54
"""Octets: a packet that acknowledges nothing and carries nothing but its number."""

LONGEST_PACKET = 256
"""Octets that a dialer's first packet is granted; it is nearly empty."""

_HEADER = 17
_TAG = 32
_KEY = 32
_DIALER_CIPHER = 128
"""Where the static key (256 octets) holds the cipher key of the end with ``--tls-client``."""
_DIALER_HMAC = 192


def is_from_dialer(packet: bytes, key: str) -> bool:
    """Whether ``packet``, without its length, was made by the dialer that holds the static ``key``.

    ``key`` is a file as :func:`re6st.tunnel.openvpn.generate_static_key` makes it.
    """
    if not SHORTEST_PACKET <= len(packet) <= LONGEST_PACKET:
        return False
    material = bytes.fromhex("".join(line for line in key.splitlines() if not line.startswith("-")))
    header, tag, text = packet[:_HEADER], packet[_HEADER : _HEADER + _TAG], packet[_HEADER + _TAG :]
    cipher_key = material[_DIALER_CIPHER : _DIALER_CIPHER + _KEY]
    hmac_key = material[_DIALER_HMAC : _DIALER_HMAC + _KEY]
    decryptor = Cipher(algorithms.AES(cipher_key), modes.CTR(tag[:16])).decryptor()
    plain = decryptor.update(text) + decryptor.finalize()
    return hmac.compare_digest(tag, hmac.new(hmac_key, header + plain, hashlib.sha256).digest())
