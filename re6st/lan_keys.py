"""The keys of the network's LANs: which one is in force when, and how one is recognised (pure).

All nodes of a network share a key, by which they tell each other from strangers in LANs (RFC 8967). The
network parameters, which anybody may read, say of each key only its digest and from when on it is in force;
the key itself is handed to members alone. A new key is announced some time before it is in force, so that all
have it by then and change to it at the same moment: babeld knows one key at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from re6st.messages import LanKeyPeriod

KEY_LENGTH = 32
"""Octets of a key: the length of its hash (RFC 8967, 4.1)."""

_CONTEXT = b"re6st LAN key\0"


def digest(key: bytes) -> bytes:
    """Return by what ``key`` is recognised; it tells nothing of the key, which is random."""
    return hashlib.sha256(_CONTEXT + key).digest()


@dataclass(frozen=True, slots=True)
class Choice:
    """What to do at a moment."""

    key: bytes | None
    """The key to use, None without one."""
    missing: bool
    """A key is not known that is in force or will be."""
    next_change: float | None
    """When another one is in force, seconds since the epoch."""


def choose(periods: Iterable[LanKeyPeriod], known: Mapping[bytes, bytes], now: float) -> Choice:
    """Return what to do at ``now`` (seconds since the epoch) with the keys that are ``known`` by digest.

    While the key in force is not known, the one before is the best guess: neighbours may be as ignorant.
    """
    ordered = sorted(periods, key=lambda period: period.since)
    begun = [period for period in ordered if period.since <= now]
    coming = [period.since for period in ordered if period.since > now]
    usable = [known[period.digest] for period in begun if period.digest in known]
    wanted = [*begun[-1:], *(period for period in ordered if period.since > now)]
    return Choice(
        key=usable[-1] if usable else None,
        missing=any(period.digest not in known for period in wanted),
        next_change=coming[0] if coming else None,
    )


def recognised(periods: Iterable[LanKeyPeriod], keys: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return those of ``keys`` that ``periods`` name, by digest."""
    digests = {period.digest for period in periods}
    return {digest(key): key for key in keys if digest(key) in digests}
