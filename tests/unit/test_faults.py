"""re6st.lab.faults: the firewall rules that break a lab."""

import pytest

from re6st.errors import ConfigError
from re6st.lab.faults import MOST_TAGS, Faults, ruleset, with_cut, without_cut


def test_a_cut_drops_at_both_ends_what_bears_the_tag_of_the_other():
    faults = with_cut(Faults(), "boris", "anna")
    assert faults.cuts == (("anna", "boris"),)
    mine, theirs = faults.tags["anna"], faults.tags["boris"]
    assert mine != theirs
    rules = ruleset(faults, "anna")
    assert f'oifname "eth0" ip dscp set {mine}' in rules
    assert f'iifname "eth0" ip6 dscp {{ {theirs} }} drop' in rules


def test_tags_do_not_change_while_a_host_is_cut():
    faults = with_cut(with_cut(Faults(), "anna", "boris"), "anna", "clara")
    healed = without_cut(faults, "anna", "boris")
    assert healed.tags == {name: faults.tags[name] for name in ("anna", "clara")}
    again = with_cut(healed, "dora", "boris")
    assert len(set(again.tags.values())) == 4
    assert again.tags["clara"] == faults.tags["clara"]


def test_cutting_twice_is_cutting_once():
    faults = with_cut(Faults(), "anna", "boris")
    assert with_cut(faults, "boris", "anna") == faults


def test_healing_what_is_not_cut_is_refused():
    with pytest.raises(ConfigError, match="anna and boris are not cut"):
        without_cut(Faults(), "anna", "boris")


def test_a_healed_host_has_no_rules_left():
    faults = without_cut(with_cut(Faults(), "anna", "boris"), "anna", "boris")
    assert faults == Faults()
    assert "hook" not in ruleset(faults, "anna")


def test_tags_run_out_with_a_message():
    faults = Faults()
    for number in range(MOST_TAGS - 1):
        faults = with_cut(faults, "hub", f"host{number}")
    with pytest.raises(ConfigError, match="at most 63 hosts"):
        with_cut(faults, "hub", "one-more")


def test_a_cut_in_one_direction_leaves_the_other_one_alone() -> None:
    one_way = with_cut(Faults(), "a", "b", one_way=True)
    assert one_way.others("b") == ["a"]
    assert one_way.others("a") == []
    assert "drop" in ruleset(one_way, "b")
    assert "drop" not in ruleset(one_way, "a")
    assert f"dscp set {one_way.tags['a']}" in ruleset(one_way, "a")
    both = with_cut(one_way, "b", "a")
    assert both.others("a") == ["b"]
    assert both.others("b") == ["a"]
    assert without_cut(both, "b", "a") == Faults()
