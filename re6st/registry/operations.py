"""What the operator API can do: from a checked request to its answer, each in one call of the service.

These functions run in the service's thread. The HTTP side (:mod:`re6st.registry.operator_http`) has
authenticated the operator and decoded the message before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from re6st.errors import RegistryRefusedError
from re6st.messages import AdmissionState, NetworkParameters, encode
from re6st.prefix import parse_prefix
from re6st.registry.admissions import Reservation
from re6st.registry.diagnosis import SILENCE, Kind, last_contact
from re6st.registry.groups import GroupRow
from re6st.registry.ledger import AuditRow
from re6st.registry.links import JoinLink
from re6st.registry.mesh import draw_mesh
from re6st.registry.operator_messages import (
    Approval,
    AuditEntry,
    AuditPage,
    Denial,
    Group,
    GroupChange,
    GroupList,
    GroupRequest,
    HistoricParameters,
    KeptPrefix,
    Link,
    LinkRequest,
    Mesh,
    Node,
    NodeGroup,
    NodeOwner,
    NodePage,
    NodeState,
    NodeTrouble,
    OperatorToken,
    OperatorTokenList,
    OperatorTokenRequest,
    Overview,
    ParameterDifference,
    Parameters,
    ParametersChange,
    ParametersHistory,
    ParametersPlan,
    ParametersPlanList,
    ParametersPlanRequest,
    ParametersPreview,
    ParametersUndo,
    PrefixRequest,
    Renaming,
    RequestPage,
    ReservationList,
    ReservationRequest,
    Token,
    TokenPage,
    TokenState,
    WaitingRequest,
)
from re6st.registry.operators import Operator, Scope
from re6st.registry.plans import Plan
from re6st.registry.qr import qr_code
from re6st.registry.reporting import Condition
from re6st.registry.requests import RequestRow
from re6st.registry.service import Service
from re6st.registry.store import Selection

PAGE_LIMIT = 1000
"""Items that one may ask for at once."""

DEFAULT_LIMIT = 100

MESH_LIMIT = 1000
"""Nodes that one picture of the mesh shows."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request of an operator."""

    operator: Operator
    path: Mapping[str, str]
    query: Mapping[str, str]
    message: Any = None
    """Of the type that the route declares."""
    if_match: str | None = None
    """Entity tag of what the operator believes to change."""


Operation = Callable[[Service, Call], Struct | None]


def entity_tag(body: bytes) -> str:
    """Return the entity tag (RFC 9110, 8.8.3) of an answer."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def number(call: Call, name: str, default: int, least: int = 0, most: int = 2**53) -> int:
    """Return the number ``name`` in the query or path. Raises :class:`RegistryRefusedError`."""
    text = call.path.get(name, call.query.get(name))
    if text is None:
        return default
    if re.fullmatch(r"[0-9]{1,16}", text) is None or not least <= int(text) <= most:
        raise RegistryRefusedError(f"{name} must be a number from {least} to {most}", code="malformed")
    return int(text)


def _limit(call: Call) -> int:
    return number(call, "limit", DEFAULT_LIMIT, 1, PAGE_LIMIT)


def overview(service: Service, call: Call) -> Overview:
    """Say who is asking, and how the network is."""
    return Overview(
        operator=call.operator.name,
        scope=call.operator.scope,
        network=str(service.network),
        fingerprint=service.fingerprint,
        nodes=service.count_states(),
        requests=service.count_requests(),
        parameters_version=service.current_parameters().version,
        revocations_version=service.revocations_version(),
        time=service.now(),
    )


# -- nodes ----------------------------------------------------------------------------------------------


def list_nodes(service: Service, call: Call) -> NodePage:
    """List nodes by prefix, former ones included; ``search`` is a part of name, owner or prefix.

    With ``unwell`` only those that somebody should look after, with ``trouble`` those that have this one.
    """
    limit = _limit(call)
    state = call.query.get("state")
    if state is not None and state not in [item.value for item in NodeState]:
        raise RegistryRefusedError("state must be active, suspended, expired or released", code="malformed")
    group = call.query.get("group")
    selection = Selection(
        state=state,
        search=call.query.get("search", "")[:64],
        group=service.group(group).name if group is not None else None,
        owner=call.query.get("owner"),
    )
    after = _node_cursor(call)
    trouble = call.query.get("trouble")
    if trouble is not None and trouble not in [kind.value for kind in Kind]:
        raise RegistryRefusedError(
            f"trouble must be one of {', '.join(kind.value for kind in Kind)}", code="malformed"
        )
    if trouble is not None or call.query.get("unwell", "") not in ("", "0"):
        kind = Kind(trouble) if trouble is not None else None
        found = service.unwell(limit + 1, selection, kind=kind, after=after)
    else:
        found = service.conditions(service.members_page(limit + 1, selection, after=after))
    last = found[limit - 1].member.node if len(found) > limit else None
    return NodePage(
        items=tuple(_node(service, condition) for condition in found[:limit]),
        next=f"{last.prefix.network_address.packed.hex()}-{last.identifier}" if last is not None else None,
    )


def _node_cursor(call: Call) -> tuple[bytes, int] | None:
    after = call.query.get("after")
    if after is None:
        return None
    match = re.fullmatch(r"([0-9a-f]{32})-([0-9]{1,15})", after)
    if match is None:
        raise RegistryRefusedError("after must be what the page before gave as next", code="malformed")
    return bytes.fromhex(match[1]), int(match[2])


def _node(service: Service, condition: Condition) -> Node:
    member, row = condition.member, condition.report
    node = member.node
    report = row.report if row is not None else None
    return Node(
        name=node.name,
        prefix=str(node.prefix),
        address=str(node.address),
        state=NodeState(member.state(service.now())),
        further_prefixes=tuple(str(prefix) for prefix in member.further),
        group=node.group,
        owner=node.owner,
        created=node.created,
        suspended=node.suspended,
        released=node.released,
        quarantine_until=service.release_time(node),
        serial=member.serial,
        expires=member.expires,
        published=member.published,
        reachable=member.reachable,
        software=report.software if report is not None else member.software,
        seen=last_contact(member, row),
        tunnels=len(report.tunnels) if report is not None else None,
        parameters_version=report.parameters_version if report is not None else None,
        clock_offset=round(report.time - row.received, 1) if report is not None and row is not None else None,
        troubles=tuple(
            NodeTrouble(kind=trouble.kind, severity=trouble.severity, text=trouble.text)
            for trouble in condition.troubles
        ),
    )


def _selected(service: Service, selector: str) -> Node:
    return _node(service, service.conditions([service.member(selector)])[0])


def show_node(service: Service, call: Call) -> Node:
    """Show the node with this name or prefix (with its ``/`` as ``%2F``)."""
    return _selected(service, call.path["node"])


def rename_node(service: Service, call: Call) -> Node:
    """Give a node another name."""
    message: Renaming = call.message
    service.rename(call.path["node"], message.name)
    return _selected(service, message.name)


def move_node(service: Service, call: Call) -> Node:
    """Put a node into another group."""
    message: NodeGroup = call.message
    return _selected(service, service.move(call.path["node"], message.group).name)


def set_owner(service: Service, call: Call) -> Node:
    """Write down to whom a node belongs."""
    message: NodeOwner = call.message
    return _selected(service, service.set_owner(call.path["node"], message.owner).name)


def add_prefix(service: Service, call: Call) -> Node:
    """Give a node a further prefix."""
    message: PrefixRequest = call.message
    prefix = parse_prefix(message.prefix) if message.prefix is not None else None
    service.add_prefix(call.path["node"], prefix, message.prefix_length)
    return _selected(service, call.path["node"])


def remove_prefix(service: Service, call: Call) -> None:
    """Take a further prefix (with its ``/`` as ``%2F``) from a node; it is in quarantine then."""
    service.remove_prefix(call.path["node"], parse_prefix(call.path["prefix"]))


def suspend_node(service: Service, call: Call) -> Node:
    """Keep a node out of the network until it is resumed."""
    return _selected(service, service.suspend(call.path["node"]).name)


def resume_node(service: Service, call: Call) -> Node:
    """Let a suspended node take part again."""
    return _selected(service, service.resume(call.path["node"]).name)


def revoke_node(service: Service, call: Call) -> Node:
    """Withdraw a node's certificates and put its prefix into quarantine."""
    row = service.revoke(call.path["node"])
    return _selected(service, str(row.prefix))


def delete_node(service: Service, call: Call) -> None:
    """Forget a node, revoking it first."""
    service.delete(call.path["node"])


def show_mesh(service: Service, _call: Call) -> Mesh:
    """Show the nodes that reported lately, and their tunnels."""
    return draw_mesh(service.mesh(MESH_LIMIT + 1, SILENCE), MESH_LIMIT)


# -- groups ---------------------------------------------------------------------------------------------


def list_groups(service: Service, _call: Call) -> GroupList:
    """List the groups of nodes."""
    return GroupList(items=tuple(_group(service, row) for row in service.groups()))


def show_group(service: Service, call: Call) -> Group:
    """Show a group of nodes."""
    return _group(service, service.group(call.path["name"]))


def create_group(service: Service, call: Call) -> Group:
    """Make a group of nodes."""
    message: GroupRequest = call.message
    row = service.create_group(
        message.name, message.description, message.prefix_length, message.maximum_nodes
    )
    return _group(service, row)


def change_group(service: Service, call: Call) -> Group:
    """Change a group; with If-Match only one that the operator has seen."""
    message: GroupChange = call.message
    name = call.path["name"]
    with service.database.transaction():
        if call.if_match not in (None, "*", entity_tag(encode(_group(service, service.group(name))))):
            raise RegistryRefusedError(
                f"the group {name} was changed meanwhile, or its number of nodes: look at it first",
                code="version-changed",
            )
        row = service.change_group(name, message.description, message.prefix_length, message.maximum_nodes)
        return _group(service, row)


def remove_group(service: Service, call: Call) -> None:
    """Remove a group that has no nodes."""
    service.remove_group(call.path["name"])


def _group(service: Service, row: GroupRow) -> Group:
    return Group(
        name=row.name,
        description=row.description,
        prefix_length=row.prefix_length,
        maximum_nodes=row.maximum_nodes,
        nodes=service.count_group(row),
        created=row.created,
    )


# -- admission ------------------------------------------------------------------------------------------


def create_link(service: Service, call: Call) -> Link:
    """Make a join link."""
    message: LinkRequest = call.message
    kept = (message.name, message.group, message.owner or None)
    if message.return_node is not None and (any(kept) or message.uses != 1):
        raise RegistryRefusedError(
            "return_node is for one node, which keeps its name, group and owner: leave these and uses away",
            code="malformed",
        )
    urls = service.choose_urls(message.url)
    if message.return_node is not None:
        token = service.create_return_token(message.return_node, message.lifetime)
    else:
        token = service.create_token(
            message.name,
            message.prefix_length,
            message.lifetime,
            message.uses,
            group=message.group,
            owner=message.owner,
        )
    row = service.find_token(token)
    link = str(JoinLink(urls[0], service.fingerprint, token, urls[1:]))
    return Link(id=row.identifier, link=link, expires=row.expires, qr_code=qr_code(link))


def list_tokens(service: Service, call: Call) -> TokenPage:
    """List the tokens of join links, the oldest first."""
    limit = _limit(call)
    rows = service.tokens_page(number(call, "after", 0), limit + 1)
    items = tuple(
        Token(
            id=row.identifier,
            state=TokenState(row.state(service.now())),
            prefix_length=row.prefix_length,
            created=row.created,
            expires=row.expires,
            uses=row.uses,
            maximum_uses=row.maximum_uses,
            name=row.name,
            group=row.group,
            owner=row.owner,
        )
        for row in rows[:limit]
    )
    return TokenPage(items=items, next=items[-1].id if len(rows) > limit else None)


def revoke_token(service: Service, call: Call) -> None:
    """Let nobody in with this token any more."""
    service.revoke_token(number(call, "id", 0))


def list_reservations(service: Service, _call: Call) -> ReservationList:
    """List the prefixes that are kept for a name."""
    return ReservationList(items=tuple(_kept(row) for row in service.reservations()))


def create_reservation(service: Service, call: Call) -> KeptPrefix:
    """Keep a prefix for a name."""
    message: ReservationRequest = call.message
    prefix = parse_prefix(message.prefix) if message.prefix is not None else None
    return _kept(service.reserve(message.name, prefix, message.prefix_length))


def _kept(row: Reservation) -> KeptPrefix:
    return KeptPrefix(name=row.name, prefix=str(row.prefix), created=row.created)


def remove_reservation(service: Service, call: Call) -> None:
    """Keep no prefix for this name any more."""
    service.unreserve(call.path["name"])


# -- requests for admission -----------------------------------------------------------------------------


def list_requests(service: Service, call: Call) -> RequestPage:
    """List machines that ask to be let in, the newest first; with ``all`` also those that were decided."""
    limit = _limit(call)
    pending = call.query.get("all", "") in ("", "0")
    rows = service.requests(pending=pending, before=number(call, "before", 2**53), limit=limit + 1)
    items = tuple(_waiting(service, row) for row in rows[:limit])
    return RequestPage(items=items, next=items[-1].id if len(rows) > limit else None)


def _waiting(service: Service, row: RequestRow) -> WaitingRequest:
    state = service.request_state(row)
    return WaitingRequest(
        id=row.identifier,
        state=state,
        name=row.name,
        key=row.key_digest.hex(),
        message=row.message,
        origin=row.origin,
        created=row.created,
        expires=row.expires,
        reason=row.reason,
        suspicions=service.suspicions(row) if state is AdmissionState.PENDING else (),
    )


def approve_request(service: Service, call: Call) -> WaitingRequest:
    """Let in a machine that asked."""
    message: Approval = call.message
    row = service.approve(
        number(call, "id", 0), message.name, message.prefix_length, group=message.group, owner=message.owner
    )
    return _waiting(service, row)


def deny_request(service: Service, call: Call) -> WaitingRequest:
    """Keep out a machine that asked."""
    message: Denial = call.message
    return _waiting(service, service.deny(number(call, "id", 0), message.reason))


# -- network parameters ---------------------------------------------------------------------------------


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
        differences=tuple(
            ParameterDifference(key=item.key, before=item.before, after=item.after)
            for item in service.preview_parameters(message.changes)
        ),
    )


def set_parameters(service: Service, call: Call) -> Parameters:
    """Change parameters for all nodes; with If-Match only those that the operator has seen."""
    message: ParametersChange = call.message
    before = service.current_parameters()
    if call.if_match not in (None, "*", entity_tag(encode(_full(before)))):
        raise RegistryRefusedError(
            f"version {before.version} of the parameters is in force meanwhile: look at it first",
            code="version-changed",
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
    service.cancel_plan(number(call, "id", 0))


def undo_parameters(service: Service, call: Call) -> Parameters:
    """Put the values of an earlier version in force again."""
    message: ParametersUndo = call.message
    return _full(service.undo_parameters(message.version))


def parameters_history(service: Service, call: Call) -> ParametersHistory:
    """List the versions of the parameters, the newest first."""
    items = tuple(
        HistoricParameters(parameters=_full(item.parameters), created=item.created)
        for item in service.parameter_history()[: _limit(call)]
    )
    return ParametersHistory(items=items)


# -- audit log ------------------------------------------------------------------------------------------


def audit_entry(row: AuditRow) -> AuditEntry:
    """Return an entry as it travels."""
    return AuditEntry(
        id=row.identifier,
        time=row.time,
        actor_kind=row.actor_kind,
        actor=row.actor,
        origin=row.origin,
        action=row.action,
        subject=row.subject,
        details=msgspec.json.decode(row.details, type=dict[str, Any]),
    )


def list_audit(service: Service, call: Call) -> AuditPage:
    """List the audit log: behind ``after``, the oldest first, or below ``before``, the newest first."""
    limit = _limit(call)
    if "before" in call.query:
        rows = service.latest_audit(number(call, "before", 0), limit + 1)
    else:
        rows = service.audit(number(call, "after", 0), float(number(call, "since", 0)), limit + 1)
    items = tuple(audit_entry(row) for row in rows[:limit])
    return AuditPage(items=items, next=items[-1].id if len(rows) > limit else None)


# -- operators ------------------------------------------------------------------------------------------


def list_operator_tokens(service: Service, _call: Call) -> OperatorTokenList:
    """List operators' tokens."""
    items = tuple(
        OperatorToken(
            name=row.name,
            scope=Scope(row.scope),
            created=row.created,
            expires=row.expires,
            revoked=row.revoked,
        )
        for row in service.operator_tokens()
    )
    return OperatorTokenList(items=items)


def create_operator_token(service: Service, call: Call) -> OperatorToken:
    """Make an operator's token; it is shown only once."""
    message: OperatorTokenRequest = call.message
    token = service.create_operator_token(message.name, message.scope, message.lifetime)
    row = service.operator_token(message.name)
    return OperatorToken(
        name=row.name, scope=Scope(row.scope), created=row.created, expires=row.expires, token=token
    )


def revoke_operator_token(service: Service, call: Call) -> None:
    """Withdraw an operator's token."""
    service.revoke_operator_token(call.path["name"])
