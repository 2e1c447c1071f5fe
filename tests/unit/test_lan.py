"""re6st.routing.lan and re6st.node.lan: direct neighbours in a LAN, and their key."""

from ipaddress import IPv6Network
from pathlib import Path

import pytest

from re6st.config import from_values
from re6st.core.tunnels import LOWEST_COST
from re6st.errors import ConfigError
from re6st.node import doctor
from re6st.node.doctor import Verdict
from re6st.node.firewall import FirewallConfiguration, render
from re6st.node.lan import load_key
from re6st.routing import lan
from re6st.routing.lan import LanKey, parse_key
from re6st.status import LanNeighbourStatus, LanStatus

DIGITS = "00ff" * 16
PLACES = {"state-directory": "/var/lib/x", "runtime-directory": "/run/x"}


def test_a_key_is_read_and_never_shown() -> None:
    key = parse_key(f" {DIGITS.upper()}\n")
    assert lan.key_command(key) == f"key id lan type hmac-sha256 value {DIGITS}"
    assert "ff" not in repr(key)


@pytest.mark.parametrize("text", ["", DIGITS[:-2], DIGITS + "00", "x" * 64, f"{DIGITS}\n{DIGITS}"])
def test_no_key_is_guessed(text: str) -> None:
    with pytest.raises(ConfigError, match="64 hexadecimal digits") as caught:
        parse_key(text)
    assert DIGITS not in str(caught.value)


def test_a_key_of_another_length_is_none() -> None:
    with pytest.raises(ValueError, match="32 octets"):
        LanKey(b"short")


def test_the_interface_needs_the_key_and_is_cheaper_than_any_tunnel() -> None:
    words = lan.interface_command("eth0").split()
    assert words[:2] == ["interface", "eth0"]
    assert words[words.index("key") + 1] == lan.key_command(LanKey(bytes(32))).split()[2]
    assert int(words[words.index("rxcost") + 1]) < LOWEST_COST


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(DIGITS)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key(path)
    path.chmod(0o600)
    assert load_key(path) == LanKey(bytes.fromhex(DIGITS))
    path.write_text("secret")
    with pytest.raises(ConfigError, match=str(path)):
        load_key(path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_key(tmp_path / "none")


@pytest.mark.parametrize("names", [["lo"], ["re6st3"], ["eth0", "eth0"], ["a name"]])
def test_what_is_no_lan_is_refused(names: list[str]) -> None:
    with pytest.raises(ConfigError, match="lan-interfaces"):
        from_values({**PLACES, "lan-interfaces": names}, "x.toml")


def test_lans_are_off_by_default() -> None:
    config = from_values({**PLACES}, "x.toml")
    assert config.lan_interfaces == ()


def test_the_firewall_lets_only_the_network_through_a_lan() -> None:
    network, prefix = IPv6Network("2001:db8:42::/48"), IPv6Network("2001:db8:42:1::/64")
    text = render(FirewallConfiguration("x", ("re6st0",), network, prefix, ("eth0",)))
    forward = text.partition("chain forward")[2]
    accepted = [line for line in forward.splitlines() if line.endswith("accept") and "@overlay" in line]
    assert len(accepted) == 3
    assert all("saddr 2001:db8:42:" in line and "daddr 2001:db8:42:" in line for line in accepted)
    without = render(FirewallConfiguration("x", ("re6st0",), network, prefix))
    assert "eth0" not in without


@pytest.mark.parametrize(
    ("status", "verdict", "word"),
    [
        (LanStatus(), Verdict.OK, "none is configured"),
        (LanStatus(interfaces=("eth0",)), Verdict.WARNING, "no key"),
        (LanStatus(interfaces=("eth0",), keyed=True, down=("eth0",)), Verdict.WARNING, "no link on eth0"),
        (LanStatus(interfaces=("eth0",), keyed=True), Verdict.OK, "no neighbour"),
    ],
)
def test_the_doctor_looks_at_lans(status: LanStatus, verdict: Verdict, word: str) -> None:
    finding = doctor.lan(status)
    assert finding.verdict is verdict
    assert word in finding.detail


def test_the_doctor_names_neighbours_and_those_that_are_deaf() -> None:
    def finding(cost: int) -> doctor.Finding:
        one = LanNeighbourStatus(interface="eth0", address="fe80::2", peer="otto", cost=cost)
        return doctor.lan(LanStatus(interfaces=("eth0",), keyed=True, port=20000, neighbours=(one,)))

    assert finding(32) == doctor.ok("lan", "otto on eth0, UDP port 20000")
    assert "does not hear this node" in finding(65535).detail
