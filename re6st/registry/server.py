"""The registry's server: sockets, TLS contexts, start and stop, renewal of its own certificate."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from re6st.errors import ConfigError, StorageError
from re6st.gate import Gate, Limits
from re6st.identity import REGISTRY_NAME
from re6st.registry.http import Api
from re6st.registry.mailer import Mailer
from re6st.registry.service import Service
from re6st.registry.state import StateDirectory
from re6st.registry.worker import Worker
from re6st.segments import limit_segments

logger = logging.getLogger(__name__)

DEFAULT_PORT = 8443

SHUTDOWN_TIME = 5.0
"""Seconds that requests under way have to finish when the server stops."""

RENEWAL_CHECK = 3600.0
"""Seconds between looks at the server's own certificate, and at nodes whose time is over."""

CHANGE_CHECK = 2.0
"""Seconds between looks at planned changes whose time has come, and at which CA is in force."""

STORAGE_CHECK = 30.0
"""Seconds until it is tried again after the database could not be used."""

LIMITS = Limits(total=1024, for_each_address=64)
"""Connections at a time."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen."""

    host: str
    """An IP address; ``::`` stands for all IPv6 and IPv4 addresses."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen(text: str) -> ListenAddress:
    """Return the address in ``text``: ``ADDRESS:PORT``, IPv6 in brackets. Raises :class:`ConfigError`."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%a-z]+)\]|([0-9.]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ConfigError(f"{text!r} is not an address to listen on, such as [::]:8443 or 192.0.2.1:8443")
    return ListenAddress(match[1] or match[2], int(match[3]))


@dataclass(frozen=True, slots=True)
class PublicCertificate:
    """A certificate of a public authority for the registry's host name."""

    certificate: Path
    key: Path


class RegistryServer:
    """Serves one state directory."""

    def __init__(
        self,
        state: StateDirectory,
        service: Service,
        public: PublicCertificate | None = None,
    ) -> None:
        """``public`` is shown to clients that ask for another name than that of every registry."""
        self._state = state
        self._service = service
        self._worker = Worker(service.database)
        self._runner = web.AppRunner(
            Api(service, self._worker).application(),
            access_log=None,
            shutdown_timeout=SHUTDOWN_TIME,
            keepalive_timeout=15.0,
        )
        self._public = public
        self._gate: Gate | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._mailing: asyncio.Task[None] | None = None
        self.addresses: tuple[ListenAddress, ...] = ()
        """Where the server listens, with the real port where 0 was asked for."""

    async def start(self, listen: Sequence[ListenAddress]) -> None:
        """Listen at all addresses.

        Raises :class:`ConfigError` when one is in use or not ours, or the public certificate is unusable.
        """
        self._state.refresh_server(self._service.authority, time.time())
        own, shown = self._contexts()
        with contextlib.ExitStack() as opened:
            sockets = [opened.enter_context(_listen(address)) for address in listen]
            opened.pop_all()
        await self._runner.setup()
        if self._runner.server is None:
            raise RuntimeError("the server was not set up")
        self._gate = Gate(self._runner.server, shown, LIMITS)
        for listener in sockets:
            self._gate.open(listener)
        self.addresses = tuple(ListenAddress(*listener.getsockname()[:2]) for listener in sockets)
        self._renewal = asyncio.create_task(self._keep_house(own))
        self._following = asyncio.create_task(self._follow_changes(own, shown))
        self._mailing = asyncio.create_task(Mailer(self._service, self._worker.ask).run())

    async def stop(self) -> None:
        """Finish the requests under way and close everything."""
        tasks = [task for task in (self._renewal, self._following, self._mailing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._gate is not None:
            await self._gate.close()
        await self._runner.cleanup()
        self._worker.stop()

    def _contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """Return the TLS context with our own certificate, and the one that greets every client."""
        own = self._context()
        own.load_cert_chain(self._state.server)
        if self._public is None:
            return own, own
        public = self._context()
        try:
            public.load_cert_chain(self._public.certificate, self._public.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"cannot use the certificate {self._public.certificate}: {error}") from error

        def choose(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
            if name == REGISTRY_NAME:
                connection.context = own

        public.sni_callback = choose
        return own, public

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0  # no client resumes a session, and each ticket holds its certificate
        context.load_verify_locations(cadata=b"".join(self._service.authority.trust.authorities))
        # Who has no certificate yet comes to get one.
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    async def _keep_house(self, context: ssl.SSLContext) -> None:
        """Renew the server's own certificate in time (new connections see the new one); tidy up."""
        while True:
            try:
                expired, purged = await self._worker.ask(self._service.tidy)
                if expired or purged:
                    logger.info("Released %d expired nodes, dropped %d deleted ones", expired, purged)
                await asyncio.sleep(RENEWAL_CHECK)
                authority = await self._worker.ask(lambda: self._service.authority)
                if await asyncio.to_thread(self._state.refresh_server, authority, time.time()):
                    context.load_cert_chain(self._state.server)
                    logger.info("Renewed the certificate of the registry's server")
            except StorageError as error:
                logger.error("Cannot keep the registry in order: %s", error)
                await asyncio.sleep(STORAGE_CHECK)
            except Exception:
                logger.exception("Cannot keep the registry in order")
                await asyncio.sleep(RENEWAL_CHECK)

    async def _follow_changes(self, own: ssl.SSLContext, shown: ssl.SSLContext) -> None:
        """Follow the clock and the operator's commands: planned changes of parameters, another CA.

        The server then shows a certificate of the CA that issues, and lets in nodes of all that are trusted.
        """
        known = self._service.authority
        failure = ""
        while True:
            await asyncio.sleep(CHANGE_CHECK)
            try:
                await self._worker.ask(self._service.carry_out_plans)
                authority = await self._worker.ask(lambda: self._service.authority)
                if failure:
                    logger.info("The database can be used again")
                    failure = ""
                if authority is known:
                    continue
                for context in {own, shown}:
                    context.load_verify_locations(cadata=b"".join(authority.trust.authorities))
                if await asyncio.to_thread(self._state.refresh_server, authority, time.time()):
                    own.load_cert_chain(self._state.server)
                known = authority
                logger.info("Certificates are issued by the CA %s now", authority.fingerprint)
            except StorageError as error:
                if str(error) != failure:
                    failure = str(error)
                    logger.error("Nobody can be served now: %s", failure)
            except Exception:
                logger.exception("Cannot follow changes of parameters or CA")


def _listen(address: ListenAddress) -> socket.socket:
    """Return a listening socket. Raises :class:`ConfigError`."""
    if address.host == "::" and not socket.has_dualstack_ipv6():
        address = ListenAddress("0.0.0.0", address.port)  # noqa: S104 - all addresses were asked for
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address.host != "::"))
        limit_segments(listener)
        listener.bind((address.host, address.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        reason = {
            errno.EADDRINUSE: "another program uses this port already; stop it or give another --listen",
            errno.EADDRNOTAVAIL: "no interface of this machine has this address",
            errno.EACCES: "ports below 1024 need root; give another --listen",
        }.get(error.errno or 0, error.strerror)
        raise ConfigError(f"cannot listen on {address}: {reason}") from error
    listener.setblocking(False)
    return listener
