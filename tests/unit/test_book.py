"""re6st.core.book: which peers are remembered and passed on."""

from __future__ import annotations

import random
from ipaddress import IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from re6st.core.book import NEWS_COPIES, AddressBook
from re6st.messages import Endpoint, Transport
from re6st.peers import Peer

ENDPOINT = Endpoint(Transport.TCP, "192.0.2.1", 4226)
OWN = IPv6Network("2001:db8:42::/64")


def prefix(number: int) -> IPv6Network:
    return IPv6Network((int(OWN.network_address) + (number << 64), 64))


def peer(number: int, sequence: int = 1, *, reachable: bool = True, departed: bool = False) -> Peer:
    return Peer(
        prefix=prefix(number),
        name=f"n{number}",
        sequence=sequence,
        endpoints=(ENDPOINT,) if reachable else (),
        departed=departed,
        serial=f"{number:x}",
    )


def book(capacity: int = 100, connected: set[IPv6Network] | None = None) -> AddressBook:
    protected = connected or set()
    return AddressBook(OWN, capacity, random.Random(1), connected=protected.__contains__)


def anyone(_: Peer) -> bool:
    return True


def test_the_newest_record_wins_and_the_own_one_is_ignored() -> None:
    known = book()
    assert known.learn(peer(1, 5))
    assert not known.learn(peer(1, 5))
    assert not known.learn(peer(1, 4))
    assert known.learn(peer(1, 6, reachable=False))
    assert not known.learn(peer(0, 9))
    assert [entry.peer.sequence for entry in known] == [6]


def test_a_departed_node_is_not_brought_back_by_old_records() -> None:
    known = book()
    known.learn(peer(1, 5))
    assert known.learn(peer(1, 7, departed=True))
    assert len(known) == 0
    assert not known.learn(peer(1, 6))
    # Others are told of the departure.
    assert [told.departed for told in known.sample(10)] == [True]
    assert known.learn(peer(1, 8))


def test_experience_is_forgotten_when_the_record_changes_or_a_dial_succeeds() -> None:
    known = book()
    known.learn(peer(1))
    for remedy in (lambda: known.learn(peer(1, 2)), lambda: known.succeeded(prefix(1))):
        entry = known.get(prefix(1))
        assert entry is not None
        entry.failures = 3
        known.postpone(prefix(1), 50.0)
        assert known.pick(49.0, anyone) is None
        assert known.next_retry(anyone) == 50.0
        remedy()
        assert known.pick(0.0, anyone) is not None


def test_peers_that_cannot_be_dialled_are_never_picked() -> None:
    known = book()
    known.learn(peer(1, reachable=False))
    assert known.pick(0.0, anyone) is None
    assert known.next_retry(anyone) is None


def test_the_only_usable_peer_among_many_is_found() -> None:
    known = book(1000)
    for number in range(1, 500):
        known.learn(peer(number))
    found = known.pick(0.0, lambda candidate: candidate.prefix == prefix(321))
    assert found is not None
    assert found.peer.name == "n321"


def test_a_full_book_drops_failing_peers_and_never_connected_ones() -> None:
    connected = {prefix(number) for number in range(1, 6)}
    known = book(20, connected)
    for number in range(1, 21):
        known.learn(peer(number))
    for entry in known:
        entry.failures = 2
    for number in range(21, 200):
        known.learn(peer(number))
        assert len(known) == 20
    assert all(known.get(kept) for kept in connected)


def test_changes_are_stored_once_and_what_came_from_disk_is_not() -> None:
    known = book()
    known.learn(peer(1), saved=True, news=False)
    known.learn(peer(2))
    known.learn(peer(2, 2))
    known.forget(prefix(1))
    assert known.changed
    assert known.take_changes() == ((peer(2, 2),), (prefix(1),))
    assert known.take_changes() == ((), ())
    assert not known.changed


def test_news_goes_first_but_not_forever() -> None:
    known = book(1000)
    for number in range(1, 500):
        known.learn(peer(number), news=False)
    known.learn(peer(500))
    samples = [known.sample(10) for _ in range(NEWS_COPIES)]
    assert all(sample[0].name == "n500" for sample in samples)
    assert sum(any(told.name == "n500" for told in known.sample(10)) for _ in range(20)) < 10


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 2**16))
def test_samples_are_bounded_distinct_and_without_the_excluded(size: int, count: int, seed: int) -> None:
    known = AddressBook(OWN, 100, random.Random(seed), connected=lambda _: False)
    for number in range(1, size + 1):
        known.learn(peer(number), news=number % 3 == 0)
    sample = [told.prefix for told in known.sample(count, exclude=(prefix(1),))]
    assert len(sample) == len(set(sample)) == min(count, max(0, size - 1))
    assert prefix(1) not in sample


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 4), st.sampled_from(["learn", "leave", "forget"])))
)
def test_places_stay_consistent(steps: list[tuple[int, int, str]]) -> None:
    known = book(6)
    for number, sequence, step in steps:
        if step == "forget":
            known.forget(prefix(number))
        else:
            known.learn(peer(number, sequence, departed=step == "leave"))
        assert len(known) <= 6
        assert sorted(known._order) == sorted(known._entries) == sorted(known._places)
        assert all(known._order[place] == kept for kept, place in known._places.items())
