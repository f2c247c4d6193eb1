"""Devices stay in the guest while a connection is lost (docs/spec/resume.md)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from rusb.client import pulse
from rusb.client.backends.emulated import EmulatedBackend, Keyboard, Loopback
from rusb.client.connection import Connection
from rusb.client.devices import DeviceCatalog
from rusb.client.extension import Ticket
from rusb.client.session import ClientSession, connect
from rusb.errors import AuthenticationError, ConnectionLost, ServerBusy
from rusb.rdp.channels import ChannelListener, ChannelRegistry
from rusb.rdp.cookie import Cookie
from rusb.rdp.lane import ACK_MESSAGES
from rusb.rdp.rusbext import RUSBEXT, Accept, Ack, Feature
from rusb.server import extension
from rusb.server import session as server_session
from rusb.server.guests.loopback import LoopbackDevice
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import UrbResult, UrbStatus
from tests.support.amount import IS_SOAK, chance, inputs
from tests.support.breaking import Net, Wire, until
from tests.support.whole_path import machine, rdp_of, sessions_of, stream_of


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
        assert "it was restarted, or its guest ended" in lab.told()
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


# ------------------------------------------------------------------ attacks ----


class Thief:
    """Somebody who wants to go on with a session."""

    def __init__(self, lab: Net, victim: ClientSession) -> None:
        assert victim._ticket is not None
        self.lab = lab
        lab.server.machine.remote_display.allow_multi_connection = True
        self.ticket = Ticket(
            victim._ticket.id, 60, victim._ticket.protocol, victim._ticket.link
        )
        self.ticket.lane.received = victim._ticket.lane.received
        self.user = ""

    async def try_it(self) -> None:
        """Dial, and see that it does not work out."""
        config = replace(self.lab.config(), user=self.user)
        session = ClientSession(config, DeviceCatalog([]))
        session._ticket = None
        with pytest.raises(ConnectionLost):
            await session._resume(self.ticket)


async def stolen(lab: Net, thief: Thief, why: str) -> None:
    """It is refused for the right reason; the victim's session goes on."""
    await thief.try_it()
    await lab.wait_log(f"may not resume: {why}")
    (device,) = await lab.guest.wait_for(1)
    result = await device.read(Loopback.SOURCE, 65536)
    assert result.status is UrbStatus.OK
    assert lab.told().count("again after") == 0


async def test_another_key_resumes_nothing(lab: Net) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as victim:
        await lab.guest.wait_for(1)
        await stolen(lab, Thief(lab, victim), "the signature is wrong")


async def test_a_copied_key_of_another_user_resumes_nothing(lab: Net) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as victim:
        await lab.guest.wait_for(1)
        thief = Thief(lab, victim)
        assert victim._ticket is not None
        thief.ticket._key = victim._ticket._key
        thief.user = "mallory"
        await stolen(lab, thief, "another user or screen had it")


@pytest.mark.parametrize("part", ["nonce", "certificate", "count"])
async def test_a_signature_holds_for_one_connection_alone(lab: Net, part: str) -> None:
    """A recorded RESUME; one over the certificate of a man in the middle."""
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as victim:
        await lab.guest.wait_for(1)
        thief = Thief(lab, victim)
        assert victim._ticket is not None
        key = victim._ticket._key
        where = {"nonce": 14, "certificate": 70, "count": 62}[part]

        def sign(text: bytes) -> bytes:
            changed = bytearray(text)
            changed[where] ^= 1
            return key.sign(bytes(changed))

        thief.ticket.sign = sign  # type: ignore[method-assign]
        await stolen(lab, thief, "the signature is wrong")


@pytest.mark.parametrize("count", [0, 1 << 63, 5000])
async def test_counts_that_cannot_be_resume_nothing(lab: Net, count: int) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as victim:
        (device,) = await lab.guest.wait_for(1)
        for _ in range(ACK_MESSAGES + 50):  # so that 0 has been freed
            await device.control(SetupPacket.get_descriptor(3, 1, 255))
        thief = Thief(lab, victim)
        assert victim._ticket is not None
        thief.ticket._key = victim._ticket._key
        thief.ticket.lane.received = count
        await stolen(lab, thief, f"{count} messages cannot be")


async def test_an_unknown_session_is_refused(lab: Net) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as victim:
        await lab.guest.wait_for(1)
        thief = Thief(lab, victim)
        thief.ticket.id = bytes(16)
        await stolen(lab, thief, "there is no such session")


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
        assert held[-1] is False


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


async def test_time_stands_still_for_the_wire_while_there_is_no_connection(
    lab: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No control transfer is late because of an outage."""
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        (device,) = await lab.guest.wait_for(1)
        (session,) = sessions_of(lab.server)
        (devices,) = session.devices
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


async def test_many_that_wait_make_room(lab: Net) -> None:
    """Of one network four are waited for; the oldest goes."""
    lab.server.machine.remote_display.allow_multi_connection = True
    async with contextlib.AsyncExitStack() as stack:
        for number in range(5):
            config = replace(lab.config(), client_name=f"desk{number}")
            backend = EmulatedBackend(devices=[Loopback()])
            await stack.enter_async_context(connect(config, backends=[backend]))
        await lab.guest.wait_for(5)
        lab.wire.is_down = True
        lab.wire.cut()
        await lab.wait_log("not resumed: too many clients of its network")
        await lab.guest.wait_for(4)


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
                await asyncio.sleep(source.uniform(0.1, 0.5))
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


async def test_a_client_that_asks_and_does_not_answer_gets_its_usb(
    lab: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And may not change its mind."""
    monkeypatch.setattr(extension, "HOLD_BACK", 0.2)
    config = replace(lab.config(), reconnect=False, channels=(RUSBEXT,))
    backend = EmulatedBackend(devices=[Loopback()])
    async with connect(config, backends=[backend]) as session:
        await lab.guest.wait_for(1)
        control = rdp_of(session).find_channel(RUSBEXT)
        assert control is not None
        message = Accept(1, Feature.RESUME, 0, bytes(32)).serialize()
        rdp_of(session).send_channel(control, message)
        stream_of(session).flush()
        await lab.wait_log("rusbext: a second session on a connection")
        await lab.guest.wait_for(0)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x02\x00\x2e\x00",
        b"\x03\x00\x5e\x00" + bytes(20),
        b"\x10\x00\x04\x00",
        Ack(1 << 40).serialize(),
        Accept(1, Feature.RESUME, 0, bytes(32)).serialize(),
        bytes(1 << 20),
    ],
    ids=lambda message: message[:8].hex(),
)
async def test_bad_messages_end_the_connection_and_are_not_waited_for(
    lab: Net, message: bytes
) -> None:
    """The session is over: whoever breaks the rules is given no grace."""
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as session:
        await lab.guest.wait_for(1)
        lab.wire.is_down = True
        control = rdp_of(session).find_channel(RUSBEXT)
        assert control is not None
        rdp_of(session).send_channel(control, message)
        stream_of(session).flush()
        await lab.guest.wait_for(0)
        assert "keeping" not in lab.log()
        assert not lab.server._host.parking._tickets


# ------------------------------------------------- the only connection allowed ----


@pytest.fixture
def one_at_a_time(lab: Net, monkeypatch: pytest.MonkeyPatch) -> Net:
    """A server that takes one client, and takes a silent one for alive."""
    monkeypatch.setattr(extension, "SILENCE", 1000.0)
    assert not lab.server.machine.remote_display.allow_multi_connection
    lab.is_usb_only = True
    return lab


@pytest.mark.usefixtures("quick_client")
@pytest.mark.parametrize("reuse", [False, True])
async def test_a_client_replaces_its_own_dead_connection(
    one_at_a_time: Net, *, reuse: bool
) -> None:
    """The server has not noticed anything; the cookie says whose the new one is."""
    lab = one_at_a_time
    lab.server.machine.remote_display.reuse_single_connection = reuse
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        (device,) = await lab.guest.wait_for(1)
        for count in (1, 2):  # the cookie is good for as long as the session
            lab.wire.silence()
            await lab.wait_log("Remote USB: resumed after", count)
            result = await device.read(Loopback.SOURCE, 512)
            assert result.status is UrbStatus.OK
        assert await lab.guest.wait_for(1) == [device]
    assert "not enabled" not in lab.log()
    assert "disconnect" not in lab.log().partition("Remote USB: resumed")[0].lower()


def shown(lab: Net) -> Cookie:
    (ticket,) = lab.server._host.parking._tickets.values()
    return ticket.cookie


async def returning(lab: Net, cookie: Cookie, **changes: object) -> Connection:
    """Somebody who shows a cookie has logged on, and asks for rusb's own channel."""
    config = replace(lab.config(), **changes)  # type: ignore[arg-type]
    wires = [ChannelListener("vrdpusb", lambda channel, name: None)]
    quiet = ChannelListener(RUSBEXT, lambda channel, name: None)
    found = Connection(
        config,
        ChannelRegistry([*wires, quiet]),
        on_lost=lambda error: None,
        on_trust=lambda event: None,
        cookie=cookie,
    )
    async with asyncio.timeout(20):
        await found.open(lambda stream: None)
    return found


@pytest.mark.parametrize("how", ["says nothing", "begins", "has no rusbext"])
async def test_who_shows_a_cookie_may_go_on_and_nothing_else(
    one_at_a_time: Net, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    lab = one_at_a_time
    monkeypatch.setattr(server_session, "PROOF_SECONDS", 2.0)
    monkeypatch.setattr(extension, "HOLD_BACK", 0.5)
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        (device,) = await lab.guest.wait_for(1)
        if how == "has no rusbext":
            with pytest.raises(ServerBusy):
                await connect_plainly(lab, shown(lab))
        else:
            other = await returning(lab, shown(lab))
            why = "it did not go on with its session within 2 s"
            if how == "begins":
                control = other.rdp.find_channel(RUSBEXT)
                assert control is not None
                message = Accept(1, Feature.RESUME, 0, bytes(32)).serialize()
                other.rdp.send_channel(control, message)
                other.flush()
                why = "it was let in to go on, and begins"
            await lab.wait_log(why)
            await until(lambda: other.is_over)
            await other.aclose()
        result = await device.read(Loopback.SOURCE, 512)
        assert result.status is UrbStatus.OK
        assert await lab.guest.wait_for(1) == [device]


async def connect_plainly(lab: Net, cookie: Cookie) -> None:
    listener = ChannelListener("vrdpusb", lambda channel, name: None)
    other = Connection(
        lab.config(),
        ChannelRegistry([listener]),
        on_lost=lambda error: None,
        on_trust=lambda event: None,
        cookie=cookie,
    )
    await other.open(lambda stream: None)


@pytest.mark.parametrize(
    "changes",
    [{"user": "mallory"}, {"domain": "mallory"}, {}],
    ids=str,
)
async def test_a_cookie_of_somebody_else_opens_nothing(
    one_at_a_time: Net, changes: dict[str, object]
) -> None:
    """Nor does a wrong one."""
    lab = one_at_a_time
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        await lab.guest.wait_for(1)
        cookie = shown(lab)
        if not changes:
            cookie = Cookie(cookie.logon, bytes(16))
        with pytest.raises(ServerBusy):
            await returning(lab, cookie, **changes)
