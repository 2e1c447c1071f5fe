"""Signed documents: fetching a newer version as soon as somebody is seen to have one.

One fetch per kind of document is under way at a time, from whoever was seen with the newest version. If
that fails, others that were seen with a newer version are asked, then the registry. A peer from which
nothing could be fetched is not believed for a while, so that one that boasts of versions that do not
exist causes little work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Network

from re6st.core.context import Context
from re6st.core.deadlines import Timer
from re6st.core.effects import FetchDocument
from re6st.core.events import Document
from re6st.peers import Peer

ALTERNATIVES = 8
"""Owners of newer versions that are remembered."""

DISTRUST = 300.0
"""Seconds for which a failed source is not asked again."""

DISTRUSTED = 64
"""Failed sources that are remembered."""

Owner = IPv6Network | None
"""Who has a document; None is the registry."""


@dataclass(slots=True)
class _Search:
    """The state of one kind of document."""

    version: int = 0
    """In force here, as far as we were told."""
    fetching: bool = False
    source: Owner = None
    """Who was asked last."""
    seen: dict[Owner, int] = field(default_factory=dict)
    """Who has which newer version."""
    distrusted: dict[Owner, float] = field(default_factory=dict)
    """Until when failed sources are not asked (monotonic seconds)."""


class Documents:
    """Fetches newer documents."""

    def __init__(self, context: Context, find: Callable[[IPv6Network], Peer | None]) -> None:
        """``find`` returns the peer that owns a prefix."""
        self._context = context
        self._find = find
        self._searches = {document: _Search() for document in Document}

    def seen(self, owner: Owner, document: Document, version: int) -> None:
        """``owner`` has ``version`` of ``document``."""
        search = self._searches[document]
        if version <= search.version:
            return
        if owner in search.seen or len(search.seen) < ALTERNATIVES:
            search.seen[owner] = version
        self._pursue(document)

    def accepted(self, document: Document, version: int) -> None:
        """``version`` of ``document`` is in force."""
        search = self._searches[document]
        search.version = max(search.version, version)
        search.fetching = False
        search.seen = {owner: seen for owner, seen in search.seen.items() if seen > search.version}
        self._context.deadlines.clear(Timer.DOCUMENT, _number(document))
        self._pursue(document)

    def failed(self, document: Document) -> None:
        """Fetching ``document`` came to nothing."""
        search = self._searches[document]
        if not search.fetching:
            return
        search.fetching = False
        search.seen.pop(search.source, None)
        search.distrusted[search.source] = self._context.now + DISTRUST
        while len(search.distrusted) > DISTRUSTED:
            del search.distrusted[next(iter(search.distrusted))]
        if search.source is not None and not search.seen:
            search.seen[None] = search.version + 1
        self._context.deadlines.clear(Timer.DOCUMENT, _number(document))
        self._pursue(document)

    def timed_out(self, number: int) -> None:
        """Fetching the document with this timer number has taken too long."""
        self.failed(list(Document)[number])

    def _pursue(self, document: Document) -> None:
        search = self._searches[document]
        while not search.fetching and search.seen:
            owner = max(search.seen, key=lambda candidate: search.seen[candidate])
            peer = self._find(owner) if owner is not None else None
            trusted = search.distrusted.get(owner, float("-inf")) <= self._context.now
            if not trusted or (owner is not None and peer is None):
                del search.seen[owner]
                continue
            search.fetching = True
            search.source = owner
            self._context.schedule(self._context.settings.document_timeout, Timer.DOCUMENT, _number(document))
            self._context.emit(FetchDocument(document, peer))


def _number(document: Document) -> int:
    return list(Document).index(document)
