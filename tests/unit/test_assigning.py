"""Further prefixes of nodes at the registry: giving, taking, quarantine, return, certificates."""

import itertools
import json
from ipaddress import IPv6Network

import pytest
from registry_world import DAY, NETWORK, World, refused

from re6st.errors import ConfigError, StorageError
from re6st.identity import build_request, generate_key, parse_node_certificate
from re6st.messages import RenewalRequest
from re6st.peers import open_record
from re6st.registry.backup import check
from re6st.registry.store import Selection

PREFIXES = list(itertools.islice(NETWORK.subnets(new_prefix=64), 32))


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "state")
    yield world
    world.close()


def further(world, name):
    return list(world.service.member(name).further)


def renewed(world, key, caller):
    """Return the caller again, with the certificate that a renewal gives it."""
    request = RenewalRequest(request=build_request(key, ""))
    return world.service.authenticate(world.service.renew(caller, request).certificate)


def test_a_node_gets_further_prefixes_with_its_next_certificate(world):
    key, caller = world.node("attic")
    assert not world.service.wants_renewal(caller)
    assert world.service.add_prefix("attic") == PREFIXES[1]
    assert world.service.add_prefix("attic", PREFIXES[9]) == PREFIXES[9]
    assert world.service.add_prefix("attic", PREFIXES[9]) == PREFIXES[9]
    assert world.service.add_prefix(str(PREFIXES[9]), prefix_length=63) == PREFIXES[2].supernet()
    assert world.service.wants_renewal(caller)
    caller = renewed(world, key, caller)
    assert caller.certificate.prefix == PREFIXES[0]
    assert list(caller.certificate.further) == further(world, "attic")
    assert set(further(world, "attic")) == {PREFIXES[1], PREFIXES[2].supernet(), PREFIXES[9]}
    assert not world.service.wants_renewal(caller)
    # Whoever has its record knows all its prefixes.
    world.publish(key, caller)
    [published] = world.service.sample(world.node("cellar")[1], 1).peers
    assert open_record(published, world.trust, world.now).further == caller.certificate.further
    # An answer that got lost is repeated, but not when the prefixes have changed since.
    world.service.remove_prefix("attic", PREFIXES[9])
    assert PREFIXES[9] not in renewed(world, key, caller).certificate.further
    added = [entry for entry in world.service.audit() if entry.action == "node.prefix-added"]
    assert json.loads(added[0].details) == {"prefix": str(PREFIXES[0]), "further": str(PREFIXES[1])}
    assert check(world.state) == []


def test_nobody_else_gets_a_further_prefix(world):
    world.node("attic")
    world.node("cellar")
    world.service.add_prefix("attic", PREFIXES[2])
    assert world.node("garage")[1].node.prefix == PREFIXES[3]
    refused("prefix-taken", world.service.add_prefix, "cellar", PREFIXES[2])
    refused("prefix-taken", world.service.add_prefix, "cellar", PREFIXES[0])
    refused("prefix-taken", world.service.reserve, "x", PREFIXES[2].supernet())
    world.service.reserve("barn", PREFIXES[7])
    refused("prefix-taken", world.service.add_prefix, "cellar", PREFIXES[7])
    with pytest.raises(ConfigError, match="not inside"):
        world.service.add_prefix("attic", IPv6Network("2001:db8:43::/64"))
    with pytest.raises(StorageError), world.store.transaction():
        world.store.add_node("x", PREFIXES[2], world.now)
    with pytest.raises(StorageError), world.store.transaction():
        world.store.add_further(1, PREFIXES[3], world.now)
    refused("unknown-node", world.service.add_prefix, "nowhere")
    refused("unknown-prefix", world.service.remove_prefix, "attic", PREFIXES[0])
    for number in range(14):
        world.service.add_prefix("attic", PREFIXES[10 + number])
    refused("too-many-prefixes", world.service.add_prefix, "attic")


def test_a_prefix_that_was_taken_is_in_quarantine(world):
    world.node("attic")
    world.node("cellar")
    world.now += 1
    world.service.add_prefix("attic", PREFIXES[2])
    world.service.remove_prefix("attic", PREFIXES[2])
    refused("unknown-prefix", world.service.remove_prefix, "attic", PREFIXES[2])
    assert "attic may still" in refused("prefix-taken", world.service.add_prefix, "cellar", PREFIXES[2])
    assert world.service.add_prefix("cellar") == PREFIXES[3]
    # The same node may have it again at once.
    world.service.add_prefix("attic", PREFIXES[2])
    world.service.remove_prefix("attic", PREFIXES[2])
    world.now += 31 * DAY
    assert world.service.add_prefix("cellar") == PREFIXES[2]


@pytest.mark.parametrize("again", [False, True])
def test_nobody_gets_a_prefix_that_its_holder_may_still_announce(world, again):
    key, caller = world.node("attic")
    world.node("cellar")
    world.now += 1
    world.service.add_prefix("attic", PREFIXES[2])
    caller = renewed(world, key, caller)
    world.now += 1
    world.service.remove_prefix("attic", PREFIXES[2])
    if again:
        world.now += 1
        world.service.add_prefix("attic", PREFIXES[2])
        world.service.remove_prefix("attic", PREFIXES[2])
    world.now += 60 * DAY
    # It was offline since, and its certificate still names the prefix.
    assert "attic may still" in refused("prefix-taken", world.service.add_prefix, "cellar", PREFIXES[2])
    assert world.service.add_prefix("cellar") == PREFIXES[3]
    renewed(world, key, caller)
    assert world.service.add_prefix("cellar", PREFIXES[2]) == PREFIXES[2]
    assert check(world.state) == []


def test_the_rest_of_a_prefix_stays_in_quarantine_when_its_holder_gets_a_part_back(world):
    key, caller = world.node("attic")
    world.node("cellar")
    whole = PREFIXES[4].supernet(2)
    world.service.add_prefix("attic", whole)
    caller = renewed(world, key, caller)
    world.now += 1
    world.service.remove_prefix("attic", whole)
    world.service.add_prefix("attic", PREFIXES[5])
    for prefix in (PREFIXES[4], PREFIXES[6], PREFIXES[7]):
        assert "attic may still" in refused("prefix-taken", world.service.add_prefix, "cellar", prefix)
    assert world.service.add_prefix("cellar", prefix_length=62) == PREFIXES[8].supernet(2)
    world.now += 1
    renewed(world, key, caller)
    world.now += 31 * DAY
    for prefix in (PREFIXES[4], PREFIXES[6].supernet()):
        assert world.service.add_prefix("cellar", prefix) == prefix
    assert further(world, "attic") == [PREFIXES[5]]
    assert check(world.state) == []


def test_a_prefix_is_free_when_the_last_certificate_with_it_has_expired(world):
    key, caller = world.node("attic")
    world.service.add_prefix("attic", PREFIXES[1])
    renewed(world, key, caller)
    world.now += 300 * DAY
    world.service.remove_prefix("attic", PREFIXES[1])
    world.now += 60 * DAY
    assert world.node("cellar")[1].node.prefix == PREFIXES[2]
    world.now += 6 * DAY
    assert world.node("garage")[1].node.prefix == PREFIXES[1]


def test_further_prefixes_leave_and_come_back_with_their_node(world):
    world.node("attic")
    world.node("cellar")
    for prefix in (PREFIXES[4], PREFIXES[5], PREFIXES[6]):
        world.service.add_prefix("attic", prefix)
    world.service.remove_prefix("attic", PREFIXES[6])
    # A machine that was installed again has all that it had.
    _, caller = world.node(token=world.service.create_return_token("attic"))
    assert caller.certificate.further == (PREFIXES[4], PREFIXES[5])
    world.now += 1
    world.service.revoke("attic")
    refused("prefix-taken", world.service.add_prefix, "cellar", PREFIXES[4])
    assert further(world, "attic") == []
    _, caller = world.node(token=world.service.create_return_token("attic"))
    assert caller.certificate.further == (PREFIXES[4], PREFIXES[5])
    # After the quarantine others may have them.
    world.service.revoke("attic")
    world.now += 31 * DAY
    world.service.add_prefix("cellar", PREFIXES[4])
    _, caller = world.node(token=world.service.create_return_token("attic"))
    assert PREFIXES[4] not in caller.certificate.further
    assert check(world.state) == []
    world.service.delete("attic")
    world.now += 400 * DAY
    world.service.tidy()
    assert world.store.execute("SELECT count(*) FROM further_prefixes WHERE node = 1") == [(0,)]
    assert any(PREFIXES[5].subnet_of(block) for block in world.store.free_space())


def test_nodes_are_found_by_further_prefixes(world):
    world.node("attic")
    world.service.add_prefix("attic", PREFIXES[11])
    assert world.service.member(str(PREFIXES[11])).node.name == "attic"
    [member] = world.service.members_page(9, Selection(search=":b::"))
    assert member.node.name == "attic"
    assert parse_node_certificate(world.enrol("cellar", key=generate_key())[1].certificate).further == ()
