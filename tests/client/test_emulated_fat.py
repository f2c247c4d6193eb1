"""FAT images: their layout against Microsoft's specification, files in and out."""

import os
import struct
from collections.abc import Callable
from itertools import product

import pytest

from rusb.client.backends._emulated.fat import FatVolume, make_fat_image
from rusb.errors import ParseError

MIB = 1 << 20


def volume(image: bytearray) -> FatVolume:
    def read(first: int, count: int) -> bytes:
        assert 0 < count <= 256
        return bytes(image[first * 512 : (first + count) * 512])

    def write(first: int, data: bytes) -> None:
        assert 0 < len(data) <= 256 * 512
        assert len(data) % 512 == 0
        image[first * 512 : first * 512 + len(data)] = data

    return FatVolume(read, write)


def test_a_16_mib_image_is_fat16_to_the_letter() -> None:
    image = make_fat_image(16 * MIB, {"A.TXT": b"hello"}, "My disk")
    assert len(image) == 16 * MIB
    assert image[510:512] == b"\x55\xaa"
    fields = struct.unpack_from("<HBHBHHBH", image, 11)
    assert fields == (512, 1, 1, 2, 512, 32768, 0xF8, 129)
    assert image[43:54] == b"MY DISK    "
    assert image[54:62] == b"FAT16   "
    root = (1 + 2 * 129) * 512
    assert image[root : root + 12] == b"MY DISK    \x08"
    assert image[root + 32 : root + 44] == b"A       TXT\x20"
    assert struct.unpack_from("<HI", image, root + 32 + 26) == (2, 5)
    data = root + 512 * 32
    assert image[data : data + 6] == b"hello\0"
    for table in (512, 512 + 129 * 512):
        assert struct.unpack_from("<HHHH", image, table) == (0xFFF8, 0xFFFF, 0xFFFF, 0)


@pytest.fixture(scope="module")
def fat32_image() -> bytearray:
    """Made once: it is 520 MiB, mostly never touched."""
    return make_fat_image(520 * MIB, {"A.TXT": b"hello" * 5000}, "BIG")


def test_a_large_image_is_fat32(fat32_image: bytearray) -> None:
    image = fat32_image
    assert struct.unpack_from("<HBHBHH", image, 11) == (512, 8, 32, 2, 0, 0)
    assert struct.unpack_from("<I", image, 32) == (520 * 2048,)
    assert struct.unpack_from("<4xIHH", image, 40) == (2, 1, 6)
    assert image[82:90] == b"FAT32   "
    assert image[6 * 512 : 8 * 512] == image[: 2 * 512]  # the backup
    assert image[512:516] == b"RRaA"
    assert image[996:1000] == b"rrAa"
    assert image[1000:1008] == b"\xff" * 8  # free clusters unknown
    assert image[1022:1024] == b"\x55\xaa"


def test_files_go_in_and_out_of_fat32(fat32_image: bytearray) -> None:
    files = volume(fat32_image)
    assert files.read_file("A.TXT") == b"hello" * 5000
    fat32_image[1000:1004] = bytes(4)
    data = os.urandom(100_000)
    files.write_file("B.BIN", data)
    assert volume(fat32_image).read_file("B.BIN") == data
    assert volume(fat32_image).names() == ["A.TXT", "B.BIN"]
    assert fat32_image[1000:1004] == b"\xff" * 4


@pytest.mark.parametrize(
    ("size", "length"),
    [
        *product((4 * MIB, 5 * MIB + 512), (0, 1, 512, 2049, 1_000_000)),
        *((33 * MIB, 1_000_000), (130 * MIB, 2049)),  # larger clusters
    ],
)
def test_files_come_out_as_they_went_in(size: int, length: int) -> None:
    data = os.urandom(length)
    image = make_fat_image(size, {"X": data, "Y.Z": b"after"}, "")
    assert volume(image).names() == ["X", "Y.Z"]
    assert volume(image).read_file("x") == data
    assert volume(image).read_file("y.z") == b"after"


def test_both_tables_are_the_same_after_writing() -> None:
    image = make_fat_image(4 * MIB, {}, "T")
    files = volume(image)
    for number in range(20):
        files.write_file(f"F{number}", bytes(number * 700))
    (size,) = struct.unpack_from("<H", image, 22)
    first, second = 512, 512 + size * 512
    assert image[first:second] == image[second : second + size * 512]


def test_a_file_can_be_replaced_and_its_room_is_used_again() -> None:
    image = make_fat_image(4 * MIB, {"A": b"old" * 1000, "B": b"other"}, "T")
    files = volume(image)
    for length in (5, 100_000, 0, 1_900_000, 1_900_000, 700):
        data = os.urandom(length)
        files.write_file("a", data)
        assert volume(image).read_file("A") == data
    assert volume(image).names() == ["A", "B"]
    assert volume(image).read_file("B") == b"other"


def test_a_fragmented_file_is_read_in_order() -> None:
    image = make_fat_image(4 * MIB, {}, "T")
    files = volume(image)
    for number in range(40):
        files.write_file(f"F{number}", bytes(1500))
    for number in range(0, 40, 2):
        files.write_file(f"F{number}", b"")
    data = os.urandom(100_000)
    files.write_file("LAST", data)
    assert volume(image).read_file("LAST") == data


def test_a_file_that_does_not_fit_changes_nothing() -> None:
    image = make_fat_image(4 * MIB, {"A": b"x" * 10_000}, "T")
    files = volume(image)
    before = bytes(image)
    with pytest.raises(OSError, match="full"):
        files.write_file("A", bytes(5 * MIB))
    assert image == before
    files.write_file("B", b"y")
    assert volume(image).read_file("A") == b"x" * 10_000


def test_the_root_directory_can_be_full() -> None:
    files = volume(make_fat_image(4 * MIB, {str(n): b"" for n in range(511)}, "T"))
    with pytest.raises(OSError, match="directory is full"):
        files.write_file("MORE", b"")


def test_missing_files_and_impossible_names_are_refused() -> None:
    files = volume(make_fat_image(4 * MIB, {}, "T"))
    with pytest.raises(FileNotFoundError):
        files.read_file("NOTHING.TXT")
    for name in ("", ".TXT", "NINECHARS", "A.LONG", "A B", "A.B.C", "Ä", "a/b"):
        with pytest.raises(ValueError, match=r"8\.3"):
            files.write_file(name, b"")


@pytest.mark.parametrize(
    ("size", "label"), [(MIB, ""), (4 * MIB + 1, ""), (4 * MIB, "x" * 12)]
)
def test_impossible_images_are_refused(size: int, label: str) -> None:
    with pytest.raises(ValueError, match="FAT image|volume label"):
        make_fat_image(size, {}, label)


def long_entries(name: str, short: bytes) -> bytes:
    """Directory entries of a long name, as the FAT specification, 7, has them."""
    checksum = 0
    for byte in short:
        checksum = ((checksum >> 1) | ((checksum & 1) << 7)) + byte & 0xFF
    raw = name.encode("utf-16-le") + b"\0\0"
    raw = raw.ljust(-(-len(raw) // 26) * 26, b"\xff")
    pieces = [raw[i : i + 26] for i in range(0, len(raw), 26)]
    out = b""
    for number, piece in reversed(list(enumerate(pieces, 1))):
        last = 0x40 if number == len(pieces) else 0
        out += bytes((number | last,)) + piece[:10] + b"\x0f\0" + bytes((checksum,))
        out += piece[10:22] + b"\0\0" + piece[22:]
    return out


def with_entries(entries: bytes) -> bytearray:
    image = make_fat_image(4 * MIB, {"OTHER": b"first cluster"}, "T")
    (fat,) = struct.unpack_from("<H", image, 22)
    start = (1 + 2 * fat) * 512 + 64
    image[start : start + len(entries)] = entries
    return image


SHORT = b"THEQUI~1FOX"
ENTRY = SHORT + b"\x20" + bytes(14) + struct.pack("<HI", 2, 5)


def test_long_names_are_read_and_kept() -> None:
    name = "The quick brown.fox"  # the example of the specification
    image = with_entries(long_entries(name, SHORT) + ENTRY)
    files = volume(image)
    assert files.names() == ["OTHER", name]
    assert files.read_file("the quick BROWN.fox") == b"first"
    assert files.read_file("THEQUI~1.FOX") == b"first"
    files.write_file(name, b"new")
    assert volume(image).names() == ["OTHER", name]
    assert volume(image).read_file(name) == b"new"


def test_a_long_name_of_another_file_is_ignored() -> None:
    image = with_entries(long_entries("Some other name", b"X" * 11) + ENTRY)
    assert volume(image).names() == ["OTHER", "THEQUI~1.FOX"]


def test_deleted_files_directories_and_labels_are_not_files() -> None:
    deleted = b"\xe5" + ENTRY[1:]
    directory = ENTRY[:11] + b"\x10" + ENTRY[12:]
    image = with_entries(long_entries("gone", SHORT) + deleted + directory + ENTRY)
    assert volume(image).names() == ["OTHER", "THEQUI~1.FOX"]
    volume(image).write_file("NEW", b"1")
    assert volume(image).names() == ["OTHER", "NEW", "THEQUI~1.FOX"]


def test_a_looping_cluster_chain_is_an_error() -> None:
    image = make_fat_image(4 * MIB, {"A": bytes(2000)}, "T")
    struct.pack_into("<H", image, 512 + 3 * 2, 2)
    with pytest.raises(ParseError, match="broken cluster chain"):
        volume(image).read_file("A")


def test_a_chain_into_nowhere_or_too_short_is_an_error() -> None:
    image = make_fat_image(4 * MIB, {"A": bytes(2000)}, "T")
    struct.pack_into("<H", image, 512 + 3 * 2, 0xFFF0)
    with pytest.raises(ParseError, match="broken cluster chain"):
        volume(image).read_file("A")
    struct.pack_into("<H", image, 512 + 3 * 2, 0xFFFF)
    with pytest.raises(ParseError, match="2000 bytes"):
        volume(image).read_file("A")


@pytest.mark.parametrize(
    "damage",
    [
        lambda image: image.__setitem__(slice(510, 512), b"\0\0"),
        lambda image: image.__setitem__(slice(11, 13), b"\x00\x10"),
        lambda image: image.__setitem__(13, 0),
        lambda image: image.__setitem__(13, 3),
        lambda image: image.__setitem__(13, 128),
        lambda image: image.__setitem__(slice(14, 16), b"\0\0"),
        lambda image: image.__setitem__(16, 9),
        lambda image: image.__setitem__(slice(19, 21), b"\0\0"),
        lambda image: image.__setitem__(slice(22, 24), b"\x01\0"),
        lambda image: image.__setitem__(slice(22, 24), b"\0\0"),
        lambda image: image.__setitem__(slice(0, 512), bytes(512)),
    ],
)
def test_a_broken_boot_sector_is_refused(
    damage: Callable[[bytearray], None],
) -> None:
    image = make_fat_image(4 * MIB, {}, "T")
    damage(image)
    with pytest.raises(ParseError, match="FAT volume"):
        volume(image)


def test_no_more_of_a_table_is_read_than_there_are_clusters() -> None:
    """The disk may be somebody else's: a table of 0.5 TiB, for 65,000 clusters."""
    boot = bytearray(make_fat_image(4 * MIB, {}, "X")[:512])
    size, clusters = 1 << 30, 65_000
    total = 32 + size + clusters
    boot[13:17] = struct.pack("<BHB", 1, 32, 1)  # sectors of a cluster, reserved; one
    boot[17:24] = bytes(4) + b"\xf8" + bytes(2)
    boot[32:52] = struct.pack("<IIHHIHH", total, size, 0, 0, 2, 0, 0)
    limit = 1 + -(-(clusters + 2) * 4 // 512)
    asked = 0

    def read(first: int, count: int) -> bytes:
        nonlocal asked
        asked += count
        assert asked <= limit
        return bytes(boot) if not first else bytes(count * 512)

    FatVolume(read, lambda first, data: None)
