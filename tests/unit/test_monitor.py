"""re6st.routing.monitor: what babeld says, line by line."""

import itertools
from ipaddress import IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from re6st.routing.monitor import (
    INFINITY,
    LONGEST_LINE,
    Action,
    Interface,
    LocalRoute,
    MonitorParser,
    Neighbour,
    Reply,
    Route,
    Unknown,
    Update,
    Verdict,
    parse_line,
)

# Printed by babeld 1.12.1.
TRANSCRIPT = b"""BABEL 1.0
version babeld-1.12.1
host vm
my-id 00:38:c3:14:f4:fe:92:00
ok
add interface ab up true ipv6 fe80::7c27:d7ff:febf:db64
add interface nosuch up false
add neighbour 55ff8a4a8300 address fe80::a8e1:b8ff:fe81:7bd2 if ab reach ff00 ureach 0000 rxcost 100 txcost 100 rtt 0.315 rttcost 0 cost 100
change neighbour 55ff8a4a8300 address fe80::a8e1:b8ff:fe81:7bd2 if ab reach 8000 ureach 0000 rxcost 65535 txcost 65535 cost 65535
add xroute fd00:a::1/128-::/0 prefix fd00:a::1/128 from ::/0 metric 0
add route 55ff8a4a8540 prefix fd00:b::1/128 from ::/0 installed yes id 80:2d:7d:a2:b8:d6:40:7a metric 100 refmetric 0 via fe80::a8e1:b8ff:fe81:7bd2 if ab
add route 5643 prefix 10.42.3.1/32 from 0.0.0.0/0 installed yes id 80:2d:7d:a2:b8:d6:40:7a metric 192 refmetric 96 via fe80::1 if ab
flush route 55ff8a4a8540 prefix fd00:b::1/128 from ::/0 installed no id 80:2d:7d:a2:b8:d6:40:7a metric 300 refmetric 0 via fe80::a8e1:b8ff:fe81:7bd2 if nosuch
no No such interface
bad
"""  # noqa: E501


def test_transcript() -> None:
    lines = MonitorParser().feed(TRANSCRIPT)
    assert [type(line) for line in lines[:4]] == [Unknown] * 4
    neighbour = "fe80::a8e1:b8ff:fe81:7bd2"
    route = Route(
        identifier="55ff8a4a8540",
        prefix=IPv6Network("fd00:b::1/128"),
        source=IPv6Network("::/0"),
        installed=True,
        router_id="80:2d:7d:a2:b8:d6:40:7a",
        metric=100,
        refmetric=0,
        via=neighbour,
        interface="ab",
    )
    assert lines[4:11] == [
        Reply(Verdict.OK),
        Update(Action.ADD, Interface("ab", up=True)),
        Update(Action.ADD, Interface("nosuch", up=False)),
        Update(Action.ADD, Neighbour("55ff8a4a8300", "ab", neighbour, 100, 100, 100, 0xFF00)),
        Update(
            Action.CHANGE, Neighbour("55ff8a4a8300", "ab", neighbour, INFINITY, INFINITY, INFINITY, 0x8000)
        ),
        Update(Action.ADD, LocalRoute("fd00:a::1/128-::/0", IPv6Network("fd00:a::1/128"), 0)),
        Update(Action.ADD, route),
    ]
    assert isinstance(lines[11], Unknown)  # IPv4
    assert isinstance(lines[12], Update)
    assert lines[12].action is Action.FLUSH
    assert lines[13:] == [Reply(Verdict.NO, "No such interface"), Reply(Verdict.BAD)]


@given(st.lists(st.integers(0, len(TRANSCRIPT)), max_size=20))
def test_any_split_gives_the_same_lines(cuts: list[int]) -> None:
    parser = MonitorParser()
    edges = [0, *sorted(cuts), len(TRANSCRIPT)]
    lines = [line for start, end in itertools.pairwise(edges) for line in parser.feed(TRANSCRIPT[start:end])]
    assert lines == MonitorParser().feed(TRANSCRIPT)


@given(st.binary(max_size=300))
def test_garbage_is_survived(garbage: bytes) -> None:
    parser = MonitorParser()
    parser.feed(garbage)
    parser.feed(b"\n")
    assert parser.feed(b"ok\n") == [Reply(Verdict.OK)]


@given(st.text(max_size=120))
def test_damaged_things_are_set_aside(text: str) -> None:
    for kind in ("interface", "neighbour", "route", "xroute"):
        parse_line(f"add {kind} {text}")


def test_freed_memory_in_a_name() -> None:
    (line,) = MonitorParser().feed(
        b"add neighbour 55 address fe80::1 if \xa5\xa5\xa5 reach ff00 ureach 0000 rxcost 1 txcost 1 cost 1\n"
    )
    assert isinstance(line, Update)
    assert isinstance(line.thing, Neighbour)
    assert line.thing.interface == "\ufffd" * 3


def test_an_endless_line_is_bounded() -> None:
    parser = MonitorParser()
    lines = []
    for _ in range(1000):
        lines += parser.feed(b"x" * 1000)
    assert len(lines) == 1
    assert len(parser._rest) <= LONGEST_LINE
    assert parser.feed(b"yy\nok\n") == [Reply(Verdict.OK)]


def test_numbers_out_of_range() -> None:
    line = parse_line("add xroute x prefix ::/0 from ::/0 metric 99999999")
    assert isinstance(line, Update)
    assert isinstance(line.thing, LocalRoute)
    assert line.thing.metric == INFINITY
    assert isinstance(parse_line("add xroute x prefix ::/0 from ::/0 metric " + "9" * 5000), Unknown)
