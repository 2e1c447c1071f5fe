"""Measurements: the values of a benchmark, run by run, and what the benchmarks have in common."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from re6st.errors import ChildError
from re6st.lab.lab import Lab, Step
from re6st.lab.pinger import Matrix

PAIRS_TIMEOUT = 120.0
"""Seconds after which a mesh that has not formed counts as a failure."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All runs of one case."""

    name: str
    """Of the benchmark."""
    case: str
    unit: str
    values: list[float]
    """One per run."""
    median: float
    more_is_better: bool = False
    """As for a rate; for what something takes less is."""

    @property
    def worst(self) -> float:
        """The highest value, the lowest where more is better."""
        return min(self.values) if self.more_is_better else max(self.values)


@dataclass(slots=True)
class Series:
    """Collects the values of one benchmark."""

    name: str
    _cases: dict[tuple[str, str, bool], list[float]] = field(default_factory=dict)
    _last: float = 0.0

    def add(self, case: str, value: float, unit: str, *, more_is_better: bool = False) -> None:
        """Note the value of one run."""
        self._last = value
        self._cases.setdefault((case, unit, more_is_better), []).append(round(value, 4))

    @property
    def last(self) -> float:
        """The value that was noted last."""
        return self._last

    def results(self) -> list[Result]:
        """Return all cases in the order in which they first came up."""
        return [
            Result(
                name=self.name,
                case=case,
                unit=unit,
                values=values,
                median=statistics.median(values),
                more_is_better=more_is_better,
            )
            for (case, unit, more_is_better), values in self._cases.items()
        ]


@dataclass(frozen=True, slots=True)
class Options:
    """How to run benchmarks."""

    lab: str
    """Name of the labs that are built for it."""
    runs: int
    window: float
    """Seconds over which an idle mesh is watched."""
    step: Step
    """Hears what goes on."""
    plots: Path | None = None
    """Directory for pictures of single runs, if they are wanted."""
    minutes: float = 30.0
    """For how long the weather is bad."""
    nodes: tuple[int, ...] = ()
    """How many the registry's database holds, one case each; empty for the usual numbers."""
    cases: tuple[str, ...] = ()
    """What fails; all there is if none is given."""


def converged(lab: Lab, names: Iterable[str] | None = None, timeout: float = PAIRS_TIMEOUT) -> Matrix:
    """Wait until all pairs of nodes ping. Raises :class:`ChildError` if they do not in time."""
    matrix = lab.wait_for_all_pairs(timeout, names)
    if not matrix.complete:
        lost = ", ".join(f"{source} -> {target}" for source, target in matrix.missing[:10])
        raise ChildError(
            f"{len(matrix.missing)} pairs of nodes do not ping after {timeout:g} seconds, among them {lost}"
        )
    return matrix
