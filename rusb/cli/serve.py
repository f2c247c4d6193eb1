"""``rusb serve``: give the remote USB devices of clients to a virtual machine."""

import argparse
from pathlib import Path

from rusb.errors import SettingsError
from rusb.oserrors import reason
from rusb.rdp.ports import check_ports, parse_ports
from rusb.server.config import ServerConfig
from rusb.server.listener import Server
from rusb.server.machine.settings import load_machine

from ._common import (
    add_verbose,
    open_more_files,
    run_async,
    say,
    set_up_logging,
    until_signal,
)

HELP = "serve remote USB to a virtual machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add = parser.add_argument
    add("machine", metavar="MACHINE", help="the machine's settings, a .vbox file")
    add(
        "--guest",
        default="pyusb",
        metavar="KIND[:ADDRESS]",
        help="where devices go: qemu:QMP-SOCKET, pyusb[:FOLDER] (default), loopback",
    )
    add("--port", metavar="LIST", help="ports to try: 3389 or 5000,5010-5012")
    add("--address", help="address to listen on")
    add("--auth-library", default="", help="for External: VBoxAuth (PAM, default), …")
    add("--pam-service", default="", help="service in /etc/pam.d (login)")
    add(
        "--legacy-tls",
        action="store_true",
        help="take clients with TLS 1.0, such as rdesktop-vrdp 1.8",
    )
    add("--log", metavar="FILE", help="VBox.log; default: Logs/VBox.log beside MACHINE")
    add_verbose(parser)


def log_path(machine: Path, asked: str | None) -> str:
    """Return where the log goes; its folder is made.

    Raises:
        SettingsError: the folder cannot be made.
    """
    path = Path(asked) if asked else machine.parent / "Logs" / "VBox.log"
    if asked == "-":
        return asked
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"cannot make {path.parent} for the log: {reason(error)}; name another"
            " file with --log"
        ) from error
    return str(path)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    set_up_logging(args.verbose)
    machine = load_machine(args.machine)
    if machine.note:
        say(f"Warning: {machine.note}")
    config = ServerConfig(
        machine=machine,
        guest=args.guest,
        ports=parse_ports(check_ports(args.port)) if args.port else None,
        address=args.address,
        auth_library=args.auth_library,
        pam_service=args.pam_service,
        legacy_tls=args.legacy_tls,
        log=log_path(Path(args.machine), args.log),
    )
    open_more_files()
    return run_async(_serve(config))


async def _serve(config: ServerConfig) -> int:
    async with Server(config, report=say) as server:
        listening = f"{config.machine.name}: listening on port {server.port}"
        say(listening)
        if server.fingerprint:
            say(f"{config.machine.name}: the certificate is {server.fingerprint}")
        say(f"{config.machine.name}: log in {config.log}")
        await until_signal(server.serve_forever(), listening)
        say(f"{config.machine.name}: stopping")
    return 0
