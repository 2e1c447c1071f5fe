"""A tunnel of a real OpenVPN that comes in at the port of an HTTPS server.

openvpn dialer ---- 127.0.0.1:port [Gate: TLS? a tunnel's?] ---- 127.0.0.1:own port of the tunnel
"""

import asyncio
import contextlib
import socket
import ssl
import subprocess

import pytest

from re6st.gate import Gate, Limits
from re6st.node.port_share import PortShare
from re6st.tunnel.openvpn import generate_static_key
from re6st.tunnel.tls_crypt import is_from_dialer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pki")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=test -days 1"
    subprocess.run(
        ["openssl", *words.split(), "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=directory,
        check=True,
        capture_output=True,
    )
    return directory


def listening() -> socket.socket:
    found = socket.create_server(("127.0.0.1", 0))
    found.setblocking(False)
    return found


def dial(directory, port: int, key: str) -> subprocess.Popen[bytes]:
    """Run the end that dials, which needs no interface until the handshake is over."""
    path = directory / f"{port}.key"
    path.write_text(key)
    argv = ["openvpn", "--dev", "null", "--tls-client", "--proto", "tcp4-client", "--nobind"]
    argv += ["--remote", "127.0.0.1", str(port), "--tls-crypt", str(path), "--ca", "cert.pem"]
    argv += ["--cert", "cert.pem", "--key", "key.pem", "--connect-retry", "1", "1"]
    return subprocess.Popen(argv, cwd=directory, stdout=subprocess.DEVNULL)


async def test_openvpn_and_https_at_one_port(certificate):
    key, share = generate_static_key(), PortShare()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    listener, tunnel = listening(), listening()
    port = listener.getsockname()[1]
    shaken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    class Https(asyncio.Protocol):
        def connection_made(self, transport):
            shaken.set_result(True)
            transport.close()

    gate = Gate(Https, context, Limits(total=8, for_each_address=8), share.take)
    gate.open(listener)
    share.expect(1, generate_static_key())
    share.expect(tunnel.getsockname()[1], key)
    loop = asyncio.get_running_loop()
    dialer = dial(certificate, port, key)
    try:
        async with asyncio.timeout(120):
            inner, _ = await loop.sock_accept(tunnel)
            with inner:
                got = await loop.sock_recv(inner, 1000)
                assert is_from_dialer(got[2:], key)
                assert not is_from_dialer(got[2:], generate_static_key())
                changed = got[:-1] + bytes([got[-1] ^ 1])
                assert not is_from_dialer(changed[2:], key)

                trusting = ssl.create_default_context()
                trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
                _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
                assert await shaken
                writer.close()

            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"SSH-2.0-stranger\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
    finally:
        dialer.kill()
        dialer.wait()
        await gate.close()
        tunnel.close()
