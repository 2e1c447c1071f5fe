"""re6st.registry.place and .database: where the tables are, and what is said when the driver is missing."""

import sys
from pathlib import Path

import pytest

from re6st.errors import ConfigError, StorageError
from re6st.registry.place import PostgresqlUrl, parse_place
from re6st.registry.state import StateDirectory
from re6st.registry.store import Store

URLS = (
    "postgresql://re6st@db.example.org/re6st?sslmode=verify-full",
    "postgresql:///re6st?host=/run/postgresql",
    "postgresql://re6st@one,two:5433/re6st",
    "postgresql://re6st@[2001:db8::1]:5432/re6st",
    "postgres://?service=re6st",
)


@pytest.mark.parametrize("url", URLS)
def test_postgresql(url):
    assert parse_place(f"{url}\n") == PostgresqlUrl(url)


def test_files():
    assert parse_place("/var/lib/x.sqlite3") == Path("/var/lib/x.sqlite3")
    assert parse_place("sqlite:///var/lib/with%20space") == Path("/var/lib/with space")


@pytest.mark.parametrize("url", ["postgresql://a:secret@db/re6st", "postgresql://db/re6st?password=secret"])
def test_passwords_do_not_belong_into_a_url(url):
    with pytest.raises(ConfigError, match="PGPASSFILE") as caught:
        parse_place(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "relative", "mysql://db/re6st", "sqlite://host/x", "postgresql:db", "http://["]
)
def test_what_is_no_place(text):
    with pytest.raises(ConfigError, match="not a place"):
        parse_place(text)


def test_a_state_directory_knows_its_place(tmp_path):
    state = StateDirectory(tmp_path)
    assert state.place == tmp_path / "registry.sqlite3"
    state.keep_place(state.database)
    assert not state.place_file.exists()
    for place in (PostgresqlUrl(URLS[0]), Path("/with space/é")):
        state.keep_place(place)
        assert state.place == place
        assert state.place_file.stat().st_mode & 0o777 == 0o600
    state.place_file.write_bytes(b"\xff")
    with pytest.raises(StorageError, match="cannot read"):
        assert state.place


def test_the_driver_is_asked_for_only_where_it_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "re6st.registry.postgresql", raising=False)
    with pytest.raises(ConfigError, match=r"install re6st\[postgresql\].*python3-psycopg"):
        Store.open(PostgresqlUrl(URLS[0]))
