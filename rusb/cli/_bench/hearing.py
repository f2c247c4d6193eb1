"""Reports that a device makes at regular times: how late the guest has them."""

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from rusb.server.guests._stream import DeviceStream, usbredir_core
from rusb.server.guests.loopback import LoopbackDevice
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import DevicesListed, Send, UrbCompleted
from rusb.wire.usbredir import UsbredirGuestSide

from .clock import Clock, due_time
from .plan import FLOOD_INTERVAL, REPORT_INTERVAL, Job
from .processes import Far
from .work import Flood

__all__ = [
    "REPORT_SIZE",
    "Heard",
    "LoopbackEar",
    "Source",
    "hear",
    "hear_beside_flood",
    "redirected",
]

REPORT_SIZE = 8
POLLS = 32
"""Transfers that the loopback guest keeps in flight, so that no round trip holds up
the reports."""


SETTLE_SECONDS = 0.1
"""Until a flood is in full flow, or until what was under way has come; and a round
trip or two."""

PATIENCE = 3.0
"""Seconds after the last report was due for those that are late."""


class Ear(Protocol):
    """What has been heard: for each report when it was due, and when it came."""

    heard: list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Source:
    """The client process that makes reports, and who hears them in the guest."""

    far: Far
    ear: Ear


@dataclass(slots=True)
class Heard:
    """What came of some reports.

    Attributes:
        lags: seconds from when each was due until the guest had it.
        arrived: reports a second that came while they were made, and a round trip.
        seconds: how long they were made.
        moved: bytes of the flood meanwhile.
    """

    lags: list[float]
    arrived: float
    seconds: float
    moved: int = 0


class LoopbackEar:
    """Keeps interrupt transfers in flight until the device is gone."""

    def __init__(self, device: LoopbackDevice) -> None:
        self.heard: list[tuple[float, float]] = []
        self._device = device
        for _ in range(POLLS):
            self._submit()

    def _submit(self) -> None:
        kind = TransferType.INTERRUPT
        self._device.submit(kind, Clock.IN, REPORT_SIZE, b"", self._completed)

    def _completed(self, result: UrbResult) -> None:
        if result.status is UrbStatus.OK:
            self.heard.append((due_time(result.data), time.monotonic()))
            self._submit()


class _UsbredirEar(asyncio.Protocol):
    """Does what QEMU does: the server polls, its ``usb-redir`` gets what there is."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, float]] = []
        self._core = UsbredirGuestSide()
        self._ids = itertools.count(1)
        self._transport: asyncio.Transport | None = None

    # ------------------------------------------- called by the event loop ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        self._transport = cast(asyncio.Transport, transport)
        self._core.channel_opened(0, "", now=time.monotonic())
        self._move()

    def data_received(self, data: bytes) -> None:
        """Take what the server says."""
        self._core.receive_data(0, data, now=time.monotonic())
        self._move()

    def _move(self) -> None:
        while events := self._core.events():
            for event in events:
                if isinstance(event, DevicesListed):
                    self._poll()
                elif isinstance(event, UrbCompleted):
                    self._completed(event.result)
        pieces = [o.data for o in self._core.outputs() if isinstance(o, Send)]
        if pieces and self._transport is not None:
            self._transport.write(b"".join(pieces))

    def _poll(self) -> None:
        urb = Urb(next(self._ids), TransferType.INTERRUPT, Clock.IN, REPORT_SIZE)
        self._core.submit_urb(1, urb, now=time.monotonic())

    def _completed(self, result: UrbResult) -> None:
        if result.status is UrbStatus.OK:
            self.heard.append((due_time(result.data), time.monotonic()))
            self._poll()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


@contextlib.asynccontextmanager
async def redirected(device: LoopbackDevice) -> AsyncIterator[Ear]:
    """Read a clock as QEMU would, after the loopback guest has configured it."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    _, stream = await loop.connect_accepted_socket(
        lambda: DeviceStream(device.attached, usbredir_core(device.attached, 1)),
        theirs,
    )
    _, ear = await loop.connect_accepted_socket(_UsbredirEar, ours)
    try:
        yield ear
    finally:
        await stream.aclose()
        ear.close()


async def hear(
    source: Source, job: Job, count: int, interval: float = REPORT_INTERVAL
) -> Heard:
    """Have *count* reports made, and wait for those that come."""
    heard, rtt = source.ear.heard, job.rtt_ms / 1000
    heard.clear()
    await source.far.order("tick", count=count, interval=interval)
    end = time.monotonic() + count * interval
    in_time = end + rtt + SETTLE_SECONDS
    while len(heard) < count and time.monotonic() < in_time + PATIENCE:  # noqa: ASYNC110
        await asyncio.sleep(0.01)  # an event for each report would cost CPU
    lags = [came - due for due, came in heard]
    arrived = sum(came <= in_time for _, came in heard) / (count * interval)
    if len(lags) < count:
        await source.far.order("silence")
        await asyncio.sleep(2 * rtt + SETTLE_SECONDS)
    return Heard(lags, arrived, count * interval)


async def hear_beside_flood(
    sources: Mapping[int, Source], device: LoopbackDevice, job: Job, count: int
) -> Heard:
    """The same while bulk transfers fill the way.

    Args:
        sources: by how many devices of the client take part.
        device: where the flood comes from.
    """
    flood = Flood(job, [device])
    await asyncio.sleep(2 * job.rtt_ms / 1000 + SETTLE_SECONDS)
    before, start = flood.moved, time.monotonic()
    found = await hear(sources[job.devices], job, count, FLOOD_INTERVAL)
    elapsed = time.monotonic() - start
    found.moved = round((flood.moved - before) / elapsed * found.seconds)
    await flood.stop()
    return found
