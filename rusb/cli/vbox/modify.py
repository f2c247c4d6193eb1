"""``modifyvm``: change a machine that does not run (filters.md 3.2)."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rusb.cli._vbox_options import Option, UsageError, on_off, unsigned
from rusb.errors import SettingsError
from rusb.rdp.ports import check_ports
from rusb.server.machine.editor import BOOT_DEVICES, NIC_MODES, Editor
from rusb.server.machine.hardware import MAX_CPUS, MAX_MEMORY

from ._common import change_stopped, given

__all__ = ["COMMANDS", "OPTIONS", "REFUSED"]

Change = Callable[[Editor, str], None]


def _flag(name: str, change: Callable[[Editor, bool], None]) -> Change:
    return lambda editor, value: change(editor, on_off(name, value))


def _number(name: str, limit: int, change: Callable[[Editor, int], None]) -> Change:
    def apply(editor: Editor, value: str) -> None:
        number = unsigned(f"--{name}", value, limit)
        if not number:
            raise UsageError(f"invalid value 0 of --{name}")
        change(editor, number)

    return apply


def _boot(position: int) -> Change:
    def apply(editor: Editor, value: str) -> None:
        if value.lower() not in BOOT_DEVICES:
            words = ", ".join(BOOT_DEVICES)
            raise UsageError(f"invalid boot device {value!r}: {words}")
        editor.set_boot(position, value.lower())

    return apply


def _nic(number: int) -> Change:
    def apply(editor: Editor, value: str) -> None:
        if value.lower() not in NIC_MODES:
            raise SettingsError(
                f"--nic{number} {value}: rusb has no such network; there are"
                f" {', '.join(NIC_MODES)}"
            )
        editor.set_nic(number, value.lower())

    return apply


def _ports(editor: Editor, value: str) -> None:
    if value.lower() in ("default", "0"):
        value = "3389"
    editor.set_property("TCP/Ports", check_ports(value))


def _property(editor: Editor, value: str) -> None:
    name, equals, text = value.partition("=")
    if not equals or not name:
        raise UsageError(f"--vrdeproperty {value!r} is not NAME=VALUE")
    editor.set_property(name, text)


def _library(editor: Editor, value: str) -> None:
    editor.set_auth_library("" if value.lower() == "default" else value)


def _ext_pack(editor: Editor, value: str) -> None:
    editor.set_display("VRDEExtPack", None if value.lower() == "default" else value)


def _display_flag(name: str, attribute: str) -> Change:
    return _flag(name, lambda e, on: e.set_display(attribute, "true" if on else None))


def _video(editor: Editor, is_on: bool) -> None:
    editor.set_property("VideoChannel/Enabled", "true" if is_on else "false")


def _firmware(editor: Editor, value: str) -> None:
    kinds = {"bios": "BIOS", "efi": "EFI", "efi32": "EFI32", "efi64": "EFI64"}
    if value.lower() not in kinds:
        raise UsageError(f"invalid firmware {value!r}: {', '.join(kinds)}")
    editor.set_firmware(kinds[value.lower()])


def _usb(name: str, kind: str) -> Change:
    return _flag(name, lambda e, on: e.set_usb(kind, on))


def _uart(base: str, irq: str) -> None:
    """``--uart1 0x3F8 4``: where COM1 is anyway."""
    if (base.lower(), irq) != ("0x3f8", "4"):
        raise SettingsError(f"--uart1 {base} {irq}: COM1 is at 0x3F8 4")


def _uart_mode(editor: Editor, mode: str, path: str) -> None:
    """``--uartmode1 file PATH``."""
    if mode != "file":
        raise SettingsError(f"--uartmode1 {mode}: COM1 can only write to a file")
    editor.set_serial_file(str(Path(path).absolute()))


OPTIONS: dict[str, Change] = {
    "name": lambda e, v: e.set_attribute("name", v),
    "ostype": lambda e, v: e.set_attribute("OSType", v),
    "description": lambda e, v: e.set_description(v),
    "memory": _number("memory", MAX_MEMORY, Editor.set_memory),
    "cpus": _number("cpus", MAX_CPUS, Editor.set_cpus),
    "acpi": _flag("acpi", Editor.set_acpi),
    "firmware": _firmware,
    **{f"boot{n}": _boot(n) for n in range(1, 5)},
    **{f"nic{n}": _nic(n) for n in range(1, 9)},
    "vrde": _flag("vrde", Editor.set_vrde),
    "vrde-ext-pack": _ext_pack,
    "vrde-property": _property,
    "vrde-port": _ports,
    "vrde-address": lambda e, v: e.set_property("TCP/Address", v),
    "vrde-auth-type": lambda e, v: e.set_auth_type(v),
    "vrde-auth-library": _library,
    "vrde-multi-con": _display_flag("vrde-multi-con", "allowMultiConnection"),
    "vrde-reuse-con": _display_flag("vrde-reuse-con", "reuseSingleConnection"),
    "vrde-video-channel": _flag("vrde-video-channel", _video),
    "vrde-video-channel-quality": lambda e, v: e.set_property(
        "VideoChannel/Quality", v
    ),
    "usb-ohci": _usb("usb-ohci", "OHCI"),
    "usb-ehci": _usb("usb-ehci", "EHCI"),
    "usb-xhci": _usb("usb-xhci", "XHCI"),
    "usb": _usb("usb", "OHCI"),
}
"""Options with one value, and what they do."""

DEPRECATED = {
    "vrdp": "vrde",
    "vrdpport": "vrde-port",
    "vrdpaddress": "vrde-address",
    "vrdpauthtype": "vrde-auth-type",
    "vrdpmulticon": "vrde-multi-con",
    "vrdpreusecon": "vrde-reuse-con",
    "vrdpvideochannel": "vrde-video-channel",
    "vrdpvideochannelquality": "vrde-video-channel-quality",
}

REFUSED = {
    "teleporter": "teleporting is not there yet",
    "audio": "machines have no sound card",
    "accelerate3d": "machines have no 3D acceleration",
    "usb-card-reader": "there is no emulated card reader; remote ones work",
    "snapshotfolder": "there are no snapshots",
    "vram": "QEMU chooses the size of the video memory",
    "bridgeadapter1": "only NAT networks are there",
    "hostonlyadapter1": "only NAT networks are there",
}
"""Options of VBoxManage that rusb cannot carry out, and why."""


def modifyvm(words: Sequence[str]) -> int:
    """``modifyvm VM OPTION VALUE …``: all of it or nothing."""
    options = [Option(name) for name in (*OPTIONS, *REFUSED)]
    options += [Option(old, instead=new) for old, new in DEPRECATED.items()]
    two = ("usb-rename", "uart1", "uartmode1")
    options += [Option(name, values=2) for name in two]
    found = given(words, options, count=1)
    if not found.options:
        raise UsageError("nothing to change: give at least one option")

    def change(editor: Editor) -> None:
        for name, values in found.options:
            if name in REFUSED:
                raise SettingsError(f"--{name}: {REFUSED[name]}")
            if name == "usb-rename":
                editor.rename_usb(*values)
            elif name == "uart1":
                _uart(*values)
            elif name == "uartmode1":
                _uart_mode(editor, *values)
            else:
                OPTIONS[name](editor, values[0])

    change_stopped(found.words[0], change)
    return 0


COMMANDS = {"modifyvm": modifyvm}
