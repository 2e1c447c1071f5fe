"""re6st.files on a disk that is really full (a tmpfs of some pages in a mount namespace of its own)."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from re6st.errors import StorageError
from re6st.files import write_atomically


def test_the_content_is_replaced_with_its_mode(tmp_path):
    path = tmp_path / "key.pem"
    write_atomically(path, b"first", 0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"first", 0o600)
    old_mask = os.umask(0o077)
    try:
        write_atomically(path, b"second", 0o644)
    finally:
        os.umask(old_mask)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"second", 0o644)
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_directory(tmp_path):
    with pytest.raises(StorageError, match=r"cannot write .*No such file or directory"):
        write_atomically(tmp_path / "nowhere" / "key.pem", b"x", 0o600)


def test_a_directory_in_the_way(tmp_path):
    (tmp_path / "key.pem").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        write_atomically(tmp_path / "key.pem", b"x", 0o600)
    assert [entry.name for entry in tmp_path.iterdir()] == ["key.pem"]


def on_a_full_disk(tmp_path, program):
    """Run ``program`` in a mount namespace where ``directory`` is a full tmpfs with one old file."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
        from pathlib import Path
        from re6st.errors import StorageError
        directory = Path({str(disk)!r})
        (directory / "key.pem").write_bytes(b"old")
        with open(directory / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError as error:
                assert error.errno == 28, error
        before = sorted(path.name for path in directory.iterdir())
    """
    check = """
        assert (directory / "key.pem").read_bytes() == b"old"
        assert sorted(path.name for path in directory.iterdir()) == before
        print("intact")
    """
    source = textwrap.dedent(script) + textwrap.dedent(program) + textwrap.dedent(check)
    mount = 'mount -t tmpfs -o size=64k tmpfs "$1" && shift && exec "$@"'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh", str(disk)]
    done = subprocess.run(
        [*command, sys.executable, "-c", source],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stdout) == (0, "intact\n"), done.stderr


@pytest.mark.parametrize("size", [300, 100_000])
def test_a_full_disk_keeps_the_old_file(tmp_path, size):
    on_a_full_disk(
        tmp_path,
        f"""
        from re6st.files import write_atomically
        try:
            write_atomically(directory / "key.pem", bytes({size}), 0o600)
        except StorageError as error:
            assert "No space left on device; the old content is kept" in str(error), error
        else:
            raise AssertionError("the disk was not full")
        """,
    )


def test_a_network_is_not_founded_on_a_full_disk(tmp_path):
    on_a_full_disk(
        tmp_path,
        """
        from ipaddress import IPv6Network
        from re6st.registry.state import StateDirectory
        state = StateDirectory(directory / "state")
        try:
            state.create(IPv6Network("2001:db8:42::/48"))
        except StorageError as error:
            assert "No space left on device" in str(error), error
        else:
            raise AssertionError("the disk was not full")
        assert list(state.path.iterdir()) == []
        state.path.rmdir()
        """,
    )


def test_what_a_killed_writer_left_behind_is_removed_later(tmp_path):
    old, new = ".key.pem.0123456789abcdef.tmp", ".key.pem.fedcba9876543210.tmp"
    others = [".other.pem.0123456789abcdef.tmp", ".key.pem.txt.0123456789abcdef.tmp", ".key.pem.mine.tmp"]
    for name in (old, new, *others):
        (tmp_path / name).write_text("secret")
    for name in (old, *others):
        os.utime(tmp_path / name, (0, 0))
    write_atomically(tmp_path / "key.pem", b"encrypted", 0o600)
    # Of the new one the writer may be at work, and the others are for other files, or somebody else's.
    assert {path.name for path in tmp_path.iterdir()} == {new, *others, "key.pem"}
