"""re6st.node.document_exchange: what the core hears of versions and documents of others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from test_node_core import peer

from re6st.core.events import (
    Document,
    DocumentFailed,
    Event,
    ParametersAccepted,
    RevocationsAccepted,
    VersionSeen,
)
from re6st.errors import UntrustedError
from re6st.node.document_exchange import DocumentExchange


class Bench:
    """Documents of versions 3 and 5; a "signed document" is the number of its version."""

    def __init__(self) -> None:
        self.reported: list[Event] = []
        self.parameters, self.revocations = SimpleNamespace(version=3), SimpleNamespace(version=5)
        self.revoked = frozenset({"7"})
        self.exchange = DocumentExchange(cast("Any", self), self.reported.append)

    def version(self, document: Document) -> int:
        return self._held(document).version

    def accept(self, document: Document, signed: Any) -> bool:
        newer = signed > self.version(document)
        if newer:
            self._held(document).version = signed
        return newer

    def _held(self, document: Document) -> SimpleNamespace:
        return self.parameters if document is Document.PARAMETERS else self.revocations

    async def fetch(self, answer: int | Exception) -> list[Event]:
        async def ask(document: Document) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        await self.exchange.fetch(Document.PARAMETERS, "anna", ask)
        return self.reported


def test_only_higher_versions_are_news() -> None:
    bench = Bench()
    bench.exchange.seen(peer(7).prefix, 3, 5)
    assert bench.reported == []
    bench.exchange.seen(peer(7).prefix, 4, 5)
    bench.exchange.seen(None, 3, 6)
    assert bench.reported == [
        VersionSeen(peer(7).prefix, Document.PARAMETERS, 4),
        VersionSeen(None, Document.REVOCATIONS, 6),
    ]


def test_what_is_accepted_is_told() -> None:
    bench = Bench()
    assert bench.exchange.accept(Document.REVOCATIONS, cast("Any", 6))
    assert not bench.exchange.accept(Document.REVOCATIONS, cast("Any", 6))
    assert bench.reported == [RevocationsAccepted(6, frozenset({"7"}))]


async def test_each_fetch_has_one_result() -> None:
    (newer,) = await Bench().fetch(4)
    assert isinstance(newer, ParametersAccepted)
    assert await Bench().fetch(3) == [DocumentFailed(Document.PARAMETERS, "anna has no newer one")]
    (failed,) = await Bench().fetch(UntrustedError("not signed by the CA"))
    assert failed == DocumentFailed(Document.PARAMETERS, "not signed by the CA")
