"""re6st.routing.configuration and first_exchange: what babeld is configured with and sends first."""

import struct
from dataclasses import replace
from ipaddress import IPv6Network
from pathlib import Path

import pytest

from re6st.messages import NetworkParameters
from re6st.routing.configuration import (
    PLACEHOLDER,
    BabelConfiguration,
    BabelFiles,
    arguments,
    denied_in,
    interface_command,
    next_sequence,
    render,
    state_text,
)
from re6st.routing.first_exchange import first_packet, wildcard_request

PARAMETERS = NetworkParameters(version=1, network="2001:db8:42::/48", babel_port=6700, hello_interval=2.5)
CONFIGURATION = BabelConfiguration.from_parameters(IPv6Network("2001:db8:42:100::/64"), PARAMETERS)


def test_configuration_file() -> None:
    assert render(CONFIGURATION).splitlines() == [
        "skip-kernel-setup true",
        "smoothing-half-life 0",
        "router-id 20:01:0d:b8:00:42:01:00",
        "interface re6st-no-interface",
        "redistribute ip 2001:db8:42::/48 ge 49 proto 44 allow",
        "redistribute local deny",
        "redistribute deny",
        "in ip 2001:db8:42:100::/64 deny",
        "in ip 2001:db8:42::/48 ge 49 le 120 allow",
        "in deny",
        "install pref-src 2001:db8:42:100::1",
    ]


def test_what_is_denied_is_denied_before_anything_is_accepted() -> None:
    denied = (IPv6Network("2001:db8:42:200::/56"),)
    lines = render(replace(CONFIGURATION, denied=denied)).splitlines()
    rule = lines.index("in ip 2001:db8:42:200::/56 deny")
    assert rule < lines.index("in ip 2001:db8:42::/48 ge 49 le 120 allow")


def test_what_an_earlier_configuration_denies_is_known_from_it() -> None:
    denied, other = (IPv6Network(f"2001:db8:42:{number}::/56") for number in (200, 300))
    text = render(replace(CONFIGURATION, denied=(denied,)))
    assert denied_in(text, (other, denied)) == (denied,)
    assert denied_in("", (denied,)) == ()


def test_the_placeholder_can_never_be_an_interface() -> None:
    assert len(PLACEHOLDER) > 15


def test_arguments_name_files_of_the_runtime_directory() -> None:
    argv = arguments(CONFIGURATION, BabelFiles.inside(Path("/run/x"), Path("/run/x")))
    assert argv[0] == "babeld"
    assert dict(zip(argv[1::2], argv[2::2], strict=True)) == {
        "-c": "/run/x/babeld.conf",
        "-G": "/run/x/babeld.sock",
        "-S": "/run/x/babeld.state",
        "-I": "/run/x/babeld.pid",
        "-p": "6700",
    }


def test_interface_command() -> None:
    command = interface_command(CONFIGURATION, "re6st3", 123)
    assert command.startswith("interface re6st3 type wired ")
    assert "rxcost 123 hello-interval 2.50 update-interval 40.00" in command
    assert "enable-timestamps false" in command


@pytest.mark.parametrize("cost", [0, -1, 65535])
def test_impossible_costs(cost: int) -> None:
    with pytest.raises(ValueError, match="cost"):
        interface_command(CONFIGURATION, "re6st3", cost)


def test_wildcard_request() -> None:
    assert wildcard_request().hex(" ") == "2a 02 00 04 09 02 00 00"


@pytest.mark.parametrize(
    "peer", [None, IPv6Network("2001:db8:42:2::/64"), IPv6Network("2001:db8:42:2:80::/73")]
)
def test_first_packet_is_well_formed(peer: IPv6Network | None) -> None:
    packet = first_packet(cost=100, hello_interval=600.0, number=0x1FFFF, peer=peer)
    magic, version, length = struct.unpack("!BBH", packet[:4])
    assert (magic, version, length) == (42, 2, len(packet) - 4)
    body, kinds = packet[4:], []
    while body:
        kinds.append(body[0])
        if body[0] == 10:
            assert peer is not None
            assert body[2:4] == bytes((2, peer.prefixlen))
            assert body[16 : 2 + body[1]] == peer.network_address.packed[: (peer.prefixlen + 7) // 8]
        body = body[2 + body[1] :]
    assert kinds == [4, 4, 4, 5, 9, *([10] if peer else []), 2]


@pytest.mark.parametrize("kept", ["0", "1", "49152", "65535"])
def test_each_start_has_a_higher_sequence_number_than_the_one_before(kept: str) -> None:
    step = (next_sequence(kept) - int(kept)) % 0x10000
    assert 10_000 < step < 0x8000, "higher modulo 2^16, and room for what babeld counts itself"


@pytest.mark.parametrize("kept", ["", "x", "-3", "1.5", "99999999999"])
def test_a_lost_or_damaged_sequence_number_begins_anew(kept: str) -> None:
    assert next_sequence(kept) == 0


def test_the_state_file_is_as_babeld_reads_it() -> None:
    assert state_text(CONFIGURATION, 77, 1_800_000_000.7) == "20:01:0d:b8:00:42:01:00 77 1800000000\n"
