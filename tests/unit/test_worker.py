"""The thread of the use cases: changes that share a commit, each undone by itself."""

import asyncio
import contextlib
import threading

import pytest

from re6st.errors import RegistryRefusedError, SignerTimeoutError, StorageError
from re6st.registry.database import Database
from re6st.registry.worker import Worker


class Disk(Database):
    """A database that counts commits, and can be told to fail at one."""

    def __init__(self, adapter):
        super().__init__(adapter)
        self.commits = 0
        self.is_full = False
        self.stands = threading.Event()

    def add(self, key):
        self.stands.wait(10)
        self.execute("INSERT INTO settings (key, value) VALUES (?, '')", (key,))
        return key

    def keys(self):
        return {key for (key,) in self.execute("SELECT key FROM settings")}

    @contextlib.contextmanager
    def transaction(self):
        self.commits += 1
        with super().transaction():
            yield
            if self.is_full:
                raise StorageError("the disk is full")


@pytest.fixture
def disk(tmp_path):
    with Disk.create(tmp_path / "registry.sqlite3") as disk:
        yield disk


def carry_out(disk, *works):
    """Have all of ``works`` wait while the first one is under way; return results and errors."""

    async def together():
        worker = Worker(disk)
        try:
            asked = [asyncio.ensure_future(worker.change(work)) for work in works]
            await asyncio.sleep(0)
            disk.stands.set()
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await asyncio.to_thread(worker.stop)

    return asyncio.run(together())


def test_changes_that_wait_share_a_commit(disk):
    results = carry_out(disk, *(lambda key=f"key {number}": disk.add(key) for number in range(12)))
    assert results == [f"key {number}" for number in range(12)]
    assert disk.keys() == set(results)
    assert disk.commits <= 3  # that of the first, and of those that came meanwhile


def test_what_fails_leaves_nothing_and_others_stay(disk):
    def half():
        disk.add("half")
        raise RegistryRefusedError("no", code="no")

    first, refused, last = carry_out(disk, lambda: disk.add("first"), half, lambda: disk.add("last"))
    assert (first, last) == ("first", "last")
    assert isinstance(refused, RegistryRefusedError)
    assert disk.keys() == {"first", "last"}


def test_what_was_known_in_a_change_that_is_undone_is_not_relied_on(disk):
    known = []

    def look(fails):
        known.append(disk.current)
        if fails:
            raise RegistryRefusedError("no", code="no")

    carry_out(disk, *(lambda fails=fails: look(fails) for fails in (False, False, True, False, False)))
    again = known[known.index(known[-1]) :]
    assert disk.current is None
    assert len(set(known)) >= 3  # the first group, the second one, and what comes after the failure in it
    assert len(again) == 2


def test_nobody_is_told_of_success_when_the_transaction_fails(disk):
    disk.is_full = True
    results = carry_out(disk, lambda: disk.add("one"), lambda: disk.add("two"))
    assert [type(result) for result in results] == [StorageError, StorageError]
    assert disk.keys() == set()


def test_a_group_waits_only_once_for_a_signer_that_hangs(disk):
    asked = []

    def enrol():
        asked.append(disk.add(f"key {len(asked)}"))
        raise SignerTimeoutError("hangs")

    results = carry_out(disk, *[enrol] * 12)
    assert [type(result) for result in results] == [SignerTimeoutError] * 12
    assert len(asked) <= 3  # in each group, the first of which may be smaller
    assert disk.keys() == set()


def test_a_transaction_of_the_use_case_is_a_part_of_the_common_one(disk):
    def enrol():
        with disk.transaction():
            disk.add("node")
        raise RegistryRefusedError("too late", code="late")

    (refused,) = carry_out(disk, enrol)
    assert isinstance(refused, RegistryRefusedError)
    assert disk.keys() == set()


def test_questions_are_answered_beside_changes(disk):
    async def both():
        worker = Worker(disk)
        disk.stands.set()
        try:
            await worker.change(lambda: disk.add("node"))
            with pytest.raises(RegistryRefusedError):
                await worker.ask(lambda: (_ for _ in ()).throw(RegistryRefusedError("no", code="no")))
            return await worker.ask(disk.keys)
        finally:
            await asyncio.to_thread(worker.stop)

    assert asyncio.run(both()) == {"node"}
