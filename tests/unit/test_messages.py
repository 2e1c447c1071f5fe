"""re6st.messages: what is accepted from outside."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from re6st.errors import RemoteProtocolError
from re6st.messages import (
    Endpoint,
    EnrolmentRequest,
    Gossip,
    Name,
    NetworkParameters,
    PeerRecord,
    Serial,
    SignedPeerRecord,
    Transport,
    TunnelOffer,
    decode,
    encode,
)

RECORD = PeerRecord(
    prefix="2001:db8:42::/64",
    name="attic",
    sequence=7,
    endpoints=(Endpoint(Transport.TCP, "11.0.1.2", 4226),),
)


def test_a_record_survives_encoding():
    assert decode(encode(RECORD), PeerRecord) == RECORD


def test_unknown_fields_are_ignored():
    body = encode(RECORD)[:-1] + b',"colour":"green"}'
    assert decode(body, PeerRecord) == RECORD


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (b'"sequence":"7"', "sequence"),
        (b'"sequence":-1', "sequence"),
        (b'"sequence":9223372036854775808', "sequence"),
        (b'"sequence":7,"name":"../../etc"', "name"),
        (b'"sequence":7,"name":""', "name"),
        (b'"sequence":7,"endpoints":[{"transport":"tcp","address":"11.0.1.2","port":70000}]', "endpoints"),
        (b'"sequence":7,"endpoints":3', "endpoints"),
    ],
)
def test_wrong_types_and_values_are_refused_with_the_field(change, field):
    body = b'{"prefix":"2001:db8:42::/64","name":"attic",' + change + b"}"
    with pytest.raises(RemoteProtocolError, match=field):
        decode(body, PeerRecord)


@given(st.binary(max_size=200))
def test_garbage_never_raises_anything_else(body):
    try:
        decode(body, Gossip)
    except RemoteProtocolError:
        return


def test_deep_nesting_is_refused():
    with pytest.raises(RemoteProtocolError):
        decode(b'{"x":' + b"[" * 100_000, Gossip)


def test_too_many_records_are_refused():
    signed = SignedPeerRecord(certificate=b"c", payload=b"p", signature=b"s")
    with pytest.raises(RemoteProtocolError, match="records"):
        decode(encode(Gossip(records=(signed,) * 65)), Gossip)


@pytest.mark.parametrize(("field", "size"), [("payload", 2049), ("certificate", 4097), ("signature", 129)])
def test_padded_records_are_refused(field, size):
    fields = {"certificate": b"c" * 4096, "payload": b"p" * 2048, "signature": b"s" * 128}
    largest = SignedPeerRecord(**fields)
    assert decode(encode(largest), SignedPeerRecord) == largest
    with pytest.raises(RemoteProtocolError, match=field):
        decode(encode(SignedPeerRecord(**fields | {field: b"x" * size})), SignedPeerRecord)


def test_a_version_that_a_database_cannot_hold_is_refused():
    with pytest.raises(RemoteProtocolError, match="version"):
        decode(b'{"version":9223372036854775808,"network":"2001:db8:42::/48"}', NetworkParameters)


def test_secrets_are_not_printed():
    offer = TunnelOffer(
        tunnel="t",
        boot_id="b",
        record=SignedPeerRecord(certificate=b"", payload=b"", signature=b""),
        driver="openvpn",
        endpoints=(Endpoint(Transport.UDP, "11.0.1.2", 4227),),
        key="very secret",
        mtu=1280,
    )
    assert "very secret" not in repr(offer)
    assert "token-value" not in repr(EnrolmentRequest(token="token-value", request=b""))


def test_parameters_have_usable_defaults():
    parameters = decode(b'{"version":1,"network":"2001:db8:42::/48"}', NetworkParameters)
    assert parameters.hello_interval > 0


def test_endpoints_are_written_for_people():
    assert str(Endpoint(Transport.UDP, "2a00::1", 5)) == "udp:[2a00::1]:5"


@pytest.mark.parametrize("kind", [Name, Serial])
def test_a_final_line_end_is_no_part_of_a_name(kind: object) -> None:
    assert msgspec.convert("a1", kind) == "a1"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert("a1\n", kind)
