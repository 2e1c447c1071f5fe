"""Use cases around changes of the network parameters at a chosen time: in a quiet night, or step by step.

A change is checked when it is planned and once more when its time has come, since others may have changed
the parameters meanwhile. The server puts it in force; one whose time came while no server ran is late, not
lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from re6st.errors import ConfigError, RegistryRefusedError
from re6st.registry.configuration import ParameterUseCases

MOST_PLANS = 100
"""Changes that may wait at a time."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A change that waits for its time."""

    identifier: int
    due: float
    """When it is put in force, seconds since the epoch."""
    changes: Mapping[str, str]
    """Values as typed."""


class PlanUseCases(ParameterUseCases):
    """Changes of the network parameters that happen later."""

    def plan_parameters(self, changes: Mapping[str, str], due: float) -> Plan:
        """Let ``changes`` happen at ``due`` (seconds since the epoch).

        Raises :class:`ConfigError` that names every mistake, :class:`RegistryRefusedError` with the code
        ``too-many-plans``.
        """
        if due <= self._clock():
            raise ConfigError("the time of the change is over already: set the parameters now")
        with self._store.transaction():
            self.preview_parameters(changes)
            if len(self._store.planned_parameters()) >= MOST_PLANS:
                raise RegistryRefusedError(f"{MOST_PLANS} changes are planned already", code="too-many-plans")
            text = msgspec.json.encode(dict(changes)).decode()
            identifier = self._store.add_planned_parameters(due, text, self._clock())
            self._log("parameters.planned", f"plan {identifier}", due=due, **changes)
        return Plan(identifier, due, dict(changes))

    def plans(self) -> list[Plan]:
        """Return what waits for its time, the next one first."""
        return [
            Plan(identifier, due, msgspec.json.decode(text, type=dict[str, str]))
            for identifier, due, text in self._store.planned_parameters()
        ]

    def cancel_plan(self, identifier: int) -> None:
        """Drop a planned change. Raises :class:`RegistryRefusedError` with the code ``unknown-plan``."""
        with self._store.transaction():
            if identifier not in [plan.identifier for plan in self.plans()]:
                raise RegistryRefusedError(
                    f"there is no planned change {identifier}: see re6st-registry parameters planned",
                    code="unknown-plan",
                )
            self._store.drop_planned_parameters(identifier)
            self._log("parameters.plan-cancelled", f"plan {identifier}")

    def carry_out_plans(self) -> int:
        """Put all changes in force whose time has come; return how many.

        One that is not possible any more is dropped; the audit log says why.
        """
        done = 0
        for plan in self.plans():
            if plan.due > self._clock():
                break
            with self._store.transaction():
                if plan not in self.plans():
                    continue  # another process was faster
                self._store.drop_planned_parameters(plan.identifier)
                try:
                    self.change_parameters(plan.changes)
                    done += 1
                except ConfigError as error:
                    self._log("parameters.plan-failed", f"plan {plan.identifier}", reason=str(error))
        return done
