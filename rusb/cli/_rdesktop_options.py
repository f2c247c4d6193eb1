"""The options of ``rdesktop-vrdp`` (vrdp-server.md 8.1 to 8.3)."""

import argparse
import getopt
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ._address import parse_address
from ._hints import did_you_mean

__all__ = ["USAGE", "RdesktopOptions", "UsageError", "parse"]

USAGE = """\
Usage: rdesktop-vrdp [options] [user@]server[:port]
   -u: user name                     -d: domain ('@N' at its end: screen N)
   -p: password (- to prompt)        -n: client hostname
   -r: redirect a device: usb        (usb is what this client is for)
   -a: colour depth (8, 15, 16, 24, 32)
   -g: desktop geometry (WxH[+X+Y], N%, workarea)
   -s: shell                         -c: working directory
   -4: use RDP version 4             -5: use RDP version 5 (default)
   -x: experience: m[odem], b[roadband], l[an] or hex
   -z: ask for compression           -0: attach to console
   -e: no encryption                 -E: encrypt the logon only
   -v: say more; without a window, also which options have no meaning
   --viewer: what shows the screen   --no-viewer: no window, USB only
             (xfreerdp or rdesktop; the variable RUSB_VIEWER does the same)
   -A -b -B -C -D -f -k -K -L -m -N -P -S -t -T -X: about the window, as in rdesktop
"""

GEOMETRY = re.compile(r"(?:(\d{1,5})x(\d{1,5})|(\d{1,3})%|workarea)([+-]\d+[+-]\d+)?")

DEPTHS = (8, 15, 16, 24, 32)
MAX_DOMAIN, MAX_PASSWORD, MAX_HOSTNAME = 255, 63, 15

EXPERIENCE = {"m": 0x2F, "b": 0x21, "l": 0x20}
LAN = 0x20

WITHOUT_MEANING = {
    "-b": "bitmap updates only",
    "-B": "the X server's backing store",
    "-C": "a private colour map",
    "-D": "window decorations",
    "-E": "everything is encrypted, not only the logon",
    "-f": "full screen",
    "-k": "the keyboard map",
    "-K": "window-manager key bindings",
    "-L": "the local character set",
    "-m": "mouse motion events",
    "-N": "numlock synchronisation",
    "-P": "the persistent bitmap cache",
    "-S": "single-application mode",
    "-t": "the remote-control socket",
    "-T": "the window title",
    "-X": "embedding in a window",
    "-A": "SeamlessRDP",
}
"""What an option is about that has no meaning without a window."""

OTHER_DEVICES = {
    "sound": "sound",
    "clipboard": "the clipboard",
    "disk": "drives",
    "comport": "serial ports",
    "lptport": "parallel ports",
    "printer": "printers",
    "lspci": "the PCI list",
    "scard": "smart cards",
    "clientname": "the device redirection's client name",
}

_LONG = ("viewer=", "no-viewer", "help")
_OURS = ("-u", "-d", "-p", "-v", "-h", "-?", "--help", "--viewer", "--no-viewer")
"""What a viewer is not to be given as it is."""

_LETTERS = "u:d:p:s:c:n:k:L:g:a:A:S:T:X:x:r:i:o:fbBeEmCDKtNzP045hv?"
_EXCLUDED_BY_SEAMLESS = ("-S", "-g", "-f", "-D", "-X", "-4")


class UsageError(ValueError):
    """The command line is wrong; the message says how."""


@dataclass(slots=True)
class RdesktopOptions:
    """What a command line asks for.

    Attributes:
        viewer: the command that shows the screen; None: not given.
        no_viewer: there is to be no window.
        window: the options that a viewer gets, and their values.
        notes: for ``-v`` without a window.
        warnings: for all.
    """

    host: str = ""
    port: int = 3389
    user: str = ""
    domain: str = ""
    password: str | None = field(default=None, repr=False)
    shell: str = ""
    directory: str = ""
    client_name: str = ""
    width: int = 800
    height: int = 600
    depth: int = 16
    version: int = 5
    experience: int = 0x27
    console: bool = False
    compression: bool = False
    leave_sound: bool = False
    usb: bool = False
    encryption: bool = True
    verbose: bool = False
    wants_help: bool = False
    viewer: str | None = None
    no_viewer: bool = False
    window: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def parse(argv: Sequence[str]) -> RdesktopOptions:
    """Read a command line; options and the server may come in any order.

    Raises:
        UsageError: an unknown option, a bad value, not exactly one server.
    """
    try:
        pairs, rest = getopt.gnu_getopt(list(argv), _LETTERS, _LONG)
    except getopt.GetoptError as error:
        raise UsageError(str(error)) from None
    options = RdesktopOptions()
    given = [letter for letter, _ in pairs]
    if "-A" in given and any(x in given for x in _EXCLUDED_BY_SEAMLESS):
        raise UsageError("-A cannot be used with -S, -g, -f, -D, -X or -4")
    for letter, value in pairs:
        _apply(options, letter, value)
        if letter not in _OURS and (letter != "-r" or _is_of_others(value)):
            options.window.append((letter, value))
    if options.wants_help:
        return options
    if len(rest) != 1:
        raise UsageError("name one server")
    try:
        address = parse_address(rest[0])
    except argparse.ArgumentTypeError as error:
        raise UsageError(str(error)) from None
    options.host, options.port = address.host, address.port
    options.user = options.user or address.user
    options.domain = options.domain or address.domain
    if options.usb and options.version == 4:
        options.usb = False
        options.warnings.append(
            "RDP version 4 has no channels, so it cannot carry USB; omit -4"
        )
    return options


def _apply(options: RdesktopOptions, letter: str, value: str) -> None:
    """Carry out one option."""
    match letter:
        case "-u":
            options.user = value
        case "-d":
            options.domain = value[:MAX_DOMAIN]
        case "-p":
            options.password = value[:MAX_PASSWORD]
        case "-s":
            options.shell = value
        case "-c":
            options.directory = value
        case "-n":
            options.client_name = value[:MAX_HOSTNAME]
        case "-g":
            _geometry(options, value)
        case "-a":
            if not value.isdigit() or int(value) not in DEPTHS:
                raise UsageError(
                    f"invalid server bpp {value!r}; choose one of 8, 15, 16, 24, 32"
                )
            options.depth = int(value)
        case "-x":
            options.experience = _experience(value)
        case "-r":
            _redirect(options, value)
        case "-z":
            options.compression = True
        case "-e":
            options.encryption = False
        case "-0":
            options.console = True
        case "-4" | "-5":
            options.version = int(letter[1])
        case "-v":
            options.verbose = True
        case "--viewer":
            options.viewer = value
        case "--no-viewer":
            options.no_viewer = True
        case "-h" | "-?" | "--help":
            options.wants_help = True
        case "-i" | "-o":
            raise UsageError(
                f"{letter} is not supported: this client has no smart cards"
            )
        case _:
            about = WITHOUT_MEANING[letter]
            options.notes.append(f"{letter} is accepted: {about}")


def _geometry(options: RdesktopOptions, text: str) -> None:
    """``WxH``, a share of a screen that is not there, or ``workarea``."""
    found = GEOMETRY.fullmatch(text)
    if found is None:
        raise UsageError(f"invalid geometry {text!r}")
    if found[1]:
        options.width, options.height = int(found[1]), int(found[2])
        if not (200 <= options.width <= 8192 and 200 <= options.height <= 8192):
            raise UsageError(f"invalid geometry {text!r}: 200 to 8192 pixels")
    elif found[3] and not 0 < int(found[3]) <= 100:
        raise UsageError(f"invalid geometry {text!r}")
    else:
        options.notes.append(
            "-g is accepted: this client has no screen and uses 800x600"
        )
    if found[4]:
        options.notes.append("-g is accepted: the window's position")


def _experience(text: str) -> int:
    if text[:1] in EXPERIENCE:
        return EXPERIENCE[text[0]]
    try:
        return int(text, 16) & 0xFF | LAN
    except ValueError:
        raise UsageError(f"-x {text!r}: use m, b, l or a hexadecimal number") from None


def _is_of_others(text: str) -> bool:
    """Is it a device that ``-r`` names, and not USB?"""
    return text.startswith(tuple(OTHER_DEVICES))


def _redirect(options: RdesktopOptions, text: str) -> None:
    """``-r``; anything that begins with usb is usb (vrdpusb.md 1.1)."""
    if text.startswith("usb"):
        options.usb = True
        return
    for name, about in OTHER_DEVICES.items():
        if text.startswith(name):
            if text == "sound:remote":
                options.leave_sound = True
            options.notes.append(f"-r {name} is accepted: {about}")
            return
    hint = (
        did_you_mean(text, ("usb", *OTHER_DEVICES)) or "; this client supports -r usb"
    )
    options.warnings.append(f"unknown -r argument {text!r} is ignored{hint}")
