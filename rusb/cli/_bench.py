"""What ``rusb bench`` does: this process is the server with a loopback guest.

Each figure is taken in the same run as the yardstick it is compared with.
"""

import asyncio
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rusb.aio.tls import make_self_signed, server_context
from rusb.client.backends._emulated.loopback import Loopback
from rusb.client.backends._emulated.standard import US_ENGLISH
from rusb.errors import RusbError
from rusb.filters.model import Filter
from rusb.server.config import ServerConfig
from rusb.server.guests.loopback import LoopbackDevice, LoopbackGuest
from rusb.server.server import Server
from rusb.server.vbox.settings import Machine
from rusb.usb.setup import SetupPacket
from rusb.usb.types import DescriptorType, TransferType
from rusb.usb.urb import UrbResult, UrbStatus

from ._bench_client import usage
from ._bench_raw import RawPeer, echo_time, pour_in, pour_out

__all__ = ["Figures", "Row", "measure"]

BULK_SIZES = (65536, 512)
DEPTHS = (1, 8, 32)
MANY = 16
RAW_BYTES = 96 << 20
RAW_ROUNDS = 1500
ATTACH_SECONDS = 30


@dataclass(slots=True)
class Row:
    """One measurement; see the help of ``rusb bench`` for the units."""

    name: str
    size: int
    depth: int
    devices: int
    mb_s: float = 0.0
    us: float = 0.0
    ratio: float = 0.0
    cpu_client_s: float = 0.0
    cpu_server_s: float = 0.0


@dataclass(slots=True)
class Figures:
    """Everything that one run found.

    Attributes:
        yardstick_mb_s: the raw TLS stream, the faster of its two directions.
        pingpong_us: a raw TLS round trip of 64 bytes.
    """

    yardstick_mb_s: float
    pingpong_us: float
    rows: list[Row] = field(default_factory=list)
    rss_client_mb: float = 0.0
    rss_server_mb: float = 0.0


class _Far:
    """The other process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def order(self, **order: Any) -> dict[str, float]:
        """Give an order and return the far end's usage."""
        reader, writer = self._process.stdout, self._process.stdin
        assert reader is not None
        assert writer is not None
        writer.write(json.dumps(order).encode() + b"\n")
        await writer.drain()
        line = await reader.readline()
        if not line:
            raise RusbError("the client process of the bench ended; its errors: above")
        found: dict[str, float] = json.loads(line)
        return found


async def measure(seconds: float) -> Figures:
    """Run everything; *seconds* is the length of each measurement."""
    with tempfile.TemporaryDirectory(prefix="rusb-bench-") as name:
        folder = Path(name)
        machine = Machine(
            name="bench", filters=(Filter(name="all"),), usb_controllers=("XHCI",)
        )
        config = ServerConfig(
            machine, ports=[0], address="127.0.0.1", log=name + "/log", state=folder
        )
        guest = LoopbackGuest()
        async with Server(config, guest=guest) as server:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "rusb.cli._bench_client",
                str(server.port),
                str(folder / "known"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                return await _measure_all(_Far(process), guest, folder, seconds)
            finally:
                assert process.stdin is not None
                process.stdin.close()
                await process.wait()


async def _measure_all(
    far: _Far, guest: LoopbackGuest, folder: Path, seconds: float
) -> Figures:
    into, out, echo = [await _raw(far, folder, o) for o in ("in", "out", "echo")]
    figures = Figures(max(into, out), echo)
    await far.order(do="plug", count=1)
    devices = await _attached(guest, 1)
    rows = [
        Row(name, size, depth, 1)
        for name in ("bulk-in", "bulk-out")
        for size in BULK_SIZES
        for depth in DEPTHS
    ]
    rows += [Row("control", 18, 1, 1), Row("interrupt", 8, 1, 1)]
    for row in rows:
        await _measure_row(far, row, devices, seconds, figures, into, out)
    await far.order(do="plug", count=MANY - 1)
    devices = await _attached(guest, MANY)
    for name, size, depth in (("bulk-in", 512, 32), ("bulk-out", 512, 32)):
        row = Row(name, size, depth, MANY)
        await _measure_row(far, row, devices, seconds, figures, into, out)
    row = Row("control", 18, 1, MANY)
    await _measure_row(far, row, devices, seconds, figures, into, out)
    figures.rss_client_mb = (await far.order(do="nothing"))["rss"]
    figures.rss_server_mb = usage()["rss"]
    return figures


async def _attached(guest: LoopbackGuest, count: int) -> list[LoopbackDevice]:
    async with asyncio.timeout(ATTACH_SECONDS):
        return await guest.wait_for(count)


async def _raw(far: _Far, folder: Path, order: str) -> float:
    """Take the yardstick: MB/s in a direction, or us of a round trip."""
    loop = asyncio.get_running_loop()
    connected: asyncio.Queue[RawPeer] = asyncio.Queue()

    def accept() -> RawPeer:
        peer = RawPeer()
        connected.put_nowait(peer)
        return peer

    context = server_context(*make_self_signed(folder), None)
    listener = await loop.create_server(accept, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    await far.order(do="raw", port=port, order=order, total=RAW_BYTES)
    peer = await connected.get()
    await peer.connected.wait()
    try:
        if order == "echo":
            return await echo_time(peer, RAW_ROUNDS) * 1e6
        pour = pour_in if order == "in" else pour_out
        return RAW_BYTES / await pour(peer, RAW_BYTES) / 1e6
    finally:
        assert peer.transport is not None
        peer.transport.close()
        await peer.closed.wait()
        listener.close()
        await listener.wait_closed()


async def _measure_row(
    far: _Far,
    row: Row,
    devices: list[LoopbackDevice],
    seconds: float,
    figures: Figures,
    into: float,
    out: float,
) -> None:
    run = {
        "bulk-in": _bulk_in,
        "bulk-out": _bulk_out,
        "control": _control,
        "interrupt": _interrupt,
    }[row.name]
    before, ours = await far.order(do="nothing"), usage()
    start = time.perf_counter()
    count = await run(row, devices, start + seconds)
    elapsed = time.perf_counter() - start
    row.cpu_server_s = usage()["cpu"] - ours["cpu"]
    row.cpu_client_s = (await far.order(do="nothing"))["cpu"] - before["cpu"]
    row.us = elapsed / count * 1e6
    row.mb_s = count * row.size / elapsed / 1e6
    if row.name.startswith("bulk"):
        row.ratio = row.mb_s / (into if row.name == "bulk-in" else out)
    else:
        row.ratio = row.us / figures.pingpong_us
    figures.rows.append(row)


async def _bulk(
    row: Row, devices: list[LoopbackDevice], until: float, endpoint: int, data: bytes
) -> int:
    """Keep ``row.depth`` URBs in flight, spread over the devices, until a time."""
    finished = asyncio.Event()
    count, in_flight, failed = 0, 0, ""

    def submit(device: LoopbackDevice) -> None:
        device.submit(
            TransferType.BULK, endpoint, row.size, data, partial(completed, device)
        )

    def completed(device: LoopbackDevice, result: UrbResult) -> None:
        nonlocal count, in_flight, failed
        count += 1
        if result.status is not UrbStatus.OK or result.length != row.size:
            failed = f"{row.name}: {result.status.name}, {result.length} bytes"
        if time.perf_counter() < until and not failed:
            submit(device)
            return
        in_flight -= 1
        if not in_flight:
            finished.set()

    for n in range(row.depth):
        in_flight += 1
        submit(devices[n % len(devices)])
    await finished.wait()
    if failed:
        raise RusbError(f"the bench's own device failed: {failed}")
    return count


async def _bulk_in(row: Row, devices: list[LoopbackDevice], until: float) -> int:
    return await _bulk(row, devices, until, Loopback.SOURCE, b"")


async def _bulk_out(row: Row, devices: list[LoopbackDevice], until: float) -> int:
    return await _bulk(row, devices, until, Loopback.SINK, bytes(row.size))


async def _control(row: Row, devices: list[LoopbackDevice], until: float) -> int:
    # a string: the server answers for device and configuration descriptors itself
    index = devices[0].attached.descriptors.device.product
    kind = DescriptorType.STRING
    setup = SetupPacket.get_descriptor(kind, index, row.size, US_ENGLISH)
    count = 0
    while time.perf_counter() < until:
        await devices[count % len(devices)].control(setup)
        count += 1
    return count


async def _interrupt(row: Row, devices: list[LoopbackDevice], until: float) -> int:
    """Write a report and read it back: two transfers."""
    count, kind = 0, TransferType.INTERRUPT
    while time.perf_counter() < until:
        device = devices[count // 2 % len(devices)]
        await device.write(Loopback.INTERRUPT_OUT, bytes(row.size), kind)
        await device.read(Loopback.INTERRUPT_IN, row.size, kind)
        count += 2
    return count
