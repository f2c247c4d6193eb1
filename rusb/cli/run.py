"""``rusb run``: a pyusb program is the guest."""

import argparse
import os
import sys
from pathlib import Path

from rusb.errors import ControlError
from rusb.server.vbox.registry import Registry

from .vbox._common import live_state


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--vm",
        metavar="NAME",
        help="the machine whose devices it gets (a name, UUID or .vbox file); default:"
        " those of any 'rusb serve' without another directory",
    )
    which.add_argument(
        "--dir", type=Path, help="instead: the DIR of 'rusb serve --guest pyusb:DIR'"
    )
    parser.add_argument(
        "-m",
        dest="is_module",
        action="store_true",
        help="PROGRAM is the name of a module",
    )
    parser.add_argument(
        "program",
        metavar="PROGRAM",
        help="a Python program that uses pyusb; it sees the remote devices only",
    )
    parser.add_argument(
        "args", nargs=argparse.REMAINDER, metavar="ARG", help="its arguments"
    )


def run(args: argparse.Namespace) -> int:
    """Become the program."""
    folder = args.dir if args.vm is None else _folder_of(args.vm)
    words = [sys.executable, "-m", "rusb.server.guests.pyusb"]
    if folder is not None:
        words += ["--dir", str(folder)]
    if args.is_module:
        words.append("-m")
    sys.stdout.flush()
    os.execv(sys.executable, [*words, args.program, *args.args])


def _folder_of(name: str) -> Path:
    """Return where a machine keeps its devices for pyusb programs.

    Raises:
        ControlError: it is not running, or its devices go elsewhere.
    """
    entry = Registry().find(name)
    state = live_state(entry.uuid)
    if state is None:
        raise ControlError(
            f"the machine {entry.name!r} is not running; start it with 'rusb serve"
            f" {entry.name} --guest pyusb'"
        )
    kind, _, folder = state.guest.partition(":")
    if kind != "pyusb":
        raise ControlError(
            f"the devices of {entry.name!r} go to {kind or 'another guest'}, not to"
            " pyusb programs; 'rusb serve --guest pyusb' gives them to those"
        )
    return Path(folder)
