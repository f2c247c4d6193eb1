"""The model of a machine's hardware, for showvminfo and for the hypervisor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rusb.errors import SettingsError

from .forwards import Forward
from .serialport import SerialPort

__all__ = [
    "BUSES",
    "BUS_OF",
    "NETWORK_CARDS",
    "SOUND_CARDS",
    "Adapter",
    "Audio",
    "Controller",
    "Drive",
    "Hardware",
    "disk_format",
    "place_of",
    "ports_of",
]

FORMATS = {
    ".vdi": "vdi",
    ".vmdk": "vmdk",
    ".vhd": "vpc",
    ".qcow2": "qcow2",
    ".qcow": "qcow",
    ".hdd": "parallels",
}
"""QEMU's name of a disk image's format by extension; any other is raw."""

NETWORK_CARDS = {
    "Am79C970A": "pcnet",
    "Am79C973": "pcnet",
    "82540EM": "e1000",
    "82543GC": "e1000",
    "82545EM": "e1000",
    "virtio": "virtio-net-pci",
}
"""QEMU's network card for one of VirtualBox's; another becomes an e1000."""

BUSES = {
    "ide": ("PIIX4", 2),
    "sata": ("AHCI", 30),
    "scsi": ("LsiLogic", 16),
    "floppy": ("I82078", 1),
    "usb": ("USB", 8),
    "virtio": ("VirtioSCSI", 16),
}
"""Storage controllers: the default chip and the number of ports."""

BUS_OF = {
    "PIIX3": "ide",
    "PIIX4": "ide",
    "ICH6": "ide",
    "AHCI": "sata",
    "IntelAhci": "sata",
    "LsiLogic": "scsi",
    "BusLogic": "scsi",
    "LsiLogicSas": "scsi",
    "I82078": "floppy",
    "USB": "usb",
    "VirtioSCSI": "virtio",
}
"""Chip to bus."""

_PORTS = {"ide": 4, "sata": 6, "scsi": 7, "floppy": 2, "usb": 8, "virtio": 8}
"""Disks that a controller of a kind takes."""


@dataclass(frozen=True, slots=True)
class Drive:
    """A drive in its place.

    Attributes:
        port, device: where on the controller; only IDE has two devices a port.
        kind: ``hdd``, ``dvd`` or ``floppy``.
        medium: the image; None: it is empty.
        uuid: of the image.
        problem: why QEMU cannot use the image; empty: it can.
    """

    port: int
    device: int
    kind: str
    medium: Path | None = None
    uuid: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Controller:
    """A storage controller.

    Attributes:
        type: VirtualBox's name of the chip.
    """

    name: str
    type: str
    ports: int
    drives: Sequence[Drive] = ()


@dataclass(frozen=True, slots=True)
class Adapter:
    """A network adapter.

    Attributes:
        mode: ``NAT``, or the element of another one; empty: no cable.
        card: VirtualBox's name of the card.
        mac: twelve hexadecimal digits.
        is_linked: the cable is in.
        forwards: what the host forwards to the guest, for NAT.
        network: the name of what it is attached to; mostly empty.
        nat: the network of NAT, for NAT.
        kept: what only VirtualBox uses, see ``kept.py``: word by name.
    """

    mode: str = "NAT"
    card: str = "82540EM"
    mac: str = ""
    is_linked: bool = True
    forwards: tuple[Forward, ...] = ()
    network: str = ""
    nat: str = "nat"
    kept: Mapping[str, str] = field(default_factory=dict)


SOUND_CARDS = {
    "AC97": ("AC97",),
    "HDA": ("intel-hda", "hda-output"),
    "SB16": ("sb16",),
}
"""QEMU's devices for each sound card, the one with the sound last; another: AC97."""


@dataclass(frozen=True, slots=True)
class Audio:
    """A sound card.

    Attributes:
        controller: a name of SOUND_CARDS.
        driver, codec: as VirtualBox has them, to be shown: only viewers hear the guest.
        has_input: may the guest record, in VirtualBox?
    """

    controller: str = "AC97"
    driver: str = "Null"
    codec: str = "STAC9700"
    has_input: bool = False


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a machine is made of, as its settings have it.

    Attributes:
        memory: MiB.
        boot: words of BOOT_DEVICES in the order in which they are tried.
        firmware: ``BIOS`` or ``EFI`` (any variant of it).
        is_local_time: the clock has the host's time zone; else UTC.
        serial: what the first serial port is connected with; None: there is none.
        audio: the sound card; None: there is none.
        usb: types of USB controllers.
        adapters: by slot, from 0; those that are switched off are not there.
        uuid: what the guest sees; empty: that of the machine.
        changed: when the state changed last, as the file has it; mostly empty.
        snapshots: folder of the snapshots; empty: the usual one.
        kept: what only VirtualBox uses, see ``kept.py``: word by name.
        not_run: what the settings ask for and the guest has to do without.
    """

    description: str = ""
    memory: int = 128
    cpus: int = 1
    acpi: bool = True
    boot: Sequence[str] = ("floppy", "dvd", "disk", "none")
    firmware: str = "BIOS"
    is_local_time: bool = False
    serial: SerialPort | None = None
    audio: Audio | None = None
    usb: Sequence[str] = ()
    controllers: Sequence[Controller] = ()
    adapters: Mapping[int, Adapter] = field(default_factory=dict)
    groups: Sequence[str] = ("/",)
    uuid: str = ""
    changed: str = ""
    snapshots: str = ""
    kept: Mapping[str, str] = field(default_factory=dict)
    not_run: Sequence[str] = ()

    def drives(self) -> list[tuple[str, Drive]]:
        """Return each drive, and the bus of its controller.

        Raises:
            SettingsError: a storage controller that rusb does not know, or an image
                that QEMU cannot use.
        """
        found = []
        for controller in self.controllers:
            bus = BUS_OF.get(controller.type)
            if bus is None:
                raise SettingsError(
                    f"storage controller {controller.name!r} is a {controller.type},"
                    f" which rusb does not support; choose one of {', '.join(BUSES)}"
                )
            for drive in controller.drives:
                if drive.problem:
                    raise SettingsError(
                        f"{drive.medium} cannot be used: {drive.problem}"
                    )
                found.append((bus, drive))
        return found


def disk_format(path: Path) -> str:
    """Return QEMU's name of the format of an image, by its extension."""
    return FORMATS.get(path.suffix.lower(), "raw")


def ports_of(bus: str) -> tuple[int, int]:
    """Return how many ports a controller of a kind has, and devices at each."""
    devices = 2 if bus == "ide" else 1
    return _PORTS[bus] // devices, devices


def place_of(bus: str, port: int, device: int) -> int:
    """Return the number of a drive on a controller.

    Raises:
        SettingsError: the controller has no such place.
    """
    ports, devices = ports_of(bus)
    if not (0 <= port < ports and 0 <= device < devices):
        raise SettingsError(
            f"there is no port {port}, device {device} on a controller for {bus}; it"
            f" has {ports} ports with {devices} device(s) each"
        )
    return port * devices + device
