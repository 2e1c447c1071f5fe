"""The thread for calls that block."""

import asyncio
import threading

import pytest

from re6st.upnp.worker import Worker


@pytest.fixture
def worker():
    worker = Worker("test")
    yield worker
    worker.close()


async def test_results_and_errors_come_back(worker):
    assert await worker.call(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await worker.call(lambda: 1 // 0)
    assert await worker.call(lambda: 8) == 8


async def test_one_thread_in_order(worker):
    order = []

    def note(number):
        order.append((number, threading.current_thread().name))

    await asyncio.gather(*(worker.call(lambda n=n: note(n)) for n in range(20)))
    assert order == [(n, "test") for n in range(20)]


async def test_cancelled_caller_does_not_disturb_the_next(worker):
    begun, release = threading.Event(), threading.Event()
    task = asyncio.create_task(worker.call(lambda: begun.set() or release.wait(5)))
    waiting = asyncio.create_task(worker.call(lambda: pytest.fail("it was cancelled before its turn")))
    while not begun.is_set():
        await asyncio.sleep(0)
    task.cancel()
    waiting.cancel()
    for one in (task, waiting):
        with pytest.raises(asyncio.CancelledError):
            await one
    release.set()
    assert await worker.call(lambda: "next") == "next"
