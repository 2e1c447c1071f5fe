"""The SQL for what nodes tell about themselves: the newest report of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from re6st.messages import NodeReport
from re6st.registry.database import Database

_decoder = msgspec.json.Decoder(NodeReport)


@dataclass(frozen=True, slots=True)
class ReportRow:
    """The newest report of a node."""

    node: int
    received: float
    report: NodeReport


class Reports(Database):
    """The table of reports. Belongs to one thread at a time."""

    def put_report(self, node: int, report: NodeReport, now: float) -> None:
        """Remember the newest report of a node."""
        self.execute(
            "INSERT INTO reports (node, received, payload) VALUES (?, ?, ?)"
            " ON CONFLICT (node) DO UPDATE SET received = excluded.received, payload = excluded.payload",
            (node, now, msgspec.json.encode(report)),
        )

    def drop_report(self, node: int) -> None:
        """Forget the report of a node."""
        self.execute("DELETE FROM reports WHERE node = ?", (node,))

    def reports(self, nodes: Sequence[int]) -> dict[int, ReportRow]:
        """Return the reports of these nodes, as far as there are any."""
        if not nodes:
            return {}
        marks = ",".join("?" * len(nodes))
        return {row.node: row for row in self._reports(f"WHERE node IN ({marks})", *nodes)}

    def latest_reports(self, since: float, limit: int) -> list[ReportRow]:
        """Return the newest reports that came after ``since``."""
        return self._reports("WHERE received >= ? ORDER BY received DESC LIMIT ?", since, limit)

    def _reports(self, clause: str, *values: object) -> list[ReportRow]:
        rows = self.execute(f"SELECT node, received, payload FROM reports {clause}", values)  # noqa: S608 - constants
        return [ReportRow(node, received, _decoder.decode(payload)) for node, received, payload in rows]
