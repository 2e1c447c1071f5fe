"""The control API between two nodes over real TLS on loopback: who is let in, and what bad input does."""

import asyncio
import socket
import ssl
import time
from ipaddress import IPv6Network

import aiohttp
import pytest

from re6st.core.events import Document
from re6st.errors import ConfigError, RemoteProtocolError, RevokedError, UntrustedError
from re6st.identity import der_to_pem, generate_key, key_to_pem, sign_document
from re6st.messages import (
    MAXIMUM_BODY,
    Endpoint,
    Gossip,
    NetworkParameters,
    PeerRecord,
    ReachabilityAnswer,
    RefusalReason,
    Revocations,
    Transport,
    TunnelRefusal,
    TunnelRequest,
    encode,
)
from re6st.node.cache import Cache
from re6st.node.control_client import ControlClient, PeerUnreachableError
from re6st.node.control_server import ControlServer
from re6st.node.credentials import CredentialFiles, load_credentials
from re6st.node.departure import say_farewell
from re6st.node.documents import Documents
from re6st.node.verifier import Verifier
from re6st.peers import open_record, seal_record
from re6st.registry.authority import Authority, build_authority

NETWORK = IPv6Network("2001:db8:42::/48")


def make_authority(network=NETWORK):
    key = generate_key()
    return Authority(build_authority(key, network, time.time() - 100 * 86_400), key)


def make_node(directory, authority, number, *, now=None, validity=86_400.0, name=None):
    """Return credentials of a node, as a join would have written them."""
    prefix = IPv6Network((int(authority.network.network_address) + (number << 64), 64))
    key = generate_key()
    files = CredentialFiles(directory)
    files.prepare()
    der = authority.issue_node(
        key.public_key(), name or f"node{number}", prefix, now or time.time(), validity
    )
    files.key.write_bytes(key_to_pem(key))
    files.certificate.write_bytes(der_to_pem(der))
    files.store_authorities([authority.certificate])
    return load_credentials(directory, (now or time.time()) + 1)


def record_of(credentials, *endpoints, sequence=1):
    certificate = credentials.certificate
    record = PeerRecord(
        prefix=str(certificate.prefix), name=certificate.name, sequence=sequence, endpoints=endpoints
    )
    return seal_record(credentials.key, certificate.der, record)


class Service:
    """Answers all requests, and remembers them."""

    def __init__(self, credentials):
        self.revoked = frozenset()
        self.verifier = Verifier(credentials.trust, lambda: self.revoked, time.time)
        self.record = record_of(credentials)
        self.calls = []
        self.documents = {}

    def identify(self, der):
        return self.verifier.identify(der)

    async def tunnel_requested(self, caller, request, local, remote):
        self.calls.append((caller.name, request.boot_id, local, remote))
        return TunnelRefusal(reason=RefusalReason.FULL, hints=(self.record,))

    def tunnel_cancelled(self, caller, name):
        self.calls.append((caller.name, name))

    def gossip_received(self, caller, gossip):
        self.calls.append((caller.name, len(gossip.records)))
        return Gossip(records=(self.record,), parameters_version=3)

    async def reachability_requested(self, caller, request):
        self.calls.append((caller.name, self.verifier.open(request.record).name))
        return ReachabilityAnswer(results=())

    def document(self, document):
        return self.documents.get(document)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class World:
    """A listening node and the means to call it."""

    def __init__(self, directory):
        self.directory = directory
        self.authority = make_authority()
        self.listener = make_node(directory / "listener", self.authority, 1)
        self.port = free_port()
        self.endpoint = Endpoint(Transport.TCP, "127.0.0.1", self.port)
        self.service = Service(self.listener)
        self.server = ControlServer(self.service, self.port)
        signed = record_of(self.listener, self.endpoint)
        self.peer = open_record(signed, self.listener.trust, time.time())

    async def client(self, credentials):
        verifier = Verifier(credentials.trust, frozenset, time.time)
        client = ControlClient(verifier, 4226)
        await client.start(credentials.client_context())
        return client

    async def raw(self, credentials, method, path, body):
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method,
                f"https://127.0.0.1:{self.port}{path}",
                data=body,
                ssl=credentials.client_context(),
                server_hostname=str(self.peer.address),
            ) as response,
        ):
            return response.status, await response.text()


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path)
    await world.server.start(world.listener.server_context())
    yield world
    await world.server.stop()


@pytest.fixture
async def dialer(world):
    return make_node(world.directory / "dialer", world.authority, 2)


@pytest.fixture
async def client(world, dialer):
    client = await world.client(dialer)
    yield client
    await client.stop()


def tunnel_request(credentials):
    return TunnelRequest(
        protocol=1,
        boot_id="boot",
        record=record_of(credentials),
        drivers=("openvpn",),
        transports=(Transport.UDP,),
        mtu=1280,
    )


async def test_a_request_reaches_the_service_with_the_callers_identity(world, dialer, client):
    answer = await client.request_tunnel(world.peer, [world.endpoint], tunnel_request(dialer))
    assert answer.reason is RefusalReason.FULL
    assert answer.hints == (world.service.record,)
    assert world.service.calls == [("node2", "boot", "127.0.0.1", "127.0.0.1")]


async def test_gossip_cancelling_and_documents(world, dialer, client):
    world.service.documents[Document.PARAMETERS] = sign_document(world.authority.key, "parameters", b"{}")
    answer = await client.exchange_gossip(
        world.peer, Gossip(records=(record_of(dialer),) * 2), [world.endpoint]
    )
    assert answer.parameters_version == 3
    await client.cancel_tunnel(world.peer, "abcd", [world.endpoint])
    assert ("node2", 2) in world.service.calls
    assert ("node2", "abcd") in world.service.calls
    assert (await world.raw(dialer, "GET", "/v1/parameters", b""))[0] == 200
    assert (await world.raw(dialer, "GET", "/v1/revocations", b""))[0] == 404


async def test_cancelling_dials_no_endpoint_but_those_that_were_chosen(world, client):
    assert world.peer.endpoints == (world.endpoint,)
    with pytest.raises(PeerUnreachableError):
        await client.cancel_tunnel(world.peer, "abcd")
    assert world.service.calls == []


async def test_a_farewell_goes_nowhere_but_to_the_underlay(world, dialer, tmp_path):
    cache = Cache(tmp_path / "cache.sqlite")
    cache.store([(world.peer.prefix, world.peer.signed)], ())
    documents = Documents(tmp_path, dialer.trust)
    assert await say_farewell(dialer, cache, documents, 4226) == 0
    cache.close()
    assert world.service.calls == []


async def test_a_dead_endpoint_does_not_hide_a_good_one(world, dialer, client):
    dead = Endpoint(Transport.TCP, "127.0.0.1", free_port())
    answer = await client.request_tunnel(world.peer, [dead, world.endpoint], tunnel_request(dialer))
    assert isinstance(answer, TunnelRefusal)


async def test_a_peer_is_asked_once_however_many_ways_lead_to_it(world, dialer, client, monkeypatch):
    monkeypatch.setattr("re6st.node.control_client.STAGGER", 0.0)
    answer = world.service.tunnel_requested

    async def answer_late(*arguments):
        refusal = await answer(*arguments)
        await asyncio.sleep(0.2)
        return refusal

    monkeypatch.setattr(world.service, "tunnel_requested", answer_late)
    await client.request_tunnel(world.peer, [world.endpoint] * 4, tunnel_request(dialer))
    assert len(world.service.calls) == 1


async def test_an_endpoint_that_leads_to_someone_else_is_refused(world, dialer, client):
    other = make_node(world.directory / "other", world.authority, 3)
    peer = open_record(record_of(other, world.endpoint), other.trust, time.time())
    with pytest.raises(PeerUnreachableError, match="is not node3"):
        await client.request_tunnel(peer, [world.endpoint], tunnel_request(dialer))
    assert world.service.calls == []


async def test_a_certificate_of_another_network_gets_no_answer(world, client):
    stranger = make_node(world.directory / "stranger", make_authority(), 2)
    intruder = await world.client(stranger)
    try:
        with pytest.raises(PeerUnreachableError):
            await intruder.request_tunnel(world.peer, [world.endpoint], tunnel_request(stranger))
    finally:
        await intruder.stop()
    assert world.service.calls == []


async def test_an_expired_certificate_gets_no_answer(world):
    past = time.time() - 10 * 86_400
    expired = make_node(world.directory / "expired", world.authority, 4, now=past)
    late = await world.client(expired)
    try:
        with pytest.raises(PeerUnreachableError):
            await late.request_tunnel(world.peer, [world.endpoint], tunnel_request(expired))
    finally:
        await late.stop()
    assert world.service.calls == []


async def test_a_revoked_caller_is_refused_with_a_reason(world, dialer):
    world.service.revoked = frozenset([dialer.certificate.serial_hex])
    status, body = await world.raw(dialer, "POST", "/v1/gossip", b"{}")
    assert status == 403
    assert "is revoked" in body
    assert world.service.calls == []


async def test_a_caller_without_certificate_is_not_let_in(world, dialer):
    context = ssl.create_default_context(cadata=world.authority.certificate)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.get(
                f"https://127.0.0.1:{world.port}/v1/parameters",
                ssl=context,
                server_hostname=str(world.peer.address),
            ) as response:
                await response.read()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/gossip", b"not json", 400),
        ("/v1/gossip", b'{"records": 3}', 400),
        ("/v1/gossip", b'{"records": [], "unknown": {"x": 1}}', 200),
        ("/v1/gossip", b"x" * (MAXIMUM_BODY + 1), 413),
        ("/v1/tunnels", b"{}", 400),
        ("/v1/nothing", b"{}", 404),
    ],
)
async def test_bad_bodies_get_a_problem_and_change_nothing(world, dialer, path, body, status):
    answer, text = await world.raw(dialer, "POST", path, body)
    assert answer == status, text
    if status != 200:
        assert "detail" in text
        assert world.service.calls == []


async def test_garbage_on_the_port_does_not_disturb_others(world, dialer, client):
    _, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(b"GET / HTTP/1.0\r\n\r\n" + bytes(range(256)) * 40)
    await writer.drain()
    answer = await client.request_tunnel(world.peer, [world.endpoint], tunnel_request(dialer))
    assert isinstance(answer, TunnelRefusal)
    writer.close()


async def test_a_port_in_use_is_said_with_what_to_do(world):
    with pytest.raises(ConfigError, match=f"TCP port {world.port} is in use.*control-port"):
        await ControlServer(world.service, world.port).start(world.listener.server_context())


def parameters(version, network=str(NETWORK)):
    return encode(NetworkParameters(version=version, network=network))


def test_documents_only_go_forward_and_survive_a_restart(tmp_path):
    authority = make_authority()
    documents = Documents(tmp_path, authority.trust)
    new = sign_document(authority.key, "parameters", parameters(5))
    old = sign_document(authority.key, "parameters", parameters(4))
    assert documents.accept(Document.PARAMETERS, new)
    assert not documents.accept(Document.PARAMETERS, old)
    revoked = sign_document(authority.key, "revocations", encode(Revocations(version=2, serials=("ab",))))
    assert documents.accept(Document.REVOCATIONS, revoked)
    again = Documents(tmp_path, authority.trust)
    assert again.parameters.version == 5
    assert again.revoked == {"ab"}
    assert again.signed(Document.PARAMETERS) == new


def test_documents_of_others_or_for_others_are_refused(tmp_path):
    authority = make_authority()
    documents = Documents(tmp_path, authority.trust)
    with pytest.raises(UntrustedError):
        documents.accept(Document.PARAMETERS, sign_document(generate_key(), "parameters", parameters(9)))
    with pytest.raises(UntrustedError):
        documents.accept(Document.PARAMETERS, sign_document(authority.key, "revocations", parameters(9)))
    for payload in (parameters(9, "2001:db8:43::/48"), parameters(9, "nonsense"), b"{"):
        with pytest.raises(RemoteProtocolError):
            documents.accept(Document.PARAMETERS, sign_document(authority.key, "parameters", payload))
    assert documents.parameters.version == 0


def test_a_damaged_document_on_disk_is_ignored_with_a_warning(tmp_path, caplog):
    authority = make_authority()
    (tmp_path / "parameters.json").write_bytes(b"\0\xff")
    assert Documents(tmp_path, authority.trust).parameters.version == 0
    assert "Ignoring the stored parameters" in caplog.text


def test_a_revoked_record_is_not_believed(tmp_path):
    authority = make_authority()
    node = make_node(tmp_path / "node", authority, 1)
    revoked = set()
    verifier = Verifier(authority.trust, lambda: frozenset(revoked), time.time)
    record = record_of(node)
    assert verifier.open(record).name == "node1"
    revoked.add(node.certificate.serial_hex)
    with pytest.raises(RevokedError):
        verifier.open(record)
    assert verifier.open_all([record]) == ()
