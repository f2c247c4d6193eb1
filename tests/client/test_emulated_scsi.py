"""The SCSI commands of a flash drive, without USB."""

import struct
from pathlib import Path

import pytest

from rusb.client.backends._emulated.scsi import ScsiDisk, Transfer
from rusb.client.backends._emulated.storage import FileStorage, MemoryStorage
from rusb.errors import BackendError
from rusb.usb.types import Direction

SERIAL = "525553420001"
BLOCKS = 64


def disk(*, is_protected: bool = False) -> ScsiDisk:
    content = b"".join(bytes((n,)) * 512 for n in range(BLOCKS))
    storage = MemoryStorage(bytearray(content))
    return ScsiDisk(storage, serial=SERIAL, is_protected=is_protected)


def ask(disk: ScsiDisk, text: str) -> bytes:
    """Run a command that answers with data."""
    transfer = disk.execute(bytes.fromhex(text))
    assert transfer.is_good
    data = b""
    while transfer.left:
        data += transfer.take(1000)
    return data


def sense(disk: ScsiDisk) -> tuple[int, int, int]:
    data = ask(disk, "03 00 00 00 12 00")
    assert len(data) == 18
    assert (data[0], data[7]) == (0x70, 10)
    return data[2], data[12], data[13]


def refuse(disk: ScsiDisk, text: str) -> tuple[int, int, int]:
    """Run a command that fails and moves nothing; return why."""
    transfer = disk.execute(bytes.fromhex(text))
    assert not transfer.is_good
    assert transfer.direction is None
    found = sense(disk)
    assert sense(disk) == (0, 0, 0)
    return found


def send(disk: ScsiDisk, text: str, data: bytes) -> Transfer:
    transfer = disk.execute(bytes.fromhex(text))
    assert (transfer.direction, transfer.left) == (Direction.OUT, len(data))
    transfer.put(data)
    assert transfer.left == 0
    return transfer


def test_inquiry_says_what_it_is() -> None:
    data = ask(disk(), "12 00 00 00 24 00")
    assert data[:8].hex() == "008004021f000000"  # SPC-2: disk, removable
    assert data[8:] == b"rusb    Flash Drive     1.00"
    assert ask(disk(), "12 00 00 00 05 00") == data[:5]
    assert ask(disk(), "12 00 00 01 00 00") == data


@pytest.mark.parametrize(
    ("page", "data"),
    [
        ("00", b"\x00\x00\x00\x03\x00\x80\x83"),
        ("80", b"\x00\x80\x00\x0c" + SERIAL.encode()),
        (
            "83",
            b"\x00\x83\x00\x28\x02\x01\x00\x24rusb    Flash Drive     "
            + SERIAL.encode(),
        ),
    ],
)
def test_vital_product_data(page: str, data: bytes) -> None:
    assert ask(disk(), f"12 01 {page} 00 ff 00") == data


def test_pages_that_are_not_there_are_invalid_fields() -> None:
    assert refuse(disk(), "12 01 b0 00 ff 00") == (5, 0x24, 0)
    assert refuse(disk(), "12 00 80 00 ff 00") == (5, 0x24, 0)
    assert refuse(disk(), "1a 00 0a 00 ff 00") == (5, 0x24, 0)
    assert refuse(disk(), "1a 00 ff 00 ff 00") == (5, 0x39, 0)
    assert refuse(disk(), "9e 11 00 00 00 00 00 00 00 00 00 00 00 20 00 00") == (
        (5, 0x24, 0)
    )


def test_capacities() -> None:
    assert ask(disk(), "25" + "00" * 9) == struct.pack(">II", BLOCKS - 1, 512)
    long = ask(disk(), "9e 10" + "00" * 8 + "00 00 00 20 00 00")
    assert long == struct.pack(">QI20x", BLOCKS - 1, 512)
    assert ask(disk(), "23 00 00 00 00 00 00 00 fc 00") == struct.pack(
        ">3xBII", 8, BLOCKS, 2 << 24 | 512
    )
    assert ask(disk(), "a0 00 00 00 00 00 00 00 00 10 00 00").hex() == (
        "00000008" + "00" * 12
    )


def test_mode_sense_tells_of_protection_and_cache() -> None:
    short = ask(disk(), "1a 00 3f 00 c0 00")
    assert short[0] == len(short) - 1
    assert short[1:4] == b"\x00\x00\x08"
    assert struct.unpack_from(">II", short, 4) == (BLOCKS, 512)
    assert short[12:15] == b"\x08\x12\x04"  # caching page: write cache enabled
    assert ask(disk(is_protected=True), "1a 08 08 00 c0 00")[2] == 0x80
    long = ask(disk(), "5a 00 3f 00 00 00 00 00 c0 00")
    assert int.from_bytes(long[:2], "big") == len(long) - 2
    assert long[16:] == short[12:]
    changeable = ask(disk(), "1a 08 48 00 c0 00")
    assert changeable[4:] == b"\x08\x12" + bytes(18)


@pytest.mark.parametrize(
    "command",
    [
        "08 00 00 03 02 00",
        "28 00 00 00 00 03 00 00 02 00",
        "a8 00 00 00 00 03 00 00 00 02 00 00",
        "88 00 00 00 00 00 00 00 00 03 00 00 00 02 00 00",
    ],
)
def test_each_read_command_reads(command: str) -> None:
    assert ask(disk(), command) == b"\x03" * 512 + b"\x04" * 512


@pytest.mark.parametrize(
    "command",
    [
        "0a 00 00 03 02 00",
        "2a 00 00 00 00 03 00 00 02 00",
        "aa 00 00 00 00 03 00 00 00 02 00 00",
        "8a 00 00 00 00 00 00 00 00 03 00 00 00 02 00 00",
    ],
)
def test_each_write_command_writes(command: str) -> None:
    changed = disk()
    assert send(changed, command, b"x" * 1024).is_good
    around = ask(changed, "28 00 00 00 00 02 00 00 04 00")
    assert around == b"\x02" * 512 + b"x" * 1024 + b"\x05" * 512


def test_no_blocks_is_nothing_but_256_in_the_shortest_form() -> None:
    nothing = disk().execute(bytes.fromhex("28 00 00 00 00 00 00 00 00 00"))
    assert (nothing.is_good, nothing.direction, nothing.left) == (True, None, 0)
    large = ScsiDisk(MemoryStorage(bytearray(512 * 300)))
    assert len(ask(large, "08 00 00 00 00 00")) == 256 * 512


@pytest.mark.parametrize(
    "command",
    [
        "28 00 00 00 00 40 00 00 01 00",
        "28 00 00 00 00 3f 00 00 02 00",
        "2a 00 ff ff ff ff 00 ff ff 00",
        "2f 00 00 00 00 40 00 00 01 00",
        "88 00 ff ff ff ff ff ff ff ff ff ff ff ff 00 00",
    ],
)
def test_blocks_beyond_the_end_are_refused(command: str) -> None:
    assert refuse(disk(), command) == (5, 0x21, 0)


def test_a_protected_disk_refuses_writes_only() -> None:
    protected = disk(is_protected=True)
    assert refuse(protected, "2a 00 00 00 00 00 00 00 01 00") == (7, 0x27, 0)
    assert ask(protected, "28 00 00 00 00 01 00 00 01 00") == b"\x01" * 512


def test_verify_compares_what_the_host_sends() -> None:
    checked = disk()
    plain = checked.execute(bytes.fromhex("2f 00 00 00 00 03 00 00 01 00"))
    assert (plain.is_good, plain.direction) == (True, None)
    assert send(checked, "2f 02 00 00 00 03 00 00 01 00", b"\x03" * 512).is_good
    assert not send(checked, "2f 02 00 00 00 03 00 00 01 00", b"\x04" * 512).is_good
    assert sense(checked) == (0x0E, 0x1D, 0)


def test_an_ejected_medium_is_not_there_until_it_is_loaded() -> None:
    ejected = disk()
    assert ejected.execute(bytes.fromhex("1b 00 00 00 02 00")).is_good
    assert refuse(ejected, "00 00 00 00 00 00") == (2, 0x3A, 0)
    assert refuse(ejected, "28 00 00 00 00 00 00 00 01 00") == (2, 0x3A, 0)
    assert ask(ejected, "12 00 00 00 24 00")
    assert ejected.execute(bytes.fromhex("1b 00 00 00 03 00")).is_good
    assert ejected.execute(bytes(6)).is_good


def test_removal_can_be_prevented() -> None:
    locked = disk()
    assert locked.execute(bytes.fromhex("1e 00 00 00 01 00")).is_good
    assert refuse(locked, "1b 00 00 00 02 00") == (5, 0x53, 2)
    assert locked.execute(bytes.fromhex("1e 00 00 00 00 00")).is_good
    assert locked.execute(bytes.fromhex("1b 00 00 00 02 00")).is_good
    locked.reset()
    assert locked.execute(bytes(6)).is_good


def test_unknown_and_short_commands_are_refused() -> None:
    assert refuse(disk(), "04 00 00 00 00 00") == (5, 0x20, 0)
    assert refuse(disk(), "ff 00") == (5, 0x20, 0)
    assert refuse(disk(), "28 00 00 00 00 00") == (5, 0x24, 0)
    assert refuse(disk(), "1b 00 00 00 12 00") == (5, 0x24, 0)


def test_other_units_are_not_there() -> None:
    one = disk()
    assert not one.execute(bytes(6), 1).is_good
    assert sense(one) == (5, 0x25, 0)
    assert one.execute(bytes.fromhex("12 00 00 00 24 00"), 1).take(1) == b"\x7f"
    found = one.execute(bytes.fromhex("03 00 00 00 12 00"), 1).take(18)
    assert (found[2], found[12]) == (5, 0x25)


def test_sense_in_descriptor_format() -> None:
    failed = disk()
    failed.execute(b"\x04" + bytes(5))
    assert ask(failed, "03 01 00 00 12 00").hex() == "7205200000000000"


def test_sense_is_forgotten_with_the_next_command() -> None:
    failed = disk()
    failed.execute(b"\x04" + bytes(5))
    assert failed.execute(bytes(6)).is_good
    assert sense(failed) == (0, 0, 0)


class BadStorage(MemoryStorage):
    """A disk whose second half is broken."""

    def read(self, offset: int, length: int) -> bytes:
        if offset + length > self.size // 2:
            raise OSError
        return super().read(offset, length)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        if offset + len(data) > self.size // 2:
            raise OSError
        super().write(offset, data)

    def flush(self) -> None:
        raise OSError


def test_trouble_with_the_medium_ends_the_data_early() -> None:
    broken = ScsiDisk(BadStorage(bytearray(512 * BLOCKS)))
    transfer = broken.execute(bytes.fromhex("28 00 00 00 00 1f 00 00 02 00"))
    assert len(transfer.take(512)) == 512
    assert transfer.take(512) == b""
    assert (transfer.is_good, transfer.left) == (False, 0)
    assert sense(broken) == (3, 0x11, 0)
    assert not send(broken, "2a 00 00 00 00 1f 00 00 02 00", bytes(1024)).is_good
    assert sense(broken) == (3, 0x0C, 0)
    assert not send(broken, "2f 02 00 00 00 1f 00 00 02 00", bytes(1024)).is_good
    assert refuse(broken, "35" + "00" * 9) == (3, 0x0C, 0)


def test_synchronizing_works_where_the_medium_does() -> None:
    assert disk().execute(b"\x35" + bytes(9)).is_good
    assert disk().execute(b"\x91" + bytes(15)).is_good
    assert disk().execute(b"\x1d" + bytes(5)).is_good


# ---------------------------------------------------------------- storage ----


def test_a_file_is_written_through(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(2048))
    storage = FileStorage(path)
    try:
        assert (storage.size, storage.is_read_only) == (2048, False)
        storage.write(512, memoryview(b"x" * 512))
        assert path.read_bytes()[512:1024] == b"x" * 512
        assert storage.read(510, 4) == b"\0\0xx"
        storage.flush()
        with pytest.raises(OSError, match="wanted 1024"):
            storage.read(1536, 1024)
    finally:
        storage.close()


def test_a_file_must_be_there_and_of_whole_blocks(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="No such file"):
        FileStorage(tmp_path / "image")
    for size in (0, 1000):
        (tmp_path / "image").write_bytes(bytes(size))
        with pytest.raises(BackendError, match="not a multiple of 512"):
            FileStorage(tmp_path / "image")
    with pytest.raises(BackendError, match="not a multiple of 512"):
        MemoryStorage(bytearray(1000))


def test_a_file_that_may_not_be_written_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(512))
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may everything
    storage = FileStorage(path)
    try:
        assert storage.is_read_only
        with pytest.raises(OSError, match="not open for writing|writ"):
            storage.write(0, b"x")
        storage.flush()
    finally:
        storage.close()
