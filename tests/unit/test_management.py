"""re6st.tunnel.management: what OpenVPN says and is told at its management interface."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from re6st.tunnel.management import (
    LONGEST_LINE,
    BytesCounted,
    Failed,
    FatalError,
    HoldWaiting,
    ManagementEvent,
    ManagementParser,
    Notification,
    PeerNotice,
    ReplyLine,
    State,
    StateChanged,
    Succeeded,
    parse_line,
)

DATA = Path(__file__).parent.parent / "data"
LISTENER = (DATA / "management-listener.txt").read_bytes()
DIALER = (DATA / "management-dialer.txt").read_bytes()


def feed_in_pieces(data: bytes, cuts: list[int]) -> list[ManagementEvent]:
    parser = ManagementParser()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [event for start, end in itertools.pairwise(edges) for event in parser.feed(data[start:end])]


def test_the_session_of_a_listener() -> None:
    events = ManagementParser().feed(LISTENER)
    assert HoldWaiting() in events
    assert Succeeded("hold release succeeded") in events
    assert StateChanged(State.CONNECTED, "SUCCESS", "::ffff:10.9.0.2", 38471) in events
    assert [event for event in events if isinstance(event, BytesCounted)][-1] == BytesCounted(2673, 2597)
    assert PeerNotice("remote-exit") in events
    assert events[-1] == StateChanged(State.EXITING, "SIGTERM", "", 0)
    assert len(events) == LISTENER.count(b"\n")


def test_the_session_of_a_dialer() -> None:
    events = ManagementParser().feed(DIALER)
    states = [event.state for event in events if isinstance(event, StateChanged)]
    assert states == [State.OTHER, State.WAIT, State.AUTH, State.CONNECTED, State.EXITING]
    assert StateChanged(State.CONNECTED, "SUCCESS", "10.9.0.1", 4227) in events


@pytest.mark.parametrize("session", [LISTENER, DIALER])
@given(cuts=st.lists(st.integers(0, 10_000), max_size=40))
def test_where_the_bytes_are_cut_does_not_matter(session: bytes, cuts: list[int]) -> None:
    assert feed_in_pieces(session, cuts) == ManagementParser().feed(session)


def test_a_notification_between_a_command_and_its_reply() -> None:
    parser = ManagementParser()
    events = parser.feed(b"OpenVPN STATISTICS\r\n>BYTECOUNT:1,2\r\nEND\r\nSUCCESS: done\r\nERROR: no\r\n")
    assert events == [
        ReplyLine("OpenVPN STATISTICS"),
        BytesCounted(1, 2),
        ReplyLine("END"),
        Succeeded("done"),
        Failed("no"),
    ]


@given(cuts=st.lists(st.integers(0, 100_000), max_size=10), extra=st.integers(1, 3 * LONGEST_LINE))
def test_a_line_without_end_is_skipped_and_the_next_one_is_understood(cuts: list[int], extra: int) -> None:
    data = b">" + b"x" * (LONGEST_LINE + extra) + b"\n>HOLD:Waiting\r\n"
    assert feed_in_pieces(data, cuts) == [HoldWaiting()]


@given(st.binary(max_size=500), st.lists(st.integers(0, 500), max_size=10))
def test_any_bytes_are_survived(data: bytes, cuts: list[int]) -> None:
    assert feed_in_pieces(data, cuts) == ManagementParser().feed(data)


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (">FATAL:cannot open tun", FatalError("cannot open tun")),
        (">STATE:", StateChanged(State.OTHER, "", "", 0)),
        (
            ">STATE:1,CONNECTED,SUCCESS,,2001:db8::1,notaport",
            StateChanged(State.CONNECTED, "SUCCESS", "2001:db8::1", 0),
        ),
        (">BYTECOUNT:1,\u0665", Notification("BYTECOUNT", "1,\u0665")),
        (">BYTECOUNT:" + "9" * 400 + ",1", Notification("BYTECOUNT", "9" * 400 + ",1")),
        (">PASSWORD:Need 'Auth'", Notification("PASSWORD", "Need 'Auth'")),
        (">", Notification("", "")),
    ],
)
def test_odd_lines(line: str, event: ManagementEvent) -> None:
    assert parse_line(line) == event
