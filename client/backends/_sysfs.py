"""What Linux's sysfs tells of USB devices: names, drivers, mounted file systems."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rusb.usb.text import clean_text

from ._routes import interfaces_to

__all__ = ["Sysfs", "udev_rule"]


DEFAULT_USBFS_MEMORY = 16 << 20
"""Bytes, where the kernel does not tell."""


def udev_rule(vendor_id: int, product_id: int) -> str:
    """Return the sentence that cures a missing permission."""
    return (
        "put this line into /etc/udev/rules.d/70-rusb.rules:\n"
        f'    SUBSYSTEM=="usb", ATTR{{idVendor}}=="{vendor_id:04x}",'
        f' ATTR{{idProduct}}=="{product_id:04x}", MODE="0660", GROUP="plugdev",'
        ' TAG+="uaccess"\n'
        "  then run udevadm control --reload && udevadm trigger, and plug the device in"
        " again"
    )


@dataclass(frozen=True)
class Sysfs:
    """Where to look; other places in tests.

    Attributes:
        devices: folder of the devices, ``/sys/bus/usb/devices``.
        drivers: folder of the drivers.
        mounts: list of mounts, ``/proc/self/mountinfo``.
        swaps: list of swap areas.
        nodes: folder of the device nodes.
        root: what is mounted at ``/sys``.
        routes, routes_v6: the kernel's routing tables.
    """

    devices: Path = Path("/sys/bus/usb/devices")
    drivers: Path = Path("/sys/bus/usb/drivers")
    mounts: Path = Path("/proc/self/mountinfo")
    swaps: Path = Path("/proc/swaps")
    nodes: Path = Path("/dev/bus/usb")
    root: Path = Path("/sys")
    routes: Path = Path("/proc/net/route")
    routes_v6: Path = Path("/proc/net/ipv6_route")

    def text(self, name: str, attribute: str) -> str | None:
        """Read an attribute of a device such as ``1-2``; None if there is none."""
        try:
            data = (self.devices / name / attribute).read_bytes()
        except OSError:
            return None
        return clean_text(data.rstrip(b"\n")) or None

    def driver(self, name: str, interface: int) -> str | None:
        """Return the driver that has an interface of a device, if any."""
        for path in self.devices.glob(f"{name}:*.{interface}"):
            try:
                return os.path.basename(os.readlink(path / "driver"))
            except OSError:
                return None
        return None

    def bind(self, name: str, interface: int, driver: str) -> bool:
        """Give an interface back to a driver; True if it has one afterwards."""
        for path in self.devices.glob(f"{name}:*.{interface}"):
            if self.driver(name, interface) is not None:
                return True
            try:
                (self.drivers / driver / "bind").write_text(path.name)
            except OSError:
                return False
            return True
        return False

    def node(self, bus: int, address: int) -> Path:
        """Return the device's node."""
        return self.nodes / f"{bus:03}" / f"{address:03}"

    def in_use(self, name: str) -> str | None:
        """Return what uses a disk of it (``/dev/sda1 is mounted at /media/x``), and
        what to do about that; None: nothing does."""
        blocks = dict(self._blocks(name))
        if not blocks:
            return None
        for line in _lines(self.mounts):
            words = line.split()
            if len(words) > 4 and words[2] in blocks:
                where = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), words[4])
                disk = f"/dev/{blocks[words[2]]}"
                return f"{disk} is mounted at {clean_text(where)}: unmount it first"
        for line in _lines(self.swaps):
            device = line.split()[0] if line.split() else ""
            if device.removeprefix("/dev/") in blocks.values():
                return f"{device} is a swap area: run swapoff {device} first"
        return None

    def usbfs_memory(self) -> int:
        """Return how many bytes usbfs lends to all programs; 0: no limit."""
        path = self.root / "module/usbcore/parameters/usbfs_memory_mb"
        for line in _lines(path):
            if line.strip().isdecimal():
                return int(line) << 20
        return DEFAULT_USBFS_MEMORY

    def descriptors(self, name: str) -> Iterator[bytes]:
        """Yield every descriptor that the kernel keeps of a device."""
        try:
            data = (self.devices / name / "descriptors").read_bytes()
        except OSError:
            return
        while len(data) > 1 and data[0] > 1:
            yield data[: data[0]]
            data = data[data[0] :]

    def root_disk(self, name: str) -> str | None:
        """Return the disk of this device that the root file system is on, if any."""
        for line in _lines(self.mounts):
            words = line.split()
            if len(words) < 9 or words[4] != "/":
                continue
            source = os.path.basename(os.path.realpath(words[-2]))  # Btrfs: 0:NN
            for path in ("dev/block/" + words[2], "class/block/" + source):
                for disk in self._disks(self.root / path, 8):
                    if name in disk.parts:
                        return f"/dev/{disk.name}"
        return None

    def _disks(self, path: Path, depth: int) -> Iterator[Path]:
        """Yield the disks under a block device: LVM, encryption and RAID have more."""
        try:
            found = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return
        yield found
        if depth:
            with contextlib.suppress(OSError):
                for below in sorted((found / "slaves").iterdir()):
                    yield from self._disks(below, depth - 1)

    def network(self, name: str, peer: str) -> str | None:
        """Return the network interface of this device that leads to *peer*, if any."""
        for interface in interfaces_to(peer, self.routes, self.routes_v6):
            for path in self._adapters(self.root / "class/net" / interface, 8):
                if name in path.parts:
                    return interface
        return None

    def _adapters(self, interface: Path, depth: int) -> Iterator[Path]:
        """Yield what is under an interface: a bridge and a VLAN have others."""
        with contextlib.suppress(OSError, RuntimeError):
            yield (interface / "device").resolve(strict=True)
        if depth:
            for below in sorted(interface.glob("lower_*")):
                yield from self._adapters(below, depth - 1)

    def _blocks(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield (major:minor, name) of each block device that hangs on a device."""
        for interface in self.devices.glob(f"{name}:*"):
            for root, folders, files in os.walk(interface):
                if "block" in Path(root).parts and "dev" in files:
                    for number in _lines(Path(root) / "dev"):  # unless pulled out now
                        yield number.strip(), Path(root).name
                folders[:] = [f for f in folders if f not in ("power", "queue")]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
