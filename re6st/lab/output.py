"""What the lab shows to people: progress while it works, tables of nodes and of pings."""

from __future__ import annotations

import time
from types import TracebackType

from rich import box
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from re6st.errors import Re6stError
from re6st.lab.lab import Lab
from re6st.lab.pinger import Matrix

PLAIN_WIDTH = 132
"""Columns of tables that go into a file or pipe."""

REPORT_INTERVAL = 1.0
"""Seconds between progress lines where they cannot overwrite each other."""


def make_console() -> Console:
    """Return the console for standard output."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


class Progress:
    """Says what is going on: in place on a terminal, otherwise in lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._status: Status | None = None
        self._reported = 0.0

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def step(self, text: str) -> None:
        """Say that something begins or has happened."""
        self._console.print(f"[dim]{self.elapsed:6.1f} s[/dim]  {text}")
        if self._status is not None:
            self._status.update(text.strip())

    def pairs(self, matrix: Matrix) -> None:
        """Say how many pairs of nodes ping by now."""
        line = f"{len(matrix.round_trips)} of {len(matrix.pairs)} pairs of nodes reach each other"
        if self._status is not None:
            self._status.update(line)
        elif self.elapsed - self._reported >= REPORT_INTERVAL or matrix.complete:
            self._reported = self.elapsed
            self.step(line)


def node_table(lab: Lab) -> Table:
    """Return what each node says of itself."""
    table = Table(title="Nodes", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("node", "prefix", "address", "where", "reachable"):
        table.add_column(heading, overflow="fold")
    for heading in ("out", "in", "routes"):
        table.add_column(heading, justify="right")
    for name, node in lab.nodes.items():
        where = lab.topology.situation(name)
        try:
            status = node.status()
        except Re6stError:
            table.add_row(name, "", "", where, Text("does not run", style="red"), "", "", "")
            continue
        table.add_row(
            name,
            status.prefix,
            status.address,
            where,
            status.reachability.value,
            str(status.tunnels_out),
            str(status.tunnels_in),
            str(status.routes),
        )
    return table


def machine_table(lab: Lab) -> Table:
    """Return the machines of the lab: where each is plugged in, with which address."""
    table = Table(title=f"Machines of the lab {lab.name}", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("machine", "plugged into", "underlay address", "what it is"):
        table.add_column(heading)
    wiring = lab.wiring
    for name, attachment in (*wiring.attachments.items(), *wiring.second_attachments.items()):
        table.add_row(
            name, attachment.segment.name, ", ".join(map(str, attachment.addresses)), duty(lab, name)
        )
    return table


def duty(lab: Lab, machine: str) -> str:
    """Return, for people, what ``machine`` is in the lab."""
    if machine in lab.topology.routers:
        router = lab.topology.routers[machine]
        return f"router ({router.kind.value}) of the LAN {router.lan}"
    roles = [role.value for role in lab.topology.hosts[machine].roles]
    return " and ".join(roles) or "host"


def matrix_table(matrix: Matrix) -> Table:
    """Return the round-trip times between all nodes, milliseconds."""
    table = Table(
        title="Pings over the mesh: from row to column, round-trip time in ms",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    table.add_column("from")
    for number in range(1, len(matrix.names) + 1):
        table.add_column(str(number), justify="right", no_wrap=True)
    for source in matrix.sources:
        cells = [_cell(matrix, source, target) for target in matrix.names]
        table.add_row(f"{matrix.names.index(source) + 1:2} {source}", *cells)
    return table


def _cell(matrix: Matrix, source: str, target: str) -> Text:
    if source == target:
        return Text("·", style="dim")
    round_trip = matrix.round_trips.get((source, target))
    if round_trip is None:
        return Text("lost", style="bold red")
    return Text(f"{round_trip * 1000:.1f}", style="green")


def verdict(matrix: Matrix) -> str:
    """Return in one sentence whether all pairs ping, and which do not."""
    if matrix.complete:
        return f"All {len(matrix.pairs)} ordered pairs of nodes reach each other."
    lost = ", ".join(f"{source} -> {target}" for source, target in matrix.missing)
    return f"{len(matrix.missing)} of {len(matrix.pairs)} ordered pairs do not reach each other: {lost}."
