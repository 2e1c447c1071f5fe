"""Nftables in a namespace: load a ruleset through ``nft -f -``, read counters."""

from __future__ import annotations

import subprocess
from typing import Any

import msgspec

from re6st.errors import ChildError
from re6st.lab.namespace import Namespace


def load(namespace: Namespace, ruleset: str) -> None:
    """Apply ``ruleset`` in ``namespace``, all of it or nothing. Raises :class:`ChildError`."""
    _nft(namespace, ["-f", "-"], ruleset)


def tables(namespace: Namespace) -> list[str]:
    """Return family and name of each table in ``namespace``, as in ``inet filter``."""
    answer = _query(namespace, ["-j", "list", "tables"])
    return [f"{item['table']['family']} {item['table']['name']}" for item in answer if "table" in item]


def counters(namespace: Namespace) -> dict[str, tuple[int, int]]:
    """Return packets and octets of each named counter in ``namespace``."""
    answer = _query(namespace, ["-j", "list", "counters"])
    found = [item["counter"] for item in answer if "counter" in item]
    return {counter["name"]: (counter["packets"], counter["bytes"]) for counter in found}


def _query(namespace: Namespace, arguments: list[str]) -> list[dict[str, Any]]:
    return msgspec.json.decode(_nft(namespace, arguments), type=dict[str, list[dict[str, Any]]])["nftables"]


def _nft(namespace: Namespace, arguments: list[str], ruleset: str = "") -> str:
    with namespace.entered():
        done = subprocess.run(
            ["nft", *arguments], input=ruleset, capture_output=True, text=True, check=False, timeout=30
        )
    if done.returncode:
        raise ChildError(
            f"nft refused a ruleset in {namespace.name}",
            status=done.returncode,
            output=done.stderr.splitlines()[-10:],
        )
    return done.stdout
