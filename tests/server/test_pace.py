"""When a head has its next round (display.md 3.2, 13)."""

import pytest

from rusb.server.display.pace import SOON, Pace


class Loop:
    """A loop that takes as much of the processor as the test says."""

    def __init__(self) -> None:
        self.used = 100.0
        self.pace = Pace(lambda: self.used)

    def wait(self, *, took: float, share: float) -> float:
        """Return how long a round waits after one that ended half a second after
        another.

        Args:
            share: of a core, which the loop took in that time.
        """
        self.pace.ended(9.5, 0.0)
        self.used += share / 2
        self.pace.ended(10.0, took)
        assert self.pace.next(20.0) == 20.0
        return self.pace.next(10.0) - 10.0


@pytest.mark.parametrize(
    ("took", "share", "wait"),
    [
        (0.005, 0.0, 0.020),
        (0.040, 0.0, 0.040),
        (0.005, 0.2, 0.020),
        (0.005, 0.3, 0.045),
        (0.010, 0.9, 0.070),
    ],
)
def test_rounds_leave_the_loop_time_and_more_while_it_is_busy(
    took: float, share: float, wait: float
) -> None:
    assert Loop().wait(took=took, share=share) == pytest.approx(wait)


def test_a_busy_loop_does_not_count_while_somebody_types() -> None:
    loop = Loop()
    assert loop.wait(took=0.010, share=0.9) == pytest.approx(0.070)
    loop.pace.touched(10.0)
    assert loop.pace.next(10.0) == pytest.approx(10.015)
    loop.pace.touched(10.0 - SOON)
    assert loop.pace.next(10.0) == pytest.approx(10.070)
