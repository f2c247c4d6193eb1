"""Devices stay in the guest while a connection is lost (docs/spec/resume.md)."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from rusb.client import pulse
from rusb.client.backends.emulated import (
    EmulatedBackend,
    Keyboard,
    Loopback,
    SerialLoopback,
)
from rusb.client.connection import Connection
from rusb.client.redial import BELIEVED
from rusb.client.session import connect
from rusb.errors import AuthenticationError
from rusb.server import extension
from rusb.server.auth import Decision, Request
from rusb.server.guests.loopback import LoopbackDevice
from rusb.server.session import ServerSession
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import UrbResult, UrbStatus
from tests.support.amount import IS_SOAK, chance, inputs
from tests.support.breaking import Net, Wire, until
from tests.support.whole_path import machine, sessions_of


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Net]:
    found = Net(tmp_path, machine())
    async with asyncio.timeout(None if IS_SOAK else 60), found.server:
        found.wire = Wire(found.server.port)
        async with found.wire.up():
            yield found


async def test_a_reset_of_the_connection_is_not_seen_by_the_guest(lab: Net) -> None:
    loopback = Loopback()
    async with lab.client(EmulatedBackend(devices=[loopback])):
        (device,) = await lab.guest.wait_for(1)
        for count in range(1, 4):
            reads = [
                asyncio.ensure_future(device.read(Loopback.SOURCE, 65536))
                for _ in range(20)
            ]
            await asyncio.sleep(0.01)
            lab.wire.cut()
            results = await asyncio.gather(*reads)
            assert {r.status for r in results} == {UrbStatus.OK}
            await lab.wait_log("Remote USB: resumed after", count)
            while lab.told().count("again after") < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await lab.guest.wait_for(1) == [device]
    await lab.wait_log("VUSB: Detached")
    assert lab.log().count("VUSB: Attached") == 1
    assert lab.log().count("Remote USB: link lost, keeping 1 device for 60 s") == 3
    assert lab.told().count("again after") == 3


@pytest.fixture
def quick_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """It notices silence five times as fast."""
    for name in ("QUIET", "SILENCE", "LOOK"):
        monkeypatch.setattr(pulse, name, getattr(pulse, name) / 5)


@pytest.fixture
def quick(quick_client: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server, too."""
    for name in ("SILENCE", "LOOK"):
        monkeypatch.setattr(extension, name, getattr(extension, name) / 5)


@pytest.mark.usefixtures("quick")
async def test_silence_is_noticed_by_both_ends_and_resumed(lab: Net) -> None:
    """Packets are lost and no end is told: without a reset TCP waits for minutes."""
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        (device,) = await lab.guest.wait_for(1)
        lab.wire.silence()
        result = await device.read(Loopback.SOURCE, 65536)
        assert result.status is UrbStatus.OK
        await lab.wait_told("again after")
        assert "is silent. Connecting again; the guest keeps the devices" in lab.told()
        assert await lab.guest.wait_for(1) == [device]
    assert lab.log().count("VUSB: Attached") == 1


@pytest.mark.usefixtures("quick_client")  # to the server it is all right
async def test_the_old_connection_wins_if_it_speaks_first(lab: Net) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as session:
        (device,) = await lab.guest.wait_for(1)
        lab.wire.is_down = True  # nobody answers a second one
        lab.wire.hold()
        await lab.wait_told("is silent")
        lab.wire.let_go()
        await lab.wait_told("answers again")
        assert session.is_connected
        result = await device.read(Loopback.SOURCE, 512)
        assert result.status is UrbStatus.OK


async def test_a_goodbye_ends_a_session_at_once(lab: Net) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        await lab.guest.wait_for(1)
    await lab.guest.wait_for(0)
    assert "keeping" not in lab.log()
    await until(lambda: not lab.server._host.parking._tickets)


async def test_a_client_that_does_not_come_back_is_given_up(lab: Net) -> None:
    lab.server.machine.resume = 3.0
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        await lab.guest.wait_for(1)
        lab.wire.is_down = True
        lab.wire.cut()
        await lab.wait_log("Remote USB: link lost, keeping 1 device for 3 s")
        (state,) = lab.server.devices()
        assert state.attached
        assert state.grace is not None
        assert 0 < state.grace <= 3
        await lab.guest.wait_for(0)
        await lab.wait_log("Remote USB: not resumed: its client did not come back")
        assert lab.server.devices() == ()
        await lab.wait_told("no longer keeps the devices: the connection was lost for")
        lab.wire.is_down = False
        await lab.guest.wait_for(1)
        await lab.wait_told("again (TLS")
    assert lab.log().count("VUSB: Attached") == 2


async def test_a_server_without_resume_gets_the_devices_anew(lab: Net) -> None:
    lab.server.machine.resume = 0.0
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        await lab.guest.wait_for(1)
        lab.wire.cut()
        await lab.wait_told("again (TLS")
        await until(lambda: lab.log().count("VUSB: Attached") == 2)
    assert "keeping" not in lab.log()
    assert "Connecting again\n" in lab.told()


async def test_another_server_gets_the_devices_anew(lab: Net, tmp_path: Path) -> None:
    """It was restarted: it does not know the session."""
    (tmp_path / "other").mkdir()
    other = Net(tmp_path / "other", machine())
    other.server.config.state = lab.folder  # the same certificate
    async with other.server, lab.client(EmulatedBackend(devices=[Loopback()])):
        await lab.guest.wait_for(1)
        lab.wire.far = other.server.port
        lab.wire.cut()
        await other.guest.wait_for(1)
        assert "it was restarted, its guest ended, or" in lab.told()
        assert "may not resume: there is no such session" in other.log()


async def test_a_certificate_that_is_not_trusted_ends_it(
    lab: Net, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Net(tmp_path / "other", machine())
    backend = EmulatedBackend(devices=[Loopback()])
    async with other.server, lab.client(backend) as session:
        await lab.guest.wait_for(1)
        lab.wire.far = other.server.port
        lab.wire.cut()
        with pytest.raises(Exception, match="certificate"):
            await session.wait_closed()


async def test_a_refusal_that_is_repeated_ends_it(
    lab: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def refuse(*_: object) -> None:
        nonlocal asked
        asked += 1
        raise AuthenticationError("no")

    async with lab.client(EmulatedBackend(devices=[Loopback()])) as session:
        await lab.guest.wait_for(1)
        monkeypatch.setattr(Connection, "open", refuse)
        lab.wire.cut()
        with pytest.raises(AuthenticationError):
            await session.wait_closed()
    assert asked == 3


async def test_a_cut_during_the_logon_is_no_refusal(
    lab: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often: our server says so when it refuses somebody."""
    authenticator = lab.server.authenticator
    check, cuts = authenticator.check, 0

    async def cut(request: Request) -> Decision:
        nonlocal cuts
        if cuts < BELIEVED + 1:
            cuts += 1
            for one in lab.server._sessions:
                if isinstance(one, ServerSession) and one.is_waiting:
                    one.stream.abort()
        return await check(request)

    async with lab.client(EmulatedBackend(devices=[Loopback()])) as session:
        (device,) = await lab.guest.wait_for(1)
        monkeypatch.setattr(authenticator, "check", cut)
        lab.wire.cut()
        await lab.wait_told("again after")
        assert cuts == BELIEVED + 1
        assert session.is_connected
        assert await lab.guest.wait_for(1) == [device]


async def test_a_new_session_of_the_same_user_takes_its_device_over(lab: Net) -> None:
    """The client was restarted: its former self is waited for in vain."""
    async with lab.client(EmulatedBackend(devices=[Loopback(), Keyboard()])):
        await lab.guest.wait_for(2)
        lab.wire.is_down = True
        lab.wire.cut()
        await lab.wait_log("keeping 2 devices")
        async with Wire(lab.server.port).up() as second:
            config = replace(lab.config(), port=second.port)
            backend = EmulatedBackend(devices=[Loopback()])
            async with connect(config, backends=[backend]):
                await lab.wait_log("not resumed: the client has come back without it")
                await until(lambda: lab.log().count("VUSB: Attached") == 3)
                await lab.guest.wait_for(1)


@pytest.mark.parametrize("which", ["user", "domain", "client_name", "another device"])
async def test_nobody_else_takes_a_device_over(lab: Net, which: str) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        await lab.guest.wait_for(1)
        lab.wire.is_down = True
        lab.wire.cut()
        await lab.wait_log("keeping 1 device")
        async with Wire(lab.server.port).up() as second:
            config = replace(lab.config(), port=second.port)
            backend = EmulatedBackend(devices=[Loopback()])
            if which == "another device":
                backend = EmulatedBackend(devices=[Keyboard()])
            else:
                setattr(config, which, "mallory")
            async with connect(config, backends=[backend]):
                await lab.guest.wait_for(2)
                assert "not resumed" not in lab.log()


# ------------------------------------------------------------------- waiting ----


async def test_a_device_that_waits_is_detached_by_hand(lab: Net) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback(), Keyboard()])):
        await lab.guest.wait_for(2)
        first, second = lab.server.devices()
        assert not lab.server.detach(first.uuid)  # the filters decide
        lab.wire.is_down = True
        lab.wire.cut()
        await lab.wait_log("keeping 2 devices")
        assert not lab.server.detach("REMOTEUSB0x00000009&0x00000001")
        assert lab.server.detach(first.uuid)
        await lab.guest.wait_for(1)
        assert "not resumed" not in lab.log()
        assert lab.server.detach(second.address.lower())
        await lab.guest.wait_for(0)
        await lab.wait_log("not resumed: its last device was detached with controlvm")


async def test_what_is_kept_is_bounded_while_the_guest_writes(
    lab: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extension, "WINDOW", 1 << 20)
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        (device,) = await lab.guest.wait_for(1)
        lab.wire.is_down = True
        lab.wire.cut()
        await lab.wait_log("keeping 1 device")
        (parked,) = lab.server._host.parking._parked.values()
        assert parked.ticket is not None
        lane = parked.ticket.lane
        held: list[bool] = []
        device.attached.watch_pressure(held.append)
        writes = []
        while not held:
            writes.append(
                asyncio.ensure_future(device.write(Loopback.SINK, bytes(65536)))
            )
            await asyncio.sleep(0)
        assert 1 << 20 < lane.size < (1 << 20) + (128 << 10)
        lab.wire.is_down = False
        results = await asyncio.gather(*writes)
        assert {(r.status, r.length) for r in results} == {(UrbStatus.OK, 65536)}
        while held[-1]:  # noqa: ASYNC110 - what says what has arrived may come later
            await asyncio.sleep(0.01)


async def test_a_guest_is_answered_while_its_client_is_away(lab: Net) -> None:
    """Linux gives a device up whose descriptors it cannot read after a reset."""
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        (device,) = await lab.guest.wait_for(1)
        string = SetupPacket.get_descriptor(3, 2, 255, 0x0409)
        before = await device.control(string)
        lab.wire.is_down = True
        lab.wire.cut()
        await lab.wait_log("keeping 1 device")
        async with asyncio.timeout(20):
            given_up: list[UrbResult] = []
            number = device.submit(
                *(TransferType.BULK, Loopback.SINK, 8, bytes(8)), given_up.append
            )
            device.attached.cancel(number)
            assert [result.status for result in given_up] == [UrbStatus.CANCELLED]
            device.attached.reset()
            for setup in (SetupPacket.get_descriptor(1, length=18), string):
                assert (await device.control(setup)).status is UrbStatus.OK
            assert bytes((await device.control(string)).data) == bytes(before.data)
            short = SetupPacket.get_descriptor(3, 2, 4, 0x0409)
            assert bytes((await device.control(short)).data) == bytes(before.data)[:4]
        lab.wire.is_down = False
        result = await device.read(Loopback.SOURCE, 512)
        assert result.status is UrbStatus.OK
    assert lab.log().count("VUSB: Attached") == 1


async def test_a_serial_port_is_cleared_while_its_client_is_away(lab: Net) -> None:
    """What is kept at it is given up at once then, and the request leaves once."""
    async with lab.client(EmulatedBackend(devices=[SerialLoopback()])):
        (device,) = await lab.guest.wait_for(1)
        for number in range(4):
            await device.write(SerialLoopback.OUT, bytes((number,)))
            read = await device.read(SerialLoopback.IN, 512)
            assert bytes(read.data) == bytes((number,))
        lab.wire.is_down = True
        lab.wire.cut()
        await lab.wait_log("keeping 1 device")
        setup = SetupPacket.clear_halt(SerialLoopback.IN)
        cleared = asyncio.ensure_future(device.control(setup))
        await asyncio.sleep(0)
        lab.wire.is_down = False
        assert (await cleared).status is UrbStatus.OK
        await device.write(SerialLoopback.OUT, b"again")
        read = await device.read(SerialLoopback.IN, 512)
        assert bytes(read.data) == b"again"


async def test_nothing_is_left_of_a_connection_that_another_one_replaced(
    lab: Net,
) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        await lab.guest.wait_for(1)
        for count in (1, 2, 3):
            lab.wire.cut()
            await lab.wait_log("Remote USB: resumed after", count)
        (session,) = sessions_of(lab.server)
        assert list(lab.server._host._devices) == [session.number]


async def test_time_stands_still_for_the_wire_while_there_is_no_connection(
    lab: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No control transfer is late because of an outage."""
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        (device,) = await lab.guest.wait_for(1)
        (session,) = sessions_of(lab.server)
        (devices,) = session.usb.devices
        lab.wire.is_down = True
        lab.wire.cut()
        await lab.wait_log("keeping 1 device")
        before = devices.link.now()
        monkeypatch.setattr(devices.link.core, "_control_timeout", 1.0)
        answer = asyncio.ensure_future(
            device.control(SetupPacket.get_descriptor(3, 3, 255))
        )
        await asyncio.sleep(1.5)
        assert devices.link.now() == before
        lab.wire.is_down = False
        assert (await answer).status is not UrbStatus.TIMEOUT


async def test_a_key_that_is_let_go_meanwhile_is_let_go(lab: Net) -> None:
    """What happened at the client is told afterwards, each report once, in order."""
    keyboard = Keyboard()
    async with lab.client(EmulatedBackend(devices=[keyboard])):
        (device,) = await lab.guest.wait_for(1)
        await device.control(SetupPacket.set_configuration(1))

        async def report() -> bytes:
            result = await device.read(Keyboard.IN, 8, TransferType.INTERRUPT)
            assert result.status is UrbStatus.OK
            return bytes(result.data)

        pressed = asyncio.ensure_future(report())
        await asyncio.sleep(0.1)
        keyboard.press(4)
        assert (await pressed)[2] == 4
        released = asyncio.ensure_future(report())
        lab.wire.is_down = True
        lab.wire.cut()
        await lab.wait_log("keeping 1 device")
        keyboard.press()
        keyboard.press(5)
        assert not released.done()
        lab.wire.is_down = False
        assert await released == bytes(8)
        assert (await report())[2] == 5
    assert lab.log().count("VUSB: Attached") == 1


# --------------------------------------------------------------------- numbers ----


class Numbers:
    """Numbers that go to a device and come back from it, some on their way at once."""

    def __init__(self, device: LoopbackDevice, count: int) -> None:
        self._device = device
        self._count = count
        self._sent = self._asked = 0
        self.came: list[int] = []
        self.written = 0
        self.wrong: list[UrbResult] = []
        self.is_done = asyncio.Event()
        for _ in range(8):
            self._write()
            self._read()

    def _write(self) -> None:
        if self._sent < self._count:
            data = self._sent.to_bytes(8, "little")
            self._sent += 1
            endpoint = Loopback.BULK_OUT
            self._device.submit(TransferType.BULK, endpoint, 8, data, self._wrote)

    def _read(self) -> None:
        if self._asked < self._count:
            self._asked += 1
            endpoint = Loopback.BULK_IN
            self._device.submit(TransferType.BULK, endpoint, 512, b"", self._took)

    def _wrote(self, result: UrbResult) -> None:
        self.written += 1
        if result.status is not UrbStatus.OK:
            self.wrong.append(result)
        self._write()

    def _took(self, result: UrbResult) -> None:
        if result.status is not UrbStatus.OK:
            self.wrong.append(result)
        self.came.append(int.from_bytes(result.data, "little"))
        self._read()
        if len(self.came) == self._count or self.wrong:
            self.is_done.set()


@pytest.mark.soak
@pytest.mark.usefixtures("quick")
async def test_no_urb_is_lost_doubled_or_out_of_order(lab: Net) -> None:
    """Resets and silence, also while what was lost comes again."""
    count = inputs(10_000, 2)
    source = chance(11)
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        (device,) = await lab.guest.wait_for(1)
        numbers = Numbers(device, count)

        async def disturb() -> None:
            while True:
                enough = len(numbers.came) + source.randrange(500, 2500)
                while len(numbers.came) < enough:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                if source.random() < 0.15:
                    lab.wire.silence()
                else:
                    lab.wire.cut()
                    if source.random() < 0.5:  # again, in the replay
                        await asyncio.sleep(source.uniform(0, 0.05))
                        lab.wire.cut()

        task = asyncio.ensure_future(disturb())
        async with asyncio.timeout(None if IS_SOAK else 50):
            await numbers.is_done.wait()
        task.cancel()
    assert numbers.wrong == []
    assert numbers.came == list(range(count))
    assert numbers.written == count
    assert lab.log().count("Remote USB: resumed after") > 2
    assert lab.log().count("VUSB: Attached") == 1
