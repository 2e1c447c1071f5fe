"""A registry whose CA key is in a PKCS #11 token: SoftHSM, with the key moved into it."""

import os
import ssl
import subprocess
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from test_registry_real import NETWORK, join, running
from test_registry_signer_real import Signer

from re6st.errors import ConfigError, StorageError
from re6st.identity import TrustStore, build_request, generate_key, load_certificate, pem_to_der, sign
from re6st.registry.state import SIGNER_VARIABLE, TOKEN_VARIABLE, StateDirectory
from re6st.registry.token_key import TokenKey, parse_token_uri

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "493817"


@pytest.fixture
def token(tmp_path, monkeypatch):
    """Move the key of a new registry into a token; return the process that signs with it."""
    (tmp_path / "tokens").mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(configuration))
    StateDirectory(tmp_path / "registry").create(NETWORK)
    signer = Signer(tmp_path, tmp_path / "registry")
    key = signer.state / "ca-key.pem"
    other = tmp_path / "rsa.pem"  # somebody's key of another kind, with the same label
    rsa_key = rsa.generate_private_key(65537, 2048)
    other.write_bytes(
        rsa_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    for arguments in (
        ["--init-token", "--free", "--label", "network", "--so-pin", "12345678"],
        ["--import", str(other), "--token", "network", "--label", "ca", "--id", "02"],
        ["--import", str(key), "--token", "network", "--label", "ca", "--id", "01"],
    ):
        command = ["softhsm2-util", "--module", MODULE, *arguments, "--pin", PIN]
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    key.unlink()
    monkeypatch.setenv(SIGNER_VARIABLE, str(signer.socket))
    place = f"pkcs11:token=network;object=ca?module-path={MODULE}&pin-source=file:{tmp_path / 'pin'}"
    monkeypatch.setenv(TOKEN_VARIABLE, place)
    yield signer
    if signer.process is not None and signer.process.poll() is None:
        signer.stop()


async def test_a_registry_with_its_key_in_a_token(token, tmp_path):
    (tmp_path / "pin").write_text("0000\n")
    token.start()
    authority = StateDirectory(tmp_path / "registry").authority()
    with pytest.raises(StorageError, match="the token network does not sign with its key ca"):
        authority.issue_server(generate_key().public_key(), time.time())
    (tmp_path / "pin").write_text(PIN + "\n")  # helps without a restart
    async with running(tmp_path / "registry") as registry:
        node = await join(registry, tmp_path / "alpha", "alpha")
        await node.client.renew(build_request(node.key, ""))
        registry.service.revoke("alpha")
        document = await registry.anonymous().revocations()
        registry.trust.verify_document("revocations", document)
        await roll_over(registry.service, token, StateDirectory(tmp_path / "registry"))


async def roll_over(service, token, state):
    """Let another CA take over, whose key is made in the token and never leaves it."""
    old = service.authority.certificate
    new = pem_to_der(token.command("authority", "make"))
    assert b"PRIVATE" not in (token.state / "ca-new.pem").read_bytes()
    token.restart()
    state.take_new_authority(new, service.network)
    service.prepare_authority(state.authority())
    for certificate in (old, new):  # both keys have the same label, and each has signed
        TrustStore([certificate]).verify_document("parameters", service.parameters())
    service.switch_authority(force=True)
    service.finish_authority(force=True)
    state.keep_new_authority()
    token.command("authority", "keep")
    token.restart()
    assert load_certificate(token.state / "ca.pem") == new
    assert sorted(path.name for path in token.state.iterdir()) == ["ca.pem", "signed-versions.json"]
    leaf = service.authority.issue_server(generate_key().public_key(), time.time())
    x509.load_der_x509_certificate(leaf).verify_directly_issued_by(x509.load_der_x509_certificate(new))
    # A key that is not the certificate's does not sign in its place.
    uri = parse_token_uri(os.environ[TOKEN_VARIABLE])
    stranger = TokenKey(uri, generate_key().public_key())
    with pytest.raises(StorageError, match="2 keys called ca, of which none belongs"):
        sign(stranger, "parameters", b"")
    # What the driver leaves behind in OpenSSL is not taken for a failure of Python's ssl.
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=new)


@pytest.mark.parametrize(
    "text", ["", "file:ca", "pkcs11:token=a", "pkcs11:token=a;object=b?module-path=/m&pin-value=1234"]
)
def test_uris_that_are_refused(text):
    with pytest.raises(ConfigError, match="pkcs11:token=LABEL"):
        parse_token_uri(text)
