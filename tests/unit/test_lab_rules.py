"""Rules of routers, configuration of gateways, names of labs, tables for people: all that is only text."""

import io
from ipaddress import IPv4Network

import pytest
from rich.console import Console

from re6st.errors import ConfigError
from re6st.lab import gateway, nat, output, record, requirements, topology
from re6st.lab.pinger import Matrix
from re6st.lab.topology import RouterKind


@pytest.mark.parametrize("kind", list(RouterKind))
def test_only_symmetric_routers_choose_random_ports(kind):
    rules = nat.ruleset(kind)
    assert ("fully-random" in rules) is (kind is RouterKind.SYMMETRIC)
    assert rules.count("policy drop") == 2
    assert rules.count("{") == rules.count("}")


def test_gateway_and_rules_agree_about_chains():
    configuration = gateway.configuration("home", IPv4Network("192.168.1.0/24"))
    rules = nat.ruleset(RouterKind.UPNP)
    settings = dict(line.split("=", 1) for line in configuration.splitlines() if "=" in line)
    for key in ("upnp_forward_chain", "upnp_nat_chain", "upnp_nat_postrouting_chain"):
        assert f"chain {settings[key]} {{ }}" in rules
        assert f"jump {settings[key]}" in rules
    assert settings["upnp_table_name"] == settings["upnp_nat_table_name"] == nat.TABLE
    assert "allow 1024-65535 192.168.1.0/24 1024-65535" in configuration


def test_gateways_differ_in_their_identity():
    lan = IPv4Network("192.168.1.0/24")
    assert gateway.configuration("one", lan) != gateway.configuration("two", lan)


@pytest.mark.parametrize("name", ["", "my-lab", "../etc", "Lab", "x" * 25, "lab\n"])
def test_unfit_names_of_labs_are_refused(name):
    with pytest.raises(ConfigError, match="cannot name a lab"):
        record.lab_directory(name)


def test_record_names_all_namespaces():
    entry = record.new_record("mine", topology.load(topology.find("demo")))
    assert len(entry.namespaces) == 1 + 4 + 9
    assert set(entry.namespaces) >= {"mine-internet", "mine-home-one", "mine-registry"}
    assert str(entry.directory) == "/run/re6st-lab/mine"


def test_requirements_name_the_packages(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(requirements.os, "geteuid", lambda: 0)
    with pytest.raises(ConfigError) as caught:
        requirements.check(topology.load(topology.find("demo")))
    text = str(caught.value)
    assert "missing programs: ip, nft, miniupnpd, openvpn, babeld" in text
    assert "apt-get install iproute2 nftables miniupnpd-nftables openvpn babeld" in text


def test_not_root_is_said(monkeypatch):
    monkeypatch.setattr(requirements.os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="must be root"):
        requirements.check(topology.load(topology.find("demo")))


def make_matrix() -> Matrix:
    names = ["anna", "boris", "clara"]
    matrix = Matrix(names, names)
    for source, target in matrix.pairs:
        if (source, target) != ("clara", "anna"):
            matrix.round_trips[source, target] = 0.0015
            matrix.answered[source, target] = 2.0
    return matrix


def test_matrix_knows_what_is_missing():
    matrix = make_matrix()
    assert not matrix.complete
    assert matrix.missing == [("clara", "anna")]
    assert output.verdict(matrix) == "1 of 6 ordered pairs do not reach each other: clara -> anna."
    matrix.round_trips["clara", "anna"] = 0.1
    assert matrix.complete
    assert output.verdict(matrix) == "All 6 ordered pairs of nodes reach each other."


def test_matrix_is_shown_with_round_trips_and_losses():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(output.matrix_table(make_matrix()))
    rows = [line.split() for line in console.export_text().splitlines() if line.strip()]
    assert ["1", "anna", "·", "1.5", "1.5"] in rows
    assert ["3", "clara", "lost", "1.5", "·"] in rows


def test_udp_is_blocked_and_allowed_by_a_table_of_its_own():
    blocked, allowed = nat.udp_ruleset(blocked=True), nat.udp_ruleset(blocked=False)
    assert blocked.startswith(allowed)
    assert f"delete table inet {nat.UDP_TABLE}" in allowed
    assert "l4proto udp drop" in blocked
    assert "l4proto" not in allowed
