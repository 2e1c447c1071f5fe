"""Command line of the operator: ``re6st-registry``.

Failures that re6st foresees are one line on standard error and exit status 1; only what a program may read
goes to standard output. Tables are for people (``--json`` for programs).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from re6st.errors import ConfigError, Re6stError
from re6st.notify import notify
from re6st.prefix import parse_network
from re6st.registry import (
    cli_admission,
    cli_authority,
    cli_groups,
    cli_lan_key,
    cli_nodes,
    cli_requests,
    cli_settings,
    cli_signer,
)
from re6st.registry.cli_common import UNITS, duration, store_option
from re6st.registry.place import Place
from re6st.registry.state import DEFAULT_STATE, StateDirectory

if TYPE_CHECKING:
    from re6st.registry.server import ListenAddress, PublicCertificate

logger = logging.getLogger(__name__)


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
    context.obj = StateDirectory(state.absolute(), ask=_ask_passphrase if sys.stdin.isatty() else None)


def _ask_passphrase() -> bytes:
    return str(click.prompt("Passphrase of the CA's key", hide_input=True, err=True)).encode()


@cli.command()
@click.option("--network", required=True, help="IPv6 prefix of the network, /32 to /56: 2001:db8:42::/48.")
@click.option("--url", "urls", multiple=True, help="https://HOST:PORT where nodes reach the registry.")
@store_option
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
    state: StateDirectory,
    network: str,
    urls: Sequence[str],
    place: Place | None,
    certificate_validity: float,
    quarantine: float,
) -> None:
    """Found a new network: its CA and its database."""
    if certificate_validity < UNITS["h"]:
        raise ConfigError("--certificate-validity must be one hour (1h) at least")
    prefix = parse_network(network)
    state.create(prefix, urls, place=place, node_validity=certificate_validity, quarantine=quarantine)
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
        server = RegistryServer(state, service, public)
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


for command in (
    cli_admission.token,
    cli_admission.reservation,
    cli_admission.operator_token,
    cli_authority.authority,
    cli_requests.admission,
    cli_requests.requests,
    cli_requests.mail,
    cli_groups.group,
    cli_lan_key.lan_key,
    cli_nodes.nodes,
    cli_nodes.rename,
    cli_nodes.move,
    cli_nodes.owner,
    cli_nodes.add_prefix,
    cli_nodes.remove_prefix,
    cli_nodes.suspend,
    cli_nodes.resume,
    cli_nodes.revoke,
    cli_nodes.delete,
    cli_settings.parameters,
    cli_settings.audit,
    cli_settings.backup,
    cli_settings.restore,
    cli_settings.check,
    cli_signer.signer,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line; the only place that exits."""
    try:
        cli(prog_name="re6st-registry")
    except Re6stError as error:
        click.echo(f"re6st-registry: {error}", err=True)
        sys.exit(1)
