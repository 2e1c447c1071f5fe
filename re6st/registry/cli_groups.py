"""Commands around groups of nodes: create, list, set, remove."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from re6st.errors import ConfigError
from re6st.registry.cli_common import json_option, opened, print_rows
from re6st.registry.state import StateDirectory


def _number(text: str) -> int | None:
    """Return a number, or None for ``none``."""
    if text == "none":
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 7:
        raise click.BadParameter(f"{text!r} is neither a number nor none")
    return int(text)


def _settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give ``command`` the options of what a group can be like."""
    for option in (
        click.option(
            "--maximum-nodes", type=_number, metavar="NUMBER|none", help="How many nodes it may have."
        ),
        click.option(
            "--prefix-length", type=_number, metavar="LENGTH|none", help="Of the prefixes of its new nodes."
        ),
        click.option("--description", help="What it is for."),
    ):
        command = option(command)
    return command


@click.group()
def group() -> None:
    """Groups of nodes."""


@group.command("create")
@click.argument("name")
@_settings
@click.pass_obj
def group_create(
    state: StateDirectory,
    name: str,
    description: str | None,
    prefix_length: int | None,
    maximum_nodes: int | None,
) -> None:
    """Make the group NAME."""
    with opened(state) as service:
        row = service.create_group(name, description or "", prefix_length, maximum_nodes)
    click.echo(
        f"The group {row.name} is there: put nodes into it with token create --group, or move", err=True
    )


@group.command("list")
@json_option
@click.pass_obj
def group_list(state: StateDirectory, as_json: bool) -> None:
    """List groups, and how many nodes are in each."""
    with opened(state) as service:
        rows: list[dict[str, object]] = [
            {
                "name": row.name,
                "nodes": service.count_group(row),
                "maximum_nodes": row.maximum_nodes,
                "prefix_length": row.prefix_length,
                "description": row.description,
            }
            for row in service.groups()
        ]
    print_rows("groups", ("name", "nodes", "maximum_nodes", "prefix_length", "description"), rows, as_json)


@group.command("set")
@click.argument("name")
@_settings
@click.pass_context
def group_set(context: click.Context, /, name: str, **settings: Any) -> None:
    """Change the group NAME; what is not given stays. Nodes that are in it keep their prefixes."""
    if not any(_is_given(context, key) for key in settings):
        raise ConfigError("say what to change: --description, --prefix-length or --maximum-nodes")
    with opened(context.obj) as service, service.database.transaction():
        row = service.group(name)
        given = {
            key: value if _is_given(context, key) else getattr(row, key) for key, value in settings.items()
        }
        row = service.change_group(name, **given)
    click.echo(f"The group {row.name} is changed", err=True)


def _is_given(context: click.Context, name: str) -> bool:
    """Return whether a person gave the option ``name``."""
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


@group.command("remove")
@click.argument("name")
@click.pass_obj
def group_remove(state: StateDirectory, name: str) -> None:
    """Remove the group NAME, which must have no nodes."""
    with opened(state) as service:
        service.remove_group(name)
    click.echo(f"The group {name} is removed", err=True)
