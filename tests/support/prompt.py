"""Programs that must not be late, on a machine that has more to do."""

import contextlib
import os
from collections.abc import Iterator

__all__ = ["prompt"]


@contextlib.contextmanager
def prompt(*processes: int) -> Iterator[bool]:
    """Let every thread of these processes go before other programs for a while.

    Yields:
        False: we may not say so (it needs root), and they may be late.
    """
    threads = [
        int(thread)
        for process in processes
        for thread in os.listdir(f"/proc/{process}/task")
    ]
    try:
        for thread in threads:
            os.sched_setscheduler(thread, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
