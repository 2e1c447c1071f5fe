"""The process of babeld and its files (I/O).

A babeld that an earlier daemon has started is taken over if it was started as we would start it and answers.
Otherwise it is killed, not asked to end: it would retract its routes, while traffic can go on by those that
are in the kernel until the next babeld knows better.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv6Network

from re6st.errors import ChildError
from re6st.files import write_atomically
from re6st.routing import configuration as settings
from re6st.routing.configuration import BabelConfiguration, BabelFiles
from re6st.routing.control import ControlConnection
from re6st.routing.monitor import Update
from re6st.routing.table import RoutingTable
from re6st.supervisor import ChildExit, ChildSpec, RestartPolicy, Supervisor

logger = logging.getLogger(__name__)

CHILD_NAME = "babeld"
KIND = "babeld"
"""Kind of this child in its record."""


class BabeldChild:
    """babeld as a supervised child."""

    def __init__(
        self, files: BabelFiles, supervisor: Supervisor, on_exit: Callable[[ChildExit], None]
    ) -> None:
        """Call ``on_exit`` whenever it has ended; it is started again by itself unless it was stopped."""
        self._files = files
        self._supervisor = supervisor
        self._on_exit = on_exit

    @property
    def pid(self) -> int | None:
        """Process id, None while none runs."""
        child = self._supervisor.get(CHILD_NAME)
        return child.pid if child is not None else None

    async def adopt(self, configuration: BabelConfiguration) -> bool:
        """Take over the babeld of an earlier daemon; return whether there is one that is sound."""
        found = next(iter(self._supervisor.survivors(KIND)), None)
        if found is None:
            return False
        try:
            if self._files.configuration.read_bytes() != _text(configuration):
                raise ChildError("its configuration is not what it should be now")
            connection = await ControlConnection.open(self._files.socket, lambda update: None)
            await connection.close()
            self._supervisor.adopt(self._specification(configuration), found, self._on_exit)
        except (ChildError, OSError) as error:
            logger.info("The babeld of an earlier run is replaced: %s", error)
            return False
        return True

    def denied(self, prefixes: Iterable[IPv6Network]) -> tuple[IPv6Network, ...]:
        """Return those of ``prefixes`` that the babeld of an earlier daemon denies, if there is one."""
        try:
            text = self._files.configuration.read_text(errors="replace")
        except OSError:
            return ()
        return settings.denied_in(text, prefixes)

    async def knowledge(self) -> RoutingTable:
        """Return what the babeld of an earlier daemon knows, as far as there is one and it says so."""
        table = RoutingTable()

        def note(update: Update) -> None:
            table.apply(update)

        with contextlib.suppress(ChildError):
            connection = await ControlConnection.open(self._files.socket, note)
            try:
                await connection.command("dump")
            finally:
                await connection.close()
        return table

    async def start(self, configuration: BabelConfiguration) -> None:
        """Start a new one. Raises :class:`ChildError` and :class:`StorageError`."""
        await self._supervisor.reconcile(KIND, grace=0.0)
        self.configure(configuration)
        await self._supervisor.start(self._specification(configuration), self._on_exit)

    def configure(self, configuration: BabelConfiguration) -> None:
        """Write what the next one that starts will read. Raises :class:`StorageError`."""
        write_atomically(self._files.configuration, _text(configuration), 0o600)

    async def stop(self) -> None:
        """End it in good order. Raises :class:`ChildError` when it cannot be ended."""
        await self._supervisor.stop(CHILD_NAME)
        self._remove_stale_files()
        self._files.configuration.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it at once, so that it is started again."""
        self._supervisor.kill(CHILD_NAME)

    def last_output(self) -> tuple[str, ...]:
        """Return the last lines that it has written."""
        return self._supervisor.last_output(CHILD_NAME)

    def _specification(self, configuration: BabelConfiguration) -> ChildSpec:
        return ChildSpec(
            name=CHILD_NAME,
            kind=KIND,
            argv=settings.arguments(configuration, self._files),
            restart=RestartPolicy(),
            before_start=lambda: self._prepare_files(configuration),
        )

    def _prepare_files(self, configuration: BabelConfiguration) -> None:
        self._remove_stale_files()
        state = settings.state_text(configuration, self._next_sequence(), time.time())
        write_atomically(self._files.state, state.encode(), 0o600)

    def _next_sequence(self) -> int:
        """Return the sequence number of this start, which is kept. Raises :class:`StorageError`."""
        try:
            kept = self._files.sequence.read_text(errors="replace").strip()
        except OSError:
            kept = ""
        sequence = settings.next_sequence(kept)
        write_atomically(self._files.sequence, str(sequence).encode(), 0o600)
        return sequence

    def _remove_stale_files(self) -> None:
        for path in (self._files.socket, self._files.pid, self._files.state):
            path.unlink(missing_ok=True)


def _text(configuration: BabelConfiguration) -> bytes:
    return settings.render(configuration).encode()
