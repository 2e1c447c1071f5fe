"""Metrics of a node in Prometheus' text format, gathered when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from re6st.node.status_server import Observed


class _NodeCollector(Collector):
    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def collect(self) -> Iterable[Metric]:
        status = self._observed.status()
        yield InfoMetricFamily(
            "re6st_node",
            "The node",
            value={"name": status.name, "prefix": status.prefix, "software": status.software},
        )
        tunnels = GaugeMetricFamily("re6st_tunnels", "Tunnels that are up", labels=["direction"])
        tunnels.add_metric(["out"], status.tunnels_out)
        tunnels.add_metric(["in"], status.tunnels_in)
        yield tunnels
        for name, text, value in (
            ("re6st_routes", "Installed routes to other nodes", status.routes),
            ("re6st_peers", "Nodes in the address book", status.peers),
            ("re6st_reachable", "1 if the node can be dialled from outside", len(status.endpoints) > 0),
            ("re6st_registry_reachable", "1 if the registry answered last time", status.registry_reachable),
            ("re6st_parameters_version", "Version of the network parameters", status.parameters_version),
            ("re6st_revocations_version", "Version of the revocations", status.revocations_version),
            ("re6st_certificate_expires_seconds", "End of validity, Unix time", status.certificate_expires),
            ("re6st_uptime_seconds", "Seconds since the daemon started", status.uptime),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))
        octets = CounterMetricFamily(
            "re6st_tunnel_octets", "Octets carried by tunnels that are open", labels=["peer", "direction"]
        )
        for tunnel in self._observed.tunnel_statuses():
            octets.add_metric([tunnel.peer, "received"], tunnel.received)
            octets.add_metric([tunnel.peer, "sent"], tunnel.sent)
        yield octets


def render(observed: Observed) -> bytes:
    """Return the metrics of ``observed`` as text."""
    registry = CollectorRegistry()
    registry.register(_NodeCollector(observed))
    return generate_latest(registry)
