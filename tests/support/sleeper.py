"""Sleep for a millisecond again and again, on one processor, before all others.

``python -m tests.support.sleeper CPU`` until standard input ends; then it prints for
how many seconds it was late in all: meanwhile nobody had that processor in time.
"""

import os
import select
import sys
import time

STEP = 0.001
LATE = 0.004
"""Seconds from which on it counts: each interval that QEMU comes too late for stays in
its buffer, until that is full and some 64 are dropped at once."""


def main(cpu: int) -> None:
    """Sleep until standard input ends."""
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))
    late, before = 0.0, time.monotonic()
    while not select.select([sys.stdin], [], [], STEP)[0]:
        now = time.monotonic()
        if now - before > LATE:
            late += now - before - STEP
        before = now
    print(late)


if __name__ == "__main__":
    main(int(sys.argv[1]))
