"""The process that asks the home router for us: started when there is a question, killed when it hangs.

    no process -- ask --> running -- answer --> running
        ^                    |
        └── too late, nonsense, its end, a caller that waits no more, close ──┘

A process that is killed has forgotten which router it had found, so the next one must discover it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

from re6st.errors import UpnpError

LIMIT = 10.0
"""Seconds that one answer may take."""

_LONGEST_ANSWER = 1000
_PROGRAM = Path(__file__).with_name("helper.py")


class NoHelperError(UpnpError):
    """Nothing can be asked here, whatever the router is like."""


class HelperProcess:
    """Questions to :mod:`re6st.upnp.helper`, one at a time."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        """The process, if one runs."""
        return None if self._process is None else self._process.pid

    async def ask(self, *words: str | int, limit: float = LIMIT) -> list[str]:
        """Return the fields that answer the question of ``words``, within ``limit`` seconds.

        Raises :class:`UpnpError` with the library's text when the router refuses or does not answer, or when
        the process cannot tell.
        """
        try:
            async with asyncio.timeout(limit):
                line = await self._exchange(" ".join(map(str, words)))
        except TimeoutError as error:
            await self.close()
            raise UpnpError(f"no full answer within {limit:.0f} s") from error
        except BaseException:
            # Its answer to this question must not be taken for the answer to another one.
            await self.close()
            raise
        kind, *fields = line.split("\t")
        if kind == "ok":
            return fields
        raise UpnpError(fields[0] if fields else "nonsense")

    async def close(self) -> None:
        """End the process, if one runs."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _exchange(self, question: str) -> str:
        if self._process is None or self._process.returncode is not None:
            self._process = await _start()
        if (to_it := self._process.stdin) is None or (from_it := self._process.stdout) is None:
            raise ValueError("the process was started without pipes")
        try:
            to_it.write(f"{question}\n".encode())
            await to_it.drain()
            line = await from_it.readuntil()
        except (OSError, asyncio.IncompleteReadError) as error:
            raise UpnpError("the answer was more than can be dealt with, or nonsense") from error
        except asyncio.LimitOverrunError as error:
            raise UpnpError("the answer was too long") from error
        return line.decode("ascii", errors="replace").removesuffix("\n")


async def _start() -> Process:
    """Start the process. Raises :class:`NoHelperError`."""
    library = importlib.util.find_spec("miniupnpc")
    if library is None or library.origin is None:
        raise NoHelperError("UPnP cannot be used here; install the Python package miniupnpc")
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(_PROGRAM),
            str(Path(library.origin).parent),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env={"LC_ALL": "C.UTF-8"},
            cwd="/",
            start_new_session=True,
            limit=_LONGEST_ANSWER,
        )
    except OSError as error:
        raise NoHelperError(
            f"UPnP cannot be used: cannot start {sys.executable}: {error.strerror}"
        ) from error
