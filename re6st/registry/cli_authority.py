"""Commands around the CA: how it is, how another one takes over from it, and the passphrase of its key."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import click

from re6st.errors import ConfigError
from re6st.identity import der_to_pem, format_time, load_certificate
from re6st.registry.cli_common import json_option, opened, print_json
from re6st.registry.held_key import HeldKey
from re6st.registry.rollover import Stage
from re6st.registry.state import SIGNER_VARIABLE, StateDirectory

SHORTEST_PASSPHRASE = 12
"""Octets: whoever has the file may try as often as he likes."""

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
def make(state: StateDirectory) -> None:
    """Make a new CA in the state directory of a signing process, and print its certificate."""
    present = state.signing_authority()
    new = state.make_new_authority(present.network, time.time())
    click.echo(der_to_pem(new.certificate).decode(), nl=False)
    where = "the token" if isinstance(new.key, HeldKey) else state.new_authority
    click.echo(
        f"Back up {where}, and restart the signing process. Then, at the registry:"
        " re6st-registry authority prepare --certificate FILE",
        err=True,
    )


@authority.command()
@click.pass_obj
def keep(state: StateDirectory) -> None:
    """Delete the old CA's key in the state directory of a signing process, after the registry's finish."""
    if state.load_new_authority() is None:
        raise ConfigError(f"{state.path} holds no new CA: nothing is to be done")
    state.keep_new_authority()
    click.echo(
        f"{state.path} holds the CA {state.signing_authority().fingerprint} only: restart the signing"
        " process. If the old key is in a token, delete it there.",
        err=True,
    )


@authority.command()
@click.option(
    "--certificate",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Of the new CA, made by the signing process that holds its key.",
)
@click.pass_obj
def prepare(state: StateDirectory, certificate: Path | None) -> None:
    """Make a new CA, and let all nodes trust it beside the present one."""
    with opened(state) as service:
        if service.rollover_status().stage is not Stage.SINGLE:
            raise ConfigError("a new CA is prepared already: see re6st-registry authority")
        if service.fingerprint != state.authority().fingerprint:
            state.keep_new_authority()  # an earlier change was interrupted at its very end
        if certificate is not None:
            state.take_new_authority(load_certificate(certificate), service.network)
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
        where = "deleted"
        if SIGNER_VARIABLE in os.environ:
            where = "to be deleted where it is: re6st-registry --state DIRECTORY authority keep"
        click.echo(f"Only the CA {service.fingerprint} is trusted now; the old key is {where}.", err=True)


@authority.command()
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Its first line; otherwise you are asked.",
)
@click.pass_obj
def encrypt(state: StateDirectory, passphrase_file: Path | None) -> None:
    """Encrypt the CA's key with a passphrase, or with another one."""
    if passphrase_file is not None:
        passphrase = passphrase_file.read_bytes().partition(b"\n")[0].rstrip(b"\r")
    else:
        question = "New passphrase of the CA's key"
        text = click.prompt(question, hide_input=True, confirmation_prompt=True, err=True)
        passphrase = str(text).encode()
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise ConfigError(f"a passphrase must have {SHORTEST_PASSPHRASE} octets at least")
    state.encrypt(passphrase)
    click.echo(
        f"{state.authority_key} is encrypted. The server needs the passphrase when it starts: see"
        " re6st-registry(8)",
        err=True,
    )


@authority.command()
@click.pass_obj
def decrypt(state: StateDirectory) -> None:
    """Keep the CA's key without a passphrase again."""
    state.encrypt(None)
    click.echo(f"{state.authority_key} is not encrypted any more.", err=True)
