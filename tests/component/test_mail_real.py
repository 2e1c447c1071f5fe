"""Join links by mail through a real SMTP server: STARTTLS, password, a server that is down."""

import asyncio
import contextlib
import datetime
import email
import ipaddress
import re
import ssl

import pytest
from aiosmtpd.smtp import SMTP, AuthResult
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from test_registry_real import refused, running

from re6st.identity import build_request, generate_key, key_to_pem
from re6st.registry import mailer
from re6st.registry.cli import cli
from re6st.registry.client import JoinLink

PASSWORD = "p@ss wörd"


class Mailboxes:
    """What the mail server got."""

    def __init__(self):
        self.mails = []
        self.encrypted = []
        self.refuse = None
        self.port = None

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802 - called so by aiosmtpd
        if self.refuse and address.startswith("nobody"):
            return self.refuse
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802 - called so by aiosmtpd
        self.encrypted.append(session.ssl is not None and session.authenticated)
        self.mails.append((envelope.rcpt_tos, email.message_from_bytes(envelope.content)))
        return "250 taken"


def make_certificate(path):
    key, name = generate_key(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(key_to_pem(key) + certificate.public_bytes(Encoding.PEM))


@pytest.fixture
def mail_server(tmp_path, monkeypatch):
    """A context of a mail server with a certificate that the system trusts."""
    file = tmp_path / "mail.pem"
    make_certificate(file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    password = tmp_path / "password"
    password.write_text(PASSWORD + "\n")
    password.chmod(0o600)
    monkeypatch.setenv("RE6ST_SMTP_PASSWORD_FILE", str(password))
    monkeypatch.setattr(mailer, "POLL", 0.1)

    def check(server, session, envelope, mechanism, data):
        return AuthResult(success=(data.login, data.password) == (b"re6st", PASSWORD.encode()))

    @contextlib.asynccontextmanager
    async def start(port=0):
        boxes = Mailboxes()

        def talk():
            return SMTP(
                boxes,
                hostname="mail.example.org",
                tls_context=context,
                require_starttls=True,
                auth_required=True,
                authenticator=check,
            )

        server = await asyncio.get_running_loop().create_server(talk, "127.0.0.1", port)
        boxes.port = server.sockets[0].getsockname()[1]
        try:
            yield boxes
        finally:
            server.close()
            await server.wait_closed()

    return start


async def until(condition):
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.05)


def settings(port, **changes):
    return {
        "mail": "on",
        "mail_server": f"127.0.0.1:{port}",
        "mail_sender": "re6st@example.org",
        "mail_domains": "example.org",
        "mail_user": "re6st",
    } | changes


async def test_from_the_address_to_the_node(tmp_path, mail_server):
    async with mail_server() as boxes, running(tmp_path / "registry") as registry:
        boxes.refuse = "550 no such user"
        client = registry.anonymous()
        await refused("mail-not-allowed", client.ask_invitation("anna@example.org"))
        registry.service.change_parameters({"registry_urls": registry.url})
        registry.service.change_policy(settings(boxes.port))
        for mailbox in ("eve@other.example", "nobody@example.org", "anna@example.org"):
            assert await client.ask_invitation(mailbox) is None
        await refused("malformed", client.ask_invitation("anna@example.org\nBcc: eve@other.example"))
        await until(lambda: all(row.state != "waiting" for row in registry.service.mails()))
        [(recipients, message)] = boxes.mails
        assert recipients == ["anna@example.org"]
        assert boxes.encrypted == [True]
        states = {row.mailbox: row.state for row in registry.service.mails()}
        assert states == {
            "eve@other.example": "refused",
            "nobody@example.org": "failed",
            "anna@example.org": "sent",
        }
        link = JoinLink.parse(re.search(r"join '(.*)'", message.get_payload())[1])
        assert link.fingerprint == registry.service.fingerprint
        await client.enrol(link.token, build_request(generate_key(), "attic"))
        assert registry.service.member("attic").node.released is None


async def test_a_server_that_is_down_is_tried_again(tmp_path, mail_server, monkeypatch):
    monkeypatch.setattr("re6st.registry.invitations.FIRST_DELAY", 1.0)
    async with mail_server() as first:
        port = first.port
    async with running(tmp_path / "registry") as registry:
        registry.service.change_parameters({"registry_urls": registry.url})
        registry.service.change_policy(settings(port))
        await registry.anonymous().ask_invitation("anna@example.org")
        await until(lambda: "cannot" in registry.service.mails()[0].reason)
        async with mail_server(port) as second:
            await until(lambda: registry.service.mails()[0].state == "sent")
            assert len(second.mails) == 1


async def test_the_settings_can_be_tried(tmp_path, mail_server, monkeypatch):
    def run():
        return CliRunner().invoke(
            cli, ["--state", str(tmp_path / "registry"), "mail", "test", "a@example.org"]
        )

    async with mail_server() as boxes:
        async with running(tmp_path / "registry") as registry:
            registry.service.change_policy(settings(boxes.port))
        done = await asyncio.to_thread(run)
        assert done.exit_code == 0, (done.output, done.exception)
        assert len(boxes.mails) == 1
        # A server that the system does not trust gets neither password nor mail.
        monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
        done = await asyncio.to_thread(run)
        assert "bad certificate or TLS" in str(done.exception), done.exception
        assert len(boxes.mails) == 1
