"""``rusb connect``: offer this machine's USB devices to a remote machine."""

import argparse
import dataclasses

from rusb.client.config import ClientConfig
from rusb.client.events import DeviceLeftOut, DeviceOffered, SessionEvent
from rusb.client.session import connect
from rusb.client.viewer import ViewerProgram
from rusb.filters.parser import parse_offer

from ._advice import advised
from ._common import add_verbose, run_async, say, set_up_logging
from ._server import add_server, config_of, seconds
from ._status import EXIT_INTERRUPTED, EXIT_USAGE
from ._viewing import End, add_viewer, choose_viewer, stay

WIRES = {
    "auto": ("vrdpusb", "rdpeusb"),
    "vrdpusb": ("vrdpusb",),
    "rdpeusb": ("rdpeusb",),
}
"""Names of wire protocols by the word of ``--wire``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add = parser.add_argument
    add_server(parser)
    add(
        "--filter",
        action="append",
        default=[],
        metavar="RULE",
        help="offer only devices that a rule admits: 1209:0001 or"
        " vendorId=1209,product=Blink*;"
        " a rule that begins with ! excludes; may be given several times",
    )
    add(
        "--all",
        action="store_true",
        dest="wants_all",
        help="also offer the keyboards, mice, root disk and network adapter of this"
        " machine",
    )
    add(
        "--backend",
        action="append",
        metavar="NAME[:ADDRESS]|FILE.py:CLASS",
        help="where devices come from: libusb (default), usbip:HOST[:PORT],"
        " usbredir:HOST:PORT, replay:FILE, emulated, another one that 'rusb plugins'"
        " lists, or a class in a file; may be given several times",
    )
    add(
        "--force",
        action="store_true",
        help="use devices even if their file systems are mounted",
    )
    add(
        "--usb-timeout",
        type=seconds,
        default=45.0,
        help="give up if the server does not offer remote USB within this many"
        " seconds (default: 45)",
    )
    add(
        "--wire",
        choices=WIRES,
        default="auto",
        help="how USB travels: vrdpusb (VirtualBox's), rdpeusb (MS-RDPEUSB), or auto"
        " (default): both where the server has them, sound and video over rdpeusb,"
        " which carries isochronous transfers, all else over vrdpusb",
    )
    add(
        "--reconnect",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="connect again when the connection breaks (default); a rusb server keeps"
        " the devices in the guest meanwhile. --no-reconnect: end with status 76",
    )
    add_viewer(parser)
    add_verbose(parser)


def run(args: argparse.Namespace) -> int:
    """Connect and stay until the server ends it or a signal comes."""
    set_up_logging(args.verbose)
    config = config_of("rusb connect", args)
    if config is None:
        return EXIT_USAGE
    config = dataclasses.replace(
        config,
        backends=tuple(args.backend or ["libusb"]),
        filters=tuple(parse_offer(t) for t in args.filter if t[:1] != "!"),
        excluded=tuple(parse_offer(t[1:]) for t in args.filter if t[:1] == "!"),
        wants_all=args.wants_all,
        force=args.force,
        usb_timeout=args.usb_timeout,
        wires=WIRES[args.wire],
        reconnect=args.reconnect,
    )
    program = None
    if args.view or args.viewer:
        program = choose_viewer(args.viewer, is_asked=True)
    return run_async(offer_devices(config, program))


async def offer_devices(
    config: ClientConfig, program: ViewerProgram | None = None
) -> int:
    """Run one client to its end and return the server's reason, 0 for a clean end.

    A signal that comes while there is no connection interrupts the attempts to get one.
    """
    async with connect(config, on_event=_tell) as session:
        connected = f"connected to {config.server} ({session.security})"
        if program is not None:
            connected += f"; {program.name} shows the screen"
        say(connected)
        match await stay(session, connected, program):
            case End.SERVER:
                say(f"{config.server} ended the connection")
            case End.WINDOW:
                say("the window was closed")
            case End.SIGNAL if not session.is_connected:
                return EXIT_INTERRUPTED
        return min(session.reason or 0, 255)  # a status has a byte


def _tell(event: SessionEvent) -> None:
    """Tell the user what happened, and which option would change it."""
    text = str(event)
    if isinstance(event, DeviceOffered) and event.problem is not None:
        text = text.replace(str(event.problem), advised(event.problem))
    if isinstance(event, DeviceLeftOut):
        ids = f"{event.device.vendor_id:04x}:{event.device.product_id:04x}"
        text += f". To offer it anyway: --all, or --filter {ids}"
    say(text)
