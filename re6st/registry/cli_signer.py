"""The command ``re6st-registry signer``: a process that holds the CA's key and does nothing but sign."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from re6st.errors import ConfigError
from re6st.notify import notify
from re6st.registry.cli_common import duration
from re6st.registry.state import SIGNER_VARIABLE, StateDirectory

if TYPE_CHECKING:
    from re6st.registry.signing_server import SigningServer


@click.command()
@click.option(
    "--listen", type=click.Path(path_type=Path), required=True, help="Unix socket, for its owner and group."
)
@click.option(
    "--longest",
    type=duration,
    default="400d",
    show_default=True,
    help="For how long a certificate may be valid.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0.001),
    default=10.0,
    show_default=True,
    help="Signatures a second, after 1000 at once.",
)
@click.pass_obj
def signer(state: StateDirectory, listen: Path, longest: float, rate: float) -> None:
    """Sign what a registry asks for, with the CA's key in the state directory, until SIGTERM or SIGINT."""
    from re6st.registry.signed_versions import SignedVersions
    from re6st.registry.signing import check_longest
    from re6st.registry.signing_server import SigningServer

    if SIGNER_VARIABLE in os.environ:
        raise ConfigError(f"{SIGNER_VARIABLE} is for the registry: the signing process needs the key itself")
    check_longest(longest)
    logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s")
    versions = SignedVersions(state.signed_versions)
    asyncio.run(_serve(SigningServer(state.signing_authority(), longest, rate, versions), listen))


async def _serve(server: SigningServer, path: Path) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await server.start(path)
    click.echo(f"The CA's key signs at {path}")
    notify("READY=1")
    await stopped.wait()
    await server.stop()
