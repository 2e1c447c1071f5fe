"""How signed documents come to this node: somebody has a higher version, it is fetched and put in force.

Every exchange with a peer or the registry tells which versions the other side has. Who of them is asked for
a newer one, and when, is decided by the core (:mod:`re6st.core.documents`), and what is believed and kept by
:mod:`re6st.node.documents`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import IPv6Network

from re6st.core.events import (
    Document,
    DocumentFailed,
    Event,
    ParametersAccepted,
    RevocationsAccepted,
    VersionSeen,
)
from re6st.errors import Re6stError
from re6st.messages import SignedDocument
from re6st.node.documents import Documents


class DocumentExchange:
    """Tells the core of versions that others have, and of documents that come into force."""

    def __init__(self, documents: Documents, report: Callable[[Event], None]) -> None:
        """Keep what is accepted in ``documents``; report to the core through ``report``."""
        self._documents = documents
        self._report = report

    def seen(self, peer: IPv6Network | None, parameters: int, revocations: int) -> None:
        """Take note of the versions that ``peer``, or the registry if that is None, has."""
        for document, version in ((Document.PARAMETERS, parameters), (Document.REVOCATIONS, revocations)):
            if version > self._documents.version(document):
                self._report(VersionSeen(peer, document, version))

    async def fetch(
        self, document: Document, source: str, ask: Callable[[Document], Awaitable[SignedDocument]]
    ) -> None:
        """Get a newer ``document`` by ``ask`` from the one whom people call ``source``."""
        try:
            newer = self.accept(document, await ask(document))
        except Re6stError as error:
            self._report(DocumentFailed(document, str(error)))
            return
        if not newer:
            self._report(DocumentFailed(document, f"{source} has no newer one"))

    def accept(self, document: Document, signed: SignedDocument) -> bool:
        """Put ``signed`` in force if it is newer than what is held; return whether it was.

        Raises :class:`IdentityError` or :class:`ProtocolError` when it is not valid.
        """
        if not self._documents.accept(document, signed):
            return False
        if document is Document.PARAMETERS:
            self._report(ParametersAccepted(self._documents.parameters))
        else:
            self._report(RevocationsAccepted(self._documents.revocations.version, self._documents.revoked))
        return True
