"""The page on which a person asks for a join link by mail, without JavaScript or anything from outside.

Every address of a valid form gets the same answer; only who asks too often hears so.
"""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from importlib import resources
from string import Template
from typing import Any
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from re6st.errors import RegistryRefusedError, RemoteProtocolError
from re6st.messages import InvitationRequest
from re6st.registry.service import Service

PATH = "/invitation"

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)

ASKED = (
    "Thank you. If this address gets join links, one is on its way. When nothing comes within some minutes,"
    " look at the mails that were taken for spam; perhaps the address was misspelt, is of another domain than"
    " the operator allows, or got as many links as it may: ask the operator."
)

REFUSALS = {
    "mail-not-allowed": (
        HTTPStatus.NOT_FOUND,
        "This registry sends no join links by mail: ask the operator for one.",
    ),
    "too-many-requests": (
        HTTPStatus.TOO_MANY_REQUESTS,
        "Too many join links were asked for from here, or by all together: try again in an hour.",
    ),
    "cross-site": (
        HTTPStatus.FORBIDDEN,
        "Another web site sent your browser here with an address filled in. Nothing was done.",
    ),
}
"""Status and text for refusals by their code."""

_MALFORMED = "That is no e-mail address such as anna@example.org."


class InvitationPage:
    """A form and its answers."""

    def __init__(
        self,
        service: Service,
        run: Callable[..., Awaitable[Any]],
        invite: Callable[[web.Request, str], Awaitable[None]],
    ) -> None:
        """``run`` calls a function in the service's thread; ``invite`` asks for a mail to an address."""
        directory = resources.files("re6st.registry") / "static"
        self._form = Template((directory / "invitation.html").read_text())
        self._answer = Template((directory / "invitation-answer.html").read_text())
        self._service = service
        self._run = run
        self._invite = invite

    def add_to(self, application: web.Application) -> None:
        """Serve the form at :data:`PATH`."""
        application.router.add_get(PATH, self.show)
        application.router.add_post(PATH, self.ask)

    async def show(self, _request: web.Request) -> web.Response:
        """Return the form, if mails are sent at all."""
        if not (await self._run(self._service.policy)).mail:
            return self._respond(*REFUSALS["mail-not-allowed"])
        return self._page(HTTPStatus.OK, self._form)

    async def ask(self, request: web.Request) -> web.Response:
        """Take a form. Raises :class:`RegistryRefusedError` for what has no text here."""
        try:
            mailbox = _mailbox(await request.read())
            await self._invite(request, mailbox)
        except RemoteProtocolError:
            return self._respond(HTTPStatus.BAD_REQUEST, _MALFORMED)
        except RegistryRefusedError as error:
            if error.code not in REFUSALS:
                raise
            return self._respond(*REFUSALS[error.code])
        return self._respond(HTTPStatus.OK, ASKED)

    def _respond(self, status: HTTPStatus, answer: str) -> web.Response:
        return self._page(status, self._answer, answer=answer)

    def _page(self, status: HTTPStatus, template: Template, **texts: str) -> web.Response:
        texts["network"] = str(self._service.network)
        text = template.substitute({name: html.escape(value) for name, value in texts.items()})
        headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
        return web.Response(text=text, status=status, headers=headers, content_type="text/html")


def _mailbox(body: bytes) -> str:
    """Return the address in a form (x-www-form-urlencoded). Raises :class:`RemoteProtocolError`."""
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=4, strict_parsing=True, errors="strict")
        [mailbox] = fields.get("email", [])
        return msgspec.convert({"email": mailbox.strip()}, InvitationRequest).email
    except (ValueError, msgspec.ValidationError) as error:
        raise RemoteProtocolError(f"the form holds no address: {error}") from error
