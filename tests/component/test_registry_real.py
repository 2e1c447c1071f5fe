"""The registry's HTTPS server on loopback, asked by the client that nodes use."""

import asyncio
import base64
import contextlib
import datetime
import ipaddress
import json
import socket
import ssl
import time
from dataclasses import replace
from ipaddress import IPv6Network

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from re6st.errors import (
    ConfigError,
    ExpiredError,
    RegistryRefusedError,
    RegistryUnavailableError,
    RevokedError,
    UntrustedError,
)
from re6st.identity import (
    CONTEXT_PARAMETERS,
    CONTEXT_REVOCATIONS,
    REGISTRY_NAME,
    TrustStore,
    build_request,
    der_to_pem,
    fingerprint,
    generate_key,
    key_to_pem,
    parse_node_certificate,
)
from re6st.messages import (
    MAXIMUM_BODY,
    Endpoint,
    NetworkParameters,
    PeerRecord,
    Problem,
    Revocations,
    Transport,
    decode,
)
from re6st.peers import open_record, seal_record
from re6st.registry.client import ClientCertificate, JoinLink, RegistryClient, RegistryUrl, fetch_authorities
from re6st.registry.server import ListenAddress, PublicCertificate, RegistryServer
from re6st.registry.state import StateDirectory

NETWORK = IPv6Network("2001:db8:42::/48")


class Registry:
    """A running registry, and the operator's view of it."""

    def __init__(self, state, service, server):
        self.state, self.service, self.server = state, service, server
        self.authority = state.authority()
        self.trust = TrustStore([self.authority.certificate])
        self.url = f"https://{server.addresses[0]}"

    def link(self, **options):
        return JoinLink(RegistryUrl(self.url), self.service.fingerprint, self.service.create_token(**options))

    def anonymous(self, **options):
        return RegistryClient([self.url], [self.authority.certificate], **options)


@contextlib.asynccontextmanager
async def running(path, network=NETWORK, public=None, address="127.0.0.1", port=0):
    state = StateDirectory(path)
    if not state.database.exists():
        state.create(network)
    with state.service() as served, state.service() as operator:
        server = RegistryServer(state, served, public)
        await server.start([ListenAddress(address, port)])
        try:
            yield Registry(state, operator, server)
        finally:
            await server.stop()


@pytest.fixture
async def registry(tmp_path):
    async with running(tmp_path / "registry") as registry:
        yield registry


class Node:
    """What a node keeps after it joined."""

    def __init__(self, directory, registry, key, der):
        directory.mkdir()
        self.registry, self.key, self.der = registry, key, der
        self.certificate = parse_node_certificate(der)
        self.files = ClientCertificate(directory / "certificate.pem", directory / "key.pem")
        self.files.certificate.write_bytes(der_to_pem(der))
        self.files.key.write_bytes(key_to_pem(key))
        self.client = RegistryClient([registry.url], [registry.authority.certificate], self.files)

    def record(self, sequence=1, **changes):
        values = {
            "prefix": str(self.certificate.prefix),
            "name": self.certificate.name,
            "endpoints": (Endpoint(Transport.TCP, "192.0.2.7", 4226),),
        }
        return seal_record(self.key, self.der, PeerRecord(sequence=sequence, **(values | changes)))


async def join(registry, directory, name="", **options):
    """Do all that a new node does with a join link."""
    link = JoinLink.parse(str(registry.link(**options)))
    (authority,) = await fetch_authorities(link)
    key = generate_key()
    client = RegistryClient([link.url], [authority])
    enrolment = await client.enrol(link.token, build_request(key, name))
    TrustStore([authority]).verify(enrolment.certificate, time.time())
    return Node(directory, registry, key, enrolment.certificate)


async def refused(code, awaitable):
    with pytest.raises(RegistryRefusedError) as caught:
        await awaitable
    assert caught.value.code == code
    return str(caught.value)


# -- the whole way --------------------------------------------------------------------------------------


async def test_from_the_link_to_leaving(registry, tmp_path):
    first = await join(registry, tmp_path / "1", "attic")
    await first.client.publish(first.record())
    second = await join(registry, tmp_path / "2", "cellar", prefix_length=60)
    assert first.certificate.prefix == IPv6Network("2001:db8:42::/64")
    assert second.certificate.prefix == IPv6Network("2001:db8:42:10::/60")

    sample = await second.client.sample(5)
    assert [open_record(signed, registry.trust, time.time()).name for signed in sample.peers] == ["attic"]
    assert (sample.parameters_version, sample.revocations_version) == (1, 1)

    key = generate_key()
    renewed = await first.client.renew(build_request(key, "attic"))
    certificate = registry.trust.verify(renewed.certificate, time.time())
    assert (certificate.name, certificate.prefix) == ("attic", first.certificate.prefix)
    assert certificate.serial != first.certificate.serial
    again = Node(tmp_path / "1b", registry, key, renewed.certificate)
    await again.client.publish(again.record(2))

    await again.client.leave()
    await again.client.leave()
    revocations = decode(
        registry.trust.verify_document(CONTEXT_REVOCATIONS, await second.client.revocations()), Revocations
    )
    assert set(revocations.serials) == {first.certificate.serial_hex, certificate.serial_hex}
    assert (await second.client.sample()).peers == ()


async def test_what_the_operator_changes_is_in_force_at_once(registry, tmp_path):
    node = await join(registry, tmp_path / "1", "attic")
    await node.client.publish(node.record())
    registry.service.change_parameters({"hello_interval": "2"})
    document = await node.client.parameters()
    payload = registry.trust.verify_document(CONTEXT_PARAMETERS, document)
    assert decode(payload, NetworkParameters).version == 2
    registry.service.revoke("attic")
    for attempt in (
        node.client.publish(node.record(2)),
        node.client.renew(build_request(node.key, "")),
        node.client.sample(),
    ):
        with pytest.raises(RevokedError, match=r"was revoked on .* ask the operator"):
            await attempt


async def test_two_networks_do_not_mix(registry, tmp_path):
    async with running(tmp_path / "other", IPv6Network("fd42::/32")) as other:
        node = await join(registry, tmp_path / "1")
        stranger = await join(other, tmp_path / "2")
        assert stranger.certificate.prefix.subnet_of(IPv6Network("fd42::/32"))
        assert (
            other.service.current_parameters().babel_port != registry.service.current_parameters().babel_port
        )
        # The client refuses the wrong server, and does not show a certificate of another network.
        crossed = RegistryClient([other.url], [registry.authority.certificate], node.files)
        with pytest.raises(UntrustedError, match="is not the registry of this network"):
            await crossed.sample()
        foreign = RegistryClient([registry.url], [registry.authority.certificate], stranger.files)
        with pytest.raises(UntrustedError, match="not valid"):
            await foreign.sample()
        # The server does not rely on that: ask it without the client's own check.
        foreign._check_certificate = lambda: None
        with pytest.raises(RegistryUnavailableError, match="does not accept this node's certificate"):
            await foreign.sample()


async def test_over_ipv6(tmp_path):
    async with running(tmp_path / "r", address="::1") as registry:
        assert registry.url.startswith("https://[::1]:")
        await join(registry, tmp_path / "1", "attic")


# -- wrong links ----------------------------------------------------------------------------------------


async def test_a_wrong_fingerprint_sends_nothing(tmp_path):
    """The server that we reach is an impostor: it must see one question and no token."""
    seen = []

    async def handle(request):
        seen.append((request.method, request.path_qs, await request.read()))
        return web.Response(body=pem)

    async with running(tmp_path / "r") as registry:
        link = registry.link()
    impostor = StateDirectory(tmp_path / "impostor")
    impostor.create(NETWORK)
    pem = impostor.authority_certificate.read_bytes()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(impostor.server)
    async with plain_server(handle, context) as port:
        link = replace(link, url=RegistryUrl(f"https://127.0.0.1:{port}"))
        with pytest.raises(UntrustedError, match=r"but the join link says .*Nothing was sent") as caught:
            await fetch_authorities(link)
    assert link.fingerprint in str(caught.value)
    assert seen == [("GET", "/v1/ca", b"")]


@contextlib.asynccontextmanager
async def plain_server(handle, context=None):
    """Serve anything at any path, by HTTPS with ``context``, else by plain HTTP."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def link_to(port):
    return JoinLink(RegistryUrl(f"https://127.0.0.1:{port}"), "0" * 64, "x" * 32)


async def test_a_plain_http_server():
    async def handle(request):
        return web.Response(text="hello")

    async with plain_server(handle) as port:
        with pytest.raises(RegistryUnavailableError, match="does not speak HTTPS: check host and port"):
            await fetch_authorities(link_to(port))


async def test_another_https_server(tmp_path):
    state = StateDirectory(tmp_path / "x")
    state.create(NETWORK)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(state.server)
    answers = [
        (web.Response(text="<html>welcome"), UntrustedError, "does not answer like a registry"),
        (web.Response(status=404), RegistryUnavailableError, "does not answer like a registry"),
        (web.Response(status=302, headers={"Location": "/"}), RegistryUnavailableError, "302"),
        (web.Response(body=b"x" * (MAXIMUM_BODY + 1)), RegistryUnavailableError, "too much data"),
    ]  # fmt: skip
    for answer, kind, message in answers:

        async def handle(request, answer=answer):
            return answer

        async with plain_server(handle, context) as port:
            with pytest.raises(kind, match=message):
                await fetch_authorities(link_to(port))


async def test_nobody_there():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(RegistryUnavailableError, match="cannot be reached"):
            await fetch_authorities(link_to(unused.getsockname()[1]))
    unknown = replace(link_to(1), url=RegistryUrl("https://nowhere.invalid:8443"))
    with pytest.raises(RegistryUnavailableError, match="cannot be reached"):
        await fetch_authorities(unknown)


async def test_a_server_that_never_answers():
    async def swallow(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with server:
        with pytest.raises(RegistryUnavailableError, match=r"did not answer within 0\.3 s"):
            await fetch_authorities(link_to(server.sockets[0].getsockname()[1]), time_limit=0.3)


async def test_several_urls_are_tried(registry, tmp_path):
    node = await join(registry, tmp_path / "1")
    authorities = [registry.authority.certificate]
    client = RegistryClient(["https://127.0.0.1:1", registry.url], authorities, node.files)
    assert (await client.sample()).parameters_version == 1
    client = RegistryClient(["https://127.0.0.1:1", "https://127.0.0.1:2"], authorities)
    with pytest.raises(RegistryUnavailableError, match=r"127\.0\.0\.1:1 .*; .*127\.0\.0\.1:2 "):
        await client.parameters()
    with pytest.raises(ConfigError, match="no registry URL"):
        RegistryClient([], authorities)


# -- tokens and requests --------------------------------------------------------------------------------


async def test_tokens(registry):
    client = registry.anonymous()
    link, key = registry.link(name="attic"), generate_key()
    request = build_request(key, "")
    await refused("token-unknown", client.enrol("y" * 32, request))
    await refused("name-not-allowed", client.enrol(link.token, build_request(key, "cellar")))
    first = await client.enrol(link.token, request)
    assert (await client.enrol(link.token, request)).certificate == first.certificate
    text = await refused("token-used", client.enrol(link.token, build_request(generate_key(), "")))
    assert "ask the operator for another one" in text
    short = registry.link(lifetime=0.001)
    await asyncio.sleep(0.002)
    await refused("token-expired", client.enrol(short.token, request))
    await refused("name-taken", client.enrol(registry.link().token, build_request(generate_key(), "attic")))


async def test_requests_for_somebody_elses_prefix(registry, tmp_path):
    await join(registry, tmp_path / "1")
    key = generate_key()
    builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.IPv6Address("2001:db8:42::1"))]), critical=False
    )
    der = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    await refused("foreign-prefix", registry.anonymous().enrol(registry.link().token, der))
    await refused("request-malformed", registry.anonymous().enrol(registry.link().token, b"rubbish"))


async def test_many_enrolments_at_once_get_different_prefixes(registry):
    async def enrol(token):
        return await registry.anonymous().enrol(token, build_request(generate_key(), ""))

    enrolments = await asyncio.gather(*(enrol(registry.link().token) for _ in range(12)))
    assert len({parse_node_certificate(enrolment.certificate).prefix for enrolment in enrolments}) == 12


# -- certificates ---------------------------------------------------------------------------------------


async def test_without_a_certificate(registry):
    for attempt in (registry.anonymous().sample(), registry.anonymous().leave()):
        with pytest.raises(UntrustedError, match="TLS client certificate"):
            await attempt


async def test_an_expired_certificate(registry, tmp_path):
    key, prefix = generate_key(), IPv6Network("2001:db8:42:7::/64")
    der = registry.authority.issue_node(key.public_key(), "old", prefix, time.time() - 7200, 3600.0)
    node = Node(tmp_path / "1", registry, key, der)
    with pytest.raises(ExpiredError, match=r"valid only .* new join link"):
        await node.client.sample()
    # The server does not rely on that: ask it without the client's own check.
    node.client._check_certificate = lambda: None
    with pytest.raises(RegistryUnavailableError, match="does not accept this node's certificate"):
        await node.client.sample()


async def test_somebody_elses_record(registry, tmp_path):
    first, second = await join(registry, tmp_path / "1"), await join(registry, tmp_path / "2")
    await refused("record-foreign", first.client.publish(second.record()))
    await first.client.publish(first.record(4))
    await refused("record-outdated", first.client.publish(first.record(3)))
    await refused("record-invalid", first.client.publish(first.record(5, name="other")))


async def test_an_expired_server_certificate(tmp_path):
    state = StateDirectory(tmp_path / "x")
    state.create(NETWORK)
    authority, key = state.authority(), generate_key()
    der = authority.issue_server(key.public_key(), time.time() - 7200, 3600.0)
    (tmp_path / "old.pem").write_bytes(key_to_pem(key) + der_to_pem(der))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "old.pem")

    async def handle(request):
        raise AssertionError("nothing must be asked")

    async with plain_server(handle, context) as port:
        client = RegistryClient([f"https://127.0.0.1:{port}"], [authority.certificate])
        with pytest.raises(ExpiredError, match="check the clocks"):
            await client.enrol("x" * 32, b"request")


async def test_a_node_cannot_play_the_registry(registry, tmp_path):
    node = await join(registry, tmp_path / "1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(node.files.certificate, node.files.key)

    async def handle(request):
        raise AssertionError("nothing must be asked")

    async with plain_server(handle, context) as port:
        client = RegistryClient([f"https://127.0.0.1:{port}"], [registry.authority.certificate])
        with pytest.raises(UntrustedError, match="is not the registry of this network"):
            await client.enrol("x" * 32, b"request")


async def test_a_public_certificate(tmp_path, monkeypatch):
    """The registry's own name is vouched for by an authority that the system trusts."""
    key = generate_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 7)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "public.pem"
    file.write_bytes(key_to_pem(key) + certificate.public_bytes(serialization.Encoding.PEM))
    async with running(tmp_path / "r", public=PublicCertificate(file, file)) as registry:
        port = registry.server.addresses[0].port
        url = RegistryUrl(f"https://localhost:{port}", public=True)
        link = replace(registry.link(), url=url)
        with pytest.raises(UntrustedError, match="is not the registry"):
            await fetch_authorities(link)
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        assert fingerprint((await fetch_authorities(JoinLink.parse(str(link))))[0]) == link.fingerprint
        # Clients that trust the network's CA are served with its certificate at the same port.
        node = await join(registry, tmp_path / "1")
        client = RegistryClient([url], [registry.authority.certificate], node.files)
        assert (await client.sample()).parameters_version == 1


# -- hostile requests -----------------------------------------------------------------------------------


async def ask(registry, method, path, body=None, headers=None):
    context = ssl.create_default_context(cadata=registry.authority.certificate)
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method,
            registry.url + path,
            data=body,
            headers=headers,
            ssl=context,
            server_hostname=REGISTRY_NAME,
        ) as response,
    ):
        return response.status, response.content_type, await response.read()


@pytest.mark.parametrize(
    ("body", "status", "kind", "detail"),
    [
        (b"{", 400, "malformed", "not a valid EnrolmentRequest"),
        (b"\xff\xfe", 400, "malformed", "not a valid EnrolmentRequest"),
        (b"[" * 100_000, 400, "malformed", "not a valid EnrolmentRequest"),
        (b"[]", 400, "malformed", "Expected `object`"),
        (b'{"token": 7, "request": ""}', 400, "malformed", "$.token"),
        (b'{"token": "x"}', 400, "malformed", "request"),
        (b'{"token": "x", "request": "%%"}', 400, "malformed", "$.request"),
        (b'{"token": "' + b"x" * 200 + b'", "request": ""}', 400, "malformed", "$.token"),
        (b" " * (MAXIMUM_BODY + 1), 413, "too-large", "POST /v1/enrolments"),
    ],
)
async def test_bad_bodies_get_problem_documents(registry, body, status, kind, detail):
    answer = await ask(registry, "POST", "/v1/enrolments", body)
    assert answer[:2] == (status, "application/problem+json")
    problem = decode(answer[2], Problem)
    assert (problem.type, problem.status) == (kind, status)
    assert detail in problem.detail


async def test_unknown_fields_are_tolerated(registry):
    link = registry.link()
    request = base64.b64encode(build_request(generate_key(), "attic")).decode()
    body = {"colour": "green", "token": link.token, "request": request}
    status, _, _ = await ask(registry, "POST", "/v1/enrolments", json.dumps(body).encode())
    assert status == 201


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/nothing", 404, "http"),
        ("POST", "/v1/ca", 405, "http"),
        ("GET", "/v1/peers/sample", 401, "certificate-required"),
        ("DELETE", "/v1/nodes/self", 401, "certificate-required"),
    ],
)
async def test_wrong_questions(registry, method, path, status, kind):
    answer = await ask(registry, method, path)
    assert answer[0] == status
    assert decode(answer[2], Problem).type == kind


@pytest.mark.parametrize("count", ["0", "65", "-1", "x", "9" * 50, "1e1"])
async def test_wrong_counts(registry, tmp_path, count):
    node = await join(registry, tmp_path / "1")
    await refused("malformed", node.client.sample(count))


async def test_public_answers(registry):
    assert await ask(registry, "GET", "/healthz") == (200, "text/plain", b"ok\n")
    assert (await ask(registry, "GET", "/v1/ca"))[2] == der_to_pem(registry.authority.certificate)


async def test_the_api_describes_itself(registry):
    status, _, body = await ask(registry, "GET", "/v1/openapi.json")
    document = json.loads(body)
    assert status == 200
    renewal = document["paths"]["/v1/renewals"]["post"]
    assert renewal["security"] == [{"node": []}]
    assert "security" not in document["paths"]["/v1/enrolments"]["post"]
    assert set(document["components"]["schemas"]) >= {"Problem", "Enrolment", "SignedPeerRecord"}


async def test_a_body_that_never_ends(registry, monkeypatch):
    monkeypatch.setattr("re6st.registry.http.REQUEST_TIMEOUT", 0.2)

    async def drip():
        while True:
            yield b" "
            await asyncio.sleep(0.05)

    status, _, body = await ask(registry, "POST", "/v1/enrolments", drip())
    assert (status, decode(body, Problem).type) == (503, "timeout")


async def test_one_port_for_both_families(tmp_path):
    async with running(tmp_path / "r", address="::") as registry:
        port = registry.server.addresses[0].port
        for host in ("127.0.0.1", "[::1]"):
            link = replace(registry.link(), url=RegistryUrl(f"https://{host}:{port}"))
            assert fingerprint((await fetch_authorities(link))[0]) == link.fingerprint


async def test_a_storage_failure_is_not_told_to_strangers(registry):
    holder = registry.service._store
    with holder.transaction():
        holder.execute("DELETE FROM documents WHERE kind = 'parameters'")
    status, _, body = await ask(registry, "GET", "/v1/parameters")
    assert (status, decode(body, Problem).type) == (503, "storage")
    assert str(registry.state.path).encode() not in body
    with pytest.raises(RegistryUnavailableError, match="cannot answer now"):
        await registry.anonymous().parameters()


async def test_a_port_in_use(registry, tmp_path):
    state = StateDirectory(tmp_path / "other")
    state.create(NETWORK)
    with state.service() as service:
        server = RegistryServer(state, service)
        with pytest.raises(ConfigError, match="another program uses this port already"):
            await server.start([ListenAddress("127.0.0.1", 0), registry.server.addresses[0]])
        await server.stop()


async def test_who_waits_hears_of_a_revocation_at_once(registry, tmp_path):
    """The operator revokes in another process, so to say; who is revoked hears nothing but that."""
    listener, victim = [await join(registry, tmp_path / name, name) for name in ("listener", "victim")]
    known = await listener.client.versions()
    waiting = asyncio.create_task(listener.client.versions(known=known, wait=100))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    registry.service.revoke(victim.certificate.name)
    heard = await asyncio.wait_for(waiting, 20)
    assert heard.revocations_version == known.revocations_version + 1
    # Who knows less than there is does not wait.
    assert await asyncio.wait_for(listener.client.versions(known=known, wait=100), 20) == heard
    with pytest.raises(RevokedError):
        await victim.client.versions(known=heard, wait=100)


async def test_a_stopping_registry_lets_nobody_wait(tmp_path):
    async with running(tmp_path / "registry") as registry:
        node = await join(registry, tmp_path / "node")
        known = await node.client.versions()
        waiting = asyncio.create_task(node.client.versions(known=known, wait=100))
        await asyncio.sleep(0.2)
    assert await asyncio.wait_for(waiting, 20) == known
