"""A request of an operator, authenticated and decoded, as the operations get it.

An *operation* is one function for one kind of request: it runs in the service's thread, calls the service and
returns the message of the answer, or nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from re6st.errors import RegistryRefusedError
from re6st.messages import encode
from re6st.registry.operators import Operator
from re6st.registry.service import Service

PAGE_LIMIT = 1000
"""Items that one may ask for at once."""

DEFAULT_LIMIT = 100

HIGHEST_NUMBER = 2**53
"""JavaScript's numbers are exact up to here (RFC 8259, 6)."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request of an operator."""

    operator: Operator
    path: Mapping[str, str]
    query: Mapping[str, str]
    message: Any = None
    """Of the type that the route declares."""
    if_match: str | None = None
    """Entity tag of what the operator believes to change."""

    def number(self, name: str, default: int, least: int = 0, most: int = HIGHEST_NUMBER) -> int:
        """Return the number ``name`` in path or query. Raises :class:`RegistryRefusedError`."""
        text = self.path.get(name, self.query.get(name))
        if text is None:
            return default
        if re.fullmatch(r"[0-9]{1,16}", text) is None or not least <= int(text) <= most:
            raise RegistryRefusedError(f"{name} must be a number from {least} to {most}", code="malformed")
        return int(text)

    def limit(self) -> int:
        """Return how many items the operator wants at most. Raises :class:`RegistryRefusedError`."""
        return self.number("limit", DEFAULT_LIMIT, 1, PAGE_LIMIT)

    def switch(self, name: str) -> bool:
        """Return whether ``name`` in the query is on."""
        return self.query.get(name, "") not in ("", "0")

    def check_seen(self, present: Struct, refusal: str) -> None:
        """Refuse, with these words, to change ``present`` if the operator has seen something else before.

        ``present`` is the answer by which the operator sees it. Who gives no tag takes what there is. Raises
        :class:`RegistryRefusedError`.
        """
        if self.if_match not in (None, "*", entity_tag(encode(present))):
            raise RegistryRefusedError(refusal, code="version-changed")


Operation = Callable[[Service, Call], Struct | None]


def entity_tag(body: bytes) -> str:
    """Return the entity tag (RFC 9110, 8.8.3) of an answer."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'
