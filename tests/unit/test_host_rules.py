"""re6st.node.firewall and re6st.node.sysctl: rules and settings of the host."""

import dataclasses
import json
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from re6st.errors import StorageError
from re6st.node.firewall import FirewallConfiguration, render, render_removal
from re6st.node.sysctl import ALL_FORWARDING, ForwardingSettings, plan, undo

C = "net/ipv6/conf"
ROUTER = {f"{C}/all/forwarding": "1", f"{C}/all/accept_ra": "1", f"{C}/eth0/accept_ra": "1"}
LAPTOP = {
    f"{C}/all/forwarding": "0",
    f"{C}/all/accept_ra": "1",
    f"{C}/default/forwarding": "0",
    f"{C}/default/accept_ra": "1",
    f"{C}/eth0/forwarding": "0",
    f"{C}/eth0/accept_ra": "1",
    f"{C}/eth1/forwarding": "1",
    f"{C}/eth1/accept_ra": "0",
}


def test_advertisements_are_kept_before_forwarding_is_set() -> None:
    changes = [(setting.key, setting.after) for setting in plan(LAPTOP)]
    assert changes[:3] == [
        (f"{C}/default/accept_ra", "2"),
        (f"{C}/eth0/accept_ra", "2"),
        (ALL_FORWARDING, "1"),
    ]
    assert all(key.endswith("/forwarding") for key, _ in changes[3:])


def test_a_router_is_left_as_it_is() -> None:
    assert plan(ROUTER) == []
    assert plan({}) == []


def test_undo_begins_with_all_and_leaves_what_others_changed() -> None:
    settings = plan(LAPTOP)
    during = LAPTOP | {setting.key: setting.after for setting in settings}
    during[f"{C}/eth0/accept_ra"] = "0"
    steps = undo(settings, during)
    assert steps[0] == (ALL_FORWARDING, "0")
    assert (f"{C}/eth1/forwarding", "1") in steps
    assert (f"{C}/default/accept_ra", "1") in steps
    assert f"{C}/eth0/accept_ra" not in dict(steps)


@given(st.dictionaries(st.sampled_from(sorted(LAPTOP)), st.sampled_from(["0", "1", "2"])))
def test_undo_reverts_plan(current: dict[str, str]) -> None:
    settings = plan(current)
    during = current | {setting.key: setting.after for setting in settings}
    after = during | dict(undo(settings, during))
    assert after == current


def make_tree(root: Path) -> None:
    for key, value in LAPTOP.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_text(f"{value}\n")


def settings_of(user: str, directory: Path) -> ForwardingSettings:
    return ForwardingSettings(user, directory=directory / "run", root=directory / "sys", namespace="test")


def test_two_networks_share_the_settings(tmp_path: Path) -> None:
    make_tree(tmp_path / "sys")
    first, second = settings_of("one", tmp_path), settings_of("two", tmp_path)
    first.acquire()
    second.acquire()
    first.acquire()  # started again after it was killed
    assert first.read()[ALL_FORWARDING] == "1"
    first.release()
    assert first.read()[ALL_FORWARDING] == "1"
    second.release()
    assert first.read() == LAPTOP
    assert list((tmp_path / "run").iterdir()) == []
    second.release()  # nothing to do


def test_nothing_is_changed_when_the_old_values_cannot_be_saved(tmp_path: Path) -> None:
    make_tree(tmp_path / "sys")
    (tmp_path / "run").write_text("in the way")
    settings = settings_of("one", tmp_path)
    with pytest.raises(StorageError):
        settings.acquire()
    assert settings.read() == LAPTOP


def test_a_journal_of_another_boot_or_a_damaged_one_is_not_believed(tmp_path: Path) -> None:
    make_tree(tmp_path / "sys")
    settings = settings_of("one", tmp_path)
    settings.acquire()
    (journal,) = (path for path in (tmp_path / "run").iterdir() if path.suffix == ".json")
    content = json.loads(journal.read_text())
    make_tree(tmp_path / "sys")
    journal.write_text(json.dumps(content | {"boot_id": "earlier", "users": ["one", "two"]}))
    settings.acquire()
    settings.release()
    assert settings.read() == LAPTOP
    journal.write_text("{")
    settings.acquire()
    settings.release()
    assert settings.read() == LAPTOP


def test_firewall_names_no_interface_of_another_network() -> None:
    configuration = FirewallConfiguration(
        "my-net", ("re6st0", "re6st1"), IPv6Network("2001:db8:42::/48"), IPv6Network("2001:db8:42:1::/64")
    )
    text = render(configuration)
    assert configuration.table == "re6st_my_net_3c3daa"
    assert 'elements = { "re6st0", "re6st1" }' in text
    assert "re6st*" not in text
    assert text.startswith(render_removal(configuration))
    further = dataclasses.replace(configuration, further=(IPv6Network("2001:db8:42:7::/64"),))
    own = "{ 2001:db8:42:1::/64, 2001:db8:42:7::/64 }"
    assert render(further) == text.replace("2001:db8:42:1::/64", own)
    assert text.count("2001:db8:42:1::/64") == 4
    # Whatever comes from a tunnel and was not accepted is refused, and all else goes on.
    forward = text.partition("chain forward")[2]
    assert forward.count("iifname @tunnels reject") == 1
    assert "@tunnels" not in forward.partition("oifname @tunnels reject")[2].partition("}")[0]
    assert "policy accept" in forward


def test_tunnels_over_tcp_have_small_segments_in_both_directions() -> None:
    network, prefix = IPv6Network("2001:db8:42::/48"), IPv6Network("2001:db8:42:1::/64")
    text = render(FirewallConfiguration("x", ("re6st0",), network, prefix, tunnel_ports=range(4227, 4243)))
    small = "tcp flags & (syn | rst) == syn tcp option maxseg size set 1120"
    called, _, answered = text.partition("chain input")[2].partition("chain output")
    assert f'iifname != "lo" tcp dport 4227-4242 {small}' in called
    assert f'oifname != "lo" tcp sport 4227-4242 {small}' in answered
    assert "maxseg" not in render(FirewallConfiguration("x", ("re6st0",), network, prefix))
