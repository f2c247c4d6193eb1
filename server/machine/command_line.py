"""The QEMU command line of a machine.

Controllers keep their VirtualBox names only in the settings; in QEMU the first storage
controller of a kind is ``ide``, ``sata0``, ``scsi0`` and so on.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rusb.errors import SettingsError

from ..vbox.model import (
    NETWORK_CARDS,
    SOUND_CARDS,
    Adapter,
    Audio,
    Drive,
    Hardware,
    disk_format,
    place_of,
)
from ..vbox.serialport import SerialPort

__all__ = [
    "MAX_HEADS",
    "boot_order",
    "check_adapter",
    "check_drive",
    "emulator",
    "find_firmware",
    "mac_of",
    "qemu_command",
    "serial_address",
]

QEMU = "qemu-system-x86_64"

FIRMWARE = (
    "/usr/share/OVMF/OVMF_CODE.fd",
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
)
"""Where distributions put EFI firmware."""

MAX_HEADS = 16
"""Screens of a virtio card."""

BOOT_LETTERS = {"floppy": "a", "disk": "c", "dvd": "d", "net": "n"}

USB_CONTROLLERS = {
    "OHCI": "pci-ohci,num-ports=15",
    "EHCI": "usb-ehci",
    "XHCI": "qemu-xhci,p2=15,p3=15,streams=off",
}
"""With as many ports as there may be: when they run out QEMU inserts a hub of full
speed. Streams cannot be carried to a usb-redir."""


def qemu_command(
    name: str,
    uuid: str,
    hardware: Hardware,
    monitors: Sequence[Path],
    *,
    screens: Sequence[Path] = (),
    accelerator: str = "tcg",
    incoming: str = "",
) -> list[str]:
    """Return the command that runs a machine without a window.

    Args:
        name, uuid: of the machine.
        hardware: what it has.
        monitors: UNIX sockets where QEMU is to listen for QMP.
        screens: UNIX sockets where QEMU is to show its screens (VNC), up to MAX_HEADS.
        accelerator: ``kvm`` or ``tcg``; KVM does not work wherever it is there.
        incoming: where its state comes from, after which it is paused; empty: it boots.

    Raises:
        SettingsError: QEMU or the firmware is not installed, an image is missing, or
            the machine has what QEMU cannot do; the message says what to do.
    """
    command = [
        emulator(),
        "-name",
        f"guest={_escaped(name)}",
        "-uuid",
        uuid.strip("{}"),
    ]
    command += ["-nodefaults", "-no-user-config", "-display", "none"]
    command += _screens(screens, has_sound=hardware.audio is not None)
    acpi = "on" if hardware.acpi else "off"
    command += ["-machine", f"pc,accel={accelerator},acpi={acpi}", "-cpu", "max"]
    command += ["-m", f"{hardware.memory}M", "-smp", f"{hardware.cpus}"]
    letters = "".join(BOOT_LETTERS[word] for word in boot_order(hardware))
    if letters:
        command += ["-boot", f"order={letters}"]
    if hardware.is_local_time:
        command += ["-rtc", "base=localtime"]
    if hardware.firmware.upper().startswith("EFI"):
        command += [
            "-drive",
            f"if=pflash,format=raw,readonly=on,file={find_firmware()}",
        ]
    for path in monitors:
        command += ["-qmp", f"unix:{_escaped(str(path))},server=on,wait=off"]
    if hardware.serial is not None:
        command += ["-chardev", _chardev(hardware.serial), "-serial", "chardev:com1"]
    for number, kind in enumerate(dict.fromkeys(hardware.usb)):
        command += ["-device", f"{USB_CONTROLLERS[kind]},id=usb{number}"]
    if hardware.usb:  # viewers say where the pointer is, not how it moved
        command += _tablets(len(screens))
    command += _storage(hardware.drives())
    command += _network(hardware.adapters)
    if hardware.audio is not None:
        command += _sound(hardware.audio)
    if screens:  # the clipboard goes through the VNC server
        command += _agent(waits=bool(incoming))
    if incoming:
        command += ["-S", "-incoming", incoming]
    return command


def emulator() -> str:
    """Return the path of QEMU.

    Raises:
        SettingsError: it is not installed.
    """
    program = shutil.which(QEMU)
    if program is None:
        raise SettingsError(
            f"{QEMU} is not installed; on Debian: apt-get install qemu-system-x86"
        )
    return program


def boot_order(hardware: Hardware) -> list[str]:
    """Return what is tried, without repetitions."""
    return list(dict.fromkeys(b for b in hardware.boot if b in BOOT_LETTERS))


def _screens(paths: Sequence[Path], *, has_sound: bool = False) -> Iterator[str]:
    """Yield the card, and where each of its heads is shown; sound is with the first."""
    card = "VGA,id=video0,edid=on"
    if len(paths) > 1:
        card = f"virtio-vga,id=video0,max_outputs={len(paths)}"
    yield from ("-device", card)
    for head, path in enumerate(paths):
        place = f"unix:{_escaped(str(path))},id=screen{head},display=video0"
        if len(paths) > 1:
            place += f",head={head}"
        if has_sound and not head:
            place += ",audiodev=sound0"
        yield from ("-vnc", place)


def _sound(audio: Audio) -> Iterator[str]:
    """Yield the sound card; what it plays goes nowhere but to the VNC server."""
    yield from ("-audiodev", "none,id=sound0")
    *buses, card = SOUND_CARDS[audio.controller]
    for bus in buses:
        yield from ("-device", bus)
    yield from ("-device", f"{card},audiodev=sound0")


def _agent(*, waits: bool) -> Iterator[str]:
    """Yield where the guest's spice-vdagent finds the clipboard.

    It may be switched on later. Last, so that the cards before it keep their places.

    Args:
        waits: the clipboard is connected when the machine has come
            (``teleport/stream.py``): QEMU cannot move it.
    """
    clipboard = "qemu-vdagent,id=agent,clipboard=on,mouse=off"
    yield from ("-chardev", "null,id=agent" if waits else clipboard)
    yield from ("-device", "virtio-serial-pci,id=agentbus")
    port = "virtserialport,bus=agentbus.0,chardev=agent,name=com.redhat.spice.0"
    yield from ("-device", port)


def _tablets(heads: int) -> Iterator[str]:
    """Yield a tablet; of several heads, one for each."""
    if heads < 2:
        yield from ("-device", "usb-tablet,bus=usb0.0")
        return
    for head in range(heads):
        yield from ("-device", f"usb-tablet,bus=usb0.0,display=video0,head={head}")


def _escaped(text: str) -> str:
    """Double the commas, which separate QEMU's options."""
    return text.replace(",", ",,")


def serial_address(serial: SerialPort) -> tuple[str, int]:
    """Return host and port of a serial port of TCP; of another one, nothing.

    Raises:
        SettingsError: it cannot be what it is.
    """
    try:
        serial.check()
        return serial.address() if serial.mode == "TCP" else ("", 0)
    except SettingsError as error:
        raise SettingsError(
            f"the first serial port: {error}; change it with modifyvm VM --uartmode1"
        ) from None


def _chardev(serial: SerialPort) -> str:
    host, port = serial_address(serial)
    if serial.mode == "RawFile":
        return f"file,id=com1,path={_escaped(serial.path)}"
    place = f"host={host},port={port}" if port else f"path={_escaped(serial.path)}"
    wait = ",server=on,wait=off" if serial.is_server else ""
    return f"socket,id=com1,{place}{wait}"


def find_firmware() -> str:
    """Return the path of EFI firmware.

    Raises:
        SettingsError: none is installed.
    """
    for path in FIRMWARE:
        if Path(path).exists():
            return path
    raise SettingsError(
        "the machine needs EFI firmware, which is not installed; on Debian: apt-get"
        " install ovmf"
    )


def _storage(drives: Sequence[tuple[str, Drive]]) -> Iterator[str]:
    """Yield the controllers that drives need, then a drive and a device for each."""
    buses = dict.fromkeys(bus for bus, _ in drives)
    if "sata" in buses:
        yield from ("-device", "ahci,id=sata0")
    if "scsi" in buses:
        yield from ("-device", "lsi53c895a,id=scsi0")
    if "usb" in buses:
        yield from ("-device", "qemu-xhci,id=usbdisks")
    for number, (bus, drive) in enumerate(drives):
        place = place_of(bus, drive.port, drive.device)
        options = ["if=none", f"id=disk{number}"]
        check_drive(drive)
        if drive.medium is not None:
            options += [f"file={_escaped(str(drive.medium))}"]
            options += [f"format={disk_format(drive.medium)}"]
            if drive.kind == "dvd":
                options.append("readonly=on")
        yield from ("-drive", ",".join(options))
        yield from ("-device", f"{_device(bus, drive, place)},drive=disk{number}")


def check_drive(drive: Drive) -> None:
    """Refuse a drive without the image that it needs.

    Raises:
        SettingsError: it has none, or its image is missing.
    """
    if drive.medium is not None and not drive.medium.exists():
        raise SettingsError(
            f"the machine's medium {drive.medium} does not exist; attach another one"
            " with storageattach"
        )
    if drive.medium is None and drive.kind == "hdd":
        raise SettingsError("a hard disk has no image; attach one with storageattach")


def _device(bus: str, drive: Drive, place: int) -> str:
    kind = "cd" if drive.kind == "dvd" else "hd"
    match bus:
        case "ide":
            return f"ide-{kind},bus=ide.{drive.port},unit={drive.device}"
        case "sata":
            return f"ide-{kind},bus=sata0.{place}"
        case "scsi":
            return f"scsi-{kind},bus=scsi0.0,scsi-id={place}"
        case "floppy":
            return f"floppy,unit={place}"
        case "usb":
            return "usb-storage,bus=usbdisks.0"
    return "virtio-blk-pci"


def _network(adapters: Mapping[int, Adapter]) -> Iterator[str]:
    """Yield ``net0`` and ``nic0``, as others name them, for the adapter in slot 0."""
    for slot, adapter in sorted(adapters.items()):
        card = f"{NETWORK_CARDS.get(adapter.card, 'e1000')},id=nic{slot}"
        if adapter.mac:
            card += f",mac={mac_of(adapter)}"
        check_adapter(slot, adapter)
        if adapter.mode:
            yield from ("-netdev", f"user,id=net{slot}")
            card += f",netdev=net{slot}"
        yield from ("-device", card)


def mac_of(adapter: Adapter) -> str:
    """Return an adapter's address with colons."""
    return ":".join(adapter.mac[i : i + 2] for i in range(0, 12, 2))


def check_adapter(slot: int, adapter: Adapter) -> None:
    """Refuse a network that we do not have.

    Raises:
        SettingsError: it is not NAT.
    """
    if adapter.mode not in ("", "NAT"):
        raise SettingsError(
            f"network adapter {slot + 1} is attached to {adapter.mode}; rusb only"
            f" supports NAT: modifyvm VM --nic{slot + 1} nat"
        )
