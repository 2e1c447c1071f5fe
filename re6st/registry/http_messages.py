"""Messages in the bodies of HTTP requests and answers, and numbers in queries."""

from __future__ import annotations

import re
from http import HTTPStatus

from aiohttp import web
from msgspec import Struct

from re6st.errors import RegistryRefusedError
from re6st.messages import MessageType, decode, encode


async def read_message(request: web.Request, kind: type[MessageType]) -> MessageType:
    """Return the message in the body. Raises :class:`RemoteProtocolError`."""
    return decode(await request.read(), kind)


def json_answer(message: Struct, status: int = HTTPStatus.OK) -> web.Response:
    """Return an answer with this message."""
    return web.Response(body=encode(message), status=status, content_type="application/json")


def read_number(request: web.Request, name: str) -> int:
    """Return the number called ``name`` in the query, from 0 to 2**53; 0 if it is not there.

    Raises :class:`RegistryRefusedError`.
    """
    text = request.query.get(name, "0")
    if not re.fullmatch(r"[0-9]{1,16}", text):
        raise RegistryRefusedError(f"{name} must be a number", code="malformed")
    return min(int(text), 2**53)
