"""Two openvpn processes on loopback accept each other's node certificates, and nobody else's.

They have no tun device (``dev null``): what is tried is the TLS handshake with ``--ca``,
``--peer-fingerprint``, ``--remote-cert-tls`` and ``--verify-x509-name``, as tunnels use them.
"""

import contextlib
import socket
import subprocess
import time
from ipaddress import IPv6Network

import pytest

from re6st.identity import der_to_pem, fingerprint, generate_key, key_to_pem
from re6st.registry.authority import Authority, build_authority

NETWORK = IPv6Network("2001:db8:42::/48")


def found(network=NETWORK):
    key = generate_key()
    return Authority(build_authority(key, network, time.time()), key)


class End:
    """Files of one end of a tunnel."""

    def __init__(self, directory, name, prefix, authority):
        self.directory, self.name = directory, name
        key = generate_key()
        self.der = authority.issue_node(key.public_key(), name, IPv6Network(prefix), time.time())
        (directory / f"{name}.key").touch(mode=0o600)
        (directory / f"{name}.key").write_bytes(key_to_pem(key))
        (directory / f"{name}.pem").write_bytes(der_to_pem(self.der))
        self.log = directory / f"{name}.log"

    @contextlib.contextmanager
    def openvpn(self, peer, role, port):
        digits = fingerprint(peer.der)
        pairs = ":".join(digits[at : at + 2] for at in range(0, 64, 2))
        arguments = [
            "openvpn",
            "--dev",
            "null",
            "--proto",
            "udp4",
            "--nobind" if role == "client" else "--bind",
        ]
        arguments += ["--local", "127.0.0.1", "--lport", str(port)] if role == "server" else []
        arguments += ["--remote", "127.0.0.1", str(port)] if role == "client" else []
        arguments += [f"--tls-{role}", "--dh", "none"] if role == "server" else [f"--tls-{role}"]
        arguments += ["--ca", str(self.directory / "ca.pem"), "--peer-fingerprint", pairs]
        arguments += ["--cert", str(self.directory / f"{self.name}.pem")]
        arguments += ["--key", str(self.directory / f"{self.name}.key")]
        arguments += ["--remote-cert-tls", "client" if role == "server" else "server"]
        arguments += ["--verify-x509-name", peer.name, "name", "--tls-version-min", "1.3", "--verb", "3"]
        with self.log.open("wb") as log, subprocess.Popen(arguments, stdout=log, stderr=log) as child:
            try:
                yield
            finally:
                child.kill()


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect(server, client, *, until):
    """Run both ends until the client's or server's log has one of the texts ``until``; return both logs."""
    port = free_port()
    with server.openvpn(client, "server", port), client.openvpn(server, "client", port):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            logs = server.log.read_text() + client.log.read_text()
            if until in logs:
                return logs
            time.sleep(0.05)
    raise AssertionError(f"{until!r} did not appear:\n{logs}")


@pytest.mark.parametrize("prefixes", [("2001:db8:42::/64", "2001:db8:42:10::/60"),
                                      ("2001:db8:42:1:2::/80", "2001:db8:42:1::300/120")])  # fmt: skip
def test_nodes_of_one_network(tmp_path, prefixes):
    authority = found()
    (tmp_path / "ca.pem").write_bytes(der_to_pem(authority.certificate))
    attic, cellar = (
        End(tmp_path, name, prefix, authority)
        for name, prefix in zip(("attic", "cellar"), prefixes, strict=True)
    )
    logs = connect(attic, cellar, until="Peer Connection Initiated")
    assert "TLSv1.3" in logs


def test_a_prefix_outside_the_network(tmp_path):
    authority = found()
    (tmp_path / "ca.pem").write_bytes(der_to_pem(authority.certificate))
    attic = End(tmp_path, "attic", "2001:db8:42::/64", authority)
    foreign = End(tmp_path, "foreign", "2001:db8:43::/64", authority)
    logs = connect(attic, foreign, until="VERIFY ERROR")
    assert "permitted subtree violation" in logs or "subset of parent" in logs


def test_another_networks_node(tmp_path):
    authority = found()
    (tmp_path / "ca.pem").write_bytes(der_to_pem(authority.certificate))
    attic = End(tmp_path, "attic", "2001:db8:42::/64", authority)
    stranger = End(tmp_path, "stranger", "2001:db8:42:1::/64", found())
    logs = connect(attic, stranger, until="VERIFY ERROR")
    assert "unable to get local issuer" in logs or "certificate signature failure" in logs
