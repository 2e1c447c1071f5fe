"""re6st.registry.limits: who guesses is slowed down, others are not."""

from hypothesis import given
from hypothesis import strategies as st

from re6st.registry.limits import RateLimiter


def exhaust(limiter, address, now=0.0):
    attempts = 0
    while not limiter.delay(address, now):
        limiter.count(address, now)
        attempts += 1
    return attempts


def test_a_burst_and_then_a_rate():
    limiter = RateLimiter(burst=5, rate=0.5)
    assert exhaust(limiter, "192.0.2.1") == 5
    assert limiter.delay("192.0.2.1", 0.0) == 2.0
    assert limiter.delay("192.0.2.2", 0.0) == 0.0
    assert exhaust(limiter, "192.0.2.1", 2.0) == 1
    assert exhaust(limiter, "192.0.2.1", 1e6) == 5


def test_addresses_of_one_network_count_together():
    limiter = RateLimiter(burst=2, rate=0.1)
    exhaust(limiter, "2001:db8::1")
    assert limiter.delay("2001:db8::ffff:1", 0.0) > 0
    assert limiter.delay("2001:db8:0:1::1", 0.0) == 0
    exhaust(limiter, "::ffff:192.0.2.1")
    assert limiter.delay("192.0.2.1", 0.0) > 0
    exhaust(limiter, "fe80::1%eth0")
    assert limiter.delay("fe80::2", 0.0) > 0
    exhaust(limiter, None)
    assert limiter.delay("nonsense", 0.0) > 0


def test_the_table_is_bounded():
    limiter = RateLimiter(burst=1, rate=0.1, maximum=10)
    for number in range(100):
        limiter.count(f"192.0.2.{number}", 0.0)
    assert limiter.delay("192.0.2.0", 0.0) == 0
    assert limiter.delay("192.0.2.99", 0.0) > 0


@given(st.lists(st.floats(0, 100), max_size=50))
def test_never_more_than_burst_and_rate_allow(pauses):
    limiter, now, allowed = RateLimiter(burst=3, rate=0.5), 0.0, 0
    for pause in pauses:
        now += pause
        allowed += exhaust(limiter, "x", now)
    assert allowed <= 3 + 0.5 * now + 1e-6
