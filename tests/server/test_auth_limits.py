"""Limits of failed attempts; time is passed in."""

from rusb.server.auth.limits import (
    FORGET_AFTER,
    FREE_FAILURES,
    MAX_ADDRESSES,
    MAX_DELAY,
    MAX_FAILURES,
    Limits,
)


def test_delays_grow_and_then_refuse() -> None:
    limits = Limits()
    delays = [limits.begin("192.0.2.1", 0.0) for _ in range(MAX_FAILURES)]
    known = [d for d in delays if d is not None]
    assert known == sorted(known)
    assert known[:FREE_FAILURES] == [0.0] * FREE_FAILURES
    assert len(known) == MAX_FAILURES
    assert known[-1] == MAX_DELAY
    assert limits.begin("192.0.2.1", 1.0) is None
    assert limits.begin("192.0.2.2", 1.0) == 0.0


def test_a_refused_address_is_forgotten_in_time_although_it_goes_on() -> None:
    limits = Limits()
    for _ in range(MAX_FAILURES):
        limits.begin("192.0.2.1", 0.0)
    assert limits.begin("192.0.2.1", FORGET_AFTER - 1) is None
    assert limits.begin("192.0.2.1", FORGET_AFTER) == 0.0


def test_success_forgets() -> None:
    limits = Limits()
    for _ in range(MAX_FAILURES):
        limits.begin("192.0.2.1", 0.0)
    limits.succeeded("192.0.2.1")
    assert limits.begin("192.0.2.1", 0.0) == 0.0


def test_an_ipv6_network_counts_as_one_and_a_mapped_address_as_ipv4() -> None:
    limits = Limits()
    for n in range(MAX_FAILURES):
        limits.begin(f"2001:db8::{n:x}", 0.0)
    assert limits.begin("2001:db8::ffff", 0.0) is None
    assert limits.begin("2001:db8:0:1::1", 0.0) == 0.0
    for _ in range(MAX_FAILURES):
        limits.begin("::ffff:192.0.2.1", 0.0)
    assert limits.begin("192.0.2.1", 0.0) is None


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    limits = Limits()
    for n in range(MAX_ADDRESSES + 10):
        limits.begin(f"address {n}", 0.0)
    assert len(limits) == MAX_ADDRESSES
    limits.begin(f"address {MAX_ADDRESSES}", 0.0)
    assert len(limits) == MAX_ADDRESSES
