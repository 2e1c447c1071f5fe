"""re6st.registry.authority: what is in the certificates, and that OpenSSL accepts and refuses them."""

import datetime
import ssl
import subprocess
from ipaddress import IPv6Network

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtensionOID, NameOID
from OpenSSL import crypto

from re6st.errors import ConfigError, ExpiredError, NotYetValidError, UntrustedError
from re6st.identity import (
    ADDRESS_BLOCKS,
    CONTEXT_PARAMETERS,
    CONTEXT_REVOCATIONS,
    REGISTRY_NAME,
    TrustStore,
    address_block,
    der_to_pem,
    generate_key,
    key_to_pem,
    parse_node_certificate,
)
from re6st.messages import NetworkParameters, Revocations, decode
from re6st.registry.authority import (
    AUTHORITY_VALIDITY,
    DAY,
    Authority,
    build_authority,
    key_usage,
    new_serial,
)
from re6st.registry.parameters import first_parameters

NETWORK = IPv6Network("2001:db8:42::/48")
PREFIX = IPv6Network("2001:db8:42:1::/64")
NOW = 1_795_000_000.0
BASIC = ExtensionOID.BASIC_CONSTRAINTS


@pytest.fixture(scope="module")
def authority():
    key = generate_key()
    return Authority(build_authority(key, NETWORK, NOW), key)


def issue(authority, key=None, **changes):
    values = {"name": "attic", "prefix": PREFIX, "now": NOW} | changes
    return authority.issue_node((key or generate_key()).public_key(), **values)


def test_a_ca_certificate_is_bound_to_its_network(authority):
    certificate = x509.load_der_x509_certificate(authority.certificate)
    constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert [name.value for name in constraints.value.permitted_subtrees] == [NETWORK]
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    years = (certificate.not_valid_after_utc.timestamp() - NOW) / (365.25 * DAY)
    assert years == pytest.approx(20, abs=0.01)
    assert authority.network == NETWORK


@pytest.mark.parametrize("prefix", ["2001:db8:42:1::/64", "2001:db8:42::/64", "2001:db8:42:8000::/49",
                                    "2001:db8:42:1:2::/80", "2001:db8:42:1:2:3:4:500/120"])  # fmt: skip
def test_a_node_certificate_verifies(authority, prefix):
    certificate = authority.trust.verify(issue(authority, prefix=IPv6Network(prefix)), NOW)
    assert (certificate.name, certificate.prefix) == ("attic", IPv6Network(prefix))
    assert certificate.not_after == NOW + 365 * DAY
    assert certificate.not_before < NOW
    assert len(certificate.serial_hex) == 17


def test_openssl_refuses_a_prefix_outside_the_network(authority):
    with pytest.raises(UntrustedError, match=r"permitted subtree|not subset"):
        authority.trust.verify(issue(authority, prefix=IPv6Network("2001:db8:43:1::/64")), NOW)


def issue_subordinate(authority, key, group):
    """Return what a CA certificate for the nodes in ``group`` might look like, issued by ``authority``."""
    issuer = x509.load_der_x509_certificate(authority.certificate)
    now = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    constraints = x509.NameConstraints([x509.IPAddress(group)], [x509.DNSName("")])
    builder = x509.CertificateBuilder(
        issuer.subject,
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"group {group}")]),
        key.public_key(),
        new_serial(),
        now,
        now + datetime.timedelta(days=365),
        [
            x509.Extension(BASIC, True, x509.BasicConstraints(ca=True, path_length=0)),
            x509.Extension(ExtensionOID.KEY_USAGE, True, key_usage(authority=True)),
            x509.Extension(ExtensionOID.NAME_CONSTRAINTS, True, constraints),
            x509.Extension(ADDRESS_BLOCKS, False, address_block(group)),
        ],
    )
    der = builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    return Authority(der, key)


def judge(anchor, *chain):
    """Return why OpenSSL refuses the first certificate of ``chain``, the others being untrusted, or None."""
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(anchor))
    store.set_time(datetime.datetime.fromtimestamp(NOW + 60, datetime.UTC))
    leaf, *others = [crypto.X509.from_cryptography(x509.load_der_x509_certificate(der)) for der in chain]
    try:
        crypto.X509StoreContext(store, leaf, others).verify_certificate()
    except crypto.X509StoreContextError as error:
        return str(error)
    return None


def test_no_other_ca_below_the_networks_is_believed(authority):
    group = issue_subordinate(authority, generate_key(), IPv6Network("2001:db8:42:100::/56"))
    leaf = issue(group, prefix=IPv6Network("2001:db8:42:101::/64"))
    anchor = x509.load_der_x509_certificate(authority.certificate)
    assert judge(anchor, issue(authority)) is None
    assert "path length" in judge(anchor, leaf, group.certificate)
    with pytest.raises(UntrustedError, match="unable to get local issuer"):
        authority.trust.verify(leaf, NOW)
    # Nor is a node that issues certificates.
    key = generate_key()
    node = Authority(issue(authority, key), key)
    assert "CA" in judge(anchor, issue(node, prefix=PREFIX), node.certificate)


def test_openssl_would_keep_a_subordinate_ca_within_its_group():
    """What delegation can rely upon, once a network has a CA that allows it, and what it cannot."""
    key = generate_key()
    longer = x509.load_der_x509_certificate(build_authority(key, NETWORK, NOW))
    builder = x509.CertificateBuilder(
        longer.subject,
        longer.subject,
        key.public_key(),
        new_serial(),
        longer.not_valid_before_utc,
        longer.not_valid_after_utc,
        [
            x509.Extension(item.oid, item.critical, x509.BasicConstraints(ca=True, path_length=1))
            if item.oid == BASIC
            else item
            for item in longer.extensions
        ],
    )
    anchor = builder.sign(key, hashes.SHA256())
    root = Authority(anchor.public_bytes(serialization.Encoding.DER), key)
    group = issue_subordinate(root, generate_key(), IPv6Network("2001:db8:42:100::/56"))
    inside, outside = IPv6Network("2001:db8:42:101::/64"), IPv6Network("2001:db8:42:201::/64")
    assert judge(anchor, issue(group, prefix=inside), group.certificate) is None
    assert "permitted subtree" in judge(anchor, issue(group, prefix=outside), group.certificate)
    assert "excluded subtree" in judge(
        anchor, group.issue_server(generate_key().public_key(), NOW), group.certificate
    )
    wide = issue_subordinate(root, generate_key(), IPv6Network("2001:db8::/32"))
    assert judge(anchor, issue(wide, prefix=inside), wide.certificate) is not None
    below = issue_subordinate(group, generate_key(), IPv6Network("2001:db8:42:101::/64"))
    assert "path length" in judge(anchor, issue(below, prefix=inside), below.certificate, group.certificate)
    # Further prefixes are an extension that OpenSSL does not know: they would need a check of our own.
    beyond = issue(group, prefix=inside, further=(outside,))
    assert judge(anchor, beyond, group.certificate) is None


def test_a_certificate_has_its_time(authority):
    der = issue(authority, validity=7200.0)
    with pytest.raises(ExpiredError, match="valid only from"):
        authority.trust.verify(der, NOW + 7300)
    with pytest.raises(NotYetValidError, match="set the clock"):
        authority.trust.verify(der, NOW - 7200)
    late = NOW + AUTHORITY_VALIDITY - DAY
    assert parse_node_certificate(issue(authority, now=late)).not_after == NOW + AUTHORITY_VALIDITY


def test_another_authority_is_not_trusted(authority):
    key = generate_key()
    other = Authority(build_authority(key, NETWORK, NOW), key)
    with pytest.raises(UntrustedError):
        other.trust.verify(issue(authority), NOW)
    with pytest.raises(UntrustedError, match="does not belong"):
        Authority(authority.certificate, key)


def test_documents_are_signed_for_their_kind(authority):
    parameters = first_parameters(NETWORK, authority.fingerprint, ["https://registry.example:8443"])
    signed = authority.sign_parameters(parameters)
    trust = TrustStore([authority.certificate])
    assert decode(trust.verify_document(CONTEXT_PARAMETERS, signed), NetworkParameters) == parameters
    with pytest.raises(UntrustedError):
        trust.verify_document(CONTEXT_REVOCATIONS, signed)
    revocations = Revocations(version=3, serials=("1f",))
    payload = trust.verify_document(CONTEXT_REVOCATIONS, authority.sign_revocations(revocations))
    assert decode(payload, Revocations) == revocations


def test_unsound_parameters_are_not_signed(authority):
    with pytest.raises(ConfigError, match="the network is"):
        authority.sign_parameters(NetworkParameters(version=1, network="2001:db8:43::/48"))


def handshake(server, client, name):
    """Run a TLS handshake in memory; return the certificates that both ends saw."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_side=False, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return [end.getpeercert(binary_form=True) for end in ends]


@pytest.fixture
def contexts(authority, tmp_path):
    """TLS contexts (server, client) of two nodes and the server context of the registry."""
    authority_now = Authority(*renewed(authority))
    made = {}
    keys = {name: generate_key() for name in ("server", "client", "registry")}
    certificates = {
        "server": issue(authority_now, keys["server"], now=current()),
        "client": issue(
            authority_now, keys["client"], now=current(), prefix=IPv6Network("2001:db8:42:2::/64")
        ),
        "registry": authority_now.issue_server(keys["registry"].public_key(), current()),
    }
    for name, der in certificates.items():
        file = tmp_path / f"{name}.pem"
        file.write_bytes(key_to_pem(keys[name]) + der_to_pem(der))
        kind = ssl.PROTOCOL_TLS_CLIENT if name == "client" else ssl.PROTOCOL_TLS_SERVER
        made[name] = ssl.SSLContext(kind)
        made[name].load_cert_chain(file)
        made[name].load_verify_locations(cadata=authority_now.certificate)
        made[name].verify_mode = ssl.CERT_REQUIRED
    (tmp_path / "ca.pem").write_bytes(der_to_pem(authority_now.certificate))
    return made, certificates


def current():
    import time

    return time.time()


def renewed(authority):
    return build_authority(authority.key, NETWORK, current()), authority.key


def test_python_ssl_accepts_node_address_and_registry_name(contexts):
    made, certificates = contexts
    seen = handshake(made["server"], made["client"], "2001:db8:42:1::1")
    assert seen == [certificates["server"], certificates["client"]]
    seen = handshake(made["registry"], made["client"], REGISTRY_NAME)
    assert seen == [certificates["registry"], certificates["client"]]
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        handshake(made["server"], made["client"], "2001:db8:42:3::1")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(made["server"], made["client"], REGISTRY_NAME)


@pytest.mark.parametrize("name", ["server", "client", "registry"])
def test_the_openssl_program_accepts_the_chains(contexts, tmp_path, name):
    purposes = ["sslserver"] if name != "client" else ["sslclient", "sslserver"]
    for purpose in purposes:
        arguments = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile"]
        done = subprocess.run(
            [*arguments, str(tmp_path / "ca.pem"), str(tmp_path / f"{name}.pem")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
