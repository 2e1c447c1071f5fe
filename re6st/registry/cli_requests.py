"""Commands around admission without join links: who may ask, who waits, approve, deny."""

from __future__ import annotations

import asyncio
import os
import textwrap
from collections.abc import Sequence

import click
import msgspec

from re6st.errors import ConfigError
from re6st.registry.cli_common import (
    assignments,
    identifier_type,
    json_option,
    opened,
    print_json,
    print_rows,
    tell_differences,
)
from re6st.registry.links import JoinLink
from re6st.registry.parameters import differences, format_value
from re6st.registry.state import StateDirectory


@click.group()
def requests() -> None:
    """Machines that ask to be let in."""


@requests.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that were decided.")
@json_option
@click.pass_obj
def requests_list(state: StateDirectory, everything: bool, as_json: bool) -> None:
    """List machines that wait. Compare the key with what the machine shows before you approve."""
    with opened(state) as service:
        rows: list[dict[str, object]] = [
            {
                "id": row.identifier,
                "name": row.name or None,
                "state": service.request_state(row).value,
                "origin": row.origin,
                "created": row.created,
                "message": row.message,
                "key": row.key_digest.hex() if as_json else _comparable(row.key_digest),
                "note": "; ".join(service.suspicions(row)) if row.state == "pending" else "",
            }
            for row in service.requests(pending=not everything)
        ]
    columns = ("id", "name", "state", "origin", "created", "key", "note", "message")
    print_rows("requests", columns, rows, as_json)


def _comparable(digest: bytes) -> str:
    """Return ``digest`` in two lines, as the machine shows it to its owner."""
    groups = textwrap.wrap(digest.hex(), 4)
    return "\n".join(" ".join(half) for half in (groups[:8], groups[8:]))


@requests.command("approve")
@click.argument("identifier", type=identifier_type, metavar="ID")
@click.option("--name", help="Instead of the name that it wants.")
@click.option("--group", help="Its group; by default requests_group of the admission policy.")
@click.option("--owner", default="", help="To whom it belongs: an e-mail address, for example.")
@click.option("--prefix-length", type=int, help="By default as its group says, or 64.")
@click.pass_obj
def requests_approve(
    state: StateDirectory,
    identifier: int,
    name: str | None,
    group: str | None,
    owner: str,
    prefix_length: int | None,
) -> None:
    """Let in a machine that asked (ID as in the list)."""
    with opened(state) as service:
        row = service.approve(identifier, name, prefix_length, group=group, owner=owner)
    click.echo(f"Request {identifier} with the key {row.key_digest.hex()} is approved", err=True)


@requests.command("deny")
@click.argument("identifier", type=identifier_type, metavar="ID")
@click.option("--reason", default="", help="Told to the machine.")
@click.pass_obj
def requests_deny(state: StateDirectory, identifier: int, reason: str) -> None:
    """Keep out a machine that asked (ID as in the list)."""
    with opened(state) as service:
        service.deny(identifier, reason)
    click.echo(f"Request {identifier} is denied", err=True)


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def admission(context: click.Context, as_json: bool) -> None:
    """Show who may come in without a join link of yours, or set it."""
    if context.invoked_subcommand is not None:
        return
    with opened(context.obj) as service:
        policy = service.policy()
    values = msgspec.structs.asdict(policy)
    if as_json:
        print_json(values)
        return
    for key, value in values.items():
        shown = ("on" if value else "off") if isinstance(value, bool) else format_value(value)
        click.echo(f"{key:22}{shown}")


@admission.command("set")
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.pass_obj
def admission_set(state: StateDirectory, changes: Sequence[str]) -> None:
    """Set who may come in without a join link of yours; in force at once."""
    with opened(state) as service:
        before = service.policy()
        after = service.change_policy(assignments(changes))
    tell_differences(differences(before, after))


@admission.command("link")
@click.option("--url", help="Where nodes reach the registry, if not at the network's URLs.")
@click.pass_obj
def admission_link(state: StateDirectory, url: str | None) -> None:
    """Print the link, without a token, with which anybody can ask to be let in."""
    with opened(state) as service:
        urls = service.choose_urls(url)
        click.echo(str(JoinLink(urls[0], service.fingerprint, alternatives=urls[1:])))


@click.group()
def mail() -> None:
    """Join links by mail."""


@mail.command("test")
@click.argument("address")
@click.pass_obj
def mail_test(state: StateDirectory, address: str) -> None:
    """Send a mail to ADDRESS now, by the mail server that is set."""
    from re6st.messages import Mailbox
    from re6st.registry import mail as post

    try:
        mailbox = msgspec.convert(address, Mailbox)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{address!r} is not an e-mail address") from error
    with opened(state) as service:
        policy, network, now = service.policy(), str(service.network), service.now()
    message = post.compose_test(policy.mail_sender, mailbox, network, now)
    asyncio.run(post.send(message, policy, post.read_password(os.environ)))
    click.echo(f"{policy.mail_server} took a mail to {mailbox}", err=True)


@mail.command("list")
@json_option
@click.pass_obj
def mail_list(state: StateDirectory, as_json: bool) -> None:
    """List the mails of the last days, and why some were not sent."""
    with opened(state) as service:
        rows: list[dict[str, object]] = [
            {
                "mailbox": row.mailbox,
                "state": row.state,
                "created": row.created,
                "attempts": row.attempts,
                "token": row.token,
                "reason": row.reason,
            }
            for row in service.mails()
        ]
    print_rows("mails", ("mailbox", "state", "created", "attempts", "token", "reason"), rows, as_json)
