"""Benchmark ``registry``: how many requests a second the real daemon answers, what each costs, how soon.

The database is filled with nodes that have real certificates and published records. Then the daemon serves
over HTTPS, and each kind of request comes as fast as it is answered, over connections that stay open or over
a new one for each (:mod:`re6st.lab.load`). Load and daemon share the machine, so that rates are what both
can do together; the daemon's processor time for each answer hardly depends on that, nor on what else runs.
PostgreSQL's own processes are not counted in it.

Heartbeats are the reports of :data:`BEATING` nodes, each from another node and over a new connection, at the
rate that they have when each node reports every :data:`INTERVALS` seconds.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from re6st.errors import ChildError, ConfigError
from re6st.identity import REGISTRY_NAME, build_request, generate_key
from re6st.lab import resources, worlds
from re6st.lab.inhabitants import NODE_LENGTH, Inhabitant, keep_identity, populate, record, report
from re6st.lab.lab import Lab
from re6st.lab.load import Connection, Heartbeat, Request, Visitor, request, saturate, visit_all
from re6st.lab.measurement import Options, Result, Series
from re6st.lab.namespace import processes
from re6st.lab.postgresql import running_cluster
from re6st.messages import EnrolmentRequest, encode
from re6st.registry.operators import Scope
from re6st.registry.state import StateDirectory

SIZES = (10_000, 100_000)
"""Nodes in the database."""

CONNECTIONS = 16
"""That stay open."""

VISITORS = 512
"""Nodes that open connections in turn."""

ENROLMENTS = 600
PUBLICATIONS = 1000
SAMPLES = 6000
REPORTS = 2000
VISITS = 1000
"""Requests of each kind in a run."""

BEATING = 10_000
INTERVALS = (300.0, 120.0)
"""Seconds after which each asks again: without tunnels to others that tell it the news, and with."""

PAGE = ("/", "/page.css", "/page.js", "/map.js", "/v1/operator/overview", "/v1/operator/nodes?limit=200")
"""What the operators' page loads until it shows nodes."""


def run(options: Options) -> list[Result]:
    """Measure. Raises :class:`ChildError` when the registry does not start, or refuses something."""
    series = Series("registry")
    sizes = options.nodes or SIZES
    for size in sizes:
        _measure_store(f"SQLite, {size:,} nodes", size, (), options, series)
    try:
        with running_cluster() as cluster:
            place = ("--store", str(cluster.database()))
            _measure_store(f"PostgreSQL, {sizes[0]:,} nodes", sizes[0], place, options, series)
    except ConfigError as error:
        options.step(f"  not with PostgreSQL: {error}")
    return series.results()


def _measure_store(title: str, size: int, place: Sequence[str], options: Options, series: Series) -> None:
    with Lab(worlds.mixed(1), name=options.lab) as lab:
        lab.registry.initialise(*place)
        state = StateDirectory(lab.registry.host.directory / "registry")
        key = generate_key()
        options.step(f"  {title}: filling the database")
        nodes = populate(state, key, size)
        lab.registry.start()
        bench = _Bench(lab, state, key, nodes, title, series)
        for number in range(1, options.runs + 1):
            bench.measure_rates()
            for interval in INTERVALS:
                bench.measure_heartbeats(interval, options.window)
            bench.measure_page()
            bench.measure_memory()
            options.step(f"  {title}: run {number} of {options.runs} is done")
        lab.registry.check()


@dataclass(slots=True)
class _Bench:
    """One registry with its inhabitants."""

    lab: Lab
    state: StateDirectory
    key: ec.EllipticCurvePrivateKey
    nodes: Sequence[Inhabitant]
    title: str
    series: Series
    _visitors: list[Visitor] = field(default_factory=list)

    def measure_rates(self) -> None:
        """Ask each kind of question as fast as it is answered."""
        sample = request("GET", "/v1/peers/sample?count=16", status=200)
        told = request("PUT", "/v1/nodes/self/report", encode(report(self.nodes)), status=200)
        closing = request("GET", "/v1/peers/sample?count=16", status=200, headers="Connection: close\r\n")
        with self._connected(None) as connections:
            enrolments = self._enrolments()
            self._rate("enrolments", lambda: saturate(connections, enrolments))
        with self._connected(self.key) as connections:
            self._rate("samples", lambda: saturate(connections, itertools.repeat(sample, SAMPLES)))
            self._rate("reports", lambda: saturate(connections, itertools.repeat(told, REPORTS)))
        self._measure_publications()
        visitors = itertools.islice(itertools.cycle(self._all_visitors()), VISITS)
        visits = [(visitor, closing) for visitor in visitors]
        self._rate("samples over new TLS connections", lambda: visit_all(visits))

    def _measure_publications(self) -> None:
        """Let nodes publish; each connection is of one node, which publishes again and again."""
        sequence = itertools.count(int(time.time() * 1000))
        with self._connected(self.key) as connections:
            # Connections take turns, so their nodes do.
            publishing = itertools.islice(itertools.cycle(self.nodes[:CONNECTIONS]), PUBLICATIONS)
            messages = (encode(record(self.key, node, next(sequence))) for node in publishing)
            records = [request("PUT", "/v1/peers/self", message, status=204) for message in messages]
            self._rate("publications", lambda: saturate(connections, records))

    def measure_heartbeats(self, interval: float, window: float) -> None:
        """Let nodes report over new connections for ``window`` seconds."""
        body = encode(report(self.nodes))
        told = request("PUT", "/v1/nodes/self/report", body, status=200, headers="Connection: close\r\n")
        rate = BEATING / interval
        visitors = self._all_visitors()
        case = f"{rate:.0f} reports a second"
        before = self._processor_time()
        with self.lab.registry.host.namespace.entered():
            heartbeat = Heartbeat(visitors, told, rate)
            heartbeat.start()
            time.sleep(window)
            delays = heartbeat.stop()
        used = self._processor_time() - before
        self._add(f"{case}: median", percentile(delays, 0.5) * 1000, "ms")
        self._add(f"{case}: 99th percentile", percentile(delays, 0.99) * 1000, "ms")
        self._add(f"{case}: processor time", 100 * used / window, "% of a core")

    def measure_page(self) -> None:
        """Load what the operators' page does."""
        with self.state.service() as service:
            token = service.create_operator_token(f"bench-{time.monotonic_ns()}", Scope.READ)
        headers = f"Authorization: Bearer {token}\r\n"
        with self._connected(None) as (connection, *_):
            began, octets = time.monotonic(), 0
            for path in PAGE:
                connection.send(request("GET", path, status=200, headers=headers))
                octets += len(connection.receive())
            self._add("page, all that it loads", (time.monotonic() - began) * 1000, "ms")
            self._add("page, octets without compression", octets / 1000, "kB")

    def measure_memory(self) -> None:
        """Note what the daemon's memory is by now."""
        pids = list(processes([self.lab.registry.host.namespace]))
        self._add("memory (RSS)", resources.memory(pids).total / 1024, "MB")
        self._add("memory (PSS)", resources.proportional_memory(pids) / 1024, "MB")

    def _rate(self, what: str, ask: Callable[[], int]) -> None:
        before, began = self._processor_time(), time.monotonic()
        with self.lab.registry.host.namespace.entered():
            count = ask()
        elapsed, used = time.monotonic() - began, self._processor_time() - before
        self._add(what, count / elapsed, "a second", more_is_better=True)
        self._add(f"{what}: processor time of each", used / count * 1000, "ms")

    def _add(self, case: str, value: float, unit: str, *, more_is_better: bool = False) -> None:
        self.series.add(f"{self.title}: {case}", value, unit, more_is_better=more_is_better)

    def _processor_time(self) -> float:
        return resources.processor_time(processes([self.lab.registry.host.namespace]))

    def _enrolments(self) -> list[Request]:
        with self.state.service() as service:
            token = service.create_token(prefix_length=NODE_LENGTH, uses=ENROLMENTS)
        messages = (
            EnrolmentRequest(token=token, request=build_request(generate_key(), ""))
            for _ in range(ENROLMENTS)
        )
        return [request("POST", "/v1/enrolments", encode(message), status=201) for message in messages]

    @contextlib.contextmanager
    def _connected(self, key: ec.EllipticCurvePrivateKey | None) -> Iterator[list[Connection]]:
        """Yield open connections: of the first nodes if there is a ``key``, otherwise of anybody."""
        visitors = self._all_visitors() if key is not None else [self._visitor(None)] * CONNECTIONS
        with self.lab.registry.host.namespace.entered(), contextlib.ExitStack() as opened:
            connections = [visitor.connect() for visitor in visitors[:CONNECTIONS]]
            for connection in connections:
                opened.callback(connection.tls.close)
            yield connections

    def _all_visitors(self) -> list[Visitor]:
        if not self._visitors:
            directory = self.lab.registry.host.directory
            step = max(1, len(self.nodes) // VISITORS)
            # The first ones are the first nodes: what is published over a connection is its node's.
            chosen = [*self.nodes[:CONNECTIONS], *self.nodes[CONNECTIONS::step]][:VISITORS]
            for number, node in enumerate(chosen):
                self._visitors.append(
                    self._visitor(keep_identity(directory, number, self.key, node)),
                )
        return self._visitors

    def _visitor(self, identity: Path | None) -> Visitor:
        registry = self.lab.registry
        address = (str(registry.host.address), registry.port)
        authority = self.state.authority().certificate
        return Visitor.make(address, authority, identity, REGISTRY_NAME)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of ``values`` do not exceed."""
    if not values:
        raise ChildError("nothing was measured: choose a longer --window")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
