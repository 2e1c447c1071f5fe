"""Commands around the key of the LANs in which nodes are neighbours without a tunnel."""

from __future__ import annotations

import time

import click

from re6st.identity import format_time
from re6st.registry.cli_common import duration, json_option, opened, print_json
from re6st.registry.state import StateDirectory


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def lan_key(context: click.Context, as_json: bool) -> None:
    """Show from when on which key of the LANs is in force, by digest."""
    if context.invoked_subcommand is not None:
        return
    with opened(context.obj) as service:
        periods = sorted(service.current_parameters().lan_keys, key=lambda period: period.since)
    if as_json:
        print_json([{"digest": period.digest.hex(), "since": period.since} for period in periods])
        return
    for period in periods:
        state = "in force since" if period.since <= time.time() else "comes into force on"
        click.echo(f"{period.digest.hex()[:16]}  {state} {format_time(period.since)}")
    if not periods:
        click.echo("There is no key: re6st-registry lan-key rotate makes one", err=True)


@lan_key.command()
@click.option(
    "--delay",
    type=duration,
    default="1h",
    show_default=True,
    metavar="TIME",
    help="How long all nodes have to get the new key before they use it: 30m, 1h, 2d.",
)
@click.pass_obj
def rotate(state: StateDirectory, delay: float) -> None:
    """Make a new key, to which all nodes change at the same moment."""
    with opened(state) as service:
        period = service.rotate_lan_key(delay)
    name, since = period.digest.hex()[:16], format_time(period.since)
    click.echo(f"The key {name} is in force from {since} on", err=True)
