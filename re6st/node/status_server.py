"""Serves the state of the daemon on a unix socket: JSON for programs, metrics for Prometheus.

The socket is for root and the daemon's user only (0600): what it tells about peers is nobody else's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
from aiohttp import web

from re6st.errors import ConfigError
from re6st.status import SOCKET_NAME, NodeStatus, OutsideStatus, PeerStatus, RouteStatus, TunnelStatus


class Observed(Protocol):
    """What can be observed of a node."""

    def status(self) -> NodeStatus:
        """Return the node in short."""

    def peer_statuses(self) -> list[PeerStatus]:
        """Return the address book."""

    def tunnel_statuses(self) -> list[TunnelStatus]:
        """Return all tunnels."""

    def route_statuses(self) -> list[RouteStatus]:
        """Return babel's routes to other nodes."""

    async def outside_status(self) -> OutsideStatus:
        """Have a peer test whether this node can be reached."""


class StatusServer:
    """HTTP on ``status.sock`` in the runtime directory."""

    def __init__(self, observed: Observed, runtime_directory: Path) -> None:
        self._observed = observed
        self._path = runtime_directory / SOCKET_NAME
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. Raises :class:`ConfigError` when the socket cannot be made."""
        application = web.Application(client_max_size=1024)
        application.add_routes(
            [
                web.get("/v1/status", _serve(self._observed.status)),
                web.get("/v1/peers", _serve(self._observed.peer_statuses)),
                web.get("/v1/tunnels", _serve(self._observed.tunnel_statuses)),
                web.get("/v1/routes", _serve(self._observed.route_statuses)),
                web.get("/v1/outside", self._outside),
                web.get("/metrics", self._metrics),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.5)
        await self._runner.setup()
        try:
            self._path.unlink(missing_ok=True)
            await web.UnixSite(self._runner, str(self._path)).start()
            os.chmod(self._path, 0o600)  # noqa: PTH101 - no follow: the directory is ours alone
        except OSError as error:
            raise ConfigError(
                f"cannot make the status socket {self._path}: {error.strerror or error}"
            ) from error

    async def stop(self) -> None:
        """Stop listening and remove the socket."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._path.unlink(missing_ok=True)

    async def _outside(self, _: web.Request) -> web.Response:
        answer = await self._observed.outside_status()
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    async def _metrics(self, _: web.Request) -> web.Response:
        from re6st.node.metrics import render

        return web.Response(body=render(self._observed), content_type="text/plain", charset="utf-8")


def _serve(query: Callable[[], Any]) -> Callable[[web.Request], Any]:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(query()), content_type="application/json")

    return handler
