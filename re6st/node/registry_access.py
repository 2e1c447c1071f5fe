"""The client of the registry as this node uses it: with the node's own certificate."""

from __future__ import annotations

from collections.abc import Callable

from re6st.node.credentials import Credentials
from re6st.proxy import Proxy
from re6st.registry.client import ClientCertificate, RegistryClient, RegistryUrl


def registry_client(
    credentials: Credentials,
    urls: list[str],
    proxy: Proxy | None = None,
    answered: Callable[[RegistryUrl], None] = lambda _: None,
) -> RegistryClient:
    """Return a client that shows the node's certificate; it tries ``proxy``, too, if given.

    ``answered`` is told where the registry gave an answer.

    Raises :class:`ConfigError` without URLs.
    """
    return RegistryClient(
        urls,
        credentials.trust.authorities,
        ClientCertificate(certificate=credentials.files.certificate, key=credentials.files.key),
        proxy=proxy,
        answered=answered,
    )
