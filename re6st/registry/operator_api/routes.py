"""What operators can ask: one table, from which requests are served and the API's description is made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

from msgspec import Struct

from re6st.messages import OWNER_LENGTH
from re6st.registry import operator_messages as messages
from re6st.registry.diagnosis import Kind
from re6st.registry.openapi import Parameter
from re6st.registry.operator_api import admission, groups, nodes, oversight, parameters, settings
from re6st.registry.operator_api.call import HIGHEST_NUMBER, PAGE_LIMIT, Operation
from re6st.registry.operator_messages import Group, Node, NodeState, ParametersChange, WaitingRequest
from re6st.registry.operators import Scope
from re6st.registry.policy import AdmissionPolicy

_NUMBER = {"type": "integer", "minimum": 0, "maximum": HIGHEST_NUMBER}
_SELECTOR = {"type": "string", "minLength": 1, "maxLength": 64}
_NAME = {"type": "string", "minLength": 1, "maxLength": 63}
_TAG = {"type": "string", "maxLength": 256}
_IDEMPOTENCY_KEY = {"type": "string", "pattern": "^[!-~]{1,128}$", "maxLength": 128}

_IN_PATH = {"node": _SELECTOR, "prefix": _SELECTOR, "name": _NAME, "id": _NUMBER}

AFTER = Parameter("after", _NUMBER)
_BEFORE = Parameter("before", _NUMBER)
_LIMIT = Parameter("limit", {"type": "integer", "minimum": 1, "maximum": PAGE_LIMIT})
_SWITCH = {"type": "string", "enum": ["0", "1"]}
_WHICH_NODES = (
    _LIMIT,
    Parameter("after"),
    Parameter("state", {"type": "string", "enum": [state.value for state in NodeState]}),
    Parameter("search"),
    Parameter("unwell", _SWITCH),
    Parameter("trouble", {"type": "string", "enum": [kind.value for kind in Kind]}),
    Parameter("group", _NAME),
    Parameter("owner", {"type": "string", "maxLength": OWNER_LENGTH}),
)


@dataclass(frozen=True, slots=True)
class OperatorRoute:
    """One thing that operators can ask."""

    scope: Scope
    """What a token must be good for."""
    method: str
    path: str
    operation: Operation
    answer: type[Struct] | None = None
    """None: the answer has no body."""
    request: type[Struct] | None = None
    query: tuple[Parameter, ...] = ()
    conditional: bool = False
    """Whether ``If-Match`` can say what the operator believes to change; the answer has an entity tag."""

    @property
    def status(self) -> HTTPStatus:
        """Of the answer."""
        if self.answer is None:
            return HTTPStatus.NO_CONTENT
        return HTTPStatus.CREATED if self.repeatable else HTTPStatus.OK

    @property
    def repeatable(self) -> bool:
        """Whether a repetition must be told from a second request, by ``Idempotency-Key``.

        Whoever may only read may repeat anything, and leaves no answer in the database.
        """
        return self.method == "POST" and self.scope is not Scope.READ

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """All parameters in path, query and headers."""
        names = re.findall(r"{(\w+)}", self.path)
        found = [*(Parameter(name, _IN_PATH[name], "path") for name in names), *self.query]
        if self.method == "GET":
            found.append(Parameter("If-None-Match", _TAG, "header"))
        if self.conditional:
            found.append(Parameter("If-Match", _TAG, "header"))
        if self.repeatable:
            found.append(Parameter("Idempotency-Key", _IDEMPOTENCY_KEY, "header"))
        return tuple(found)


READ, WRITE, ADMIN = Scope.READ, Scope.WRITE, Scope.ADMIN

_NODES = (
    OperatorRoute(READ, "GET", "/nodes", nodes.list_nodes, messages.NodePage, query=_WHICH_NODES),
    OperatorRoute(READ, "GET", "/nodes/{node}", nodes.show_node, Node),
    OperatorRoute(WRITE, "PUT", "/nodes/{node}/name", nodes.rename_node, Node, messages.Renaming),
    OperatorRoute(WRITE, "PUT", "/nodes/{node}/group", nodes.move_node, Node, messages.NodeGroup),
    OperatorRoute(WRITE, "PUT", "/nodes/{node}/owner", nodes.set_owner, Node, messages.NodeOwner),
    OperatorRoute(WRITE, "PUT", "/nodes/{node}/suspension", nodes.suspend_node, Node),
    OperatorRoute(WRITE, "DELETE", "/nodes/{node}/suspension", nodes.resume_node, Node),
    OperatorRoute(WRITE, "POST", "/nodes/{node}/revocation", nodes.revoke_node, Node),
    OperatorRoute(WRITE, "POST", "/nodes/{node}/prefixes", nodes.add_prefix, Node, messages.PrefixRequest),
    OperatorRoute(WRITE, "DELETE", "/nodes/{node}/prefixes/{prefix}", nodes.remove_prefix),
    OperatorRoute(WRITE, "DELETE", "/nodes/{node}", nodes.delete_node),
    OperatorRoute(READ, "GET", "/mesh", nodes.show_mesh, messages.Mesh),
)

_GROUPS = (
    OperatorRoute(READ, "GET", "/groups", groups.list_groups, messages.GroupList),
    OperatorRoute(WRITE, "POST", "/groups", groups.create_group, Group, messages.GroupRequest),
    OperatorRoute(READ, "GET", "/groups/{name}", groups.show_group, Group),
    OperatorRoute(
        WRITE, "PUT", "/groups/{name}", groups.change_group, Group, messages.GroupChange, conditional=True
    ),
    OperatorRoute(WRITE, "DELETE", "/groups/{name}", groups.remove_group),
)

_ADMISSION = (
    OperatorRoute(WRITE, "POST", "/links", admission.create_link, messages.Link, messages.LinkRequest),
    OperatorRoute(READ, "GET", "/tokens", admission.list_tokens, messages.TokenPage, query=(_LIMIT, AFTER)),
    OperatorRoute(WRITE, "DELETE", "/tokens/{id}", admission.revoke_token),
    OperatorRoute(READ, "GET", "/reservations", admission.list_reservations, messages.ReservationList),
    OperatorRoute(
        WRITE,
        "POST",
        "/reservations",
        admission.create_reservation,
        messages.KeptPrefix,
        messages.ReservationRequest,
    ),
    OperatorRoute(WRITE, "DELETE", "/reservations/{name}", admission.remove_reservation),
    OperatorRoute(
        READ,
        "GET",
        "/requests",
        admission.list_requests,
        messages.RequestPage,
        query=(_LIMIT, _BEFORE, Parameter("all", _SWITCH)),
    ),
    OperatorRoute(
        WRITE, "POST", "/requests/{id}/approval", admission.approve_request, WaitingRequest, messages.Approval
    ),
    OperatorRoute(
        WRITE, "POST", "/requests/{id}/denial", admission.deny_request, WaitingRequest, messages.Denial
    ),
)

_PARAMETERS = (
    OperatorRoute(READ, "GET", "/parameters", parameters.show_parameters, messages.Parameters),
    OperatorRoute(
        ADMIN,
        "PUT",
        "/parameters",
        parameters.set_parameters,
        messages.Parameters,
        ParametersChange,
        conditional=True,
    ),
    OperatorRoute(
        READ,
        "POST",
        "/parameters/preview",
        parameters.preview_parameters,
        messages.ParametersPreview,
        ParametersChange,
    ),
    OperatorRoute(
        ADMIN,
        "POST",
        "/parameters/undo",
        parameters.undo_parameters,
        messages.Parameters,
        messages.ParametersUndo,
    ),
    OperatorRoute(READ, "GET", "/parameters/plans", parameters.list_plans, messages.ParametersPlanList),
    OperatorRoute(
        ADMIN,
        "POST",
        "/parameters/plans",
        parameters.create_plan,
        messages.ParametersPlan,
        messages.ParametersPlanRequest,
    ),
    OperatorRoute(ADMIN, "DELETE", "/parameters/plans/{id}", parameters.cancel_plan),
    OperatorRoute(
        READ,
        "GET",
        "/parameters/history",
        parameters.parameters_history,
        messages.ParametersHistory,
        query=(_LIMIT,),
    ),
)

_SETTINGS = (
    OperatorRoute(READ, "GET", "/admission", settings.show_policy, AdmissionPolicy),
    OperatorRoute(
        ADMIN, "PUT", "/admission", settings.set_policy, AdmissionPolicy, ParametersChange, conditional=True
    ),
    OperatorRoute(
        READ,
        "POST",
        "/admission/preview",
        settings.preview_policy,
        messages.AdmissionPreview,
        ParametersChange,
    ),
    OperatorRoute(READ, "GET", "/lan-keys", settings.list_lan_keys, messages.LanKeyList),
    OperatorRoute(
        ADMIN, "POST", "/lan-keys", settings.rotate_lan_key, messages.LanKey, messages.LanKeyRotation
    ),
)

_OVERSIGHT = (
    OperatorRoute(READ, "GET", "/overview", oversight.overview, messages.Overview),
    OperatorRoute(
        READ,
        "GET",
        "/audit",
        oversight.list_audit,
        messages.AuditPage,
        query=(_LIMIT, AFTER, _BEFORE, Parameter("since", _NUMBER)),
    ),
    OperatorRoute(
        READ, "GET", "/operator-tokens", oversight.list_operator_tokens, messages.OperatorTokenList
    ),
    OperatorRoute(
        ADMIN,
        "POST",
        "/operator-tokens",
        oversight.create_operator_token,
        messages.OperatorToken,
        messages.OperatorTokenRequest,
    ),
    OperatorRoute(ADMIN, "DELETE", "/operator-tokens/{name}", oversight.revoke_operator_token),
)

ROUTES = (*_NODES, *_GROUPS, *_ADMISSION, *_PARAMETERS, *_SETTINGS, *_OVERSIGHT)
