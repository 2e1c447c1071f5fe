"""One HTTPS request to one registry URL, with every failure told in our own terms."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from re6st.errors import (
    ExpiredError,
    Re6stError,
    RegistryRefusedError,
    RegistryUnavailableError,
    RemoteProtocolError,
    RevokedError,
    UntrustedError,
    connection_failure,
)
from re6st.identity import REGISTRY_NAME
from re6st.messages import MAXIMUM_BODY, Problem, decode
from re6st.proxy import Proxy
from re6st.registry.links import RegistryUrl
from re6st.segments import make_socket

if TYPE_CHECKING:
    import aiohttp

_IDENTITY_PROBLEMS: dict[str, type[Re6stError]] = {
    "certificate-required": UntrustedError,
    "certificate-untrusted": UntrustedError,
    "certificate-expired": ExpiredError,
    "certificate-revoked": RevokedError,
}

CONNECT_TIMEOUT = 6.0
"""Seconds that a TCP connection may take: another URL may lead to a registry that lives."""

_EXPIRED, _NOT_YET_VALID = 10, 9
"""X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID (X509_STORE_CTX_get_error(3))."""


async def request(
    url: RegistryUrl,
    context: ssl.SSLContext,
    method: str,
    path: str,
    body: bytes,
    time_limit: float,
    headers: Mapping[str, str] | None = None,
    proxy: Proxy | None = None,
) -> bytes:
    """Return the body of the answer to one request to one URL.

    ``context`` decides whom to trust; ``time_limit`` is in seconds, from the connection to the last octet;
    ``path`` is escaped already. Where a ``proxy`` is given, the request goes through it.

    Raises :class:`RegistryUnavailableError`, :class:`RegistryRefusedError`, :class:`UntrustedError`,
    :class:`ExpiredError` or :class:`RevokedError`.
    """
    import aiohttp
    from yarl import URL

    verified = context.verify_mode is not ssl.CERT_NONE
    with _translated(url, time_limit):
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=time_limit, sock_connect=CONNECT_TIMEOUT),
                connector=aiohttp.TCPConnector(force_close=True, socket_factory=make_socket),
            ) as session,
            session.request(
                method,
                URL(url.base + path, encoded=True),
                data=body or None,
                headers={"Content-Type": "application/json"} | dict(headers or {}) if body else headers,
                ssl=context,
                server_hostname=REGISTRY_NAME if verified and not url.public else None,
                allow_redirects=False,
                proxy=proxy.url if proxy is not None else None,
                proxy_headers=proxy.headers() if proxy is not None else None,
            ) as response,
        ):
            content = await _read(response, url)
            _check_status(response.status, content, url)
            return content


@contextmanager
def _translated(url: RegistryUrl, time_limit: float) -> Iterator[None]:
    """Turn errors of aiohttp, TLS and the network into our own."""
    import aiohttp

    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        raise _translate_verification(url, error.certificate_error) from error
    except (ssl.SSLError, aiohttp.ClientSSLError) as error:
        raise _translate_tls(url, error) from error
    except aiohttp.ConnectionTimeoutError as error:
        raise RegistryUnavailableError(
            f"the registry at {url.base} cannot be reached: no connection within {CONNECT_TIMEOUT:g} s"
        ) from error
    except TimeoutError as error:
        raise RegistryUnavailableError(
            f"the registry at {url.base} did not answer within {time_limit:g} s"
        ) from error
    except (aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError) as error:
        # A server that does not accept a client's certificate may close without a TLS alert.
        raise RegistryUnavailableError(
            f"the registry at {url.base} closed the connection without an answer: it is stopping, or does not"
            " accept this node's certificate"
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise RegistryUnavailableError(
            f"the registry at {url.base} cannot be reached: {connection_failure(error)}"
        ) from error


async def _read(response: aiohttp.ClientResponse, url: RegistryUrl) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > MAXIMUM_BODY:
            raise RegistryUnavailableError(f"the registry at {url.base} answers with too much data")
    return bytes(content)


def _check_status(status: int, content: bytes, url: RegistryUrl) -> None:
    """Raise what an answer with an error status means."""
    if 200 <= status < 300:
        return
    try:
        problem = decode(content, Problem)
    except RemoteProtocolError as error:
        raise RegistryUnavailableError(
            f"{url.base} does not answer like a registry (HTTP status {status})"
        ) from error
    text = problem.detail or problem.title or problem.type
    kind = _IDENTITY_PROBLEMS.get(problem.type)
    if kind is not None:
        raise kind(f"the registry at {url.base} refuses this node's certificate: {text}")
    if status >= 500 or status in (408, 429):
        raise RegistryUnavailableError(f"the registry at {url.base} cannot answer now: {text}")
    raise RegistryRefusedError(f"the registry refused: {text}", code=problem.type)


def _translate_verification(url: RegistryUrl, error: Exception) -> Re6stError:
    """Return what it means that the server's certificate did not pass."""
    reason = getattr(error, "verify_message", str(error))
    if getattr(error, "verify_code", 0) in (_EXPIRED, _NOT_YET_VALID):
        return ExpiredError(
            f"the certificate of the registry at {url.base} is not valid now ({reason}):"
            " check the clocks of this machine and of the registry"
        )
    return UntrustedError(f"the server at {url.base} is not the registry of this network ({reason})")


def _translate_tls(url: RegistryUrl, error: ssl.SSLError | aiohttp.ClientSSLError) -> Re6stError:
    """Return what a failed TLS connection means: an alert about our certificate, or no TLS at all."""
    text = str(error).lower()
    if "alert certificate expired" in text:
        return ExpiredError(f"the registry at {url.base} says that this node's certificate expired")
    if "alert unknown ca" in text or "alert bad certificate" in text or "alert certificate" in text:
        return UntrustedError(
            f"the registry at {url.base} does not accept this node's certificate ({error}):"
            " is the node a member of the registry's network?"
        )
    if "wrong_version_number" in text or "wrong version number" in text or "record layer" in text:
        return RegistryUnavailableError(
            f"{url.base} does not speak HTTPS: check host and port, and that re6st-registry runs there"
        )
    return RegistryUnavailableError(f"no secure connection to the registry at {url.base}: {error}")
