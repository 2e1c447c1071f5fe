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


def draw_records(store: Store, asking: NodeRow, count: int, now: float) -> tuple[SignedPeerRecord, ...]:
    """Return up to ``count`` random records for the node ``asking``, at ``now``.

    Three quarters are of peers that can be dialled, as far as there are any, the rest of all peers. Older
    records are drawn only for want of fresh ones.

    Every record has a random lot, and a new one whenever it is published. A draw takes the records behind
    a few random lots: two of them may come together again until one is published, but no draw looks at
    all records. Only where that gives too few, in a network that is small or hardly alive, all are looked at.
    """
    drawn: list[RecordRow] = []
    dialled = (3 * count + 3) // 4
    everywhere: list[int] = []
    lots = [secrets.randbits(64) - (1 << 63) for _ in range(DRAWS)]
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
