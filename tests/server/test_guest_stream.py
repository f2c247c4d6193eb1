"""The usbredir connection of a guest under pressure from guest and network."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from rusb.server.guests import _stream
from rusb.server.guests._stream import DeviceStream, usbredir_core
from rusb.usb.types import TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus
from rusb.wire.usbredir import _requests as requests
from tests.support.memory import memory_below
from tests.support.transports import Noting
from tests.support.wire.redir import (
    BULK,
    BULK_IN,
    CONFIGURATION_STATUS,
    DESCRIPTORS,
    HELLO,
    INFO,
    INTERRUPT,
    POLLED,
    SET_CONFIGURATION,
    START_INTERRUPT,
    bulk,
    packet,
)


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sixteenth of the real ones, for the time that it takes."""
    for name in ("WRITE_HIGH", "BLOCK"):
        monkeypatch.setattr(_stream, name, getattr(_stream, name) >> 4)
    small = requests.MAX_BYTES_PENDING >> 4
    monkeypatch.setattr(requests, "MAX_BYTES_PENDING", small)


class Eager:
    """A device that has data whenever it is asked.

    Attributes:
        given: bytes so far.
        most: bytes at once.
        polls: of its interrupt endpoint.
        press: what pressure is told to.
        is_silent: it has none at its interrupt endpoint.
    """

    round_trip: float | None = None
    is_silent = False

    def __init__(self) -> None:
        self.info, self.descriptors, self.name = INFO, DESCRIPTORS, "usb-1"
        self.given = self.polls = self.asked = 0
        self.most = 1 << 20
        self.press: Callable[[bool], None] = lambda is_high: None

    def submit(self, urb: Urb, complete: Completion) -> None:
        self.asked += 1
        data = bytes(min(urb.length, self.most)) if urb.is_in else b""
        self.given += len(data)
        self.polls += urb.type is TransferType.INTERRUPT
        if self.is_silent and urb.type is TransferType.INTERRUPT:
            return
        result = UrbResult(UrbStatus.OK, data, len(data) if urb.is_in else urb.length)
        asyncio.get_running_loop().call_soon(complete, result)

    def cancel(self, urb_id: int) -> None:
        pass

    def reset(self) -> None:
        pass

    def watch_pressure(self, changed: Callable[[bool], None]) -> None:
        self.press = changed


class Guest:
    """The other end: what it sends is sent, what it reads is up to it."""

    def __init__(self, device: Eager) -> None:
        self.device = device
        self.socket, self._theirs = socket.socketpair()
        self.socket.setblocking(False)
        self.loop = asyncio.get_running_loop()
        self.raw = bytearray()
        self.skip = 12 + 68  # their hello

    async def start(self) -> None:
        self.stream = await DeviceStream.over(
            self._theirs, self.device, usbredir_core(self.device)
        )
        hello = struct.pack("<III64sI", HELLO, 68, 0, b"a guest", 0x7E)
        await self.send(hello + packet(SET_CONFIGURATION, 1, b"\1"))
        await self.read_answers(CONFIGURATION_STATUS, 1)

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.socket, data)

    def waiting(self) -> int:
        """Bytes that wait for the guest in this process."""
        assert self.stream.transport is not None
        kept = self.stream.transport.get_write_buffer_size()
        return kept + len(self.stream._block)

    async def fill(self) -> None:
        """Wait until too much waits for the guest."""
        while self.waiting() < _stream.WRITE_HIGH:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await self.settle()

    async def settle(self) -> None:
        """Wait until the device is asked nothing more."""
        before = -1
        while before != self.device.asked:
            before = self.device.asked
            await asyncio.sleep(0.1)

    async def read_answers(self, kind: int, count: int) -> list[int]:
        """Read until *count* packets of a kind came; return their ids."""
        ids = list[int]()
        while len(ids) < count:
            self.raw += await self.loop.sock_recv(self.socket, 1 << 20)
            if self.skip and len(self.raw) >= self.skip:
                del self.raw[: self.skip]
                self.skip = 0
            while not self.skip and len(self.raw) >= 16:
                found, length, id = struct.unpack_from("<IIQ", self.raw)
                if len(self.raw) < 16 + length:
                    break
                del self.raw[: 16 + length]
                if found == kind:
                    ids.append(id)
        return ids


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[Guest]:
    guest = Guest(Eager())
    with guest.socket:
        await guest.start()
        try:
            async with asyncio.timeout(60):
                yield guest
        finally:  # uvloop waits for ever for what is open at its end
            guest.stream.abort()
            await guest.stream.aclose()


async def test_a_guest_that_asks_and_does_not_read_is_bounded() -> None:
    """It asks for 25 MiB; what is kept is a write buffer and what was under way.

    While half of that is answered and not yet written, as much may begin again.
    """
    count, size = 200, 128 << 10
    async with connected() as guest:
        asking = asyncio.create_task(
            guest.send(b"".join(bulk(i, BULK_IN, size) for i in range(2, count + 2)))
        )
        await guest.fill()
        limit = _stream.WRITE_HIGH + 2 * requests.MAX_BYTES_PENDING
        assert guest.waiting() <= limit
        assert guest.device.given <= limit
        ids = await guest.read_answers(BULK, count)  # nothing was lost, or refused
        assert ids == list(range(2, count + 2))
        await asking


async def test_a_device_that_always_has_data_waits_for_a_paused_guest() -> None:
    async with connected() as guest:
        await guest.send(packet(START_INTERRUPT, 2, bytes((POLLED,))))
        await guest.fill()
        assert guest.waiting() <= _stream.WRITE_HIGH + (64 << 10)
        polls = guest.device.polls
        await asyncio.sleep(0.2)
        assert guest.device.polls == polls
        assert len(await guest.read_answers(INTERRUPT, polls + 100)) >= polls + 100


def test_small_reports_that_wait_take_little_more_than_their_bytes() -> None:
    """Each kept by itself, as uvloop does, takes seven times its packet: 55 MB for a
    device of a paused QEMU."""

    async def fill() -> int:
        async with connected() as guest:
            guest.device.most = 1
            await guest.send(packet(START_INTERRUPT, 2, bytes((POLLED,))))
            await guest.fill()
            return guest.device.polls

    with memory_below(3 * _stream.WRITE_HIGH):
        polls = uvloop.run(fill())
    assert polls > _stream.WRITE_HIGH >> 5


async def test_a_device_far_away_has_more_transfers_to_answer() -> None:
    async with connected() as guest:
        guest.device.is_silent = True
        guest.device.round_trip = 0.02  # and an interval of one millisecond
        await guest.send(packet(START_INTERRUPT, 2, bytes((POLLED,))))
        await guest.settle()
        assert guest.device.polls == 22


async def test_under_pressure_of_the_network_the_rest_of_a_read_waits() -> None:
    async with connected() as guest:
        await guest.settle()
        before = guest.device.asked
        guest.device.press(True)
        await guest.send(bulk(2, BULK_IN, 8) + bulk(3, BULK_IN, 8))
        await guest.settle()
        assert guest.device.asked == before
        guest.device.press(False)
        assert await guest.read_answers(BULK, 2) == [2, 3]


@pytest.mark.parametrize("is_pressed", [True, False])
async def test_the_end_comes_whatever_the_pressure(is_pressed: bool) -> None:
    async with connected() as guest:
        guest.device.press(is_pressed)
        await guest.stream.aclose()
        await guest.stream.aclose()


async def test_who_lets_go_of_a_stream_hears_no_more_of_it() -> None:
    """Another server goes on with the device: the guest has not ended it, and whoever
    closes it does not wait for that."""
    device, ended = Eager(), list[None]()
    ours, theirs = socket.socketpair()
    with ours:
        stream = await DeviceStream.over(
            theirs,
            device,
            usbredir_core(device),
            on_ended=lambda: ended.append(None),
        )
        stream.let_go()
        async with asyncio.timeout(20):
            await stream.aclose()
            assert stream.transport is not None
            while theirs.fileno() >= 0:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert ended == []


async def test_a_stream_that_never_began_can_be_closed() -> None:
    device = Eager()
    await DeviceStream(device, usbredir_core(device)).aclose()


async def test_nothing_is_written_after_the_end() -> None:
    """What waited for the end of the turn: uvloop's transports refuse it then."""
    device, transport = Eager(), Noting()
    stream = DeviceStream(device, usbredir_core(device))
    stream.connection_made(transport)
    stream.connection_lost(None)
    await asyncio.sleep(0)
    assert transport.written == []
