"""The life of a node at the registry: tokens, reservations, rename, suspension, return, expiry, deletion."""

import json
from ipaddress import IPv6Network

import pytest
from registry_world import DAY, World, refused

from re6st.errors import ConfigError, ExpiredError, RevokedError, StorageError
from re6st.identity import build_request, generate_key, parse_node_certificate
from re6st.messages import RenewalRequest
from re6st.registry.store import Selection
from re6st.registry.usecases import Actor, ActorKind


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "state")
    yield world
    world.close()


def states(world):
    return {member.node.name: member.state(world.now) for member in world.service.members()}


def actions(world):
    return [entry.action for entry in world.service.audit()]


# -- tokens ---------------------------------------------------------------------------------------------


def test_a_token_for_several_nodes(world):
    token = world.service.create_token(uses=2)
    first = world.enrol("a", token=token)[1]
    key, second = world.enrol("b", token=token)
    assert "2 times" in refused("token-used", world.enrol, "c", token=token)
    # Lost answers are repeated, also when the token is used up.
    assert world.enrol("b", token=token, key=key)[1].certificate == second.certificate
    assert first.certificate != second.certificate
    [row] = world.service.tokens()
    assert (row.uses, row.maximum_uses, row.state(world.now)) == (2, 2, "used")
    with pytest.raises(ConfigError, match="cannot give them one name"):
        world.service.create_token("attic", uses=2)
    with pytest.raises(ConfigError, match="1 to 10000"):
        world.service.create_token(uses=0)


def test_a_revoked_token_lets_nobody_in_but_keeps_who_is_in(world):
    token, key = world.service.create_token(uses=5), generate_key()
    first = world.enrol("a", token=token, key=key)[1]
    [row] = world.service.tokens()
    assert world.service.revoke_token(row.identifier).state(world.now) == "revoked"
    world.service.revoke_token(row.identifier)
    refused("token-revoked", world.enrol, "b", token=token)
    assert world.enrol("a", token=token, key=key)[1].certificate == first.certificate
    assert actions(world).count("token.revoked") == 1
    refused("unknown-token", world.service.revoke_token, 99)


def test_a_revoked_token_frees_the_name(world):
    world.service.create_token("attic")
    world.service.revoke_token(1)
    world.enrol("attic")


# -- reservations ---------------------------------------------------------------------------------------


def test_a_reserved_prefix_waits_for_its_name(world):
    wanted = IPv6Network("2001:db8:42:100::/60")
    world.service.reserve("attic", wanted)
    refused("name-taken", world.enrol, "attic")
    refused("name-taken", world.enrol, "ATTIC", token=world.service.create_token(uses=3))
    refused("prefix-taken", world.service.reserve, "cellar", IPv6Network("2001:db8:42:101::/64"))
    token = world.service.create_token("attic")
    assert parse_node_certificate(world.enrol("", token=token)[1].certificate).prefix == wanted
    # It comes back to the name whatever the quarantine.
    world.service.revoke("attic")
    again = world.enrol("attic", token=world.service.create_token("attic"))[1]
    assert parse_node_certificate(again.certificate).prefix == wanted
    world.service.unreserve("attic")
    assert world.service.reservations() == []
    refused("unknown-reservation", world.service.unreserve, "attic")


def test_a_reservation_without_a_prefix(world):
    _, caller = world.node("attic", prefix_length=62)
    assert world.service.reserve("attic").prefix == caller.node.prefix
    free = world.service.reserve("cellar", prefix_length=63).prefix
    assert free.prefixlen == 63
    assert not free.overlaps(caller.node.prefix)
    _, other = world.node("other", prefix_length=63)
    assert not other.node.prefix.overlaps(free)
    with pytest.raises(ConfigError, match="not inside the network"):
        world.service.reserve("x", IPv6Network("2001:db8:43::/64"))
    refused("prefix-taken", world.service.reserve, "x", other.node.prefix)


def test_a_prefix_in_quarantine_is_not_reserved_for_another(world):
    _, caller = world.node("attic")
    world.service.revoke("attic")
    assert "quarantine" in refused("prefix-taken", world.service.reserve, "cellar", caller.node.prefix)
    assert world.service.reserve("attic", caller.node.prefix).prefix == caller.node.prefix


# -- rename ---------------------------------------------------------------------------------------------


def test_a_renamed_node_learns_it_when_it_renews(world):
    key, caller = world.node("attic")
    world.service.reserve("attic")
    assert world.service.rename("attic", "loft").name == "loft"
    assert [row.name for row in world.service.reservations()] == ["loft"]
    # It does not know yet, and asks under its old name.
    request = RenewalRequest(request=build_request(key, "attic"))
    renewed = parse_node_certificate(world.service.renew(caller, request).certificate)
    assert (renewed.name, renewed.prefix) == ("loft", caller.node.prefix)
    world.enrol("attic")
    refused("name-taken", world.service.rename, "loft", "attic")
    refused("name-invalid", world.service.rename, "loft", "a b")
    assert world.service.rename("loft", "Loft").name == "Loft"


# -- suspension -----------------------------------------------------------------------------------------


def test_a_suspended_node_is_kept_out_and_comes_back(world):
    key, caller = world.node("attic")
    world.publish(key, caller)
    _, other = world.node("other")
    world.service.suspend("attic")
    world.service.suspend("attic")
    assert world.revocations().serials == (caller.certificate.serial_hex,)
    assert world.revocations().version == 2
    with pytest.raises(RevokedError, match="suspended since"):
        world.service.authenticate(caller.certificate.der)
    assert world.service.sample(other).peers == ()
    assert states(world) == {"attic": "suspended", "other": "active"}
    refused("name-taken", world.enrol, "attic")
    world.service.resume("attic")
    assert world.revocations().serials == ()
    assert world.service.authenticate(caller.certificate.der).node.name == "attic"
    assert len(world.service.sample(other).peers) == 1


def test_revoking_a_suspended_node_is_final(world):
    _, caller = world.node("attic")
    world.service.suspend("attic")
    world.service.revoke("attic")
    assert world.revocations().serials == (caller.certificate.serial_hex,)
    refused("unknown-node", world.service.resume, "attic")


# -- return ---------------------------------------------------------------------------------------------


def test_a_machine_installed_again_gets_its_place_back(world):
    _, caller = world.node("attic", prefix_length=60)
    world.node("cellar")
    token = world.service.create_return_token("attic")
    refused("name-not-allowed", world.enrol, "other", token=token)
    key, enrolment = world.enrol("", token=token)
    certificate = parse_node_certificate(enrolment.certificate)
    assert (certificate.name, certificate.prefix) == ("attic", caller.node.prefix)
    with pytest.raises(RevokedError):
        world.service.authenticate(caller.certificate.der)
    assert world.revocations().serials == (caller.certificate.serial_hex,)
    assert world.enrol("", token=token, key=key)[1].certificate == enrolment.certificate
    refused("token-used", world.enrol, "", token=token)
    assert len(world.store.nodes()) == 2


def test_a_revoked_node_is_given_its_place_back(world):
    _, caller = world.node("attic")
    world.service.revoke("attic")
    token = world.service.create_return_token(str(caller.node.prefix))
    certificate = parse_node_certificate(world.enrol(token=token)[1].certificate)
    assert (certificate.name, certificate.prefix) == ("attic", caller.node.prefix)
    assert states(world) == {"attic": "active"}
    assert caller.certificate.serial_hex in world.revocations().serials


def test_a_place_that_was_given_away_does_not_come_back(world):
    _, caller = world.node("attic")
    world.service.revoke("attic")
    token = world.service.create_return_token("attic")
    world.now += 31 * DAY
    refused("token-expired", world.enrol, token=token)
    token = world.service.create_return_token("attic")
    assert world.node("cellar")[1].node.prefix == caller.node.prefix
    refused("prefix-taken", world.enrol, token=token)
    refused("prefix-taken", world.service.create_return_token, "attic")
    with pytest.raises(StorageError, match="overlaps"), world.store.transaction():
        world.store.restore_node(caller.node.identifier, "attic")
    refused("unknown-node", world.service.create_return_token, "nobody")
    world.service.suspend("cellar")
    refused("suspended", world.service.create_return_token, "cellar")


# -- expiry and deletion --------------------------------------------------------------------------------


def test_nodes_that_stayed_away_are_released_after_the_quarantine(world):
    _, caller = world.node("attic")
    world.node("kept")
    world.service.suspend("kept")
    world.now += 366 * DAY
    assert world.service.tidy() == (0, 0)
    assert states(world) == {"attic": "expired", "kept": "suspended"}
    world.now += 30 * DAY
    assert world.service.tidy() == (1, 0)
    assert states(world) == {"attic": "released", "kept": "suspended"}
    with pytest.raises(ExpiredError):
        world.service.authenticate(caller.certificate.der)
    # Its quarantine is over: it counts from the expiry of the certificate.
    assert world.node("other")[1].node.prefix == caller.node.prefix
    assert world.service.tidy() == (0, 0)
    assert actions(world).count("node.expired") == 1


def test_a_deleted_node_leaves_no_trace_but_its_revocation(world):
    _, caller = world.node("attic")
    token = world.service.create_return_token("attic")
    world.service.delete("attic")
    assert states(world) == {}
    refused("token-revoked", world.enrol, token=token)
    assert world.revocations().serials == (caller.certificate.serial_hex,)
    with pytest.raises(RevokedError):
        world.service.authenticate(caller.certificate.der)
    refused("unknown-node", world.service.create_return_token, "attic")
    assert world.node("other")[1].node.prefix != caller.node.prefix  # quarantine
    world.now += 31 * DAY
    assert world.service.tidy() == (0, 0)  # its certificate could still be shown
    world.now += 335 * DAY
    assert world.service.tidy() == (0, 1)
    assert [node.name for node in world.store.nodes()] == ["other"]


def test_a_used_link_stays_used_when_its_node_is_purged(world):
    token = world.service.create_token(lifetime=3 * 365 * DAY)
    world.enrol("attic", token=token)
    world.service.delete("attic")
    world.now += 2 * 365 * DAY
    assert world.service.tidy() == (0, 1)
    refused("token-revoked", world.enrol, "other", token=token)


def test_deleting_a_former_member(world):
    world.node("attic")
    world.service.revoke("attic")
    version = world.revocations().version
    world.service.delete("attic")
    assert world.revocations().version == version
    assert actions(world)[-2:] == ["node.revoked", "node.deleted"]


# -- looking --------------------------------------------------------------------------------------------


def test_pages_searches_and_states(world):
    for name in ("attic", "cellar", "garage", "garden"):
        world.node(name)
    world.service.suspend("cellar")
    world.service.revoke("garden")
    service = world.service
    assert service.count_states() == {"active": 2, "suspended": 1, "expired": 0, "released": 1}

    def names(limit, after=None, **options):
        page = service.members_page(limit, Selection(**options), after=after)
        return [member.node.name for member in page]

    assert names(100, search="GAR") == ["garage", "garden"]
    assert names(100, search="42:1::") == ["cellar"]
    assert names(100, search="%") == []
    assert names(100, state="active") == ["attic", "garage"]
    assert names(2) == ["attic", "cellar"]
    last = service.members_page(2)[-1].node
    assert names(9, after=(last.prefix.network_address.packed, last.identifier)) == ["garage", "garden"]
    assert service.member("garden").state(world.now) == "released"
    assert service.member("2001:db8:42::/64").node.name == "attic"


# -- audit ----------------------------------------------------------------------------------------------


def test_who_did_what_is_written_down(world):
    operator = world.service.by(Actor(ActorKind.LOCAL, "alice"))
    token = operator.create_token("attic")
    world.enrol(token=token)
    operator.revoke("attic")
    entries = world.service.audit()
    assert [(entry.actor_kind, entry.actor, entry.action, entry.subject) for entry in entries] == [
        ("local", "alice", "token.created", "1"),
        ("system", "re6st-registry", "node.enrolled", "attic"),
        ("local", "alice", "node.revoked", "attic"),
    ]
    assert json.loads(entries[1].details) == {"prefix": "2001:db8:42::/64", "token": 1}
    assert token not in "".join(entry.details for entry in entries)
    assert world.service.audit(after=2) == entries[2:]
    assert world.service.audit(since=world.now + 1) == []


def test_the_audit_log_is_append_only(world):
    world.service.create_token()
    for statement in ("DELETE FROM audit", "UPDATE audit SET actor = 'nobody'"):
        with pytest.raises(StorageError, match="append-only"), world.store.transaction():
            world.store.execute(statement)
    assert actions(world) == ["token.created"]


def test_what_is_refused_is_not_written_down(world):
    world.enrol("attic")
    before = actions(world)
    refused("name-taken", world.service.create_token, "attic")
    refused("unknown-node", world.service.revoke, "nobody")
    assert actions(world) == before


# -- parameters -----------------------------------------------------------------------------------------


def test_parameters_have_a_history_and_can_be_undone(world):
    service = world.service
    first = service.current_parameters()
    [difference] = service.preview_parameters({"hello_interval": "2"})
    assert (difference.key, difference.after) == ("hello_interval", "2.0")
    assert service.current_parameters().version == 1
    service.change_parameters({"hello_interval": "2"})
    service.change_parameters({"gossip_interval": "30"})
    assert [item.parameters.version for item in service.parameter_history()] == [3, 2, 1]
    assert [item.key for item in service.compare_parameters()] == ["gossip_interval"]
    assert [item.key for item in service.compare_parameters(1, 3)] == ["hello_interval", "gossip_interval"]
    with pytest.raises(ConfigError, match="there are: 1, 2, 3"):
        service.compare_parameters(1, 9)
    undone = service.undo_parameters()
    assert (undone.version, undone.hello_interval, undone.gossip_interval) == (4, 2.0, first.gossip_interval)
    undone = service.undo_parameters(1)
    assert (undone.version, undone.hello_interval) == (5, first.hello_interval)
    refused("unknown-version", service.undo_parameters, 77)
    refused("version-changed", service.change_parameters, {"hello_interval": "3"}, expected_version=4)
    assert service.change_parameters({"hello_interval": "3"}, expected_version=5).version == 6
    changes = json.loads(service.audit()[-1].details)
    assert changes == {"hello_interval": [str(first.hello_interval), "3.0"]}
