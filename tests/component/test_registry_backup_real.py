"""Backup, restore and check of a registry's database on a real disk."""

import sqlite3
import threading
from ipaddress import IPv6Network

import pytest

from re6st.errors import ConfigError, StorageError, UntrustedError
from re6st.identity import CONTEXT_REVOCATIONS, build_request, generate_key, parse_node_certificate
from re6st.messages import EnrolmentRequest, RenewalRequest, Revocations, decode
from re6st.registry.backup import VERSION_JUMP, back_up, check, restore
from re6st.registry.recovery import SETTING_RESTORED
from re6st.registry.state import StateDirectory
from re6st.registry.store import Store
from re6st.registry.usecases import Actor, ActorKind

NETWORK = IPv6Network("2001:db8:42::/48")
ALICE = Actor(ActorKind.LOCAL, "alice")


@pytest.fixture
def state(tmp_path):
    state = StateDirectory(tmp_path / "state")
    state.create(NETWORK, ["https://192.0.2.1:8443"])
    return state


def enrol_with_key(service, name):
    key = generate_key()
    request = EnrolmentRequest(token=service.create_token(), request=build_request(key, name))
    return key, parse_node_certificate(service.enrol(request).certificate)


def enrol(service, name):
    return enrol_with_key(service, name)[1]


def renew(service, key, certificate):
    request = RenewalRequest(request=build_request(key, ""))
    return parse_node_certificate(service.renew(service.authenticate(certificate.der), request).certificate)


def documents(service):
    trust = service._trust
    revocations = decode(trust.verify_document(CONTEXT_REVOCATIONS, service.revocations()), Revocations)
    return service.current_parameters().version, revocations


@pytest.mark.parametrize("include_keys", [False, True])
def test_a_backup_is_restored(state, tmp_path, include_keys):
    with state.service() as service:
        attic = enrol(service, "attic")
        enrol(service, "cellar")
        service.revoke("cellar")
        service.change_parameters({"hello_interval": "2"})
        version, revocations = documents(service)
    file = tmp_path / "backup"
    back_up(state, file, ALICE, include_keys=include_keys)
    assert file.stat().st_mode & 0o777 == 0o600
    assert (b"PRIVATE KEY" in file.read_bytes()) is include_keys
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "state"]
    with pytest.raises(StorageError, match="overwrites nothing"):
        back_up(state, file, ALICE)

    other = StateDirectory(tmp_path / "other")
    if not include_keys:
        with pytest.raises(ConfigError, match="--authority-key"):
            restore(other, file, ALICE)
        assert list(other.path.iterdir()) == []
    assert restore(other, file, ALICE, None if include_keys else state.authority_key) == []
    with other.service() as service:
        assert service.fingerprint == state.authority().fingerprint
        assert service.authenticate(attic.der).node.name == "attic"
        later_version, later = documents(service)
        assert later_version == version + VERSION_JUMP
        assert later.serials == revocations.serials
        assert later.version == revocations.version + VERSION_JUMP
        assert service.current_parameters().hello_interval == 2.0
        last = service.audit()[-1]
        assert (last.actor, last.action) == ("alice", "registry.restored")
        enrol(service, "garage")
    names = {path.name for path in other.path.iterdir()}
    assert names == {"ca.pem", "ca-key.pem", "server.pem", "registry.sqlite3"}
    assert b"PRIVATE KEY" not in other.database.read_bytes()
    assert {path.stat().st_mode & 0o777 for path in other.path.iterdir()} == {0o600, 0o644}
    # The backup itself is as it was.
    restore(StateDirectory(tmp_path / "third"), file, ALICE, state.authority_key)


def test_a_backup_while_others_write(state, tmp_path):
    stopped, made = threading.Event(), []

    def write():
        with state.service() as service:
            # Who writes without a pause lets nobody else in: SQLite does not queue them.
            while not stopped.wait(0.01):
                made.append(service.create_token())

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            before = len(made)
            back_up(state, tmp_path / f"backup{number}", ALICE)
            with Store.open(tmp_path / f"backup{number}") as copy:
                assert copy.find_damage() == []
                assert len(copy.tokens()) >= before
    finally:
        stopped.set()
        writer.join()
    assert made


def test_nodes_that_joined_after_the_backup_are_adopted(state, tmp_path):
    with state.service() as service:
        attic_key, attic = enrol_with_key(service, "attic")
        old = enrol(service, "old")
        back_up(state, tmp_path / "backup", ALICE)
        cellar_key, cellar = enrol_with_key(service, "cellar")
        service.add_prefix("cellar")
        cellar = renew(service, cellar_key, cellar)
        lost = enrol(service, "lost")
        renewed = renew(service, attic_key, attic)
    restored = StateDirectory(tmp_path / "restored")
    assert restore(restored, tmp_path / "backup", ALICE, state.authority_key) == []
    with restored.service() as service:
        assert service.authenticate(old.der).node.name == "old"
        # Its prefix is known, the renewed certificate is not.
        assert service.authenticate(renewed.der).node.prefix == attic.prefix
        assert service.authenticate(cellar.der).node.prefix == cellar.prefix
        assert service.authenticate(cellar.der).node.name == "cellar"
        assert service.member("cellar").further == cellar.further != ()
        assert enrol(service, "new").prefix == lost.prefix  # nobody knew yet
        with pytest.raises(UntrustedError, match=r"restored from a backup.*join again"):
            service.authenticate(lost.der)
        assert {member.node.name for member in service.members()} == {"attic", "old", "cellar", "new"}
        assert [row.action for row in service.audit()].count("node.adopted") == 2
        # It may announce its further prefix for as long as the certificate from before is valid.
        service.remove_prefix("cellar", cellar.further[0])
        waiting = service._store.further_waiting(service.now() + 1, service.now())
        assert [row.prefix for row in waiting] == list(cellar.further)
        service.revoke("attic")
        assert set(documents(service)[1].serials) == {attic.serial_hex, renewed.serial_hex}
        # What the registry cannot have forgotten is not adopted.
        with service._store.transaction():
            service._store.set_setting(SETTING_RESTORED, str(service.now() + 86400))
        ghost = service._authority.issue_node(
            generate_key().public_key(), "ghost", IPv6Network("2001:db8:42:77::/64"), service.now()
        )
        with pytest.raises(UntrustedError, match="does not know this certificate"):
            service.authenticate(ghost)
    assert check(restored) == []


def test_what_cannot_be_restored(state, tmp_path):
    other = StateDirectory(tmp_path / "other")
    with pytest.raises(ConfigError, match="not a backup"):
        restore(other, state.database, ALICE)
    (tmp_path / "rubbish").write_bytes(b"rubbish" * 1000)
    with pytest.raises(ConfigError, match="rubbish is not a backup"):
        restore(other, tmp_path / "rubbish", ALICE)
    with pytest.raises(StorageError, match="cannot restore"):
        restore(other, tmp_path / "missing", ALICE)
    back_up(state, tmp_path / "backup", ALICE)
    with pytest.raises(StorageError, match=r"nokey\.pem: No such file"):
        restore(other, tmp_path / "backup", ALICE, tmp_path / "nokey.pem")
    foreign = StateDirectory(tmp_path / "foreign")
    foreign.create(NETWORK)
    with pytest.raises(UntrustedError, match="does not belong"):
        restore(other, tmp_path / "backup", ALICE, foreign.authority_key)
    assert list(other.path.iterdir()) == []
    with pytest.raises(ConfigError, match="is not empty"):
        restore(state, tmp_path / "backup", ALICE, state.authority_key)


def test_a_sound_registry_and_what_a_check_finds(state):
    with state.service() as service:
        enrol(service, "attic")
    assert check(state) == []
    state.authority_key.chmod(0o644)
    with sqlite3.connect(state.database) as connection:
        connection.execute(
            "UPDATE documents SET payload = x'00', version = version + 1 WHERE kind = 'revocations'"
        )
        connection.execute("DROP TRIGGER nodes_do_not_overlap")
        connection.execute(
            "INSERT INTO nodes (name, prefix_first, prefix_last, prefix_length, created)"
            " SELECT 'evil', x'20010db8004200000000000000000100', prefix_last, 120, 0 FROM nodes"
        )
        connection.execute("INSERT INTO token_uses VALUES (77, x'00', 1, 0)")
    connection.close()
    problems = "\n".join(check(state))
    assert "chmod 600" in problems
    assert "revocations document is not of this network's CA" in problems
    assert "attic (2001:db8:42::/64) and evil (2001:db8:42::100/120) overlap" in problems
    assert "of token_uses refers to a missing row of tokens" in problems
