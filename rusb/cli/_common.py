"""What several sub-commands share: logging, running a coroutine, stopping it."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

__all__ = ["add_verbose", "run_async", "say", "set_up_logging", "until_signal"]

T = TypeVar("T")


def add_verbose(parser: Any) -> None:
    """Define ``-v``, which may be given twice."""
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="say more; twice: every message",
    )


def set_up_logging(verbose: int) -> None:
    """Log to stderr: warnings, with ``-v`` information, with ``-vv`` everything."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(levelname).1s %(name)s: %(message)s"
    )


def say(text: str) -> None:
    """A line for the user, at once."""
    print(text, file=sys.stderr, flush=True)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run the event loop; uvloop's if it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def until_signal(work: Awaitable[None]) -> int | None:
    """Wait for *work*, or for SIGINT, SIGTERM or SIGHUP.

    Returns:
        The number of the signal that came, None if *work* ended first; it is then
        not waited for any longer. What *work* raises is raised.
    """
    loop = asyncio.get_running_loop()
    came: asyncio.Future[int] = loop.create_future()

    def stop(number: int) -> None:
        if not came.done():
            came.set_result(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    task = asyncio.ensure_future(work)
    try:
        waiting: set[asyncio.Future[Any]] = {task, came}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return came.result()
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
