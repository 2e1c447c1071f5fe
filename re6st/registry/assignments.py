"""Settings as operators type them: names and texts that become the fields of a message, or all mistakes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Struct

from re6st.errors import ConfigError

_SWITCHES = {"on": "true", "yes": "true", "off": "false", "no": "false"}


def convert(
    present: Struct, changes: Mapping[str, str], what: str, fixed: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return ``changes`` as values for the fields of ``present``; lists are separated by commas.

    ``fixed`` says of some fields why they cannot be set. Raises :class:`ConfigError` that begins with
    ``what`` and names every mistake.
    """
    fixed = fixed or {}
    fields = {field.name: field for field in msgspec.structs.fields(type(present))}
    possible = [name for name in fields if name not in fixed]
    mistakes: list[str] = []
    accepted: dict[str, Any] = {}
    for key, text in changes.items():
        if key not in possible:
            close = difflib.get_close_matches(key, possible, n=1)
            hint = f"did you mean {close[0]}?" if close else f"one of {', '.join(possible)}"
            mistakes.append(f"{key}: {fixed[key]}" if key in fixed else f"{key}: cannot be set; {hint}")
            continue
        value: object = text
        before = getattr(present, key)
        if isinstance(before, tuple):
            value = [part.strip() for part in text.split(",") if part.strip()]
        elif isinstance(before, bool):
            value = _SWITCHES.get(text.lower(), text)
        try:
            accepted[key] = msgspec.convert(value, fields[key].type, strict=False)
        except msgspec.ValidationError as error:
            mistakes.append(f"{key}={text}: {_expectation(before, fields[key].type, str(error))}")
    if mistakes:
        raise ConfigError(f"{what}: " + "; ".join(mistakes))
    return accepted


def _expectation(before: object, kind: Any, error: str) -> str:
    """Return what a setting must be, for people, where ``error`` names types of Python."""
    if isinstance(before, bool):
        return "must be on or off"
    if get_origin(kind) is Literal:
        return f"must be one of {', '.join(get_args(kind))}"
    bound = re.fullmatch(r"Expected `(?:int|float)` ([<>])= ([0-9.e+-]+)", error)
    if bound is not None:
        return f"must be {bound[2]} at {'most' if bound[1] == '<' else 'least'}"
    if isinstance(before, int | float):
        return "must be a whole number" if isinstance(before, int) else "must be a number"
    return error
