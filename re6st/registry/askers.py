"""Which of many askers is refused, and whose turn it is, so that one takes no place from the others (pure).

Who owns one address mostly owns those around it: a customer has an IPv6 /56, or /48, a small provider an IPv4
/24. So askers are counted by networks of growing size, and each size may have a larger part of what all may
ask for. A domain may have half of that. What can be sent goes to the network that got the least, as in fair
queueing (RFC 970); where two got the same, to the domain that got less, and then to who waits longer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, ip_network

MOST_ASKED = 1000
"""Mails that can be asked for in an hour by all addresses together; not all of them are sent."""

MOST_FOREIGN = 250
"""Of these, for mailboxes that get none: what is beyond is not even remembered."""

MOST_FOR_DOMAIN = 500
"""Of these, for mailboxes at one domain."""


@dataclass(frozen=True, slots=True)
class Size:
    """Networks of one size."""

    ipv4_length: int
    ipv6_length: int
    most: int
    """Of :data:`MOST_ASKED`, by one such network."""


SIZES = (Size(24, 56, 50), Size(20, 48, 100), Size(16, 32, 250))


@dataclass(frozen=True, slots=True)
class Asked:
    """A mail that was asked for."""

    identifier: int
    source: str
    """Address (IPv4) or /64 (IPv6) that asked; empty when that is not known."""
    mailbox: str
    created: float
    """Seconds since the epoch."""
    due: float
    """When it may be sent; who waits longest has the smallest."""


@lru_cache(maxsize=8192)
def network_around(source: str, size: Size = SIZES[0]) -> str:
    """Return the network of this size in which ``source`` is."""
    if not source:
        return source
    network = ip_network(source)
    length = size.ipv4_length if isinstance(network, IPv4Network) else size.ipv6_length
    return str(network.supernet(new_prefix=length))


def domain_of(mailbox: str) -> str:
    """Return the domain of a mailbox."""
    return mailbox.rpartition("@")[2].lower()


def holds_too_much(held: Iterable[str], source: str, most: Sequence[int]) -> bool:
    """Return whether a network around ``source`` has its part of what those in ``held`` asked for.

    ``most`` is for a network of each size.
    """
    known = Counter(held)
    for size, limit in zip(SIZES, most, strict=True):
        network = network_around(source, size)
        if sum(number for other, number in known.items() if network_around(other, size) == network) >= limit:
            return True
    return False


def is_crowded(recent: Sequence[Asked], source: str, mailbox: str) -> bool:
    """Return whether others need the place more: ``recent`` is what was asked for within an hour."""
    domain = domain_of(mailbox)
    return (
        holds_too_much((asked.source for asked in recent), source, [size.most for size in SIZES])
        or sum(domain_of(asked.mailbox) == domain for asked in recent) >= MOST_FOR_DOMAIN
        or len(recent) >= MOST_ASKED
    )


def in_turn(waiting: Iterable[Asked], served: Iterable[Asked]) -> list[Asked]:
    """Return ``waiting`` in the order in which they are to be served, after those in ``served``."""
    networks: Counter[str] = Counter()
    domains: Counter[str] = Counter()
    for asked in served:
        networks[network_around(asked.source)] += 1
        domains[domain_of(asked.mailbox)] += 1
    return sorted(
        waiting,
        key=lambda asked: (
            networks[network_around(asked.source)],
            domains[domain_of(asked.mailbox)],
            asked.due,
            asked.identifier,
        ),
    )
