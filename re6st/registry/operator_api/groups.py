"""What operators can do with groups of nodes."""

from __future__ import annotations

from re6st.registry.groups import GroupRow
from re6st.registry.operator_api.call import Call
from re6st.registry.operator_messages import Group, GroupChange, GroupList, GroupRequest
from re6st.registry.service import Service


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
        call.check_seen(
            _group(service, service.group(name)),
            f"the group {name} was changed meanwhile, or its number of nodes: look at it first",
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
