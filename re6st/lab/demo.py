"""The demo: a whole mesh is born on one machine, is shown, and stays to be played with."""

from __future__ import annotations

import signal
import time

from rich.console import Console
from rich.markup import escape

from re6st.lab import output, record
from re6st.lab.lab import Lab
from re6st.lab.output import Progress
from re6st.lab.topology import Topology

PAIRS_TIMEOUT = 90.0
"""Seconds that the mesh has to form; it normally takes a tenth of that."""

MEANWHILE = """\
The lab stays up until Ctrl-C. Meanwhile, as root in another terminal:

  {command} status{option}                        what the nodes say of themselves
  {command} ping{option}                          the ping matrix again
  {command} exec{option} {first} -- ping {target}   any command on a host; try also: bash
  {command} node{option} {first} routes               what one node says: status, peers, tunnels, routes
  {command} cut{option} {first} {second}                 lose every packet between two hosts, silently
  {command} heal{option} {first} {second}                undo it
  {command} stop{option} {first}                      end a node's daemon ('start' brings it back)

Logs and states of all machines are in {directory}.
"""


def form_mesh(lab: Lab, progress: Progress) -> float:
    """Start registry and nodes, wait until all pairs ping; return seconds from the nodes' start to then.

    Pairs that do not ping in time show up in the matrix that follows. Raises :class:`ChildError`.
    """
    lab.start_registry(progress.step)
    lab.enrol(step=progress.step)
    progress.step(f"starting {len(lab.nodes)} nodes")
    began = time.monotonic()
    lab.start_nodes()
    progress.step("all nodes run; waiting until each reaches each other one")
    lab.wait_for_all_pairs(PAIRS_TIMEOUT, listener=progress.pairs)
    return time.monotonic() - began


def run_demo(topology: Topology, *, name: str, once: bool, console: Console, command: str) -> bool:
    """Build the demo and show it; with ``once``, end then. Return whether all pairs ping.

    Whatever happens, the lab is taken down in the end.
    """
    lab = Lab(topology, name=name)
    with Progress(console) as progress:
        lab.build(progress.step)
        try:
            took = form_mesh(lab, progress)
            progress.step("asking the nodes")
            matrix = lab.ping_matrix()
            nodes = output.node_table(lab)
            total = progress.elapsed
        except BaseException as error:
            lab.failed = isinstance(error, Exception)
            close_undisturbed(lab)
            raise
    try:
        console.print(nodes)
        console.print(output.matrix_table(matrix))
        console.print(output.verdict(matrix))
        console.print(
            f"It took {took:.1f} s from the start of {len(lab.nodes)} nodes to the last pair's first answer;"
            f" {total:.1f} s with building the internet and enrolling them.\n"
        )
        lab.failed = not matrix.complete
        if not once:
            console.print(meanwhile(lab, command), markup=False)
            stay(lab, console)
    except KeyboardInterrupt:
        console.print("\ntaking the lab down")
    finally:
        close_undisturbed(lab)
    return matrix.complete


def close_undisturbed(lab: Lab) -> None:
    """Take the lab down; an impatient second Ctrl-C must not leave half of it behind."""
    before = {which: signal.signal(which, signal.SIG_IGN) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        lab.close()
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def meanwhile(lab: Lab, command: str) -> str:
    """Return what a person can do with the lab while it is up."""
    names = [name for name in lab.nodes if name != lab.topology.registry]
    return MEANWHILE.format(
        command=command,
        option="" if lab.name == record.DEFAULT_NAME else f" --name {lab.name}",
        first=names[0],
        second=names[1],
        target=lab.nodes[names[-1]].address(),
        directory=lab.directory,
    )


def stay(lab: Lab, console: Console) -> None:
    """Wait for Ctrl-C, or until somebody else takes the lab down; tell of daemons that die."""
    told: set[str] = set()
    while lab.directory.exists():
        for error in lab.failures():
            if (text := str(error)) not in told and lab.directory.exists():
                told.add(text)
                console.print(f"[yellow]{escape(text)}[/yellow]")
        time.sleep(0.5)
    console.print("the lab was taken down from elsewhere")
