"""STUN between real sockets: the server, the observation of a port, and a router that changes it."""

import asyncio
import os
import socket

import pytest

from re6st import stun
from re6st.errors import ProtocolError, RemoteProtocolError
from re6st.messages import Endpoint, Transport
from re6st.node import holes
from re6st.node.stun_server import BURST, StunServer

HOST = "127.0.0.1"


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@pytest.fixture
async def servers():
    started = [StunServer(free_port()) for _ in range(2)]
    for server in started:
        await server.start()
    yield [Endpoint(Transport.UDP, HOST, server._port) for server in started]
    for server in started:
        await server.stop()


async def test_a_port_is_observed_by_two_servers(servers):
    silent = Endpoint(Transport.UDP, HOST, free_port())
    burrow = await holes.observe([silent, *servers])
    assert burrow.hole.endpoint == Endpoint(Transport.UDP, HOST, burrow.port)
    assert burrow.hole.predictable
    with pytest.raises(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", burrow.port))
    burrow.close()


async def test_a_node_without_anybody_to_ask_says_so():
    with pytest.raises(ProtocolError, match="no reachable node"):
        await holes.observe([])
    with pytest.raises(ProtocolError, match="UDP may be blocked"):
        await holes.observe([Endpoint(Transport.UDP, HOST, free_port())])


async def test_an_answer_leaves_from_the_address_that_was_asked(servers):
    """127.0.0.2 is not the one that the kernel would choose."""
    observed = await holes.observe([Endpoint(Transport.UDP, "127.0.0.2", servers[0].port)])
    assert observed.hole.endpoint.address in {HOST, "127.0.0.2"}
    observed.close()


async def test_ipv6_is_answered_and_garbage_is_not(servers):
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        asking.bind(("::1", 0))
        transaction = stun.new_transaction()
        for message in (b"", os.urandom(200), b"\0" * 2000, stun.binding_request(transaction)):
            await loop.sock_sendto(asking, message, ("::1", servers[0].port))
        answer = await asyncio.wait_for(loop.sock_recv(asking, 2000), 30)
        address, port = stun.read_response(answer, transaction)
        assert (str(address), port) == asking.getsockname()[:2]


async def test_a_flood_is_answered_in_part_only(servers):
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        asking.bind((HOST, 0))
        target = (HOST, servers[0].port)
        count = int(10 * BURST)
        answered = 0
        for _ in range(count):
            await loop.sock_sendto(asking, stun.binding_request(stun.new_transaction()), target)
            await asyncio.sleep(0)
        try:
            while True:
                await asyncio.wait_for(loop.sock_recv(asking, 2000), 0.5)
                answered += 1
        except TimeoutError:
            pass
        assert BURST <= answered < count / 2


def test_a_datagram_from_a_raw_socket_is_what_it_should_be():
    """The kernel fills in what is left open; the payload is no STUN and no OpenVPN."""
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((HOST, 0))
        receiver.settimeout(60)
        target = Endpoint(Transport.UDP, HOST, receiver.getsockname()[1])
        original, holes.OPENING = holes.OPENING, (0.0, 0.0)
        try:
            asyncio.run(holes.keep_opening(port, target))
        finally:
            holes.OPENING = original
        payload, source = receiver.recvfrom(100)
    assert source == (HOST, port)
    with pytest.raises(RemoteProtocolError):
        stun.read_request(payload)
