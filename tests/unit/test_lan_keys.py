"""re6st.lan_keys, the registry's use cases around them, and the keyring of a node."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from registry_world import World

from re6st.errors import ConfigError, RegistryRefusedError
from re6st.lan_keys import KEY_LENGTH, choose, digest, recognised
from re6st.messages import LanKeyPeriod, LanKeys
from re6st.node.lan import LanKeyring
from re6st.registry.parameters import format_value
from re6st.routing.lan import LanKey

ONE, TWO = b"1" * KEY_LENGTH, b"2" * KEY_LENGTH
PERIODS = (LanKeyPeriod(digest=digest(ONE), since=0), LanKeyPeriod(digest=digest(TWO), since=100))
BOTH = {digest(ONE): ONE, digest(TWO): TWO}


@pytest.mark.parametrize(
    ("known", "now", "key", "missing", "next_change"),
    [
        (BOTH, 99, ONE, False, 100),
        (BOTH, 100, TWO, False, None),
        ({digest(ONE): ONE}, 99, ONE, True, 100),
        ({digest(ONE): ONE}, 100, ONE, True, None),
        ({digest(TWO): TWO}, 99, None, True, 100),
        ({digest(TWO): TWO}, 100, TWO, False, None),
        ({}, 100, None, True, None),
    ],
)
def test_the_key_of_the_moment(known, now, key, missing, next_change):
    choice = choose(PERIODS, known, now)
    assert (choice.key, choice.missing, choice.next_change) == (key, missing, next_change)


def test_without_periods_there_is_nothing_to_do():
    choice = choose((), BOTH, 0)
    assert (choice.key, choice.missing, choice.next_change) == (None, False, None)


def test_only_keys_that_the_parameters_name_are_recognised():
    assert recognised(PERIODS, [b"3" * KEY_LENGTH, TWO]) == {digest(TWO): TWO}


def test_keys_are_not_shown():
    assert "1111" not in repr(LanKeys(keys=(ONE,)))
    assert format_value(PERIODS).startswith(digest(ONE).hex()[:16])


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "state")
    yield world
    world.close()


def test_a_new_network_has_a_key_and_its_parameters_do_not_tell_it(world):
    (key,) = world.service.lan_keys().keys
    (period,) = world.service.current_parameters().lan_keys
    assert period.digest == digest(key)
    assert key not in world.service.parameters().payload


def test_a_key_is_announced_before_it_is_in_force(world):
    (first,) = world.service.lan_keys().keys
    world.now += 10
    period = world.service.rotate_lan_key(3600)
    assert period.since == world.now + 3600
    assert set(world.service.lan_keys().keys) > {first}
    known = {digest(key): key for key in world.service.lan_keys().keys}
    periods = world.service.current_parameters().lan_keys
    assert choose(periods, known, world.now).key == first
    assert choose(periods, known, period.since).key == known[period.digest]
    with pytest.raises(RegistryRefusedError, match="on its way") as caught:
        world.service.rotate_lan_key(0)
    assert caught.value.code == "lan-key-pending"
    # The one before the last is forgotten.
    world.now += 3600
    world.service.rotate_lan_key(60)
    assert len(world.service.lan_keys().keys) == 2
    assert first not in world.service.lan_keys().keys


def test_operators_do_not_set_keys_by_hand_and_undo_leaves_them(world):
    with pytest.raises(ConfigError, match="lan-key"):
        world.service.change_parameters({"lan_keys": ""})
    world.service.change_parameters({"gossip_interval": "60"})
    world.now += 1
    world.service.rotate_lan_key(0)
    keys = world.service.lan_keys()
    world.service.undo_parameters(1)
    assert world.service.lan_keys() == keys


class Member:
    """A node with a keyring."""

    def __init__(self, path: Path, *answers: LanKeys) -> None:
        self.used: list[LanKey] = []
        self.asked = 0
        self.rounds = 0
        self.answers = answers
        self.periods: tuple[LanKeyPeriod, ...] = PERIODS
        self.keyring = LanKeyring(path, lambda: self.periods, self.sources, self.use, lambda: 0.5)

    async def sources(self) -> AsyncIterator[LanKeys]:
        for answer in self.answers:
            self.asked += 1
            yield answer
        self.rounds += 1

    async def use(self, key: LanKey) -> None:
        self.used.append(key)

    async def settle(self) -> None:
        task = asyncio.create_task(self.keyring.run())
        while not self.used:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_keyring_takes_the_right_keys_from_anybody_and_keeps_them(tmp_path):
    path = tmp_path / "keys"
    wrong = LanKeys(keys=(b"9" * KEY_LENGTH,))
    member = Member(path, wrong, LanKeys(keys=(ONE, TWO)), wrong)
    asyncio.run(member.settle())
    assert member.used == [LanKey(TWO)]
    assert member.asked == 2, "nobody is asked for more than is needed"
    assert path.stat().st_mode & 0o777 == 0o600
    assert set(member.keyring.keys().keys) == {ONE, TWO}
    again = Member(path)
    asyncio.run(again.settle())
    assert again.used == [LanKey(TWO)]
    path.write_text("damaged")
    assert Member(path).keyring.keys().keys == ()


def test_while_a_key_is_missing_it_is_asked_for_ever_more_seldom(tmp_path, monkeypatch):
    moment = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: moment)
    member = Member(tmp_path / "keys")
    pauses = []

    async def attempt() -> None:
        before = member.rounds
        task = asyncio.create_task(member.keyring.run())
        while member.rounds == before:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    for _ in range(9):
        asyncio.run(attempt())
        pauses.append(member.keyring._until_fetch())
        moment += pauses[-1]
    assert pauses[0] == pytest.approx(8.75)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(525)


def test_a_key_that_was_announced_is_not_asked_for_by_all_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    monkeypatch.setattr(time, "time", lambda: 50.0)
    member = Member(tmp_path / "keys", LanKeys(keys=(ONE,)))
    member.periods = PERIODS[:1]
    asyncio.run(member.settle())
    assert member.keyring._until_fetch() is None
    member.periods = (PERIODS[0], LanKeyPeriod(digest=digest(TWO), since=1000))
    assert member.keyring._until_fetch() == pytest.approx(30)
    member.periods = (PERIODS[0], LanKeyPeriod(digest=digest(TWO), since=60))
    assert member.keyring._until_fetch() == pytest.approx(5)
    member.periods = (PERIODS[0], LanKeyPeriod(digest=digest(TWO), since=50))
    assert member.keyring._until_fetch() == pytest.approx(0)
