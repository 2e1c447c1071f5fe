"""re6st.registry.service over a real database in a temporary directory, with a clock of our own."""

from ipaddress import IPv6Network

import pytest
from registry_world import DAY, NETWORK, World, refused

from re6st.errors import (
    ConfigError,
    ExpiredError,
    RevokedError,
    StorageError,
    UntrustedError,
)
from re6st.identity import (
    CONTEXT_PARAMETERS,
    build_request,
    generate_key,
    parse_node_certificate,
)
from re6st.messages import (
    NetworkParameters,
    PeerRecord,
    RenewalRequest,
    Revocations,
    decode,
)
from re6st.peers import open_record, seal_record
from re6st.registry.authority import Authority, build_authority
from re6st.registry.state import StateDirectory


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "state")
    yield world
    world.close()


def test_an_enrolment_is_complete(world):
    _, enrolment = world.enrol("attic")
    certificate = world.trust.verify(enrolment.certificate, world.now)
    assert (certificate.name, certificate.prefix) == ("attic", IPv6Network("2001:db8:42::/64"))
    parameters = decode(
        world.trust.verify_document(CONTEXT_PARAMETERS, enrolment.parameters), NetworkParameters
    )
    assert parameters.network == str(NETWORK)
    assert world.revocations() == Revocations(version=1)


def test_without_a_name_one_is_made(world):
    names = {parse_node_certificate(world.enrol()[1].certificate).name for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("node-") for name in names)


def test_a_token_decides_on_name_and_length(world):
    token = world.service.create_token("attic", 60)
    text = refused("name-not-allowed", world.enrol, "cellar", token=token)
    assert "the token is for the node attic" in text
    _, enrolment = world.enrol("", token=token)
    certificate = parse_node_certificate(enrolment.certificate)
    assert (certificate.name, certificate.prefix.prefixlen) == ("attic", 60)


def test_tokens_are_for_one_node_and_for_a_while(world):
    refused("token-unknown", world.enrol, token="x" * 32)
    token = world.service.create_token(lifetime=60)
    world.enrol("attic", token=token)
    assert "already used" in refused("token-used", world.enrol, "attic", token=token)
    token = world.service.create_token(lifetime=60)
    world.now += 61
    assert "ask the operator" in refused("token-expired", world.enrol, token=token)


def test_a_lost_answer_does_not_cost_a_prefix(world):
    token, key = world.service.create_token(lifetime=60), generate_key()
    first = world.enrol("attic", token=token, key=key)[1]
    world.now += 3600
    again = world.enrol("attic", token=token, key=key)[1]
    assert again.certificate == first.certificate
    assert len(world.store.nodes()) == 1


def test_the_database_does_not_know_the_token_itself(world):
    token = world.service.create_token("attic")
    assert len(token) >= 22
    content = b"".join(path.read_bytes() for path in world.state.path.glob("registry.sqlite3*"))
    assert token.encode() not in content
    assert b"attic" in content


def test_names_are_unique(world):
    world.enrol("attic")
    refused("name-taken", world.enrol, "attic")
    refused("name-taken", world.enrol, "ATTIC")
    refused("name-taken", world.service.create_token, "attic")
    refused("name-invalid", world.service.create_token, "at tic")
    world.service.create_token("cellar")
    refused("name-taken", world.enrol, "cellar")
    refused("name-taken", world.service.create_token, "cellar")


def test_a_refused_enrolment_leaves_the_token_usable(world):
    world.enrol("attic")
    token = world.service.create_token()
    refused("name-taken", world.enrol, "attic", token=token)
    assert parse_node_certificate(world.enrol("cellar", token=token)[1].certificate).name == "cellar"


def test_a_full_network_and_quarantine(tmp_path):
    world = World(tmp_path / "s", IPv6Network("2001:db8:42:ff00::/56"), quarantine=10 * DAY)
    callers = [world.node(prefix_length=58)[1] for _ in range(4)]
    assert "the network is full" in refused("network-full", world.enrol)
    world.service.revoke(callers[1].node.name)
    assert "1 are in quarantine" in refused("network-full", world.enrol)
    world.now += 10 * DAY + 1
    assert world.node(prefix_length=58)[1].node.prefix == callers[1].node.prefix
    world.close()


def test_renewal_keeps_name_and_prefix(world):
    key, caller = world.node("attic")
    world.now += 200 * DAY
    renewed = parse_node_certificate(
        world.service.renew(caller, RenewalRequest(request=build_request(key, ""))).certificate
    )
    assert (renewed.name, renewed.prefix) == ("attic", caller.node.prefix)
    assert renewed.not_after == pytest.approx(world.now + 365 * DAY, abs=2)
    # The answer was lost: the same again. The old certificate still authenticates.
    again = world.service.renew(caller, RenewalRequest(request=build_request(key, "attic")))
    assert again.certificate == renewed.der
    refused("name-not-allowed", world.service.renew, caller, RenewalRequest(request=build_request(key, "x")))


def test_renewals_are_bounded(world):
    _, caller = world.node()
    for _ in range(15):
        world.service.renew(caller, RenewalRequest(request=build_request(generate_key(), "")))
    request = RenewalRequest(request=build_request(generate_key(), ""))
    refused("too-many-certificates", world.service.renew, caller, request)


def test_an_expired_certificate_authenticates_nobody(world):
    _, caller = world.node()
    world.now += 366 * DAY
    with pytest.raises(ExpiredError):
        world.service.authenticate(caller.certificate.der)


def test_unknown_certificates_of_the_right_authority_are_refused(world):
    der = world.authority.issue_node(
        generate_key().public_key(), "ghost", IPv6Network("2001:db8:42:9::/64"), world.now
    )
    with pytest.raises(UntrustedError, match="does not know this certificate"):
        world.service.authenticate(der)
    key = generate_key()
    other = Authority(build_authority(key, NETWORK, world.now), key)
    with pytest.raises(UntrustedError):
        world.service.authenticate(
            other.issue_node(key.public_key(), "x", IPv6Network("2001:db8:42:9::/64"), world.now)
        )


@pytest.mark.parametrize("by", ["name", "prefix", "leave"])
def test_revocation_covers_all_certificates_until_they_expire(world, by):
    key, caller = world.node("attic")
    world.publish(key, caller)
    world.now += 300 * DAY
    second = world.service.renew(caller, RenewalRequest(request=build_request(key, "")))
    if by == "leave":
        world.service.leave(caller)
    else:
        world.service.revoke("Attic" if by == "name" else str(caller.node.prefix))
    serials = {caller.certificate.serial_hex, parse_node_certificate(second.certificate).serial_hex}
    assert world.revocations() == Revocations(version=2, serials=tuple(sorted(serials)))
    for der in (caller.certificate.der, second.certificate):
        with pytest.raises(RevokedError, match="was revoked on"):
            world.service.authenticate(der)
    refused("unknown-node", world.service.revoke, "attic")
    # A request that was let in before is stopped inside its transaction.
    with pytest.raises(RevokedError):
        world.publish(key, caller, sequence=2)
    world.now += 100 * DAY
    _, other = world.node("attic")
    world.service.leave(other)
    assert len(world.revocations().serials) == 2  # the first one's older certificate has expired


def test_records_are_ones_own_and_go_forward(world):
    key, caller = world.node("attic")
    other_key, other = world.node("cellar")
    world.publish(key, caller, sequence=5)
    world.publish(key, caller, sequence=5)
    assert "publish with a higher one" in refused("record-outdated", world.publish, key, caller, 4)
    refused("record-outdated", world.publish, key, caller, 5, False)
    record = seal_record(
        other_key,
        other.certificate.der,
        PeerRecord(prefix=str(other.node.prefix), name="cellar", sequence=1),
    )
    refused("record-foreign", world.service.publish, caller, record)
    refused("record-invalid", world.publish, key, caller, 6, prefix="2001:db8:42:77::/64")
    refused("record-invalid", world.publish, generate_key(), caller, 6)


def names(world, sample):
    return {open_record(signed, world.trust, world.now).name for signed in sample.peers}


def test_a_sample_does_not_look_at_all_records(world):
    statement, values = "", ()
    key, caller = world.node("a")
    world.publish(key, caller)
    execute = world.store.execute

    def explain(text, given=()):
        nonlocal statement, values
        statement, values = text, given
        return execute(text, given)

    world.store.execute = explain
    world.store.draw_records(exclude=[1], reachable=None, since=0.0, now=0.0, count=16, lots=[-5, 7])
    plan = [row[3] for row in execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    assert sum("INDEX records_by_lot (reachable=? AND lot>?)" in step for step in plan) == 4
    assert "SEARCH records USING INTEGER PRIMARY KEY (rowid=?)" in plan


def test_a_sample_prefers_fresh_and_reachable_peers(world):
    _, asking = world.node("asking")
    nodes = {}
    for name in ("old", "gone", "left", "hidden", "near1", "near2", "near3"):
        nodes[name] = world.node(name)
    world.publish(*nodes["old"])
    world.now += 2 * DAY
    for name in nodes.keys() - {"old"}:
        world.publish(*nodes[name], reachable=name != "hidden")
    world.service.revoke("gone")
    world.publish(*nodes["left"], sequence=2, departed=True)
    assert names(world, world.service.sample(asking, 4)) == {"near1", "near2", "near3", "hidden"}
    assert names(world, world.service.sample(asking, 64)) == {"near1", "near2", "near3", "hidden", "old"}
    assert len(world.service.sample(asking, 1).peers) == 1
    assert world.service.sample(asking).revocations_version == 2
    refused("malformed", world.service.sample, asking, 65)
    # Who joins gets peers at once, and nobody gets himself.
    assert len(world.enrol()[1].peers) == 5
    assert "near1" not in names(world, world.service.sample(nodes["near1"][1], 64))
    world.now += 364 * DAY
    assert world.service.sample(asking, 64).peers == ()


def test_parameters_are_changed_in_steps(world):
    assert world.service.change_parameters({"hello_interval": "2"}).version == 2
    assert world.service.current_parameters().hello_interval == 2.0
    with pytest.raises(ConfigError):
        world.service.change_parameters({"hello_interval": "0"})
    assert world.service.current_parameters().version == 2


def test_the_database_itself_refuses_overlaps_and_old_documents(world):
    world.enrol()
    with pytest.raises(StorageError, match="overlaps"), world.store.transaction():
        world.store.add_node("x", IPv6Network("2001:db8:42::/63"), world.now)
    with pytest.raises(StorageError, match="overlaps"), world.store.transaction():
        world.store.add_node("x", IPv6Network("2001:db8:42:0:1::/80"), world.now)
    with pytest.raises(StorageError, match="later version exists"), world.store.transaction():
        world.store.put_document(CONTEXT_PARAMETERS, 1, world.service.parameters())
    assert len(world.store.nodes()) == 1


def test_a_failed_transaction_leaves_nothing(world):
    def fail_half_way():
        with world.store.transaction():
            world.store.add_node("x", IPv6Network("2001:db8:42::/64"), world.now)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert world.store.nodes() == []


def test_the_servers_certificate_is_renewed_in_time(world):
    before = world.state.server.read_bytes()
    assert not world.state.refresh_server(world.authority, world.now + 200 * DAY)
    assert world.state.server.read_bytes() == before
    assert world.state.refresh_server(world.authority, world.now + 300 * DAY)
    assert world.state.server.read_bytes() != before
    world.state.server.write_bytes(b"rubbish")
    assert world.state.refresh_server(world.authority, world.now)
    assert world.state.server.stat().st_mode & 0o777 == 0o600


def test_init_overwrites_nothing(tmp_path, world):
    before = {path.name: path.read_bytes() for path in world.state.path.iterdir()}
    with pytest.raises(ConfigError, match="not empty"):
        StateDirectory(world.state.path).create(NETWORK)
    assert {path.name: path.read_bytes() for path in world.state.path.iterdir()} == before
    with pytest.raises(ConfigError, match="holds no registry"):
        StateDirectory(tmp_path / "elsewhere").authority()
    assert world.state.path.stat().st_mode & 0o777 == 0o700
    for name in ("ca-key.pem", "server.pem", "registry.sqlite3"):
        assert (world.state.path / name).stat().st_mode & 0o777 == 0o600
