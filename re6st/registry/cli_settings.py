"""Commands around the registry itself: network parameters, audit log, backup, restore, check."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from re6st.identity import format_time
from re6st.registry.cli_common import (
    assignments,
    coming,
    identifier_type,
    json_option,
    moment,
    opened,
    print_differences,
    print_json,
    print_rows,
    store_option,
    tell_differences,
)
from re6st.registry.place import Place
from re6st.registry.state import StateDirectory

if TYPE_CHECKING:
    from re6st.messages import NetworkParameters


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def parameters(context: click.Context, as_json: bool) -> None:
    """Show the network parameters, or set them."""
    if context.invoked_subcommand is None:
        _show_parameters(context.obj, as_json)


@parameters.command("show")
@json_option
@click.pass_obj
def parameters_show(state: StateDirectory, as_json: bool) -> None:
    """Show the network parameters."""
    _show_parameters(state, as_json)


@parameters.command("set")
@click.argument("texts", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("--preview", is_flag=True, help="Check and show what would change, and change nothing.")
@click.option("--at", type=coming, metavar="TIME|DATE", help="Later: in 12h, or at 2026-01-31T03:00 (UTC).")
@click.pass_obj
def parameters_set(state: StateDirectory, texts: Sequence[str], preview: bool, at: float | None) -> None:
    """Set network parameters for all nodes; they take the new version over, usually within a minute."""
    changes = assignments(texts)
    with opened(state) as service:
        if preview:
            print_differences(service.preview_parameters(changes))
            return
        if at is not None:
            plan = service.plan_parameters(changes, at)
            click.echo(f"Change {plan.identifier} will happen at {format_time(at)}", err=True)
            return
        before = service.current_parameters()
        changed = service.change_parameters(changes)
    _tell_change(before, changed)


@parameters.command("planned")
@json_option
@click.pass_obj
def parameters_planned(state: StateDirectory, as_json: bool) -> None:
    """List changes that wait for their time."""
    with opened(state) as service:
        rows: list[dict[str, object]] = [
            {
                "id": plan.identifier,
                "due": plan.due,
                "changes": " ".join(f"{key}={value}" for key, value in plan.changes.items()),
            }
            for plan in service.plans()
        ]
    print_rows("planned changes", ("id", "due", "changes"), rows, as_json)


@parameters.command("cancel")
@click.argument("identifier", type=identifier_type, metavar="ID")
@click.pass_obj
def parameters_cancel(state: StateDirectory, identifier: int) -> None:
    """Drop a change that waits for its time."""
    with opened(state) as service:
        service.cancel_plan(identifier)
    click.echo(f"Change {identifier} will not happen", err=True)


@parameters.command("history")
@json_option
@click.pass_obj
def parameters_history(state: StateDirectory, as_json: bool) -> None:
    """List the versions of the parameters, the newest first."""
    with opened(state) as service:
        rows: list[dict[str, object]] = [
            {"version": item.parameters.version, "created": item.created}
            for item in service.parameter_history()
        ]
    print_rows("versions", ("version", "created"), rows, as_json)


@parameters.command("diff")
@click.argument("earlier", type=identifier_type, required=False)
@click.argument("later", type=identifier_type, required=False)
@click.pass_obj
def parameters_diff(state: StateDirectory, earlier: int | None, later: int | None) -> None:
    """Show what changed between two versions: by default with the last change."""
    with opened(state) as service:
        print_differences(service.compare_parameters(earlier, later))


@parameters.command("undo")
@click.option("--to", "version", type=identifier_type, help="This version; else the previous one.")
@click.pass_obj
def parameters_undo(state: StateDirectory, version: int | None) -> None:
    """Put the values of an earlier version in force again."""
    with opened(state) as service:
        before = service.current_parameters()
        changed = service.undo_parameters(version)
    _tell_change(before, changed)


def _tell_change(before: NetworkParameters, after: NetworkParameters) -> None:
    from re6st.registry.parameters import differences

    tell_differences(differences(before, after))
    click.echo(f"Network parameters version {after.version} are in force", err=True)


def _show_parameters(state: StateDirectory, as_json: bool) -> None:
    from re6st.registry.parameters import format_value

    with opened(state) as service:
        current = service.current_parameters()
    if as_json:
        print_json(msgspec.to_builtins(current))
    else:
        for key, value in msgspec.structs.asdict(current).items():
            click.echo(f"{key} = {format_value(value).replace(',', ', ')}")


@click.command()
@click.option(
    "--since",
    type=moment,
    metavar="TIME|DATE",
    default="1970-01-01",
    help="7d (ago) or a date such as 2026-01-31.",
)
@json_option
@click.pass_obj
def audit(state: StateDirectory, since: float, as_json: bool) -> None:
    """Export the audit log, the oldest entry first (--json: one object a line)."""
    with opened(state) as service:
        entries = service.audit(since=since)
    if as_json:
        for entry in entries:
            values = dataclasses.asdict(entry) | {"details": json.loads(entry.details)}
            values["id"] = values.pop("identifier")
            click.echo(json.dumps(values))
    else:
        for entry in entries:
            who = f"{entry.actor_kind} {entry.actor}".strip()
            click.echo(
                f"{format_time(entry.time)} {who} ({entry.origin}) {entry.action} {entry.subject}"
                f" {entry.details}"
            )


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--include-keys", is_flag=True, help="Put the CA's private key into the backup, too.")
@click.pass_obj
def backup(state: StateDirectory, file: Path, include_keys: bool) -> None:
    """Write a backup to FILE (0600); the server may work meanwhile."""
    from re6st.registry.backup import back_up
    from re6st.registry.usecases import local_actor

    back_up(state, file.absolute(), local_actor(), include_keys=include_keys)
    if include_keys:
        click.echo(f"{file} contains the CA's private key: keep it secret", err=True)
    else:
        click.echo(f"{file} does not contain the CA's private key: keep {state.authority_key} too", err=True)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--authority-key", type=click.Path(path_type=Path), help="ca-key.pem, if not in FILE.")
@store_option
@click.pass_obj
def restore(state: StateDirectory, file: Path, authority_key: Path | None, place: Place | None) -> None:
    """Make an empty state directory the registry of which FILE is a backup."""
    from re6st.registry.backup import restore as restore_backup
    from re6st.registry.usecases import local_actor

    problems = restore_backup(state, file.absolute(), local_actor(), authority_key, place)
    click.echo(f"Restored into {state.path}. What happened after the backup is unknown here:", err=True)
    click.echo("nodes that joined since are adopted when they come; revoke again what was revoked.", err=True)
    _report(problems)


@click.command()
@click.pass_obj
def check(state: StateDirectory) -> None:
    """Check database, keys and signed documents; exit status 1 if anything is wrong."""
    from re6st.registry.backup import check as find_problems

    problems = find_problems(state)
    _report(problems)
    if not problems:
        click.echo("No problem found", err=True)


def _report(problems: Sequence[str]) -> None:
    for problem in problems:
        click.echo(f"re6st-registry: {problem}", err=True)
    if problems:
        sys.exit(1)
