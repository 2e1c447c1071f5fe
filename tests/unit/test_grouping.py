"""Groups of nodes and their owners at the registry."""

import json
import secrets
from dataclasses import replace

import pytest
from registry_world import World, refused

from re6st.errors import ConfigError, StorageError
from re6st.identity import build_request, generate_key
from re6st.messages import AdmissionRequest, EnrolmentRequest, encode
from re6st.registry.operator_api import call as calls
from re6st.registry.operator_api import groups as group_operations
from re6st.registry.operator_messages import GroupChange
from re6st.registry.operators import Operator, Scope
from re6st.registry.service import Service
from re6st.registry.store import Selection, Store
from re6st.registry.usecases import Actor, ActorKind


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "state")
    yield world
    world.close()


def groups(world):
    return {row.name: world.service.count_group(row) for row in world.service.groups()}


def details(world, action):
    return [json.loads(entry.details) for entry in world.service.audit() if entry.action == action]


def test_a_join_link_decides_on_group_and_owner(world):
    world.service.create_group("office", "2nd floor", prefix_length=80)
    node = world.node("desk", group="OFFICE", owner=" anna@example.org ")[1].node
    assert (node.group, node.owner, node.prefix.prefixlen) == ("office", "anna@example.org", 80)
    assert world.node("shelf", group="office", prefix_length=72)[1].node.prefix.prefixlen == 72
    other = world.node("attic")[1].node
    assert (other.group, other.owner, other.prefix.prefixlen) == ("default", "", 64)
    assert groups(world) == {"default": 1, "office": 2}
    refused("unknown-group", world.service.create_token, group="cellar")
    refused("malformed", world.service.create_token, owner="anna\nroot")
    refused("malformed", world.service.create_token, owner="a" * 255)
    [row] = [row for row in world.service.tokens() if row.owner]
    assert (row.group, row.owner) == ("office", "anna@example.org")


def test_nodes_are_found_by_group_and_owner(world):
    world.service.create_group("office")
    for name, group, owner in (("a", "office", "Anna"), ("b", "office", "bert"), ("c", None, "anna")):
        world.node(name, group=group, owner=owner)

    def names(**options):
        return [member.node.name for member in world.service.members_page(9, Selection(**options))]

    assert names(group="office") == ["a", "b"]
    assert names(owner="anna") == ["a", "c"]
    assert names(group="OFFICE", owner="anna") == ["a"]
    assert names(search="ERT") == ["b"]
    assert names(owner="") == []


def test_a_node_changes_group_and_owner(world):
    world.service.create_group("office")
    _, caller = world.node("desk")
    moved = world.service.move("desk", "Office")
    assert (moved.group, moved.prefix) == ("office", caller.node.prefix)
    world.service.move(str(moved.prefix), "office")
    assert world.service.set_owner("desk", "anna").owner == "anna"
    world.service.set_owner("desk", "anna")
    assert details(world, "node.moved") == [
        {"prefix": str(moved.prefix), "before": "default", "group": "office"}
    ]
    assert details(world, "node.owner-changed") == [
        {"prefix": str(moved.prefix), "before": "", "owner": "anna"}
    ]
    refused("unknown-group", world.service.move, "desk", "nowhere")
    refused("unknown-node", world.service.set_owner, "chair", "anna")
    assert world.service.set_owner("desk", "").owner == ""


def test_a_full_group_takes_nobody(world):
    world.service.create_group("pair", maximum_nodes=2)
    token = world.service.create_token(uses=5, group="pair")
    world.node("a", token=token)
    world.node("b", token=token)
    refused("group-full", world.enrol, "c", token=token)
    world.node("c")
    refused("group-full", world.service.move, "c", "pair")
    world.service.move("a", "pair")
    world.service.revoke("a")
    world.service.move("c", "pair")
    # Who left comes back only if there is room.
    refused("group-full", world.service.create_return_token, "a")
    world.service.change_group("pair", "", None, None)
    world.node(token=world.service.create_return_token("a"))
    assert groups(world) == {"default": 0, "pair": 3}


def test_only_a_group_with_a_limit_is_counted(world, monkeypatch):
    statements, execute = [], world.store.execute
    monkeypatch.setattr(
        world.store, "execute", lambda *given: (statements.append(given[0]), execute(*given))[1]
    )
    world.node("a")
    assert any("FROM node_groups" in statement for statement in statements)
    assert not any("count(*) FROM nodes" in statement for statement in statements)
    world.service.change_group("default", "", None, 1)
    refused("group-full", world.enrol, "b")
    assert any("count(*) FROM nodes" in statement for statement in statements)


def test_a_group_in_use_stays(world):
    world.service.create_group("office", "2nd floor", 80, 9)
    refused("name-taken", world.service.create_group, "OFFICE")
    refused("name-invalid", world.service.create_group, "a b")
    refused("malformed", world.service.create_group, "x", "two\nlines")
    with pytest.raises(ConfigError):
        world.service.create_group("x", prefix_length=40)
    world.node("desk", group="office")
    assert "has 1 nodes" in refused("group-in-use", world.service.remove_group, "office")
    world.service.revoke("desk")
    world.service.create_token(group="office")
    assert "token revoke 2" in refused("group-in-use", world.service.remove_group, "office")
    world.service.revoke_token(2)
    world.service.change_policy({"open_group": "office"})
    assert "newcomers" in refused("group-in-use", world.service.remove_group, "office")
    world.service.change_policy({"open_group": "default"})
    world.service.remove_group("Office")
    assert world.service.member("desk").node.group == "default"
    refused("group-in-use", world.service.remove_group, "default")
    refused("unknown-group", world.service.remove_group, "office")
    assert world.service.change_group("default", "all others", None, 100).maximum_nodes == 100


def test_groups_of_those_who_come_without_a_link(world):
    world.service.create_group("guests", prefix_length=90)
    world.service.create_group("staff", prefix_length=70)
    refused("unknown-group", world.service.change_policy, {"open_group": "nowhere"})
    world.service.change_policy({"requests": "on", "requests_group": "staff", "open_group": "guests"})

    def ask(name):
        key, secret = generate_key(), secrets.token_urlsafe(32)
        request = build_request(key, name)
        service = world.service.by(Actor(ActorKind.JOINER, origin="192.0.2.7"))
        service.ask(AdmissionRequest(token=secret, request=request))
        return EnrolmentRequest(token=secret, request=request)

    first, second = ask("a"), ask("b")
    world.service.approve(1)
    world.service.approve(2, group="guests", owner="bert")
    for message in (first, second):
        world.service.enrol(message)
    world.service.change_policy({"open": "on"})
    world.service.enrol(ask("c"))
    members = {member.node.name: member.node for member in world.service.members()}
    assert {name: (node.group, node.owner, node.prefix.prefixlen) for name, node in members.items()} == {
        "a": ("staff", "", 70),
        "b": ("guests", "bert", 90),
        "c": ("guests", "", 80),
    }


def test_nodes_that_a_registry_without_groups_let_in(world):
    world.service.create_group("office")
    world.node("attic")
    world.store.execute("UPDATE nodes SET node_group = NULL")
    assert world.service.member("attic").node.group == "default"
    assert groups(world) == {"default": 1, "office": 0}

    def names(group):
        return [member.node.name for member in world.service.members_page(9, Selection(group=group))]

    assert (names("Default"), names("office")) == (["attic"], [])
    world.service.revoke("attic")
    world.node(token=world.service.create_return_token("attic"))
    assert world.service.move("attic", "office").group == "office"
    assert (names("default"), names("office")) == ([], ["attic"])


def test_a_group_is_changed_only_as_it_was_seen(world, monkeypatch):
    world.service.create_group("office")
    call = calls.Call(Operator(1, "anna", Scope.WRITE, ""), {"name": "office"}, {})
    seen = calls.entity_tag(encode(group_operations.show_group(world.service, call)))
    tag_of = calls.entity_tag

    def compare(body):
        # Between the comparison and the change no other registry can change the group.
        with (
            Store.open(world.state.place, busy_timeout=0.1) as store,
            pytest.raises(StorageError, match="locked"),
        ):
            Service(store, world.authority).change_group("office", "theirs", None, None)
        return tag_of(body)

    monkeypatch.setattr(calls, "entity_tag", compare)
    change = replace(call, message=GroupChange(description="ours"), if_match=seen)
    assert group_operations.change_group(world.service, change).description == "ours"
    refused("version-changed", group_operations.change_group, world.service, change)
    assert world.service.group("office").description == "ours"
