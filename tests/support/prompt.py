"""Programs that must not be late, on a machine that has more to do."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

__all__ = ["Promptness", "prompt"]


class Promptness:
    """How far programs could be prompt.

    Attributes:
        is_prompt: False: we may not say so (it needs root), and they may be late.
        late: seconds for which the machine itself kept its processors from whoever
            goes before all others, once it is over.
    """

    def __init__(self, *, is_prompt: bool) -> None:
        self.is_prompt = is_prompt
        self.late = 0.0


@contextlib.contextmanager
def prompt(*processes: int) -> Iterator[Promptness]:
    """Let every thread of these processes go before other programs for a while."""
    threads = [
        int(thread)
        for process in processes
        for thread in os.listdir(f"/proc/{process}/task")
    ]
    try:
        for thread in threads:
            os.sched_setscheduler(thread, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        yield Promptness(is_prompt=False)
        return
    found = Promptness(is_prompt=True)
    sleepers = [_sleeper(cpu) for cpu in sorted(os.sched_getaffinity(0))]
    try:
        yield found
    finally:
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
        for sleeper in sleepers:
            said, _ = sleeper.communicate(timeout=30)
            found.late += float(said)


def _sleeper(cpu: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.sleeper", str(cpu)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
