"""The STUN codec: RFC 5769's sample values, round trips, and octets from strangers."""

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from re6st import stun
from re6st.errors import RemoteProtocolError

TRANSACTIONS = st.binary(min_size=12, max_size=12)
ADDRESSES = st.ip_addresses()
PORTS = st.integers(1, 65535)

SAMPLE_TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
SAMPLE_RESPONSE = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"  # SOFTWARE "test vector", padded
    "002000080001a147e112a643"  # XOR-MAPPED-ADDRESS
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"  # MESSAGE-INTEGRITY
    "80280004c07d4c96"  # FINGERPRINT
)


def test_the_sample_response_of_rfc_5769_is_understood():
    address, port = stun.read_response(SAMPLE_RESPONSE, SAMPLE_TRANSACTION)
    assert (str(address), port) == ("192.0.2.1", 32853)


@given(TRANSACTIONS, ADDRESSES, PORTS)
def test_what_was_written_is_read(transaction, address, port):
    request = stun.binding_request(transaction)
    assert stun.read_request(request) == transaction
    response = stun.binding_response(transaction, address, port)
    assert stun.read_response(response, transaction) == (address, port)
    assert len(response) <= 44


@given(TRANSACTIONS, TRANSACTIONS)
def test_an_answer_to_another_request_is_refused(one, other):
    response = stun.binding_response(one, ipaddress.ip_address("20.1.1.1"), 4226)
    with pytest.raises(RemoteProtocolError) if one != other else contextlib.nullcontext():
        stun.read_response(response, other)


@given(st.binary(max_size=600), TRANSACTIONS)
def test_octets_of_strangers_are_refused_or_understood_but_nothing_else(octets, transaction):
    for message in (octets, SAMPLE_RESPONSE[:4] + octets, stun.binding_request(transaction) + octets):
        with contextlib.suppress(RemoteProtocolError):
            stun.read_request(message)
        with contextlib.suppress(RemoteProtocolError):
            stun.read_response(message, transaction)


@pytest.mark.parametrize("cut", range(len(SAMPLE_RESPONSE)))
def test_a_cut_response_is_refused(cut):
    with pytest.raises(RemoteProtocolError):
        stun.read_response(SAMPLE_RESPONSE[:cut], SAMPLE_TRANSACTION)


def test_a_request_that_wants_more_than_we_know_is_refused():
    attribute = bytes.fromhex("00030004") + bytes(4)  # CHANGE-REQUEST: could have us send elsewhere
    request = bytearray(stun.binding_request(bytes(12)) + attribute)
    request[3] = len(attribute)
    with pytest.raises(RemoteProtocolError):
        stun.read_request(bytes(request))
