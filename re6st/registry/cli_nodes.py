"""Commands around nodes: list, show, rename, move, owner, prefixes, suspend, resume, revoke, delete."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from re6st.identity import format_time
from re6st.prefix import parse_prefix
from re6st.registry.cli_common import cell, json_option, opened, print_json, print_rows
from re6st.registry.database import ALL
from re6st.registry.diagnosis import last_contact
from re6st.registry.state import StateDirectory
from re6st.registry.store import Selection

if TYPE_CHECKING:
    from re6st.registry.reporting import Condition
    from re6st.registry.service import Service
    from re6st.registry.store import NodeRow

node_argument = click.argument("node", metavar="NAME|PREFIX")


@click.group(invoke_without_command=True)
@click.option("--state", "wanted", type=click.Choice(["active", "suspended", "expired", "released"]))
@click.option("--search", default="", help="Part of the name, of the owner or of the prefix.")
@click.option("--group", help="Only those of this group.")
@click.option("--owner", help="Only those of this owner.")
@click.option("--unwell", is_flag=True, help="Only those that somebody should look after.")
@json_option
@click.pass_context
def nodes(
    context: click.Context,
    wanted: str | None,
    search: str,
    group: str | None,
    owner: str | None,
    unwell: bool,
    as_json: bool,
) -> None:
    """List the nodes of the network, former ones included."""
    if context.invoked_subcommand is not None:
        return
    with opened(context.obj) as service:
        now = time.time()
        if group is not None:
            group = service.group(group).name
        members = service.members_page(ALL, Selection(wanted, search, group, owner))
        found = [condition for condition in service.conditions(members) if condition.unwell or not unwell]
        rows = [_describe(service, condition, now) for condition in found]
    if not as_json:
        rows = [row | {"trouble": _worst(condition)} for row, condition in zip(rows, found, strict=True)]
    columns = ("name", "prefix", "state", "group", "owner", "seen", "trouble")
    print_rows("unwell nodes" if unwell else "nodes", columns, rows, as_json)


def _worst(condition: Condition) -> str | None:
    """Return what is wrong with a node above all, and how much else."""
    if not condition.troubles:
        return None
    more = f" (and {len(condition.troubles) - 1} more)" if len(condition.troubles) > 1 else ""
    return condition.troubles[0].text + more


@nodes.command("show")
@node_argument
@json_option
@click.pass_obj
def show(state: StateDirectory, node: str, as_json: bool) -> None:
    """Show all that is known of one node."""
    with opened(state) as service:
        member = service.member(node)
        [condition] = service.conditions([member])
        values = _describe(service, condition, time.time())
        values["certificates"] = [
            {"serial": row.serial, "issued": row.issued, "expires": row.expires, "revoked": row.revoked}
            for row in service.certificates(member.node)
        ]
    if as_json:
        print_json(values)
        return
    certificates = values.pop("certificates")
    values["further_prefixes"] = ", ".join(str(prefix) for prefix in member.further) or None
    values["troubles"] = "; ".join(trouble.text for trouble in condition.troubles) or None
    for key, value in values.items():
        click.echo(f"{key.replace('_', ' ')}: {cell(value)}")
    for row in certificates if isinstance(certificates, list) else []:
        ended = f", revoked {format_time(row['revoked'])}" if row["revoked"] is not None else ""
        click.echo(f"certificate {row['serial']}: until {format_time(row['expires'])}{ended}")


def _describe(service: Service, condition: Condition, now: float) -> dict[str, object]:
    member = condition.member
    node = member.node
    return {
        "name": node.name,
        "prefix": str(node.prefix),
        "further_prefixes": [str(prefix) for prefix in member.further],
        "address": str(node.address),
        "state": member.state(now),
        "group": node.group,
        "owner": node.owner or None,
        "created": node.created,
        "suspended": node.suspended,
        "released": node.released,
        "quarantine_until": service.release_time(node),
        "serial": member.serial,
        "expires": member.expires,
        "published": member.published,
        "reachable": member.reachable,
        "software": member.software,
        "seen": last_contact(member, condition.report),
        "troubles": [
            {"kind": trouble.kind.value, "severity": trouble.severity.value, "text": trouble.text}
            for trouble in condition.troubles
        ],
    }


@click.command()
@node_argument
@click.argument("name", metavar="NEW-NAME")
@click.pass_obj
def rename(state: StateDirectory, node: str, name: str) -> None:
    """Give a node another name; its certificate shows it after the next renewal."""
    with opened(state) as service:
        row = service.rename(node, name)
    click.echo(f"{row.prefix} is called {row.name} now", err=True)


@click.command()
@node_argument
@click.argument("group")
@click.pass_obj
def move(state: StateDirectory, node: str, group: str) -> None:
    """Put a node into another group; it keeps its prefix."""
    with opened(state) as service:
        row = service.move(node, group)
    click.echo(f"{row.name} ({row.prefix}) is in the group {row.group}", err=True)


@click.command()
@node_argument
@click.argument("owner")
@click.pass_obj
def owner(state: StateDirectory, node: str, owner: str) -> None:
    """Write down to whom a node belongs: an e-mail address, for example; '' for nobody."""
    with opened(state) as service:
        row = service.set_owner(node, owner)
    click.echo(f"{row.name} ({row.prefix}) belongs to {row.owner or 'nobody'}", err=True)


@click.command("add-prefix")
@node_argument
@click.option("--prefix", help="This prefix; else a free one.")
@click.option("--prefix-length", type=int, help="By default as the node's group says, or 64.")
@click.pass_obj
def add_prefix(state: StateDirectory, node: str, prefix: str | None, prefix_length: int | None) -> None:
    """Give a node a further prefix, and print it; the node uses it within minutes."""
    with opened(state) as service:
        added = service.add_prefix(node, parse_prefix(prefix) if prefix else None, prefix_length)
    click.echo(str(added))


@click.command("remove-prefix")
@node_argument
@click.argument("prefix")
@click.pass_obj
def remove_prefix(state: StateDirectory, node: str, prefix: str) -> None:
    """Take a further prefix from a node; it is in quarantine then."""
    with opened(state) as service:
        row = service.remove_prefix(node, parse_prefix(prefix))
    click.echo(f"{prefix} is not a prefix of {row.name} any more", err=True)


@click.command()
@node_argument
@click.pass_obj
def suspend(state: StateDirectory, node: str) -> None:
    """Keep a node out of the network until it is resumed."""
    with opened(state) as service:
        row = service.suspend(node)
    click.echo(f"{row.name} ({row.prefix}) is suspended", err=True)


@click.command()
@node_argument
@click.pass_obj
def resume(state: StateDirectory, node: str) -> None:
    """Let a suspended node take part again."""
    with opened(state) as service:
        row = service.resume(node)
    click.echo(f"{row.name} ({row.prefix}) may take part again", err=True)


@click.command()
@node_argument
@click.pass_obj
def revoke(state: StateDirectory, node: str) -> None:
    """Withdraw a node's certificates and put its prefix into quarantine."""
    with opened(state) as service:
        _tell(service, service.revoke(node), "revoked")


@click.command()
@node_argument
@click.pass_obj
def delete(state: StateDirectory, node: str) -> None:
    """Forget a node, revoking it first; its prefix stays in quarantine."""
    with opened(state) as service:
        _tell(service, service.delete(node), "deleted")


def _tell(service: Service, node: NodeRow, what: str) -> None:
    until = service.release_time(node)
    waiting = f"; the prefix is in quarantine until {format_time(until)}" if until is not None else ""
    click.echo(f"{node.name} ({node.prefix}) is {what}{waiting}", err=True)
