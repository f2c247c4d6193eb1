"""``rusb events``: what happens at machines that run, as JSON for programs."""

import argparse
import asyncio
import json

from rusb.errors import ControlError, RusbError
from rusb.server.machine.control import follow, running_path
from rusb.server.vbox.lock import holder_of, lock_path
from rusb.server.vbox.registry import Entry, Registry

from ._common import run_async, say
from ._vbox_options import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument(
        "machine",
        nargs="?",
        metavar="VM",
        help="a machine's name or UUID (default: all running machines)",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="wait for more events, until the machine is off",
    )
    parser.add_argument(
        "--since",
        type=_number,
        metavar="SEQ",
        help="print only events after this number (seq); needs VM",
    )


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not an event number")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Print the events, an object a line."""
    known = Registry()
    if args.machine is not None:
        entry = known.find(args.machine)
        run_async(_print(entry, args.since, follows=args.follow), in_order=False)
        return 0
    if args.since is not None:
        raise UsageError(
            "--since needs a machine, because each machine numbers its own events"
        )
    listed = [entry for entry in known.machines() if _is_running(entry)]
    entries = [*listed, *known.running_unlisted()]
    if not entries:
        raise ControlError("no machine is running")
    return run_async(_print_all(entries, follows=args.follow), in_order=False)


def _is_running(entry: Entry) -> bool:
    holder = holder_of(lock_path(entry.uuid))
    return holder is not None and holder.is_running


async def _print(entry: Entry, since: int | None, *, follows: bool) -> None:
    async for event in follow(running_path(entry.uuid), since, follows=follows):
        line = json.dumps(event)
        print(line.replace("\x7f", "\\u007f"), flush=True)  # what JSON leaves as it is


async def _print_all(entries: list[Entry], *, follows: bool) -> int:
    """Print the events of several machines; one that fails does not keep the others."""
    work = [_print(entry, None, follows=follows) for entry in entries]
    status = 0
    ends = await asyncio.gather(*work, return_exceptions=True)
    for entry, end in zip(entries, ends, strict=True):
        if isinstance(end, RusbError):
            say(f"rusb events: {entry.name}: {end}")
            status = 1
        elif end is not None:
            raise end
    return status
