"""What the operator's commands share: times on the command line, tables, JSON, who is calling."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from re6st.errors import ConfigError
from re6st.identity import format_time
from re6st.registry.place import parse_place
from re6st.registry.state import StateDirectory

if TYPE_CHECKING:
    from re6st.registry.parameters import Difference
    from re6st.registry.service import Service

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

LONGEST = 36_500.0 * UNITS["d"]
"""Seconds; what lasts longer than a century is a slip, and its end may have no date."""

identifier_type = click.IntRange(0, 2**53)
"""Of what lists number: rows of a database."""

WIDEST = 10_000
"""Columns that a table may have: rich would shorten its cells to the terminal's."""

json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")

store_option = click.option(
    "--store",
    "place",
    type=parse_place,
    metavar="URL",
    help="postgresql://HOST/DATABASE, where to keep everything instead of a file of SQLite.",
)


def duration(text: str) -> float:
    """Return the seconds in a time such as ``90s``, ``15m``, ``12h``, ``1d`` or ``2w``."""
    match = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a time such as 12h, 1d or 2w")
    seconds = float(int(match[1]) * UNITS[match[2]])
    if seconds > LONGEST:
        raise click.BadParameter(f"{text!r} is too long: 36500d, a hundred years, is the most")
    return seconds


def moment(text: str) -> float:
    """Return the time that ``text`` names: ``7d`` (so long ago) or ``2026-01-31`` (UTC), in seconds."""
    import datetime

    if re.fullmatch(r"[0-9]{1,9}[smhdw]", text):
        return max(0.0, time.time() - duration(text))
    try:
        parsed = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is neither a time span such as 7d nor a date") from error
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)).timestamp()


def coming(text: str) -> float:
    """Return the time that ``text`` names: ``12h`` (from now) or ``2026-01-31T03:00`` (UTC), in seconds."""
    if re.fullmatch(r"[0-9]{1,9}[smhdw]", text):
        return time.time() + duration(text)
    return moment(text)


def assignments(texts: Sequence[str]) -> dict[str, str]:
    """Return keys and values of ``KEY=VALUE`` texts. Raises :class:`ConfigError`."""
    changes: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(f"{text!r} is not KEY=VALUE")
        if key in changes:
            raise ConfigError(f"{key} is given twice: once is enough")
        changes[key] = value
    return changes


@contextlib.contextmanager
def opened(state: StateDirectory) -> Iterator[Service]:
    """Open the registry for the person at this terminal."""
    from re6st.registry.usecases import local_actor

    with state.service(local_actor()) as service:
        yield service


def print_json(value: object) -> None:
    """Write ``value`` for programs."""
    click.echo(json.dumps(value, indent=2))


def print_differences(differences: Sequence[Difference]) -> None:
    """Write settings that differ to standard output, a line each."""
    for item in differences:
        click.echo(_line(item))
    if not differences:
        click.echo("no difference", err=True)


def tell_differences(differences: Sequence[Difference]) -> None:
    """Tell the person at the terminal which settings a command changed."""
    for item in differences:
        click.echo(_line(item), err=True)
    if not differences:
        click.echo("Nothing is different from before", err=True)


def _line(item: Difference) -> str:
    return f"{item.key}: {item.before or '(empty)'} -> {item.after or '(empty)'}"


def print_rows(title: str, columns: Sequence[str], rows: Sequence[dict[str, object]], as_json: bool) -> None:
    """Write ``rows`` as JSON or as a table of these columns."""
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo(f"no {title}", err=True)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), no_wrap=True)
    for row in rows:
        # Square brackets (IPv6 addresses, audit details) are not markup.
        table.add_row(*(Text(cell(row[column])) for column in columns))
    # Neither a narrow terminal nor a pipe may take anything away, and blanks at the end must not wrap.
    console = Console(soft_wrap=True, width=WIDEST)
    with console.capture() as written:
        console.print(table)
    for line in written.get().splitlines():
        click.echo(line.rstrip())


def cell(value: object) -> str:
    """Return how people read ``value``; floats are times."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return format_time(value)
    return str(value)
