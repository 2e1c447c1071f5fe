"""Serves the control API to other nodes: HTTPS with certificates of the network on both sides.

    POST   /v1/tunnels          ask for a tunnel           TunnelRequest -> TunnelOffer, 409 TunnelRefusal
    DELETE /v1/tunnels/<name>   end one
    POST   /v1/tunnels/<name>/drain   move routes away   Draining -> DrainProgress
    POST   /v1/gossip           exchange peer records      Gossip -> Gossip
    POST   /v1/reachability     am I reached from there?   ReachabilityRequest -> ReachabilityAnswer
    GET    /v1/parameters       network parameters         -> SignedDocument
    GET    /v1/revocations      revocations                -> SignedDocument
    GET    /v1/lan-keys         keys of the LANs           -> LanKeys

The caller is who its certificate says, and never who its message says. What to answer is decided by
the :class:`ControlService` behind.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Protocol

from aiohttp import web

from re6st.core.events import Document
from re6st.errors import ConfigError, IdentityError, ProtocolError, Re6stError
from re6st.gate import BACKLOG, Divert, Gate, Limits
from re6st.identity import NodeCertificate
from re6st.messages import (
    MAXIMUM_BODY,
    Draining,
    DrainProgress,
    Gossip,
    LanKeys,
    Message,
    Problem,
    ReachabilityAnswer,
    ReachabilityRequest,
    SignedDocument,
    TunnelOffer,
    TunnelRefusal,
    TunnelRequest,
    decode,
    encode,
)
from re6st.segments import limit_segments

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT = 10.0
"""Seconds within which a request must have been read and answered."""

LIMITS = Limits(total=256, for_each_address=32)
"""Connections at a time: a node has few neighbours, and each asks seldom."""

CALLER = web.RequestKey("caller", NodeCertificate)
"""Who sent a request."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ControlService(Protocol):
    """What the node does on behalf of its peers."""

    def identify(self, der: bytes) -> NodeCertificate:
        """Return who shows the certificate ``der``. Raises :class:`IdentityError`."""

    async def tunnel_requested(
        self, caller: NodeCertificate, request: TunnelRequest, local: str, remote: str
    ) -> TunnelOffer | TunnelRefusal:
        """Answer a request that came from address ``remote`` to our address ``local``."""

    def tunnel_cancelled(self, caller: NodeCertificate, name: str) -> None:
        """End the tunnel called ``name`` that ``caller`` is the other end of."""

    async def tunnel_draining(
        self, caller: NodeCertificate, name: str, draining: Draining
    ) -> DrainProgress | None:
        """Move routes away from the tunnel called ``name``; return None when there is none to ``caller``."""

    def gossip_received(self, caller: NodeCertificate, gossip: Gossip) -> Gossip:
        """Take the caller's records and return some of ours."""

    async def reachability_requested(
        self, caller: NodeCertificate, request: ReachabilityRequest
    ) -> ReachabilityAnswer:
        """Say whether ``caller`` is reached at its endpoints."""

    def document(self, document: Document) -> SignedDocument | None:
        """Return the signed document we hold."""

    def lan_keys(self) -> LanKeys:
        """Return the keys by which nodes in a LAN know each other, as far as we have them."""


def _answer(message: Message, status: int = HTTPStatus.OK) -> web.Response:
    return web.Response(body=encode(message), status=status, content_type="application/json")


def _problem(status: HTTPStatus, kind: str, detail: str) -> web.Response:
    problem = Problem(type=kind, title=status.phrase, detail=detail[:1024], status=status)
    return web.Response(body=encode(problem), status=status, content_type="application/problem+json")


def _address(request: web.Request, which: str) -> str:
    """Return an IP address of the connection as text, IPv4 ones not mapped into IPv6."""
    name = request.transport.get_extra_info(which) if request.transport else None
    return str(name[0]).removeprefix("::ffff:").partition("%")[0] if name else ""


class ControlServer:
    """The control API on one port of all addresses."""

    def __init__(
        self,
        service: ControlService,
        port: int,
        divert: Divert | None = None,
    ) -> None:
        """``divert`` serves what comes to the port and is not TLS; see :class:`re6st.gate.Gate`."""
        self._service = service
        self._port = port
        self._divert = divert
        self._socket: socket.socket | None = None
        self._gate: Gate | None = None
        self._runner: web.AppRunner | None = None

    def bind(self) -> socket.socket:
        """Take the port; requests wait until :meth:`start`. Raises :class:`ConfigError` if it is taken."""
        self._socket = _listen(self._port)
        return self._socket

    async def start(self, context: ssl.SSLContext) -> None:
        """Serve, as the node whose certificate is in ``context``."""
        listening = self._socket or self.bind()
        application = web.Application(client_max_size=MAXIMUM_BODY, middlewares=[self._guard])
        application.add_routes(
            [
                web.post("/v1/tunnels", self._post_tunnel),
                web.delete("/v1/tunnels/{name}", self._delete_tunnel),
                web.post("/v1/tunnels/{name}/drain", self._post_drain),
                web.post("/v1/gossip", self._post_gossip),
                web.post("/v1/reachability", self._post_reachability),
                web.get("/v1/parameters", self._get_parameters),
                web.get("/v1/revocations", self._get_revocations),
                web.get("/v1/lan-keys", self._get_lan_keys),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        if self._runner.server is None:
            raise RuntimeError("the server was not set up")
        self._gate = Gate(self._runner.server, context, LIMITS, self._divert)
        self._gate.open(listening)
        self._socket = None

    async def stop(self) -> None:
        """Stop listening and drop all connections."""
        if self._gate is not None:
            await self._gate.close()
            self._gate = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Identify the caller, bound the time, and turn errors into problem documents."""
        try:
            transport = request.transport
            tls = transport.get_extra_info("ssl_object") if transport else None
            request[CALLER] = self._service.identify(tls.getpeercert(binary_form=True) if tls else b"")
            async with asyncio.timeout(REQUEST_TIMEOUT):
                return await handler(request)
        except IdentityError as error:
            logger.info("Refused %s %s: %s", request.method, request.path, error)
            return _problem(HTTPStatus.FORBIDDEN, type(error).__name__, str(error))
        except ProtocolError as error:
            return _problem(HTTPStatus.BAD_REQUEST, "malformed", str(error))
        except TimeoutError:
            return _problem(HTTPStatus.SERVICE_UNAVAILABLE, "timeout", "no answer within the time allowed")
        except Re6stError as error:
            logger.warning("Cannot serve %s %s: %s", request.method, request.path, error)
            return _problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "try again later")
        except web.HTTPException as error:
            return _problem(HTTPStatus(error.status), "http", error.reason)

    async def _post_tunnel(self, request: web.Request) -> web.Response:
        message = decode(await request.read(), TunnelRequest)
        answer = await self._service.tunnel_requested(
            request[CALLER], message, _address(request, "sockname"), _address(request, "peername")
        )
        if isinstance(answer, TunnelRefusal):
            return _answer(answer, HTTPStatus.CONFLICT)
        return _answer(answer)

    async def _delete_tunnel(self, request: web.Request) -> web.Response:
        self._service.tunnel_cancelled(request[CALLER], request.match_info["name"])
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def _post_drain(self, request: web.Request) -> web.Response:
        draining = decode(await request.read(), Draining)
        progress = await self._service.tunnel_draining(request[CALLER], request.match_info["name"], draining)
        if progress is None:
            return _problem(HTTPStatus.NOT_FOUND, "unknown", "there is no such tunnel to you")
        return _answer(progress)

    async def _post_gossip(self, request: web.Request) -> web.Response:
        return _answer(self._service.gossip_received(request[CALLER], decode(await request.read(), Gossip)))

    async def _post_reachability(self, request: web.Request) -> web.Response:
        message = decode(await request.read(), ReachabilityRequest)
        return _answer(await self._service.reachability_requested(request[CALLER], message))

    async def _get_parameters(self, request: web.Request) -> web.Response:
        return self._document(Document.PARAMETERS)

    async def _get_revocations(self, request: web.Request) -> web.Response:
        return self._document(Document.REVOCATIONS)

    async def _get_lan_keys(self, request: web.Request) -> web.Response:
        return _answer(self._service.lan_keys())

    def _document(self, document: Document) -> web.Response:
        signed = self._service.document(document)
        if signed is None:
            return _problem(HTTPStatus.NOT_FOUND, "unknown", f"this node has no {document.value} yet")
        return _answer(signed)


def _listen(port: int) -> socket.socket:
    """Return a listening socket for IPv6 and IPv4, or for IPv4 alone where the host has no IPv6."""
    try:
        return _bind(socket.AF_INET6, "::", port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"TCP port {port} is in use: another program or another network on this host listens there;"
                " set another control-port"
            ) from error
        if error.errno != errno.EAFNOSUPPORT:
            raise ConfigError(f"cannot listen on TCP port {port}: {error}") from error
        return _bind(socket.AF_INET, "0.0.0.0", port)  # noqa: S104 - the API is meant for everyone


def _bind(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        limit_segments(listening)
        listening.bind((address, port))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)
    return listening
