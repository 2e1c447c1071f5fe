"""Admission without a join link: requests, approval, open enrolment, and their bounds."""

import secrets

import pytest
from registry_world import DAY, World, refused

from re6st.errors import ConfigError
from re6st.identity import build_request, generate_key, parse_node_certificate
from re6st.messages import AdmissionRequest, AdmissionState, EnrolmentRequest
from re6st.registry.usecases import Actor, ActorKind


class Asker:
    """A machine that asks to be let in."""

    def __init__(self, world, name="", origin="192.0.2.7", message=""):
        self.world, self.key, self.name, self.message = world, generate_key(), name, message
        self.secret = secrets.token_urlsafe(32)
        self.service = world.service.by(Actor(ActorKind.JOINER, origin=origin))

    def ask(self):
        request = build_request(self.key, self.name)
        return self.service.ask(AdmissionRequest(token=self.secret, request=request, message=self.message))

    def enrol(self, name="", key=None):
        request = build_request(key or self.key, name)
        answer = self.service.enrol(EnrolmentRequest(token=self.secret, request=request))
        return parse_node_certificate(answer.certificate)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "state")
    yield world
    world.close()


def test_nobody_may_ask_unless_the_operator_wants_it(world):
    assert "put it in quotes" in refused("requests-not-allowed", Asker(world).ask)
    assert world.service.requests() == []


def test_a_request_is_approved(world):
    world.service.change_policy({"requests": "on"})
    asker = Asker(world, "attic", message="Anna\x1b[2J, 2nd floor")
    first = asker.ask()
    assert first.state is AdmissionState.PENDING
    assert asker.ask() == first
    [row] = world.service.requests()
    assert (row.name, row.origin, row.key_digest.hex()) == ("attic", "192.0.2.7", first.key)
    assert row.message == "Anna\N{REPLACEMENT CHARACTER}[2J, 2nd floor"
    refused("token-unknown", asker.enrol)
    world.service.approve(row.identifier, prefix_length=72)
    world.service.approve(row.identifier)
    assert (asker.ask().state, asker.ask().name) == (AdmissionState.APPROVED, "attic")
    assert world.service.requests() == []
    # The name is kept for it, and nobody else can use what was approved.
    refused("name-taken", world.enrol, "attic")
    refused("token-unknown", asker.enrol, key=generate_key())
    certificate = asker.enrol("attic")
    assert (certificate.name, certificate.prefix.prefixlen) == ("attic", 72)
    assert asker.enrol("attic").serial == certificate.serial
    refused("request-decided", world.service.deny, row.identifier)
    assert [token.way for token in world.service.tokens()] == ["link"]


def test_the_operator_chooses_another_name(world):
    world.service.change_policy({"requests": "on"})
    world.node("attic")
    asker = Asker(world, "attic")
    asker.ask()
    [row] = world.service.requests()
    assert world.service.suspicions(row) == ("attic is a member already: choose another name",)
    refused("name-taken", world.service.approve, row.identifier)
    world.service.approve(row.identifier, "attic2")
    assert asker.ask().name == "attic2"
    assert asker.enrol("attic2").name == "attic2"


def test_a_reserved_prefix_is_not_given_to_whoever_wishes_for_its_name(world):
    world.service.change_policy({"requests": "on"})
    reservation = world.service.reserve("attic")
    asker = Asker(world, "ATTIC")
    asker.ask()
    [row] = world.service.requests()
    assert world.service.suspicions(row) == ("ATTIC has a reserved prefix, which it would get",)
    assert "--name ATTIC" in refused("name-taken", world.service.approve, row.identifier)
    assert asker.ask().state is AdmissionState.PENDING
    world.service.approve(row.identifier, "attic")
    assert asker.enrol("attic").prefix == reservation.prefix


def test_open_enrolment_promises_no_reserved_name(world):
    world.service.change_policy({"open": "on"})
    world.service.reserve("attic")
    asker = Asker(world, "attic")
    assert (asker.ask().state, asker.ask().name) == (AdmissionState.APPROVED, "")
    refused("name-taken", asker.enrol, "attic")


def test_what_strangers_caused_and_did_not_use_is_forgotten(world):
    world.service.change_policy({"open": "on"})
    world.service.create_token(lifetime=60)
    used, unused = Asker(world), Asker(world)
    unused.ask()
    used.ask()
    used.enrol()
    world.now += 7 * DAY
    world.service.tidy()
    assert unused.ask().state is AdmissionState.EXPIRED
    world.now += 3601
    world.service.tidy()
    assert world.store.execute("SELECT way FROM tokens ORDER BY way") == [("link",), ("open",)]
    refused("token-unknown", unused.enrol)
    assert world.store.execute("SELECT count(*) FROM token_uses") == [(1,)]


def test_a_request_is_denied_and_remembered(world):
    world.service.change_policy({"requests": "on"})
    asker = Asker(world)
    asker.ask()
    world.service.deny(world.service.requests()[0].identifier, "who are you?")
    answer = asker.ask()
    assert (answer.state, answer.reason) == (AdmissionState.DENIED, "who are you?")
    refused("token-unknown", asker.enrol)
    asker.secret = secrets.token_urlsafe(32)
    asker.ask()
    [row] = world.service.requests()
    assert world.service.suspicions(row) == ("a request with this key was denied before",)
    refused("unknown-request", world.service.approve, 99)


def test_a_known_key_is_shown(world):
    world.service.change_policy({"requests": "on"})
    asker = Asker(world)
    asker.key, _ = world.node("attic")
    asker.ask()
    assert "attic has, or had, a certificate" in world.service.suspicions(world.service.requests()[0])[0]


def test_requests_expire_and_are_forgotten(world):
    world.service.change_policy({"requests": "on", "requests_days": "2"})
    asker = Asker(world)
    asker.ask()
    [row] = world.service.requests()
    world.now += 2 * DAY
    assert asker.ask().state is AdmissionState.EXPIRED
    refused("request-decided", world.service.approve, row.identifier)
    world.service.tidy()
    assert len(world.service.requests(pending=False)) == 1
    world.now += 8 * DAY
    world.service.tidy()
    assert world.service.requests(pending=False) == []


def test_requests_are_bounded(world):
    world.service.change_policy({"requests": "on", "requests_per_address": "2", "requests_pending": "3"})
    for _ in range(2):
        Asker(world, origin="2001:db8::1").ask()
    refused("too-many-requests", Asker(world, origin="2001:db8::2").ask)
    known = Asker(world, origin="2001:db9:0:1::1")
    known.ask()
    assert "wait for the operator" in refused("too-many-requests", Asker(world, origin="192.0.2.1").ask)
    # Who waits already is not kept from asking again; a denied request still counts for its address.
    assert known.ask().state is AdmissionState.PENDING
    for row in world.service.requests():
        world.service.deny(row.identifier)
    refused("too-many-requests", Asker(world, origin="2001:db8::2").ask)
    Asker(world, origin="192.0.2.1").ask()
    world.now += DAY
    Asker(world, origin="2001:db8::2").ask()


def test_a_network_cannot_fill_the_queue(world):
    world.service.change_policy({"requests": "on", "requests_per_address": "2", "requests_pending": "12"})
    for number in range(3):
        Asker(world, origin=f"2001:db8:0:{number}::1").ask()
    # A quarter for a /56 or a /24, half for a /48, three quarters for a /32.
    assert "your network" in refused("too-many-requests", Asker(world, origin="2001:db8:0:f0::1").ask)
    for number in range(3):
        Asker(world, origin=f"2001:db8:0:{number + 1}00::1").ask()
        Asker(world, origin=f"2001:db8:{number + 1}::1").ask()
    refused("too-many-requests", Asker(world, origin="2001:db8:0:900::1").ask)
    refused("too-many-requests", Asker(world, origin="2001:db8:9::1").ask)
    for number in range(3):
        Asker(world, origin=f"192.0.2.{number}").ask()
    # Who was decided upon makes room.
    assert "for the operator: try" in refused("too-many-requests", Asker(world, origin="198.51.100.1").ask)
    world.service.deny(world.service.requests()[-1].identifier)
    Asker(world, origin="2001:db8:9::1").ask()


def test_a_secret_belongs_to_one_key(world):
    world.service.change_policy({"requests": "on"})
    asker = Asker(world)
    asker.ask()
    asker.key = generate_key()
    refused("request-malformed", asker.ask)
    asker.secret = world.service.create_token()
    refused("request-malformed", asker.ask)


def test_open_enrolment(world):
    world.service.change_policy({"open": "on", "open_prefix_length": "96"})
    world.node("attic")
    asker = Asker(world, "attic")
    answer = asker.ask()
    assert (answer.state, answer.name) == (AdmissionState.APPROVED, "")
    assert asker.enrol().prefix.prefixlen == 96
    other = Asker(world, "cellar")
    assert other.ask().name == "cellar"
    world.now += 3601
    assert other.ask().state is AdmissionState.EXPIRED
    refused("token-expired", other.enrol)


def test_open_enrolment_is_bounded(world):
    policy = {"open": "on", "open_per_address": "2", "open_per_hour": "3", "open_nodes": "4"}
    world.service.change_policy(policy)
    askers = [Asker(world, origin=f"192.0.2.{number}") for number in (1, 1, 1, 2, 3)]
    for asker in askers[:2]:
        asker.ask()
        asker.enrol()
    refused("too-many-requests", askers[2].ask)
    askers[3].ask()
    refused("too-many-requests", askers[4].ask)
    world.service.change_policy({"requests": "on"})
    assert askers[4].ask().state is AdmissionState.PENDING
    world.service.change_policy({"requests": "off"})
    world.now += 3601
    for _ in range(2):
        asker = Asker(world, origin="192.0.2.9")
        asker.ask()
        asker.enrol()
    refused("too-many-requests", Asker(world, origin="192.0.2.10").ask)
    # A member that left makes room.
    world.service.revoke(str(world.service.members()[0].node.prefix))
    Asker(world, origin="192.0.2.10").ask()


def test_a_policy_must_be_sound(world):
    for changes, mistake in (
        ({"requests": "perhaps"}, "requests=perhaps"),
        ({"opens": "on"}, "did you mean open"),
        ({"open_prefix_length": "48"}, "48"),
        ({"mail": "on"}, "mail_server must be HOST:PORT"),
        (
            {"mail": "on", "mail_server": "mx.example:25", "mail_domains": "example.org"},
            "mail_sender must be an address",
        ),
        (
            {
                "mail": "on",
                "mail_server": "mx.example:25",
                "mail_domains": "*",
                "mail_sender": "re6st@example.org",
                "mail_security": "none",
            },
            "only for a server on this host",
        ),
    ):
        with pytest.raises(ConfigError, match=mistake):
            world.service.change_policy(changes)
    assert not world.service.policy().requests
