"""Diagnosis after a failure: keep the logs of a lab and dump the state of its machines."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from re6st.errors import Re6stError
from re6st.lab import process
from re6st.lab.record import Record

KEEP_VARIABLE = "RE6ST_LAB_KEEP"
"""Environment variable: when it is set, logs are kept in any case."""

DUMPS = (
    ("ip", "-br", "address"),
    ("ip", "route"),
    ("ip", "-6", "route"),
    ("ip", "-6", "rule"),
    ("ss", "-tunap"),
    ("nft", "list", "ruleset"),
)
"""Commands whose output tells what state a machine was in."""


def logs_wanted(*, failed: bool) -> bool:
    """Whether the logs of a lab that ends now should be kept."""
    return failed or bool(os.environ.get(KEEP_VARIABLE))


def keep_logs(record: Record, destination: Path = Path("lab-logs")) -> Path:
    """Copy all logs to ``<destination>/<lab>`` and write dumps beside them; return that directory."""
    kept = destination / record.name
    for directory in sorted(record.directory.glob("*/")):
        target = kept / directory.name
        target.mkdir(parents=True, exist_ok=True)
        for log in directory.rglob("*.log"):
            with suppress(OSError):
                shutil.copy(log, target / log.name)
        with suppress(OSError, Re6stError):
            (target / "state.txt").write_text(_dump(record, directory.name))
    return kept


def _dump(record: Record, machine: str) -> str:
    parts = []
    for command in DUMPS:
        with suppress(Re6stError):
            done = process.run(record.namespace(machine), command, timeout=10, check=False)
            parts.append(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}")
    return "\n".join(parts)
