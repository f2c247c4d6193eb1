"""``rusb bench``: what the whole path costs, beside a raw TLS stream."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from ._bench.history import History
from ._bench.measure import measure
from ._bench.plan import Plan
from ._bench.table import print_comparison, print_figures, progress
from ._common import add_verbose, run_async, set_up_logging

PLAN = Plan()
MAX_RTT_MS = 5000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add = parser.add_argument
    add(
        "--json",
        action="store_true",
        help="print one JSON object instead of tables",
    )
    add(
        "--rtt",
        metavar="MS[,MS...]",
        type=_round_trips,
        default=(0,),
        help="round trips to simulate, in milliseconds, for storage and reports"
        " (default: 0)",
    )
    add(
        "--history",
        metavar="FILE",
        type=Path,
        help="append the results to FILE, as one line of JSON",
    )
    add(
        "--compare",
        metavar="FILE",
        type=Path,
        help="compare with this machine's last run in FILE, which --history wrote",
    )
    add_verbose(parser)


def _round_trips(text: str) -> tuple[int, ...]:
    """Read the value of ``--rtt``."""
    try:
        found = tuple(dict.fromkeys(map(int, text.split(","))))
    except ValueError:
        found = (-1,)
    if min(found) < 0 or max(found) > MAX_RTT_MS:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be milliseconds from 0 to {MAX_RTT_MS}, separated by commas"
        )
    return found


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    set_up_logging(args.verbose)
    history = History(args.history, args.compare)  # its errors come before the wait
    with progress() as say:
        figures = run_async(measure(replace(PLAN, rtts_ms=args.rtt), say))
    history.append(figures)
    if args.json:
        print(json.dumps(figures.to_json()))
    else:
        print_figures(figures)
    if history.before is not None:
        print_comparison(history.before, figures, to_stderr=args.json)
    return 0
