"""re6st.registry.certification: which requests may be granted."""

from ipaddress import IPv6Address, IPv6Network

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from re6st.errors import RegistryRefusedError
from re6st.identity import address_block, build_request, generate_key
from re6st.registry.certification import open_request

OWN = IPv6Network("2001:db8:42:1::/64")
FOREIGN = IPv6Network("2001:db8:42:2::/64")


def request(*extensions, key=None, subject=()):
    builder = x509.CertificateSigningRequestBuilder(
        x509.Name([x509.NameAttribute(oid, value) for oid, value in subject])
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    signed = builder.sign(key or generate_key(), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


def code(der, prefix=None):
    with pytest.raises(RegistryRefusedError) as caught:
        open_request(der, prefix)
    return caught.value.code


def san(prefix):
    return x509.SubjectAlternativeName([x509.IPAddress(IPv6Address(prefix.network_address + 1))])


@pytest.mark.parametrize("name", ["", "attic", "a", "x" * 63])
def test_a_plain_request(name):
    key = generate_key()
    opened = open_request(build_request(key, name))
    assert opened.name == name
    assert opened.public_key == key.public_key()


def test_only_p256_keys():
    assert code(request(key=ec.generate_private_key(ec.SECP384R1()))) == "request-unsupported-key"
    assert code(request(key=rsa.generate_private_key(65537, 2048))) == "request-unsupported-key"


def test_the_requester_must_hold_the_key():
    der = bytearray(build_request(generate_key(), "attic"))
    position = bytes(der).index(b"attic")
    der[position : position + 5] = b"other"
    assert code(bytes(der)) == "request-unsigned"


@pytest.mark.parametrize("name", ["-attic", "at tic", "../x", "a\u00e9", "x" * 64])
def test_names_that_cannot_be(name):
    assert code(build_request(generate_key(), name)) == "name-invalid"


def test_a_subject_is_a_name_and_nothing_else():
    subject = [(NameOID.COMMON_NAME, "attic"), (NameOID.ORGANIZATION_NAME, "acme")]
    assert code(request(subject=subject)) == "name-invalid"
    assert code(request(subject=[(NameOID.ORGANIZATION_NAME, "acme")])) == "name-invalid"


def test_prefixes_are_not_for_the_node_to_choose():
    assert code(request(san(OWN))) == "foreign-prefix"
    assert code(request(address_block(OWN))) == "foreign-prefix"
    assert code(request(san(FOREIGN)), OWN) == "foreign-prefix"
    assert code(request(address_block(FOREIGN)), OWN) == "foreign-prefix"
    assert code(request(x509.SubjectAlternativeName([x509.DNSName("x.example")])), OWN) == "foreign-prefix"
    assert open_request(request(san(OWN), address_block(OWN)), OWN).name == ""


def test_no_other_powers():
    assert code(request(x509.BasicConstraints(ca=True, path_length=None))) == "extension-not-allowed"


@given(st.binary(max_size=200))
def test_rubbish(der):
    assert code(der) == "request-malformed"


@given(st.data())
def test_a_damaged_request_is_refused_or_says_the_same(data):
    der = bytearray(DAMAGED)
    der[data.draw(st.integers(0, len(der) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert open_request(bytes(der)).name == "attic"
    except RegistryRefusedError:
        return


DAMAGED = build_request(generate_key(), "attic")
