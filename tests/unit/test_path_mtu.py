"""The search for the MTU of a tunnel."""

from hypothesis import given
from hypothesis import strategies as st

from re6st.tunnel.path_mtu import (
    MOST_COMPARISONS,
    OVERHEAD_IPV4,
    SMALLEST,
    TRIES,
    USUAL_MTUS,
    Comparison,
    Search,
    overhead,
)

CEILING = 9000 - OVERHEAD_IPV4


def run(search, carried, told=None):
    """Search on a path that carries packets up to ``carried``; return the sizes that were tried."""
    tried = []
    while (size := search.next) is not None:
        tried.append(size)
        assert search.proven < size
        if size <= carried:
            search.passed(size)
        elif told is not None and size > told:
            search.limited(told)
        else:
            search.failed(size)
        assert len(tried) < 20
    return tried


def test_what_the_interface_allows_is_tried_first():
    search = Search(1448, 52)
    assert run(search, 1448) == [1448]
    assert search.proven == 1448


def test_what_the_kernel_knows_is_tried_next():
    search = Search(1448, 52)
    assert run(search, 1400, told=1400) == [1448, 1400]
    assert search.proven == 1400


def test_black_holes_are_found_by_bisection():
    search = Search(1448, 52)
    tried = run(search, 1492 - 52)
    assert search.proven == 1440
    assert len(tried) <= 5


def test_nothing_is_tried_where_nothing_can_be_won():
    for ceiling in (SMALLEST, 1000):
        search = Search(ceiling, 52)
        assert search.next is None
        assert search.proven == SMALLEST


@given(st.integers(SMALLEST, CEILING), st.integers(SMALLEST, 9000), st.booleans(), st.booleans())
def test_the_result_passes_and_no_usual_size_above_it_does(ceiling, carried, telling, ipv6):
    search = Search(ceiling, overhead(ipv6))
    run(search, carried, told=carried if telling else None)
    assert search.proven <= max(SMALLEST, min(ceiling, carried))
    best = max(
        (mtu - overhead(ipv6) for mtu in USUAL_MTUS if mtu - overhead(ipv6) <= min(ceiling, carried)),
        default=0,
    )
    assert search.proven >= best
    if telling:
        assert search.proven == max(SMALLEST, min(ceiling, carried))


def compare(*pairs):
    """Return the verdict on ``pairs`` of (large, small) and how many of them were looked at."""
    comparison, looked = Comparison(), 0
    while comparison.open:
        large, small = pairs[looked]
        comparison.take(large=large, small=small)
        looked += 1
    return comparison.drops_large_ones, looked


def test_a_black_hole_takes_large_packets_only():
    assert compare(*[(False, True)] * TRIES) == (True, TRIES)


def test_congestion_takes_small_packets_too_and_is_no_black_hole():
    assert compare(*[(False, False)] * MOST_COMPARISONS) == (False, MOST_COMPARISONS)
    assert compare((False, True), (False, False), (False, True), (True, False)) == (False, 4)


def test_a_black_hole_is_found_on_a_lossy_path():
    assert compare((False, True), (False, False), (False, True), (False, False), (False, True)) == (True, 5)
