"""What nodes ask their registry over HTTPS: certificates, peers, documents, and to take note of how they are.

A node is recognised by the client certificate of the TLS connection; OpenSSL verified its chain, the service
verifies the rest and asks the database whether it is revoked, for each request, together with what was
asked for.
"""

from __future__ import annotations

import functools
from http import HTTPStatus

import msgspec
from aiohttp import web

from re6st.errors import RegistryRefusedError
from re6st.messages import (
    DocumentVersions,
    Enrolment,
    LanKeys,
    NodeReport,
    PeerSample,
    RenewalRequest,
    SignedPeerRecord,
)
from re6st.registry.announcer import Announcer, is_news
from re6st.registry.http_messages import json_answer, read_message, read_number
from re6st.registry.openapi import Parameter, Route
from re6st.registry.service import ENROLMENT_SAMPLE, SAMPLE_LIMIT, Caller, Service
from re6st.registry.usecases import Actor, ActorKind
from re6st.registry.worker import Worker

RENEWAL_POLL = 10.0
"""Seconds between looks whether a node that waits for versions should renew its certificate."""

MAXIMUM_WAIT = 120
"""Seconds for which a question for versions may be held back at most."""

_WAIT = (
    Parameter("wait", {"type": "integer", "minimum": 0, "maximum": MAXIMUM_WAIT}),
    Parameter("parameters", {"type": "integer", "minimum": 0, "maximum": 2**53}),
    Parameter("revocations", {"type": "integer", "minimum": 0, "maximum": 2**53}),
)
"""For how long to wait for versions higher than these."""

_COUNT = Parameter("count", {"type": "integer", "minimum": 1, "maximum": SAMPLE_LIMIT})


class NodeApi:
    """The routes for nodes over one service."""

    def __init__(self, service: Service, worker: Worker) -> None:
        """``worker`` is the only one that calls ``service``."""
        self._service = service
        self._worker = worker
        self._announcer = Announcer(lambda: worker.ask(service.versions))

    def routes(self) -> tuple[Route, ...]:
        """Return everything that nodes can ask."""
        return (
            Route(
                "POST",
                "/v1/renewals",
                self.renew,
                request=RenewalRequest,
                answer=Enrolment,
                status=201,
                node=True,
            ),
            Route("PUT", "/v1/peers/self", self.publish, request=SignedPeerRecord, status=204, node=True),
            Route("GET", "/v1/peers/sample", self.sample, answer=PeerSample, node=True, parameters=(_COUNT,)),
            Route("GET", "/v1/lan-keys", self.lan_keys, answer=LanKeys, node=True),
            Route(
                "PUT",
                "/v1/nodes/self/report",
                self.report,
                request=NodeReport,
                answer=DocumentVersions,
                node=True,
                parameters=_WAIT,
                patience=MAXIMUM_WAIT,
            ),
            Route(
                "GET",
                "/v1/versions",
                self.versions,
                answer=DocumentVersions,
                node=True,
                parameters=_WAIT,
                patience=MAXIMUM_WAIT,
            ),
            Route("DELETE", "/v1/nodes/self", self.leave, status=204, node=True),
        )

    async def renew(self, request: web.Request) -> web.Response:
        """Return a fresh certificate for the caller."""
        certificate, message = _certificate(request), await read_message(request, RenewalRequest)

        def renew() -> Enrolment:
            caller = self._service.authenticate(certificate)
            return self._by(caller, request).renew(caller, message)

        return json_answer(await self._worker.change(renew), HTTPStatus.CREATED)

    async def publish(self, request: web.Request) -> web.Response:
        """Take the caller's own peer record."""
        certificate, record = _certificate(request), await read_message(request, SignedPeerRecord)
        service = self._service
        await self._worker.change(lambda: service.publish(service.authenticate(certificate), record))
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def sample(self, request: web.Request) -> web.Response:
        """Return up to ``count`` random peer records."""
        certificate, text = _certificate(request), request.query.get("count", str(ENROLMENT_SAMPLE))
        if not (text.isascii() and text.isdecimal() and len(text) < 4):
            raise RegistryRefusedError("count must be a number", code="malformed")
        service, count = self._service, int(text)
        return json_answer(
            await self._worker.ask(lambda: service.sample(service.authenticate(certificate), count))
        )

    async def lan_keys(self, request: web.Request) -> web.Response:
        """Return the keys by which nodes in a LAN know each other."""
        certificate, service = _certificate(request), self._service

        def hand_out() -> LanKeys:
            service.authenticate(certificate)
            return service.lan_keys()

        return json_answer(await self._worker.ask(hand_out))

    async def report(self, request: web.Request) -> web.Response:
        """Take note of how the caller is, and tell which documents are in force, see ``/v1/versions``."""
        certificate, report = _certificate(request), await read_message(request, NodeReport)
        service = self._service

        def note() -> tuple[Caller, DocumentVersions]:
            caller = service.authenticate(certificate)
            return caller, _with_renewal(service.report(caller.node, report), service, caller)

        return await self._tell_versions(request, *await self._worker.change(note))

    async def versions(self, request: web.Request) -> web.Response:
        """Tell which documents are in force: with ``wait``, after so many seconds or once there is a newer
        version than the caller says to know.
        """
        certificate, service = _certificate(request), self._service

        def read() -> tuple[Caller, DocumentVersions]:
            caller = service.authenticate(certificate)
            return caller, _with_renewal(service.versions(), service, caller)

        return await self._tell_versions(request, *await self._worker.ask(read))

    async def _tell_versions(
        self, request: web.Request, caller: Caller, versions: DocumentVersions
    ) -> web.Response:
        known = DocumentVersions(
            parameters_version=read_number(request, "parameters"),
            revocations_version=read_number(request, "revocations"),
        )
        left = float(min(read_number(request, "wait"), MAXIMUM_WAIT))
        while left > 0 and not (versions.renewal or is_news(versions, known) or self._announcer.stopping):
            newest = await self._announcer.wait(versions, known, min(left, RENEWAL_POLL))
            versions = await self._worker.ask(functools.partial(_with_renewal, newest, self._service, caller))
            left -= RENEWAL_POLL
        return json_answer(versions)

    async def leave(self, request: web.Request) -> web.Response:
        """Let the caller leave for good."""
        certificate = _certificate(request)

        def leave() -> None:
            caller = self._service.authenticate(certificate)
            self._by(caller, request).leave(caller)

        await self._worker.change(leave)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    def _by(self, caller: Caller, request: web.Request) -> Service:
        """Return the use cases as done by ``caller``."""
        return self._service.by(Actor(ActorKind.NODE, caller.node.name, request.remote or ""))

    async def stop(self, _application: web.Application) -> None:
        """Let nobody wait any longer."""
        await self._announcer.stop()


def _with_renewal(versions: DocumentVersions, service: Service, caller: Caller) -> DocumentVersions:
    """Return ``versions`` with whether the caller should renew its certificate."""
    return msgspec.structs.replace(versions, renewal=service.wants_renewal(caller))


def _certificate(request: web.Request) -> bytes:
    """Return the certificate (DER) of the node at the other end of the TLS connection."""
    connection = request.transport.get_extra_info("ssl_object") if request.transport else None
    der: bytes | None = connection.getpeercert(binary_form=True) if connection is not None else None
    if der is None:
        raise RegistryRefusedError(
            "this needs the certificate of a node (TLS client certificate)", code="certificate-required"
        )
    return der
