"""Puts a renewed certificate, or other CAs, to use for everything that begins from now on.

What is under way goes on with what it began with: a tunnel is replaced before either certificate expires.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from re6st.core.events import Event, OwnCertificateChanged
from re6st.errors import StorageError
from re6st.node.control_client import ControlClient
from re6st.node.credentials import Credentials, load_credentials
from re6st.node.documents import Documents
from re6st.node.own_record import OwnRecord
from re6st.node.tasks import Tasks

logger = logging.getLogger(__name__)


class Renewal:
    """Holds the credentials in force and hands changed ones to those that use them."""

    def __init__(
        self,
        credentials: Credentials,
        state_directory: Path,
        *,
        documents: Documents,
        own: OwnRecord,
        client: ControlClient,
        tasks: Tasks,
        report: Callable[[Event], None],
    ) -> None:
        """Begin with ``credentials``, which ``state_directory`` holds. Report to the core through ``report``.

        Raises :class:`StorageError`.
        """
        self._state_directory = state_directory
        self._documents = documents
        self._own = own
        self._client = client
        self._tasks = tasks
        self._report = report
        self.credentials = credentials
        """Those in force."""
        self.server_context: ssl.SSLContext = credentials.server_context()
        """For the control API; it changes with the credentials."""
        self.prefixes_changed: Callable[[], None] = lambda: None
        """Called when the node has other prefixes than before; set by the daemon."""
        self._prefixes = credentials.certificate.prefixes
        documents.trust_changed = self._on_trust_changed

    def use(self, certificate: bytes) -> None:
        """Use a renewed ``certificate`` (DER). Raises :class:`Re6stError`."""
        files = self.credentials.files
        files.store_certificate(certificate)
        renewed = load_credentials(self._state_directory, time.time())
        self.credentials = replace(renewed, trust=self.credentials.trust)
        self._documents.own = self.credentials.certificate.der
        self.server_context.load_cert_chain(files.certificate, files.key)
        self._tasks.spawn(self._client.start(self.credentials.client_context()), "use the new certificate")
        self._own.renew(self.credentials)
        self.report()
        if self.credentials.certificate.prefixes != self._prefixes:
            self._prefixes = self.credentials.certificate.prefixes
            self.prefixes_changed()

    def _on_trust_changed(self) -> None:
        self.store_authorities()
        # A context forgets no CA; every certificate is verified by the trust store once more.
        self.server_context.load_verify_locations(cadata=b"".join(self.credentials.trust.authorities))
        self._tasks.spawn(self._client.start(self.credentials.client_context()), "use the new CA")
        self.report()

    def store_authorities(self) -> None:
        """Write the CAs where processes of tunnels read them."""
        try:
            self.credentials.files.store_authorities(self.credentials.trust.authorities)
        except StorageError as error:
            logger.error("New tunnels do not trust the new CA, since it cannot be written: %s", error)

    def report(self) -> None:
        """Tell the core of the certificate in force."""
        certificate, trust = self.credentials.certificate, self.credentials.trust
        superseded = trust.issuer(certificate.der) != trust.authorities[0]
        self._report(OwnCertificateChanged(certificate.not_before, certificate.not_after, superseded))
