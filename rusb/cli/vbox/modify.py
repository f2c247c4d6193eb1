"""``modifyvm``: change a machine that does not run (filters.md 3.2)."""

from collections.abc import Callable, Sequence

from rusb.cli._vbox_options import Option, UsageError, on_off, one_of, unsigned
from rusb.errors import SettingsError
from rusb.server.vbox.editor import BOOT_DEVICES, Editor
from rusb.server.vbox.forwards import Forward
from rusb.server.vbox.hardware import MAX_CPUS, MAX_MEMORY
from rusb.server.vbox.model import NETWORK_CARDS
from rusb.server.vbox.network import NIC_MODES, new_mac
from rusb.server.vbox.ports import check_address, check_ports
from rusb.server.vbox.registry import check_free, check_name
from rusb.server.vbox.serialport import SERIAL_MODES, SerialPort
from rusb.server.vbox.settings import AUTH_TYPES, MAX_MONITORS

from . import _kept, _media, _refused, _teleport, _vrde
from ._common import change_stopped, given, live_state, registry, warn
from ._ostypes import identify

__all__ = ["COMMANDS", "DEPRECATED", "OPTIONS"]

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
        editor.set_boot(position, one_of(f"boot{position}", value, BOOT_DEVICES))

    return apply


def _nic(number: int) -> Change:
    def apply(editor: Editor, value: str) -> None:
        if value.lower() not in NIC_MODES:
            raise SettingsError(
                f"--nic{number} {value}: rusb has no such network; choose one of"
                f" {', '.join(NIC_MODES)}"
            )
        editor.set_nic(number, value.lower())

    return apply


def _adapter(number: int, attribute: str, read: Callable[[str], str]) -> Change:
    return lambda e, value: e.set_adapter(number, attribute, read(value))


def _card(value: str) -> str:
    for card in NETWORK_CARDS:
        if card.lower() == value.lower():
            return card
    raise SettingsError(
        f"unknown network card {value!r}; choose one of {', '.join(NETWORK_CARDS)}"
    )


def _cable(value: str) -> str:
    return "true" if on_off("cableconnected", value) else "false"


def _mac(value: str) -> str:
    if value.lower() == "auto":
        return new_mac()
    is_hex = all(c in "0123456789abcdefABCDEF" for c in value)
    if len(value) != 12 or not is_hex or int(value[1], 16) & 1:
        raise UsageError(
            f"invalid MAC address {value!r}: use auto, or twelve hexadecimal"
            " digits, the second one even"
        )
    return value.upper()


def _name(editor: Editor, value: str) -> None:
    try:
        check_name(value)
    except SettingsError as error:
        raise UsageError(str(error)) from error
    check_free(value, [e for e in registry().machines() if e.uuid != editor.uuid])
    editor.set_attribute("name", value)


def _groups(editor: Editor, value: str) -> None:
    names = [name for name in value.split(",") if name not in ("", "/")]
    if not all(name.startswith("/") for name in names):
        raise UsageError(f"--groups {value!r}: each group must begin with /")
    editor.set_groups(names)


def _monitors(editor: Editor, value: str) -> None:
    count = unsigned("--monitorcount", value, MAX_MONITORS)
    if not count:
        raise UsageError("invalid value 0 of --monitorcount")
    editor.set_monitors(count)


def _only_on(name: str, why: str, *path: str, **attribute: str) -> Change:
    """What every machine has; the file keeps it for VirtualBox."""

    def apply(editor: Editor, value: str) -> None:
        if not on_off(name, value):
            raise SettingsError(f"--{name} {value}: {why}")
        ((key, text),) = attribute.items()
        editor.set_hardware(path, key, text)

    return apply


def _ports(editor: Editor, value: str) -> None:
    editor.set_property(
        _PORTS, check_ports("0" if value.lower() == "default" else value)
    )


def _property(editor: Editor, value: str) -> None:
    name, equals, text = value.partition("=")
    if not equals or not name:
        raise UsageError(f"--vrdeproperty {value!r} is not NAME=VALUE")
    _vrde.note_property(name, text)
    editor.set_property(name, _vrde.check_property(name, text))


_PORTS = "TCP/Ports"


def _auth_type(editor: Editor, value: str) -> None:
    words = [word.lower() for word in AUTH_TYPES]
    editor.set_auth_type(one_of("vrdeauthtype", value, words))


def _library(editor: Editor, value: str) -> None:
    _vrde.note_library(value)
    editor.set_auth_library("" if value.lower() == "default" else value)


def _ext_pack(editor: Editor, value: str) -> None:
    if value.lower() != "default":
        warn("rusb has no extension packs; rusb's own server is used")
    editor.set_display("VRDEExtPack", None if value.lower() == "default" else value)


def _display_flag(name: str, attribute: str) -> Change:
    return _flag(name, lambda e, on: e.set_display(attribute, "true" if on else None))


def _video(editor: Editor, is_on: bool) -> None:
    editor.set_property("VideoChannel/Enabled", "true" if is_on else "false")


def _firmware(editor: Editor, value: str) -> None:
    kinds = {"bios": "BIOS", "efi": "EFI", "efi32": "EFI32", "efi64": "EFI64"}
    editor.set_firmware(kinds[one_of("firmware", value, kinds)])


def _usb(name: str, kind: str) -> Change:
    return _flag(name, lambda e, on: e.set_usb(kind, on))


def _uart(editor: Editor, base: str, irq: str = "") -> None:
    """``--uart1 0x3F8 4``: where COM1 is anyway."""
    if base.lower() == "off":
        editor.set_serial(None)
    elif (base.lower(), irq) != ("0x3f8", "4"):
        raise SettingsError(f"--uart1 {base} {irq}: COM1 is always at 0x3F8 4")


def _uart_mode(editor: Editor, mode: str, value: str = "") -> None:
    """``--uartmode1 server PATH``, or another of SERIAL_MODES."""
    word = mode.lower()
    if word == "disconnected":
        editor.set_serial(None)
        return
    if word not in SERIAL_MODES:
        raise SettingsError(
            f"--uartmode1 {mode}: COM1 cannot be connected to a device of the host;"
            f" choose one of disconnected, {', '.join(SERIAL_MODES)}"
        )
    try:
        editor.set_serial(SerialPort.parse(word, value))
    except SettingsError as error:
        raise SettingsError(f"--uartmode1 {mode} {value}: {error}") from None


def _forward(number: int) -> Callable[..., None]:
    """``--natpf1 RULE``, ``--natpf1 delete NAME``."""

    def apply(editor: Editor, rule: str, name: str | None = None) -> None:
        try:
            if name is None:
                editor.add_forward(number, Forward.parse(rule))
            else:
                editor.remove_forward(number, name)
        except SettingsError as error:
            raise SettingsError(f"--natpf{number}: {error}") from None

    return apply


OPTIONS: dict[str, Change] = {
    "name": _name,
    "groups": _groups,
    "os-type": lambda e, v: e.set_attribute("OSType", identify(v)),
    "description": lambda e, v: e.set_description(v),
    "memory": _number("memory", MAX_MEMORY, Editor.set_memory),
    "cpus": _number("cpus", MAX_CPUS, Editor.set_cpus),
    "monitor-count": _monitors,
    "ioapic": _only_on(
        *("ioapic", "QEMU's machines always have an I/O APIC", "BIOS", "IOAPIC"),
        enabled="true",
    ),
    "rtc-use-utc": _flag("rtcuseutc", Editor.set_utc),
    "acpi": _flag("acpi", Editor.set_acpi),
    "firmware": _firmware,
    **{f"boot{n}": _boot(n) for n in range(1, 5)},
    **{f"nic{n}": _nic(n) for n in _refused.ADAPTERS},
    **{f"nic-type{n}": _adapter(n, "type", _card) for n in _refused.ADAPTERS},
    **{f"cable-connected{n}": _adapter(n, "cable", _cable) for n in _refused.ADAPTERS},
    **{f"mac-address{n}": _adapter(n, "MACAddress", _mac) for n in _refused.ADAPTERS},
    "vrde": _flag("vrde", Editor.set_vrde),
    "vrde-ext-pack": _ext_pack,
    "vrde-property": _property,
    "vrde-port": _ports,
    "vrde-address": lambda e, v: e.set_property("TCP/Address", check_address(v)),
    "vrde-auth-type": _auth_type,
    "vrde-auth-library": _library,
    "vrde-multi-con": _display_flag("vrde-multi-con", "allowMultiConnection"),
    "vrde-reuse-con": _display_flag("vrde-reuse-con", "reuseSingleConnection"),
    "vrde-video-channel": _flag("vrde-video-channel", _video),
    "vrde-video-channel-quality": lambda e, v: _property(e, f"{_vrde.QUALITY}={v}"),
    "usb-ohci": _usb("usb-ohci", "OHCI"),
    "usb-ehci": _usb("usb-ehci", "EHCI"),
    "usb-xhci": _usb("usb-xhci", "XHCI"),
    "usb": _usb("usb", "OHCI"),
    **_media.CHANGES,
    **_teleport.CHANGES,
}
"""Options with one value, and what they do."""

DEPRECATED = {
    "clipboard": "clipboard-mode",
    "vrdp": "vrde",
    "vrdpport": "vrde-port",
    "vrdpaddress": "vrde-address",
    "vrdpauthtype": "vrde-auth-type",
    "vrdpmulticon": "vrde-multi-con",
    "vrdpreusecon": "vrde-reuse-con",
    "vrdpvideochannel": "vrde-video-channel",
    "vrdpvideochannelquality": "vrde-video-channel-quality",
}

_SEVERAL: dict[str, Callable[..., None]] = {
    "usb-rename": Editor.rename_usb,
    "uart1": _uart,
    "uart-mode1": _uart_mode,
    **{f"nat-pf{n}": _forward(n) for n in _refused.ADAPTERS},
}
"""Options with more than one value."""

_CHANGES: dict[str, Callable[..., None]] = {**OPTIONS, **_SEVERAL, **_kept.CHANGES}

_ALL = (
    *(Option(name) for name in OPTIONS),
    Option("usb-rename", values=2),
    Option("uart1", values=2, alone=("off",)),
    Option("uart-mode1", two=tuple(SERIAL_MODES)),
    *(Option(f"nat-pf{n}", two=("delete",)) for n in _refused.ADAPTERS),
    *(Option(old, instead=new) for old, new in DEPRECATED.items()),
    *_kept.OPTIONS,
    *_refused.MODIFY,
)


def modifyvm(words: Sequence[str]) -> int:
    """``modifyvm VM OPTION VALUE ...``: all of it or nothing."""
    found = given(words, _ALL, count=1, is_patient=True)
    if not (found.options or found.refused):
        raise UsageError("nothing to change: give at least one option")

    def change(editor: Editor) -> None:
        problems = [SettingsError(sentence) for sentence in found.refusals()]
        for name, values in found.options:
            apply = _CHANGES.get(name)
            try:
                if apply is not None:  # a refused option may ask for what is the case
                    apply(editor, *values)
            except SettingsError as error:
                problems.append(error)
        if len(problems) == 1:
            raise problems[0]
        if problems:
            raise SettingsError("; ".join(map(str, problems)))

    if all(name in _teleport.CHANGES for name, _ in found.options):
        _change_teleporter(found.words[0], change)
    else:
        change_stopped(found.words[0], change)
    return 0


def _change_teleporter(name: str, change: Callable[[Editor], None]) -> None:
    """Change how a machine is awaited, also of one that is at another host for now."""
    known = registry()
    entry = known.find(name)
    state = live_state(entry.uuid)
    if state is not None and state.state == "teleported":
        known.edit(entry, change)  # the process that relays its devices writes nothing
    else:
        change_stopped(name, change)


COMMANDS = {"modifyvm": modifyvm}
