"""Network parameters and revocations as this node holds them: verified, versioned, kept on disk.

A document is accepted when the network's CA signed it, its version is higher than the one held, and it
makes sense for this node. What is on disk is verified again when it is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from re6st.core.events import Document
from re6st.errors import ConfigError, IdentityError, ProtocolError, RemoteProtocolError, StorageError
from re6st.files import write_atomically
from re6st.identity import CONTEXT_PARAMETERS, CONTEXT_REVOCATIONS, TrustStore
from re6st.messages import NetworkParameters, Revocations, SignedDocument, decode, encode
from re6st.prefix import parse_prefix

logger = logging.getLogger(__name__)

CONTEXTS = {Document.PARAMETERS: CONTEXT_PARAMETERS, Document.REVOCATIONS: CONTEXT_REVOCATIONS}


class Documents:
    """The newest signed documents known."""

    def __init__(self, directory: Path, trust: TrustStore, own: bytes | None = None) -> None:
        """Load what ``directory`` holds; what is unreadable or invalid is ignored with a warning.

        ``trust`` follows the CAs in the parameters. Those that would not trust the issuer of ``own``, this
        node's certificate (DER), are refused.
        """
        self._directory = directory
        self.own = own
        self.trust_changed: Callable[[], None] = lambda: None
        """Called when other CAs are trusted than before."""
        self._trust = trust
        self._signed: dict[Document, SignedDocument] = {}
        self.parameters = NetworkParameters(version=0, network=str(trust.network))
        self.revocations = Revocations(version=0)
        self.revoked: frozenset[str] = frozenset()
        for document in Document:
            self._load(document)

    def _path(self, document: Document) -> Path:
        return self._directory / f"{document.value}.json"

    def _load(self, document: Document) -> None:
        try:
            body = self._path(document).read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            logger.warning("Cannot read %s: %s", self._path(document), error)
            return
        try:
            self._take(document, decode(body, SignedDocument))
        except (ProtocolError, IdentityError) as error:
            logger.warning("Ignoring the stored %s: %s", document.value, error)

    def signed(self, document: Document) -> SignedDocument | None:
        """Return the document to be passed on, None before the first one is known."""
        return self._signed.get(document)

    def version(self, document: Document) -> int:
        """Return the version held, 0 for none."""
        return self.parameters.version if document is Document.PARAMETERS else self.revocations.version

    def accept(self, document: Document, signed: SignedDocument) -> bool:
        """Take ``signed`` if it is newer than what is held; return whether it was.

        Raises :class:`IdentityError` or :class:`RemoteProtocolError` when it is not valid. A disk that
        does not take it is only logged: the document is in force all the same.
        """
        if not self._take(document, signed):
            return False
        logger.info("Network %s version %d in force", document.value, self.version(document))
        try:
            write_atomically(self._path(document), encode(signed), 0o644)
        except StorageError as error:
            logger.error("The new %s cannot be kept for the next start: %s", document.value, error)
        return True

    def _take(self, document: Document, signed: SignedDocument) -> bool:
        payload = self._trust.verify_document(CONTEXTS[document], signed)
        if document is Document.PARAMETERS:
            parameters = decode(payload, NetworkParameters)
            self._check(parameters)
            if parameters.version <= self.parameters.version:
                return False
            self.parameters = parameters
            if parameters.authorities and self._trust.adopt(parameters.authorities):
                self.trust_changed()
        else:
            revocations = decode(payload, Revocations)
            if revocations.version <= self.revocations.version:
                return False
            self.revocations = revocations
            self.revoked = frozenset(revocations.serials)
        self._signed[document] = signed
        return True

    def _check(self, parameters: NetworkParameters) -> None:
        """Refuse parameters that would cut this node off."""
        try:
            network = parse_prefix(parameters.network)
        except ConfigError as error:
            raise RemoteProtocolError(f"network parameters: {error}") from error
        if network != self._trust.network:
            raise RemoteProtocolError(
                f"network parameters are for {network}, this node is in {self._trust.network}"
            )
        if parameters.authorities:
            trust = TrustStore(parameters.authorities)
            if trust.network != self._trust.network:
                raise RemoteProtocolError(f"network parameters: the CA certificates are of {trust.network}")
            if self.own is not None and trust.issuer(self.own) is None:
                raise RemoteProtocolError(
                    "network parameters do not trust the CA any more that issued this node's certificate:"
                    " ask the operator for a new join link and join again with --force"
                )
        for url in parameters.registry_urls:
            if not url.startswith("https://"):
                raise RemoteProtocolError(f"network parameters: registry URL {url!r} is not https")
