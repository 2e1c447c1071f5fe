"""What operators can do with nodes, and how they see the mesh."""

from __future__ import annotations

import re

from re6st.errors import RegistryRefusedError
from re6st.prefix import parse_prefix
from re6st.registry.diagnosis import SILENCE, Kind, Severity, last_contact
from re6st.registry.mesh import draw_mesh
from re6st.registry.operator_api.call import Call
from re6st.registry.operator_messages import (
    Mesh,
    Node,
    NodeGroup,
    NodeOwner,
    NodePage,
    NodeState,
    NodeTrouble,
    PrefixRequest,
    Renaming,
    TroubleCount,
    Troubles,
)
from re6st.registry.reporting import Condition, Health
from re6st.registry.service import Service
from re6st.registry.store import Selection

MESH_LIMIT = 1000
"""Nodes that one picture of the mesh shows."""


def list_nodes(service: Service, call: Call) -> NodePage:
    """List nodes by prefix, former ones included; ``search`` is a part of name, owner or prefix.

    With ``unwell`` only those that somebody should look after, with ``trouble`` those that have this one.
    """
    limit = call.limit()
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
    if trouble is not None or call.switch("unwell"):
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


def show_troubles(health: Health) -> Troubles:
    """Return how many nodes are unwell, and of what, as it travels."""
    order = list(Severity)
    items = sorted(health.troubles.items(), key=lambda item: (-order.index(item[0][1]), -item[1]))
    return Troubles(
        unwell=health.unwell,
        items=tuple(
            TroubleCount(kind=kind, severity=severity, nodes=nodes) for (kind, severity), nodes in items
        ),
        counted=health.counted,
    )
