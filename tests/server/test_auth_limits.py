"""Limits of failed attempts; time is passed in."""

import pytest

from rusb.server.auth.limits import (
    FORGET_AFTER,
    FREE_FAILURES,
    LEAK_EVERY,
    MAX_DELAY,
    MAX_FAILURES,
    MAX_FAILURES_ANYWHERE,
    MAX_FAILURES_OF_ALL,
    MAX_KEYS,
    SITE_FAILURES,
    Limits,
)

HERE, THERE = "192.0.2.1", "192.0.2.2"


def fail(limits: Limits, *users: str, now: float = 0.0, address: str = HERE) -> None:
    for user in users:
        assert isinstance(limits.begin(address, user, now), float)


def is_refused(
    limits: Limits, user: str = "ann", now: float = 0.0, address: str = HERE
) -> bool:
    return isinstance(limits.begin(address, user, now), str)


def test_delays_grow_and_then_refuse() -> None:
    limits = Limits()
    delays = [limits.begin(HERE, "ann", 0.0) for _ in range(MAX_FAILURES)]
    known = [d for d in delays if isinstance(d, float)]
    assert known == sorted(known)
    assert known[:FREE_FAILURES] == [0.0] * FREE_FAILURES
    assert len(known) == MAX_FAILURES
    assert known[-1] == MAX_DELAY
    assert is_refused(limits, "ann", 1.0, HERE)
    assert limits.begin(THERE, "ann", 1.0) == 0.0
    assert limits.begin(HERE, "bob", 1.0) == 0.0


def test_a_refused_user_is_forgotten_in_time_although_it_goes_on() -> None:
    limits = Limits()
    fail(limits, *["ann"] * MAX_FAILURES)
    assert is_refused(limits, "ann", FORGET_AFTER - 1, HERE)
    assert limits.begin(HERE, "ann", FORGET_AFTER) == 0.0


def test_success_forgets_the_failures_of_that_user_and_nobody_elses() -> None:
    limits = Limits()
    for _ in range(MAX_FAILURES):
        fail(limits, "victim", "ann")
        limits.succeeded(HERE, "ann")
    assert is_refused(limits, "victim", 0.0, HERE)
    assert limits.begin(HERE, "ann", 0.0) == 0.0


def test_guessing_at_many_users_is_refused_too() -> None:
    limits = Limits()
    fail(limits, *[f"user {n}" for n in range(MAX_FAILURES_OF_ALL)])
    assert is_refused(limits, "one more", FORGET_AFTER - 1, HERE)
    assert limits.begin(THERE, "one more", 1.0) == 0.0
    assert limits.begin(HERE, "one more", FORGET_AFTER) == 0.0


def test_a_logon_of_ones_own_does_not_help_with_guessing_at_many() -> None:
    limits = Limits()
    for n in range(MAX_FAILURES_OF_ALL):
        fail(limits, f"user {n}")
        if n < MAX_FAILURES_OF_ALL - 1:
            fail(limits, "mine")
            limits.succeeded(HERE, "mine")
    assert is_refused(limits, "mine", 0.0, HERE)


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
    assert is_refused(limits, "ann", 0.0, "2001:db8::ffff")
    assert limits.begin("2001:db8:0:1::1", "ann", 0.0) == 0.0


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    limits = Limits()
    for n in range(MAX_KEYS + 10):
        fail(limits, f"user {n}", address=f"address {n}")
    assert len(limits) <= 4 * MAX_KEYS
    fail(limits, *["ann"] * MAX_FAILURES)
    assert is_refused(limits, "ann", 0.0, HERE)


def site(n: int) -> str:
    """An address in another network of 64 bits of the same 48."""
    return f"2001:db8:0:{n:x}::1"


def test_a_site_of_ipv6_counts_as_one_network_after_some_failures() -> None:
    limits = Limits()
    asked = SITE_FAILURES + MAX_FAILURES
    delays = [limits.begin(site(n), "ann", 0.0) for n in range(asked)]
    assert delays[: SITE_FAILURES + FREE_FAILURES] == [0.0] * (
        SITE_FAILURES + FREE_FAILURES
    )
    assert delays[-1] == MAX_DELAY
    last = limits.begin(site(0xFFFF), "ann", 0.0)
    assert isinstance(last, str)
    assert "2001:db8::/48" in last
    assert limits.begin("2001:db8:1::1", "ann", 0.0) == 0.0
    assert limits.begin(site(0xFFFF), "bob", 0.0) == 0.0
    assert limits.begin(site(0xFFFF), "ann", FORGET_AFTER) == 0.0


def test_guessing_at_many_users_from_a_site_is_refused_too() -> None:
    limits = Limits()
    for n in range(SITE_FAILURES + MAX_FAILURES_OF_ALL):
        fail(limits, f"user {n}", address=site(n))
    assert is_refused(limits, "one more", address=site(0xFFFF))
    assert not is_refused(limits, "one more", address="2001:db8:1::1")


def test_a_logon_forgets_the_users_failures_of_its_site() -> None:
    limits = Limits()
    for n in range(SITE_FAILURES + 1):
        fail(limits, "ann", address=site(n))
    limits.succeeded(site(0), "ann")
    for n in range(SITE_FAILURES + FREE_FAILURES):
        assert limits.begin(site(100 + n), "ann", 0.0) == 0.0


@pytest.fixture
def attacked() -> Limits:
    """A user whose password was guessed at from everywhere."""
    limits = Limits()
    for n in range(MAX_FAILURES_ANYWHERE):
        fail(limits, "ann", address=f"198.51.{n // 8}.{n % 8}")
    return limits


def test_a_user_has_a_limit_over_all_networks(attacked: Limits) -> None:
    reason = attacked.begin(HERE, "ann", 0.0)
    assert isinstance(reason, str)
    assert "from many addresses, the last from 192.0.2.1" in reason
    assert not is_refused(attacked, "bob")


def test_it_decays_so_that_nobody_is_kept_out_for_good(attacked: Limits) -> None:
    """However long it goes on: one attempt in each time, and no more."""
    asked = 0
    for second in range(1, 1001):
        asked += not is_refused(attacked, now=second, address=f"203.0.113.{second}")
    assert asked == 1000 / LEAK_EVERY
    assert not is_refused(attacked, now=1000 + 2 * LEAK_EVERY)


def test_a_user_gets_in_where_it_has_got_in_before_the_attack() -> None:
    limits = Limits()
    fail(limits, "ann")
    limits.succeeded(HERE, "ann")
    for n in range(MAX_FAILURES_ANYWHERE):
        fail(limits, "ann", address=f"198.51.100.{n}")
    assert is_refused(limits, address=THERE)
    fail(limits, *["ann"] * 3)  # typing errors: they do not count among the others
    limits.succeeded(HERE, "ann")
    assert is_refused(limits, address=THERE)
    assert not is_refused(limits)
