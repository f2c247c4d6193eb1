"""Print the share of branches taken in each folder, and fail where it is too small.

Usage: python tests/coverage_floor.py FILE, which ``coverage json`` has written
"""

import json
import sys
from collections import Counter
from pathlib import Path, PurePath

FLOOR = 95.0
FLOORS = {"filters": 80.0}
"""Percent of the branches of a folder, where :data:`FLOOR` does not hold."""


def main(path: str) -> int:
    """Return 1 where a folder is below its floor, else 0."""
    taken, there = Counter[str](), Counter[str]()
    for name, found in json.loads(Path(path).read_text("utf-8"))["files"].items():
        folder = PurePath(name).parent.as_posix()
        there[folder] += found["summary"]["num_branches"]
        taken[folder] += found["summary"]["covered_branches"]
    status = 0
    for folder, count in sorted(there.items()):
        share = 100 * taken[folder] / count if count else 100.0
        floor = FLOORS.get(folder, FLOOR)
        trouble = f"  BELOW ITS FLOOR: {floor} %" if share < floor else ""
        status |= bool(trouble)
        print(f"{folder:20} {taken[folder]:5} of {count:5}  {share:5.1f} %{trouble}")
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
