"""Limits of failed attempts; time is passed in."""

from rusb.server.auth.limits import (
    FORGET_AFTER,
    FREE_FAILURES,
    MAX_DELAY,
    MAX_FAILURES,
    MAX_FAILURES_OF_ALL,
    MAX_KEYS,
    Limits,
)

HERE, THERE = "192.0.2.1", "192.0.2.2"


def fail(limits: Limits, *users: str, now: float = 0.0, address: str = HERE) -> None:
    for user in users:
        assert limits.begin(address, user, now) is not None


def test_delays_grow_and_then_refuse() -> None:
    limits = Limits()
    delays = [limits.begin(HERE, "ann", 0.0) for _ in range(MAX_FAILURES)]
    known = [d for d in delays if d is not None]
    assert known == sorted(known)
    assert known[:FREE_FAILURES] == [0.0] * FREE_FAILURES
    assert len(known) == MAX_FAILURES
    assert known[-1] == MAX_DELAY
    assert limits.begin(HERE, "ann", 1.0) is None
    assert limits.begin(THERE, "ann", 1.0) == 0.0
    assert limits.begin(HERE, "bob", 1.0) == 0.0


def test_a_refused_user_is_forgotten_in_time_although_it_goes_on() -> None:
    limits = Limits()
    fail(limits, *["ann"] * MAX_FAILURES)
    assert limits.begin(HERE, "ann", FORGET_AFTER - 1) is None
    assert limits.begin(HERE, "ann", FORGET_AFTER) == 0.0


def test_success_forgets_the_failures_of_that_user_and_nobody_elses() -> None:
    limits = Limits()
    for _ in range(MAX_FAILURES):
        fail(limits, "victim", "ann")
        limits.succeeded(HERE, "ann")
    assert limits.begin(HERE, "victim", 0.0) is None
    assert limits.begin(HERE, "ann", 0.0) == 0.0


def test_guessing_at_many_users_is_refused_too() -> None:
    limits = Limits()
    fail(limits, *[f"user {n}" for n in range(MAX_FAILURES_OF_ALL)])
    assert limits.begin(HERE, "one more", FORGET_AFTER - 1) is None
    assert limits.begin(THERE, "one more", 1.0) == 0.0
    assert limits.begin(HERE, "one more", FORGET_AFTER) == 0.0


def test_a_logon_of_ones_own_does_not_help_with_guessing_at_many() -> None:
    limits = Limits()
    for n in range(MAX_FAILURES_OF_ALL):
        fail(limits, f"user {n}")
        if n < MAX_FAILURES_OF_ALL - 1:
            fail(limits, "mine")
            limits.succeeded(HERE, "mine")
    assert limits.begin(HERE, "mine", 0.0) is None


def test_users_who_get_in_do_not_count_among_all() -> None:
    limits = Limits()
    for n in range(2 * MAX_FAILURES_OF_ALL):
        fail(limits, *[f"user {n}"] * 3)
        limits.succeeded(HERE, f"user {n}")
    assert limits.begin(HERE, "one more", 0.0) == 0.0


def test_an_ipv6_network_counts_as_one() -> None:
    limits = Limits()
    for n in range(MAX_FAILURES):
        fail(limits, "ann", address=f"2001:db8::{n:x}")
    assert limits.begin("2001:db8::ffff", "ann", 0.0) is None
    assert limits.begin("2001:db8:0:1::1", "ann", 0.0) == 0.0


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    limits = Limits()
    for n in range(MAX_KEYS + 10):
        fail(limits, "ann", address=f"address {n}")
    assert len(limits) <= 2 * MAX_KEYS
    fail(limits, *["ann"] * MAX_FAILURES)
    assert limits.begin(HERE, "ann", 0.0) is None
