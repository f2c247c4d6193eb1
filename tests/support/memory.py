"""How much memory something takes."""

import contextlib
import tracemalloc
from collections.abc import Iterator


@contextlib.contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Fail if Python's memory grows by more than *limit* bytes, even for a moment."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak} bytes at the peak, at most {limit} are allowed"
