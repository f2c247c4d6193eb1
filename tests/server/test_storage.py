"""Storage commands that are pipelined: the same as without, and sooner."""

import asyncio
import itertools
from pathlib import Path

import pytest

from rusb.client.backends.emulated import Data, EmulatedBackend, FlashDrive
from rusb.errors import SettingsError
from rusb.server.attachments import Attachment
from rusb.server.storage import PipelinedStorage, units
from rusb.server.vbox.storage_mode import (
    Storage,
    StorageMode,
    check_storage,
    find_storage,
)
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from tests.support.amount import seeds
from tests.support.byhand import ByHand
from tests.support.storage import BLOCK, BLOCKS, Disk, Driver, Outcome, cdb10, fuzz
from tests.support.whole_path import Lab, machine

OFF, STRICT, EARLY, AHEAD = StorageMode
PIPELINED = STRICT, EARLY
ONE_WAY = 0.01
ROUND_TRIP = 2 * ONE_WAY


def make(mode: StorageMode, drive: FlashDrive | None = None) -> Driver:
    image = bytearray(bytes(range(256)) * (BLOCKS * BLOCK // 256))
    return Driver(Disk(drive or FlashDrive(image), mode, lambda: ONE_WAY))


def read(driver: Driver, blocks: int = 128) -> Outcome:
    return driver.command(cdb10(0x28, 0, blocks), blocks * BLOCK)


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", seeds(25, 150))
def test_random_commands_end_as_without(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "AVOIDED", 16 * BLOCK)  # the disk has 1 MiB
    expected, medium = fuzz(seed, OFF)
    assert fuzz(seed, EARLY) == (expected, medium)
    assert fuzz(seed, AHEAD) == (expected, medium)
    found, strict_medium = fuzz(seed, STRICT)
    assert strict_medium == medium
    for one, other in zip(found, expected, strict=True):
        if other.status == 1:  # vrdpusb brings no data of a transfer that failed
            assert other.data.startswith(one.data)
            one.data = other.data
    assert found == expected


@pytest.mark.parametrize(
    ("mode", "to_read", "to_write", "to_ask"),
    [(OFF, 3, 3, 2), (STRICT, 1, 2, 1), (EARLY, 1, 1, 1)],
)
def test_a_command_takes_so_many_round_trips(
    mode: StorageMode, to_read: int, to_write: int, to_ask: int
) -> None:
    driver = make(mode)
    clock = driver.disk.clock
    times = [clock.now]
    for cdb, length, data in (
        (cdb10(0x28, 8, 128), 128 * BLOCK, None),
        (cdb10(0x2A, 8, 128), 0, bytes(128 * BLOCK)),
        (bytes(6), 0, None),
    ):
        assert driver.command(cdb, length, data).status == 0
        times.append(clock.now)
    taken = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert taken == pytest.approx([n * ROUND_TRIP for n in (to_read, to_write, to_ask)])


@pytest.mark.parametrize("mode", PIPELINED)
def test_data_in_the_guests_pieces_take_one_round_trip_or_as_many(
    mode: StorageMode,
) -> None:
    driver = make(mode)
    before = driver.disk.clock.now
    found = driver.command(cdb10(0x28, 0, 80), 80 * BLOCK, piece=20 * BLOCK)
    assert found.data == bytes(n & 0xFF for n in range(80 * BLOCK))
    trips = (driver.disk.clock.now - before) / ROUND_TRIP
    assert trips == pytest.approx(1 if mode is STRICT else 4)


class HastyDrive(FlashDrive):
    """Stalls IN transfers that come before a command."""

    def data_in(self, endpoint: int, room: int) -> Data | None:
        found = super().data_in(endpoint, room)
        if found is None and self._phase.name == "COMMAND":
            self.halt(self.IN)
        return found


class WrongTag(FlashDrive):
    """Now and then a status names another command."""

    count = 0

    def data_in(self, endpoint: int, room: int) -> Data | None:
        if self._phase.name == "STATUS":
            self.count += 1
            if self.count % 4 == 0:
                self._tag += 1
        return super().data_in(endpoint, room)


class NoData(FlashDrive):
    """Every fourth command: status in the place of data, as some do that fail."""

    count = 0

    def _take_command(self, data: bytes) -> None:
        super()._take_command(data)
        if self._phase.name == "DATA_IN":
            self.count += 1
            if self.count % 4 == 0:
                self._phase = type(self._phase)["STATUS"]
                self.kick(self.IN)


class Refusing(FlashDrive):
    """Refuses every fourth command block, with both endpoints or with one."""

    count, is_conforming = 0, True

    def _take_command(self, data: bytes) -> None:
        self.count += 1
        if self.count % 4 == 0:
            if self.is_conforming:
                self._phase = type(self._phase)["BROKEN"]
                self.halt(self.IN)
            self.halt(self.OUT)
        else:
            super()._take_command(data)

    def data_out(self, endpoint: int, data: Data) -> bool:
        return super().data_out(endpoint, data) and not self.is_halted(endpoint)


class HalfRefusing(Refusing):
    is_conforming = False


def serve_in_first(driver: Driver) -> None:
    """Let IN transfers run before the command that they belong to."""
    delays = itertools.cycle((0.005, 0.0))
    driver.disk.bus._delay = lambda: next(delays)


def until_good(driver: Driver, cdb: bytes, length: int, data: bytes | None) -> Outcome:
    """Repeat a command as kernels do."""
    for _ in range(8):
        found = driver.command(cdb, length, data)
        if found.status == 0 and len(found.data) == length:
            return found
    raise AssertionError(f"it never worked: {found}")


@pytest.mark.parametrize("mode", PIPELINED)
@pytest.mark.parametrize("kind", [HastyDrive, WrongTag, NoData, Refusing, HalfRefusing])
def test_nothing_wrong_comes_of_odd_devices(
    kind: type[FlashDrive], mode: StorageMode
) -> None:
    image = bytearray(BLOCKS * BLOCK)
    driver = make(mode, kind(image))
    if kind is HastyDrive:
        serve_in_first(driver)
    for n in range(1, 13):
        block, data = 16 * n, bytes([n]) * 16 * BLOCK
        until_good(driver, cdb10(0x2A, block, 16), 0, data)
        found = until_good(driver, cdb10(0x28, block, 16), 16 * BLOCK, None)
        assert found.data == data
    driver.finish()
    assert image[: 208 * BLOCK] == b"".join(bytes([n]) * 16 * BLOCK for n in range(13))


def test_a_device_that_stalls_too_soon_is_pipelined_less_and_less() -> None:
    driver = make(EARLY, HastyDrive(bytearray(BLOCKS * BLOCK)))
    serve_in_first(driver)
    for _ in range(20):
        read(driver)
    assert [mode for mode, _ in driver.disk.degraded] == [STRICT, OFF]
    assert all("stalls" in why for _, why in driver.disk.degraded)


def test_what_a_device_forgets_is_asked_for_again() -> None:
    driver = make(EARLY)
    slow = driver.disk.drive
    give, is_ready = slow.data_in, False

    def data_in(endpoint: int, room: int) -> Data | None:
        return give(endpoint, room) if is_ready else None

    def get_ready() -> None:
        nonlocal is_ready
        is_ready = True
        slow.kick(slow.IN)

    slow.data_in = data_in  # type: ignore[method-assign]
    driver.disk.bus.is_forgetful = True
    clock = driver.disk.clock
    clock.at(clock.now + 0.1, get_ready)
    before = clock.now
    found = read(driver)
    assert (found.status, len(found.data)) == (0, 128 * BLOCK)
    assert 1 < clock.now - before < 1.3
    assert [mode for mode, _ in driver.disk.degraded] == [OFF]
    before = clock.now
    assert read(driver).status == 0
    assert clock.now - before == pytest.approx(3 * ROUND_TRIP)
    driver.finish()


def test_a_slow_device_is_not_an_odd_one() -> None:
    driver = make(EARLY)
    drive, clock = driver.disk.drive, driver.disk.clock
    give, ready_at = drive.data_in, clock.now + 5

    def data_in(endpoint: int, room: int) -> Data | None:
        return give(endpoint, room) if clock.now >= ready_at else None

    drive.data_in = data_in  # type: ignore[method-assign]
    clock.at(ready_at, lambda: drive.kick(drive.IN))
    assert driver.command(bytes(6)).status == 0
    assert ready_at < clock.now < ready_at + ROUND_TRIP
    assert not driver.disk.degraded
    driver.finish()


def test_a_status_of_another_command_is_passed_on_and_remembered() -> None:
    driver = make(EARLY, WrongTag(bytearray(BLOCKS * BLOCK)))
    found = [read(driver).is_recovered for _ in range(8)]
    assert found == [False, False, False, True] * 2
    assert [mode for mode, _ in driver.disk.degraded] == [STRICT, OFF]


@pytest.mark.parametrize(("pause", "degraded"), [(1, [STRICT]), (101, [])])
def test_two_resets_amid_commands_are_too_many(
    pause: float, degraded: list[StorageMode]
) -> None:
    driver = make(EARLY)
    for _ in range(2):
        driver.abort(cdb10(0x28, 0, 8), 8 * BLOCK, None, steps=2)
        driver.reset()
        driver.reset()  # between commands: no sign of anything
        driver.disk.clock.sleep(pause)
    assert [mode for mode, _ in driver.disk.degraded] == degraded
    assert read(driver).status == 0
    driver.finish()


@pytest.mark.parametrize("mode", PIPELINED)
@pytest.mark.parametrize("steps", range(9))
def test_nothing_of_ours_outlives_what_the_guest_cancels(
    mode: StorageMode, steps: int
) -> None:
    driver = make(mode)
    driver.abort(cdb10(0x28, 0, 8), 8 * BLOCK, None, steps)
    driver.finish()


@pytest.mark.parametrize("mode", PIPELINED)
@pytest.mark.parametrize("steps", range(9))
def test_unplugged_in_any_state_everything_completes(
    mode: StorageMode, steps: int
) -> None:
    driver = make(mode)
    head = b"USBC" + bytes(4) + (4096).to_bytes(4, "little") + b"\x80\x00\x0a"
    wrapper = (head + cdb10(0x28, 0, 8)).ljust(31, b"\0")
    stages = [(0x02, 31, wrapper), (0x81, 4096, b""), (0x81, 13, b"")]
    transfers = [driver.bulk(*stages.pop(0))]
    for _ in range(steps):
        if transfers[-1].results and stages:
            transfers.append(driver.bulk(*stages.pop(0)))
        driver.disk.clock.step()
    driver.disk.attachment.close()
    while stages:
        transfers.append(driver.bulk(*stages.pop(0)))
    driver.finish()
    assert transfers[-1].results == [UrbResult(UrbStatus.NO_DEVICE)]


@pytest.mark.parametrize("mode", PIPELINED)
def test_a_setting_of_another_interface_leaves_a_command_alone(
    mode: StorageMode,
) -> None:
    driver = make(mode)
    head = b"USBC" + bytes(4) + (4096).to_bytes(4, "little") + b"\x80\x00\x0a"
    wrapper = (head + cdb10(0x28, 0, 8)).ljust(31, b"\0")
    driver.wait(driver.bulk(0x02, 31, wrapper))
    assert driver.wait(driver.bulk(0x81, 4096)).length == 4096
    driver.control(SetupPacket.set_interface(5, 0))
    before = driver.disk.clock.now
    assert driver.wait(driver.bulk(0x81, 13)).length == 13
    assert driver.disk.clock.now - before < ROUND_TRIP / 2


def test_what_the_extra_data_say() -> None:
    data = {"rusb/Storage": "strict", "rusb/Filter/Old stick/Storage": "off"}
    check_storage(data)
    assert find_storage(data, "Old stick") == Storage(OFF)
    assert find_storage(data, "another") == Storage(STRICT)
    assert find_storage({}, "another") == find_storage({}, "") == Storage(EARLY)


@pytest.mark.parametrize("key", ["rusb/Storage", "rusb/Filter/Any/thing/Storage"])
def test_a_word_that_is_no_mode_is_refused(key: str) -> None:
    with pytest.raises(
        SettingsError,
        match=f"extra data {key}: 'fast' is invalid; choose one of off, strict, early",
    ):
        check_storage({key: "fast"})


async def test_an_odd_device_is_remembered_and_the_log_says_so(tmp_path: Path) -> None:
    data = {"rusb/Storage": "off", "rusb/Filter/all/Storage": "early"}
    lab = Lab(tmp_path, machine(extra_data=data))
    drive = WrongTag(bytearray(BLOCKS * BLOCK))
    backend = EmulatedBackend(devices=[drive])
    async with asyncio.timeout(20), lab.server, lab.client(backend):
        (device,) = await lab.guest.wait_for(1)
        assert isinstance(device.attached, PipelinedStorage)
        wrapper = (b"USBC" + bytes(8) + b"\x80\0\x06").ljust(31, b"\0")
        for _ in range(8):
            await device.write(FlashDrive.OUT, wrapper)
            await device.read(FlashDrive.IN, 13)
            await device.control(SetupPacket(0x21, 0xFF, 0, 0, 0))
        await lab.wait_log("from now on its commands are not pipelined")
        assert "its commands are pipelined strictly" in lab.log()
        backend.unplug(drive)
        await lab.guest.wait_for(0)
        backend.plug(WrongTag(bytearray(BLOCKS * BLOCK)))
        (device,) = await lab.guest.wait_for(1)
        assert isinstance(device.attached, Attachment)


async def test_what_is_typed_counts_more_than_what_is_kept(tmp_path: Path) -> None:
    data = {"rusb/Storage": "early", "rusb/Filter/all/Storage": "early"}
    lab = Lab(tmp_path, machine(extra_data=data, storage=Storage(OFF)))
    backend = EmulatedBackend(devices=[FlashDrive(bytearray(BLOCKS * BLOCK))])
    async with asyncio.timeout(20), lab.server, lab.client(backend):
        (device,) = await lab.guest.wait_for(1)
        assert isinstance(device.attached, Attachment)


class Stick(ByHand):
    """A disk whose transfers a test completes; what is done ahead shows."""

    def __init__(self, mode: StorageMode) -> None:
        super().__init__(FlashDrive(bytearray(BLOCK)))
        self.storage = PipelinedStorage(
            self, mode, now=lambda: 0.0, later=lambda seconds, what: None
        )

    def shape(self) -> list[tuple[int, int]]:
        """Endpoint and length of what is under way, in order."""
        return [(urb.endpoint, urb.length) for urb, _ in self.open.values()]

    def ask(
        self, endpoint: int, length: int, data: bytes = b""
    ) -> tuple[int, list[UrbResult]]:
        """Start a transfer of the guest's; return its number and what comes of it."""
        results: list[UrbResult] = []
        urb = Urb(next(self._ids), TransferType.BULK, endpoint, length, data)
        self.storage.submit(urb, results.append)
        return urb.id, results

    def control(self, setup: SetupPacket) -> list[UrbResult]:
        results: list[UrbResult] = []
        self.storage.submit(Urb.control(next(self._ids), setup), results.append)
        return results

    def command(self, length: int, *, is_in: bool = True) -> list[UrbResult]:
        head = b"USBC" + bytes(4) + length.to_bytes(4, "little")
        wrapper = head + (b"\x80" if is_in else b"\0") + b"\0\x06"
        return self.ask(OUT, 31, wrapper.ljust(31, b"\0"))[1]


IN, OUT = FlashDrive.IN, FlashDrive.OUT
GOOD = b"USBS" + bytes(9)
CLEAR_IN = SetupPacket(0x02, 1, 0, IN, 0)
CLASS_RESET = SetupPacket(0x21, 0xFF, 0, 0, 0)


def statuses(*found: tuple[int, list[UrbResult]]) -> list[tuple[UrbStatus, int]]:
    return [(r.status, r.length) for _, results in found for r in results]


@pytest.mark.parametrize(
    ("status", "moved", "expected"),
    [
        (UrbStatus.STALL, 2048, [(UrbStatus.OK, 1024), (UrbStatus.OK, 1024)]),
        (UrbStatus.STALL, 1536, [(UrbStatus.OK, 1024), (UrbStatus.STALL, 512)]),
        (UrbStatus.OK, 1536, [(UrbStatus.OK, 1024), (UrbStatus.OK, 512)]),
        (UrbStatus.OK, 3072, [(UrbStatus.OK, 1024)] * 3),
        (UrbStatus.OVERFLOW, 3072, [(UrbStatus.OK, 1024)] * 2),
    ],
)
def test_an_error_comes_with_the_piece_in_which_it_happened(
    status: UrbStatus, moved: int, expected: list[tuple[UrbStatus, int]]
) -> None:
    device = Stick(STRICT)
    device.command(3072)
    assert device.shape() == [(OUT, 31), (IN, 3072), (IN, 13)]
    device.end_at(OUT)
    device.end_at(IN, status, bytes(moved))
    pieces = [device.ask(IN, 1024) for _ in range(2)]
    assert statuses(*pieces) == expected[:2]
    if moved >= 2048:
        third = device.ask(IN, 1024)
        last = (status, 0 if moved == 2048 else 1024)
        assert statuses(third) == [expected[2] if len(expected) > 2 else last]


def test_what_follows_a_refused_command_fails_as_it_did_until_the_guest_recovers() -> (
    None
):
    device = Stick(EARLY)
    assert [r.status for r in device.command(1024, is_in=False)] == [UrbStatus.OK]
    number, data = device.ask(OUT, 1024, bytes(1024))
    device.end_at(OUT, UrbStatus.IO_ERROR)
    assert device.cancelled == [-2, number]  # the status, and the data
    device.end_at(OUT, UrbStatus.CANCELLED)
    assert [r.status for r in data] == [UrbStatus.IO_ERROR]
    device.end_at(IN, UrbStatus.CANCELLED)
    assert statuses(device.ask(IN, 13)) == [(UrbStatus.IO_ERROR, 0)]
    assert statuses(device.ask(OUT, 512, bytes(512))) == [(UrbStatus.IO_ERROR, 0)]
    assert not device.shape()
    device.control(CLASS_RESET)
    device.open.clear()
    device.command(0)
    assert device.shape() == [(OUT, 31), (IN, 13)]


def test_a_command_in_the_place_of_a_status_waits_until_ours_is_gone() -> None:
    device = Stick(EARLY)
    device.command(512)
    device.end_at(OUT)
    device.ask(IN, 512)
    device.end_at(IN, data=GOOD)  # no data, as of some devices that fail
    assert not device.command(0)
    assert device.cancelled == [-2]
    assert device.shape() == [(IN, 13)]
    device.end_at(IN, UrbStatus.CANCELLED)
    assert device.shape() == [(OUT, 31)]  # as the guest sent it


def test_a_halt_is_cleared_when_ours_is_gone_and_what_it_brought_is_kept() -> None:
    device = Stick(EARLY)
    device.command(0)
    device.end_at(OUT)
    device.control(CLEAR_IN)
    assert device.cancelled == [-2]
    assert device.shape() == [(IN, 13)]
    device.end_at(IN, data=GOOD)  # it came all the same
    assert device.shape() == [(0, 0)]
    assert statuses(device.ask(IN, 13)) == [(UrbStatus.OK, 13)]


def test_a_status_that_the_guest_waits_for_is_the_guests() -> None:
    device = Stick(EARLY)
    device.command(0)
    device.end_at(OUT)
    number, found = device.ask(IN, 13)
    device.control(CLEAR_IN)
    assert not device.cancelled
    device.storage.cancel(number)
    assert device.cancelled == [-2]
    device.end_at(IN, UrbStatus.CANCELLED)
    assert [r.status for r in found] == [UrbStatus.CANCELLED]


def test_data_asked_for_ahead_that_were_cancelled_are_asked_for_by_the_guest() -> None:
    device = Stick(STRICT)
    device.command(512)
    device.end_at(OUT)
    device.control(CLEAR_IN)
    assert device.cancelled == [-2, -1]  # the last first
    device.end_at(IN, UrbStatus.CANCELLED)
    device.end_at(IN, UrbStatus.CANCELLED)
    device.open.clear()  # the request
    device.ask(IN, 512)
    assert device.shape() == [(IN, 512), (IN, 13)]


def test_a_guest_that_asks_first_gets_what_it_asks() -> None:
    device = Stick(EARLY)
    device.ask(IN, 13)
    assert not device.command(0)
    assert device.shape() == [(IN, 13), (OUT, 31)]


def test_a_cancelled_transfer_takes_ours_with_it() -> None:
    device = Stick(EARLY)
    device.command(512)
    number, _ = device.ask(IN, 512)
    device.storage.cancel(number)
    assert device.cancelled == [-2, -1, number]


def test_after_a_reset_commands_wait_until_ours_are_gone() -> None:
    device = Stick(EARLY)
    device.command(0)
    device.storage.reset()
    assert (device.resets, device.cancelled) == (1, [-2, -1])
    device.command(0)
    device.end_at(OUT, UrbStatus.CANCELLED)
    assert device.shape() == [(IN, 13)]
    device.end_at(IN, data=GOOD)  # that of the command before
    assert device.shape() == [(OUT, 31), (IN, 13)]
    assert not statuses(device.ask(IN, 13))
