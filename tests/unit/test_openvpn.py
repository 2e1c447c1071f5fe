"""re6st.tunnel.openvpn: command lines and files for OpenVPN."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from re6st.errors import ConfigError
from re6st.messages import Endpoint, Transport
from re6st.tunnel import openvpn
from re6st.tunnel.driver import Link
from re6st.tunnel.openvpn import Credentials, TunnelFiles

CREDENTIALS = Credentials(Path("/s/ca.crt"), Path("/s/node.crt"), Path("/s/node.key"))
FILES = TunnelFiles(Path("/r/tunnels/re6st3"))
LINK = Link(
    tunnel=7,
    interface="re6st3",
    peer_address=IPv6Address("2001:db8:42:1::1"),
    peer_name="alpha",
    peer_fingerprint="0a" * 32,
    key=openvpn.generate_static_key(),
    mtu=1400,
)


def option(argv: list[str], name: str) -> list[str]:
    """The arguments of the option ``name``; it must be there once."""
    assert argv.count(name) == 1, (name, argv)
    rest = argv[argv.index(name) + 1 :]
    end = next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))
    return rest[:end]


def test_both_ends_demand_ca_fingerprint_and_name() -> None:
    endpoint = Endpoint(Transport.UDP, "192.0.2.1", 4227)
    for argv in (
        openvpn.listener_argv(LINK, 4227, CREDENTIALS, FILES),
        openvpn.dialer_argv(LINK, endpoint, CREDENTIALS, FILES),
    ):
        assert option(argv, "--ca") == ["/s/ca.crt"]
        assert option(argv, "--peer-fingerprint") == [":".join(["0A"] * 32)]
        assert option(argv, "--verify-x509-name") == ["alpha", "name"]
        assert option(argv, "--tls-version-min") == ["1.3"]
        assert option(argv, "--tls-crypt") == ["/r/tunnels/re6st3/tls-crypt.key"]
        assert option(argv, "--data-ciphers") == ["AES-256-GCM"]
        assert option(argv, "--script-security") == ["1"]
        assert option(argv, "--tun-mtu") == ["1400"]
        assert option(argv, "--dev") == ["re6st3"]
        assert LINK.key not in argv


def test_packets_are_cut_at_both_ends_or_none() -> None:
    endpoint = Endpoint(Transport.UDP, "192.0.2.1", 4227)
    for fragments in (False, True):
        link = replace(LINK, fragments=fragments)
        for argv in (
            openvpn.listener_argv(link, 4227, CREDENTIALS, FILES),
            openvpn.dialer_argv(link, endpoint, CREDENTIALS, FILES),
        ):
            assert ("--fragment" in argv) is fragments
            if fragments:
                assert option(argv, "--fragment") == ["1132"]


def test_a_listener_serves_both_address_families_and_checks_for_a_client() -> None:
    argv = openvpn.listener_argv(LINK, 4230, CREDENTIALS, FILES)
    assert option(argv, "--proto") == ["udp6"]
    assert option(argv, "--lport") == ["4230"]
    assert option(argv, "--remote-cert-tls") == ["client"]
    assert "--multihome" in argv
    assert "--local" not in argv


@pytest.mark.parametrize(
    ("endpoint", "protocol"),
    [
        (Endpoint(Transport.UDP, "192.0.2.1", 4227), "udp4"),
        (Endpoint(Transport.UDP, "2001:db8::1", 4227), "udp6"),
        (Endpoint(Transport.TCP, "192.0.2.1", 4227), "tcp4-client"),
        (Endpoint(Transport.TCP, "2001:db8::1", 4227), "tcp6-client"),
    ],
)
def test_a_dialer_uses_the_family_and_transport_of_the_endpoint(endpoint: Endpoint, protocol: str) -> None:
    argv = openvpn.dialer_argv(LINK, endpoint, CREDENTIALS, FILES)
    assert option(argv, "--proto") == [protocol]
    assert option(argv, "--remote") == [endpoint.address, "4227"]
    assert ("--socket-flags" in argv) == (endpoint.transport is Transport.TCP)
    assert ("--explicit-exit-notify" in argv) == (endpoint.transport is Transport.UDP)


@pytest.mark.parametrize("transport", Transport)
@pytest.mark.parametrize("count", range(1, 9))
def test_each_endpoint_is_tried_within_the_time_that_a_tunnel_may_take_to_open(
    count: int, transport: Transport
) -> None:
    left, shares = float(openvpn.HANDSHAKES), []
    for later in reversed(range(count)):
        shares.append(openvpn.share_patience(transport, left, later))
        left -= shares[-1]
    assert min(shares) >= 1
    assert sum(shares) < 15
    argv = openvpn.dialer_argv(LINK, Endpoint(transport, "192.0.2.1", 4227), CREDENTIALS, FILES, shares[0])
    assert option(argv, "--hand-window") == option(argv, "--connect-timeout") == [str(shares[0])]


def test_what_one_endpoint_did_not_need_is_for_those_that_come_later() -> None:
    """OpenVPN takes up to five seconds over TCP, which are there after one endpoint that was refused."""
    assert openvpn.share_patience(Transport.TCP, openvpn.HANDSHAKES - 0.1, 2) == 6
    assert openvpn.share_patience(Transport.TCP, openvpn.HANDSHAKES - 6, 1) == 6


@pytest.mark.parametrize("address", ["example.org", "--up", "1.2.3.4 5", ""])
def test_only_addresses_are_dialled(address: str) -> None:
    with pytest.raises(ConfigError, match="need an IP address"):
        openvpn.dialer_argv(LINK, Endpoint(Transport.UDP, address, 1), CREDENTIALS, FILES)


@pytest.mark.parametrize("digits", ["", "0a" * 31, "0a" * 33, "zz" * 32, "0a" * 32 + "\n"])
def test_a_fingerprint_is_64_digits(digits: str) -> None:
    with pytest.raises(ConfigError, match="fingerprint"):
        openvpn.listener_argv(replace(LINK, peer_fingerprint=digits), 1, CREDENTIALS, FILES)


def test_keys_have_the_form_of_openvpn_and_are_never_the_same() -> None:
    first, second = openvpn.generate_static_key(), openvpn.generate_static_key()
    assert first != second
    assert len(re.findall(r"^[0-9a-f]{32}$", first, re.MULTILINE)) == 16
    openvpn.check_static_key(first)


@pytest.mark.parametrize("damage", [("a", "A" * 3), ("END", "END "), ("V1", "V2"), ("\n", "\r\n")])
def test_a_key_of_another_form_is_refused(damage: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="not an OpenVPN static key"):
        openvpn.check_static_key(LINK.key.replace(*damage))


def test_the_telling_line_of_a_failure() -> None:
    output = (
        "Socket Buffers: R=[212992->4194304] S=[212992->4194304]",
        "TCP/UDP: Socket bind failed on local address [undef]:4227: Address already in use (errno=98)",
        "Exiting due to fatal error",
    )
    assert "Address already in use" in openvpn.telling_line(output)
    output = (
        "write to TUN/TAP : Input/output error (fd=-1,code=5)",
        "TLS Error: TLS key negotiation failed to occur within 60 seconds",
    )
    assert "TLS key negotiation" in openvpn.telling_line(output)
    assert openvpn.telling_line(("one", "two")) == "two"
    assert openvpn.telling_line(()) == ""
