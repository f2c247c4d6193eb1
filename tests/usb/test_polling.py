"""How many transfers of polled endpoints are kept in flight."""

import pytest

from rusb.usb.descriptors import EndpointDescriptor
from rusb.usb.polling import RoundTrip, interrupt_depth, interrupt_interval
from rusb.usb.types import Speed


@pytest.mark.parametrize(
    ("speed", "interval", "seconds"),
    [  # USB 2.0, table 9-13
        *((Speed.LOW, 10, 0.01), (Speed.FULL, 1, 0.001), (Speed.FULL, 255, 0.255)),
        *((Speed.HIGH, 1, 0.000125), (Speed.HIGH, 4, 0.001), (Speed.HIGH, 16, 4.096)),
        *((Speed.SUPER, 4, 0.001), (Speed.UNKNOWN, 8, 0.008)),
        *((Speed.FULL, 0, 0.001), (Speed.HIGH, 0, 0.000125), (Speed.HIGH, 255, 4.096)),
    ],
)
def test_an_interval_is_as_the_speed_says(
    speed: Speed, interval: int, seconds: float
) -> None:
    endpoint = EndpointDescriptor(0x81, 3, 8, interval)
    assert interrupt_interval(endpoint, speed) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("interval", "round_trip", "depth"),
    [
        *((0.001, 0.02, 22), (0.001, 0.06, 62), (0.001, 0.0605, 63)),
        *((0.008, 0.1, 15), (0.001, 0.0, 5), (0.255, 1.0, 6), (0.255, 0.1, 5)),
        *((0.001, 1.0, 128), (0.000125, 0.1, 128)),
        *((0.001, None, 102), (0.008, None, 15), (0.000125, None, 128)),
    ],
)
def test_what_a_round_trip_takes_is_in_flight_and_two_more(
    interval: float, round_trip: float | None, depth: int
) -> None:
    assert interrupt_depth(interval, round_trip) == depth


def test_the_quickest_answer_of_the_last_minute_counts() -> None:
    way = RoundTrip()
    assert way.seconds is None
    for now, seconds in enumerate((0.021, 0.020, 5.0)):
        way.add(seconds, now)
    assert way.seconds == 0.020
    for now in range(50, 70):  # the way has become longer
        way.add(0.060, now)
        assert way.seconds == (0.020 if now <= 61 else 0.060)
    way.forget()
    assert way.seconds is None
    way.add(0.090, 70)
    assert way.seconds == 0.090


def test_devices_that_wait_for_each_other_do_not_hide_how_short_the_way_is() -> None:
    way = RoundTrip()
    for n in range(10_000):  # all of them at once: each waits a little longer
        way.add(0.001 + n / 1e6, 5.0)
    assert way.seconds == 0.001
