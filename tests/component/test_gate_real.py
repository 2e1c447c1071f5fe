"""re6st.gate on loopback: silent connections shut nobody out, and the number of all is bounded."""

import asyncio
import contextlib
import socket
import ssl
import time
from ipaddress import IPv6Network

import pytest

from re6st import gate as gates
from re6st.gate import Gate, Limits, source_group
from re6st.identity import der_to_pem, generate_key, key_to_pem
from re6st.node.credentials import CredentialFiles, load_credentials
from re6st.registry.authority import Authority, build_authority


class Echo(asyncio.Protocol):
    """Says back what it hears."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


@pytest.fixture
def credentials(tmp_path):
    key, network = generate_key(), IPv6Network("2001:db8:42::/48")
    authority = Authority(build_authority(key, network, time.time() - 60), key)
    own = generate_key()
    files = CredentialFiles(tmp_path)
    files.prepare()
    files.key.write_bytes(key_to_pem(own))
    der = authority.issue_node(
        own.public_key(), "one", IPv6Network("2001:db8:42:1::/64"), time.time() - 30, 9999.0
    )
    files.certificate.write_bytes(der_to_pem(der))
    files.store_authorities([authority.certificate])
    return load_credentials(tmp_path, time.time())


class World:
    """A server behind a gate."""

    def __init__(self, credentials, limits, divert=None):
        self.gate = Gate(Echo, credentials.server_context(), limits, divert)
        self.context = credentials.client_context()
        self.name = str(credentials.certificate.prefix[1])
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.gate.open(listener)
        self.opened = []

    async def silent(self, count, source="127.0.0.1"):
        loop = asyncio.get_running_loop()
        for _ in range(count):
            client = socket.socket()
            client.setblocking(False)
            client.bind((source, 0))
            await loop.sock_connect(client, ("127.0.0.1", self.port))
            self.opened.append(client)

    async def connect(self, source="127.0.0.1"):
        return await asyncio.open_connection(
            "127.0.0.1",
            self.port,
            ssl=self.context,
            server_hostname=self.name,
            local_addr=(source, 0),
        )

    async def echo(self, reader, writer):
        writer.write(b"hello")
        return await asyncio.wait_for(reader.readexactly(5), 30)

    async def until(self, count, seconds=30.0):
        async with asyncio.timeout(seconds):
            while self.gate.connections != count:
                await asyncio.sleep(0.01)


@pytest.fixture
async def make(credentials):
    worlds = []

    def build(limits, divert=None):
        worlds.append(World(credentials, limits, divert))
        return worlds[-1]

    yield build
    for world in worlds:
        await world.gate.close()
        for client in world.opened:
            client.close()


async def test_silent_connections_push_out_no_connection_of_another_kind(make):
    async def say_back(accepted):
        loop = asyncio.get_running_loop()
        while heard := await loop.sock_recv(accepted, 100):
            await loop.sock_sendall(accepted, heard)

    async def divert(accepted):
        accepted.setblocking(False)
        first = await asyncio.get_running_loop().sock_recv(accepted, 1)
        return say_back(accepted) if first == b"!" else None

    world = make(Limits(total=8, for_each_address=4), divert)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(b"!a")
    assert await asyncio.wait_for(reader.readexactly(1), 30) == b"a"
    await world.silent(20)
    await world.until(4)
    writer.write(b"b")
    assert await asyncio.wait_for(reader.readexactly(1), 30) == b"b"
    writer.close()
    await world.until(3)


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
async def test_200_silent_connections_do_not_keep_an_honest_client_out(make, source):
    world = make(Limits(total=128, for_each_address=32))
    await world.silent(200)
    await world.until(32)
    async with asyncio.timeout(2):
        reader, writer = await world.connect(source)
        assert await world.echo(reader, writer) == b"hello"
    assert world.gate.connections <= 33
    writer.close()


async def test_silent_connections_from_many_addresses_do_not_either(make):
    world = make(Limits(total=16, for_each_address=4))
    for number in range(1, 11):
        await world.silent(4, f"127.0.1.{number}")
    await world.until(16)
    async with asyncio.timeout(2):
        assert await world.echo(*await world.connect()) == b"hello"
    assert world.gate.connections == 16


async def test_silence_after_the_handshake_is_silence_too(make):
    world = make(Limits(total=8, for_each_address=2))
    quiet = [await world.connect() for _ in range(2)]
    await world.until(2)
    async with asyncio.timeout(2):
        assert await world.echo(*await world.connect()) == b"hello"
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        assert await asyncio.wait_for(quiet[0][0].read(), 30) == b""


async def test_connections_in_use_are_kept_and_the_newcomer_is_refused(make):
    world = make(Limits(total=8, for_each_address=2))
    used = [await world.connect() for _ in range(2)]
    for one in used:
        await world.echo(*one)
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await world.connect()
    used.append(await world.connect("127.0.0.2"))
    for one in used:
        assert await world.echo(*one) == b"hello"
    used[0][1].close()
    await world.until(2)
    assert await world.echo(*await world.connect()) == b"hello"


async def test_a_handshake_has_to_end_soon(make, monkeypatch):
    monkeypatch.setattr(gates, "HANDSHAKE_TIMEOUT", 0.2)
    world = make(Limits())
    await world.silent(3)
    await world.until(3)
    await world.until(0)


async def test_closing_ends_handshakes_at_once(make):
    world = make(Limits())
    await world.silent(3)
    await world.until(3)
    async with asyncio.timeout(1):
        await world.gate.close()
    assert world.gate.connections == 0


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1:2", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        (None, ""),
    ],
)
def test_addresses_are_counted_by_what_one_host_has(address, group):
    assert source_group(address) == group
