"""``rusb passwordhash``: the hash of a password, for ``VBoxAuthSimple``."""

import argparse
import getpass
import sys

from rusb.server.auth.hashes import hash_legacy, hash_password

from ._common import PASSWORD_IS_SEEN

MAX_PASSWORD = 1024
"""Characters; more are never let in."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument(
        "password",
        nargs="?",
        metavar="PASSWORD",
        help="'-' reads a line from standard input (default: ask)",
    )
    parser.add_argument(
        "--legacy",
        action="store_true",
        help="print VirtualBox's form, SHA-256 without salt",
    )


def run(args: argparse.Namespace) -> int:
    """Print it."""
    password = _password(args.password)
    if not password or len(password) > MAX_PASSWORD:
        print(
            "rusb passwordhash: no usable password was given: there was none, it was"
            " too long, or the second one was different.",
            file=sys.stderr,
        )
        return 64
    if args.legacy:
        print(f"Password hash: {hash_legacy(password)}")
    else:
        print(hash_password(password))
    return 0


def _password(word: str | None) -> str | None:
    if word is None and sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        return password if getpass.getpass("Again: ") == password else None
    if word in (None, "-"):
        line = sys.stdin.readline(MAX_PASSWORD + 2)
        return line.removesuffix("\n") if line else None
    print(
        f"rusb passwordhash: {PASSWORD_IS_SEEN}; leave it out to be asked.",
        file=sys.stderr,
    )
    return word
