"""What a session tells its program, and what the program may decide."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.client import (
    ClientSession,
    SessionDevice,
    SessionEvent,
    Standing,
    connect,
    events,
)
from rusb.client.backends.emulated import EmulatedBackend, Keyboard, Loopback
from rusb.client.events import (
    CertificateTrusted,
    DeviceClosed,
    DeviceEvent,
    DeviceLost,
    DeviceOffered,
    DeviceOpened,
    DeviceRefused,
    DeviceWithdrawn,
    SecurityLowered,
)
from rusb.errors import BackendError, DeviceBusy, DeviceGone, NegotiationError
from rusb.filters import parse_offer
from rusb.usb.backend import LocalDevice, OpenDevice
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.urb import UrbStatus
from tests.support.whole_path import Lab, machine

GUIDE = Path(__file__).parents[2] / "docs" / "howto" / "program.md"


def test_every_event_is_in_the_guide() -> None:
    table = [
        line.split("|")[1] for line in GUIDE.read_text().splitlines() if "|" in line
    ]
    named = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    assert named | {"DeviceEvent", "SessionEvent"} == set(events.__all__)


class Program:
    """A program that uses the library: a session, and what it told."""

    def __init__(self, lab: Lab, backend: EmulatedBackend, *rules: str) -> None:
        self.lab = lab
        self.backend = backend
        self.config = lab.config()
        self.config.filters = tuple(map(parse_offer, rules))
        self.events: list[SessionEvent] = []
        self._changed = asyncio.Event()

    def note(self, event: SessionEvent) -> None:
        self.events.append(event)
        self._changed.set()

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[ClientSession]:
        async with connect(
            self.config, backends=[self.backend], on_event=self.note
        ) as session:
            yield session

    async def wait(self, *kinds: type[SessionEvent]) -> None:
        """Wait until events of these kinds came, in this order, after the others."""
        while True:
            left = list(kinds)
            for event in self.events:
                if left and isinstance(event, left[0]):
                    del left[0]
            if not left:
                return
            self._changed.clear()
            await self._changed.wait()

    def of(self, product: str) -> list[type[SessionEvent]]:
        """What happened to one device."""
        return [
            type(e)
            for e in self.events
            if isinstance(e, DeviceEvent) and e.device.product == product
        ]


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    found = Lab(tmp_path, machine())
    async with asyncio.timeout(20), found.server:
        yield found


def named(session: ClientSession, product: str) -> SessionDevice:
    (device,) = (d for d in session.devices if d.info.product == product)
    return device


async def test_a_device_is_offered_opened_and_closed(lab: Lab) -> None:
    program = Program(lab, EmulatedBackend(devices=[Loopback()]))
    async with program.session() as session:
        await program.wait(CertificateTrusted, DeviceOffered, DeviceOpened)
        (device,) = session.devices
        assert (device.info.product, device.is_open) == ("Loopback", True)
        assert device.standing is Standing.OFFERED
        (opened,) = [e for e in program.events if isinstance(e, DeviceOpened)]
        assert opened.device == device.info
        assert opened.server == f"127.0.0.1:{lab.server.port}"
    assert program.of("Loopback") == [DeviceOffered, DeviceOpened, DeviceClosed]


async def test_a_device_that_is_pulled_out_is_lost(lab: Lab) -> None:
    drive = Loopback()
    program = Program(lab, EmulatedBackend(devices=[drive]))
    async with program.session() as session:
        await program.wait(DeviceOpened)
        program.backend.unplug(drive)
        await program.wait(DeviceLost)
        assert session.devices == []
        await lab.guest.wait_for(0)
    (lost,) = [e for e in program.events if isinstance(e, DeviceLost)]
    assert str(lost) == "1209:0004 rusb Loopback was unplugged"
    assert program.of("Loopback") == [DeviceOffered, DeviceOpened, DeviceLost]


async def test_a_device_is_withdrawn_while_the_server_uses_it(lab: Lab) -> None:
    backend = EmulatedBackend(devices=[Loopback(), Keyboard()])
    program = Program(lab, backend)
    async with program.session() as session:
        await lab.guest.wait_for(2)
        (inside,) = (
            d for d in lab.guest.devices.values() if d.strings["product"] == "Loopback"
        )
        waiting = asyncio.create_task(inside.read(Loopback.BULK_IN, 64))
        device = named(session, "Loopback")
        await inside.control(
            SetupPacket(0xC0, Loopback.IDENTIFY, 0, 0, 15)
        )  # is behind
        session.withdraw(device.info.id)
        await program.wait(DeviceWithdrawn, DeviceClosed)
        assert (await waiting).status is UrbStatus.NO_DEVICE
        await lab.guest.wait_for(1)
        left = named(session, "Loopback")
        assert (left.standing, left.is_open) == (Standing.WITHDRAWN, False)
        assert left.info.id == device.info.id

        session.offer(device.info.id)
        await lab.guest.wait_for(2)
        assert named(session, "Loopback").standing is Standing.OFFERED
    assert program.of("Loopback") == [
        *(DeviceOffered, DeviceOpened, DeviceWithdrawn, DeviceClosed),
        *(DeviceOffered, DeviceOpened, DeviceClosed),
    ]
    assert program.of("Keyboard") == [DeviceOffered, DeviceOpened, DeviceClosed]


async def test_a_device_that_the_rules_exclude_can_be_offered(lab: Lab) -> None:
    backend = EmulatedBackend(devices=[Loopback(), Keyboard()])
    program = Program(lab, backend, "1209:0004")
    async with program.session() as session:
        await lab.guest.wait_for(1)
        keyboard = named(session, "Keyboard")
        assert keyboard.standing is Standing.EXCLUDED
        session.offer(keyboard.info.id)
        await lab.guest.wait_for(2)
    assert program.of("Keyboard")[0] is DeviceOffered


async def test_a_choice_ends_with_the_plug(lab: Lab) -> None:
    keyboard = Keyboard()
    program = Program(lab, EmulatedBackend(devices=[keyboard]))
    async with program.session() as session:
        await lab.guest.wait_for(1)
        number = named(session, "Keyboard").info.id
        session.withdraw(number)
        await lab.guest.wait_for(0)
        program.backend.unplug(keyboard)
        program.backend.plug(keyboard)
        await lab.guest.wait_for(1)
        with pytest.raises(DeviceGone):
            session.offer(number)
        with pytest.raises(DeviceGone):
            session.withdraw(number)


class Busy(EmulatedBackend):
    """Somebody else has its devices."""

    async def open(self, device: LocalDevice) -> OpenDevice:
        raise DeviceBusy("a file system on it is mounted")


async def test_a_refused_device_comes_with_the_error(lab: Lab) -> None:
    program = Program(lab, Busy(devices=[Loopback()]))
    async with program.session():
        await program.wait(DeviceRefused)
    (refused, *_) = [e for e in program.events if isinstance(e, DeviceRefused)]
    assert isinstance(refused.error, DeviceBusy)
    assert refused.reason == "a file system on it is mounted"
    assert str(refused) == f"cannot open {refused.device}: {refused.reason}"


STICK = DeviceInfo(3, 0x0951, 0x1666, product="Stick")


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            SecurityLowered(NegotiationError("no TLS", stage="tls"), "rdp"),
            "no TLS. Trying standard RDP security, which is weak",
        ),
        (
            DeviceOffered(STICK, BackendError("it is broken")),
            "offering 0951:1666 Stick; it cannot be used now: it is broken",
        ),
        (DeviceLost(STICK, "pulled out"), "0951:1666 Stick is gone: pulled out"),
        (
            DeviceClosed(STICK, "a bug"),
            "0951:1666 Stick was not given back cleanly: a bug",
        ),
        (DeviceWithdrawn(STICK), "0951:1666 Stick is no longer offered"),
    ],
)
def test_an_event_is_a_line_for_people(event: SessionEvent, line: str) -> None:
    assert str(event) == line
