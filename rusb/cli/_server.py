"""Whom to call, and as whom: what the commands that connect have in common."""

import argparse
import os
import sys
from pathlib import Path

from rusb.client.config import ClientConfig

from ._address import parse_address
from ._common import NO_PASSWORD, find_password, say

__all__ = ["SECURITY", "add_server", "config_of", "seconds"]

SECURITY = {
    "tls": ("tls",),
    "negotiate": ("tls", "rdp"),
    "rdp": ("rdp",),
    "none": ("none",),
}
"""What ``--security`` means: kinds to try, in this order."""


MAX_SECONDS = 86_400


def seconds(text: str) -> float:
    """Read how long to wait at most.

    Raises:
        ArgumentTypeError: it is no number, or none that can be waited for.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MAX_SECONDS:  # not for nan either
        raise argparse.ArgumentTypeError(
            f"{text!r} is invalid; give a number of seconds above 0, at most"
            f" {MAX_SECONDS}"
        )
    return value


def add_server(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add = parser.add_argument
    add(
        "server",
        type=parse_address,
        metavar="[USER@]HOST[:PORT]",
        help="default port 3389; rdp://… also works",
    )
    add("-u", "--user", default="", help="user name")
    add(
        "-p",
        "--password",
        help="'-' asks for it, as -u alone does on a terminal; the environment"
        " variable RUSB_PASSWORD is safer than an argument, which other users can"
        " see",
    )
    add("-d", "--domain", default="", help="domain; '@N' at its end selects screen N")
    add(
        "--security",
        choices=list(SECURITY),
        default="tls",
        help="tls (default), negotiate: TLS or else RC4, rdp: RC4 (weak), none",
    )
    add("--legacy-tls", action="store_true", help="accept servers with TLS 1.0")
    add(
        "--ca",
        type=Path,
        help="PEM file of the authority that signed the server's certificate",
    )
    add("--known-servers", type=Path, help="file with the trusted certificates")
    add(
        "--timeout",
        type=seconds,
        default=30.0,
        help="give up if connecting takes longer than this many seconds (default: 30)",
    )


def config_of(command: str, args: argparse.Namespace) -> ClientConfig | None:
    """Return what they say; None, after a line, where a password was not typed.

    Args:
        command: its name, for that line.
        args: of a parser that :func:`add_server` had.
    """
    user = args.user or args.server.user
    word = args.password
    if user and word is None and "RUSB_PASSWORD" not in os.environ:
        # a service has no terminal, and perhaps no standard input at all
        word = "-" if sys.stdin and sys.stdin.isatty() else None
    password = find_password(word, f"Password of {user or 'the user'}: ")
    if password is None:
        say(f"{command}: {NO_PASSWORD}")
        return None
    return ClientConfig(
        host=args.server.host,
        port=args.server.port,
        user=user,
        domain=args.domain or args.server.domain,
        password=password,
        security=SECURITY[args.security],
        legacy_tls=args.legacy_tls,
        ca=args.ca,
        known_servers=args.known_servers,
        timeout=args.timeout,
    )
