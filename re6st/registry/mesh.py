"""The mesh as operators see it: what both ends of each tunnel told, put together (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from re6st.messages import TunnelReport
from re6st.registry.operator_messages import Mesh, MeshNode, MeshTunnel
from re6st.registry.reporting import Condition


def draw_mesh(conditions: Sequence[Condition], limit: int) -> Mesh:
    """Return the mesh of up to ``limit`` of these nodes, all of which have reported.

    What the end says that was heard of last is taken; the round-trip time is that of either.
    """
    complete = len(conditions) <= limit
    reported = [
        (condition, condition.report) for condition in conditions[:limit] if condition.report is not None
    ]
    shown = {str(condition.member.node.prefix) for condition, _ in reported}
    told: dict[tuple[str, str], list[TunnelReport]] = {}
    for condition, row in sorted(reported, key=lambda pair: -pair[1].received):
        prefix = str(condition.member.node.prefix)
        for tunnel in row.report.tunnels:
            if tunnel.peer in shown and tunnel.peer != prefix:
                ends = (prefix, tunnel.peer) if tunnel.outgoing else (tunnel.peer, prefix)
                told.setdefault(ends, []).append(tunnel)
    return Mesh(
        nodes=tuple(
            MeshNode(
                name=condition.member.node.name,
                prefix=str(condition.member.node.prefix),
                seen=row.received,
                severity=condition.troubles[0].severity if condition.troubles else None,
                reachability=row.report.reachability,
            )
            for condition, row in reported
        ),
        tunnels=tuple(_tunnel(ends, reports) for ends, reports in sorted(told.items())),
        complete=complete,
    )


def _tunnel(ends: tuple[str, str], reports: Sequence[TunnelReport]) -> MeshTunnel:
    measured = [report.round_trip for report in reports if report.round_trip is not None]
    return MeshTunnel(
        dialer=ends[0],
        listener=ends[1],
        established=reports[0].established,
        age=reports[0].age,
        round_trip=measured[0] if measured else None,
        confirmed=len(reports) > 1,
    )
