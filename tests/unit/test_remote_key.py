"""A key in another process that hangs or is away."""

import socket
import time
from ipaddress import IPv6Network

import pytest

from re6st.errors import SignerTimeoutError, StorageError
from re6st.identity import generate_key
from re6st.registry import remote_key
from re6st.registry.authority import build_authority
from re6st.registry.remote_key import RemoteKey


def test_a_process_that_hangs_is_told_from_one_that_is_away(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_key, "TIMEOUT", 0.01)
    certificate = build_authority(generate_key(), IPv6Network("2001:db8:42::/48"), time.time())
    key = RemoteKey(tmp_path / "ca.sock", certificate)
    with pytest.raises(StorageError, match="does not answer") as away:
        key.sign_whole(b"data")
    assert not isinstance(away.value, SignerTimeoutError)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "ca.sock"))
        silent.listen()
        with pytest.raises(SignerTimeoutError, match="does not answer"):
            key.sign_whole(b"data")
