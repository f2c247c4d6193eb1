"""Read-ahead: the same as without, and the guest does not wait for it."""

import random

import pytest

from rusb.client.backends.emulated import Data, FlashDrive
from rusb.server.vbox.storage_mode import StorageMode
from rusb.usb.setup import SetupPacket
from rusb.usb.urb import UrbStatus
from tests.support.amount import seeds
from tests.support.storage import (
    BLOCK,
    BLOCKS,
    CAPACITY,
    HARMLESS,
    INQUIRY,
    ROUND_TRIP,
    Card,
    Disk,
    Driver,
    Outcome,
    Worn,
    cdb10,
)

AHEAD = StorageMode.AHEAD
ONE_WAY = ROUND_TRIP / 2
READ = 16  # blocks of a read


def make(drive: FlashDrive | None = None, ahead: int = 1 << 20) -> Driver:
    image = bytearray(random.Random(1).randbytes(BLOCKS * BLOCK))
    disk = Disk(drive or FlashDrive(image), AHEAD, lambda: ONE_WAY, ahead=ahead)
    driver = Driver(disk)
    driver.command(INQUIRY, 36)
    driver.command(CAPACITY, 8)
    return driver


def read(driver: Driver, block: int, count: int = READ) -> Outcome:
    return driver.command(cdb10(0x28, block, count), count * BLOCK)


def get_going(driver: Driver, reads: int = 8) -> int:
    """Read until there is a stream; return the next block."""
    for n in range(reads):
        assert read(driver, n * READ).status == 0
        driver.disk.clock.sleep(0.03)  # what comes next has come
    assert driver.disk.ahead._stream is not None
    return reads * READ


def time_of(driver: Driver, block: int, count: int = READ) -> float:
    before = driver.disk.clock.now
    assert read(driver, block, count).status == 0
    return driver.disk.clock.now - before


def content(driver: Driver, block: int, count: int = READ) -> bytes:
    image = driver.disk.drive._image
    assert isinstance(image, bytearray)
    return bytes(image[block * BLOCK : (block + count) * BLOCK])


def test_after_three_reads_in_a_row_the_next_do_not_wait() -> None:
    driver = make()
    times = [time_of(driver, n * READ) for n in range(128)]
    assert times[:3] == pytest.approx([ROUND_TRIP] * 3)
    assert sum(times[3:]) < 10 * ROUND_TRIP  # without: 125
    driver.finish()


def test_data_are_those_of_the_medium_whatever_sizes_the_guest_reads() -> None:
    driver = make()
    position = get_going(driver)
    for count in (16, 5, 16, 1, 30, 16, 48):
        found = read(driver, position, count)
        assert found == Outcome(content(driver, position, count), 0, 0)
        position += count
    found = driver.command(cdb10(0x28, position, 16), 16 * BLOCK, piece=1024)
    assert found.data == content(driver, position)
    assert max(cdb[8] for cdb in driver.disk.asked) == READ
    driver.finish()


def test_nothing_is_read_ahead_of_a_disk_of_which_the_guest_knows_no_size() -> None:
    driver = Driver(Disk(FlashDrive(bytearray(BLOCKS * BLOCK)), AHEAD))
    for n in range(8):
        read(driver, n * READ)
    assert not driver.disk.asked


def test_nothing_is_read_beyond_the_last_block() -> None:
    driver = make()
    for n in range(6):
        start = BLOCKS - (6 - n) * READ - 3
        assert read(driver, start).status == 0
    assert read(driver, BLOCKS - 3, 3).data == content(driver, BLOCKS - 3, 3)
    assert driver.disk.asked
    assert not driver.disk.degraded
    driver.finish()


def test_no_more_is_read_ahead_than_was_allowed() -> None:
    driver = make(ahead=64 << 10)
    position, most = get_going(driver), 0
    stream = driver.disk.ahead._stream
    assert stream is not None
    for n in range(60):
        most = max(most, stream.next - stream.position)
        read(driver, position + n * READ)
    assert most * BLOCK == 64 << 10


@pytest.mark.parametrize(
    "flags", [0x08, 0x20], ids=["force unit access", "with protection"]
)
def test_a_read_that_wants_the_medium_gets_it(flags: int) -> None:
    driver = make()
    position = get_going(driver)
    asked = len(driver.disk.asked)
    cdb = bytearray(cdb10(0x28, position, READ))
    cdb[1] = flags
    found = driver.command(bytes(cdb), READ * BLOCK)
    assert found.data == content(driver, position)
    assert driver.disk.ahead._stream is None
    driver.disk.clock.sleep(1)
    assert len(driver.disk.asked) == asked
    driver.finish()


def test_what_was_written_is_what_is_read() -> None:
    driver = make()
    position = get_going(driver)
    new = random.Random(2).randbytes(READ * BLOCK)
    assert driver.command(cdb10(0x2A, position + READ, READ), data=new).status == 0
    assert read(driver, position).data == content(driver, position)
    assert read(driver, position + READ).data == new
    driver.finish()


@pytest.mark.parametrize(("cdb", "length"), HARMLESS)
def test_what_changes_nothing_leaves_the_stream(cdb: bytes, length: int) -> None:
    driver = make()
    position = get_going(driver)
    assert driver.command(cdb, length).status == 0
    assert time_of(driver, position) == 0
    driver.finish()


@pytest.mark.parametrize(
    "cdb",
    [b"\x1b\0\0\0\x01\0", b"\x1e\0\0\0\0\0", b"\x35" + bytes(9), b"\x03\0\0\0\0\0"],
)
def test_any_other_command_ends_the_stream(cdb: bytes) -> None:
    driver = make()
    get_going(driver)
    assert driver.command(cdb).status == 0
    assert driver.disk.ahead._stream is None
    driver.finish()


def test_a_command_of_the_guests_waits_until_ours_are_done_and_no_longer() -> None:
    driver = make()
    get_going(driver)
    before = driver.disk.clock.now
    assert read(driver, 0).data == content(driver, 0)
    assert driver.disk.clock.now - before <= 2 * ROUND_TRIP + 1e-9
    driver.finish()


@pytest.mark.parametrize(("pause", "is_there"), [(0.8, True), (1.1, False)])
def test_what_a_removable_medium_had_counts_for_a_second(
    pause: float, is_there: bool
) -> None:
    driver = make()
    position = get_going(driver)
    driver.disk.clock.sleep(pause)
    assert (time_of(driver, position) == 0) == is_there
    driver.finish()


def test_what_came_long_ago_does_not_count_though_the_guest_reads_on() -> None:
    driver = make()
    position = get_going(driver, 20)
    for _ in range(3):
        driver.disk.clock.sleep(0.4)
        took = time_of(driver, position, 1)
        position += 1
    assert took > 0
    driver.finish()


def test_what_a_fixed_disk_had_counts_for_ten_seconds() -> None:
    driver = make()
    inquiry = driver.disk.ahead._units[0]
    inquiry.is_removable = False
    position = get_going(driver)
    driver.disk.clock.sleep(9)
    assert time_of(driver, position) == 0
    driver.disk.clock.sleep(11)
    assert driver.disk.ahead._stream is None


@pytest.mark.parametrize("steps", range(0, 40, 3))
@pytest.mark.parametrize("how", ["reset", "recover", "unplug", "clear"])
def test_it_ends_with_the_device_whatever_is_under_way(how: str, steps: int) -> None:
    driver = make()
    position = get_going(driver, 5)
    for _ in range(steps):
        driver.disk.clock.step()
    match how:
        case "reset":
            driver.reset()
        case "recover":
            driver.recover()
        case "clear":
            driver.clear_halt(0x81)
        case _:
            driver.disk.unplug()
            result = driver.wait(driver.bulk(0x02, 31, bytes(31)))
            assert result.status is UrbStatus.NO_DEVICE
            driver.finish()
            return
    assert read(driver, position).data == content(driver, position)
    assert not driver.disk.degraded
    driver.finish()


@pytest.mark.parametrize("steps", range(0, 60, 3))
def test_what_the_guest_breaks_off_ends_everything(steps: int) -> None:
    driver = make()
    position = get_going(driver, 4)
    driver.disk.clock.sleep(0)
    driver.abort(cdb10(0x28, position, READ), READ * BLOCK, None, steps)
    driver.recover()
    assert read(driver, position).data == content(driver, position)
    driver.finish()


class HangingAhead(FlashDrive):
    """Brings nothing for a command of ours."""

    def data_in(self, endpoint: int, room: int) -> Data | None:
        is_ours = self._phase.name == "DATA_IN" and self._tag & 0x80000000
        return None if is_ours else super().data_in(endpoint, room)


@pytest.mark.parametrize("is_port", [True, False])
def test_a_command_of_ours_that_hangs_ends_with_the_reset(is_port: bool) -> None:
    image = bytearray(random.Random(1).randbytes(BLOCKS * BLOCK))
    driver = make(HangingAhead(image))
    if is_port:
        driver.recover = driver.reset  # type: ignore[method-assign]
    failed = 0
    for n in range(20):
        found = read(driver, n * READ)
        failed += found.is_recovered
        if not found.is_recovered:
            assert found.data == content(driver, n * READ)
    assert failed == 2
    assert [mode for mode, _ in driver.disk.degraded] == [StorageMode.EARLY]
    driver.finish()


def test_a_block_that_cannot_be_read_is_the_guests_to_meet() -> None:
    driver = make(Worn(bytearray(BLOCKS * BLOCK), bad={300}))
    blocks = [n * READ for n in range(30)]
    failed = []
    for block in blocks:
        if read(driver, block).status:
            failed.append((block, driver.sense()[2]))
            asked = len(driver.disk.asked)
    assert failed == [(288, 3)]
    assert not driver.disk.degraded
    assert len(driver.disk.asked) == asked  # nothing behind it is read ahead
    assert driver.disk.ahead._units[0].avoided == range(288, 288 + (64 << 20) // BLOCK)
    driver.finish()


def test_a_change_of_the_medium_is_told_once_with_the_next_command() -> None:
    card = Card()
    driver = make(card)
    position = get_going(driver)
    driver.disk.clock.sleep(0.2)
    card.change()
    statuses = []
    for n in range(40):
        found = read(driver, position + n * READ)
        statuses.append(found.status)
        if found.status:
            break
        assert card.generations(found.data, position + n * READ) == {0}
    assert found == Outcome(b"", READ * BLOCK, 1)
    assert driver.sense()[:3] == b"\x70\0\x06"
    assert driver.sense()[2] == 0
    found = read(driver, 0)
    assert card.generations(found.data, 0) == {1}
    driver.finish()


def learn_of_a_change(driver: Driver, card: Card) -> None:
    """We know that the card was changed, and the guest does not."""
    position = get_going(driver)
    card.change()
    while not driver.disk.ahead._own:
        assert read(driver, position).status == 0
        position += READ
    driver.disk.clock.sleep(0.5)
    assert driver.disk.ahead._units[0].sense


@pytest.mark.parametrize(
    ("cdb", "length", "data"),
    [(bytes(6), 0, None), (cdb10(0x2A, 0, 4), 0, bytes(4 * BLOCK))],
    ids=["test unit ready", "write"],
)
def test_any_command_tells_of_it(cdb: bytes, length: int, data: bytes | None) -> None:
    card = Card()
    driver = make(card)
    learn_of_a_change(driver, card)
    assert driver.command(INQUIRY, 36).status == 0  # which tells nothing
    found = driver.command(cdb, length, data)
    assert (found.status, found.residue) == (1, len(data or b""))
    assert driver.sense()[2:3] == b"\x06"
    if data is not None:
        assert card.generations(read(driver, 0, 4).data, 0) == {1}
    driver.finish()


def test_sense_data_that_nobody_asks_for_are_forgotten() -> None:
    card = Card()
    driver = make(card)
    learn_of_a_change(driver, card)
    assert driver.command(bytes(6)).status == 1
    assert driver.command(bytes(6)).status == 0
    assert driver.sense()[2] == 0
    driver.finish()


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", seeds(8, 150))
def test_cards_that_change_at_any_moment_are_told_of(seed: int) -> None:
    """Every byte says of which block and of which card it is."""
    what = random.Random(seed)
    card = Card(bad={what.randrange(BLOCKS) for _ in range(seed % 3)})
    disk = Disk(
        card,
        AHEAD,
        delay=lambda: what.choice((0.0, 0.001, 0.02)) + what.random() / 100,
        bus_delay=lambda: what.choice((0.0, 0.0, 0.001)),
    )
    driver = Driver(disk)
    driver.command(INQUIRY, 36)
    driver.command(CAPACITY, 8)
    position, told, seen = 0, 0, {0}
    for _ in range(150):
        if what.random() < 0.05:
            moment = disk.clock.now + what.random() / 10
            disk.clock.at(moment, card.change)
        if what.random() < 0.05:
            disk.clock.sleep(what.random() * 2)
        if what.random() < 0.03 or position > BLOCKS - 64:
            position = what.randrange(BLOCKS - 64)
        count = what.choice((8, 16, 16, 16))
        found = read(driver, position, count)
        if found.status == 0:
            seen |= card.generations(found.data, position)
            assert len(seen) == 1, "data of two cards, and no word of a change"
            position += count
            continue
        key = driver.sense()[2]
        assert key in (3, 6)
        if key == 6:
            told += 1
            driver.command(CAPACITY, 8)
            disk.clock.step()
            last, seen = seen, set()
            while (found := read(driver, 0, 8)).status:
                assert driver.sense()[2] in (3, 6)
            seen = card.generations(found.data, 0)
            assert min(seen) >= max(last)
        else:
            position += count
    driver.finish()
    assert told or not card.generation
    assert not disk.degraded, disk.degraded


class WrongTagAhead(FlashDrive):
    """A status of a command of ours names another one."""

    def data_in(self, endpoint: int, room: int) -> Data | None:
        if self._phase.name == "STATUS" and self._tag & 0x80000000:
            self._tag += 1
        return super().data_in(endpoint, room)


class ShortAhead(FlashDrive):
    """A command of ours brings less than it should and says that all is well."""

    def data_in(self, endpoint: int, room: int) -> Data | None:
        if self._phase.name == "DATA_IN" and self._tag & 0x80000000:
            self._transfer.left, self._residue = 100, 100
        return super().data_in(endpoint, room)


@pytest.mark.parametrize("kind", [WrongTagAhead, ShortAhead])
def test_an_odd_device_is_not_read_ahead_any_more(kind: type[FlashDrive]) -> None:
    image = bytearray(random.Random(1).randbytes(BLOCKS * BLOCK))
    driver = make(kind(image))
    for n in range(30):
        found = read(driver, n * READ)
        if not found.is_recovered:
            assert (found.status, found.data) == (0, content(driver, n * READ))
    assert [mode for mode, _ in driver.disk.degraded] == [StorageMode.EARLY]
    assert len(driver.disk.asked) < 20
    driver.finish()


def test_another_size_of_the_medium_ends_the_stream() -> None:
    driver = make()
    position = get_going(driver)
    driver.disk.ahead._units[0].capacity = BLOCKS, BLOCK
    assert driver.command(CAPACITY, 8).status == 0
    assert driver.disk.ahead._stream is None
    assert read(driver, position).data == content(driver, position)
    driver.finish()


def test_a_setting_of_another_interface_waits_for_ours() -> None:
    driver = make()
    position = get_going(driver, 4)
    driver.control(SetupPacket.set_interface(5, 0))
    assert not driver.disk.ahead._own
    assert read(driver, position).data == content(driver, position)
    driver.finish()
