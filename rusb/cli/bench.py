"""``rusb bench``: how fast the whole path is, beside a raw TLS stream."""

import argparse
import json
from dataclasses import asdict

from ._bench import Figures, measure
from ._common import add_verbose, run_async, set_up_logging


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add = parser.add_argument
    add("--json", action="store_true", help="one JSON object instead of a table")
    add("--seconds", type=float, default=0.5, help="length of each measurement (0.5)")
    add_verbose(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    set_up_logging(args.verbose)
    figures = run_async(measure(args.seconds))
    print(json.dumps(asdict(figures)) if args.json else table(figures))
    return 0


def table(figures: Figures) -> str:
    """Lay the figures out as a Markdown table."""
    lines = [
        f"raw TLS stream {figures.yardstick_mb_s:.0f} MB/s,"
        f" ping-pong {figures.pingpong_us:.0f} us",
        "",
        "| transfer | bytes | in flight | devices | MB/s | us/URB | ratio"
        " | CPU client s | CPU server s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in figures.rows:
        lines.append(
            f"| {row.name} | {row.size} | {row.depth} | {row.devices}"
            f" | {row.mb_s:.1f} | {row.us:.0f} | {row.ratio:.2f}"
            f" | {row.cpu_client_s:.2f} | {row.cpu_server_s:.2f} |"
        )
    lines += [
        "",
        f"memory at most: client {figures.rss_client_mb:.0f} MB,"
        f" server {figures.rss_server_mb:.0f} MB",
        "ratio: bulk: MB/s over the raw stream in the same direction;"
        " control and interrupt: us over the raw ping-pong",
    ]
    return "\n".join(lines)
