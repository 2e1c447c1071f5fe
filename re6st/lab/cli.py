"""Command line of the lab: ``re6st-lab``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from re6st.errors import ConfigError, Re6stError
from re6st.files import write_atomically
from re6st.lab import record, requirements, topology
from re6st.lab.daemons import Node, describe
from re6st.lab.lab import Lab, take_down
from re6st.lab.namespace import Namespace


class LabGroup(click.Group):
    """A group whose commands end with a message instead of a traceback when they fail as foreseen."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; foreseen errors become messages."""
        try:
            requirements.extend_path()
            return super().invoke(context)
        except Re6stError as error:
            raise click.ClickException(str(error)) from error


class NoSuchProgramError(click.ClickException):
    """What is to be run does not exist; the exit status is that of a shell."""

    exit_code = 127


def _check_name(_: click.Context, __: click.Parameter, name: str) -> str:
    record.lab_directory(name)
    return name


name_option = click.option(
    "--name",
    default=record.DEFAULT_NAME,
    show_default=True,
    callback=_check_name,
    help="Name of the lab; its namespaces are called NAME-HOST, so that several labs can coexist.",
)


@click.group(cls=LabGroup)
def cli() -> None:
    """Build an internet of network namespaces, run a mesh in it, and break things on demand."""


@cli.command()
@click.argument("file", metavar="[TOPOLOGY]", default="demo")
@name_option
@click.option("--bare", is_flag=True, help="Build the internet only, start no daemons.")
def up(file: str, name: str, bare: bool) -> None:
    """Build a lab and leave it up.

    TOPOLOGY is a TOML file, or the name of one that comes with the lab (default: demo).
    """
    from re6st.lab import output

    lab = Lab(topology.load(topology.find(file)), name=name)
    console = output.make_console()
    with output.Progress(console) as progress:
        lab.build(progress.step)
        try:
            if lab.nodes and not bare:
                lab.start_mesh(progress.step)
        except BaseException as error:
            lab.failed = isinstance(error, Exception)
            lab.close()
            raise
        progress.step(f"the lab is up; see 're6st-lab status{_option(name)}'")


@cli.command()
@click.argument("file", metavar="[TOPOLOGY]", default="demo")
@name_option
@click.option("--once", is_flag=True, help="Take the lab down after printing; exit 1 unless all pairs ping.")
def demo(file: str, name: str, once: bool) -> None:
    """Build a lab, wait until the mesh has formed, show it, and stay until Ctrl-C."""
    from re6st.lab import output
    from re6st.lab.demo import run_demo

    console = output.make_console()
    complete = run_demo(
        topology.load(topology.find(file)), name=name, once=once, console=console, command=sys.argv[0]
    )
    if once and not complete:
        sys.exit(1)


@cli.command()
@name_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(name: str, as_json: bool) -> None:
    """Show the machines of a lab and what its nodes say of themselves."""
    from re6st.lab import output

    lab = Lab.attach(name)
    if as_json:
        values = {
            "lab": name,
            "directory": str(lab.directory),
            "machines": [
                {
                    "name": machine,
                    "network": attachment.segment.name,
                    "address": str(attachment.address.ip),
                    "addresses": [str(address.ip) for address in attachment.addresses],
                    "duty": output.duty(lab, machine),
                }
                for machine, attachment in lab.wiring.attachments.items()
            ],
            "nodes": [describe(node) for node in lab.nodes.values()],
            "cuts": lab.cuts,
        }
        click.echo(json.dumps(values, indent=2))
        return
    console = output.make_console()
    console.print(output.machine_table(lab))
    if lab.nodes:
        console.print(output.node_table(lab))
    for first, second in lab.cuts:
        console.print(f"cut: {first} and {second}")


@cli.command()
@name_option
@click.option(
    "--timeout",
    default=3.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    help="Seconds that each pair has to answer.",
)
def ping(name: str, timeout: float) -> None:
    """Ping between all pairs of nodes over the mesh; exit 1 unless all answer."""
    from re6st.lab import output

    requirements.check_root()
    matrix = Lab.attach(name).ping_matrix(timeout=timeout)
    console = output.make_console()
    console.print(output.matrix_table(matrix))
    console.print(output.verdict(matrix))
    if not matrix.complete:
        sys.exit(1)


@cli.command("exec", context_settings={"ignore_unknown_options": True})
@name_option
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(name: str, host: str, command: Sequence[str]) -> None:
    """Run COMMAND on HOST (a host, a router or 'internet'): re6st-lab exec HOST -- COMMAND..."""
    requirements.check_root()
    _replace_by(Lab.attach(name).namespace(host), command)


@cli.command("node", context_settings={"ignore_unknown_options": True})
@name_option
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run_node(name: str, host: str, command: Sequence[str]) -> None:
    """Run re6st-node with the configuration of HOST: re6st-lab node HOST status."""
    node = _node(name, host)
    _replace_by(node.host.namespace, node.command(*command))


def _replace_by(namespace: Namespace, command: Sequence[str]) -> NoReturn:
    """Become ``command`` in ``namespace``."""
    if shutil.which(command[0]) is None:
        raise NoSuchProgramError(
            f"there is no program {command[0]!r} on this machine, or it cannot be executed"
        )
    # Through ip, which mounts a /sys that fits the namespace: a person may look there.
    words = ["ip", "netns", "exec", namespace.name, *command]
    try:
        os.execvp(words[0], words)  # noqa: S606 - a vector, no shell
    except OSError as error:
        raise ConfigError(f"cannot run ip: {error}; on Debian: apt-get install iproute2") from error


@cli.command()
@name_option
@click.argument("first")
@click.argument("second")
def cut(name: str, first: str, second: str) -> None:
    """Lose every packet between two hosts silently, in both directions."""
    requirements.check_root()
    Lab.attach(name).cut(first, second)


@cli.command()
@name_option
@click.argument("first")
@click.argument("second")
def heal(name: str, first: str, second: str) -> None:
    """Undo 'cut'."""
    requirements.check_root()
    Lab.attach(name).heal(first, second)


@cli.command("block-udp")
@name_option
@click.argument("router")
def block_udp(name: str, router: str) -> None:
    """Have ROUTER lose all UDP that it should forward."""
    requirements.check_root()
    Lab.attach(name).block_udp(router)


@cli.command("allow-udp")
@name_option
@click.argument("router")
def allow_udp(name: str, router: str) -> None:
    """Undo 'block-udp'."""
    requirements.check_root()
    Lab.attach(name).allow_udp(router)


@cli.command()
@name_option
@click.argument("machine")
@click.argument("place")
def move(name: str, machine: str, place: str) -> None:
    """Plug a host or router into another network or router, under other addresses."""
    requirements.check_root()
    Lab.attach(name).move(machine, place)


@cli.command()
@name_option
@click.argument("host")
@click.option(
    "--signal",
    "how",
    default="TERM",
    show_default=True,
    type=click.Choice(["TERM", "KILL", "INT", "HUP"]),
    help="KILL leaves the children of the daemon running, as a crash does.",
)
def stop(name: str, host: str, how: str) -> None:
    """End the node daemon on HOST."""
    _node(name, host).stop_running(signal.Signals[f"SIG{how}"])


@cli.command()
@name_option
@click.argument("host")
def start(name: str, host: str) -> None:
    """Start the node daemon on HOST again."""
    _node(name, host).start()


def _node(lab: str, host: str) -> Node:
    requirements.check_root()
    nodes = Lab.attach(lab).nodes
    if host not in nodes:
        raise ConfigError(f"there is no node {host!r}; there are: {', '.join(nodes)}")
    return nodes[host]


@cli.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "--name", "lab", default="bench", show_default=True, callback=_check_name, help="Name of the lab."
)
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1), help="Values per case.")
@click.option("--window", default=60.0, show_default=True, help="Seconds over which an idle mesh is watched.")
@click.option(
    "--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the values here."
)
@click.option(
    "--plot",
    "plots",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write pictures of latency over time into this directory (outage).",
)
@click.option("--minutes", default=30.0, show_default=True, help="How long availability is measured.")
@click.option(
    "--nodes", multiple=True, type=click.IntRange(1000), help="Nodes in the database (registry); repeatable."
)
@click.option("--case", "cases", multiple=True, help="Only this case (outage); repeatable.")
@click.option("--markdown", is_flag=True, help="Print the table as it stands in docs/benchmarks.md.")
def bench(
    names: Sequence[str],
    lab: str,
    runs: int,
    window: float,
    file: Path | None,
    plots: Path | None,
    minutes: float,
    nodes: tuple[int, ...],
    cases: tuple[str, ...],
    markdown: bool,
) -> None:
    """Measure: join, cold, node, control, outage, revocation, availability, registry; by default all."""
    from re6st.lab import bench as benchmark
    from re6st.lab import output
    from re6st.lab.measurement import Options

    console = output.make_console()
    with output.Progress(console) as progress:
        options = Options(lab, runs, window, progress.step, plots, minutes, nodes, cases)
        results = benchmark.run(names, options)
    if file is not None:
        write_atomically(file, msgspec.json.format(msgspec.json.encode(results), indent=2), 0o644)
    if markdown:
        click.echo(benchmark.markdown(results))
        return
    console.print(f"Machine: {benchmark.machine()}")
    console.print(benchmark.table(results))


@cli.command()
@name_option
def down(name: str) -> None:
    """Take a lab down, whatever state it is in: its processes, namespaces and files."""
    requirements.check_root()
    if not take_down(name):
        raise ConfigError(f"no lab {name!r} is up")


def _option(name: str) -> str:
    return "" if name == record.DEFAULT_NAME else f" --name {name}"


def _interrupt(_: int, __: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line."""
    # A lab that is being built or shown is taken down in an orderly way on SIGTERM as on Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    cli()
