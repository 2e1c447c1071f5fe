"""What the CA's signing process signs, and what it refuses."""

import stat
import time
from ipaddress import IPv6Network

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from re6st.errors import StorageError, UntrustedError
from re6st.identity import TrustStore, generate_key, public_key_digest
from re6st.messages import Revocations, SignedDocument, encode
from re6st.registry.authority import DAY, Authority, build_authority
from re6st.registry.parameters import first_parameters
from re6st.registry.remote_key import REFUSED, SIGNED
from re6st.registry.signed_versions import RATE, STEP, SignedVersions
from re6st.registry.signing import Judgement, Policy
from re6st.registry.signing_server import BURST, SigningServer

NETWORK = IPv6Network("2001:db8:42::/48")
PREFIX = IPv6Network("2001:db8:42:7::/64")
NOW = time.time()
KEY = generate_key()
CA = build_authority(KEY, NETWORK, NOW - DAY)
AUTHORITY = Authority(CA, KEY)
POLICY = Policy.of(CA, 400 * DAY)
NODE_KEY = generate_key().public_key()
HELD = public_key_digest(KEY.public_key())


def tbs(der):
    return x509.load_der_x509_certificate(der).tbs_certificate_bytes


def node(authority=AUTHORITY, prefix=PREFIX, validity=365 * DAY, key=NODE_KEY, now=NOW):
    return tbs(authority.issue_node(key, "alpha", prefix, now, validity))


def test_what_a_registry_has_to_sign_passes():
    assert POLICY.judge(node(), NOW).text.startswith(
        "node certificate name=alpha prefix=2001:db8:42:7::/64 serial="
    )
    assert POLICY.judge(tbs(AUTHORITY.issue_server(NODE_KEY, NOW)), NOW).text.startswith("server certificate")
    parameters = encode(first_parameters(NETWORK, AUTHORITY.fingerprint, ["https://192.0.2.1:8443"]))
    expected = Judgement("parameters version=1", "parameters", 1)
    assert POLICY.judge(b"parameters\0" + parameters, NOW) == expected
    revocations = encode(Revocations(version=3, serials=("1f", "2e")))
    expected = Judgement("revocations version=3 serials=2", "revocations", 3)
    assert POLICY.judge(b"revocations\0" + revocations, NOW) == expected


def test_further_prefixes_are_signed_inside_the_network():
    def judged(*further):
        prefixes = tuple(map(IPv6Network, further))
        der = AUTHORITY.issue_node(NODE_KEY, "alpha", PREFIX, NOW, further=prefixes)
        return POLICY.judge(tbs(der), NOW).text

    assert f"prefix={PREFIX},2001:db8:42:8::/62 " in judged("2001:db8:42:8::/62")
    for wrong in ("2001:db8:77::/64", "2001:db8:42::/48", "2001:db8:42:8::/121"):
        with pytest.raises(UntrustedError):
            judged(wrong)


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
    assert POLICY.judge(altered(), NOW).text.startswith("node certificate")


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


def parameters_with(*authorities):
    first = first_parameters(NETWORK, AUTHORITY.fingerprint)
    return b"parameters\0" + encode(msgspec.structs.replace(first, authorities=authorities))


def test_parameters_name_no_other_authority():
    other = build_authority(generate_key(), NETWORK, NOW - DAY)
    assert POLICY.judge(parameters_with(CA), NOW).version == 1
    for authorities in ((other,), (CA, other), (other, CA)):
        with pytest.raises(UntrustedError, match="another CA"):
            POLICY.judge(parameters_with(*authorities), NOW)


def test_while_another_takes_over_parameters_name_both_and_each_key_signs(tmp_path):
    key = generate_key()
    other = Authority(build_authority(key, NETWORK, NOW - DAY), key)
    both = Authority(CA, KEY, other)
    server = SigningServer(both, 400 * DAY, 1.0, SignedVersions(tmp_path / "versions"))
    named = parameters_with(CA, other.certificate)
    _, payload = named.split(b"\0", 1)
    for one in (both, other):
        verdict, signature = server.answer(public_key_digest(one.key.public_key()), named, 0, NOW, 0.0)
        assert verdict == SIGNED
        document = SignedDocument(payload=payload, signature=signature)
        assert TrustStore([one.certificate]).verify_document("parameters", document) == payload
    foreign = build_authority(generate_key(), NETWORK, NOW - DAY)
    for data in (parameters_with(CA, foreign), node(key=key.public_key())):
        assert server.answer(HELD, data, 0, NOW, 0.0)[0] == REFUSED
    verdict, reason = server.answer(b"0" * 32, node(), 0, NOW, 0.0)
    assert (verdict, b"not held here" in reason) == (REFUSED, True)


def revocations_of(version):
    return b"revocations\0" + encode(Revocations(version=version, serials=()))


def test_versions_grow_in_bounded_steps_also_after_a_restart(tmp_path):
    path = tmp_path / "versions"

    def verdict(data, later=0.0):
        server = SigningServer(AUTHORITY, 400 * DAY, 1.0, SignedVersions(path))
        return server.answer(HELD, data, 0, NOW + later, 0.0)[0]

    assert verdict(revocations_of(5000)) == SIGNED
    assert verdict(revocations_of(5001 + STEP)) == REFUSED
    assert verdict(revocations_of(5000 + STEP)) == SIGNED
    assert verdict(revocations_of(2**63 - 1)) == REFUSED
    assert verdict(revocations_of(1)) == SIGNED
    assert verdict(parameters_with()) == SIGNED
    # The step is used up; only time gives something back, and never more than a step.
    assert verdict(revocations_of(5001 + STEP)) == REFUSED
    assert verdict(revocations_of(5011 + STEP), 10 / RATE) == REFUSED
    assert verdict(revocations_of(5010 + STEP), 10 / RATE) == SIGNED
    assert verdict(revocations_of(5011 + STEP), -DAY) == REFUSED
    assert verdict(revocations_of(5011 + 2 * STEP), 100 * STEP / RATE) == REFUSED
    assert verdict(revocations_of(5010 + 2 * STEP), 100 * STEP / RATE) == SIGNED
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_file_of_an_earlier_program_is_understood(tmp_path):
    (tmp_path / "versions").write_bytes(b'{"revocations": 5000}')
    versions = SignedVersions(tmp_path / "versions")
    with pytest.raises(UntrustedError, match="5000 is the highest so far, which may grow by 1000 now"):
        versions.advance("revocations", 5001 + STEP, NOW)
    versions.advance("revocations", 5000 + STEP, NOW)


def test_what_cannot_be_noted_is_not_signed(tmp_path):
    server = SigningServer(AUTHORITY, 400 * DAY, 1.0, SignedVersions(tmp_path / "away" / "versions"))
    assert server.answer(HELD, revocations_of(1), 0, NOW, 0.0)[0] == REFUSED


@pytest.mark.parametrize("content", [b"", b"[]", b'{"parameters": -1}', b"\xff"])
def test_a_damaged_file_of_versions_is_not_forgotten(tmp_path, content):
    (tmp_path / "versions").write_bytes(content)
    with pytest.raises(StorageError, match="cannot read the versions"):
        SignedVersions(tmp_path / "versions")


def test_signatures_are_limited_and_hold(tmp_path):
    server = SigningServer(AUTHORITY, 400 * DAY, 1.0, SignedVersions(tmp_path / "versions"))
    payload = encode(Revocations(version=3, serials=()))
    verdict, signature = server.answer(HELD, b"revocations\0" + payload, 0, NOW, 0.0)
    assert verdict == SIGNED
    document = SignedDocument(payload=payload, signature=signature)
    assert TrustStore([CA]).verify_document("revocations", document) == payload
    assert server.answer(HELD, b"parameters\0{}", 0, NOW, 0.0)[0] == REFUSED
    for number in range(BURST - 2):
        server.answer(HELD, b"", 0, NOW - 100 * number, 0.0)
    verdict, reason = server.answer(HELD, b"revocations\0" + payload, 0, NOW, 0.0)
    assert (verdict, b"more signatures" in reason) == (REFUSED, True)
    assert server.answer(HELD, b"revocations\0" + payload, 0, NOW, 1.5)[0] == SIGNED
