"""``rusb serve``: give the remote USB devices of clients to a virtual machine."""

import argparse
import pwd
from pathlib import Path

from rusb.errors import SettingsError
from rusb.filters.model import Filter
from rusb.filters.parser import parse_offer
from rusb.paths import state_folder
from rusb.server.config import ServerConfig
from rusb.server.machine.serving import Serving
from rusb.server.vbox.bare import bare_machine
from rusb.server.vbox.files import make_folder, write_file
from rusb.server.vbox.grace import parse_seconds
from rusb.server.vbox.ports import check_address, check_ports, parse_ports
from rusb.server.vbox.registry import Registry, check_name
from rusb.server.vbox.settings import load_machine
from rusb.server.vbox.storage_mode import Storage

from ._common import (
    add_verbose,
    open_more_files,
    run_async,
    say,
    set_up_logging,
    until_signal,
)
from ._user import check_guest, check_logons, drop_root, find_user
from ._vbox_options import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add = parser.add_argument
    add(
        "machine",
        nargs="?",
        metavar="MACHINE",
        help="a machine's name, or its .vbox file",
    )
    add("--name", help="instead of MACHINE: the name of a machine without a .vbox file")
    add(
        "--allow",
        action="append",
        default=[],
        metavar="RULE",
        help="with --name: which devices to admit, 1209:0001 or vendorId=1209,…;"
        " may be given several times",
    )
    add(
        "--auth",
        choices=["null", "external"],
        help="with --name: who may connect: anyone (default), or users with a password",
    )
    add(
        "--guest",
        default="pyusb",
        metavar="KIND[:ADDRESS]",
        help="where devices go: qemu:QMP-SOCKET, libvirt:DOMAIN, vhci,"
        " kubevirt:NAMESPACE/VMI, usbip[:[ADDRESS:]PORT], usbredir:…, pty[:DIR],"
        " rfc2217:[ADDRESS:]PORT, pyusb[:DIR] (default), loopback, or another one"
        " that 'rusb plugins' lists",
    )
    add("--port", metavar="LIST", help="ports to try: 3389 or 5000,5010-5012")
    add("--address", help="address to listen on")
    add(
        "--auth-library",
        default="",
        help="library that checks passwords: VBoxAuth (PAM, default), …",
    )
    add("--pam-service", default="", help="service in /etc/pam.d (default: login)")
    add(
        "--legacy-tls",
        action="store_true",
        help="accept clients with TLS 1.0, such as rdesktop-vrdp 1.8",
    )
    add(
        "--user",
        metavar="NAME",
        help="started as root: open ports, log, certificate and guest, then become"
        " NAME",
    )
    add(
        "--storage",
        metavar="MODE",
        type=_storage,
        help="how far ahead disks are read and written, whatever the settings say:"
        " off, strict, early or ahead[:SIZE]",
    )
    add(
        "--resume",
        metavar="SECONDS",
        type=_seconds,
        help="how long the guest keeps the devices of a client whose connection broke,"
        " if the client can come back (rusb connect), whatever the settings say:"
        " 0 to 600 (default: 60)",
    )
    add(
        "--hold",
        metavar="SECONDS",
        type=_seconds,
        help="the same for all other clients, whose device is the same when it comes"
        " back: 0 to 600 (default: 0)",
    )
    add(
        "--log",
        metavar="FILE",
        help="where to write the log (default: Logs/VBox.log beside the .vbox file)",
    )
    add_verbose(parser)


def _ports(text: str | None) -> list[int] | None:
    try:
        return parse_ports(check_ports(text)) if text else None
    except SettingsError as error:
        raise UsageError(f"--port: {error}") from error


def _address(text: str | None) -> str | None:
    try:
        return check_address(text) if text else None
    except SettingsError as error:
        raise UsageError(f"--address: {error}") from error


def _storage(text: str) -> Storage:
    try:
        return Storage.parse(text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _seconds(text: str) -> float:
    try:
        return parse_seconds(text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def log_path(machine: Path, asked: str | None) -> str:
    """Return where the log goes; its folder is made.

    Raises:
        SettingsError: the folder cannot be made.
    """
    if asked == "-":
        return asked
    path = Path(asked) if asked else machine.parent / "Logs" / "VBox.log"
    try:
        make_folder(path.parent)
    except SettingsError as error:
        raise SettingsError(f"{error}; name another file with --log") from error
    return str(path)


def find_settings(args: argparse.Namespace) -> Path:
    """Return the file of the settings; for a machine without any it is made.

    Raises:
        UsageError: the options do not fit each other, or the name cannot be one.
        SettingsError: there is no such machine.
        FilterError: a rule is wrong.
    """
    if args.name is None:
        if args.machine is None:
            raise UsageError(
                "no machine was named; give its name or its .vbox file, or use --name"
                " NAME --allow RULE"
            )
        if args.allow or args.auth:
            raise UsageError(
                "--allow and --auth need --name; for a machine with settings use"
                " usbfilter add and modifyvm --vrdeauthtype"
            )
        path = Path(args.machine)
        is_path = path.suffix == ".vbox" or "/" in args.machine or path.is_file()
        return path if is_path else Registry().find(args.machine).path
    if args.machine is not None:
        raise UsageError("give MACHINE or --name, not both")
    if not args.allow:
        raise UsageError(
            "--name needs --allow RULE, because no device is admitted without a rule;"
            " --allow vid=0x0000-0xffff admits every device"
        )
    rules = [parse_offer(text, reads_devices=True) for text in args.allow]
    return make_settings(args.name, rules, args.auth)


def make_settings(name: str, filters: list[Filter], auth: str | None) -> Path:
    """Write the settings of a machine that only has a name; return the file.

    Raises:
        UsageError: the name cannot be one.
        SettingsError: the file cannot be written.
    """
    try:
        check_name(name)
    except SettingsError as error:
        raise UsageError(f"--name: {error}") from error
    path = state_folder() / "serve" / name / f"{name}.vbox"
    make_folder(path.parent, is_private=True)
    write_file(path, bare_machine(name, filters, auth or "null"))
    return path


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    set_up_logging(args.verbose)
    user = find_user(args.user) if args.user else None
    ports, address = _ports(args.port), _address(args.address)
    path = find_settings(args)
    machine = load_machine(path)
    if machine.note:
        say(f"Warning: {machine.note}")
    if args.storage:
        machine.storage = args.storage
    machine.resume, machine.hold = args.resume, args.hold
    config = ServerConfig(
        machine=machine,
        guest=args.guest,
        ports=ports,
        address=address,
        auth_library=args.auth_library,
        pam_service=args.pam_service,
        legacy_tls=args.legacy_tls,
        log=log_path(path, args.log),
        is_bare=args.name is not None,
    )
    if user is not None:
        check_guest(config)
    open_more_files()
    return run_async(_serve(config, user))


async def _serve(config: ServerConfig, user: pwd.struct_passwd | None) -> int:
    name = config.machine.name
    async with Serving(config, say) as serving:
        server = serving.server
        if user is not None:
            check_logons(server)
            drop_root(user)
            say(f"{name}: now runs as {user.pw_name}")
        listening = f"{name}: listening on port {server.port}"
        say(listening)
        if server.fingerprint:
            say(f"{name}: the certificate is {server.fingerprint}")
        say(f"{name}: the log is {config.log}")
        await until_signal(serving.wait_ended(), listening, on_hangup=serving.reload)
        say(f"{name}: stopping")
    return 0
