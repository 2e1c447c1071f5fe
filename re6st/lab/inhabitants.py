"""Nodes that exist in a registry's database only, with real certificates and published records."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from ipaddress import IPv6Network
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from re6st.files import write_atomically
from re6st.identity import der_to_pem, key_to_pem, parse_node_certificate, public_key_digest
from re6st.messages import Endpoint, NodeReport, PeerRecord, SignedPeerRecord, Transport, TunnelReport
from re6st.peers import open_record, seal_record
from re6st.registry.authority import NODE_VALIDITY, Authority
from re6st.registry.records import store_record
from re6st.registry.state import StateDirectory
from re6st.registry.store import CertificateRow, Store

NODE_LENGTH = 80
"""Length of their prefixes, so that all of them find room."""

TUNNELS = 10
"""In the report of each."""


class Inhabitant(NamedTuple):
    """A node of the database."""

    prefix: IPv6Network
    certificate: bytes


def populate(state: StateDirectory, key: ec.EllipticCurvePrivateKey, size: int) -> list[Inhabitant]:
    """Put ``size`` nodes with records into the database; all have the same key, since keys take time."""
    authority, now = state.authority(), time.time()
    prefixes = authority.network.subnets(new_prefix=NODE_LENGTH)
    with Store.open(state.place) as store, store.transaction():
        return [
            _settle(store, authority, key, number, prefix, now)
            for number, prefix in enumerate(itertools.islice(prefixes, size))
        ]


def _settle(
    store: Store,
    authority: Authority,
    key: ec.EllipticCurvePrivateKey,
    number: int,
    prefix: IPv6Network,
    now: float,
) -> Inhabitant:
    node = store.add_node(f"inhabitant-{number}", prefix, now)
    der = authority.issue_node(key.public_key(), node.name, prefix, now)
    serial = parse_node_certificate(der).serial_hex
    digest = public_key_digest(key.public_key())
    store.add_certificate(
        CertificateRow(serial, node.identifier, der, digest, now, now + NODE_VALIDITY, None)
    )
    peer = open_record(record(key, Inhabitant(prefix, der), 1), authority.trust, now)
    store_record(store, node, peer, now)
    return Inhabitant(prefix, der)


def record(key: ec.EllipticCurvePrivateKey, node: Inhabitant, sequence: int) -> SignedPeerRecord:
    """Return what ``node`` says of itself to its peers."""
    name = parse_node_certificate(node.certificate).name
    endpoints = (Endpoint(Transport.TCP, "192.0.2.1", 4226),)
    own = PeerRecord(sequence=sequence, name=name, prefix=str(node.prefix), endpoints=endpoints)
    return seal_record(key, node.certificate, own)


def report(peers: Sequence[Inhabitant]) -> NodeReport:
    """Return what a node with tunnels to the first of ``peers`` tells the registry."""
    tunnels = tuple(
        TunnelReport(peer=str(peer.prefix), outgoing=True, established="up", age=3600.0, round_trip=0.02)
        for peer in peers[:TUNNELS]
    )
    return NodeReport(
        time=time.time(),
        uptime=7200.0,
        software="re6st benchmark",
        reachability="public",
        routes=len(peers),
        peers=len(peers),
        parameters_version=1,
        revocations_version=1,
        tunnels=tunnels,
    )


def keep_identity(directory: Path, number: int, key: ec.EllipticCurvePrivateKey, node: Inhabitant) -> Path:
    """Write key and certificate of ``node`` into one file, and return where it is."""
    file = directory / f"inhabitant-{number}.pem"
    write_atomically(file, key_to_pem(key) + der_to_pem(node.certificate), 0o600)
    return file
