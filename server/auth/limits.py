"""How often an address may try: failures delay the next attempt, many refuse it."""

from collections import OrderedDict

from rusb.server.network import network_of

__all__ = ["FORGET_AFTER", "FREE_FAILURES", "MAX_ADDRESSES", "MAX_FAILURES", "Limits"]

MAX_ADDRESSES = 4096
"""Addresses remembered; the one that tried longest ago is forgotten first."""

FREE_FAILURES = 2
"""Failures without a delay: typing errors."""

MAX_FAILURES = 10
"""From here on an attempt is refused without asking."""

FORGET_AFTER = 300.0
"""Seconds after the last attempt that was asked."""

FIRST_DELAY, MAX_DELAY = 0.5, 8.0


class Limits:
    """Failed attempts of each address; an IPv6 network of 64 bits is one address."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def begin(self, address: str, now: float) -> float | None:
        """Count an attempt as failed until :meth:`succeeded`: parallel ones add up.

        Returns:
            Seconds to wait before asking, or None: refuse without asking.
        """
        key = network_of(address)
        count, last = self._failures.get(key, (0, now))
        if now - last >= FORGET_AFTER:
            count = 0
        if count >= MAX_FAILURES:
            return None
        self._failures[key] = (count + 1, now)
        self._failures.move_to_end(key)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
        if count < FREE_FAILURES:
            return 0.0
        return float(min(MAX_DELAY, FIRST_DELAY * 2 ** (count - FREE_FAILURES)))

    def succeeded(self, address: str) -> None:
        """Forget an address."""
        self._failures.pop(network_of(address), None)
