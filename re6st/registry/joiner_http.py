"""What those can ask over HTTPS who are no members yet: to be let in, and to be sent a join link.

Who asks to be let in may wait for the answer: ``wait`` seconds, or until an operator decided.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web

from re6st.errors import RegistryRefusedError
from re6st.messages import (
    AdmissionAnswer,
    AdmissionRequest,
    AdmissionState,
    InvitationRequest,
    decode,
    encode,
)
from re6st.registry.limits import RateLimiter
from re6st.registry.openapi import Parameter, Route
from re6st.registry.service import Service
from re6st.registry.usecases import Actor, ActorKind

MAXIMUM_WAIT = 60
"""Seconds for which an answer may be held back at most."""

POLL = 1.0
"""Seconds between looks at the database for one who waits."""

MAXIMUM_WAITING = 64
"""Askers that may wait at a time; the others are answered at once."""

_WAIT = Parameter("wait", {"type": "integer", "minimum": 0, "maximum": MAXIMUM_WAIT})


class JoinerApi:
    """The routes for strangers over one service."""

    def __init__(self, service: Service, run: Callable[..., Awaitable[Any]], attempts: RateLimiter) -> None:
        """``run`` calls a function in the service's thread; ``attempts`` counts what was refused."""
        self._service = service
        self._run = run
        self._attempts = attempts
        self._waiting = 0
        self._stopping = asyncio.Event()

    def routes(self) -> tuple[Route, ...]:
        """Return everything that strangers can ask."""
        return (
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
        message = decode(await request.read(), AdmissionRequest)
        text = request.query.get("wait", "0")
        if re.fullmatch(r"[0-9]{1,4}", text) is None:
            raise RegistryRefusedError("wait must be a number", code="malformed")
        try:
            answer = await self._decided(self._joiner(request), message, min(int(text), MAXIMUM_WAIT))
        except RegistryRefusedError:
            self._attempts.count(request.remote, time.monotonic())
            raise
        return web.Response(body=encode(answer), status=HTTPStatus.OK, content_type="application/json")

    async def invite(self, request: web.Request) -> web.Response:
        """Let a join link be mailed, if this mailbox gets one; the answer does not tell."""
        message = decode(await request.read(), InvitationRequest)
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
            await self._run(self._joiner(request).ask_invitation, mailbox)
        except RegistryRefusedError:
            self._attempts.count(request.remote, time.monotonic())
            raise

    async def _decided(self, service: Service, message: AdmissionRequest, patience: int) -> AdmissionAnswer:
        answer: AdmissionAnswer = await self._run(service.ask, message)
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
                    answer = await self._run(service.ask, message)
        finally:
            self._waiting -= 1
        return answer

    def _joiner(self, request: web.Request) -> Service:
        return self._service.by(Actor(ActorKind.JOINER, origin=request.remote or ""))

    async def stop(self, _application: web.Application) -> None:
        """Let nobody wait any longer."""
        self._stopping.set()
