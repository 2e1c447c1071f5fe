"""One thread for calls that block, one after the other.

Unlike an executor's, this thread does not keep the interpreter from ending while a call hangs.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


class Worker:
    """Carries out calls in one thread, in the order in which they were made."""

    def __init__(self, name: str) -> None:
        """Give the thread, which starts with the first call, this name."""
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def call(self, function: Callable[[], Result]) -> Result:
        """Return what ``function`` returns, or raise what it raises.

        Cancelling the caller does not stop a call that has begun; its result is dropped then.
        """
        future: Future[Result] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._calls.put(run)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Let the thread end after what it is doing."""
        self._calls.put(None)
        self._thread = None

    def _run(self) -> None:
        while (run := self._calls.get()) is not None:
            run()
