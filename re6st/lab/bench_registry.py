"""Benchmark ``registry``: what a request costs with many nodes in the database, and how soon it is answered.

The database is filled with nodes that have real certificates and published records. First the use cases are
carried out one after the other on the registry's own database, with its transactions on disk, but without
HTTP: the registry does all of them in one thread, so that a request of 2 ms means 500 a second. Then the real
daemon serves, and as many questions come in as the nodes of :data:`BEATING` send when each asks once
in :data:`HEARTBEAT` seconds, each over a TLS connection of its own with its own certificate. Such a question
is counted from the moment when it was due to the end of the answer, so that none hides behind a slow one.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Sequence
from ipaddress import IPv6Network
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from re6st.errors import ChildError
from re6st.files import write_atomically
from re6st.identity import (
    build_request,
    der_to_pem,
    generate_key,
    key_to_pem,
    parse_node_certificate,
    public_key_digest,
)
from re6st.lab import resources, worlds
from re6st.lab.lab import Lab
from re6st.lab.measurement import Options, Result, Series
from re6st.lab.namespace import processes
from re6st.messages import Endpoint, EnrolmentRequest, PeerRecord, SignedPeerRecord, Transport
from re6st.peers import open_record, seal_record
from re6st.registry.authority import NODE_VALIDITY, Authority
from re6st.registry.client import ClientCertificate, RegistryClient
from re6st.registry.records import store_record
from re6st.registry.service import Service
from re6st.registry.state import StateDirectory
from re6st.registry.store import CertificateRow, Store

SIZES = (10_000, 100_000)
"""Nodes in the database."""

NODE_LENGTH = 80
"""Length of their prefixes, so that all of them find room."""

REPETITIONS = 200
"""Requests of a kind in each run."""

BEATING = 10_000
"""Nodes that ask."""

HEARTBEAT = 300.0
"""Seconds after which each asks again."""

CONNECTIONS = 48
"""Questions at the same time: all come from one address, of which the registry accepts 64 connections."""

UNIT = "ms"


class Inhabitant(NamedTuple):
    """A node of the database."""

    prefix: IPv6Network
    certificate: bytes


def run(options: Options) -> list[Result]:
    """Measure. Raises :class:`ChildError` when the registry does not start."""
    series = Series("registry")
    for size in SIZES:
        with Lab(worlds.mixed(1), name=options.lab) as lab:
            lab.registry.initialise()
            state = StateDirectory(lab.registry.host.directory / "registry")
            key = generate_key()
            options.step(f"  filling the database with {size} nodes")
            nodes = populate(state, key, size)
            with state.service() as service:
                for _ in range(options.runs):
                    measure_service(service, key, nodes[:REPETITIONS], size, series)
            options.step(f"  {size} nodes: the use cases are done")
            lab.registry.start()
            for _ in range(options.runs):
                delays = _beat(lab, state, key, nodes[:BEATING], options.window)
                rate = f"{size:,} nodes: {BEATING / HEARTBEAT:.0f} questions a second"
                series.add(f"{rate}, median", percentile(delays, 0.5) * 1000, UNIT)
                series.add(f"{rate}, 99th percentile", percentile(delays, 0.99) * 1000, UNIT)
                used = resources.memory(processes([lab.registry.host.namespace]))
                series.add(f"{size:,} nodes: memory of the registry", used.total / 1024, "MB")
            lab.registry.check()
    return series.results()


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
    peer = open_record(_record(key, Inhabitant(prefix, der), 1), authority.trust, now)
    store_record(store, node, peer, now)
    return Inhabitant(prefix, der)


def _record(key: ec.EllipticCurvePrivateKey, node: Inhabitant, sequence: int) -> SignedPeerRecord:
    name = parse_node_certificate(node.certificate).name
    endpoints = (Endpoint(Transport.TCP, "192.0.2.1", 4226),)
    record = PeerRecord(sequence=sequence, name=name, prefix=str(node.prefix), endpoints=endpoints)
    return seal_record(key, node.certificate, record)


def measure_service(
    service: Service,
    key: ec.EllipticCurvePrivateKey,
    nodes: Sequence[Inhabitant],
    size: int,
    series: Series,
) -> None:
    """Note what an enrolment, a publication and a sample take."""
    token = service.create_token(prefix_length=NODE_LENGTH, uses=len(nodes))
    requests = [
        EnrolmentRequest(token=token, request=build_request(generate_key(), "")) for _ in range(len(nodes))
    ]
    sequence = int(time.time() * 1000)
    records = [(node, _record(key, node, sequence)) for node in nodes]

    def enrol() -> None:
        for request in requests:
            service.enrol(request)

    def publish() -> None:
        for node, record in records:
            service.publish(service.authenticate(node.certificate), record)

    def sample() -> None:
        for node in nodes:
            service.sample(service.authenticate(node.certificate))

    cases = {"enrolment": enrol, "publication of a record": publish, "sample of peers": sample}
    for case, work in cases.items():
        began = time.monotonic()
        work()
        series.add(f"{size:,} nodes: {case}", (time.monotonic() - began) / len(nodes) * 1000, UNIT)


def _beat(
    lab: Lab,
    state: StateDirectory,
    key: ec.EllipticCurvePrivateKey,
    nodes: Sequence[Inhabitant],
    window: float,
) -> list[float]:
    """Let ``nodes`` ask for a while, evenly; return how long each waited for its answer, in seconds."""
    count = max(1, int(window * BEATING / HEARTBEAT))
    directory = lab.registry.host.directory
    key_file = directory / "inhabitant-key.pem"
    write_atomically(key_file, key_to_pem(key), 0o600)
    clients = []
    for number, node in enumerate(nodes[:: max(1, len(nodes) // count)][:count]):
        clients.append(_client(lab, state, directory / f"inhabitant-{number}.pem", key_file, node))
    with lab.registry.host.namespace.entered():
        return asyncio.run(_ask(clients))


def _client(lab: Lab, state: StateDirectory, file: Path, key_file: Path, node: Inhabitant) -> RegistryClient:
    write_atomically(file, der_to_pem(node.certificate), 0o600)
    authorities = [state.authority().certificate]
    return RegistryClient([lab.registry.url], authorities, ClientCertificate(file, key_file))


async def _ask(clients: Sequence[RegistryClient]) -> list[float]:
    loop = asyncio.get_running_loop()
    await clients[0].sample()  # what is imported and prepared once delays the first question
    began = loop.time()

    at_once = asyncio.Semaphore(CONNECTIONS)

    async def ask(client: RegistryClient, due: float) -> float:
        await asyncio.sleep(due - loop.time())
        async with at_once:
            await client.sample()
        return loop.time() - due

    asked = (
        ask(client, began + number * HEARTBEAT / BEATING) for number, client in enumerate(clients, start=1)
    )
    return await asyncio.gather(*asked)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of ``values`` do not exceed."""
    if not values:
        raise ChildError("nothing was measured: choose a longer --window")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
