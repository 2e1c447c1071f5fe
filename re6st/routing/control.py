"""Connection to babeld's local socket: commands one by one, and everything that it monitors (I/O)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from re6st.errors import ChildError
from re6st.routing.monitor import Line, MonitorParser, Reply, Update, Verdict

REPLY_TIMEOUT = 5.0
"""Seconds within which babeld has to answer."""


NO_OPERATION = "# nothing"
"""What babeld takes for a comment of a configuration file, and answers all the same."""


class UnansweredError(ChildError):
    """babeld runs, takes connections and does not answer."""


class ControlConnection:
    """One connection. babeld serves at most four, and drops a client that does not read."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_update: Callable[[Update], None],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._on_update = on_update
        self._parser = MonitorParser()
        self._lock = asyncio.Lock()
        self._reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._read(), name="babeld control socket")

    @classmethod
    async def open(cls, path: Path, on_update: Callable[[Update], None]) -> ControlConnection:
        """Connect and read the greeting; ``on_update`` gets what babeld tells from then on.

        Raises :class:`ChildError`, which is an :class:`UnansweredError` if nothing comes.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(path)
        except OSError as error:
            raise ChildError(f"cannot talk to babeld at {path}: {error.strerror}") from error
        connection = cls(reader, writer, on_update)
        try:
            await connection._wait_for_reply("greeting")
        except ChildError:
            await connection.close()
            raise
        return connection

    async def command(self, text: str, shown: str = "") -> None:
        """Send one command and wait for the answer.

        ``shown`` takes its place in messages if it holds a secret. Raises :class:`ChildError` when babeld
        refuses it, does not answer or has gone.
        """
        shown = shown or text
        async with self._lock:  # after one bad command babeld condemns all that it has read with it
            self._reply = asyncio.get_running_loop().create_future()
            if self._task.done():
                raise ChildError("the connection to babeld is closed")
            self._writer.write(f"{text}\n".encode())
            reply = await self._wait_for_reply(shown)
        if reply.verdict is not Verdict.OK:
            raise ChildError(
                f"babeld refuses the command {shown!r}: {reply.verdict.value} {reply.text}".rstrip()
            )

    async def watch(self, interval: float) -> None:
        """Return when babeld has closed the connection; ask every ``interval`` seconds for a sign of life.

        Raises :class:`UnansweredError` when none comes.
        """
        while not (await asyncio.wait({self._task}, timeout=interval))[0]:
            await self.command(NO_OPERATION)

    async def close(self) -> None:
        """Close the connection."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _wait_for_reply(self, what: str) -> Reply:
        try:
            return await asyncio.wait_for(self._reply, REPLY_TIMEOUT)
        except TimeoutError as error:
            self._task.cancel()  # a late answer would be taken for that of the next command
            raise UnansweredError(f"babeld does not answer ({what}) within {REPLY_TIMEOUT:.0f} s") from error

    async def _read(self) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await self._reader.read(65536):
                    for line in self._parser.feed(data):
                        self._handle(line)
        finally:
            if not self._reply.done():
                self._reply.set_exception(ChildError("babeld has closed the connection"))
                self._reply.exception()  # nobody need wait for it

    def _handle(self, line: Line) -> None:
        match line:
            case Reply():
                if not self._reply.done():
                    self._reply.set_result(line)
            case Update():
                self._on_update(line)
