"""FAT16 and FAT32: make an image with files in it; read and write a root directory.

The images have no partition table (*superfloppy*): Linux mounts the whole disk
(``/dev/sda``), and so does Windows, as the drive says that it is removable. Layout as
in Microsoft's FAT specification 1.03. Numbers are little-endian.
"""

import errno
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self

from rusb.errors import ParseError

__all__ = ["FatVolume", "make_fat_image"]

SECTOR: Final = 512
ROOT_ENTRIES: Final = 512
MIN_SIZE: Final = 4 << 20
MAX_FAT16_SIZE: Final = 512 << 20
MAX_SIZE: Final = 8 << 30

MAX_READ: Final = 256
"""Sectors of one read or write."""

_COMMON = struct.Struct("<3s8sHBHBHHBHHHII")  # of the boot sector, up to offset 36
_ENTRY = struct.Struct("<11sB8xHHHHI")  # of a directory

_LABEL, _ARCHIVE, _LONG_NAME = 0x08, 0x20, 0x0F
_DATE = 46 << 9 | 1 << 5 | 1  # 2026-01-01
_NAME_CHARS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'()-@^_`{}~")
_FAT32_RESERVED, _FAT32_INFO, _FAT32_BACKUP = 32, 1, 6


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where everything is; in sectors unless the name says otherwise."""

    is_fat32: bool
    cluster: int
    reserved: int
    fats: int
    fat_size: int
    root_size: int  # 0 for FAT32, whose root is a chain
    root_cluster: int
    total: int
    info: int  # 0: there is no information sector

    @property
    def root(self) -> int:
        return self.reserved + self.fats * self.fat_size

    @property
    def data(self) -> int:
        return self.root + self.root_size

    @property
    def clusters(self) -> int:
        """Number of clusters; the first has number 2."""
        return (self.total - self.data) // self.cluster

    @classmethod
    def plan(cls, size: int) -> Self:
        """Lay out a new volume of *size* bytes."""
        total = size // SECTOR
        is_fat32 = size > MAX_FAT16_SIZE
        width, most = (4, 1 << 28) if is_fat32 else (2, 65524)
        reserved = _FAT32_RESERVED if is_fat32 else 1
        root_size = 0 if is_fat32 else ROOT_ENTRIES * 32 // SECTOR
        cluster = 8 if is_fat32 else 1
        while total // cluster > most:
            cluster *= 2
        fat_size = -(-(total // cluster + 2) * width // SECTOR)
        root_cluster, info = (2, _FAT32_INFO) if is_fat32 else (0, 0)
        return cls(
            *(is_fat32, cluster, reserved, 2, fat_size, root_size),
            *(root_cluster, total, info),
        )

    @classmethod
    def parse(cls, boot: bytes) -> Self:
        """Read it from a boot sector.

        Raises:
            ParseError: it is not that of a FAT16 or FAT32 volume we can use.
        """
        fields = _COMMON.unpack_from(boot)
        sector, cluster, reserved, fats, entries, small, _, fat_size = fields[2:10]
        total, root_cluster, info = small or fields[13], 0, 0
        if not fat_size:
            fat_size, root_cluster, info = struct.unpack_from("<I4xIH", boot, 36)
            info = info if info < reserved else 0
        ok = boot[510:512] == b"\x55\xaa" and sector == SECTOR and fats in (1, 2)
        if not ok or not cluster or cluster & cluster - 1 or not reserved:
            raise ParseError("not the boot sector of a FAT volume")
        found = cls(
            root_cluster > 0,
            cluster,
            reserved,
            fats,
            fat_size,
            -(-entries * 32 // SECTOR),
            root_cluster,
            total,
            info,
        )
        width = 4 if found.is_fat32 else 2
        if (
            not 4085
            <= found.clusters
            <= min(fat_size * SECTOR // width - 2, MAX_SIZE // SECTOR)
        ):
            raise ParseError(f"FAT volume with {found.clusters} clusters")
        return found

    def boot_sector(self, label: bytes) -> bytes:
        """Return the boot sector of a new volume."""
        is_small = self.total < 0x10000 and not self.is_fat32
        jump = b"\xeb\x58\x90" if self.is_fat32 else b"\xeb\x3c\x90"
        common = _COMMON.pack(
            jump,
            b"rusb    ",
            SECTOR,
            self.cluster,
            self.reserved,
            self.fats,
            self.root_size * SECTOR // 32,
            self.total if is_small else 0,
            0xF8,  # medium: a disk
            0 if self.is_fat32 else self.fat_size,
            63,  # sectors per track
            255,  # heads
            0,  # hidden sectors
            0 if is_small else self.total,
        )
        if self.is_fat32:
            more = (self.fat_size, 0, 0, self.root_cluster, _FAT32_INFO, _FAT32_BACKUP)
            common += struct.pack("<IHHIHH12x", *more)
        name = b"FAT32   " if self.is_fat32 else b"FAT16   "
        serial = 0x52555342
        common += struct.pack("<BxBI11s8s", 0x80, 0x29, serial, label, name)
        return common.ljust(510, b"\0") + b"\x55\xaa"


def make_fat_image(size: int, files: Mapping[str, bytes], label: str) -> bytearray:
    """Return an image of a FAT16, above 512 MiB FAT32, volume.

    Args:
        size: bytes, 4 MiB to 8 GiB, a multiple of 512.
        files: contents by 8.3 name, for the root directory.
        label: the volume's name, at most 11 characters of 8.3 names and blanks.

    Raises:
        ValueError: size, label or a name are not possible.
        OSError: the files do not fit.
    """
    if not MIN_SIZE <= size <= MAX_SIZE or size % SECTOR:
        raise ValueError(f"FAT image of {size} bytes")
    name = label.upper().encode("ascii", "replace").ljust(11)
    if len(name) > 11 or not set(name) <= _NAME_CHARS | {0x20}:
        raise ValueError(f"volume label {label!r}")
    layout = _Layout.plan(size)
    image = bytearray(size)
    boot = layout.boot_sector(name)
    image[:SECTOR] = boot
    if layout.is_fat32:
        info = struct.pack(
            "<I480xIII12xI", 0x41615252, 0x61417272, *[0xFFFFFFFF] * 2, 0
        )
        info = info[:508] + b"\0\0\x55\xaa"
        for start in (0, _FAT32_BACKUP * SECTOR):
            image[start : start + 2 * SECTOR] = boot + info
        head = struct.pack("<III", 0x0FFFFFF8, 0x0FFFFFFF, 0x0FFFFFFF)
    else:
        head = struct.pack("<HH", 0xFFF8, 0xFFFF)
    for copy in range(layout.fats):
        start = (layout.reserved + copy * layout.fat_size) * SECTOR
        image[start : start + len(head)] = head
    entry = _ENTRY.pack(name, _LABEL, 0, 0, _DATE, 0, 0)
    start = layout.root * SECTOR  # FAT32: the first cluster lies there as well
    image[start : start + len(entry)] = entry

    def read(first: int, count: int) -> bytes:
        return bytes(image[first * SECTOR : (first + count) * SECTOR])

    def write(first: int, data: bytes) -> None:
        image[first * SECTOR : first * SECTOR + len(data)] = data

    volume = FatVolume(read, write)
    for file_name, content in files.items():
        volume.write_file(file_name, content)
    return image


@dataclass(frozen=True, slots=True)
class _File:
    """A directory entry: its index in the root directory and what it says."""

    index: int
    name: str
    short: bytes
    attributes: int
    cluster: int
    size: int


class FatVolume:
    """The root directory of a FAT16 or FAT32 volume without partition table.

    What it read it keeps: while it is in use nobody else may write.

    Args:
        read: returns *count* sectors of 512 bytes from sector *first* on.
        write: writes whole sectors from sector *first* on.

    Raises:
        ParseError: sector 0 is not that of such a volume.
    """

    def __init__(
        self, read: Callable[[int, int], bytes], write: Callable[[int, bytes], None]
    ) -> None:
        self._read = read
        self._write = write
        self._layout = layout = _Layout.parse(read(0, 1))
        self._entry = struct.Struct("<I" if layout.is_fat32 else "<H")
        self._end = 0x0FFFFFF8 if layout.is_fat32 else 0xFFF8
        entries = (layout.clusters + 2) * self._entry.size  # a table may be longer
        size = -(-entries // SECTOR)
        self._fat = bytearray(self._read_run(layout.reserved, size))
        self._dirty: set[int] = set()

    def names(self) -> list[str]:
        """Return the names of the files, long ones where they have one."""
        return [file.name for file in self._files()]

    def read_file(self, name: str) -> bytes:
        """Return the content of a file; upper and lower case are the same.

        Raises:
            FileNotFoundError: there is no such file.
            ParseError: its cluster chain is broken.
        """
        file = self._find(name)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, "no such file on the volume", name)
        runs = self._runs(self._chain(file.cluster))
        data = b"".join(self._read_run(*run) for run in runs)
        if len(data) < file.size:
            raise ParseError(f"{name}: {file.size} bytes, clusters for {len(data)}")
        return data[: file.size]

    def write_file(self, name: str, data: bytes) -> None:
        """Create a file, or replace its content; both need room for a moment.

        Args:
            name: an 8.3 name, or any name that is there already.

        Raises:
            ValueError: not an 8.3 name.
            OSError: no room for it.
        """
        old = self._find(name)
        short = old.short if old else _short_name(name)
        index = old.index if old else self._free_entry()
        freed = self._chain(old.cluster) if old else []
        size = self._layout.cluster * SECTOR
        clusters = self._allocate(-(-len(data) // size))
        offset = 0
        for first, count in self._runs(clusters):
            piece = data[offset : offset + count * SECTOR].ljust(count * SECTOR, b"\0")
            offset += len(piece)
            for start in range(0, count, MAX_READ):
                part = piece[start * SECTOR : (start + MAX_READ) * SECTOR]
                self._write(first + start, part)
        for cluster in freed:
            self._set(cluster, 0)
        self._write_fat()
        start_cluster = clusters[0] if clusters else 0
        entry = _ENTRY.pack(
            short,
            _ARCHIVE,
            start_cluster >> 16,
            0,
            _DATE,
            start_cluster & 0xFFFF,
            len(data),
        )
        self._write_entry(index, entry)

    # ------------------------------------------------------------ directory ----

    def _root_sectors(self) -> list[int]:
        layout = self._layout
        if not layout.is_fat32:
            return list(range(layout.root, layout.data))
        runs = self._runs(self._chain(layout.root_cluster))
        return [s for first, count in runs for s in range(first, first + count)]

    def _entries(self) -> Iterator[bytes]:
        for sector in self._root_sectors():
            data = self._read(sector, 1)
            for offset in range(0, SECTOR, 32):
                yield data[offset : offset + 32]

    def _files(self) -> Iterator[_File]:
        long_name: dict[int, bytes] = {}
        checksum = 0
        for index, entry in enumerate(self._entries()):
            if not entry[0]:
                return
            if entry[0] == 0xE5:  # deleted
                long_name.clear()
                continue
            short, attributes, high, _, _, low, size = _ENTRY.unpack(entry)
            if attributes & 0x3F == _LONG_NAME:
                if entry[0] & 0x40:
                    long_name.clear()
                long_name[entry[0] & 0x3F] = entry[1:11] + entry[14:26] + entry[28:32]
                checksum = entry[13]
                continue
            if not attributes & (_LABEL | 0x10):  # nor a directory
                is_ours = bool(long_name) and checksum == _checksum(short)
                name = _join(long_name) if is_ours else _show(short)
                cluster = (high << 16 if self._layout.is_fat32 else 0) | low
                yield _File(index, name, short, attributes, cluster, size)
            long_name.clear()

    def _find(self, name: str) -> _File | None:
        for file in self._files():
            if name.upper() in (file.name.upper(), _show(file.short)):
                return file
        return None

    def _free_entry(self) -> int:
        for index, entry in enumerate(self._entries()):
            if entry[0] in (0, 0xE5):
                return index
        raise OSError(errno.ENOSPC, "the root directory is full")

    def _write_entry(self, index: int, entry: bytes) -> None:
        sector = self._root_sectors()[index * 32 // SECTOR]
        data = bytearray(self._read(sector, 1))
        offset = index * 32 % SECTOR
        data[offset : offset + 32] = entry
        self._write(sector, bytes(data))

    # ------------------------------------------------------------- clusters ----

    def _next(self, cluster: int) -> int:
        value: int = self._entry.unpack_from(self._fat, cluster * self._entry.size)[0]
        return value & 0x0FFFFFFF

    def _set(self, cluster: int, value: int) -> None:
        offset = cluster * self._entry.size
        self._entry.pack_into(self._fat, offset, value)
        self._dirty.add(offset // SECTOR)

    def _chain(self, cluster: int) -> list[int]:
        """Return the clusters of a file; a cluster of 0 means none."""
        chain: list[int] = []
        last = self._layout.clusters + 1
        while cluster and cluster < self._end:
            if not 2 <= cluster <= last or len(chain) > last:
                raise ParseError(f"broken cluster chain at {cluster}")
            chain.append(cluster)
            cluster = self._next(cluster)
        return chain

    def _allocate(self, count: int) -> list[int]:
        """Chain *count* free clusters together."""
        chain: list[int] = []
        for cluster in range(2, self._layout.clusters + 2):
            if len(chain) == count:
                break
            if not self._next(cluster):
                chain.append(cluster)
        if len(chain) < count:
            raise OSError(errno.ENOSPC, "the volume is full")
        for cluster, following in zip(chain, [*chain[1:], self._end | 7], strict=False):
            self._set(cluster, following)
        return chain

    def _runs(self, clusters: list[int]) -> Iterator[tuple[int, int]]:
        """Yield first sector and number of sectors of what lies together."""
        layout = self._layout
        start = 0
        for i in range(1, len(clusters) + 1):
            if i == len(clusters) or clusters[i] != clusters[i - 1] + 1:
                first = layout.data + (clusters[start] - 2) * layout.cluster
                yield first, (i - start) * layout.cluster
                start = i

    def _read_run(self, first: int, count: int) -> bytes:
        ends = range(0, count, MAX_READ)
        return b"".join(self._read(first + s, min(MAX_READ, count - s)) for s in ends)

    def _write_fat(self) -> None:
        """Write the changed sectors, in every copy of the table."""
        layout = self._layout
        for sector in sorted(self._dirty):
            data = bytes(self._fat[sector * SECTOR : (sector + 1) * SECTOR])
            for copy in range(layout.fats):
                self._write(layout.reserved + copy * layout.fat_size + sector, data)
        if self._dirty and layout.info:
            # what it says of free clusters is not known any more
            info = bytearray(self._read(layout.info, 1))
            info[488:496] = b"\xff" * 8
            self._write(layout.info, bytes(info))
        self._dirty.clear()


def _short_name(name: str) -> bytes:
    """Return the 11 bytes of an 8.3 name."""
    stem, _, extension = name.upper().partition(".")
    raw = stem.encode("ascii", "replace"), extension.encode("ascii", "replace")
    is_ok = 1 <= len(raw[0]) <= 8 and len(raw[1]) <= 3
    if not is_ok or not set(raw[0] + raw[1]) <= _NAME_CHARS:
        raise ValueError(f"{name!r} is not an 8.3 name")
    return raw[0].ljust(8) + raw[1].ljust(3)


def _show(short: bytes) -> str:
    """Return an 8.3 name as text."""
    if short[0] == 0x05:
        short = b"\xe5" + short[1:]
    stem, extension = short[:8].rstrip(), short[8:].rstrip()
    return (stem + b"." * bool(extension) + extension).decode("cp437")


def _checksum(short: bytes) -> int:
    """Return what ties a long name to its 8.3 name."""
    total = 0
    for byte in short:
        total = ((total & 1) << 7 | total >> 1) + byte & 0xFF
    return total


def _join(pieces: dict[int, bytes]) -> str:
    """Put a long name together."""
    raw = b"".join(pieces[n] for n in sorted(pieces))
    return raw.decode("utf-16-le", "replace").partition("\0")[0]
