"""Babel directly on an interface of a trusted LAN: keys, and what babeld is told of the interface (pure).

Nodes in one LAN can be neighbours without a tunnel. Anybody may be plugged into a LAN, so babel's packets
carry a MAC there (RFC 8967): who does not know the key is not heard, and hears nothing that it could answer.
The key protects routes only; packets that follow these routes cross the LAN as they are.

babeld holds one key for an interface (it accepts the word ``key`` twice and keeps the last). Its value can be
replaced while it runs: neighbours do not hear each other until they have done the same, and a neighbour is
given up only after several Hellos. So a key is changed everywhere at the same moment, to within a Hello.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from re6st.errors import ConfigError
from re6st.lan_keys import KEY_LENGTH

COST = 32
"""Of a LAN, in babel's unit: below that of any tunnel (:data:`re6st.core.tunnels.LOWEST_COST`)."""

HELLO_INTERVAL = 1.0
"""Seconds. Nothing else watches over a LAN; babeld gives a neighbour up after about four of them."""

UPDATE_INTERVAL = 8.0
"""Seconds between full updates: what is lost while two neighbours prove to each other that they are there
(RFC 8967, 4.3.1) comes with the next one.
"""

_KEY_NAME = "lan"


@dataclass(frozen=True, slots=True)
class LanKey:
    """The secret of those who may be neighbours in a LAN."""

    value: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.value) != KEY_LENGTH:
            raise ValueError(f"a key has {KEY_LENGTH} octets, not {len(self.value)}")


def parse_key(text: str) -> LanKey:
    """Return the key that ``text`` holds, hexadecimal digits. Raises :class:`ConfigError`."""
    digits = text.strip()
    if not re.fullmatch(rf"[0-9A-Fa-f]{{{2 * KEY_LENGTH}}}", digits):
        raise ConfigError(
            f"a key consists of {2 * KEY_LENGTH} hexadecimal digits and nothing else;"
            f" make one with: openssl rand -hex {KEY_LENGTH}"
        )
    return LanKey(bytes.fromhex(digits))


def key_command(key: LanKey) -> str:
    """Return the command that makes ``key`` known to babeld, or lets it replace the one before."""
    return f"key id {_KEY_NAME} type hmac-sha256 value {key.value.hex()}"


def interface_command(interface: str) -> str:
    """Return the command that adds the LAN ``interface``; the key must be known before.

    Whether it is wired or wireless is babeld's to find out, and with that whether to judge links by their
    losses. A neighbour's packets reach all others in the LAN, so routes are not told back into it (split
    horizon). Timestamps are off as on tunnels.
    """
    return (
        f"interface {interface} type auto split-horizon true enable-timestamps false rxcost {COST}"
        f" hello-interval {HELLO_INTERVAL:.2f} update-interval {UPDATE_INTERVAL:.2f} key {_KEY_NAME}"
    )
