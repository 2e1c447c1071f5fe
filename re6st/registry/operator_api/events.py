"""The stream of changes that operators can listen to: each entry of the audit log is an event.

The format is that of server-sent events (``text/event-stream``, HTML standard, 9.2). A listener that comes
back names the last entry it knows, so that it misses none. Comments keep a silent stream alive.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from re6st.errors import RegistryRefusedError, StorageError
from re6st.messages import encode
from re6st.registry.operator_api.call import PAGE_LIMIT
from re6st.registry.operator_api.oversight import audit_entry
from re6st.registry.service import Service

EVENT_POLL = 0.5
"""Seconds between looks at the database."""

HEARTBEAT = 15.0
"""Seconds after which a silent stream gets a comment, so that both ends notice a dead one."""

MAXIMUM_STREAMS = 64

Run = Callable[..., Awaitable[Any]]


class ChangeStreams:
    """The open streams of changes of one registry."""

    def __init__(
        self, service: Service, run: Run, authenticate: Callable[[web.Request], Awaitable[object]]
    ) -> None:
        """``run`` calls a function in the service's thread; ``authenticate`` refuses who may not listen."""
        self._service = service
        self._run = run
        self._authenticate = authenticate
        self._open = 0
        self._stopping = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer ``request`` with a stream. Raises :class:`RegistryRefusedError`."""
        await self._authenticate(request)
        position = await self._start(request)
        if self._open >= MAXIMUM_STREAMS:
            raise RegistryRefusedError("too many streams are open: try again later", code="too-many-requests")
        self._open += 1
        try:
            return await self._stream(request, position)
        finally:
            self._open -= 1

    async def _start(self, request: web.Request) -> int:
        """Return the number of the entry behind which to begin."""
        known = request.headers.get("Last-Event-ID", request.query.get("after"))
        if known is not None and not re.fullmatch(r"[0-9]{1,16}", known):
            raise RegistryRefusedError("after must be the number of an entry", code="malformed")
        last = int(await self._run(self._service.last_change))
        # Whoever is ahead of the log has followed one that was restored from a backup since.
        return last if known is None else min(int(known), last)

    async def _stream(self, request: web.Request, position: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": connected\n\n")
        spoken = time.monotonic()
        while not self._stopping.is_set():
            try:
                # A token that was revoked meanwhile ends the stream.
                await self._authenticate(request)
                for row in await self._run(self._service.audit, position, 0.0, PAGE_LIMIT):
                    position = row.identifier
                    data = encode(audit_entry(row))
                    event = f"id: {position}\nevent: {row.action}\ndata: ".encode() + data + b"\n\n"
                    await response.write(event)
                    spoken = time.monotonic()
                if time.monotonic() - spoken > HEARTBEAT:
                    await response.write(b": alive\n\n")
                    spoken = time.monotonic()
            except (RegistryRefusedError, StorageError, ConnectionError):
                break
            try:
                await asyncio.wait_for(self._stopping.wait(), EVENT_POLL)
            except TimeoutError:
                continue
        return response

    def stop(self) -> None:
        """End all streams."""
        self._stopping.set()
