"""re6st.registry.authority: what is in the certificates, and that OpenSSL accepts and refuses them."""

import ssl
import subprocess
from ipaddress import IPv6Network

import pytest
from cryptography import x509

from re6st.errors import ConfigError, ExpiredError, NotYetValidError, UntrustedError
from re6st.identity import (
    CONTEXT_PARAMETERS,
    CONTEXT_REVOCATIONS,
    REGISTRY_NAME,
    TrustStore,
    der_to_pem,
    generate_key,
    key_to_pem,
    parse_node_certificate,
)
from re6st.messages import NetworkParameters, Revocations, decode
from re6st.registry.authority import AUTHORITY_VALIDITY, DAY, Authority, build_authority
from re6st.registry.parameters import first_parameters

NETWORK = IPv6Network("2001:db8:42::/48")
PREFIX = IPv6Network("2001:db8:42:1::/64")
NOW = 1_795_000_000.0


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
