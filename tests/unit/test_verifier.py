"""re6st.node.verifier: which opened records are remembered."""

from ipaddress import IPv6Network

import pytest

from re6st.messages import SignedPeerRecord
from re6st.node import verifier
from re6st.node.verifier import Verifier
from re6st.peers import Peer


def record(number, sequence):
    return SignedPeerRecord(certificate=b"%d" % number, payload=b"%d" % sequence, signature=b"s")


@pytest.fixture
def opened(monkeypatch):
    """What was verified, one entry for each signature check."""
    calls = []

    def open_record(signed, trust, wall):
        calls.append(signed)
        number, sequence = int(signed.certificate), int(signed.payload)
        return Peer(IPv6Network((number << 64, 64)), "name", sequence, signed=signed)

    monkeypatch.setattr(verifier, "open_record", open_record)
    return calls


@pytest.fixture
def checking(opened):
    return Verifier(None, frozenset, lambda: 0.0)


def test_the_same_record_is_verified_once(checking, opened):
    assert checking.open(record(1, 5)) is checking.open(record(1, 5))
    assert len(opened) == 1


def test_only_the_newest_record_of_a_prefix_is_kept(checking, opened):
    for sequence in (1, 2, 3):
        checking.open(record(1, sequence))
    assert checking.open(record(1, 2)).sequence == 2
    assert len(opened) == 4
    checking.open(record(1, 3))
    assert len(opened) == 4


def test_one_member_does_not_drive_out_the_others(checking, opened, monkeypatch):
    monkeypatch.setattr(verifier, "REMEMBERED", 3)
    checking.open(record(1, 1))
    for sequence in range(50):
        checking.open(record(2, sequence))
    del opened[:]
    checking.open(record(1, 1))
    assert opened == []


def test_the_number_of_prefixes_is_bounded(checking, opened, monkeypatch):
    monkeypatch.setattr(verifier, "REMEMBERED", 2)
    for number in (1, 2, 3):
        checking.open(record(number, 1))
    del opened[:]
    for number in (3, 2, 1):
        checking.open(record(number, 1))
    assert opened == [record(1, 1)]
