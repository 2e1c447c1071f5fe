"""Changes of the network parameters at a chosen time."""

import pytest
from registry_world import World, refused

from re6st.errors import ConfigError
from re6st.registry import plans


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "registry")
    yield world
    world.close()


def test_a_change_happens_at_its_time(world):
    service = world.service
    later = service.plan_parameters({"hello_interval": "2"}, world.now + 200)
    sooner = service.plan_parameters({"gossip_interval": "60"}, world.now + 100)
    assert service.plans() == [sooner, later]
    assert service.carry_out_plans() == 0
    world.now += 100
    assert service.carry_out_plans() == 1
    assert service.plans() == [later]
    parameters = service.current_parameters()
    assert (parameters.version, parameters.gossip_interval, parameters.hello_interval) == (2, 60.0, 4.0)
    world.now += 1e6  # no server ran when its time came
    assert service.carry_out_plans() == 1
    assert service.current_parameters().hello_interval == 2.0
    assert service.carry_out_plans() == 0


def test_mistakes_are_found_when_a_change_is_planned(world, monkeypatch):
    with pytest.raises(ConfigError, match="hello_interval"):
        world.service.plan_parameters({"hello_interval": "nonsense"}, world.now + 100)
    with pytest.raises(ConfigError, match="over already"):
        world.service.plan_parameters({"hello_interval": "2"}, world.now)
    assert world.service.plans() == []
    monkeypatch.setattr(plans, "MOST_PLANS", 1)
    world.service.plan_parameters({"hello_interval": "2"}, world.now + 100)
    refused("too-many-plans", world.service.plan_parameters, {"hello_interval": "2"}, world.now + 100)


def test_what_became_impossible_is_dropped_and_written_down(world):
    world.service.plan_parameters({"hello_interval": "30"}, world.now + 100)
    world.service.change_parameters({"update_interval": "20"})
    world.now += 100
    assert world.service.carry_out_plans() == 0
    assert world.service.plans() == []
    assert world.service.current_parameters().version == 2
    entry = world.service.audit()[-1]
    assert entry.action == "parameters.plan-failed"
    assert "update_interval" in entry.details


def test_cancelled(world):
    plan = world.service.plan_parameters({"hello_interval": "2"}, world.now + 100)
    world.service.cancel_plan(plan.identifier)
    refused("unknown-plan", world.service.cancel_plan, plan.identifier)
    world.now += 200
    assert world.service.carry_out_plans() == 0
    assert [entry.action for entry in world.service.audit()][-2:] == [
        "parameters.planned",
        "parameters.plan-cancelled",
    ]
