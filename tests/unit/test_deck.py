"""Samples of peer records in a large network share one draw."""

from ipaddress import IPv6Network

import pytest

from re6st.identity import generate_key, parse_node_certificate
from re6st.lab.inhabitants import populate
from re6st.registry.state import StateDirectory

NODES = 400


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    state = StateDirectory(tmp_path_factory.mktemp("deck") / "registry")
    state.create(IPv6Network("2001:db8:42::/48"))
    nodes = populate(state, generate_key(), NODES)
    with state.service() as service:
        yield service, nodes


def test_samples_share_a_draw(service, monkeypatch):
    service, nodes = service
    now = service.now()
    draws = []
    draw = service.database.draw_records

    def count(**wanted):
        draws.append(wanted["count"])
        return draw(**wanted)

    monkeypatch.setattr(service.database, "draw_records", count)
    monkeypatch.setattr(service, "_clock", lambda: now)
    seen = set()
    for node in nodes[:50]:
        caller = service.authenticate(node.certificate)
        sample = service.sample(caller, 64).peers
        names = {parse_node_certificate(record.certificate).name for record in sample}
        assert len(names) == 64
        assert caller.node.name not in names
        seen |= names
    assert draws == [256, 256]
    assert len(seen) > 100


def test_a_deck_is_used_for_a_second_only(service, monkeypatch):
    service, nodes = service
    times = [service.now()]
    monkeypatch.setattr(service, "_clock", lambda: times[0])
    caller = service.authenticate(nodes[0].certificate)
    seen = set()
    for _ in range(20):
        seen |= {record.certificate for record in service.sample(caller, 64).peers}
        times[0] += 1.5
    assert len(seen) > 300
