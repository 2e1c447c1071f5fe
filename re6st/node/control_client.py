"""Calls the control API of other nodes, on the underlay or over the overlay.

Whom one talks to is decided by certificate: the TLS handshake fails unless the peer's certificate is of
this network and for the expected node address, whatever address was dialled. So an endpoint that leads
to someone else only costs a failed attempt. Which endpoints of a record may be dialled at all is decided
by the caller (:func:`re6st.node.underlay.dial_order`): an attempt is a packet where a stranger wants it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from http import HTTPStatus
from typing import TypeVar

import aiohttp
from msgspec import Struct

from re6st.core.events import Document
from re6st.errors import IdentityError, ProtocolError, RemoteProtocolError, connection_failure
from re6st.messages import (
    MAXIMUM_BODY,
    Draining,
    DrainProgress,
    Endpoint,
    Gossip,
    Problem,
    ReachabilityAnswer,
    ReachabilityRequest,
    SignedDocument,
    Transport,
    TunnelOffer,
    TunnelRefusal,
    TunnelRequest,
    decode,
    encode,
)
from re6st.node.verifier import Verifier
from re6st.peers import Peer
from re6st.proxy import Proxy

CONNECT_TIMEOUT = 4.0
"""Seconds for a connection and its TLS handshake."""

TOTAL_TIMEOUT = 12.0
"""Seconds for one request, its answer included."""

STAGGER = 0.25
"""Seconds until the next endpoint of a peer is tried beside the ones that have not answered (as RFC 8305)."""

MessageType = TypeVar("MessageType", bound=Struct)


class PeerUnreachableError(ProtocolError):
    """No endpoint of the peer answered, or not as the protocol demands."""


class ControlClient:
    """Requests to peers."""

    def __init__(self, verifier: Verifier, control_port: int, proxy: Proxy | None = None) -> None:
        """Reach peers on the overlay at ``control_port`` if their record says nothing else.

        On the underlay they are tried through ``proxy``, too, if there is one, after the direct ways.
        """
        self._proxy = proxy
        self._verifier = verifier
        self._control_port = control_port
        self._context: ssl.SSLContext | None = None
        self._session: aiohttp.ClientSession | None = None

    async def start(self, context: ssl.SSLContext) -> None:
        """Use the certificate in ``context`` from now on (also when it was renewed)."""
        self._context = context
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=64, force_close=True),
                timeout=aiohttp.ClientTimeout(total=TOTAL_TIMEOUT, sock_connect=CONNECT_TIMEOUT),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )

    async def stop(self) -> None:
        """Drop all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def overlay_endpoint(self, peer: Peer) -> Endpoint:
        """Return where ``peer`` serves the control API on the overlay."""
        port = peer.endpoints[0].port if peer.endpoints else self._control_port
        for capability in peer.capabilities:
            name, _, value = capability.partition("=")
            if name == "control-port" and value.isdigit() and 0 < int(value) < 65536:
                port = int(value)
        return Endpoint(Transport.TCP, str(peer.address), port)

    async def request_tunnel(
        self, peer: Peer, endpoints: Sequence[Endpoint], request: TunnelRequest
    ) -> TunnelOffer | TunnelRefusal:
        """Ask ``peer`` for a tunnel at the first of ``endpoints`` that answers.

        Raises :class:`PeerUnreachableError` or :class:`IdentityError`.
        """
        status, body = await self._first(peer, endpoints, "POST", "/v1/tunnels", encode(request))
        if status == HTTPStatus.CONFLICT:
            return decode(body, TunnelRefusal)
        return _expect(peer, status, body, TunnelOffer)

    async def cancel_tunnel(self, peer: Peer, name: str, endpoints: Sequence[Endpoint] = ()) -> None:
        """Tell ``peer``, over the overlay or at ``endpoints``, that a tunnel ends. Raises as above."""
        where = [self.overlay_endpoint(peer), *endpoints]
        await self._first(peer, where, "DELETE", f"/v1/tunnels/{name}", b"")

    async def drain_tunnel(
        self, peer: Peer, name: str, draining: Draining, endpoints: Sequence[Endpoint] = ()
    ) -> DrainProgress:
        """Have ``peer`` move its routes away from a tunnel; return how far it is. Raises as above."""
        where = [self.overlay_endpoint(peer), *endpoints]
        path = f"/v1/tunnels/{name}/drain"
        status, body = await self._first(peer, where, "POST", path, encode(draining))
        return _expect(peer, status, body, DrainProgress)

    async def exchange_gossip(self, peer: Peer, gossip: Gossip, endpoints: Sequence[Endpoint] = ()) -> Gossip:
        """Give ``gossip`` to ``peer``, over the overlay unless ``endpoints`` are given; return what it gave.

        Raises as above.
        """
        where = endpoints or [self.overlay_endpoint(peer)]
        status, body = await self._first(peer, where, "POST", "/v1/gossip", encode(gossip))
        return _expect(peer, status, body, Gossip)

    async def request_reachability(
        self, peer: Peer, endpoints: Sequence[Endpoint], request: ReachabilityRequest
    ) -> ReachabilityAnswer:
        """Have ``peer`` try whether this node is reached. Raises as above."""
        status, body = await self._first(peer, endpoints, "POST", "/v1/reachability", encode(request))
        return _expect(peer, status, body, ReachabilityAnswer)

    async def greet(self, peer: Peer, endpoint: Endpoint) -> None:
        """See that ``peer`` itself serves the control API at ``endpoint``. Raises as above."""
        await self._ask(peer, endpoint, "GET", f"/v1/{Document.PARAMETERS.value}", b"")

    async def fetch_document(self, peer: Peer, document: Document) -> SignedDocument:
        """Return the document that ``peer`` holds. Raises as above."""
        endpoints = [self.overlay_endpoint(peer)]
        status, body = await self._first(peer, endpoints, "GET", f"/v1/{document.value}", b"")
        return _expect(peer, status, body, SignedDocument)

    async def _first(
        self, peer: Peer, endpoints: Sequence[Endpoint], method: str, path: str, body: bytes
    ) -> tuple[int, bytes]:
        """Return status and body of the first endpoint that answers; they are tried one after the other,
        each a little later than the one before.
        """
        if not endpoints:
            raise PeerUnreachableError(f"{peer.name} has no endpoint that can be tried from here")

        async def attempt(index: int, endpoint: Endpoint, proxy: Proxy | None) -> tuple[int, bytes]:
            await asyncio.sleep(index * STAGGER)
            return await self._ask(peer, endpoint, method, path, body, proxy)

        ways: list[tuple[Endpoint, Proxy | None]] = [(endpoint, None) for endpoint in endpoints]
        if self._proxy is not None:
            ways += [(one, self._proxy) for one in endpoints if one.address != str(peer.address)]
        tasks = [asyncio.create_task(attempt(index, *way)) for index, way in enumerate(ways)]
        failures: list[str] = []
        try:
            for finished in asyncio.as_completed(tasks):
                try:
                    return await finished
                except (PeerUnreachableError, IdentityError) as error:
                    failures.append(str(error))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        raise PeerUnreachableError("; ".join(failures))

    async def _ask(
        self,
        peer: Peer,
        endpoint: Endpoint,
        method: str,
        path: str,
        body: bytes,
        proxy: Proxy | None = None,
    ) -> tuple[int, bytes]:
        if self._session is None or self._context is None:
            raise PeerUnreachableError("this node is stopping")
        host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
        url = f"https://{host}:{endpoint.port}{path}"
        try:
            async with self._session.request(
                method,
                url,
                data=body or None,
                ssl=self._context,
                server_hostname=str(peer.address),
                headers={"Content-Type": "application/json"},
                allow_redirects=False,
                proxy=proxy.url if proxy is not None else None,
                proxy_headers=proxy.headers() if proxy is not None else None,
            ) as response:
                connection = response.connection
                tls = (
                    connection.transport.get_extra_info("ssl_object")
                    if connection and connection.transport
                    else None
                )
                if tls is not None:
                    self._verifier.identify(tls.getpeercert(binary_form=True))
                return response.status, await _read(response)
        except aiohttp.ClientConnectorCertificateError as error:
            raise PeerUnreachableError(f"{endpoint} is not {peer.name}: {error.certificate_error}") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise PeerUnreachableError(
                f"{endpoint} of {peer.name} does not answer: {connection_failure(error)}"
            ) from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return the body, of bounded size."""
    body = await response.content.read(MAXIMUM_BODY + 1)
    while len(body) <= MAXIMUM_BODY and not response.content.at_eof():
        body += await response.content.read(MAXIMUM_BODY + 1 - len(body))
    if len(body) > MAXIMUM_BODY:
        raise PeerUnreachableError("the answer is too large")
    return body


def _expect(peer: Peer, status: int, body: bytes, kind: type[MessageType]) -> MessageType:
    if status == HTTPStatus.OK:
        return decode(body, kind)
    try:
        detail = decode(body, Problem).detail
    except RemoteProtocolError:
        detail = ""
    raise PeerUnreachableError(f"{peer.name} answered {status}: {detail[:200]}")
