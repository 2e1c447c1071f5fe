"""Calls the control API of other nodes, on the underlay or over the overlay.

Whom one talks to is decided by certificate: the TLS handshake fails unless the peer's certificate is of
this network and for the expected node address, whatever address was dialled. So an endpoint that leads
to someone else only costs a failed attempt. Which endpoints of a record may be dialled at all is decided
by the caller (:func:`re6st.node.underlay.dial_order`): an attempt is a packet where a stranger wants it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

import aiohttp
from msgspec import Struct

from re6st import segments
from re6st.core.events import Document
from re6st.errors import IdentityError, ProtocolError, RemoteProtocolError, connection_failure
from re6st.messages import (
    MAXIMUM_BODY,
    Draining,
    DrainProgress,
    Endpoint,
    Gossip,
    LanKeys,
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
from re6st.node import uplinks
from re6st.node.addresses import bind_to_interface
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


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to reach an endpoint."""

    endpoint: Endpoint
    proxy: Proxy | None = None
    uplink: str = ""


class _Turn:
    """The turn to ask, of one way among those that are tried side by side."""

    def __init__(self, lock: asyncio.Lock) -> None:
        self._lock = lock
        self._is_ours = False

    async def begin(self) -> None:
        """Wait until no other way asks."""
        await self._lock.acquire()
        self._is_ours = True

    def end(self) -> None:
        """Let others ask, if this one did."""
        if self._is_ours:
            self._is_ours = False
            self._lock.release()


async def _in_turn(body: bytes, turn: _Turn) -> AsyncIterator[bytes]:
    """Yield ``body`` as soon as it is our turn: the peer does nothing before it has it."""
    await turn.begin()
    yield body


class ControlClient:
    """Requests to peers."""

    def __init__(
        self,
        verifier: Verifier,
        control_port: int,
        proxy: Proxy | None = None,
        uplinks: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """Reach peers on the overlay at ``control_port`` if their record says nothing else.

        On the underlay they are tried through ``proxy``, too, if there is one, after the direct ways; these
        lead through each of the host's interfaces ``uplinks``, best first, or where its routes lead.
        """
        self._uplinks = uplinks
        self._proxy = proxy
        self._verifier = verifier
        self._control_port = control_port
        self._context: ssl.SSLContext | None = None
        self._sessions: dict[str, aiohttp.ClientSession] | None = None

    async def start(self, context: ssl.SSLContext) -> None:
        """Use the certificate in ``context`` from now on (also when it was renewed)."""
        self._context = context
        if self._sessions is None:
            self._sessions = {name: _make_session(name) for name in ("", *self._uplinks())}

    async def stop(self) -> None:
        """Drop all connections."""
        sessions, self._sessions = self._sessions, None
        for session in (sessions or {}).values():
            await session.close()

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

    async def meet(self, peer: Peer, endpoint: Endpoint, gossip: Gossip) -> Gossip:
        """Exchange ``gossip`` with ``peer`` at ``endpoint`` in a LAN of this host, which no proxy reaches.

        Raises as above.
        """
        turn = _Turn(asyncio.Lock())
        status, body = await self._ask(peer, _Way(endpoint), "POST", "/v1/gossip", encode(gossip), turn)
        return _expect(peer, status, body, Gossip)

    async def request_reachability(
        self, peer: Peer, endpoints: Sequence[Endpoint], request: ReachabilityRequest
    ) -> ReachabilityAnswer:
        """Have ``peer`` try whether this node is reached. Raises as above."""
        status, body = await self._first(peer, endpoints, "POST", "/v1/reachability", encode(request))
        return _expect(peer, status, body, ReachabilityAnswer)

    async def greet(self, peer: Peer, endpoint: Endpoint) -> None:
        """See that ``peer`` itself serves the control API at ``endpoint``. Raises as above."""
        path = f"/v1/{Document.PARAMETERS.value}"
        await self._ask(peer, _Way(endpoint), "GET", path, b"", _Turn(asyncio.Lock()))

    async def fetch_document(self, peer: Peer, document: Document) -> SignedDocument:
        """Return the document that ``peer`` holds. Raises as above."""
        endpoints = [self.overlay_endpoint(peer)]
        status, body = await self._first(peer, endpoints, "GET", f"/v1/{document.value}", b"")
        return _expect(peer, status, body, SignedDocument)

    async def fetch_lan_keys(self, peer: Peer, endpoints: Sequence[Endpoint] = ()) -> LanKeys:
        """Return the keys of LANs that ``peer`` has. Raises as above."""
        where = [self.overlay_endpoint(peer), *endpoints]
        status, body = await self._first(peer, where, "GET", "/v1/lan-keys", b"")
        return _expect(peer, status, body, LanKeys)

    async def _first(
        self, peer: Peer, endpoints: Sequence[Endpoint], method: str, path: str, body: bytes
    ) -> tuple[int, bytes]:
        """Return status and body of the first endpoint that answers; they are tried one after the other,
        each a little later than the one before. Connections race, but only one at a time sends a body: the
        peer would take a second request for a tunnel for another one.
        """
        if not endpoints:
            raise PeerUnreachableError(f"{peer.name} has no endpoint that can be tried from here")

        async def attempt(index: int, way: _Way) -> tuple[int, bytes]:
            await asyncio.sleep(index * STAGGER)
            turn = _Turn(one_at_a_time)
            try:
                return await self._ask(peer, way, method, path, body, turn)
            except (PeerUnreachableError, IdentityError):
                turn.end()  # Whoever is answered keeps it: nobody else has to ask.
                raise

        one_at_a_time = asyncio.Lock()
        ways = self._ways(peer, endpoints)
        tasks = [asyncio.create_task(attempt(index, way)) for index, way in enumerate(ways)]
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

    def _ways(self, peer: Peer, endpoints: Sequence[Endpoint]) -> list[_Way]:
        """Return how ``endpoints`` can be reached, best first."""
        ways = []
        for endpoint in endpoints:
            is_bound = endpoint.address != str(peer.address) and uplinks.is_bound(endpoint)
            names = (self._uplinks() if is_bound else ()) or ("",)
            ways += [_Way(endpoint, uplink=name) for name in names]
        if self._proxy is not None:
            ways += [_Way(one, proxy=self._proxy) for one in endpoints if one.address != str(peer.address)]
        return ways

    async def _ask(
        self,
        peer: Peer,
        way: _Way,
        method: str,
        path: str,
        body: bytes,
        turn: _Turn,
    ) -> tuple[int, bytes]:
        if self._sessions is None or self._context is None:
            raise PeerUnreachableError("this node is stopping")
        endpoint, proxy = way.endpoint, way.proxy
        host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
        url = f"https://{host}:{endpoint.port}{path}"
        try:
            async with self._sessions[way.uplink].request(
                method,
                url,
                data=_in_turn(body, turn) if body else None,
                ssl=self._context,
                server_hostname=str(peer.address),
                headers={"Content-Type": "application/json", "Content-Length": str(len(body))},
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


def _make_session(uplink: str) -> aiohttp.ClientSession:
    """Return a session whose connections use only routes through ``uplink``, or all if that is empty."""

    def make_socket(address: aiohttp.AddrInfoType) -> socket.socket:
        made = segments.make_socket(address)
        try:
            bind_to_interface(made, uplink)
        except OSError:
            made.close()
            raise
        return made

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=64, force_close=True, socket_factory=make_socket),
        timeout=aiohttp.ClientTimeout(total=TOTAL_TIMEOUT, sock_connect=CONNECT_TIMEOUT),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


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
