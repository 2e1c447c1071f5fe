"""Commands around admission: join links with their tokens, reservations, operators' tokens."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from re6st.errors import ConfigError
from re6st.prefix import DEFAULT_NODE_LENGTH, parse_prefix
from re6st.registry.cli_common import duration, identifier_type, json_option, opened, print_rows
from re6st.registry.links import JoinLink
from re6st.registry.state import StateDirectory

if TYPE_CHECKING:
    from re6st.registry.admissions import TokenRow


@click.group()
def token() -> None:
    """Let nodes in."""


@token.command("create")
@click.option("--name", help="The node's name; without it the node chooses.")
@click.option("--group", help="The group of the nodes.")
@click.option("--owner", default="", help="To whom they belong: an e-mail address, for example.")
@click.option("--prefix-length", type=int, help="By default as their group says, or 64.")
@click.option("--expires", type=duration, default="1d", show_default=True, help="12h, 1d, 2w ...")
@click.option("--uses", type=int, default=1, show_default=True, help="For how many nodes.")
@click.option(
    "--return",
    "back",
    metavar="NAME|PREFIX",
    help="For a machine that was installed again: gives it its name and prefix back.",
)
@click.option("--url", help="Where this node reaches the registry, if not at the network's URLs.")
@click.pass_obj
def token_create(
    state: StateDirectory,
    name: str | None,
    group: str | None,
    owner: str,
    prefix_length: int | None,
    expires: float,
    uses: int,
    back: str | None,
    url: str | None,
) -> None:
    """Print a join link."""
    if back is not None and (name is not None or group is not None or owner or uses != 1):
        raise ConfigError(
            "--return is for one node, which keeps name, group and owner: leave --name and --uses away,"
            " --group and --owner too"
        )
    with opened(state) as service:
        urls = service.choose_urls(url)
        if back is not None:
            secret = service.create_return_token(back, expires)
        else:
            secret = service.create_token(name, prefix_length, expires, uses, group=group, owner=owner)
        click.echo(str(JoinLink(urls[0], service.fingerprint, secret, urls[1:])))


@token.command("list")
@json_option
@click.pass_obj
def token_list(state: StateDirectory, as_json: bool) -> None:
    """List tokens; the tokens themselves are shown only once, when they are made."""
    with opened(state) as service:
        now = time.time()
        names = {member.node.identifier: member.node.name for member in service.members()}
        rows = [_describe_token(row, names, now) for row in service.tokens()]
    columns = ("id", "name", "group", "owner", "prefix_length", "state", "uses", "expires", "node")
    print_rows("tokens", columns, rows, as_json)


def _describe_token(row: TokenRow, names: dict[int, str], now: float) -> dict[str, object]:
    node = row.last_node if row.last_node is not None else row.node
    return {
        "id": row.identifier,
        "name": row.name,
        "group": row.group,
        "owner": row.owner or None,
        "prefix_length": row.prefix_length,
        "state": row.state(now),
        "created": row.created,
        "expires": row.expires,
        "uses": f"{row.uses}/{row.maximum_uses}",
        "used": row.last_used,
        "node": names.get(node) if node is not None else None,
    }


@token.command("revoke")
@click.argument("identifier", type=identifier_type, metavar="ID")
@click.pass_obj
def token_revoke(state: StateDirectory, identifier: int) -> None:
    """Let nobody in with this token any more (ID as in the list)."""
    with opened(state) as service:
        service.revoke_token(identifier)
    click.echo(f"Token {identifier} is revoked; nodes that joined with it stay", err=True)


@click.group()
def reservation() -> None:
    """Keep prefixes for names."""


@reservation.command("create")
@click.argument("name")
@click.option("--prefix", type=str, help="This prefix; else the one that NAME has, or a free one.")
@click.option("--prefix-length", type=int, default=DEFAULT_NODE_LENGTH, show_default=True)
@click.pass_obj
def reservation_create(state: StateDirectory, name: str, prefix: str | None, prefix_length: int) -> None:
    """Keep a prefix for the node NAME, and print it."""
    with opened(state) as service:
        made = service.reserve(name, parse_prefix(prefix) if prefix else None, prefix_length)
        click.echo(str(made.prefix))


@reservation.command("list")
@json_option
@click.pass_obj
def reservation_list(state: StateDirectory, as_json: bool) -> None:
    """List reservations."""
    with opened(state) as service:
        rows: list[dict[str, object]] = [
            {"name": row.name, "prefix": str(row.prefix), "created": row.created}
            for row in service.reservations()
        ]
    print_rows("reservations", ("name", "prefix", "created"), rows, as_json)


@reservation.command("remove")
@click.argument("name")
@click.pass_obj
def reservation_remove(state: StateDirectory, name: str) -> None:
    """Keep no prefix for NAME any more."""
    with opened(state) as service:
        service.unreserve(name)
    click.echo(f"No prefix is reserved for {name} any more", err=True)


@click.group("operator-token")
def operator_token() -> None:
    """Let people and programs operate the registry through its API."""


@operator_token.command("create")
@click.argument("name")
@click.option("--scope", type=click.Choice(["read", "write", "admin"]), default="read", show_default=True)
@click.option("--expires", type=duration, help="90d, 52w ...; without it the token does not expire.")
@click.pass_obj
def operator_token_create(state: StateDirectory, name: str, scope: str, expires: float | None) -> None:
    """Print a bearer token for the operator or program NAME."""
    from re6st.registry.operators import Scope

    with opened(state) as service:
        click.echo(service.create_operator_token(name, Scope(scope), expires))


@operator_token.command("list")
@json_option
@click.pass_obj
def operator_token_list(state: StateDirectory, as_json: bool) -> None:
    """List operators' tokens; the tokens themselves are shown only once, when they are made."""
    with opened(state) as service:
        rows: list[dict[str, object]] = [
            {
                "name": row.name,
                "scope": row.scope,
                "created": row.created,
                "expires": row.expires,
                "revoked": row.revoked,
            }
            for row in service.operator_tokens()
        ]
    print_rows("operators' tokens", ("name", "scope", "created", "expires", "revoked"), rows, as_json)


@operator_token.command("revoke")
@click.argument("name")
@click.pass_obj
def operator_token_revoke(state: StateDirectory, name: str) -> None:
    """Withdraw an operator's token."""
    with opened(state) as service:
        service.revoke_operator_token(name)
    click.echo(f"The token {name} is revoked", err=True)
