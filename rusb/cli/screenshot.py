"""``rusb screenshot``: save what is on a server's screen, as a viewer sees it."""

import argparse
import dataclasses
import io

from rusb.client.screenshot import screenshot

from ._common import add_verbose, run_async, say, set_up_logging
from ._files import file_to_write, replace_file
from ._server import add_server, config_of
from ._status import EXIT_USAGE

MAX_WAIT = 86400.0
"""Seconds of the longest wait: a day."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add = parser.add_argument
    add_server(parser)
    add("file", metavar="FILE.png", help="where to save the picture")
    add(
        "--screen",
        type=_screen,
        metavar="N",
        help="which screen of the machine, counted from 1 (default: 1)",
    )
    add(
        "--wait",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="seconds to wait after the screen has appeared (default: 0)",
    )
    add_verbose(parser)


def run(args: argparse.Namespace) -> int:
    """Connect, wait for the picture, save it."""
    from PIL import Image  # takes time

    set_up_logging(args.verbose)
    path = file_to_write(args.file)
    config = config_of("rusb screenshot", args)
    if config is None:
        return EXIT_USAGE
    config = dataclasses.replace(config, depth=24)
    if args.screen is not None:
        config.domain += f"@{args.screen}"
    pixels = run_async(
        screenshot(config, wait=args.wait, on_event=lambda event: say(str(event)))
    )
    height, width = pixels.shape
    image = Image.frombytes("RGB", (width, height), pixels.tobytes(), "raw", "BGRX")
    result = io.BytesIO()
    image.save(result, "PNG")
    replace_file(path, result.getvalue())
    return 0


def _screen(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) <= 64):
        raise argparse.ArgumentTypeError(
            f"{text[:20]!r} is not a screen number from 1 to 64"
        )
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT:
        raise argparse.ArgumentTypeError(
            f"{text[:20]!r} is not a number of seconds from 0 to 86400"
        )
    return seconds
