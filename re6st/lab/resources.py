"""What processes cost: memory and processor time, from /proc (see proc(5))."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ (?P<offset>[0-9a-f]+) (?P<device>\S+) (?P<inode>\d+)")
_SIZE = re.compile(r"(?P<key>\w+):\s+(?P<size>\d+) kB")

FilePart = tuple[str, str, str]
"""Device, inode and offset of a mapping."""


@dataclass(slots=True)
class Memory:
    """Memory of one or several processes, kB."""

    anonymous: int = 0
    """Their own."""
    files: dict[FilePart, int] = field(default_factory=dict)
    """Resident pages of programs and libraries."""

    @property
    def total(self) -> int:
        """What they would add to a machine on which nothing else runs."""
        return self.anonymous + sum(self.files.values())

    def add(self, other: Memory) -> None:
        """Count ``other`` as well; pages of the same file are there once."""
        self.anonymous += other.anonymous
        for part, size in other.files.items():
            self.files[part] = max(self.files.get(part, 0), size)


def parse_smaps(text: str) -> Memory:
    """Return what ``/proc/PID/smaps`` says."""
    memory = Memory()
    part: FilePart | None = None
    resident = 0
    for line in text.splitlines():
        if mapping := _MAPPING.match(line):
            shared = mapping["inode"] != "0"
            part = (mapping["device"], mapping["inode"], mapping["offset"]) if shared else None
        elif size := _SIZE.match(line):
            if size["key"] == "Rss":
                resident = int(size["size"])
            elif size["key"] == "Anonymous":
                # Pages of a file that the process has changed are its own.
                own = int(size["size"]) if part is not None else resident
                memory.anonymous += own
                if part is not None and resident > own:
                    memory.files[part] = memory.files.get(part, 0) + resident - own
    return memory


def memory(pids: Iterable[int]) -> Memory:
    """Return the memory of processes as if nothing else ran on the machine.

    The proportional set size of the kernel (PSS) splits the pages of Python and OpenSSL between all
    daemons of the lab, and so flatters each of them; a real machine runs one.
    """
    total = Memory()
    for pid in pids:
        with suppress(OSError):
            total.add(parse_smaps(Path(f"/proc/{pid}/smaps").read_text()))
    return total


def proportional_memory(pids: Iterable[int]) -> int:
    """Return the proportional set size of processes, kB."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total


def processor_time(pids: Iterable[int]) -> float:
    """Return the processor time that processes have used, user and system, seconds."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            # The name in parentheses may contain anything; fields are counted behind it.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def program(pid: int) -> str:
    """Return the name of the program that ``pid`` runs, empty if it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
