"""re6st.identity: damaged certificates are refused in our own terms, whatever the libraries raise."""

import warnings
from ipaddress import IPv6Network

import pytest

from re6st.errors import IdentityError
from re6st.identity import CONTEXT_REVOCATIONS, TrustStore, generate_key, pem_to_der, verify_signature
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
    prefix = IPv6Network("2001:db8:42:1::/64")
    der = authority.issue_node(generate_key().public_key(), "attic", prefix, NOW)
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


def test_rubbish_in_pem_armour():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for body in (b"", b"AAAA", b"MIIB"):
            with pytest.raises(IdentityError):
                pem_to_der(b"-----BEGIN CERTIFICATE-----\n" + body + b"\n-----END CERTIFICATE-----\n")
