"""What tests share."""

import contextlib
import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).with_name("vectors")


def load_vectors(name: str) -> list[dict[str, Any]]:
    """Return the vectors of ``tests/vectors/NAME.json`` and every further one.

    Further ones are in the files of the folder that ``RUSB_EXTRA_VECTORS`` names that
    have the same schema: an array whose objects have the members of ours.
    """
    ours: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())
    folder = os.environ.get("RUSB_EXTRA_VECTORS")
    if not folder:
        return ours
    found = list(ours)
    members = set(ours[0])
    for path in sorted(Path(folder).rglob("*.json")):
        more = json.loads(path.read_text())
        if isinstance(more, list) and more and isinstance(more[0], dict):
            if set(more[0]) == members or members <= set(more[0]):
                found += [v | {"name": f"{path.stem}:{v['name']}"} for v in more]
    return found


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
