"""Command line of the operator: ``re6st-registry``.

Failures that re6st foresees are one line on standard error and exit status 1; only what a program may read
goes to standard output. Tables are for people (``--json`` for programs).
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from re6st.errors import ConfigError, Re6stError
from re6st.identity import format_time
from re6st.notify import notify
from re6st.prefix import DEFAULT_NODE_LENGTH, parse_network
from re6st.registry.links import JoinLink, RegistryUrl, parse_registry_url
from re6st.registry.state import DEFAULT_STATE, StateDirectory

if TYPE_CHECKING:
    from re6st.registry.server import ListenAddress, PublicCertificate
    from re6st.registry.service import Member, Service
    from re6st.registry.store import TokenRow

logger = logging.getLogger(__name__)

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def duration(text: str) -> float:
    """Return the seconds in a time such as ``90s``, ``15m``, ``12h``, ``1d`` or ``2w``."""
    match = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a time such as 12h, 1d or 2w")
    return float(int(match[1]) * UNITS[match[2]])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_STATE,
    show_default=True,
    help="Directory with the CA's key and the database.",
)
@click.version_option(package_name="re6st")
@click.pass_context
def cli(context: click.Context, state: Path) -> None:
    """Found a re6st network, serve its registry, let nodes in and out."""
    context.obj = StateDirectory(state.absolute())


@cli.command()
@click.option("--network", required=True, help="IPv6 prefix of the network, /32 to /56: 2001:db8:42::/48.")
@click.option("--url", "urls", multiple=True, help="https://HOST:PORT where nodes reach the registry.")
@click.option("--certificate-validity", type=duration, default="365d", show_default=True)
@click.option(
    "--quarantine",
    type=duration,
    default="30d",
    show_default=True,
    help="How long a prefix that was given back is not assigned again.",
)
@click.pass_obj
def init(
    state: StateDirectory, network: str, urls: Sequence[str], certificate_validity: float, quarantine: float
) -> None:
    """Found a new network: its CA and its database."""
    if certificate_validity < UNITS["h"]:
        raise ConfigError("--certificate-validity must be one hour (1h) at least")
    prefix = parse_network(network)
    state.create(prefix, urls, node_validity=certificate_validity, quarantine=quarantine)
    click.echo(f"Network {prefix} founded in {state.path}; CA {state.authority().fingerprint}", err=True)
    click.echo(f"Keep {state.authority_key} secret and back it up: whoever has it is the network.", err=True)


@cli.command()
@click.option("--listen", "listen", multiple=True, default=["[::]:8443"], show_default=True)
@click.option("--certificate", type=click.Path(path_type=Path), help="Public certificate chain (PEM).")
@click.option("--key", type=click.Path(path_type=Path), help="Its private key (PEM).")
@click.option(
    "--log-level", type=click.Choice(["error", "warning", "info", "debug"]), default="info", show_default=True
)
@click.pass_obj
def serve(
    state: StateDirectory,
    listen: Sequence[str],
    certificate: Path | None,
    key: Path | None,
    log_level: str,
) -> None:
    """Serve the HTTPS API until SIGTERM or SIGINT."""
    from re6st.registry.server import PublicCertificate, parse_listen

    logging.basicConfig(level=log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    addresses = [parse_listen(text) for text in listen]
    if (certificate is None) != (key is None):
        raise ConfigError("--certificate and --key belong together")
    public = PublicCertificate(certificate, key) if certificate is not None and key is not None else None
    asyncio.run(_serve(state, addresses, public))


async def _serve(
    state: StateDirectory, addresses: Sequence[ListenAddress], public: PublicCertificate | None
) -> None:
    from re6st.registry.server import RegistryServer

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    with state.service() as service:
        server = RegistryServer(state, state.authority(), service, public)
        try:
            await server.start(addresses)
            places = ", ".join(f"https://{address}" for address in server.addresses)
            click.echo(f"Registry of {service.network} listens on {places}")
            sys.stdout.flush()
            notify("READY=1")
            await stopped.wait()
            notify("STOPPING=1")
        finally:
            await server.stop()


# -- tokens ---------------------------------------------------------------------------------------------


@cli.group()
def token() -> None:
    """Let nodes in."""


@token.command("create")
@click.option("--name", help="The node's name; without it the node chooses.")
@click.option("--prefix-length", type=int, default=DEFAULT_NODE_LENGTH, show_default=True)
@click.option("--expires", type=duration, default="1d", show_default=True, help="12h, 1d, 2w ...")
@click.option("--url", help="Where this node reaches the registry, if not at the network's first URL.")
@click.pass_obj
def token_create(
    state: StateDirectory, name: str | None, prefix_length: int, expires: float, url: str | None
) -> None:
    """Print a join link for one node."""
    with state.service() as service:
        place = _registry_url(service, url)
        secret = service.create_token(name, prefix_length, expires)
        click.echo(str(JoinLink(place, service.fingerprint, secret)))


def _registry_url(service: Service, url: str | None) -> RegistryUrl:
    known = service.current_parameters().registry_urls
    if url is None and not known:
        raise ConfigError(
            "the network has no registry URL yet: give --url https://HOST:PORT, or set it for all nodes with"
            " re6st-registry parameters set registry_urls=https://HOST:PORT"
        )
    return parse_registry_url(url if url is not None else known[0])


@token.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def token_list(state: StateDirectory, as_json: bool) -> None:
    """List tokens; the tokens themselves are shown only once, when they are made."""
    with state.service() as service:
        now = time.time()
        names = {member.node.identifier: member.node.name for member in service.members()}
        rows = [_describe_token(row, names, now) for row in service.tokens()]
    if as_json:
        _print_json(rows)
    else:
        columns = ("id", "name", "prefix_length", "state", "expires", "node")
        _print_table("tokens", columns, rows)


def _describe_token(row: TokenRow, names: dict[int, str], now: float) -> dict[str, Any]:
    unused = "expired" if now >= row.expires else "open"
    return {
        "id": row.identifier,
        "name": row.name,
        "prefix_length": row.prefix_length,
        "state": unused if row.used is None else "used",
        "created": row.created,
        "expires": row.expires,
        "used": row.used,
        "node": names.get(row.node) if row.node is not None else None,
    }


# -- nodes ----------------------------------------------------------------------------------------------


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def nodes(state: StateDirectory, as_json: bool) -> None:
    """List the nodes of the network, former ones included."""
    with state.service() as service:
        now = time.time()
        rows = [_describe_node(service, member, now) for member in service.members()]
    if as_json:
        _print_json(rows)
    else:
        columns = ("name", "prefix", "address", "state", "expires", "published", "reachable", "software")
        _print_table("nodes", columns, rows)


def _describe_node(service: Service, member: Member, now: float) -> dict[str, Any]:
    node, certificate, record = member.node, member.certificate, member.record
    expires = certificate.expires if certificate is not None else None
    current = "active" if expires is not None and expires > now else "expired"
    return {
        "name": node.name,
        "prefix": str(node.prefix),
        "address": str(node.address),
        "state": current if node.released is None else "released",
        "created": node.created,
        "released": node.released,
        "quarantine_until": service.release_time(node),
        "serial": certificate.serial if certificate is not None else None,
        "expires": expires,
        "published": record.published if record is not None else None,
        "reachable": record.reachable if record is not None else None,
        "software": record.software if record is not None else None,
    }


@cli.command()
@click.argument("node", metavar="NAME|PREFIX")
@click.pass_obj
def revoke(state: StateDirectory, node: str) -> None:
    """Withdraw a node's certificates and put its prefix into quarantine."""
    with state.service() as service:
        row = service.revoke(node)
        until = service.release_time(row)
    waiting = f"; the prefix is in quarantine until {format_time(until)}" if until is not None else ""
    click.echo(f"{row.name} ({row.prefix}) is revoked{waiting}", err=True)


# -- parameters -----------------------------------------------------------------------------------------


@cli.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def parameters(context: click.Context, as_json: bool) -> None:
    """Show the network parameters, or set them."""
    if context.invoked_subcommand is None:
        _show_parameters(context.obj, as_json)


@parameters.command("show")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def parameters_show(state: StateDirectory, as_json: bool) -> None:
    """Show the network parameters."""
    _show_parameters(state, as_json)


@parameters.command("set")
@click.argument("assignments", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.pass_obj
def parameters_set(state: StateDirectory, assignments: Sequence[str]) -> None:
    """Set network parameters for all nodes; they take the new version over within seconds."""
    changes: dict[str, str] = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator:
            raise ConfigError(f"{assignment!r} is not KEY=VALUE")
        changes[key] = value
    with state.service() as service:
        changed = service.change_parameters(changes)
    click.echo(f"Network parameters version {changed.version} are in force", err=True)


def _show_parameters(state: StateDirectory, as_json: bool) -> None:
    with state.service() as service:
        values = msgspec.structs.asdict(service.current_parameters())
    if as_json:
        _print_json(values)
    else:
        for key, value in values.items():
            click.echo(f"{key} = {', '.join(value) if isinstance(value, tuple) else value}")


# -- output ---------------------------------------------------------------------------------------------


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def _print_table(title: str, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        click.echo(f"no {title} yet", err=True)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), no_wrap=column in ("name", "prefix", "address"))
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    Console(soft_wrap=True).print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return format_time(value)
    return str(value)


def main() -> None:
    """Run the command line; the only place that exits."""
    try:
        cli(prog_name="re6st-registry")
    except Re6stError as error:
        click.echo(f"re6st-registry: {error}", err=True)
        sys.exit(1)
