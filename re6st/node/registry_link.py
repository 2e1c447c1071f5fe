"""Carries out what the core asks of the registry, and remembers for people how that went."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence

from re6st.core.effects import AskRegistry, FetchDocument
from re6st.core.events import (
    Document,
    Event,
    PeersLearned,
    RegistryAnswered,
    RegistryFailed,
    RegistryOperation,
    RenewalWanted,
    Source,
)
from re6st.errors import IdentityError, ProtocolError, Re6stError, RegistryRefusedError, UntrustedError
from re6st.identity import build_request
from re6st.messages import DocumentVersions, LanKeys, NodeReport, SignedDocument
from re6st.node.credentials import Credentials
from re6st.node.document_exchange import DocumentExchange
from re6st.node.documents import Documents
from re6st.node.own_record import OwnRecord
from re6st.node.registry_access import registry_client
from re6st.node.registry_order import RegistryOrder
from re6st.node.tasks import Tasks
from re6st.node.verifier import Verifier
from re6st.proxy import Proxy
from re6st.registry.client import RegistryClient, parse_registry_url

logger = logging.getLogger(__name__)

SAMPLE = 40
"""Peer records that one sample asks for."""


class RegistryLink:
    """This node's side of its contact with the registry."""

    def __init__(
        self,
        *,
        urls: tuple[str, ...],
        credentials: Callable[[], Credentials],
        documents: Documents,
        document_exchange: DocumentExchange,
        own: OwnRecord,
        verifier: Verifier,
        tasks: Tasks,
        report: Callable[[Event], None],
        renewed: Callable[[bytes], None],
        describe: Callable[[], NodeReport | None],
        proxy: Proxy | None = None,
    ) -> None:
        """Try ``urls`` first, then those of the network parameters. ``credentials`` are those in force.
        Give a new certificate (DER) to ``renewed``; ``describe`` says what to tell about this node.
        """
        self._urls = urls
        self._credentials = credentials
        self._documents = documents
        self._document_exchange = document_exchange
        self._own = own
        self._verifier = verifier
        self._tasks = tasks
        self._report = report
        self._renewed = renewed
        self._describe = describe
        self._order = RegistryOrder(secrets.SystemRandom().random)
        self._proxy = proxy
        self._asking: dict[RegistryOperation, asyncio.Task[None]] = {}
        """The last task of each kind."""
        self.state = "not asked yet"
        """How the last contact went, for people."""
        self.reachable = False

    def ask(self, effect: AskRegistry) -> None:
        """Do what the core wants of the registry, instead of what is under way of the same kind."""
        former = self._asking.get(effect.operation)
        if former is not None:
            former.cancel()
        self._asking[effect.operation] = self._tasks.spawn(
            self._ask(effect.operation, effect.wait), f"{effect.operation.value} at the registry"
        )

    def fetch(self, effect: FetchDocument) -> None:
        """Get a newer document from the registry."""
        work = self._document_exchange.fetch(effect.document, "the registry", self._signed)
        self._tasks.spawn(work, f"fetch the {effect.document.value}")

    def _client(self) -> RegistryClient:
        network = self._documents.parameters.registry_urls
        urls = self._order.arrange(*(_normal(given) for given in (self._urls, network)))
        return registry_client(
            self._credentials(), urls, self._proxy, answered=lambda url: self._order.note(str(url))
        )

    async def lan_keys(self) -> LanKeys:
        """Return the keys by which nodes in a LAN know each other. Raises :class:`Re6stError`."""
        return await self._client().lan_keys()

    async def _ask(self, operation: RegistryOperation, wait: float) -> None:
        try:
            match operation:
                case RegistryOperation.PUBLISH:
                    await self._client().publish(self._own.signed)
                case RegistryOperation.SAMPLE:
                    await self._sample(SAMPLE)
                case RegistryOperation.RENEW:
                    await self._renew()
                case RegistryOperation.VERSIONS:
                    await self._versions(wait)
        except Re6stError as error:
            if isinstance(error, UntrustedError):
                await self._learn_authorities()
            self._note(str(error), reachable=isinstance(error, RegistryRefusedError))
            logger.warning("The registry did not %s: %s", operation.value, error)
            final = isinstance(error, RegistryRefusedError | IdentityError)
            self._report(RegistryFailed(operation, str(error), final=final))
            return
        self._note("reachable", reachable=True)
        self._report(RegistryAnswered(operation))

    async def _learn_authorities(self) -> None:
        """Perhaps another CA took over while this node was away: its own CA signed parameters that say so."""
        try:
            if self._document_exchange.accept(
                Document.PARAMETERS, await self._client().parameters_of_anybody()
            ):
                logger.info("The registry has changed; its new parameters are signed by a CA that we trust")
        except Re6stError as error:
            logger.debug("No parameters that we could trust: %s", error)

    async def _sample(self, count: int) -> None:
        answer = await self._client().sample(count)
        peers = self._verifier.open_all(answer.peers)
        if peers:
            self._report(PeersLearned(peers, Source.REGISTRY))
        self._document_exchange.seen(None, answer.parameters_version, answer.revocations_version)

    async def _versions(self, wait: float) -> None:
        """Ask which documents are in force, and use the occasion to tell how this node is."""
        known = DocumentVersions(
            parameters_version=self._documents.version(Document.PARAMETERS),
            revocations_version=self._documents.version(Document.REVOCATIONS),
        )
        try:
            versions = await self._client().versions(self._describe(), known=known, wait=round(wait))
        except RegistryRefusedError as error:
            if error.code != "http":
                raise
            await self._sample(1)  # an older registry, which knows nothing of this
            return
        self._document_exchange.seen(None, versions.parameters_version, versions.revocations_version)
        if versions.renewal:
            self._report(RenewalWanted())

    async def _renew(self) -> None:
        credentials = self._credentials()
        certificate = credentials.certificate
        enrolment = await self._client().renew(build_request(credentials.key, certificate.name))
        renewed = credentials.trust.verify(enrolment.certificate, time.time())
        if renewed.prefix != certificate.prefix:
            raise ProtocolError(f"the registry renewed the certificate for another prefix, {renewed.prefix}")
        self._renewed(enrolment.certificate)
        for document, signed in (
            (Document.PARAMETERS, enrolment.parameters),
            (Document.REVOCATIONS, enrolment.revocations),
        ):
            self._document_exchange.accept(document, signed)

    async def _signed(self, document: Document) -> SignedDocument:
        client = self._client()
        return await (client.parameters() if document is Document.PARAMETERS else client.revocations())

    def _note(self, state: str, *, reachable: bool) -> None:
        self.reachable = reachable
        self.state = f"{state} ({time.strftime('%Y-%m-%d %H:%M:%S')})"


def _normal(urls: Sequence[str]) -> list[str]:
    """Return ``urls`` as the client writes them."""
    return [str(parse_registry_url(url)) for url in urls]
