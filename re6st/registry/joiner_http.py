"""What those can ask over HTTPS who are no members yet: to enrol, to be let in, and to be sent a join link.

Who asks to be let in may wait for the answer: ``wait`` seconds, or until an operator decided.
"""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus

from aiohttp import web

from re6st.errors import RegistryRefusedError
from re6st.messages import (
    AdmissionAnswer,
    AdmissionRequest,
    AdmissionState,
    Enrolment,
    EnrolmentRequest,
    InvitationRequest,
)
from re6st.registry.http_messages import json_answer, read_message, read_number
from re6st.registry.limits import RateLimiter
from re6st.registry.openapi import Parameter, Route
from re6st.registry.service import Service
from re6st.registry.usecases import Actor, ActorKind
from re6st.registry.worker import Worker

MAXIMUM_WAIT = 60
"""Seconds for which an answer may be held back at most."""

POLL = 1.0
"""Seconds between looks at the database for one who waits."""

MAXIMUM_WAITING = 64
"""Askers that may wait at a time; the others are answered at once."""

_WAIT = Parameter("wait", {"type": "integer", "minimum": 0, "maximum": MAXIMUM_WAIT})


class JoinerApi:
    """The routes for strangers over one service."""

    def __init__(self, service: Service, worker: Worker, attempts: RateLimiter) -> None:
        """``worker`` is the only one that calls ``service``; ``attempts`` counts what was refused."""
        self._service = service
        self._worker = worker
        self._attempts = attempts
        self._waiting = 0
        self._stopping = asyncio.Event()

    def routes(self) -> tuple[Route, ...]:
        """Return everything that strangers can ask."""
        return (
            Route(
                "POST", "/v1/enrolments", self.enrol, request=EnrolmentRequest, answer=Enrolment, status=201
            ),
            Route(
                "POST",
                "/v1/requests",
                self.ask,
                request=AdmissionRequest,
                answer=AdmissionAnswer,
                parameters=(_WAIT,),
                patience=MAXIMUM_WAIT,
            ),
            Route("POST", "/v1/invitations", self.invite, request=InvitationRequest, status=204),
        )

    async def ask(self, request: web.Request) -> web.Response:
        """Take a request for admission, or say what came of it; with ``wait`` until it is decided."""
        self._attempts.check(request.remote, time.monotonic())
        message = await read_message(request, AdmissionRequest)
        patience = min(read_number(request, "wait"), MAXIMUM_WAIT)
        try:
            answer = await self._decided(self._joiner(request), message, patience)
        except RegistryRefusedError:
            self._attempts.count(request.remote, time.monotonic())
            raise
        return json_answer(answer)

    async def enrol(self, request: web.Request) -> web.Response:
        """Exchange a token for a certificate."""
        self._attempts.check(request.remote, time.monotonic())
        message = await read_message(request, EnrolmentRequest)
        service = self._joiner(request)
        try:
            enrolment = await self._worker.change(lambda: service.enrol(message))
            return json_answer(enrolment, HTTPStatus.CREATED)
        except RegistryRefusedError:
            self._attempts.count(request.remote, time.monotonic())
            raise

    async def invite(self, request: web.Request) -> web.Response:
        """Let a join link be mailed, if this mailbox gets one; the answer does not tell."""
        message = await read_message(request, InvitationRequest)
        await self.ask_mail(request, message.email)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def ask_mail(self, request: web.Request, mailbox: str) -> None:
        """Ask for a mail to ``mailbox`` for who sent ``request``. Raises :class:`RegistryRefusedError`."""
        self._attempts.check(request.remote, time.monotonic())
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            # Visitors of other sites must not lend their addresses to whoever wants many mails.
            raise RegistryRefusedError(
                "a page of another web site asked for this mail: ask from here", code="cross-site"
            )
        try:
            joiner = self._joiner(request)
            await self._worker.ask(lambda: joiner.ask_invitation(mailbox))
        except RegistryRefusedError:
            self._attempts.count(request.remote, time.monotonic())
            raise

    async def _decided(self, service: Service, message: AdmissionRequest, patience: int) -> AdmissionAnswer:
        answer = await self._worker.ask(lambda: service.ask(message))
        deadline = time.monotonic() + patience
        if self._waiting >= MAXIMUM_WAITING:
            return answer
        self._waiting += 1
        try:
            while answer.state is AdmissionState.PENDING and time.monotonic() < deadline:
                try:
                    await asyncio.wait_for(self._stopping.wait(), POLL)
                    break
                except TimeoutError:
                    answer = await self._worker.ask(lambda: service.ask(message))
        finally:
            self._waiting -= 1
        return answer

    def _joiner(self, request: web.Request) -> Service:
        return self._service.by(Actor(ActorKind.JOINER, origin=request.remote or ""))

    async def stop(self, _application: web.Application) -> None:
        """Let nobody wait any longer."""
        self._stopping.set()
