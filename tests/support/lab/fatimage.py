"""A FAT16 file system with some files, without mkfs or mounting."""

import struct

__all__ = ["fat_image"]

_SECTOR, _SECTORS_PER_CLUSTER, _ROOT_ENTRIES = 512, 8, 512
_CLUSTER = _SECTOR * _SECTORS_PER_CLUSTER
_END = 0xFFFF


def fat_image(size: int, files: dict[str, bytes]) -> bytearray:
    """Return an image without partition table.

    Args:
        size: bytes; 17 MiB to 255 MiB, so that it is FAT16.
        files: content by name, ``NAME.EXT`` in capitals; each lies in one piece.
    """
    sectors = size // _SECTOR
    fat_sectors = -(-(sectors // _SECTORS_PER_CLUSTER + 2) * 2 // _SECTOR)
    fat, root, data = [0xFFF8, _END], b"", b""
    for name, content in files.items():
        stem, _, extension = name.partition(".")
        first, count = len(fat), -(-len(content) // _CLUSTER)
        fat += [*range(first + 1, first + count), _END]
        root += f"{stem:8.8}{extension:3.3}".encode() + bytes([0x20]) + bytes(14)
        root += struct.pack("<HI", first, len(content))
        data += content.ljust(count * _CLUSTER, b"\0")
    table = struct.pack(f"<{len(fat)}H", *fat).ljust(fat_sectors * _SECTOR, b"\0")
    image = _boot_sector(sectors, fat_sectors) + table + table
    image += root.ljust(_ROOT_ENTRIES * 32, b"\0") + data
    return bytearray(image.ljust(size, b"\0"))


def _boot_sector(sectors: int, fat_sectors: int) -> bytes:
    head = b"\xeb\x3c\x90rusb lab" + struct.pack(
        "<HBHBHHBHHHII",
        _SECTOR,
        _SECTORS_PER_CLUSTER,
        1,  # reserved sectors: this one
        2,  # tables
        _ROOT_ENTRIES,
        0,  # sectors, if 16 bits can hold them
        0xF8,
        fat_sectors,
        32,  # sectors per track
        64,  # heads
        0,  # hidden sectors
        sectors,
    )
    head += bytes([0x80, 0, 0x29]) + b"rusbRUSB LAB   FAT16   "
    return head.ljust(510, b"\0") + b"\x55\xaa"
