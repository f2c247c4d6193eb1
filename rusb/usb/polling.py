"""Polled endpoints from afar: how many transfers to keep in flight, so that none of
what the device has to say waits for a round trip."""

import math
from collections import deque

from .descriptors import EndpointDescriptor
from .types import Speed

__all__ = [
    "MAX_DEPTH",
    "MIN_DEPTH",
    "UNKNOWN_ROUND_TRIP",
    "RoundTrip",
    "interrupt_depth",
    "interrupt_interval",
    "isochronous_interval",
]

MIN_DEPTH, MAX_DEPTH = 5, 128
"""Bounds: reports that come in a burst, and what one endpoint may keep in flight."""

UNKNOWN_ROUND_TRIP = 0.1
"""Seconds that a round trip counts until it is known."""

PERIOD, SAMPLES = 60.0, 64
"""Seconds of which the quickest control transfer counts, and how many may be kept. Some
take long at the device, and when many devices come at once, they wait for each other.
"""


def interrupt_interval(endpoint: EndpointDescriptor, speed: Speed) -> float:
    """Return the seconds between two polls of an interrupt endpoint (USB 2.0, 9.6.6).

    bInterval counts milliseconds up to full speed, and is an exponent above; what is
    out of range counts as the nearest that is not.
    """
    if speed in (Speed.HIGH, Speed.SUPER):
        return 0.000125 * 2.0 ** (min(max(endpoint.interval, 1), 16) - 1)
    return 0.001 * max(endpoint.interval, 1)


def isochronous_interval(endpoint: EndpointDescriptor, speed: Speed) -> float:
    """Return the seconds between two packets of an isochronous endpoint.

    bInterval is an exponent at every speed (USB 2.0, 9.6.6).
    """
    frame = 0.000125 if speed in (Speed.HIGH, Speed.SUPER) else 0.001
    return frame * 2.0 ** (min(max(endpoint.interval, 1), 16) - 1)


def interrupt_depth(interval: float, round_trip: float | None) -> int:
    """Return how many transfers of an interrupt IN endpoint to keep in flight.

    As many as the device may answer in a round trip, which is how long it takes until
    the next one comes after an answer; and two for what is late.

    Args:
        interval: seconds between two polls.
        round_trip: seconds; None: not measured yet.
    """
    known = UNKNOWN_ROUND_TRIP if round_trip is None else round_trip
    return min(max(math.ceil(known / interval) + 2, MIN_DEPTH), MAX_DEPTH)


class RoundTrip:
    """How long devices of a client take to answer: there and back, and a little.

    Attributes:
        seconds: of the quickest of the latest control transfers; None before the first.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        # in order of time, and each slower than the one before
        self._quickest: deque[tuple[float, float]] = deque()

    def add(self, seconds: float, now: float) -> None:
        """Count a control transfer that a device has answered at a time."""
        kept = self._quickest
        while kept and (kept[-1][1] >= seconds or len(kept) == SAMPLES):
            kept.pop()
        kept.append((now, seconds))
        while kept[0][0] < now - PERIOD:
            kept.popleft()
        self.seconds = kept[0][1]

    def forget(self) -> None:
        """The way is another one now."""
        self._quickest.clear()
        self.seconds = None
