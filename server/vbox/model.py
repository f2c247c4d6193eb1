"""A machine's hardware, as far as a hypervisor is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rusb.errors import SettingsError

from .forwards import Forward
from .serialport import SerialPort

__all__ = [
    "NETWORK_CARDS",
    "Adapter",
    "Disk",
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

_PORTS = {"ide": 4, "sata": 6, "scsi": 7, "floppy": 2, "usb": 8, "virtio": 8}
"""Disks that a controller of a kind takes."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A medium in a drive, or an empty drive.

    Attributes:
        bus: ``ide``, ``sata``, ``scsi``, ``floppy``, ``usb`` or ``virtio``.
        port, device: where on the controller; only IDE has two devices a port.
        kind: ``hdd``, ``dvd`` or ``floppy``.
        path: the image; None: an empty drive.
    """

    bus: str
    port: int
    device: int
    kind: str
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """A network adapter.

    Attributes:
        mode: ``NAT``; empty: no cable.
        card: VirtualBox's name of the card.
        mac: twelve hexadecimal digits.
        is_linked: the cable is in.
        forwards: what the host forwards to the guest, for NAT.
    """

    mode: str = "NAT"
    card: str = "82540EM"
    mac: str = ""
    is_linked: bool = True
    forwards: tuple[Forward, ...] = ()


@dataclass(slots=True)
class Hardware:
    """What a machine is made of, as far as QEMU is told.

    Attributes:
        memory: MiB.
        boot: ``floppy``, ``dvd``, ``disk``, ``net`` in the order they are tried.
        firmware: ``BIOS`` or ``EFI`` (any variant of it).
        is_local_time: the clock has the host's time zone; else UTC.
        serial: what the first serial port is connected with; None: there is none.
        usb: types of USB controllers.
        adapters: by slot, from 0.
    """

    memory: int = 128
    cpus: int = 1
    acpi: bool = True
    boot: Sequence[str] = ("floppy", "dvd", "disk")
    firmware: str = "BIOS"
    is_local_time: bool = False
    serial: SerialPort | None = None
    usb: Sequence[str] = ()
    disks: Sequence[Disk] = ()
    adapters: Mapping[int, Adapter] = field(default_factory=dict)


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
            f"there is no port {port}, device {device} on a controller of kind {bus}:"
            f" {ports} ports with {devices} device(s) each"
        )
    return port * devices + device
