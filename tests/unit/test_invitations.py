"""Join links by mail: what becomes of those who ask, bounds, what the mail says."""

import asyncio
import email
import secrets

import pytest
from registry_world import DAY, World, refused

from re6st.errors import ConfigError, RemoteProtocolError
from re6st.identity import build_request, generate_key
from re6st.messages import EnrolmentRequest, InvitationRequest, decode, encode
from re6st.registry.links import JoinLink
from re6st.registry.mail import compose_invitation, read_password
from re6st.registry.mailer import Mailer
from re6st.registry.usecases import Actor, ActorKind, digest

POLICY = {
    "mail": "on",
    "mail_server": "mx.example.org:587",
    "mail_sender": "re6st@example.org",
    "mail_domains": "Example.org, school.example",
    "mail_nodes": "2",
}


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "state")
    yield world
    world.close()


def ask(world, mailbox, origin="192.0.2.7"):
    world.service.by(Actor(ActorKind.JOINER, origin=origin)).ask_invitation(mailbox)


def sent(world, mailbox, **options):
    """Return the token in a mail that was asked for and sent."""
    ask(world, mailbox, **options)
    invitation = world.service.take_invitation()
    world.service.note_sent(invitation)
    return JoinLink.parse(invitation.link).token


def enrol(world, token):
    request = build_request(generate_key(), "")
    return world.service.enrol(EnrolmentRequest(token=token, request=request))


def test_mails_are_off_by_default(world):
    refused("mail-not-allowed", ask, world, "anna@example.org")


def test_a_link_lets_one_machine_in(world):
    world.service.create_group("people")
    world.service.change_policy(POLICY | {"mail_group": "people"})
    token = sent(world, "Anna+desk@example.org")
    assert [row.state for row in world.service.mails()] == ["sent"]
    assert world.service.take_invitation() is None
    enrol(world, token)
    [member] = world.service.members()
    assert (member.node.group, member.node.owner) == ("people", "anna+desk@example.org")
    refused("token-used", enrol, world, token)


def test_who_gets_nothing_cannot_tell(world):
    world.service.change_policy(POLICY)
    for mailbox in ("eve@other.example", "eve@sub.example.org"):
        ask(world, mailbox)
    ask(world, "anna@example.org")
    assert world.service.take_invitation().mailbox == "anna@example.org"
    states = {row.mailbox: (row.state, row.reason) for row in world.service.mails()}
    assert states["eve@other.example"] == ("refused", "its domain is not allowed")
    assert states["eve@sub.example.org"][0] == "refused"


def test_a_mailbox_owns_few_nodes(world):
    world.service.change_policy(POLICY)
    tokens = [sent(world, f"anna+{number}@example.org") for number in range(3)]
    nodes = [enrol(world, token) for token in tokens[:2]]
    assert "2 nodes already" in refused("mailbox-full", enrol, world, tokens[2])
    ask(world, "anna@example.org")
    assert world.service.take_invitation() is None
    world.service.leave(world.service.authenticate(nodes[0].certificate))
    enrol(world, tokens[2])


def test_mails_are_bounded(world):
    world.service.change_policy(POLICY)
    world.service.change_policy(
        {"mail_per_mailbox": "2", "mail_per_hour": "4", "mail_per_address": "6", "mail_nodes": "9"}
    )
    for _ in range(2):
        sent(world, "anna@example.org")
    ask(world, "anna+x@example.org")
    assert world.service.take_invitation() is None
    sent(world, "bea@example.org")
    sent(world, "cleo@example.org")
    ask(world, "dora@example.org")
    # Only an hour later there is room for another one: it waits.
    assert world.service.take_invitation() is None
    refused("too-many-requests", ask, world, "emma@example.org")
    ask(world, "emma@example.org", origin="192.0.2.8")
    world.now += 3601
    assert world.service.take_invitation().mailbox == "dora@example.org"


def test_a_flood_from_one_network_delays_nobody_else(world):
    world.service.change_policy(POLICY | {"mail_per_hour": "3", "mail_per_address": "1000"})
    for number in range(50):
        ask(world, f"a{number}@example.org", origin=f"2001:db8:0:{number:x}::1")
    refused("too-many-requests", ask, world, "a50@example.org", origin="2001:db8:0:f0::1")
    ask(world, "bea@example.org", origin="198.51.100.1")
    taken = [world.service.take_invitation().mailbox for _ in range(3)]
    assert taken == ["a0@example.org", "bea@example.org", "a1@example.org"]
    assert world.service.take_invitation() is None
    world.now += 1.1 * DAY
    # The others had no turn for too long.
    assert sorted(world.service.take_invitation().mailbox for _ in range(3)) == sorted(taken)
    assert sum(row.state == "refused" for row in world.service.mails()) == 48


def test_mailboxes_that_get_nothing_take_no_place(world):
    world.service.change_policy(POLICY | {"mail_per_address": "1000"})
    for number in range(300):
        ask(world, f"eve@n{number}.example", origin=f"{number + 1 & 255}.{number >> 8}.0.1")
    assert len(world.service.mails()) == 250
    ask(world, "anna@example.org", origin="203.0.113.1")
    assert world.service.take_invitation().mailbox == "anna@example.org"


def test_a_mail_server_that_is_down_only_delays(world):
    world.service.change_policy(POLICY)
    ask(world, "anna@example.org")
    first = world.service.take_invitation()
    world.service.note_failed(first, "no answer in time", permanent=False)
    assert world.service.take_invitation() is None
    world.now += 60
    second = world.service.take_invitation()
    # As after a crash: nobody knows whether it was sent.
    world.now += 240
    third = world.service.take_invitation()
    assert len({first.link, second.link, third.link}) == 3
    world.service.note_sent(third)
    refused("token-unknown", enrol, world, JoinLink.parse(first.link).token)
    enrol(world, JoinLink.parse(third.link).token)


def test_attempts_come_to_an_end(world):
    world.service.change_policy(POLICY)
    ask(world, "anna@example.org")
    attempts = 0
    while world.service.mails()[0].state == "waiting":
        world.now += 60 * 4**5
        invitation = world.service.take_invitation()
        attempts += 1
        world.service.note_failed(invitation, "no answer", permanent=False)
    assert attempts == 6
    refused("token-revoked", enrol, world, JoinLink.parse(invitation.link).token)
    ask(world, "bea@example.org")
    world.service.note_failed(world.service.take_invitation(), "550 no", permanent=True)
    assert world.service.mails()[0].state == "failed"
    world.now += 8 * DAY
    world.service.tidy()
    assert world.service.mails() == []


def test_a_late_answer_does_not_touch_a_later_attempt(world):
    world.service.change_policy(POLICY)
    ask(world, "anna@example.org")
    first = world.service.take_invitation()
    world.now += 60
    second = world.service.take_invitation()
    assert (first.attempts, second.attempts) == (1, 2)
    world.service.note_sent(first)
    assert world.service.mails()[0].state == "waiting"
    world.service.note_sent(second)
    for late in (first, second):
        world.service.note_failed(late, "550 no", permanent=True)
    assert world.service.mails()[0].state == "sent"
    enrol(world, JoinLink.parse(second.link).token)


@pytest.mark.parametrize("fate", ["used", "revoked"])
def test_a_link_that_is_spent_is_not_replaced(world, fate):
    world.service.change_policy(POLICY)
    ask(world, "anna@example.org")
    token = JoinLink.parse(world.service.take_invitation().link).token
    # Nobody noted that it was sent, as after a crash.
    if fate == "used":
        enrol(world, token)
    else:
        world.service.revoke_token(world.service.find_token(token).identifier)
    world.now += 60
    assert world.service.take_invitation() is None
    [row] = world.service.mails()
    assert (row.state, row.reason) == ("refused", f"the link of an earlier attempt was {fate}")
    refused(f"token-{fate}", enrol, world, token)


def test_unused_links_are_forgotten_after_their_mails(world):
    world.service.change_policy(POLICY)
    sent(world, "anna@example.org")
    ask(world, "bea@example.org")
    world.service.take_invitation()
    world.now += 9 * DAY
    world.service.tidy()
    # That of Bea waits for another attempt.
    assert world.store.execute("SELECT mailbox FROM tokens") == [("bea@example.org",)]


async def test_a_mail_server_that_dawdles_is_left(world, monkeypatch):
    async def dawdle(*_):
        await asyncio.Event().wait()

    async def call(function):
        return function()

    monkeypatch.setattr("re6st.registry.mail.send", dawdle)
    monkeypatch.setattr("re6st.registry.mailer.SENDING", 0.01)
    world.service.change_policy(POLICY)
    ask(world, "anna@example.org")
    await Mailer(world.service, call)._send(world.service.take_invitation())
    [row] = world.service.mails()
    assert (row.state, row.attempts) == ("waiting", 1)
    assert "took longer" in row.reason


def test_the_store_holds_no_secret(world):
    world.service.change_policy(POLICY)
    ask(world, "anna@example.org")
    token = JoinLink.parse(world.service.take_invitation().link).token
    rows = world.store.execute("SELECT digest FROM tokens")
    assert [bytes(row[0]) for row in rows] == [digest(token)]
    entries = str([(row.details, row.subject) for row in world.service.audit()])
    assert token not in entries


@pytest.mark.parametrize(
    "address",
    [
        "anna",
        "anna@localhost",
        "anna@example.org\nBcc: eve@example.org",
        "anna@example.org\r\n",
        "anna@example.org, eve@example.org",
        "Anna <anna@example.org>",
        '"a b"@example.org',
        "anna@[192.0.2.1]",
        "anna@-example.org",
        "änna@example.org",
        "a" * 65 + "@example.org",
        "a@" + "b" * 250 + ".org",
        "anna@example.org\n",
    ],
)
def test_what_is_no_address(address):
    with pytest.raises(RemoteProtocolError):
        decode(encode(InvitationRequest(email=address)), InvitationRequest)


def test_the_mail_says_what_to_do():
    link = f"https://[2001:db8::1]:8443/#ca={'0' * 64}&token={secrets.token_urlsafe(24)}&tls=public"
    message = compose_invitation(
        "re6st@example.org", "anna@example.org", "2001:db8:42::/48", link, 2e9, 1.9e9
    )
    octets = message.as_bytes()
    assert f"  re6st-node join '{link}'".encode() in octets.splitlines()
    read = email.message_from_bytes(octets)
    assert (read["To"], read["Auto-Submitted"]) == ("anna@example.org", "auto-generated")
    assert read.get_content_type() == "text/plain"
    assert "until 2033-05-18" in read.get_payload()


def test_the_password_is_kept_from_others(tmp_path):
    file = tmp_path / "password"
    file.write_text("secret\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_password({"RE6ST_SMTP_PASSWORD_FILE": str(file)})
    file.chmod(0o600)
    assert read_password({"RE6ST_SMTP_PASSWORD_FILE": str(file)}) == "secret"
    with pytest.raises(ConfigError, match="cannot read the password"):
        read_password({"RE6ST_SMTP_PASSWORD_FILE": str(tmp_path / "none")})
    assert read_password({"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None
    (tmp_path / "re6st-smtp-password").write_text("other")
    assert read_password({"CREDENTIALS_DIRECTORY": str(tmp_path)}) == "other"
