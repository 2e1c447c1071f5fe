"""A registry whose CA key is in a PKCS #11 token: SoftHSM, with the key moved into it."""

import subprocess
import time

import pytest
from test_registry_real import NETWORK, join, running
from test_registry_signer_real import Signer

from re6st.errors import ConfigError, StorageError
from re6st.identity import build_request, generate_key
from re6st.registry.state import SIGNER_VARIABLE, TOKEN_VARIABLE, StateDirectory
from re6st.registry.token_key import parse_token_uri

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
    for arguments in (
        ["--init-token", "--free", "--label", "network", "--so-pin", "12345678"],
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


@pytest.mark.parametrize(
    "text", ["", "file:ca", "pkcs11:token=a", "pkcs11:token=a;object=b?module-path=/m&pin-value=1234"]
)
def test_uris_that_are_refused(text):
    with pytest.raises(ConfigError, match="pkcs11:token=LABEL"):
        parse_token_uri(text)
