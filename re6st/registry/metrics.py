"""Metrics of the registry for Prometheus (text exposition format)."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from re6st.registry.diagnosis import Kind, Severity
from re6st.registry.kept import Kept
from re6st.registry.reporting import Health
from re6st.registry.service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts requests, and asks the service for the rest when it is scraped."""

    def __init__(self, service: Service, health: Kept[Health]) -> None:
        """``health`` says how many nodes have which trouble."""
        self._registry = CollectorRegistry()
        self._registry.register(_State(service, health))
        self._requests = Counter(
            "re6st_registry_requests",
            "Requests by route and status",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "re6st_registry_request_seconds",
            "Time from a request to its answer",
            ["route"],
            buckets=(0.005, 0.02, 0.1, 0.5, 2, 10),
            registry=self._registry,
        )

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; ``route`` is the pattern of its path, so that there are few."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def render(self) -> bytes:
        """Return the metrics; to be called in the service's thread."""
        return generate_latest(self._registry)


class _State(Collector):
    """What the database says when it is asked."""

    def __init__(self, service: Service, health: Kept[Health]) -> None:
        self._service = service
        self._health = health
        self._known: set[tuple[Kind, Severity]] = set()

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        service = self._service
        nodes = GaugeMetricFamily("re6st_registry_nodes", "Nodes by state", labels=["state"])
        for state, count in service.count_states().items():
            nodes.add_metric([state], count)
        yield nodes
        groups = GaugeMetricFamily("re6st_registry_group_nodes", "Members by group", labels=["group"])
        for group in service.groups():
            groups.add_metric([group.name], service.count_group(group))
        yield groups
        troubles = GaugeMetricFamily(
            "re6st_registry_troubles", "Nodes in trouble by its kind", labels=["kind", "severity"]
        )
        for (kind, severity), count in self._count_troubles().items():
            troubles.add_metric([kind.value, severity.value], count)
        yield troubles
        parameters = service.current_parameters()
        values: tuple[tuple[str, str, float], ...] = (
            ("parameters_version", "Version of the network parameters", parameters.version),
            ("revocations_version", "Version of the revocations", service.revocations_version()),
            ("admission_requests", "Machines that wait for approval", service.count_requests()),
            ("audit_entries", "Number of the newest entry of the audit log", service.last_change()),
            ("authority_expiry_seconds", "When the CA expires (epoch)", service.authority_expiry()),
            ("database_bytes", "Size of the database", service.database_size()),
        )
        for name, text, value in values:
            yield GaugeMetricFamily(f"re6st_registry_{name}", text, value=value)

    def _count_troubles(self) -> dict[tuple[Kind, Severity], int]:
        """Return how many nodes have which trouble, with zeros so that a trouble is seen to end."""
        counts = self._health.get().troubles
        self._known.update(counts)
        return {key: counts[key] for key in self._known}
