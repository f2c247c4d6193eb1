"""The command ``rusb``: one module of this package per sub-command.

A sub-command's module defines ``add_arguments(parser)`` and ``run(args) -> int``; its
name, with ``-`` for ``_``, is the word on the command line, and ``_words.py`` says in
one line what it does. Modules whose name begins with ``_`` are not sub-commands.
"""

import contextlib
import gc
import importlib
import io
import os
import sys
from collections.abc import Sequence

import rusb
from rusb.errors import RusbError
from rusb.usb.text import clean_lines

from ._advice import advised
from ._hints import did_you_mean
from ._status import EXIT_INTERRUPTED, EXIT_USAGE, exit_status
from ._words import OWN, VBOX

TYPE_CHECKING = False  # as in rusb/__init__.py
if TYPE_CHECKING:
    from typing import Any

    from ._parser import Parser

__all__ = ["main", "module_of"]


PROGRAMS = {
    "VBoxManage": (),
    "VBoxHeadless": ("headless",),
    "VBoxVRDP": ("headless",),
    "rdesktop-vrdp": ("rdesktop",),
}
"""Other names for the program (see ``rusb aliases``): words to put in front."""

VIRTUALBOX = "7.0.2"
"""The VirtualBox whose commands and answers ours are like, for programs that ask.

Vagrant, Packer and docker-machine choose by it; 7.0.0 is one whose defects Vagrant
works around.
"""

NO_WINDOWS = (
    "rusb: rusb does not run on Windows, which lacks Unix file locks and signals;"
    " run it in WSL 2 and attach the device there with usbipd-win."
)

QUIET = ("-q", "-nologo", "--nologo")
"""Options of VBoxManage before its command: no banner, which rusb does not print."""


def module_of(word: str) -> "Any":
    """Return the module of one of our own commands."""
    return importlib.import_module(f"{__name__}.{word.replace('-', '_')}")


def _make_parser(word: str) -> "Parser":
    from ._parser import Parser  # nothing of argparse for VBoxManage's commands

    module = module_of(word)
    parser = Parser(prog=f"rusb {word}", description=OWN[word])
    module.add_arguments(parser)
    return parser


def _overview() -> str:
    import textwrap

    lines = ["usage: rusb COMMAND [OPTION ...]", "", "Commands:"]
    lines += [f"  {word:<14}{what}" for word, what in OWN.items()]
    lines += [
        "",
        "'rusb COMMAND --help' describes a command.",
        "",
        "Commands of VBoxManage:",
    ]
    words = " ".join(sorted(VBOX))
    lines += textwrap.wrap(words, 76, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; see ``_status.py``."""
    for name in ("stdin", "stdout", "stderr"):  # closed: 'rusb … >&-'
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # as long as we run
    if sys.platform == "win32":
        print(NO_WINDOWS, file=sys.stderr)
        return 70
    words = list(sys.argv[1:] if argv is None else argv)
    program = "rusb"
    if argv is None and (called := os.path.basename(sys.argv[0])) in PROGRAMS:
        program = called
        words = [*PROGRAMS[called], *words]
    # numpy brings it; to start its threads costs more than numpy does, and we give it
    # nothing to do
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if argv is None:
        gc.disable()  # nothing that a program imports is garbage; see run_async
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
            # a terminal may lack what is in the name of a device
            sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            status = _run(program, words)
        finally:  # argparse ends the program by itself
            sys.stdout.flush()
        if argv is None:  # the end: nobody needs what a collector would find
            gc.freeze()
        return status
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:
        from rusb.oserrors import reason

        # what is left of the output has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 0
        where = f"{error.filename}: " if error.filename else ""
        text = f"{program}: error: {where}{reason(error)}"
        with contextlib.suppress(OSError):  # it may be the same full disk
            print(clean_lines(text), file=sys.stderr, flush=True)
        return 1


def _run(program: str, words: list[str]) -> int:
    while words and words[0] in QUIET:
        del words[0]
    is_manager = program == "VBoxManage"
    if len(words) > 1 and words[0] == "help":
        words = [words[1], "--help"]
    if not words or words[0] in ("-h", "-?", "--help", "help"):
        print(module_of("vbox").overview(program) if is_manager else _overview())
        return 0 if words else 2 if is_manager else EXIT_USAGE
    if words[0] in ("-V", "-v", "--version"):
        ours = rusb.__version__
        print(f"{VIRTUALBOX}_rusb{ours}r0" if is_manager else f"rusb {ours}")
        return 0
    if words[0] not in OWN:
        vbox = module_of("vbox")
        if words[0] in VBOX or vbox.refused(words[0]):
            return int(vbox.run(program, words[0], words[1:]))
        known = [*VBOX, *(() if is_manager else OWN)]
        hint = did_you_mean(words[0], known)
        print(
            f"{program}: error: unknown command {words[0]!r}{hint or ';'}"
            f" '{program} --help' lists them.",
            file=sys.stderr,
        )
        return 2 if is_manager else EXIT_USAGE
    module = module_of(words[0])
    if hasattr(module, "main"):  # a grammar of its own (rdesktop)
        return int(module.main(words[1:]))
    parser = _make_parser(words[0])
    parser.check_names(words[1:])
    args = parser.parse_args(words[1:])
    try:
        return int(module.run(args))
    except RusbError as error:
        print(clean_lines(f"rusb {words[0]}: {advised(error)}"), file=sys.stderr)
        return exit_status(error)
