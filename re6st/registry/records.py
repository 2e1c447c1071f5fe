"""Peer records at the registry: what a node may publish, and which ones a random sample holds."""

from __future__ import annotations

import secrets

from re6st.errors import IdentityError, RegistryRefusedError, RemoteProtocolError
from re6st.identity import TrustStore
from re6st.messages import SignedPeerRecord
from re6st.peers import Peer, open_record
from re6st.registry.store import NodeRow, RecordRow, Store

DRAWS = 4
"""Random lots from which a sample is drawn."""

FRESH = 86400.0
"""Peer records that were published within so many seconds are preferred."""

DECK_SIZE = 256
"""Records in a deck, and as many of peers that can be dialled."""

DECK_LEAST = 130
"""A deck with fewer is not used: the network is small. Lots close to each other lead to the same records."""

DECK_LOTS = 32
"""Random lots from which a deck is drawn."""

DECK_AGE = 1.0
"""Seconds for which a deck is used."""

_random = secrets.SystemRandom()


def open_published(signed: SignedPeerRecord, trust: TrustStore, now: float) -> Peer:
    """Return the peer that ``signed`` describes.

    Raises :class:`RegistryRefusedError` with the code ``record-invalid``.
    """
    try:
        return open_record(signed, trust, now)
    except (IdentityError, RemoteProtocolError) as error:
        raise RegistryRefusedError(f"the peer record is not valid: {error}", code="record-invalid") from error


def store_record(store: Store, node: NodeRow, peer: Peer, now: float) -> None:
    """Remember ``peer`` as what ``node`` says of itself; to be called inside a transaction.

    The same record may come twice. Raises :class:`RegistryRefusedError` with the code ``record-foreign`` or
    ``record-outdated``.
    """
    certificate = store.certificate(peer.serial)
    if (
        peer.prefix != node.prefix
        or certificate is None
        or certificate.node != node.identifier
        or certificate.revoked is not None
    ):
        raise RegistryRefusedError(
            f"the peer record is that of {peer.name}, {peer.prefix}: {node.name} may publish only its own",
            code="record-foreign",
        )
    known = store.record(node.identifier)
    if known is not None and (
        peer.sequence < known.sequence
        or (peer.sequence == known.sequence and peer.signed.payload != known.signed.payload)
    ):
        raise RegistryRefusedError(
            f"the peer record has the sequence number {peer.sequence}, but number {known.sequence} is"
            " known: publish with a higher one",
            code="record-outdated",
        )
    row = RecordRow(node.identifier, peer.sequence, peer.signed, peer.reachable, peer.software, now)
    store.put_record(row, peer.serial, peer.departed)


class Deck:
    """Records that were drawn in advance: in a large network samples within a second share one draw.

    Without it thousands of nodes that ask at once would wait for as many looks at the database. In a
    network with fewer records than a deck needs each sample is drawn by itself.
    """

    def __init__(self, store: Store) -> None:
        """Draw from ``store``."""
        self._store = store
        self._dialled: list[RecordRow] = []
        self._any: list[RecordRow] = []
        self._drawn = float("-inf")

    def draw(self, asking: NodeRow, count: int, now: float) -> tuple[SignedPeerRecord, ...]:
        """Return up to ``count`` (at most 64) records, see :func:`draw_records`."""
        if not 0 <= now - self._drawn < DECK_AGE:
            self._fill(now)
        if len(self._any) < DECK_LEAST:
            return draw_records(self._store, asking, count, now)
        dialled = _dialled(count)
        drawn = {row.node: row for row in _random.sample(self._dialled, dialled + 1)}
        drawn.pop(asking.identifier, None)
        chosen = dict(list(drawn.items())[:dialled])
        for row in _random.sample(self._any, 2 * count + 1):
            if len(chosen) < count and row.node != asking.identifier:
                chosen.setdefault(row.node, row)
        return tuple(row.signed for row in chosen.values())

    def _fill(self, now: float) -> None:
        self._drawn = now
        self._any = []
        self._dialled = self._deal(True, now)
        if len(self._dialled) >= DECK_LEAST:
            self._any = self._deal(None, now)

    def _deal(self, reachable: bool | None, now: float) -> list[RecordRow]:
        return self._store.draw_records(
            exclude=(),
            reachable=reachable,
            since=now - FRESH,
            now=now,
            count=DECK_SIZE,
            lots=_lots(DECK_LOTS),
        )


def _dialled(count: int) -> int:
    """Return how many of ``count`` records should be of peers that can be dialled."""
    return (3 * count + 3) // 4


def _lots(count: int) -> list[int]:
    return [secrets.randbits(64) - (1 << 63) for _ in range(count)]


def draw_records(store: Store, asking: NodeRow, count: int, now: float) -> tuple[SignedPeerRecord, ...]:
    """Return up to ``count`` random records for the node ``asking``, at ``now``.

    Three quarters are of peers that can be dialled, as far as there are any, the rest of all peers. Older
    records are drawn only for want of fresh ones.

    Every record has a random lot, and a new one whenever it is published. A draw takes the records behind
    a few random lots: two of them may come together again until one is published, but no draw looks at
    all records. Only where that gives too few, in a network that is small or hardly alive, all are looked at.
    """
    drawn: list[RecordRow] = []
    dialled = _dialled(count)
    everywhere: list[int] = []
    lots = _lots(DRAWS)
    steps = (
        (lots, True, now - FRESH, dialled),
        (everywhere, True, now - FRESH, dialled),
        (lots, None, now - FRESH, count),
        (everywhere, None, now - FRESH, count),
        (everywhere, True, 0.0, dialled),
        (everywhere, None, 0.0, count),
    )
    for near, reachable, since, until in steps:
        if len(drawn) < until:
            drawn += store.draw_records(
                exclude=[asking.identifier, *(row.node for row in drawn)],
                reachable=reachable,
                since=since,
                now=now,
                count=until - len(drawn),
                lots=near,
            )
    return tuple(row.signed for row in drawn)
