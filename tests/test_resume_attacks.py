"""Who may go on with a session, and who may not (docs/spec/resume.md 4, 9)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rusb.client import pulse
from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.connection import Connection
from rusb.client.devices import DeviceCatalog
from rusb.client.extension import Extension as ClientExtension
from rusb.client.extension import Ticket
from rusb.client.redial import RESUME_SECONDS
from rusb.client.session import ClientSession, connect
from rusb.errors import ConnectionLost, ServerBusy
from rusb.rdp.channels import ChannelListener, ChannelRegistry
from rusb.rdp.cookie import Cookie
from rusb.rdp.lane import ACK_MESSAGES
from rusb.rdp.rusbext import RUSBEXT, Accept, Ack, Feature, Resume
from rusb.server import client_usb, extension
from rusb.server.parking import MAX_PARKED, MAX_PARKED_PER_NETWORK
from rusb.server.session import MAX_LINES
from rusb.usb.setup import SetupPacket
from rusb.usb.urb import UrbStatus
from tests.support.amount import IS_SOAK
from tests.support.breaking import Net, Wire, until
from tests.support.whole_path import machine, rdp_of, stream_of


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Net]:
    found = Net(tmp_path, machine())
    async with asyncio.timeout(None if IS_SOAK else 60), found.server:
        found.wire = Wire(found.server.port)
        async with found.wire.up():
            yield found


@pytest.fixture
def quick_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """It notices silence five times as fast."""
    for name in ("QUIET", "SILENCE", "LOOK"):
        monkeypatch.setattr(pulse, name, getattr(pulse, name) / 5)


def ticket_of(session: ClientSession) -> Ticket:
    """Return what it may come back with."""
    ticket = session._connections.ticket
    assert ticket is not None
    return ticket


class Counted:
    """A wire's link that has taken so many messages."""

    def __init__(self, messages: int) -> None:
        self.messages = messages

    def carry(self, send: Callable[..., None], flush: Callable[[], None]) -> None:
        pass

    def received(self, channel: int, data: bytes) -> None:
        pass

    def finished(self) -> None:
        pass


class Thief:
    """Somebody who wants to go on with a session."""

    def __init__(self, lab: Net, victim: ClientSession) -> None:
        self.lab = lab
        lab.server.machine.remote_display.allow_multi_connection = True
        own = ticket_of(victim)
        self.ticket = Ticket(own.id, 60, own.protocol, own.link)
        self.has(own.lane.received)
        self.user = ""

    def has(self, count: int) -> None:
        """It says that so many messages have arrived."""
        self.ticket.lane.serve(Counted(count))

    async def try_it(self) -> None:
        """Dial, and see that it does not work out."""
        config = replace(self.lab.config(), user=self.user)
        session = ClientSession(config, DeviceCatalog([]))
        with pytest.raises(ConnectionLost):
            await session._connections.resume(self.ticket, RESUME_SECONDS)


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
        thief.ticket._key = ticket_of(victim)._key
        thief.user = "mallory"
        await stolen(lab, thief, "another user or screen had it")


@pytest.mark.parametrize("part", ["nonce", "certificate", "count"])
async def test_a_signature_holds_for_one_connection_alone(lab: Net, part: str) -> None:
    """A recorded RESUME; one over the certificate of a man in the middle."""
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as victim:
        await lab.guest.wait_for(1)
        thief = Thief(lab, victim)
        key = ticket_of(victim)._key
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
        thief.ticket._key = ticket_of(victim)._key
        thief.has(count)
        await stolen(lab, thief, f"{count} messages cannot be")


async def test_an_unknown_session_is_refused(lab: Net) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as victim:
        await lab.guest.wait_for(1)
        thief = Thief(lab, victim)
        thief.ticket.id = bytes(16)
        await stolen(lab, thief, "there is no such session")


async def test_ten_thousand_attempts_disturb_nobody(lab: Net) -> None:
    """On one connection; what is said of them in the log is bounded."""
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        (device,) = await lab.guest.wait_for(1)
        lab.server.machine.remote_display.allow_multi_connection = True
        other = await returning(lab, None)
        control = other.rdp.find_channel(RUSBEXT)
        assert control is not None
        for number in range(10_000):
            message = Resume(1, number.to_bytes(16, "big"), 0, bytes(64)).serialize()
            other.rdp.send_channel(control, message)
            other.flush()
            if number % 1000 == 0:
                result = await device.read(Loopback.SOURCE, 4096)
                assert result.status is UrbStatus.OK
        await lab.wait_log("may not resume: there is no such session")
        await other.aclose()
        result = await device.read(Loopback.SOURCE, 4096)
        assert result.status is UrbStatus.OK
        assert lab.log().count("may not resume") <= MAX_LINES + 50
        assert lab.told().count("again after") == 0


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


async def test_no_more_than_sixteen_are_waited_for(lab: Net) -> None:
    """From several networks; the oldest makes room."""
    lab.server.machine.remote_display.allow_multi_connection = True
    networks = MAX_PARKED // MAX_PARKED_PER_NETWORK + 1
    async with contextlib.AsyncExitStack() as stack:
        wires = []
        for network in range(networks):
            wire = Wire(lab.server.port, f"127.0.0.{network + 2}")
            await stack.enter_async_context(wire.up())
            wires.append(wire)
        for number in range(MAX_PARKED + 1):
            wire = wires[number // MAX_PARKED_PER_NETWORK]
            config = replace(lab.config(), client_name=f"d{number}", port=wire.port)
            backend = EmulatedBackend(devices=[Loopback()])
            await stack.enter_async_context(connect(config, backends=[backend]))
        await lab.guest.wait_for(MAX_PARKED + 1)
        for wire in wires:
            wire.is_down = True
            wire.cut()
        await lab.wait_log("not resumed: too many clients are waited for")
        await lab.guest.wait_for(MAX_PARKED)
        assert lab.log().count("not resumed") == 1


async def test_a_client_that_asks_and_does_not_answer_gets_its_usb(
    lab: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And may not change its mind."""
    monkeypatch.setattr(extension, "HOLD_BACK", 0.2)
    monkeypatch.setattr(ClientExtension, "_hello", lambda *_: None)
    config = replace(lab.config(), reconnect=False)
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


async def test_a_client_that_will_not_come_back_gets_its_usb_at_once(
    lab: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so, and hears all the same what the server has to tell (STAY)."""
    monkeypatch.setattr(extension, "HOLD_BACK", 60.0)
    config = replace(lab.config(), reconnect=False)
    backend = EmulatedBackend(devices=[Loopback()])
    async with connect(config, backends=[backend]) as session:
        await lab.guest.wait_for(1)
        assert rdp_of(session).find_channel(RUSBEXT) is not None
        lab.wire.cut()
        await lab.guest.wait_for(0)  # nobody is waited for
        with pytest.raises(ConnectionLost):
            await session.wait_closed()


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


async def test_a_client_that_acknowledges_nothing_is_left(
    lab: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what it answers to would be kept for ever, and more of it."""
    monkeypatch.setattr(extension, "MOST_KEPT", 100_000)
    monkeypatch.setattr(extension, "LOOK", 0.05)
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as session:
        (device,) = await lab.guest.wait_for(1)
        lab.wire.is_down = True
        monkeypatch.setattr(ticket_of(session).lane, "_acknowledge", lambda where: None)
        while (await device.read(Loopback.SOURCE, 8)).status is UrbStatus.OK:
            pass
        await lab.wait_log("the client acknowledges nothing")
        await lab.guest.wait_for(0)
        assert "keeping" not in lab.log()


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
@pytest.mark.parametrize("how", ["silence", "reset"])
async def test_a_client_replaces_its_own_dead_connection(
    one_at_a_time: Net, how: str, *, reuse: bool
) -> None:
    """The server has not noticed anything; the cookie says whose the new one is."""
    lab = one_at_a_time
    lab.server.machine.remote_display.reuse_single_connection = reuse
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        (device,) = await lab.guest.wait_for(1)
        for count in (1, 2):  # the cookie is good for as long as the session
            lab.wire.silence()
            if how == "reset":
                lab.wire.cut(is_far_told=False)
            await lab.wait_log("Remote USB: resumed after", count)
            result = await device.read(Loopback.SOURCE, 512)
            assert result.status is UrbStatus.OK
        assert await lab.guest.wait_for(1) == [device]
    assert "not enabled" not in lab.log()
    assert "disconnect" not in lab.log().partition("Remote USB: resumed")[0].lower()


def shown(lab: Net) -> Cookie:
    (ticket,) = lab.server._host.parking._tickets.values()
    return ticket.cookie


async def returning(lab: Net, cookie: Cookie | None, **changes: object) -> Connection:
    """Somebody with a cookie, or none, has logged on, and asks for rusb's channel."""
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
    monkeypatch.setattr(client_usb, "PROOF_SECONDS", 2.0)
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
