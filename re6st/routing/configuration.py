"""What babeld is told: its configuration file, its arguments and the parameters of an interface (pure).

babeld reads filters only when it starts (babeld(8), "Filtering rules"), so they are written without
interface names and hold for every tunnel of the pool. The first rule that matches decides:

- *redistribute*: nothing but the prefixes of the node, in the form of our own ``unreachable`` routes. Those
  are known by their protocol number, so further prefixes come and go with their routes while babeld runs.
- *in*: prefixes of this network with the length of a node prefix. Never the node prefix or a part of it,
  which a peer could use to draw the traffic of this host's containers to itself; never the network as a
  whole, a default route or IPv4. babeld itself never uses a route to exactly what it announces. Parts of a
  further prefix are denied once a peer has claimed one, which takes a new babeld.
- *install*: with the node address as preferred source, so that programs on this host talk from it.

Metrics are not smoothed: they are sums of fixed costs, so there is no noise to wait out, while a new route
would be held back for half a minute and more.

Interfaces are added over the local socket, each with all its parameters: defaults of the file do not
apply there, and babeld reads the parameters each time the link comes up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network
from pathlib import Path

from re6st.messages import NetworkParameters
from re6st.prefix import LONGEST_NODE_LENGTH, format_router_id, node_address, router_id

ROUTE_PROTOCOL = 44
"""Kernel protocol number of our own ``unreachable`` route, the only one that is redistributed."""

PLACEHOLDER = "re6st-no-interface"
"""babeld does not start without any interface. This name is longer than any interface's can be (15), so it
never exists, and looking it up does not even reach the kernel (which would try to load a module for it)."""

LARGEST_COST = 65534
"""65535 means unreachable (RFC 8966, 2.3)."""


@dataclass(frozen=True, slots=True)
class BabelConfiguration:
    """Everything that babeld has to know of the network and of the node."""

    network: IPv6Network
    prefix: IPv6Network
    """The node prefix, inside ``network``."""
    port: int
    """UDP port of the protocol."""
    hello_interval: float
    """Seconds."""
    update_interval: float
    """Seconds between full updates."""
    lan_interfaces: tuple[str, ...] = ()
    """Where neighbours are sought without a tunnel; see :mod:`re6st.routing.lan`."""
    denied: tuple[IPv6Network, ...] = ()
    """Further prefixes of the node of which a peer has claimed a part."""

    @classmethod
    def from_parameters(
        cls, prefix: IPv6Network, parameters: NetworkParameters, lan_interfaces: tuple[str, ...] = ()
    ) -> BabelConfiguration:
        """Return the configuration of the node with ``prefix``; ``parameters`` are valid ones."""
        return cls(
            network=IPv6Network(parameters.network),
            prefix=prefix,
            port=parameters.babel_port,
            hello_interval=parameters.hello_interval,
            update_interval=parameters.update_interval,
            lan_interfaces=lan_interfaces,
        )


@dataclass(frozen=True, slots=True)
class BabelFiles:
    """The files of babeld."""

    configuration: Path
    socket: Path
    state: Path
    """Tells babeld its sequence number (babeld(8), ``-S``)."""
    pid: Path
    sequence: Path
    """Where we keep the sequence number of the last start."""

    @classmethod
    def inside(cls, directory: Path, state_directory: Path) -> BabelFiles:
        """Return the files in the runtime ``directory``, and the one that survives a reboot."""
        return cls(
            configuration=directory / "babeld.conf",
            socket=directory / "babeld.sock",
            state=directory / "babeld.state",
            pid=directory / "babeld.pid",
            sequence=state_directory / "babel-sequence",
        )


def render(configuration: BabelConfiguration) -> str:
    """Return the text of babeld's configuration file.

    It names the LAN interfaces, though they are added over the socket: since none can be taken away again, a
    babeld that has others than it should is not adopted.
    """
    network, prefix = configuration.network, configuration.prefix
    inside = f"ip {network} ge {network.prefixlen + 1}"
    lines = (
        *(f"# LAN interface: {name}" for name in configuration.lan_interfaces),
        "skip-kernel-setup true",
        "smoothing-half-life 0",
        f"router-id {format_router_id(router_id(prefix))}",
        f"interface {PLACEHOLDER}",
        f"redistribute {inside} proto {ROUTE_PROTOCOL} allow",
        "redistribute local deny",
        "redistribute deny",
        *(_denial(one) for one in (prefix, *configuration.denied)),
        f"in {inside} le {LONGEST_NODE_LENGTH} allow",
        "in deny",
        f"install pref-src {node_address(prefix)}",
    )
    return "".join(f"{line}\n" for line in lines)


def denied_in(text: str, prefixes: Iterable[IPv6Network]) -> tuple[IPv6Network, ...]:
    """Return those of ``prefixes`` that the configuration ``text`` denies to all peers."""
    lines = text.splitlines()
    return tuple(prefix for prefix in prefixes if _denial(prefix) in lines)


def _denial(prefix: IPv6Network) -> str:
    return f"in ip {prefix} deny"


SEQUENCE_STEP = 0x4000
"""A quarter of the sequence numbers (modulo 2^16): more than babeld counts in one run, and less than half of
them, beyond which a number would count as lower (RFC 8966, 3.2.1)."""


def next_sequence(text: str) -> int:
    """Return the sequence number with which to start when ``text`` was kept from the start before."""
    return (int(text) + SEQUENCE_STEP) % 0x10000 if text.isdecimal() and len(text) <= 5 else 0


def state_text(configuration: BabelConfiguration, sequence: int, now: float) -> str:
    """Return the text of babeld's state file for a start at ``now`` (seconds since the epoch).

    A router that begins again must announce itself with a higher sequence number than before, or its routes
    are unfeasible for its neighbours for minutes (RFC 8966, 3.5.1 and 3.7.1). babeld knows its last number
    only if it has ended in good order, and otherwise draws one: so we count ourselves.
    """
    return f"{format_router_id(router_id(configuration.prefix))} {sequence} {int(now)}\n"


def arguments(configuration: BabelConfiguration, files: BabelFiles) -> Sequence[str]:
    """Return program and arguments with which babeld is started, in the foreground."""
    return (
        "babeld",
        "-c",
        str(files.configuration),
        "-G",
        str(files.socket),
        "-S",
        str(files.state),
        "-I",
        str(files.pid),
        "-p",
        str(configuration.port),
    )


def interface_command(configuration: BabelConfiguration, interface: str, cost: int) -> str:
    """Return the command that adds ``interface`` with ``cost`` (1 to :data:`LARGEST_COST`).

    The cost takes effect when the link comes up the next time. On a point-to-point link split horizon only
    saves octets. Link quality estimation is off: it is slower to notice a link that has failed in one
    direction, and detection is ours anyway. Timestamps are off: a metric that wanders makes good routes
    unfeasible until someone asks for a new sequence number (RFC 8966, 3.5.1). Unicast, which on such a link
    costs nothing, lets :mod:`re6st.routing.first_exchange` hurry babeld.
    """
    if not 1 <= cost <= LARGEST_COST:
        raise ValueError(f"{cost} is not a cost of a link")
    return (
        f"interface {interface} type wired link-quality false split-horizon true enable-timestamps false"
        f" unicast true rxcost {cost} hello-interval {configuration.hello_interval:.2f}"
        f" update-interval {configuration.update_interval:.2f}"
    )
