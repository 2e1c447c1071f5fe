"""A registry whose CA key is in another process: joins, renewals and revocations go through its socket."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from test_registry_real import NETWORK, join, running

from re6st.errors import ConfigError, RegistryUnavailableError, StorageError
from re6st.identity import (
    TrustStore,
    build_request,
    generate_key,
    load_certificate,
    pem_to_der,
    public_key_digest,
)
from re6st.messages import Revocations, decode
from re6st.registry.client import JoinLink, RegistryClient
from re6st.registry.remote_key import REFUSED, question
from re6st.registry.state import SIGNER_VARIABLE, StateDirectory

SCRIPT = Path(__file__).parents[2] / "scripts" / "re6st-registry"


class Signer:
    """The signing process, with the key in a state directory of its own."""

    def __init__(self, directory, registry):
        self.state = directory / "signer"
        self.state.mkdir(mode=0o700)
        self.socket = directory / "ca.sock"
        self.log = directory / "signer.log"
        (self.state / "ca.pem").write_bytes((registry / "ca.pem").read_bytes())
        (registry / "ca-key.pem").rename(self.state / "ca-key.pem")
        self.process = None

    def start(self):
        arguments = [sys.executable, str(SCRIPT), "--state", str(self.state), "signer"]
        environment = {key: value for key, value in os.environ.items() if key != SIGNER_VARIABLE}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*arguments, "--listen", str(self.socket)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        assert "signs at" in self.process.stdout.readline(), self.log.read_text()

    def command(self, *words):
        """Run a command on the signer's state directory, as its user does; return what it prints."""
        environment = {key: value for key, value in os.environ.items() if key != SIGNER_VARIABLE}
        arguments = [sys.executable, str(SCRIPT), "--state", str(self.state), *words]
        return subprocess.run(arguments, stdout=subprocess.PIPE, check=True, env=environment).stdout

    def restart(self):
        self.stop()
        self.start()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=30) == 0
        self.process.stdout.close()

    def ask(self, data):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.socket))
            key = load_certificate(self.state / "ca.pem")
            digest = public_key_digest(x509.load_der_x509_certificate(key).public_key())
            connection.sendall(question(digest, data))
            return connection.makefile("rb").read()

    def wait_for(self, text):
        deadline = time.monotonic() + 30
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


@pytest.fixture
def signer(tmp_path, monkeypatch):
    StateDirectory(tmp_path / "registry").create(NETWORK)
    signer = Signer(tmp_path, tmp_path / "registry")
    monkeypatch.setenv(SIGNER_VARIABLE, str(signer.socket))
    yield signer
    if signer.process is not None and signer.process.poll() is None:
        signer.stop()


async def test_a_registry_without_its_key(signer, tmp_path):
    signer.start()
    (tmp_path / "registry" / "server.pem").unlink()  # the registry has a new one signed
    async with running(tmp_path / "registry") as registry:
        node = await join(registry, tmp_path / "alpha", "alpha")
        await node.client.renew(build_request(node.key, ""))
        await node.client.publish(node.record())
        registry.service.revoke("alpha")
        payload = registry.trust.verify_document("revocations", await registry.anonymous().revocations())
        assert node.certificate.serial_hex in decode(payload, Revocations).serials
        signer.wait_for("server certificate")
        signer.wait_for(f"node certificate name=alpha prefix={node.certificate.prefix} serial=")
        signer.wait_for("revocations version=")

        assert signer.ask(b"anything")[0] == REFUSED
        signer.wait_for("Refused uid 0: neither a certificate nor a document")

        await away_and_back(signer, registry)


async def away_and_back(signer, registry):
    """Nothing is signed while the other process is away, and a join link stays good for later."""
    signer.stop()
    link = JoinLink.parse(str(registry.link()))
    key = generate_key()
    client = RegistryClient([link.url], [registry.authority.certificate])
    with pytest.raises(RegistryUnavailableError):
        await client.enrol(link.token, build_request(key, "beta"))
    with pytest.raises(StorageError, match="re6st-registry signer runs"):
        registry.authority.key.sign(b"", ec.ECDSA(hashes.SHA256()))
    assert not [member for member in registry.service.members() if member.node.released is None]
    signer.start()
    await client.enrol(link.token, build_request(key, "beta"))
    assert registry.service.member("beta").node.name == "beta"


async def test_another_ca_takes_over_in_the_signing_process(signer, tmp_path):
    signer.start()
    state = StateDirectory(tmp_path / "registry")
    async with running(state.path) as registry:
        service, old = registry.service, registry.authority.certificate
        node = await join(registry, tmp_path / "alpha", "alpha")
        with pytest.raises(ConfigError, match="make it there with re6st-registry"):
            state.make_new_authority(service.network, service.now())
        new = pem_to_der(signer.command("authority", "make"))
        state.take_new_authority(new, service.network)
        with pytest.raises(StorageError, match="not held here"):
            service.prepare_authority(state.authority())  # the process does not know of it yet
        assert service.rollover_status().other is None

        signer.restart()
        service.prepare_authority(state.authority())
        assert service.current_parameters().authorities == (old, new)
        for certificate in (old, new):  # both have signed
            TrustStore([certificate]).verify_document("parameters", service.parameters())
        service.switch_authority(force=True)
        renewed = await RegistryClient([registry.url], [old, new], node.files).renew(
            build_request(node.key, "")
        )
        TrustStore([new]).verify(renewed.certificate, service.now())
        service.finish_authority(force=True)
        state.keep_new_authority()
        signer.command("authority", "keep")
        signer.restart()
        assert (
            load_certificate(signer.state / "ca.pem") == load_certificate(state.authority_certificate) == new
        )
        assert not list(tmp_path.glob("*/ca-new.pem"))
        assert not state.authority_key.exists()
        service.revoke("alpha")
        TrustStore([new]).verify_document("revocations", service.revocations())
