"""What is left of a node that has left its network."""

from re6st.node.state_directory import remove_state


def test_nothing_is_left(tmp_path):
    directory = tmp_path / "state"
    directory.mkdir()
    names = ("key.pem", "certificate.pem", "ca.pem", "parameters.json", "revocations.json", "cache.sqlite")
    for name in (*names, "cache.sqlite-wal", "lan-keys.json", "mapping-secret", "babel-sequence"):
        (directory / name).write_bytes(b"x")
    remove_state(directory)
    assert not directory.exists()
