"""Ends that speak rusb's own channel and break its rules (docs/spec/resume.md 3, 7)."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from rusb.client import extension as far
from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.connection import Connection
from rusb.client.extension import Ticket
from rusb.client.session import ClientSession
from rusb.errors import RemoteProtocolError
from rusb.rdp import rusbext
from rusb.rdp.channels import ChannelHandler, ChannelListener, ChannelRegistry
from rusb.rdp.connection import Connection as RdpConnection
from rusb.rdp.lane import ACK_MESSAGES
from rusb.rdp.rusbext import RUSBEXT, ExtMessage, Feature, Refusal
from rusb.server import extension as near
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import UrbResult, UrbStatus
from tests.support.breaking import Net, Wire, until
from tests.support.whole_path import machine


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Net]:
    found = Net(tmp_path, machine())
    found.server.machine.remote_display.allow_multi_connection = True
    async with asyncio.timeout(50), found.server:
        found.wire = Wire(found.server.port)
        async with found.wire.up():
            yield found


class Stranger(ChannelHandler):
    """Somebody who speaks the channel by hand.

    Attributes:
        heard: what the server has said on it.
        sent: what was sent last.
    """

    def __init__(self, lab: Net) -> None:
        self.heard: list[ExtMessage | None] = []
        self.sent = b""
        self._control = 0
        self.connection = Connection(
            replace(lab.config(), port=lab.server.port),
            ChannelRegistry(
                [
                    ChannelListener("vrdpusb", lambda channel, name: self),
                    ChannelListener(RUSBEXT, self._opened),
                ]
            ),
            on_lost=lambda error: None,
            on_trust=lambda event: None,
        )

    async def connect(self) -> "Stranger":
        await self.connection.open(lambda stream: None)
        await until(lambda: self.heard)
        return self

    def _opened(self, channel: int, name: str) -> "Stranger":
        self._control = channel
        return self

    def received(self, channel: int, data: bytes) -> None:
        if channel == self._control:
            self.heard.append(rusbext.parse(data))

    def closed(self, channel: int) -> None:
        """The connection is over."""

    def say(self, message: bytes) -> None:
        self.sent = message
        self.connection.rdp.send_channel(self._control, message)
        self.connection.flush()

    def resume(self, ticket: Ticket, count: int) -> None:
        """Ask to go on, with the key of the ticket."""
        hello = self.heard[0]
        assert isinstance(hello, rusbext.Hello)
        digest = hashlib.sha256(self.connection.certificate or b"").digest()
        text = rusbext.text_to_sign(hello.nonce, ticket.id, count, digest)
        self.say(rusbext.Resume(1, ticket.id, count, ticket.sign(text)).serialize())


def ticket_of(session: ClientSession) -> Ticket:
    ticket = session._connections.ticket
    assert ticket is not None
    return ticket


def mute(connection: RdpConnection) -> None:
    """Say nothing of what has come."""


# ------------------------------------------------------------ at the server ----


async def test_of_several_with_one_key_the_last_has_the_session(lab: Net) -> None:
    """A copied memory: they take it from each other, and the guest has one device."""
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as victim:
        (device,) = await lab.guest.wait_for(1)
        ticket = ticket_of(victim)
        first, second = [await Stranger(lab).connect() for _ in range(2)]
        for one in (first, second):
            one.resume(ticket, ticket.lane.received)
        await lab.wait_told("again after")
        await until(lambda: first.connection.is_over and second.connection.is_over)
        for one in (first, second):
            assert isinstance(one.heard[1], rusbext.Resumed)
            await one.connection.aclose()
        result = await device.read(Loopback.SOURCE, 65536)
        assert result.status is UrbStatus.OK
        assert await lab.guest.wait_for(1) == [device]
        assert lab.log().count("taken over from 127.0.0.1") >= 3
        assert list(lab.server._host.parking._tickets) == [ticket.id]
    await lab.guest.wait_for(0)
    assert lab.log().count("VUSB: Attached") == 1


async def test_a_recorded_resume_is_void(lab: Net) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as victim:
        (device,) = await lab.guest.wait_for(1)
        first, second = [await Stranger(lab).connect() for _ in range(2)]
        ticket = ticket_of(victim)
        first.resume(ticket, ticket.lane.received)
        await until(lambda: len(first.heard) > 1)
        await lab.wait_told("again after")
        second.say(first.sent)
        await lab.wait_log("may not resume: the signature is wrong")
        await until(lambda: second.connection.is_over)
        assert second.heard[1:] == [rusbext.Refused(Refusal.SIGNATURE)]
        result = await device.read(Loopback.SOURCE, 512)
        assert result.status is UrbStatus.OK
        assert await lab.guest.wait_for(1) == [device]


@pytest.mark.parametrize("key", [bytes(32), b"\1" + bytes(31), b"\xff" * 32])
async def test_a_key_that_is_none_begins_a_session_of_its_own(
    lab: Net, key: bytes
) -> None:
    """Whoever picks a key that anybody can sign with has nothing but its own."""
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        (device,) = await lab.guest.wait_for(1)
        other = await Stranger(lab).connect()
        other.say(rusbext.Accept(1, Feature.RESUME, 0, key).serialize())
        await until(lambda: len(lab.server._host.parking._tickets) == 2)
        await other.connection.aclose()
        await until(lambda: len(lab.server._host.parking._tickets) == 1)
        result = await device.read(Loopback.SOURCE, 512)
        assert result.status is UrbStatus.OK


async def test_a_client_that_keeps_nearly_nothing_is_served(
    lab: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window of a byte: the guest waits for each acknowledgement."""
    send = far.Extension._send

    def narrow(self: far.Extension, message: ExtMessage) -> None:
        if isinstance(message, rusbext.Accept):
            message = replace(message, window=1)
        send(self, message)

    monkeypatch.setattr(far.Extension, "_send", narrow)
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        (device,) = await lab.guest.wait_for(1)
        held: list[bool] = []
        device.attached.watch_pressure(held.append)
        for _ in range(3):
            result = await device.write(Loopback.SINK, bytes(65536))
            assert result.status is UrbStatus.OK
            await until(lambda: held and not held[-1])
        assert held == [True, False] * 3


async def test_a_client_that_acknowledges_nothing_stops_its_guest(
    lab: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers all that it is asked, so that nothing is in flight."""
    monkeypatch.setattr(near, "WINDOW", 1 << 20)
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as session:
        (device,) = await lab.guest.wait_for(1)
        monkeypatch.setattr(ticket_of(session).lane, "_acknowledge", mute)
        (ticket,) = lab.server._host.parking._tickets.values()
        held: list[bool] = []
        device.attached.watch_pressure(held.append)
        while not held:
            await device.write(Loopback.SINK, bytes(65536))
            assert ticket.lane.size < (1 << 20) + (128 << 10)
        assert held == [True]


@pytest.mark.parametrize("how", ["cancels", "resets"])
async def test_a_guest_that_gives_up_again_and_again_fills_no_memory(
    lab: Net, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """While its client is away all of that is kept, and none of it is in flight."""
    monkeypatch.setattr(near, "WINDOW", 1 << 20)
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        (device,) = await lab.guest.wait_for(1)
        lab.wire.is_down = True
        lab.wire.cut()
        await lab.wait_log("keeping 1 device")
        (ticket,) = lab.server._host.parking._tickets.values()
        held: list[bool] = []
        device.attached.watch_pressure(held.append)
        ended: list[UrbResult] = []
        while not held:
            if how == "resets":
                device.attached.reset()
            else:
                kind, end = TransferType.BULK, Loopback.SINK
                number = device.submit(kind, end, 65536, bytes(65536), ended.append)
                device.attached.cancel(number)
            assert ticket.lane.size < (1 << 20) + (128 << 10)
        assert held == [True]
        lab.wire.is_down = False
        await until(lambda: held == [True, False])
        await device.control(SetupPacket.set_configuration(1))
        result = await device.read(Loopback.SOURCE, 512)
        assert result.status is UrbStatus.OK
    assert lab.log().count("VUSB: Attached") == 1


# ------------------------------------------------------------ at the client ----


@pytest.mark.parametrize("lie", [0, 1000, 1 << 63])
async def test_a_server_that_counts_what_cannot_be_gets_the_devices_anew(
    lab: Net, monkeypatch: pytest.MonkeyPatch, lie: int
) -> None:
    """At once: it would say the same until the grace is over."""
    send = near.Extension._send

    def lying(self: near.Extension, message: ExtMessage) -> None:
        is_lie = isinstance(message, rusbext.Resumed)
        send(self, rusbext.Resumed(lie) if is_lie else message)

    monkeypatch.setattr(near.Extension, "_send", lying)
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as session:
        (device,) = await lab.guest.wait_for(1)
        for _ in range(ACK_MESSAGES):
            await device.control(SetupPacket.get_descriptor(3, 1, 255))
        lane = ticket_of(session).lane
        await until(lambda: not lane.can_resume(0))
        lab.wire.cut()
        await lab.wait_log("VUSB: Attached", 2)
        (device,) = await lab.guest.wait_for(1)
        result = await device.read(Loopback.SOURCE, 512)
        assert result.status is UrbStatus.OK
        assert "again after" not in lab.told()


async def test_what_a_server_says_unasked_changes_nothing(
    lab: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RESUMED and REFUSED before anybody asked, and a second HELLO."""
    send = near.Extension._send
    asked: list[rusbext.Resume] = []

    def talkative(self: near.Extension, message: ExtMessage) -> None:
        if isinstance(message, rusbext.Hello):
            send(self, rusbext.Resumed(0))
            send(self, rusbext.Refused(Refusal.UNKNOWN))
            send(self, message)
        send(self, message)

    def resume(self: near.Extension, message: rusbext.Resume) -> None:
        asked.append(message)
        take(self, message)

    take = near.Extension._resume
    monkeypatch.setattr(near.Extension, "_send", talkative)
    monkeypatch.setattr(near.Extension, "_resume", resume)
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        (device,) = await lab.guest.wait_for(1)
        for count in (1, 2):
            lab.wire.cut()
            await lab.wait_log("Remote USB: resumed after", count)
            result = await device.read(Loopback.SOURCE, 65536)
            assert result.status is UrbStatus.OK
        assert await lab.guest.wait_for(1) == [device]
        assert len(asked) == 2
    assert lab.log().count("VUSB: Attached") == 1


async def test_a_server_that_acknowledges_nothing_is_left(
    lab: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks and asks, so that what is kept for it would grow for ever."""
    monkeypatch.setattr(far, "WINDOW", 1 << 20)
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as session:
        (device,) = await lab.guest.wait_for(1)
        (theirs,) = lab.server._host.parking._tickets.values()
        monkeypatch.setattr(theirs.lane, "_acknowledge", mute)
        reads = [device.read(Loopback.SOURCE, 65536) for _ in range(40)]
        task = asyncio.gather(*reads)
        with pytest.raises(RemoteProtocolError, match="acknowledges nothing"):
            await session.wait_closed()
        assert {r.status for r in await task} <= {UrbStatus.OK, UrbStatus.NO_DEVICE}
