"""What is known of the tunnel on each of babeld's interfaces (pure)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Network


@dataclass(slots=True)
class Link:
    """The tunnel on an interface."""

    cost: int
    peer: IPv6Network | None
    hello_interval: float
    """babeld's, seconds; read when the link comes up."""
    number: int = field(default_factory=lambda: secrets.randbits(16))
    """Of the next Hello that is sent on babeld's behalf; a jump would look like a restart."""
    attached: bool = True
    """It is meant to be up."""


class Links:
    """All interfaces of tunnels that babeld was told of; none is ever taken away."""

    def __init__(self) -> None:
        self._links: dict[str, Link] = {}

    def __getitem__(self, interface: str) -> Link:
        return self._links[interface]

    def __setitem__(self, interface: str, link: Link) -> None:
        self._links[interface] = link

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._links))

    def get(self, interface: str) -> Link | None:
        """Return the link of ``interface`` if babeld was told of it."""
        return self._links.get(interface)

    def attached(self) -> list[str]:
        """Return the interfaces whose links are meant to be up."""
        return [interface for interface, link in self._links.items() if link.attached]

    def is_attached(self, interface: str) -> bool:
        """Return whether the link of ``interface`` is meant to be up."""
        link = self._links.get(interface)
        return link is not None and link.attached
