"""What is asked of the home router, against a simulated one."""

from ipaddress import IPv4Address
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from re6st.messages import Transport
from re6st.upnp.actions import Add, Check, Discover, Grant, Mapping, Remove
from re6st.upnp.mappings import CANDIDATES, CONFLICT_REASON, GatewayState, MappingPlan, Timing
from re6st.upnp.wishes import external_candidate

TIMING = Timing(lease=3600, check=60, first_retry=15, last_retry=600)
ADDRESS = IPv4Address("20.2.1.2")


class Router:
    """A home router, and the one who carries out what a plan wants of it."""

    def __init__(self):
        self.present = True
        self.silent = False
        self.address = str(ADDRESS)
        self.taken = set()
        self.permanent_only = False
        self.shows = True
        self.error = None
        self.held = {}
        self.log = []

    def carry_out(self, plan, action, now):
        self.log.append((now, action))
        if not isinstance(action, Discover) and (self.silent or not self.present):
            return plan.removed(action) if isinstance(action, Remove) else plan.silent("silence", now)
        match action:
            case Discover():
                return plan.found(self.address, now) if self.present else plan.missing("no router", now)
            case Check():
                lost = [one for one in action.mappings if not self.shows or self.key(one) not in self.held]
                return plan.checked(self.address, lost, now)
            case Remove():
                self.held.pop(self.key(action), None)
                return plan.removed(action)
            case Add():
                code = self.refusal(action)
                if code is not None:
                    return plan.refused(action, code, f"error {code}", now)
                self.held[self.key(action)] = now + action.lease if action.lease else float("inf")
                return plan.added(action, Grant(action.external_port, action.lease), now)

    def refusal(self, action):
        if self.error is not None:
            return self.error
        if action.external_port in self.taken:
            return 718
        if self.permanent_only and action.lease:
            return 725
        return None

    @staticmethod
    def key(action):
        return action.transport, action.internal_port, action.external_port


class TwoWays:
    """A home router that is asked by UPnP or PCP."""

    def __init__(self):
        self.ways = {"UPnP": Router(), "PCP": Router()}
        self.used = "UPnP"

    def __getitem__(self, protocol):
        return self.ways[protocol]

    def carry_out(self, plan, action, now):
        if isinstance(action, Discover):
            order = sorted(name for name, way in self.ways.items() if way.present)[::-1]
            self.used = min(order, key=lambda name: (not self[name].address, name in action.avoided))
            return plan.found(self[self.used].address, now, self.used)
        return self[self.used].carry_out(plan, action, now)


class World:
    def __init__(self, seed="node", draw=None):
        self.router = Router()
        self.plan = MappingPlan(seed, draw or Random(1).random, TIMING)
        self.now = 0.0

    def settle(self):
        for _ in range(100):
            action = self.plan.next_action(self.now)
            if action is None:
                return
            self.router.carry_out(self.plan, action, self.now)
        pytest.fail("the plan never rests")

    def run(self, duration):
        end = self.now + duration
        self.settle()
        while (deadline := self.plan.deadline()) is not None and deadline <= end:
            assert deadline > self.now, "the plan rests, but says that it would not"
            self.now = deadline
            self.settle()
        self.now = end

    def want(self, transport=Transport.TCP, port=4226):
        self.plan.want(transport, port, self.now)

    def mapping(self, transport=Transport.TCP, port=4226):
        return self.plan.mapping(transport, port)

    def adds(self):
        return [(now, action) for now, action in self.router.log if isinstance(action, Add)]


@pytest.fixture
def world():
    return World()


def test_nothing_wanted_nothing_done(world):
    assert world.plan.next_action(0.0) is None
    assert world.plan.deadline() is None


def test_maps_the_same_port_if_it_is_free(world):
    world.want()
    world.want(Transport.UDP, 4227)
    world.settle()
    assert world.mapping() == Mapping(Transport.TCP, 4226, ADDRESS, 4226)
    assert world.mapping(Transport.UDP, 4227) == Mapping(Transport.UDP, 4227, ADDRESS, 4227)
    assert world.plan.gateway is GatewayState.READY
    assert world.plan.reason == ""
    assert world.plan.why_not(Transport.TCP, 4226) == ""
    world.want(Transport.UDP, 4228)
    assert "is being asked" in world.plan.why_not(Transport.UDP, 4228)
    world.settle()
    assert [one.state for one in world.plan.status()] == ["mapped"] * 3


def test_renews_at_about_half_of_the_lease(world):
    world.want()
    world.run(3600 * 10)
    times = [now for now, _ in world.adds()]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(gaps) > 15
    assert all(0.45 * 3600 <= gap <= 0.55 * 3600 for gap in gaps)
    assert len(set(gaps)) > 10, "renewals of many nodes must not fall together"


def test_conflict_leads_to_a_port_that_stays_the_same(world):
    world.router.taken = {4226}
    world.want()
    world.settle()
    chosen = world.mapping().external_port
    assert chosen not in (0, 4226)
    again = World(draw=Random(99).random)
    again.router.taken = {4226}
    again.want()
    again.settle()
    assert again.mapping().external_port == chosen
    other = World(seed="another node")
    other.router.taken = {4226}
    other.want()
    other.settle()
    assert other.mapping().external_port != chosen


def test_a_router_that_shows_no_mapping_is_believed(world):
    world.router.shows = False
    world.want()
    world.run(240)
    assert world.mapping() is not None
    before = len(world.adds())
    world.run(3600)
    assert world.mapping() is not None
    assert 4 <= len(world.adds()) - before <= 6, "a quarter of the lease, instead of each minute"
    world.router.shows = True
    world.run(120)
    world.router.held.clear()
    world.run(60)
    assert world.router.held, "from one that shows them, a loss is noticed by the next check"


def test_status_says_why_a_mapping_is_waited_for(world):
    world.want()
    world.settle()
    world.router.silent = True
    world.run(61)
    world.plan.silent("it says nothing", world.now)
    world.want(Transport.UDP, 4227)
    waiting = [one for one in world.plan.status() if one.state == "waiting"]
    assert [one.reason for one in waiting] == ["it says nothing"]


def test_all_ports_taken(world):
    world.router.taken = set(range(65536))
    world.want()
    world.settle()
    assert len(world.adds()) == CANDIDATES
    (status,) = world.plan.status()
    assert (status.state, status.external_port, status.reason) == ("refused", 0, CONFLICT_REASON)
    world.router.taken = set()
    world.run(20)
    assert world.mapping().external_port == 4226


def test_permanent_mappings_only(world):
    world.router.permanent_only = True
    world.want()
    world.settle()
    assert [action.lease for _, action in world.adds()] == [3600, 0]
    assert world.mapping() is not None
    world.run(3600 * 3)
    assert len(world.adds()) == 2, "a permanent mapping needs no renewal"
    world.router.held.clear()
    world.run(61)
    assert [action.lease for _, action in world.adds()] == [3600, 0, 0]


@pytest.mark.parametrize("code", [501, 606, 715, 716, 724, 728, 732])
def test_refusal_has_a_reason_and_is_tried_again_ever_less_often(world, code):
    world.router.error = code
    world.want()
    world.run(3600)
    (status,) = world.plan.status()
    assert (status.state, status.reason) == ("refused", f"error {code}")
    assert world.plan.gateway is GatewayState.READY
    assert world.plan.why_not(Transport.TCP, 4226) == f"error {code}"
    assert 6 <= len(world.adds()) <= 14
    world.router.error = None
    world.run(700)
    assert world.mapping() is not None


def test_gateway_that_appears_later(world):
    world.router.present = False
    world.want()
    world.settle()
    assert world.plan.gateway is GatewayState.ABSENT
    assert world.plan.status()[0].reason == "no router"
    assert world.plan.why_not(Transport.TCP, 4226) == "no router"
    assert not world.plan.is_pending(Transport.TCP, 4226)
    world.run(3600)
    searches = len(world.router.log)
    assert 6 <= searches <= 14
    world.router.present = True
    world.run(700)
    assert world.mapping() is not None


def test_router_that_rebooted_gets_its_mappings_again(world):
    world.want()
    world.want(Transport.UDP, 4227)
    world.settle()
    world.router.held.clear()
    world.run(61)
    assert len(world.router.held) == 2
    assert world.mapping() is not None


def test_silent_router_keeps_its_mappings_until_it_is_known_to_be_gone(world):
    world.want()
    world.settle()
    world.router.silent = True
    world.now += 61
    action = world.plan.next_action(world.now)
    assert isinstance(action, Check)
    world.router.carry_out(world.plan, action, world.now)
    assert world.mapping() is not None
    world.router.present = False
    world.settle()
    assert world.mapping() is not None, "one search may fail because a datagram was lost"
    world.run(20)
    assert world.mapping() is None
    assert world.plan.status()[0].external_port == 0
    assert world.plan.gateway is GatewayState.ABSENT


def test_one_lost_search_changes_nothing(world):
    world.want()
    world.settle()
    world.router.present = False
    world.plan.network_changed(world.now)
    world.settle()
    world.router.present = True
    world.run(20)
    assert world.mapping() is not None
    assert world.plan.gateway is GatewayState.READY
    assert len(world.adds()) == 1


def test_router_that_answers_searches_only_is_not_pestered(world):
    world.router.silent = True
    world.want()
    world.run(3600)
    assert len(world.router.log) < 40


def test_address_changes(world):
    world.want()
    world.settle()
    world.router.address = "20.2.1.77"
    world.run(61)
    assert world.mapping().external_address == IPv4Address("20.2.1.77")


def test_a_suspected_router_is_looked_at_until_it_has_another_address(world):
    world.want()
    world.run(3630)
    world.router.log.clear()
    world.plan.suspect(world.now)
    world.settle()
    assert len(world.router.log) == 1, "at once"
    world.plan.suspect(world.now)
    world.settle()
    assert len(world.router.log) == 1, "but not with every tunnel that falls silent"
    world.router.address = ""
    world.run(TIMING.suspicious_check + 1)
    assert world.mapping() is None
    world.router.address = "20.2.1.77"
    world.run(TIMING.suspicious_check + 1)
    assert world.mapping().external_address == IPv4Address("20.2.1.77")
    world.router.log.clear()
    world.run(TIMING.check - 2 * TIMING.suspicious_check)
    assert not world.router.log, "all is clear"


def test_suspicion_ends_by_itself(world):
    world.want()
    world.run(3600)
    world.plan.suspect(world.now)
    world.run(TIMING.suspicion + TIMING.suspicious_check)
    world.router.log.clear()
    world.run(3 * TIMING.check)
    assert len(world.router.log) <= 3


@pytest.mark.parametrize("address", ["100.64.3.4", "192.168.0.2", "", "nonsense", "0.0.0.0"])
def test_second_translation_makes_mappings_useless(world, address):
    world.router.address = address
    world.want()
    world.settle()
    assert world.plan.gateway is GatewayState.USELESS
    assert world.mapping() is None
    assert "carrier-grade NAT" in world.plan.reason
    assert world.plan.status()[0].reason == world.plan.reason
    assert not world.adds()
    world.router.address = str(ADDRESS)
    world.run(61)
    assert world.mapping() is not None


def test_a_router_without_public_address_is_looked_at_ever_less_often_and_keeps_what_it_holds(world):
    world.want()
    world.settle()
    world.router.address = "100.64.3.4"
    world.run(TIMING.check)
    world.router.log.clear()
    world.run(3600)
    assert {type(action) for _, action in world.router.log} == {Discover}
    assert 12 <= len(world.router.log) <= 24
    (status,) = world.plan.status()
    assert (status.state, status.external_port, status.method) == ("useless", 0, "")
    assert "ask the provider" in status.remedy
    world.router.log.clear()
    world.router.address = str(ADDRESS)
    world.run(TIMING.last_useless_check + 1)
    assert world.mapping() is not None
    world.router.address = ""
    world.run(TIMING.check)
    assert world.plan.gateway is GatewayState.USELESS
    world.plan.unwant_all()
    world.settle()
    assert not world.router.held, "nothing stays behind, of use or not"


def test_an_address_that_comes_only_with_a_mapping_may_be_useless(world):
    world.want()
    world.plan.found(None, 0.0, "PCP")
    add = world.plan.next_action(0.0)
    world.plan.added(add, Grant(4226, 3600, "192.168.0.2"), 0.0)
    assert world.plan.gateway is GatewayState.USELESS
    assert world.plan.next_action(0.0) is None
    assert "192.168.0.2 is not public" in world.plan.why_not(Transport.TCP, 4226)
    world.plan.unwant_all()
    assert world.plan.next_action(0.0) == Remove(Transport.TCP, 4226, 4226)


@pytest.mark.parametrize("fault", [{"error": 606}, {"error": 718}, {"silent": True}])
def test_a_way_that_leads_to_nothing_does_not_hide_another_one(fault):
    world = World()
    world.router = TwoWays()
    for name, value in fault.items():
        setattr(world.router["UPnP"], name, value)
    world.want()
    world.settle()
    world.want(Transport.UDP, 4227)
    world.run(1)
    assert [one.method for one in world.plan.status()] == ["PCP", "PCP"]
    asked = len(world.router["UPnP"].log)
    world.run(3600)
    assert len(world.router["UPnP"].log) == asked, "what works is kept"
    world.plan.network_changed(world.now)
    world.settle()
    assert len(world.router["UPnP"].log) > asked, "it may be another router"


def test_two_ways_that_both_refuse_are_tried_in_turn():
    world = World()
    world.router = TwoWays()
    world.router["UPnP"].error = world.router["PCP"].error = 606
    world.want()
    world.run(7200)
    assert world.plan.status()[0].reason == "error 606"
    for protocol in ("UPnP", "PCP"):
        adds = [action for _, action in world.router[protocol].log if isinstance(action, Add)]
        assert 8 <= len(adds) <= 25
    world.router["PCP"].error = None
    world.run(1300)
    assert world.plan.status()[0].method == "PCP"


def test_another_network_is_asked_at_once_for_what_was_refused(world):
    world.router.error = 606
    world.want()
    world.run(3600)
    world.router.error = None
    world.plan.network_changed(world.now)
    world.settle()
    assert world.mapping() is not None


def test_unwanted_mapping_is_removed(world):
    world.want()
    world.want(Transport.UDP, 4227)
    world.settle()
    world.plan.unwant(Transport.UDP, 4227)
    assert world.plan.deadline() < world.now
    world.settle()
    assert list(world.router.held) == [(Transport.TCP, 4226, 4226)]
    world.plan.unwant_all()
    world.settle()
    assert world.router.held == {}
    assert world.plan.deadline() is None


def test_mapping_unwanted_while_it_is_being_made(world):
    world.want()
    world.router.carry_out(world.plan, world.plan.next_action(0.0), 0.0)
    action = world.plan.next_action(0.0)
    world.plan.unwant(Transport.TCP, 4226)
    world.router.carry_out(world.plan, action, 0.0)
    world.settle()
    assert world.router.held == {}


def test_removal_waits_for_the_search_after_a_change_of_the_network(world):
    world.want()
    world.want(Transport.UDP, 4227)
    world.settle()
    world.plan.network_changed(world.now)
    world.plan.unwant(Transport.UDP, 4227)
    world.settle()
    assert list(world.router.held) == [(Transport.TCP, 4226, 4226)]


def test_the_last_removal_is_worth_a_search(world):
    world.want()
    world.settle()
    world.plan.network_changed(world.now)
    world.plan.unwant(Transport.TCP, 4226)
    assert world.plan.deadline() == world.now
    world.settle()
    assert world.router.held == {}
    assert world.plan.deadline() is None


def test_removal_survives_a_lost_search_and_a_silent_router(world):
    world.want()
    world.want(Transport.UDP, 4227)
    world.settle()
    world.now += 61
    check = world.plan.next_action(world.now)
    assert isinstance(check, Check)
    world.plan.unwant(Transport.UDP, 4227)
    world.plan.silent("silence", world.now)
    world.plan.missing("a datagram was lost", world.now)
    world.run(20)
    assert list(world.router.held) == [(Transport.TCP, 4226, 4226)]


def test_removals_are_given_up_when_the_router_is_gone(world):
    world.want()
    world.settle()
    world.router.present = False
    world.plan.network_changed(world.now)
    world.plan.unwant_all()
    world.run(60)
    assert world.plan.gateway is GatewayState.ABSENT
    assert world.plan.next_removal() is None
    assert world.plan.deadline() is None


def test_stopping_just_after_a_change_of_the_network_removes_at_the_router_known_last(world):
    world.want()
    world.want(Transport.UDP, 4227)
    world.settle()
    world.plan.network_changed(world.now)
    world.plan.unwant_all()
    searches = sum(isinstance(action, Discover) for _, action in world.router.log)
    while (removal := world.plan.next_removal()) is not None:
        world.router.carry_out(world.plan, removal, world.now)
    assert world.router.held == {}
    assert sum(isinstance(action, Discover) for _, action in world.router.log) == searches


def test_changed_network_is_looked_at_once(world):
    world.router.present = False
    world.want()
    world.run(3600)
    world.router.present = True
    world.plan.network_changed(world.now)
    world.settle()
    assert world.mapping() is not None


@given(st.integers(1, 65535), st.integers(0, 40), st.floats(0, 1, exclude_max=True), st.text(max_size=9))
def test_candidates_are_ports(port, attempt, drawn, seed):
    chosen = external_candidate(seed, Transport.UDP, port, attempt, lambda: drawn)
    assert chosen == port if attempt == 0 else 1024 <= chosen <= 65535


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("want"), st.integers(1, 4)),
        st.tuples(st.just("unwant"), st.integers(1, 4)),
        st.tuples(st.just("pass"), st.sampled_from([1, 30, 100, 2000])),
        st.tuples(st.just("present"), st.booleans()),
        st.tuples(st.just("silent"), st.booleans()),
        st.tuples(st.just("forget"), st.none()),
        st.tuples(st.just("error"), st.sampled_from([None, 501, 718, 725])),
        st.tuples(st.just("address"), st.sampled_from([str(ADDRESS), "10.0.0.1", "20.9.9.9"])),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(STEPS)
def test_after_any_history_a_good_router_ends_up_with_what_is_wanted(steps):
    world = World()
    wanted = set()
    for what, value in steps:
        match what:
            case "want":
                wanted.add(value)
                world.want(Transport.UDP, value)
            case "unwant":
                wanted.discard(value)
                world.plan.unwant(Transport.UDP, value)
            case "pass":
                world.run(value)
            case "forget":
                world.router.held.clear()
            case _:
                setattr(world.router, what, value)
        world.settle()
    world.router.present, world.router.silent, world.router.error = True, False, None
    world.router.address = str(ADDRESS)
    world.run(1500)
    for port in wanted:
        mapping = world.mapping(Transport.UDP, port)
        assert mapping is not None
        assert (Transport.UDP, port, mapping.external_port) in world.router.held
    assert {one.internal_port for one in world.plan.mappings()} == wanted
