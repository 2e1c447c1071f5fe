"""A new CA takes over: what is trusted, what is issued, who is waited for, and interruptions."""

import pytest
from registry_world import World, refused

from re6st.core.events import Document
from re6st.errors import ConfigError, RemoteProtocolError, UntrustedError
from re6st.identity import CONTEXT_PARAMETERS, CONTEXT_REVOCATIONS, TrustStore, build_request, key_to_pem
from re6st.messages import NetworkParameters, NodeReport, RenewalRequest, decode
from re6st.node.documents import Documents
from re6st.registry.rollover import Stage


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "registry")
    yield world
    world.close()


def report(world, caller, version=None):
    version = version or world.service.current_parameters().version
    world.service.report(
        caller.node,
        NodeReport(
            time=world.now,
            uptime=1,
            software="re6st 0",
            reachability="public",
            routes=0,
            peers=0,
            parameters_version=version,
            revocations_version=1,
        ),
    )


def prepare(world):
    world.state.make_new_authority(world.service.network, world.now)
    world.service.prepare_authority(world.state.authority())


def renew(world, key, caller):
    enrolment = world.service.renew(caller, RenewalRequest(request=build_request(key, "")))
    return world.service.authenticate(enrolment.certificate)


def test_the_whole_way(world):
    service, old = world.service, world.authority.certificate
    key, caller = world.node("attic")
    only_old = TrustStore([old])
    status = service.rollover_status()
    assert (status.stage, status.other, status.waiting_for) == (Stage.SINGLE, None, ())
    refused("not-prepared", service.switch_authority)
    refused("not-switched", service.finish_authority)

    prepare(world)
    status = service.rollover_status()
    assert (status.stage, status.issuing, status.waiting_for) == (
        Stage.PREPARED,
        world.authority.fingerprint,
        ("attic",),
    )
    first, new = service.current_parameters().authorities
    assert first == old
    only_new = TrustStore([new])
    for trust in (only_old, only_new):
        trust.verify_document(CONTEXT_PARAMETERS, service.parameters())
        trust.verify_document(CONTEXT_REVOCATIONS, service.revocations())
    with pytest.raises(UntrustedError):
        only_new.verify(world.enrol("early")[1].certificate, world.now)
    service.revoke("early")
    assert "attic" in refused("nodes-not-ready", service.switch_authority)
    refused("rollover-under-way", service.prepare_authority, world.state.authority())
    report(world, caller, version=1)
    refused("nodes-not-ready", service.switch_authority)
    report(world, caller)

    service.switch_authority()
    assert service.current_parameters().authorities == (new, old)
    assert service.authority.certificate == new
    assert service.rollover_status().waiting_for == ("attic",)
    for trust in (only_old, only_new):
        trust.verify_document(CONTEXT_PARAMETERS, service.parameters())
        trust.verify_document(CONTEXT_REVOCATIONS, service.revocations())
    assert service.authenticate(caller.certificate.der).node.name == "attic"
    refused("nodes-not-ready", service.finish_authority)
    fresh = renew(world, key, caller)
    only_new.verify(fresh.certificate.der, world.now)

    service.finish_authority()
    world.state.keep_new_authority()
    assert not world.state.new_authority.exists()
    assert service.current_parameters().authorities == (new,)
    assert service.rollover_status().stage is Stage.SINGLE
    with pytest.raises(UntrustedError):
        only_old.verify_document(CONTEXT_PARAMETERS, service.parameters())
    with pytest.raises(UntrustedError):
        service.authenticate(caller.certificate.der)
    assert service.authenticate(fresh.certificate.der).node.name == "attic"
    # The next change begins where this one ended.
    prepare(world)
    assert service.current_parameters().authorities[0] == new


def test_a_change_is_not_undone_with_other_parameters(world):
    prepare(world)
    authorities = world.service.current_parameters().authorities
    world.service.change_parameters({"hello_interval": "2"})
    after = world.service.undo_parameters(1)
    assert (after.authorities, after.hello_interval) == (authorities, 4.0)
    with pytest.raises(ConfigError, match="re6st-registry authority"):
        world.service.change_parameters({"authorities": ""})


def test_interruptions_are_repeated(world):
    service = world.service
    world.state.make_new_authority(service.network, world.now)  # and nothing was published
    assert service.rollover_status().stage is Stage.SINGLE
    made = world.state.load_new_authority().certificate
    prepare(world)
    assert service.current_parameters().authorities[1] == made
    service.switch_authority(force=True)
    service.finish_authority(force=True)  # and the files were not put in order
    assert service.authority.certificate == made
    service.finish_authority()
    new = world.state.load_new_authority()
    # Only the key was replaced.
    world.state.authority_key.write_bytes(key_to_pem(new.key))
    assert world.state.authority().certificate == made
    world.state.keep_new_authority()
    assert world.state.authority().certificate == made
    assert world.state.authority().other is None


def test_a_failed_transaction_changes_no_authority(world, monkeypatch):
    prepare(world)

    def fail(*_arguments):
        raise RuntimeError("killed")

    monkeypatch.setattr(world.store, "set_setting", fail)
    with pytest.raises(RuntimeError):
        world.service.switch_authority(force=True)
    monkeypatch.undo()
    assert world.service.authority.certificate == world.authority.certificate
    assert world.service.rollover_status().stage is Stage.PREPARED


def test_a_node_follows_and_is_not_cut_off(world, tmp_path):
    _, enrolment = world.enrol("attic")
    trust = TrustStore([world.authority.certificate])
    documents = Documents(tmp_path, trust, enrolment.certificate)
    changes = []
    documents.trust_changed = lambda: changes.append(trust.authorities)
    prepare(world)
    assert documents.accept(Document.PARAMETERS, world.service.parameters())
    assert changes == [world.service.current_parameters().authorities]
    world.service.switch_authority(force=True)
    assert documents.accept(Document.PARAMETERS, world.service.parameters())
    assert trust.issuer(enrolment.certificate) == trust.authorities[1] == world.authority.certificate
    world.service.finish_authority(force=True)
    with pytest.raises(RemoteProtocolError, match="join again"):
        documents.accept(Document.PARAMETERS, world.service.parameters())
    assert len(trust.authorities) == 2
    # One that was away between the first step and the last learns of the new CA all the same.
    late = TrustStore([world.authority.certificate])
    other = World(tmp_path / "other")
    with pytest.raises(UntrustedError):
        late.adopt([other.authority.certificate, world.authority.certificate, b""])
    other.close()
    assert late.authorities == (world.authority.certificate,)
    assert decode(world.service.parameters().payload, NetworkParameters).version == 4
