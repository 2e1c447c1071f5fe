"""What the CA's signing process signs, and what it refuses."""

import time
from ipaddress import IPv6Network

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from re6st.errors import UntrustedError
from re6st.identity import TrustStore, generate_key
from re6st.messages import Revocations, SignedDocument, encode
from re6st.registry.authority import DAY, Authority, build_authority
from re6st.registry.parameters import first_parameters
from re6st.registry.remote_key import REFUSED, SIGNED
from re6st.registry.signing import Policy
from re6st.registry.signing_server import BURST, SigningServer

NETWORK = IPv6Network("2001:db8:42::/48")
PREFIX = IPv6Network("2001:db8:42:7::/64")
NOW = time.time()
KEY = generate_key()
CA = build_authority(KEY, NETWORK, NOW - DAY)
AUTHORITY = Authority(CA, KEY)
POLICY = Policy.of(CA, 400 * DAY)
NODE_KEY = generate_key().public_key()


def tbs(der):
    return x509.load_der_x509_certificate(der).tbs_certificate_bytes


def node(authority=AUTHORITY, prefix=PREFIX, validity=365 * DAY, key=NODE_KEY, now=NOW):
    return tbs(authority.issue_node(key, "alpha", prefix, now, validity))


def test_what_a_registry_has_to_sign_passes():
    assert POLICY.judge(node(), NOW).startswith(
        "node certificate name=alpha prefix=2001:db8:42:7::/64 serial="
    )
    assert POLICY.judge(tbs(AUTHORITY.issue_server(NODE_KEY, NOW)), NOW).startswith("server certificate")
    parameters = encode(first_parameters(NETWORK, AUTHORITY.fingerprint, ["https://192.0.2.1:8443"]))
    assert POLICY.judge(b"parameters\0" + parameters, NOW) == "parameters version=1"
    revocations = encode(Revocations(version=3, serials=("1f", "2e")))
    assert POLICY.judge(b"revocations\0" + revocations, NOW) == "revocations version=3 serials=2"


FOREIGN = Authority(build_authority(KEY, IPv6Network("2001:db8:77::/48"), NOW - DAY), KEY)
EVERYTHING = Authority(build_authority(KEY, IPv6Network("2001:db8::/32"), NOW - DAY), KEY)


def altered(**changes):
    """Return a node certificate with some extensions changed, or others added."""
    issued = x509.load_der_x509_certificate(AUTHORITY.issue_node(NODE_KEY, "alpha", PREFIX, NOW))
    builder = x509.CertificateBuilder(
        issuer_name=issued.issuer,
        subject_name=issued.subject,
        public_key=NODE_KEY,
        serial_number=issued.serial_number,
        not_valid_before=issued.not_valid_before_utc,
        not_valid_after=issued.not_valid_after_utc,
    )
    for extension in issued.extensions:
        value = changes.get(type(extension.value).__name__, extension.value)
        builder = builder.add_extension(value, extension.critical)
    if "more" in changes:
        builder = builder.add_extension(changes["more"], critical=False)
    return tbs(builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER))


def test_a_certificate_made_by_hand_passes_as_it_is():
    assert POLICY.judge(altered(), NOW).startswith("node certificate")


@pytest.mark.parametrize(
    "data",
    [
        tbs(CA),
        node(FOREIGN, IPv6Network("2001:db8:77:1::/64")),
        node(prefix=NETWORK),
        node(prefix=IPv6Network("2001:db8:43:1::/64")),
        node(validity=500 * DAY),
        node(now=NOW - 2 * DAY),
        node(key=KEY.public_key()),
        node(key=ec.generate_private_key(ec.SECP384R1()).public_key()),
        altered(BasicConstraints=x509.BasicConstraints(ca=True, path_length=0)),
        altered(ExtendedKeyUsage=x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])),
        altered(SubjectAlternativeName=x509.SubjectAlternativeName([x509.DNSName("example.org")])),
        altered(more=x509.IssuerAlternativeName([x509.DNSName("example.org")])),
        node() + b"\0",
        node()[:-1],
        b"peer\0{}",
        b"parameters\0{}",
        b"parameters\0" + encode(first_parameters(IPv6Network("2001:db8:77::/48"), "00" * 32, [])),
        b"",
    ],
)
def test_nothing_else_passes(data):
    with pytest.raises(UntrustedError):
        POLICY.judge(data, NOW)


@given(st.binary(max_size=200), st.integers(0, 500))
def test_garbage_is_refused(garbage, place):
    for data in (garbage, b"\x30" + garbage, node()[:place] + garbage, b"revocations\0" + garbage):
        try:
            POLICY.judge(data, NOW)
        except UntrustedError:
            continue


def test_signatures_are_limited_and_hold():
    server = SigningServer(AUTHORITY, 400 * DAY, rate=1.0)
    payload = encode(Revocations(version=3, serials=()))
    verdict, signature = server.answer(b"revocations\0" + payload, 0, NOW)
    assert verdict == SIGNED
    document = SignedDocument(payload=payload, signature=signature)
    assert TrustStore([CA]).verify_document("revocations", document) == payload
    assert server.answer(b"parameters\0{}", 0, NOW)[0] == REFUSED
    for _ in range(BURST - 2):
        server.answer(b"", 0, NOW)
    verdict, reason = server.answer(b"revocations\0" + payload, 0, NOW)
    assert (verdict, b"more signatures" in reason) == (REFUSED, True)
    assert server.answer(b"revocations\0" + payload, 0, NOW + 1.5)[0] == SIGNED
