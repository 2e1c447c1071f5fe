"""Faults on demand: silent loss between two hosts, wherever they are.

Addresses cannot tell two hosts apart behind a router, so a host that takes part in a cut writes a tag of
its own into the DSCP field of every packet that it sends (RFC 2474: six bits, which routers here carry
unchanged, also through network address translation), and the other host drops what bears this tag
before anything else sees it. Both happen on the uplinks only, so traffic inside tunnels is not looked at:
what reaches the other host by way of a third one arrives.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from re6st.errors import ConfigError, StorageError
from re6st.files import write_atomically
from re6st.lab import nftables
from re6st.lab.namespace import Namespace
from re6st.lab.wiring import HOST_INTERFACE

TABLE = "re6st_lab_faults"
MOST_TAGS = 63

RULES = """\
table inet {table} {{
    chain send {{
        type filter hook postrouting priority 300;
        oifname "{interface}" ip dscp set {tag}
        oifname "{interface}" ip6 dscp set {tag}
    }}
{receive}}}
"""

RECEIVE = """\
    chain receive {{
        type filter hook prerouting priority -350;
        iifname "{interface}" ip dscp {{ {lost} }} drop
        iifname "{interface}" ip6 dscp {{ {lost} }} drop
    }}
"""


class Faults(Struct, frozen=True, kw_only=True):
    """All cuts of a lab."""

    tags: dict[str, int] = {}
    """DSCP value by host, kept while the host takes part in a cut."""
    cuts: tuple[tuple[str, str], ...] = ()
    """Pairs of hosts, each in alphabetical order."""
    one_way: tuple[tuple[str, str], ...] = ()
    """Pairs of a sender and the host that does not get what it sends."""

    def others(self, host: str) -> list[str]:
        """Return the hosts of which ``host`` gets nothing."""
        both = [other for pair in self.cuts if host in pair for other in pair if other != host]
        return sorted({*both, *(sender for sender, receiver in self.one_way if receiver == host)})


def with_cut(faults: Faults, first: str, second: str, *, one_way: bool = False) -> Faults:
    """Return ``faults`` and a cut between the two, or only of what ``first`` sends to ``second``.

    Raises :class:`ConfigError` when there are too many.
    """
    tags = dict(faults.tags)
    for host in (first, second):
        if host not in tags:
            free = set(range(1, MOST_TAGS + 1)) - set(tags.values())
            if not free:
                raise ConfigError(f"at most {MOST_TAGS} hosts can be cut at a time; heal some first")
            tags[host] = min(free)
    if one_way:
        ways = tuple(sorted({*faults.one_way, (first, second)}))
        return Faults(tags=tags, cuts=faults.cuts, one_way=ways)
    pair = (min(first, second), max(first, second))
    return Faults(tags=tags, cuts=tuple(sorted({*faults.cuts, pair})), one_way=faults.one_way)


def without_cut(faults: Faults, first: str, second: str) -> Faults:
    """Return ``faults`` without any cut between the two. Raises :class:`ConfigError` if there is none."""
    pair = {first, second}
    cuts = tuple(cut for cut in faults.cuts if set(cut) != pair)
    ways = tuple(way for way in faults.one_way if set(way) != pair)
    if (cuts, ways) == (faults.cuts, faults.one_way):
        raise ConfigError(f"{first} and {second} are not cut")
    busy = {host for cut in (*cuts, *ways) for host in cut}
    tags = {host: tag for host, tag in faults.tags.items() if host in busy}
    return Faults(tags=tags, cuts=cuts, one_way=ways)


def ruleset(faults: Faults, host: str) -> str:
    """Return what nft has to load on ``host``: it replaces what an earlier call loaded."""
    # Declaring the table first lets the removal succeed when there is none.
    fresh = f"table inet {TABLE} {{ }}\ndelete table inet {TABLE}\n"
    if host not in faults.tags:
        return fresh
    lost = ", ".join(str(faults.tags[other]) for other in faults.others(host))
    receive = RECEIVE.format(interface=HOST_INTERFACE, lost=lost) if lost else ""
    return fresh + RULES.format(table=TABLE, interface=HOST_INTERFACE, tag=faults.tags[host], receive=receive)


class FaultBox:
    """Makes and heals faults in a running lab, and remembers them in its directory."""

    def __init__(self, directory: Path, namespaces: Mapping[str, Namespace]) -> None:
        self._path = directory / "faults.json"
        self._namespaces = namespaces

    def load(self) -> Faults:
        """Return the present faults."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Faults)
        except FileNotFoundError:
            return Faults()
        except (OSError, msgspec.DecodeError) as error:
            raise StorageError(f"{self._path} cannot be read: {error}") from error

    def cut(self, first: str, second: str, *, one_way: bool = False) -> None:
        """Lose everything between the two hosts from now on, or only what ``first`` sends to ``second``."""
        self._check(first, second)
        self._apply(with_cut(self.load(), first, second, one_way=one_way), (first, second))

    def heal(self, first: str, second: str) -> None:
        """Undo :meth:`cut`."""
        self._check(first, second)
        self._apply(without_cut(self.load(), first, second), (first, second))

    def set_cuts(self, pairs: Collection[tuple[str, str]]) -> None:
        """Cut exactly these ``pairs`` of hosts, and heal all other cuts."""
        before = self.load()
        faults = Faults()
        for first, second in sorted(pairs):
            faults = with_cut(msgspec.structs.replace(faults, tags=before.tags | faults.tags), first, second)
        changed = set(before.cuts) ^ set(faults.cuts)
        faults = msgspec.structs.replace(faults, tags=before.tags | faults.tags)
        self._apply(faults, tuple({*(host for pair in changed for host in pair)}))

    def heal_all(self) -> None:
        """Undo all cuts."""
        hosts = tuple(self.load().tags)
        self._apply(Faults(), hosts)

    def _apply(self, faults: Faults, hosts: tuple[str, ...]) -> None:
        for host in hosts:
            nftables.load(self._namespaces[host], ruleset(faults, host))
        write_atomically(self._path, msgspec.json.encode(faults), 0o600)

    def _check(self, first: str, second: str) -> None:
        for host in (first, second):
            if host not in self._namespaces:
                raise ConfigError(f"there is no host {host!r}; there are: {', '.join(self._namespaces)}")
        if first == second:
            raise ConfigError(f"{first} cannot be cut off from itself")
