"""Background tasks of the daemon: kept until they end, cancelled together, failures logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from re6st.errors import Re6stError

logger = logging.getLogger(__name__)


class Tasks:
    """A set of tasks that nobody waits for."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Run ``work``; ``what`` it is stands in the log when it fails."""
        task = asyncio.create_task(self._guard(work, what), name=what)
        self._tasks.add(task)

        def forget(ended: asyncio.Task[None]) -> None:
            self._tasks.discard(ended)
            work.close()  # has no effect unless the task was cancelled before it began

        task.add_done_callback(forget)
        return task

    @staticmethod
    async def _guard(work: Coroutine[Any, Any, None], what: str) -> None:
        try:
            await work
        except Re6stError as error:
            logger.warning("Failed to %s: %s", what, error)
        except Exception:
            logger.exception("Failed to %s", what)

    async def stop(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
