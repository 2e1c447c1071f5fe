"""Commands around the CA: how it is, and how another one takes over from it."""

from __future__ import annotations

import dataclasses
import time

import click

from re6st.errors import ConfigError
from re6st.identity import format_time
from re6st.registry.cli_common import json_option, opened, print_json
from re6st.registry.rollover import Stage
from re6st.registry.state import StateDirectory

force_option = click.option("--force", is_flag=True, help="Leave nodes behind that are not ready.")


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def authority(context: click.Context, as_json: bool) -> None:
    """Show the CA, or let a new one take over: prepare, switch, finish."""
    if context.invoked_subcommand is not None:
        return
    with opened(context.obj) as service:
        status = service.rollover_status()
    if as_json:
        print_json(dataclasses.asdict(status) | {"stage": status.stage.value})
        return
    click.echo(f"stage = {status.stage.value}")
    click.echo(f"issuing = {status.issuing}")
    click.echo(f"expires = {format_time(status.expires)}")
    if status.other is not None:
        click.echo(f"other = {status.other}")
    if status.waiting_for:
        click.echo(f"waiting for = {', '.join(status.waiting_for)}")


@authority.command()
@click.pass_obj
def prepare(state: StateDirectory) -> None:
    """Make a new CA, and let all nodes trust it beside the present one."""
    with opened(state) as service:
        if service.rollover_status().stage is not Stage.SINGLE:
            raise ConfigError("a new CA is prepared already: see re6st-registry authority")
        if service.fingerprint != state.authority().fingerprint:
            state.keep_new_authority()  # an earlier change was interrupted at its very end
        state.make_new_authority(service.network, time.time())
        service.prepare_authority(state.authority())
    click.echo(
        f"All nodes learn of the new CA now. Back up {state.new_authority}. When re6st-registry authority"
        " waits for nobody: re6st-registry authority switch",
        err=True,
    )


@authority.command()
@force_option
@click.pass_obj
def switch(state: StateDirectory, force: bool) -> None:
    """Let the new CA issue certificates; all nodes renew theirs."""
    with opened(state) as service:
        service.switch_authority(force=force)
        click.echo(
            f"The CA {service.fingerprint} issues certificates now; join links made from now on name it. When"
            " re6st-registry authority waits for nobody: re6st-registry authority finish",
            err=True,
        )


@authority.command()
@force_option
@click.pass_obj
def finish(state: StateDirectory, force: bool) -> None:
    """Do not trust the old CA any more, and delete its key."""
    with opened(state) as service:
        service.finish_authority(force=force)
        state.keep_new_authority()
        click.echo(f"Only the CA {service.fingerprint} is trusted now; the old key is deleted.", err=True)
