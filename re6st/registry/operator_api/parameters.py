"""What operators can do with the network parameters: change them, now or later, and undo that."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from re6st.messages import NetworkParameters
from re6st.registry.operator_api.call import Call
from re6st.registry.operator_messages import (
    HistoricParameters,
    ParameterDifference,
    Parameters,
    ParametersChange,
    ParametersHistory,
    ParametersPlan,
    ParametersPlanList,
    ParametersPlanRequest,
    ParametersPreview,
    ParametersUndo,
)
from re6st.registry.parameters import Difference
from re6st.registry.plans import Plan
from re6st.registry.service import Service


def _full(parameters: NetworkParameters) -> Parameters:
    return Parameters(**msgspec.structs.asdict(parameters))


def show_parameters(service: Service, _call: Call) -> Parameters:
    """Show the network parameters in force."""
    return _full(service.current_parameters())


def preview_parameters(service: Service, call: Call) -> ParametersPreview:
    """Check a change and tell what it would do."""
    message: ParametersChange = call.message
    return ParametersPreview(
        version=service.current_parameters().version,
        differences=difference_messages(service.preview_parameters(message.changes)),
    )


def difference_messages(found: Iterable[Difference]) -> tuple[ParameterDifference, ...]:
    """Return what a change would do as an answer has it."""
    return tuple(ParameterDifference(key=item.key, before=item.before, after=item.after) for item in found)


def set_parameters(service: Service, call: Call) -> Parameters:
    """Change parameters for all nodes; with If-Match only those that the operator has seen."""
    message: ParametersChange = call.message
    before = service.current_parameters()
    call.check_seen(
        _full(before), f"version {before.version} of the parameters is in force meanwhile: look at it first"
    )
    return _full(service.change_parameters(message.changes, expected_version=before.version))


def list_plans(service: Service, _call: Call) -> ParametersPlanList:
    """List changes of parameters that wait for their time."""
    return ParametersPlanList(items=tuple(_plan(plan) for plan in service.plans()))


def create_plan(service: Service, call: Call) -> ParametersPlan:
    """Change parameters for all nodes at a chosen time."""
    message: ParametersPlanRequest = call.message
    return _plan(service.plan_parameters(message.changes, message.due))


def _plan(plan: Plan) -> ParametersPlan:
    return ParametersPlan(id=plan.identifier, due=plan.due, changes=dict(plan.changes))


def cancel_plan(service: Service, call: Call) -> None:
    """Drop a change that waits for its time."""
    service.cancel_plan(call.number("id", 0))


def undo_parameters(service: Service, call: Call) -> Parameters:
    """Put the values of an earlier version in force again."""
    message: ParametersUndo = call.message
    return _full(service.undo_parameters(message.version))


def parameters_history(service: Service, call: Call) -> ParametersHistory:
    """List the versions of the parameters, the newest first."""
    items = tuple(
        HistoricParameters(parameters=_full(item.parameters), created=item.created)
        for item in service.parameter_history()[: call.limit()]
    )
    return ParametersHistory(items=items)
