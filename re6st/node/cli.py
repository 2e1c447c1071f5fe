"""Command line of the node: ``re6st-node``. Libraries are imported when a command needs them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import re6st
from re6st.config import Locations, NodeConfig, default_locations, load, moved
from re6st.errors import ConfigError, IdentityError, NotYetValidError, Re6stError, SilentDaemonError

if TYPE_CHECKING:
    from re6st.node.enrolment import Joined
    from re6st.registry.client import JoinLink

FAILURE = 1
"""Exit status when something went wrong that may go right next time."""

MISCONFIGURED = 78
"""Exit status (EX_CONFIG of sysexits.h) when a restart alone cannot help."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Instance:
    """The network instance that a command is about."""

    network: str
    config: Path
    locations: Locations

    @property
    def unit(self) -> str:
        """Its systemd unit."""
        return "re6st-node" if self.network == "re6st" else f"re6st-node@{self.network}"

    def load(self) -> NodeConfig:
        """Return its configuration. Raises :class:`Re6stError`."""
        return load(self.config, self.locations)


class Commands(click.Group):
    """Turns errors that re6st foresees into a message and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except Re6stError as error:
            for line in str(error).splitlines():
                click.echo(f"re6st-node: {line}", err=True)
            lasting = isinstance(error, ConfigError | IdentityError) and not isinstance(
                error, NotYetValidError | SilentDaemonError
            )
            ctx.exit(MISCONFIGURED if lasting else FAILURE)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--network", default="re6st", show_default=True, help="Which network, if this host is in several."
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file.  [default: /etc/re6st/NETWORK.toml]",
)
@click.version_option(re6st.__version__, prog_name="re6st-node")
@click.pass_context
def main(context: click.Context, network: str, config: Path | None) -> None:
    """Make this machine a node: a stable, routed IPv6 prefix over a self-healing mesh."""
    locations = default_locations(network)
    context.obj = Instance(network, config or locations.config, locations)


@main.command()
@click.argument("link")
@click.option("--name", default="", help="Name of this node.  [default: the link's, else the host's]")
@click.option("--message", default="", help="For the operator, when LINK has no token: who is asking.")
@click.option("--email", metavar="ADDRESS", help="Have a join link mailed, when LINK has no token.")
@click.option(
    "--state-directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="For key, certificate and address book.  [default: /var/lib/re6st/NETWORK]",
)
@click.option(
    "--runtime-directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="For sockets and records of child processes.  [default: /run/re6st/NETWORK]",
)
@click.option(
    "--control-port", type=click.IntRange(1, 65535), help="TCP port of the control API.  [default: 4226]"
)
@click.option("--tunnel-ports", metavar="FIRST-LAST", help="Ports of incoming tunnels.  [default: 4227-4242]")
@click.option("--interface-prefix", help="Tunnel interfaces are called by this and a number.")
@click.option("--proxy", help="HTTP proxy where nothing else is let out: http://HOST:PORT.")
@click.option(
    "--proxy-credentials",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with user and password for it, in a line each (chmod 600).",
)
@click.option("--force", is_flag=True, help="Replace an existing key and certificate.")
@click.pass_obj
def join(
    instance: Instance,
    /,
    link: str,
    name: str,
    message: str,
    email: str | None,
    force: bool,
    **options: Any,
) -> None:
    """Join the network that LINK leads to.

    LINK comes from the operator of the network. With one without a token the operator is asked to let this
    machine in, and the command waits for that. The private key is made here and never leaves this
    machine.
    """
    import asyncio
    from functools import partial

    from re6st.node import setup
    from re6st.node.admission_request import ask_mail
    from re6st.node.credentials import CredentialFiles
    from re6st.node.enrolment import join as enrol_machine
    from re6st.proxy import load_proxy
    from re6st.registry.client import JoinLink

    parsed = JoinLink.parse(link)
    values = setup.plan(instance.config, instance.network, instance.locations, parsed, options)
    config = setup.check(values, instance.config, options)
    if CredentialFiles(config.state_directory).exist() and not force and not instance.config.exists():
        # An earlier join was interrupted after its certificate was stored.
        setup.write(instance.config, values)
        click.echo(f"This node has joined before; its missing configuration {instance.config} is written.")
        return
    proxy = load_proxy(config.proxy, config.proxy_credentials)
    if email is not None:
        asyncio.run(ask_mail(parsed, email, proxy))
        click.echo(f"If {email} gets join links here, one is on its way: run re6st-node join with it.")
        return
    enrol = partial(enrol_machine, proxy=proxy, message=message[:256], tell=click.echo)
    joined = asyncio.run(_enrol_named(enrol, parsed, config.state_directory, name, force))
    setup.write(instance.config, values)
    _print_joined(instance, joined)


async def _enrol_named(
    enrol: Callable[..., Any], link: JoinLink, directory: Path, name: str, force: bool
) -> Any:
    """Enrol with the name asked for, or with the host's if that is free, or with one of the registry."""
    from re6st.errors import RegistryRefusedError
    from re6st.node.setup import host_name

    wished = name or host_name()
    try:
        return await enrol(link, directory, wished, force=force)
    except RegistryRefusedError as error:
        if name or not error.code.startswith("name-"):
            raise
        return await enrol(link, directory, "", force=force)


def _print_joined(instance: Instance, joined: Joined) -> None:
    """Tell what the machine is called now, and how to start the daemon."""
    certificate = joined.certificate
    click.echo(f"Joined {joined.network} as {certificate.name}.")
    click.echo(f"  prefix         {certificate.prefix}")
    click.echo(f"  address        {certificate.address}")
    click.echo(f"  configuration  {instance.config}")
    suffix = "" if instance.network == "re6st" else f" --network {instance.network}"
    click.echo(f"Start the node with: systemctl enable --now {instance.unit}   (or: re6st-node{suffix} run)")


@main.command()
@click.pass_obj
def run(instance: Instance) -> None:
    """Run the daemon in the foreground until Ctrl-C or SIGTERM.

    SIGHUP restarts it in place.
    """
    from re6st.node.process import run_daemon

    config = instance.load()
    run_daemon(config, instance.network, lambda: moved(config, instance.config, instance.locations))


@main.command()
@click.pass_obj
def check(instance: Instance) -> None:
    """Say whether the daemon could start, and change nothing.

    Configuration, certificate and programs are looked at.
    """
    from re6st.node.process import check as check_start

    check_start(instance.load())
    click.echo("The daemon can start.")


@main.command()
@click.pass_obj
def restart(instance: Instance) -> None:
    """Restart the running daemon; tunnels and routes go on.

    The configuration is read anew, and the program that is installed now is used. If something is wrong
    with them, the daemon goes on as it is, and the mistake is shown.
    """
    from re6st.node.control import restart_daemon

    click.echo(restart_daemon(instance.load()))


@main.command()
@click.option("--after-stop", is_flag=True, help="For ExecStopPost=: not if systemd starts the node again.")
@click.pass_obj
def cleanup(instance: Instance, after_stop: bool) -> None:
    """Remove what a daemon has left that was killed.

    That are processes, interfaces, addresses, routes and rules.
    """
    import os

    from re6st.node.cleanup import clean_up, is_called_for

    if after_stop and not (instance.config.exists() and is_called_for(os.environ)):
        # Without a configuration the node has just left its network, and cleaned up.
        return
    clean_up(instance.load(), instance.network)


def _show(instance: Instance, resource: str, kind: Any, as_json: bool, printer: str) -> None:
    from re6st.status import fetch

    answer = fetch(instance.load().runtime_directory, resource, kind)
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
        return
    from re6st.node import tables

    getattr(tables, printer)(answer)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@main.command()
@json_option
@click.pass_obj
def status(instance: Instance, as_json: bool) -> None:
    """Show the state of the running node."""
    from re6st.status import NodeStatus

    _show(instance, "status", NodeStatus, as_json, "print_status")


@main.command()
@json_option
@click.pass_obj
def peers(instance: Instance, as_json: bool) -> None:
    """Show the nodes that this node knows."""
    from re6st.status import PeerStatus

    _show(instance, "peers", list[PeerStatus], as_json, "print_peers")


@main.command()
@json_option
@click.pass_obj
def tunnels(instance: Instance, as_json: bool) -> None:
    """Show the tunnels of this node."""
    from re6st.status import TunnelStatus

    _show(instance, "tunnels", list[TunnelStatus], as_json, "print_tunnels")


@main.command()
@json_option
@click.pass_obj
def routes(instance: Instance, as_json: bool) -> None:
    """Show the routes to other nodes."""
    from re6st.status import RouteStatus

    _show(instance, "routes", list[RouteStatus], as_json, "print_routes")


@main.command()
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check what can go wrong, and say what to do.

    The order is that in which things depend on each other. Exit 1 if something has failed.
    """
    from re6st.node.doctor import Verdict
    from re6st.node.examination import examine

    findings = []
    for finding in examine(context.obj.load, context.obj.unit):
        findings.append(finding)
        if not as_json:
            click.echo(f"{finding.verdict.value:8} {finding.check}: {finding.detail}")
            if finding.remedy:
                click.echo(f"{'':8}   -> {finding.remedy}")
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(findings), indent=2).decode())
    if any(finding.verdict is Verdict.FAILED for finding in findings):
        context.exit(FAILURE)


@main.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Remove the keys even if the registry cannot be told.")
@click.pass_obj
def leave(instance: Instance, yes: bool, force: bool) -> None:
    """Leave the network for good.

    The daemon is stopped, peers and registry are told, key and configuration are removed.
    """
    from re6st.node.departure import depart

    config = instance.load()
    if not yes:
        click.confirm(
            f"Leave the network? Key and prefix of {config.state_directory} are lost for good", abort=True
        )
    for line in depart(config, instance.network, force=force):
        click.echo(line)
    instance.config.unlink(missing_ok=True)
    places = instance.locations
    for directory in (places.config.parent, places.state.parent):
        # Others may still be there.
        with contextlib.suppress(OSError):
            directory.rmdir()
    click.echo(f"{instance.config} is removed. If systemd starts the node: systemctl disable {instance.unit}")


if __name__ == "__main__":
    sys.exit(main())
