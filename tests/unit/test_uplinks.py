"""re6st.node.uplinks: which uplink the next tunnel is dialled through."""

from __future__ import annotations

import pytest

from re6st.messages import Endpoint, Transport
from re6st.node.uplinks import FAILURES, FIRST_HOLD, LONGEST_HOLD, Uplinks, is_bound


def anything(_: str) -> bool:
    return True


def fail(uplinks: Uplinks, name: str, now: float) -> None:
    for _ in range(FAILURES):
        uplinks.failed(name, now)


def test_the_uplink_with_the_fewest_tunnels_is_next():
    uplinks = Uplinks(("fibre", "cable"))
    assert uplinks.choose({}, anything, 0.0) == "fibre"
    assert uplinks.choose({"fibre": 1, "": 5}, anything, 0.0) == "cable"
    assert uplinks.choose({"fibre": 1, "cable": 1}, anything, 0.0) == "fibre"


def test_an_uplink_that_cannot_be_used_is_left_out_and_without_any_the_routes_decide():
    uplinks = Uplinks(("fibre", "cable"))
    assert uplinks.choose({"cable": 9}, lambda name: name == "cable", 0.0) == "cable"
    assert uplinks.choose({}, lambda name: False, 0.0) == ""
    assert Uplinks().choose({}, anything, 0.0) == ""


def test_an_uplink_whose_tunnels_fail_comes_last_for_a_while():
    uplinks = Uplinks(("fibre", "cable"))
    uplinks.failed("fibre", 0.0)
    assert uplinks.choose({"cable": 9}, anything, 0.0) == "fibre", "one failure may be the peer's"
    uplinks.failed("fibre", 0.0)
    assert uplinks.choose({"cable": 9}, anything, 1.0) == "cable"
    assert uplinks.order(1.0) == ("cable", "fibre")
    assert uplinks.choose({}, lambda name: name == "fibre", 1.0) == "fibre", "it is the only one"
    assert uplinks.choose({"cable": 9}, anything, FIRST_HOLD) == "fibre"


def test_tunnels_that_fail_together_lengthen_no_hold_but_a_failed_trial_does():
    uplinks = Uplinks(("fibre", "cable"))
    for _ in range(10):
        uplinks.failed("fibre", 0.0)
    assert uplinks.order(FIRST_HOLD) == ("fibre", "cable")
    uplinks.failed("fibre", FIRST_HOLD)
    assert uplinks.order(3 * FIRST_HOLD - 1) == ("cable", "fibre")
    assert uplinks.order(3 * FIRST_HOLD) == ("fibre", "cable")


def test_holds_are_bounded():
    uplinks, now = Uplinks(("fibre", "cable")), 0.0
    for _ in range(20):
        fail(uplinks, "fibre", now)
        now += LONGEST_HOLD
        assert uplinks.order(now) == ("fibre", "cable")


@pytest.mark.parametrize("redeem", [lambda uplinks: uplinks.succeeded("fibre"), Uplinks.reset])
def test_a_success_or_another_network_makes_up_for_failures(redeem):
    uplinks = Uplinks(("fibre", "cable"))
    fail(uplinks, "fibre", 0.0)
    redeem(uplinks)
    assert uplinks.order(0.0) == ("fibre", "cable")
    uplinks.failed("fibre", 0.0)
    assert uplinks.order(0.0) == ("fibre", "cable")


def test_tunnels_that_the_routes_have_led_are_nobody_s_failures():
    uplinks = Uplinks(("fibre",))
    fail(uplinks, "", 0.0)
    assert uplinks.order(0.0) == ("fibre",)


@pytest.mark.parametrize(
    ("address", "bound"), [("20.1.1.2", True), ("192.168.1.2", False), ("2a00::1", True), ("a name", False)]
)
def test_only_what_is_far_away_is_bound(address, bound):
    assert is_bound(Endpoint(Transport.UDP, address, 4227)) is bound
