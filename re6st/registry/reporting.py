"""Use cases around what nodes tell about themselves: how each is, and the mesh that they make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import re6st
from re6st.identity import CONTEXT_PARAMETERS, CONTEXT_REVOCATIONS
from re6st.messages import DocumentVersions, NodeReport
from re6st.registry.diagnosis import Kind, Severity, Standard, Trouble, find_troubles
from re6st.registry.reports import ReportRow
from re6st.registry.store import EVERYBODY, Member, NodeRow, Selection
from re6st.registry.usecases import UseCases

SOFTWARE = f"re6st {re6st.__version__}"

BATCH = 500
"""Nodes that are looked at together."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A member, its newest report, and what is wrong with it."""

    member: Member
    report: ReportRow | None
    troubles: tuple[Trouble, ...]

    @property
    def unwell(self) -> bool:
        """Whether somebody should look after it."""
        return any(trouble.severity is not Severity.NOTE for trouble in self.troubles)

    def has(self, kind: Kind) -> bool:
        """Return whether it has this trouble."""
        return any(trouble.kind is kind for trouble in self.troubles)


@dataclass(frozen=True, slots=True)
class Health:
    """How many nodes are how."""

    unwell: int
    """That somebody should look after."""
    troubles: Counter[tuple[Kind, Severity]]
    """How many nodes have which trouble; one may have several."""
    counted: float
    """When, in seconds since the epoch."""


class ReportUseCases(UseCases):
    """What nodes tell, and what that means."""

    def report(self, node: NodeRow, report: NodeReport) -> DocumentVersions:
        """Remember how ``node`` is, and return which documents are in force."""
        with self._store.transaction():
            self._store.put_report(node.identifier, report, self._clock())
        return self.versions()

    def versions(self) -> DocumentVersions:
        """Return which documents are in force."""
        versions = self._store.document_versions()
        return DocumentVersions(
            parameters_version=versions.get(CONTEXT_PARAMETERS, 0),
            revocations_version=versions.get(CONTEXT_REVOCATIONS, 0),
        )

    def conditions(self, members: Sequence[Member]) -> list[Condition]:
        """Return how these members are."""
        standard = self._standard()
        found: list[Condition] = []
        for start in range(0, len(members), BATCH):
            batch = members[start : start + BATCH]
            reports = self._store.reports([member.node.identifier for member in batch])
            for member in batch:
                report = reports.get(member.node.identifier)
                found.append(Condition(member, report, find_troubles(member, report, standard)))
        return found

    def unwell(
        self,
        limit: int,
        selection: Selection = EVERYBODY,
        *,
        kind: Kind | None = None,
        after: tuple[bytes, int] | None = None,
    ) -> list[Condition]:
        """Return up to ``limit`` nodes that somebody should look after, by prefix; see ``members_page``.

        With ``kind`` those that have this trouble, even if it is none that somebody should look after.
        """
        found: list[Condition] = []
        for condition in self._walk(selection, after):
            if condition.has(kind) if kind is not None else condition.unwell:
                found.append(condition)
                if len(found) == limit:
                    break
        return found

    def _walk(self, selection: Selection, after: tuple[bytes, int] | None) -> Iterator[Condition]:
        while True:
            batch = self._store.overview(self._clock(), selection, after=after, limit=BATCH)
            yield from self.conditions(batch)
            if len(batch) < BATCH:
                return
            last = batch[-1].node
            after = (last.prefix.network_address.packed, last.identifier)

    def count_troubles(self) -> Health:
        """Return how many nodes have which trouble; all have to be looked at for that."""
        unwell = 0
        troubles: Counter[tuple[Kind, Severity]] = Counter()
        for condition in self._walk(EVERYBODY, None):
            unwell += condition.unwell
            troubles.update((trouble.kind, trouble.severity) for trouble in condition.troubles)
        return Health(unwell, troubles, self._clock())

    def mesh(self, limit: int, age: float) -> list[Condition]:
        """Return up to ``limit`` members whose reports are not older than ``age`` seconds, newest first."""
        rows = self._store.latest_reports(self._clock() - age, limit)
        members = self._store.members_numbered([row.node for row in rows])
        return self.conditions(members)

    def _standard(self) -> Standard:
        newest = next(iter(self._store.parameter_history(limit=1)), None)
        return Standard(
            now=self._clock(),
            validity=self._validity,
            parameters_version=newest.version if newest is not None else 0,
            parameters_since=(newest.created or 0.0) if newest is not None else 0.0,
            software=SOFTWARE,
        )
