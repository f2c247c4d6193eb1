"""``rdesktop-vrdp``: the client as VirtualBox users know it.

A viewer that is installed shows the screen; USB is ours.
"""

import os
import sys
from collections.abc import Sequence

from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.client.viewer import Pair, ViewerProgram
from rusb.errors import BackendError, RusbError, SettingsError
from rusb.rdp.error_info import explain

from ._advice import RDESKTOP_ADVICE, advised
from ._common import (
    NO_PASSWORD,
    find_password,
    run_async,
    say,
    set_up_logging,
)
from ._rdesktop_options import (
    USAGE,
    RdesktopOptions,
    UsageError,
    parse,
)
from ._server import SECURITY
from ._viewing import End, choose_viewer, stay

__all__ = ["main"]

EX_USAGE, EX_OS_ERROR, EX_PROTOCOL = 64, 71, 76
EXIT_BY_USER, EXIT_UNKNOWN = 62, 63


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit statuses are those of rdesktop (8.5)."""
    words = sys.argv[1:] if argv is None else argv
    try:
        options = parse(words)
    except UsageError as error:
        print(f"rdesktop-vrdp: {error}\n{USAGE}", file=sys.stderr, end="")
        return EX_USAGE
    if options.wants_help:
        print(USAGE, file=sys.stderr, end="")
        return EX_USAGE
    set_up_logging(1 if options.verbose else 0)
    for warning in options.warnings:
        say(f"WARNING: {warning}")
    try:
        program = None
        if not options.no_viewer:
            program = choose_viewer(options.viewer, is_asked=options.viewer is not None)
        config = _config(options)
    except (UsageError, SettingsError) as error:
        print(f"rdesktop-vrdp: {error}", file=sys.stderr)
        return EX_USAGE
    for note in options.notes if options.verbose and program is None else ():
        say(note)
    try:
        return run_async(_run(config, program, options.window))
    except BackendError as error:
        say(f"ERROR: {advised(error, RDESKTOP_ADVICE)}")
        return EX_OS_ERROR
    except RusbError as error:
        say(f"ERROR: {advised(error, RDESKTOP_ADVICE)}")
        return EX_PROTOCOL


def _config(options: RdesktopOptions) -> ClientConfig:
    """Translate.

    Raises:
        UsageError: nobody answered ``-p -``, or a variable has an unknown word.
    """
    security, legacy = _security(options), _legacy_tls()
    password = find_password(options.password, "Password: ")
    if password is None:
        raise UsageError(NO_PASSWORD)
    return ClientConfig(
        host=options.host,
        port=options.port,
        user=options.user,
        domain=options.domain,
        password=password,
        client_name=options.client_name,
        shell=options.shell,
        directory=options.directory,
        width=options.width,
        height=options.height,
        depth=options.depth,
        version=options.version,
        experience=options.experience,
        console=options.console,
        compression=options.compression,
        leave_sound=options.leave_sound,
        usb=options.usb,
        wants_all=True,  # as the original
        security=security,
        legacy_tls=legacy,
        backends=tuple(os.environ.get("RUSB_BACKENDS", "libusb").split()),
    )


def _security(options: RdesktopOptions) -> tuple[str, ...]:
    """What to try: ``-4`` knows no TLS, ``-e`` needs none.

    Where the original falls back to RC4 by itself, ``RUSB_SECURITY`` has to allow it,
    with one of the words of ``rusb connect --security``.

    Raises:
        UsageError: the variable has another word.
    """
    word = os.environ.get("RUSB_SECURITY", "tls")
    if word not in SECURITY:
        raise UsageError(
            f"RUSB_SECURITY is {word!r}; choose one of {', '.join(SECURITY)}"
        )
    weak = "rdp" if options.encryption else "none"
    if options.version == 4:
        return (weak,)
    return SECURITY[word] if options.encryption else ("tls", "none")


def _legacy_tls() -> bool:
    """Does ``RUSB_LEGACY_TLS`` allow TLS 1.0, as ``rusb connect --legacy-tls`` does?

    Raises:
        UsageError: it is neither 1 nor 0.
    """
    word = os.environ.get("RUSB_LEGACY_TLS", "0")
    if word not in ("0", "1"):
        raise UsageError(f"RUSB_LEGACY_TLS is {word!r}; use 0 or 1")
    return word == "1"


async def _run(
    config: ClientConfig, program: ViewerProgram | None, window: Sequence[Pair]
) -> int:
    async with connect(config, on_event=lambda event: say(str(event))) as session:
        what = (
            "offering USB devices"
            if config.usb
            else "no USB devices (-r usb brings them)"
        )
        where = f"{config.server} ({session.security})"
        shown = f"{program.name} shows the screen" if program else "no window"
        connected = f"connected to {where}; {shown}, {what}"
        say(connected)
        if await stay(session, connected, program, window) is not End.SERVER:
            return EXIT_BY_USER
        if session.reason is None:
            return EXIT_UNKNOWN
        if session.reason:
            say(f"disconnect: {explain(session.reason)}")
        return session.reason if session.reason <= 12 else EXIT_UNKNOWN
