"""Prefixes of a network: validation and what is derived from them.

A *network* is one IPv6 prefix of /32 to /56 and one trust domain. Each *node* has a *node prefix* inside
it, /64 by default; its *node address* is the first address of that prefix (``<prefix>::1``).
"""

from __future__ import annotations

import hashlib
from ipaddress import AddressValueError, IPv6Address, IPv6Network, NetmaskValueError

from re6st.errors import ConfigError

NETWORK_LENGTHS = range(32, 57)
"""Lengths that the prefix of a network may have."""

DEFAULT_NODE_LENGTH = 64
"""Length of a node prefix unless the operator asks for another one."""

LONGEST_NODE_LENGTH = 120
"""The longest node prefix: 256 addresses."""


def parse_prefix(text: str) -> IPv6Network:
    """Return the canonical prefix written in ``text``.

    Raises :class:`ConfigError` when it is no IPv6 prefix or has bits set behind its length.
    """
    try:
        return IPv6Network(text, strict=True)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise ConfigError(f"{text!r} is not an IPv6 prefix such as 2001:db8:42::/48: {error}") from error


def parse_network(text: str) -> IPv6Network:
    """Return the network prefix written in ``text``; its length must lie in :data:`NETWORK_LENGTHS`.

    Raises :class:`ConfigError`.
    """
    network = parse_prefix(text)
    if network.prefixlen not in NETWORK_LENGTHS:
        raise ConfigError(
            f"{text}: the prefix of a network is between /{NETWORK_LENGTHS[0]} and /{NETWORK_LENGTHS[-1]}"
        )
    return network


def check_node_length(network: IPv6Network, length: int) -> None:
    """Raise :class:`ConfigError` unless ``length`` is possible for a node prefix of ``network``."""
    if not network.prefixlen < length <= LONGEST_NODE_LENGTH:
        raise ConfigError(
            f"a node prefix of {network} has a length from {network.prefixlen + 1} to {LONGEST_NODE_LENGTH},"
            f" not {length}"
        )


def node_address(prefix: IPv6Network) -> IPv6Address:
    """Return the address of the node that owns ``prefix``: its first one, ``<prefix>::1``."""
    return prefix.network_address + 1


def router_id(prefix: IPv6Network) -> bytes:
    """Return the Babel router-id (RFC 8966, 2.7) of the node that owns ``prefix``: 8 octets.

    It is a function of the prefix, so that everyone can check who claims to originate a route. The
    forbidden values (all zeroes, all ones) cannot come up inside a global unicast or ULA network.
    """
    if prefix.prefixlen <= 64:
        return prefix.network_address.packed[:8]
    return hashlib.sha256(str(prefix).encode()).digest()[:8]


def format_router_id(identifier: bytes) -> str:
    """Return a router-id as babeld writes it: eight octets in hexadecimal, separated by colons."""
    return ":".join(f"{octet:02x}" for octet in identifier)
