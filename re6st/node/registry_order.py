"""In which order a node asks the registry's URLs: where it was answered last, else anywhere (pure).

Those of the network parameters lead to registries that all know the same: each node begins at another one, so
that they share the work, and stays where it is answered. The owner's own URLs come before, in his order, as
far as the network does not know them; joining writes those of the join link there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


class RegistryOrder:
    """Remembers where the registry answered."""

    def __init__(self, draw: Callable[[], float]) -> None:
        """``draw`` returns random numbers."""
        self._draw = draw
        self._lots: dict[str, float] = {}
        self._answered = ""

    def arrange(self, own: Sequence[str], network: Sequence[str]) -> list[str]:
        """Return all URLs: the owner's ``own`` ones, and those of the ``network``."""
        for url in network:
            if url not in self._lots:
                self._lots[url] = self._draw()
        shuffled = sorted(network, key=self._lots.__getitem__)
        unknown = [url for url in dict.fromkeys(own) if url not in network]
        return sorted(dict.fromkeys((*unknown, *shuffled)), key=lambda url: url != self._answered)

    def note(self, url: str) -> None:
        """Remember that the registry answered at ``url``."""
        self._answered = url
