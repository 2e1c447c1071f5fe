"""Benchmarks: what is measured, repeated, judged by median and worst, and shown.

Each benchmark is a function in a module of its own; it builds the lab that it needs, measures and takes
the lab down. A run gives one value per case.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from rich import box
from rich.table import Table

from re6st.errors import ConfigError
from re6st.lab import (
    bench_availability,
    bench_cold,
    bench_control,
    bench_join,
    bench_node,
    bench_outage,
    bench_registry,
    bench_revocation,
)
from re6st.lab.measurement import Options, Result

BENCHMARKS: dict[str, Callable[[Options], list[Result]]] = {
    "join": bench_join.run,
    "cold": bench_cold.run,
    "node": bench_node.run,
    "control": bench_control.run,
    "outage": bench_outage.run,
    "revocation": bench_revocation.run,
    "availability": bench_availability.run,
    "registry": bench_registry.run,
}
"""All benchmarks by name."""


def run(names: Iterable[str], options: Options) -> list[Result]:
    """Run the benchmarks called ``names``, all if there is none. Raises :class:`ConfigError`."""
    names = list(names) or list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        raise ConfigError(f"there is no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}")
    results = []
    for name in names:
        options.step(f"benchmark {name}: {options.runs} runs")
        results += BENCHMARKS[name](options)
    return results


# -- showing --------------------------------------------------------------------------------------------


def machine() -> str:
    """Return what the benchmarks ran on, in one line."""
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    gigabytes = int(memory[1]) / 1024**2 if memory else 0
    return (
        f"{os.cpu_count()} cores ({_processor()}), {gigabytes:.0f} GB of memory, Linux {platform.release()},"
        f" Python {platform.python_version()}, {_version('openvpn', '--version')},"
        f" {_version('babeld', '-V')}"
    )


def table(results: Iterable[Result]) -> Table:
    """Return median and worst for a terminal."""
    shown = Table(box=box.SIMPLE_HEAD)
    for heading in ("benchmark", "case"):
        shown.add_column(heading)
    for heading in ("median", "worst", "runs"):
        shown.add_column(heading, justify="right")
    shown.add_column("unit")
    for result in results:
        shown.add_row(
            result.name,
            result.case,
            number(result.median),
            number(result.worst),
            str(len(result.values)),
            result.unit,
        )
    return shown


def markdown(results: Iterable[Result]) -> str:
    """Return the results as they stand in docs/benchmarks.md."""
    lines = [
        f"Machine: {machine()}.",
        "",
        "| benchmark | case | median | worst | unit |",
        "|---|---|---:|---:|---|",
    ]
    for result in results:
        cells = (result.name, result.case, number(result.median), number(result.worst), result.unit)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def number(value: float) -> str:
    """Return ``value`` with three significant digits, or all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _version(program: str, option: str) -> str:
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run([program, option], capture_output=True, text=True, check=False, timeout=10)
        if found := re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr):
            return f"{program} {found[0]}"
    return f"{program} (not found)"
