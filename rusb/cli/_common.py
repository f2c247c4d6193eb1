"""What several sub-commands share: logging, running a coroutine, stopping it."""

import asyncio
import contextlib
import gc
import getpass
import logging
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from rusb.aio.output import write_line
from rusb.usb.text import clean_lines

from ._notify import notify

__all__ = [
    "NO_PASSWORD",
    "PASSWORD_IS_SEEN",
    "add_verbose",
    "find_password",
    "open_more_files",
    "run_async",
    "say",
    "set_up_logging",
    "until_signal",
]

T = TypeVar("T")

NO_PASSWORD = "no password was given: -p - asks for one, but nothing was typed."

PASSWORD_IS_SEEN = "other users of this machine can see a password on the command line"
"""A process of Python cannot take it off there, as rdesktop does."""


def add_verbose(parser: Any) -> None:
    """Define ``-v``, which may be given twice."""
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="log more; given twice, log every message",
    )


def set_up_logging(verbose: int) -> None:
    """Log to stderr: warnings, with ``-v`` information, with ``-vv`` everything."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = _ToStderr()
    handler.setFormatter(_Formatter("%(levelname).1s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class _ToStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):
            write_line(sys.stderr, self.format(record))


class _Formatter(logging.Formatter):
    """What peers and devices say may be part of a message (bad-inputs T42)."""

    def format(self, record: logging.LogRecord) -> str:
        return clean_lines(super().format(record))


def say(text: str) -> None:
    """Tell the user, at once; a terminal that is gone or stopped keeps nobody.

    What peers and devices say may be part of it (bad-inputs T42).
    """
    with contextlib.suppress(OSError, ValueError):
        write_line(sys.stderr, clean_lines(text))


MAX_FILES = 8192


def open_more_files() -> None:
    """Use what the system allows of open files: each device takes some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MAX_FILES:
        most = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


MAX_PASSWORD = 4096
"""Characters of a line that is read for a password."""


def find_password(word: str | None, prompt: str) -> str | None:
    """Return the password that ``-p`` gives, or ``RUSB_PASSWORD``.

    Args:
        word: of ``-p``: ``-`` asks, or reads a line of a standard input that is no
            terminal; None: there is no such option.
        prompt: what to ask with.

    Returns:
        None if it was asked for and nobody answered.
    """
    if word is None:
        return os.environ.get("RUSB_PASSWORD", "")
    if word != "-":
        if word:
            say(
                f"{PASSWORD_IS_SEEN}; use -p - or the environment variable"
                " RUSB_PASSWORD."
            )
        return word
    if not sys.stdin.isatty():
        line = sys.stdin.readline(MAX_PASSWORD)
        return line.removesuffix("\n") if line else None
    try:
        return getpass.getpass(prompt)
    except EOFError:
        return None


def run_async(work: Coroutine[Any, Any, T], *, in_order: bool = True) -> T:
    """Run the event loop; uvloop's if it is installed.

    Until *work* waits for signals itself, SIGTERM and SIGHUP cancel it, as Ctrl-C does,
    so that what it has begun ends in order. Without *in_order* they end the process,
    also while it waits for somebody to read what it prints.

    Raises:
        SystemExit: one of them came; the status is a shell's, 128 and its number.
    """
    came: list[int] = []
    try:
        _prime_heap()
        if not gc.isenabled():  # a program has started: what it has imported stays
            gc.freeze()
            gc.enable()
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
        with contextlib.suppress(ImportError):
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(_cancelled_by_signals(work, came) if in_order else work)
    except asyncio.CancelledError:
        if came:
            raise SystemExit(128 + came[0]) from None
        raise
    finally:
        work.close()  # Ctrl-C may come before it begins


async def _cancelled_by_signals(work: Coroutine[Any, Any, T], came: list[int]) -> T:
    task = asyncio.current_task()
    assert task is not None

    def stop(number: int) -> None:
        came.append(number)
        forget(is_ending=True)
        task.cancel()

    numbers = [signal.SIGTERM, *([] if _is_hangup_ignored() else [signal.SIGHUP])]
    forget = _on_signals(numbers, stop)
    try:
        return await work
    finally:
        if not came:  # uvloop would keep them from what is printed afterwards
            forget(is_ending=False)


def _on_signals(
    numbers: Sequence[int], stop: Callable[[int], None]
) -> Callable[..., None]:
    """Have *stop* called; the function that is returned undoes that."""
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, stop, number)

    def forget(*, is_ending: bool) -> None:
        for number in numbers:
            loop.remove_signal_handler(number)
        if is_ending:  # a terminal that closes sends it twice
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    return forget


def _is_hangup_ignored() -> bool:
    """Has ``nohup`` started us?"""
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def _prime_heap() -> None:
    """Have glibc keep memory that is freed, instead of giving it back each time.

    TLS and large URBs take and free blocks of 64 KiB to 8 MiB all the time; glibc maps
    them afresh or trims its heap behind them, and the kernel fills each page with zeros
    again: 33 to 40 page faults per URB of 64 KiB (speed.md 3, A). A mapped block that
    is freed raises both of its thresholds to its size and twice that, 32 MiB at most.
    This one exceeds any of ours; nothing touches it, so it costs no memory.
    """
    bytes(16 << 20)


async def until_signal(
    work: Awaitable[None],
    status: str,
    *,
    on_hangup: Callable[[], None] | None = None,
) -> int | None:
    """Wait for *work*, or for SIGINT, SIGTERM or SIGHUP.

    Where *on_hangup* is given it answers a SIGHUP, unless our terminal has gone; where
    it is not, ``nohup`` keeps SIGHUP from us.

    A service manager learns that we are ready, and what *status* says.

    Returns:
        The number of the signal that came, None if *work* ended first; it is then
        not waited for any longer. What *work* raises is raised.
    """
    came: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    had_terminal = _has_terminal()

    def stop(number: int) -> None:
        is_gone = had_terminal and not _has_terminal()
        if number == signal.SIGHUP and on_hangup is not None and not is_gone:
            on_hangup()
        elif not came.done():
            came.set_result(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if on_hangup is not None or not _is_hangup_ignored():
        numbers.append(signal.SIGHUP)
    forget = _on_signals(numbers, stop)
    notify("READY=1", status)  # now that it may stop us
    task = asyncio.ensure_future(work)
    try:
        waiting: set[asyncio.Future[Any]] = {task, came}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return None
        task.cancel()
        notify("STOPPING=1")
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return came.result()
    finally:
        forget(is_ending=came.done())


def _has_terminal() -> bool:
    """Is standard error a terminal, and still there?"""
    try:
        return os.isatty(2)
    except OSError:
        return False
