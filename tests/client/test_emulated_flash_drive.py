"""A flash drive through USB: enumeration, bulk-only transport, its thirteen cases."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from rusb.client.backends._emulated.fat import FatVolume
from rusb.client.backends._emulated.flash_drive import FlashDrive
from rusb.errors import BackendError
from rusb.usb.types import Speed
from rusb.usb.urb import UrbStatus
from tests.support.usbhost import BulkOnly, plugged

OK, STALL = UrbStatus.OK, UrbStatus.STALL
PASSED, FAILED, PHASE_ERROR = 0, 1, 2
IN, OUT = FlashDrive.IN, FlashDrive.OUT

NOTHING = bytes(6)  # TEST UNIT READY
READ_1 = struct.pack(">BBIBHB", 0x28, 0, 0, 0, 1, 0)
WRITE_1 = struct.pack(">BBIBHB", 0x2A, 0, 0, 0, 1, 0)
INQUIRY = bytes((0x12, 0, 0, 0, 36, 0))


def drive(speed: Speed = Speed.HIGH) -> FlashDrive:
    return FlashDrive(bytearray(os.urandom(1 << 20)), speed=speed)


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER])
async def test_data_survive_the_way_there_and_back(speed: Speed) -> None:
    data = os.urandom(128 * 512)
    device = drive(speed)
    async with plugged(device) as host:
        found = host.enumerate()
        (interface,) = found.configurations[0].interfaces
        codes = interface.interface_class, interface.interface_subclass
        assert (*codes, interface.interface_protocol) == (0x08, 0x06, 0x50)
        serial = host.string(found.device.serial)
        assert len(serial) >= 12
        assert set(serial) <= set("0123456789ABCDEF")
        disk = BulkOnly(host)
        assert host.request(0xA1, 0xFE, 0, 0, 1) == b"\0"
        assert disk.run(INQUIRY, 36) == PASSED
        assert disk.run(NOTHING) == PASSED
        disk.write(1000, data)
        assert disk.read(1000, 128) == data
        assert disk.read(999, 1) == disk.read(999, 130)[:512]


@pytest.mark.parametrize("size", [512, 1024, 4096, 65536])
async def test_data_may_come_in_transfers_of_any_size(size: int) -> None:
    data = os.urandom(128 * 512)
    async with plugged(drive()) as host:
        disk = BulkOnly(host)
        command = struct.pack(">BBIBHB", 0x2A, 0, 7, 0, 128, 0)
        assert disk.run(command, data, urb=size) == PASSED
        command = struct.pack(">BBIBHB", 0x28, 0, 7, 0, 128, 0)
        assert disk.run(command, len(data), urb=size) == PASSED
        assert disk.data == data


async def test_transfers_may_be_queued_ahead() -> None:
    async with plugged(drive()) as host:
        expected = BulkOnly(host).read(0, 4)
        block = BulkOnly(host).wrap(
            struct.pack(">BBIBHB", 0x28, 0, 0, 0, 4, 0), 2048, is_in=True
        )
        reads = [host.bulk(IN, 1024), host.bulk(IN, 1024)]
        status = host.bulk(IN, 13)
        assert not any(r.results for r in reads)
        host.bulk(OUT, block)
        assert b"".join(bytes(r.result.data) for r in reads) == expected
        assert bytes(status.result.data) == b"USBS" + block[4:8] + bytes(5)


async def test_a_second_command_waits_until_the_status_is_read() -> None:
    async with plugged(drive()) as host:
        disk = BulkOnly(host)
        host.bulk(OUT, disk.wrap(NOTHING, 0, is_in=True))
        second = host.bulk(OUT, disk.wrap(NOTHING, 0, is_in=True))
        assert second.results == []
        host.bulk(IN, 13)
        assert second.result.status is OK
        assert disk.status() == PASSED


# -------------------------------------------------- the thirteen cases (6.7) ----

CASES = [
    # host expects; device intends; status, residue, how the data stage ended
    pytest.param(NOTHING, 0, PASSED, 0, OK, id="1 Hn=Dn"),
    pytest.param(READ_1, 0, PHASE_ERROR, 0, OK, id="2 Hn<Di"),
    pytest.param(WRITE_1, 0, PHASE_ERROR, 0, OK, id="3 Hn<Do"),
    pytest.param(NOTHING, 512, PASSED, 512, STALL, id="4 Hi>Dn"),
    pytest.param(INQUIRY, 100, PASSED, 64, STALL, id="5 Hi>Di short packet"),
    pytest.param(READ_1, 1024, PASSED, 512, STALL, id="5 Hi>Di whole packets"),
    pytest.param(READ_1, 512, PASSED, 0, OK, id="6 Hi=Di"),
    pytest.param(READ_1, 511, PHASE_ERROR, 511, STALL, id="7 Hi<Di"),
    pytest.param(WRITE_1, 512, PHASE_ERROR, 512, STALL, id="8 Hi<>Do"),
    pytest.param(NOTHING, bytes(512), PASSED, 512, STALL, id="9 Ho>Dn"),
    pytest.param(READ_1, bytes(512), PHASE_ERROR, 512, STALL, id="10 Ho<>Di"),
    pytest.param(WRITE_1, bytes(1024), PASSED, 512, OK, id="11 Ho>Do"),
    pytest.param(WRITE_1, bytes(512), PASSED, 0, OK, id="12 Ho=Do"),
    pytest.param(WRITE_1, bytes(256), PHASE_ERROR, 256, STALL, id="13 Ho<Do"),
]


@pytest.mark.parametrize(("command", "data", "status", "residue", "ended"), CASES)
async def test_case(
    command: bytes, data: bytes | int, status: int, residue: int, ended: UrbStatus
) -> None:
    async with plugged(drive()) as host:
        disk = BulkOnly(host)
        assert disk.run(command, data) == status
        assert disk.residue == residue
        assert disk.data_status is ended
        assert disk.read(0, 1)  # and it goes on
        if isinstance(data, bytes):
            is_written = status == PASSED and command is WRITE_1
            assert (disk.read(0, 1) == data[:512]) == is_written


async def test_nothing_is_written_beyond_what_the_command_says() -> None:
    async with plugged(drive()) as host:
        disk = BulkOnly(host)
        before = disk.read(1, 1)
        assert disk.run(WRITE_1, bytes(1024)) == PASSED
        assert disk.read(1, 1) == before


async def test_a_failed_command_has_sense() -> None:
    async with plugged(drive()) as host:
        disk = BulkOnly(host)
        beyond = struct.pack(">BBIBHB", 0x28, 0, 2048, 0, 1, 0)
        assert disk.run(beyond, 512) == FAILED
        assert (disk.residue, disk.data_status) == (512, STALL)
        assert disk.sense() == (5, 0x21, 0)
        assert disk.run(b"\xee" + bytes(5), bytes(512)) == FAILED
        assert disk.sense() == (5, 0x20, 0)


async def test_other_units_are_refused_by_scsi() -> None:
    async with plugged(drive()) as host:
        disk = BulkOnly(host)
        assert disk.run(NOTHING, lun=1) == FAILED


# ---------------------------------------------------------------- recovery ----


@pytest.mark.parametrize(
    "damage",
    [
        lambda block: block[:30],
        lambda block: block + b"\0",
        lambda block: b"USBX" + block[4:],
        lambda block: block[:12] + b"\x01" + block[13:],
        lambda block: block[:13] + b"\x10" + block[14:],
        lambda block: block[:14] + b"\x00" + block[15:],
        lambda block: block[:14] + b"\x11" + block[15:],
        lambda block: b"",
    ],
)
async def test_an_invalid_command_block_needs_reset_recovery(
    damage: Callable[[bytes], bytes],
) -> None:
    async with plugged(drive()) as host:
        disk = BulkOnly(host)
        waiting = host.bulk(IN, 13)
        host.bulk(OUT, damage(disk.wrap(NOTHING, 0, is_in=True)))
        assert waiting.result.status is STALL
        for _ in range(2):  # clearing is not enough (6.6.1)
            disk.clear(IN)
            disk.clear(OUT)
            assert host.bulk(IN, 13).result.status is STALL
            assert host.bulk(OUT, bytes(31)).result.status is STALL
        disk.reset()
        assert disk.run(NOTHING) == PASSED


async def test_the_class_reset_ends_a_command_in_the_middle() -> None:
    async with plugged(drive()) as host:
        disk = BulkOnly(host)
        host.bulk(OUT, disk.wrap(WRITE_1, 512, is_in=False))
        host.bulk(OUT, bytes(256))
        disk.reset()
        assert disk.run(NOTHING) == PASSED


async def test_a_port_reset_ends_a_command_in_the_middle() -> None:
    async with plugged(drive()) as host:
        disk = BulkOnly(host)
        host.bulk(OUT, disk.wrap(READ_1, 512, is_in=True))
        await host.opened.reset()
        assert disk.run(NOTHING) == PASSED


async def test_malformed_class_requests_stall() -> None:
    async with plugged(drive()) as host:
        assert host.request(0xA1, 0xFE, 0, 0, 2) is None
        assert host.request(0xA1, 0xFE, 1, 0, 1) is None
        assert host.request(0x21, 0xFF, 0, 1, 0) is None
        assert host.request(0x21, 0xFD, 0, 0, 0) is None


class Trouble(FlashDrive):
    """A drive whose storage fails from some byte on."""

    def attached(self) -> None:
        super().attached()
        storage = self._storage
        assert storage is not None
        read, write = storage.read, storage.write

        def bad_read(offset: int, length: int) -> bytes:
            if offset >= 65536:
                raise OSError
            return read(offset, length)

        def bad_write(offset: int, data: bytes | bytearray | memoryview) -> None:
            if offset >= 65536:
                raise OSError
            write(offset, data)

        storage.read, storage.write = bad_read, bad_write  # type: ignore[method-assign]


async def test_trouble_with_the_image_is_a_medium_error_not_the_end() -> None:
    async with plugged(Trouble(bytearray(1 << 20))) as host:
        disk = BulkOnly(host)
        two = struct.pack(">IBH", 127, 0, 2)
        command = b"\x28\0" + two + b"\0"
        assert disk.run(command, 1024, urb=512) == FAILED
        assert (disk.residue, disk.data_status) == (512, STALL)
        assert disk.sense() == (3, 0x11, 0)
        assert disk.run(b"\x2a\0" + two + b"\0", bytes(1024), urb=512) == FAILED
        assert disk.residue == 512
        assert disk.sense() == (3, 0x0C, 0)
        assert disk.run(NOTHING) == PASSED


# ------------------------------------------------------------------ images ----


async def test_by_default_it_holds_a_file_system_with_a_file() -> None:
    async with plugged(FlashDrive()) as host:
        disk = BulkOnly(host)
        volume = FatVolume(disk.read, disk.write)
        assert volume.names() == ["README.TXT"]
        assert b"does not exist" in volume.read_file("README.TXT")
        data = os.urandom(300_000)
        volume.write_file("NEW.BIN", data)
        again = FatVolume(disk.read, disk.write)
        assert again.names() == ["README.TXT", "NEW.BIN"]
        assert again.read_file("NEW.BIN") == data


async def test_an_image_file_is_changed_in_place(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    async with plugged(FlashDrive(path)) as host:
        disk = BulkOnly(host)
        disk.write(5, b"x" * 512)
        assert disk.run(b"\x35" + bytes(9)) == PASSED
        assert path.read_bytes()[5 * 512 : 6 * 512] == b"x" * 512


async def test_write_protection_is_told_and_kept() -> None:
    device = FlashDrive(bytearray(1 << 20), is_protected=True)
    async with plugged(device) as host:
        disk = BulkOnly(host)
        assert disk.run(WRITE_1, bytes(512)) == FAILED
        assert disk.sense() == (7, 0x27, 0)
        assert disk.run(bytes.fromhex("1a003f00c000"), 192) == PASSED
        assert disk.data[2] & 0x80


async def test_what_is_in_memory_outlives_unplugging() -> None:
    device = drive()
    async with plugged(device) as host:
        BulkOnly(host).write(9, b"y" * 512)
    async with plugged(device) as host:
        assert BulkOnly(host).read(9, 1) == b"y" * 512


@pytest.mark.parametrize("size", [0, 1 << 20, (4 << 20) + 1, 8 << 30])
def test_a_file_system_of_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(BackendError, match="flash drive of"):
        FlashDrive(size=size)
