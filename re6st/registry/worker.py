"""The thread that carries out use cases, and lets many changes share one commit.

A service belongs to one thread at a time, since a database connection does. A commit waits for the disk for
longer than the change itself takes. So while one is under way changes gather, and the next transaction takes
up to :data:`GROUP` of them, each inside a savepoint:

    BEGIN   change a   change b (fails: undone by itself)   change c   COMMIT   answers to a, b, c

Nobody gets an answer before the commit; when that fails all get its error. So they do when the CA's signing
process hangs, since each further change might wait for it as long. Groups of changes take turns with
groups of other work, which is done piece by piece and has transactions of its own. The answers of a group
reach the event loop together: to wake it up costs as much as a small question.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from re6st.errors import SignerTimeoutError
from re6st.registry.database import Database

GROUP = 16
"""Changes in one transaction, or pieces of other work in a row, at most."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[], Any]
    answer: asyncio.Future[Any]

    def carry_out(self) -> _Outcome:
        """Work, and return what came of it."""
        try:
            return _Outcome(self, self.work(), None)
        except Exception as error:
            return _Outcome(self, None, error)


@dataclass(frozen=True, slots=True)
class _Outcome:
    job: _Job
    result: Any
    failure: Exception | None

    def tell(self) -> None:
        """Answer, in the event loop."""
        if self.job.answer.done():
            return  # nobody waits for it any more
        if self.failure is not None:
            self.job.answer.set_exception(self.failure)
        else:
            self.job.answer.set_result(self.result)


class Worker:
    """One thread for one database, and for the callers in one event loop."""

    def __init__(self, database: Database) -> None:
        """Begin to work; nobody else may use ``database`` until :meth:`stop` has returned."""
        self._database = database
        self._waiting = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._changes: deque[_Job] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="service", daemon=True)
        self._thread.start()

    async def ask(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns, or raise what it raises."""
        return await self._put(self._jobs, work)

    async def change(self, work: Callable[[], Result]) -> Result:
        """Do the same in a transaction that other changes may share.

        Nothing of it remains if ``work`` raises something. May raise :class:`StorageError` as well.
        """
        return await self._put(self._changes, work)

    async def _put(self, queue: deque[_Job], work: Callable[[], Result]) -> Result:
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        with self._waiting:
            queue.append(_Job(work, answer))
            self._waiting.notify()
        return await answer

    def stop(self) -> None:
        """Finish what was asked for, and end the thread."""
        with self._waiting:
            self._stopping = True
            self._waiting.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._waiting:
                self._waiting.wait_for(lambda: self._jobs or self._changes or self._stopping)
            if not self._jobs and not self._changes:
                return
            jobs = _take(self._jobs)
            if jobs:
                _tell([job.carry_out() for job in jobs])
            changes = _take(self._changes)
            if changes:
                _tell(self._commit(changes))

    def _commit(self, changes: list[_Job]) -> list[_Outcome]:
        working = False
        try:
            with self._database.transaction():
                working = True
                outcomes = [_Outcome(job, job.work(), None) for job in changes]
                working = False
        except Exception as error:
            if working and len(changes) > 1 and not isinstance(error, SignerTimeoutError):
                return self._commit_apart(changes)
            return [_Outcome(job, None, error) for job in changes]
        return outcomes

    def _commit_apart(self, changes: list[_Job]) -> list[_Outcome]:
        try:
            with self._database.transaction():
                return [self._try(job) for job in changes]
        except Exception as error:
            return [_Outcome(job, None, error) for job in changes]

    def _try(self, job: _Job) -> _Outcome:
        """Carry out a change inside the transaction; raises only what must end all of it."""
        self._database.execute("SAVEPOINT change")
        result, failure = None, None
        try:
            result = job.work()
        except SignerTimeoutError:
            raise
        except Exception as error:
            failure = error
            self._database.execute("ROLLBACK TO SAVEPOINT change")
            self._database.invalidate()
        self._database.execute("RELEASE SAVEPOINT change")
        return _Outcome(job, result, failure)


def _take(queue: deque[_Job]) -> list[_Job]:
    """Take the next jobs whose answers are still wanted."""
    jobs = [queue.popleft() for _ in range(min(len(queue), GROUP))]
    return [job for job in jobs if not job.answer.cancelled()]


def _tell(outcomes: Sequence[_Outcome]) -> None:
    """Have the event loop give the answers of a group."""
    loop = outcomes[0].job.answer.get_loop()
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(_give, outcomes)


def _give(outcomes: Sequence[_Outcome]) -> None:
    for outcome in outcomes:
        outcome.tell()
