"""How much memory something takes."""

import contextlib
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path


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


@contextlib.contextmanager
def process_below(limit: int) -> Iterator[None]:
    """Fail if this process grows by more than *limit* bytes, even for a moment.

    Counts what is not Python's, too, and does not slow it down.
    """
    Path("/proc/self/clear_refs").write_text("5")  # begin a new peak
    before = _kilobytes("VmRSS")
    yield
    grown = (_kilobytes("VmHWM") - before) << 10
    assert grown < limit, f"{grown} bytes more at the peak, at most {limit} are allowed"


def _kilobytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])
