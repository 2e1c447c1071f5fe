"""re6st.identity: damaged certificates are refused in our own terms, whatever the libraries raise."""

import contextlib
import warnings
from ipaddress import IPv6Network

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from re6st.errors import IdentityError, UntrustedError
from re6st.identity import (
    ADDRESS_BLOCKS,
    CONTEXT_REVOCATIONS,
    FURTHER_BLOCKS,
    TrustStore,
    decode_address_block,
    decode_address_blocks,
    encode_address_block,
    generate_key,
    pem_to_der,
    verify_signature,
)
from re6st.messages import Revocations
from re6st.registry.authority import Authority, build_authority

NOW = 1_795_000_000.0
NETWORK = IPv6Network("2001:db8:42::/48")


@pytest.fixture(scope="module")
def authority():
    key = generate_key()
    return Authority(build_authority(key, NETWORK, NOW), key)


def damaged(der):
    for position in range(len(der)):
        for change in (0x01, 0x10, 0xFF):
            octets = bytearray(der)
            octets[position] ^= change
            yield bytes(octets)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_damaged_node_certificate_is_refused(authority):
    prefix, further = IPv6Network("2001:db8:42:1::/64"), (IPv6Network("2001:db8:42:9::/64"),)
    der = authority.issue_node(generate_key().public_key(), "attic", prefix, NOW, further=further)
    accepted = 0
    for octets in damaged(der):
        try:
            certificate = authority.trust.verify(octets, NOW)
            accepted += 1
        except IdentityError:
            continue
        with pytest.raises(IdentityError):
            verify_signature(certificate, "peer", b"payload", b"signature")
    assert accepted == 0


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_damaged_ca_certificate_never_raises_anything_else(authority):
    document = authority.sign_revocations(Revocations(version=1))
    refused = 0
    for octets in damaged(authority.certificate):
        try:
            trust = TrustStore([octets])
            trust.verify_document(CONTEXT_REVOCATIONS, document)
        except IdentityError:
            refused += 1
    assert refused > 100


FURTHER = tuple(IPv6Network(f"2001:db8:42:{number:x}::/64") for number in range(16, 31))


def test_further_prefixes_are_for_those_who_know_them(authority):
    prefix = IPv6Network("2001:db8:42:1::/64")
    der = authority.issue_node(generate_key().public_key(), "attic", prefix, NOW, further=FURTHER[::-1])
    certificate = authority.trust.verify(der, NOW)
    assert (certificate.prefix, certificate.further) == (prefix, FURTHER)
    # The standard's block, which all understand, is as without them.
    extensions = x509.load_der_x509_certificate(der).extensions
    standard = extensions.get_extension_for_oid(ADDRESS_BLOCKS)
    assert decode_address_block(standard.value.value) == prefix
    more = extensions.get_extension_for_oid(FURTHER_BLOCKS)
    assert not more.critical
    assert len(more.value.value) > 127


@pytest.mark.parametrize(
    "further",
    [
        ("2001:db8:43::/64",),
        ("2001:db8:42::/48",),
        ("2001:db8:42:1::/64",),
        ("2001:db8:42::/62",),
        ("2001:db8:42:8::/62", "2001:db8:42:9::/64"),
        tuple(f"2001:db8:42:{number:x}::/64" for number in range(16, 32)),
    ],
)
def test_further_prefixes_that_cannot_be(authority, further):
    prefix, prefixes = IPv6Network("2001:db8:42:1::/64"), tuple(map(IPv6Network, further))
    der = authority.issue_node(generate_key().public_key(), "attic", prefix, NOW, further=prefixes)
    with pytest.raises(UntrustedError):
        authority.trust.verify(der, NOW)


@given(
    st.lists(st.integers(0, 0xFFFF), unique=True, max_size=15), st.integers(64, 120), st.binary(max_size=9)
)
def test_address_blocks_are_read_as_they_are_written(numbers, length, rubbish):
    prefixes = tuple(IPv6Network(f"2001:db8:42:{number:x}::/{length}") for number in sorted(numbers))
    der = encode_address_block(*prefixes)
    assert decode_address_blocks(der) == prefixes
    for wrong in (der + b"\0", der[:-1], der[:7] + rubbish, rubbish + der[1:], rubbish):
        with contextlib.suppress(UntrustedError):
            # Whatever is accepted is written in the one way there is.
            assert encode_address_block(*decode_address_blocks(wrong)) == wrong


def test_rubbish_in_pem_armour():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for body in (b"", b"AAAA", b"MIIB"):
            with pytest.raises(IdentityError):
                pem_to_der(b"-----BEGIN CERTIFICATE-----\n" + body + b"\n-----END CERTIFICATE-----\n")
