"""A serial port in use: what keeps its order, and what does not wait."""

import asyncio
import itertools

import pytest

from rusb.server.serial.chips import find_ports
from rusb.server.serial.driver import Flow, Line, LineErrors, Modem, Parity
from rusb.server.serial.port import MAX_WAITING, SerialPort
from rusb.usb.urb import Completion, Urb
from tests.support.chips import Cp210x
from tests.support.ftdi import Ftdi
from tests.support.guest_programs import until
from tests.support.serial_peers import Attached


class Rig:
    """An FTDI chip, and its port."""

    def __init__(self) -> None:
        self.chip = Ftdi()
        self.device = Attached(self.chip)
        (driver,) = find_ports(self.chip.descriptors)
        self.port = SerialPort(self.device, driver, itertools.count(1))
        self.came = bytearray()
        self.port.on_data = self.came.extend
        self.done: list[bool] = []


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_what_was_written_before_a_change_is_sent_as_it_was(rig: Rig) -> None:
    rig.port.open(Line(9600))
    await until(lambda: rig.chip.dtr)
    rig.chip.is_dead = True
    rig.port.write(b"a")
    rig.port.set_line(Line(19200, 7, Parity.EVEN), rig.done.append)
    rig.port.write(b"b")
    await asyncio.sleep(0.2)
    assert (rig.chip.baud, rig.done) == (9600, [])
    rig.chip.is_dead = False
    rig.chip.kick(rig.chip.OUT)
    await until(lambda: b"b" in rig.chip.seen)
    assert rig.chip.seen[b"a"][:3] == (9600, 8, "N")
    assert rig.chip.seen[b"b"][:3] == (19200, 7, "E")
    await until(lambda: rig.came == b"ab")
    assert rig.done == [True]
    rig.port.close()


async def test_what_is_written_after_a_change_waits_for_it(rig: Rig) -> None:
    rig.port.open(Line(9600))
    await until(lambda: rig.chip.dtr)
    held: list[tuple[Urb, Completion]] = []
    rig.device.held = held
    rig.port.set_line(Line(19200))
    rig.port.write(b"b")
    await asyncio.sleep(0.1)
    assert rig.chip.seen == {}
    rig.device.held = None
    for urb, complete in held:
        rig.device.submit(urb, complete)
    await until(lambda: rig.came == b"b")
    assert rig.chip.seen[b"b"][0] == 19200
    rig.port.close()


async def test_nothing_waits_for_ever_for_what_cannot_be_sent(rig: Rig) -> None:
    """DTR may be what the other end waits for."""
    rig.port.open(Line(9600))
    await until(lambda: rig.chip.dtr)
    rig.chip.is_dead = True
    rig.port.write(b"a")
    rig.port.set_outputs(dtr=False, rts=True, done=rig.done.append)
    await until(lambda: rig.done)
    assert (rig.chip.dtr, rig.chip.seen) == (False, {})
    rig.port.close()
    await until(lambda: not rig.chip.rts)
    rig.chip.is_dead = False
    rig.port.open(Line(9600))
    rig.port.write(b"b")
    await until(lambda: rig.came == b"b")  # "a" was given up
    rig.port.close()


async def test_purging_does_not_wait(rig: Rig) -> None:
    rig.port.open(Line(9600))
    await until(lambda: rig.chip.dtr)
    rig.chip.is_dead = True
    rig.port.write(bytes(MAX_WAITING))
    assert rig.port.is_full
    room: list[bool] = []
    rig.port.on_room = lambda: room.append(True)
    rig.port.purge(received=True, sent=True, done=rig.done.append)
    await until(lambda: rig.done)
    await until(lambda: room)
    assert not rig.port.is_full
    rig.chip.is_dead = False
    rig.port.write(b"b")
    await until(lambda: rig.came == b"b")
    rig.port.close()


async def test_a_flow_control_that_a_chip_has_not_is_refused() -> None:
    chip = Cp210x()
    (driver,) = find_ports(chip.descriptors)
    port = SerialPort(Attached(chip), driver, itertools.count(1))
    done: list[bool] = []
    driver.flows = frozenset((Flow.NONE,))  # type: ignore[misc]
    port.set_flow(Flow.HARDWARE, done.append)
    assert (done, port.flow) == ([False], Flow.NONE)


async def test_lines_and_errors_are_told_when_they_change(rig: Rig) -> None:
    told: list[tuple[Modem, LineErrors]] = []
    rig.port.on_status = lambda errors: told.append((rig.port.modem, errors))
    rig.port.open(Line(9600))
    await until(lambda: told)
    assert told == [(Modem.CTS | Modem.DSR | Modem.CD, LineErrors.NONE)]
    rig.port.set_break(is_on=True)
    await until(lambda: len(told) == 2)
    assert told[1][1] == LineErrors.BREAK
    rig.port.close()
    await until(lambda: not rig.chip.is_break)  # it ends with the program


async def test_a_line_that_is_refused_is_not_ours(rig: Rig) -> None:
    rig.port.open(Line(9600))
    await until(lambda: rig.chip.dtr)
    rig.chip.vendor = lambda setup, data: None  # type: ignore[method-assign]
    rig.port.set_line(Line(19200), rig.done.append)
    await until(lambda: rig.done)
    assert (rig.done, rig.port.line) == ([False], Line(9600))
    rig.port.close()


async def test_after_its_device_has_gone_nothing_happens(rig: Rig) -> None:
    rig.port.open(Line(9600))
    await until(lambda: rig.chip.dtr)
    rig.chip.is_dead = True
    rig.port.write(bytes(4096))
    rig.port.gone()
    rig.chip.power_off()
    count = len(rig.chip.requests)
    rig.port.write(b"x")
    rig.port.set_line(Line(1), rig.done.append)
    rig.port.close()
    rig.port.open(Line(9600))
    await asyncio.sleep(0.1)
    assert rig.done == [False]
    assert len(rig.chip.requests) == count
    assert not rig.port.is_open
