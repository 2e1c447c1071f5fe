"""re6st.node.cache on a real disk: persistence, damage, sequence numbers."""

import sqlite3
from ipaddress import IPv6Network

import pytest

from re6st.errors import StorageError
from re6st.messages import SignedPeerRecord
from re6st.node.cache import Cache

PREFIX = IPv6Network("2001:db8:42:1::/64")
OTHER = IPv6Network("2001:db8:42:2::/64")
RECORD = SignedPeerRecord(certificate=b"c", payload=b"p", signature=b"s")


def test_records_survive_a_restart(tmp_path):
    cache = Cache(tmp_path / "cache.sqlite")
    cache.store([(PREFIX, RECORD), (OTHER, RECORD)], [])
    cache.store([], [OTHER])
    cache.close()
    assert Cache(tmp_path / "cache.sqlite").records() == [RECORD]


@pytest.mark.parametrize("damage", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_book_is_set_aside_and_a_new_one_begun(tmp_path, caplog, damage):
    path = tmp_path / "cache.sqlite"
    path.write_bytes(damage)
    cache = Cache(path)
    assert cache.records() == []
    cache.store([(PREFIX, RECORD)], [])
    aside = list(tmp_path.glob("cache.sqlite.damaged-*"))
    assert len(aside) == 1
    assert aside[0].read_bytes() == damage
    assert "starting anew" in caplog.text


def test_a_damaged_page_in_the_middle_is_noticed(tmp_path):
    path = tmp_path / "cache.sqlite"
    cache = Cache(path)
    big = SignedPeerRecord(certificate=b"c" * 3000, payload=b"p", signature=b"s")
    cache.store([(IPv6Network((i << 64, 64)), big) for i in range(50)], [])
    cache.close()
    content = bytearray(path.read_bytes())
    content[8192:40960] = b"\x5a" * (40960 - 8192)
    path.write_bytes(content)
    assert Cache(path).records() == []


def test_a_book_of_a_newer_program_is_set_aside(tmp_path):
    path = tmp_path / "cache.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    Cache(path)
    assert list(tmp_path.glob("*.damaged-*"))


def test_a_directory_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(StorageError, match="cannot open the address book"):
        Cache(tmp_path / "missing" / "cache.sqlite")


def test_an_unreadable_record_is_dropped_alone(tmp_path):
    path = tmp_path / "cache.sqlite"
    cache = Cache(path)
    cache.store([(PREFIX, RECORD)], [])
    cache.close()
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO peer VALUES ('2001:db8:42:3::/64', 'not json')")
    assert Cache(path).records() == [RECORD]


def test_sequences_grow_also_when_the_clock_goes_back(tmp_path):
    cache = Cache(tmp_path / "cache.sqlite")
    first = cache.next_sequence(1000.0)
    second = cache.next_sequence(10.0)
    cache.close()
    third = Cache(tmp_path / "cache.sqlite").next_sequence(10.0)
    assert first == 1000
    assert first < second < third
