"""The guest's program of ``rusb demo``: plain pyusb, a disk driver and FAT.

Nothing here knows of rusb's network: it runs as it is on any machine with pyusb and a
USB flash drive. ``_demo_guest.py WAIT READ WRITE``: wait up to WAIT seconds for a mass
storage device, print what it is, read file READ and print its SHA-256, write file
WRITE and read it back.
"""

import hashlib
import struct
import sys
import time
from typing import Any

import usb.core
import usb.util

from rusb.client.backends._emulated.fat import FatVolume

SECTOR = 512
SECTORS_AT_ONCE = 128
TIMEOUT_MS = 10_000


class Disk:
    """A bulk-only mass storage device (USB Mass Storage Class, Bulk-Only 1.0)."""

    def __init__(self, device: Any) -> None:
        self._device = device
        device.set_configuration()
        interface = device.get_active_configuration()[(0, 0)]
        ends = {usb.util.endpoint_direction(e.bEndpointAddress): e for e in interface}
        self._in, self._out = ends[usb.util.ENDPOINT_IN], ends[usb.util.ENDPOINT_OUT]
        self._tag = 0
        self.bytes_moved = 0

    def command(self, cdb: bytes, length: int, data: bytes = b"") -> bytes:
        """Run a SCSI command; *length* bytes come in, or *data* goes out."""
        self._tag += 1
        is_in = not data
        self._out.write(
            struct.pack(
                "<4sIIBBB16s",
                b"USBC",
                self._tag,
                length or len(data),
                0x80 if is_in else 0,
                0,
                len(cdb),
                cdb,
            )
        )
        answer = b""
        if data:
            self._out.write(data, TIMEOUT_MS)
        elif length:
            answer = bytes(self._in.read(length, TIMEOUT_MS))
        signature, tag, _, status = struct.unpack("<4sIIB", bytes(self._in.read(13)))
        if (signature, tag, status) != (b"USBS", self._tag, 0):
            raise OSError(f"SCSI command {cdb[0]:#04x} failed with status {status}")
        self.bytes_moved += len(data) + len(answer)
        return answer

    def capacity(self) -> int:
        """Return the number of sectors (READ CAPACITY)."""
        last, size = struct.unpack(">II", self.command(bytes((0x25,)) + bytes(9), 8))
        if size != SECTOR:
            raise OSError(f"sectors of {size} bytes")
        return int(last) + 1

    def read(self, first: int, count: int) -> bytes:
        """Read sectors (READ(10))."""
        pieces = []
        for start in range(first, first + count, SECTORS_AT_ONCE):
            some = min(SECTORS_AT_ONCE, first + count - start)
            cdb = struct.pack(">BBIBHB", 0x28, 0, start, 0, some, 0)
            pieces.append(self.command(cdb, some * SECTOR))
        return b"".join(pieces)

    def write(self, first: int, data: bytes) -> None:
        """Write sectors (WRITE(10))."""
        step = SECTORS_AT_ONCE * SECTOR
        for offset in range(0, len(data), step):
            piece = data[offset : offset + step]
            start = first + offset // SECTOR
            count = len(piece) // SECTOR
            self.command(struct.pack(">BBIBHB", 0x2A, 0, start, 0, count, 0), 0, piece)


def find_disk(seconds: float) -> Any:
    """Wait for a device with a mass storage interface."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for device in usb.core.find(find_all=True):
            for configuration in device:
                if any(i.bInterfaceClass == 8 for i in configuration):
                    return device
        time.sleep(0.1)
    raise SystemExit("no flash drive appeared")


def main(seconds: str, read_name: str, write_name: str) -> None:
    """Do what the module says."""
    everything = list(usb.core.find(find_all=True))
    device = find_disk(float(seconds))
    print(
        f"sees {device.idVendor:04x}:{device.idProduct:04x}"
        f" {device.manufacturer} {device.product} {device.serial_number}"
    )
    keyboards = [d for d in everything if d.idProduct != device.idProduct]
    print(f"sees {len(keyboards)} other devices")
    disk = Disk(device)
    print(f"reads a capacity of {disk.capacity() * SECTOR / 1e6:.1f} MB")
    start = time.monotonic()
    volume = FatVolume(disk.read, disk.write)
    print(f"mounts it; files: {', '.join(volume.names())}")
    found = volume.read_file(read_name)
    print(f"reads {read_name}: {len(found)} bytes, {digest(found)}")
    if write_name not in volume.names():
        text = f"written by the guest, {digest(found)}\n".encode() * 2000
        volume.write_file(write_name, text)
        print(f"writes {write_name}: {len(text)} bytes, {digest(text)}")
    again = FatVolume(disk.read, disk.write).read_file(write_name)
    print(f"reads {write_name}: {len(again)} bytes, {digest(again)}")
    elapsed = time.monotonic() - start
    print(f"moved {disk.bytes_moved / 1e6:.1f} MB at", end=" ")
    print(f"{disk.bytes_moved / elapsed / 1e6:.1f} MB/s")
    usb.util.dispose_resources(device)


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    main(*sys.argv[1:])
