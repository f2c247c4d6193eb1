"""How much the long tests do, and from which seed: ``make fuzz``, ``make soak``.

Without these, each does little and the same every time.
"""

import os
import random

__all__ = ["IS_SOAK", "chance", "inputs", "seeds"]

_INPUTS = int(os.environ.get("RUSB_TEST_INPUTS", "0"))
_SEED = int(os.environ.get("RUSB_TEST_SEED", "0"))

IS_SOAK = _INPUTS >= 1_000_000


def inputs(usual: int, each: int = 1) -> int:
    """How often to do what has *each* inputs: *usual* at least."""
    return max(usual, _INPUTS // each)


def chance(seed: int) -> random.Random:
    """A source of inputs."""
    return random.Random(_SEED + seed)


def seeds(usual: int, each: int) -> range:
    """Seeds of tests that have *each* inputs."""
    return range(_SEED, _SEED + inputs(usual, each))
