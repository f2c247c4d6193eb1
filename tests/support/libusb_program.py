"""What the tests of the libusb backend run under simulated USB; prints JSON lines.

``libusb_program.py SCENARIO``: each scenario is a coroutine of that name.
"""

import asyncio
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from rusb.client.backends import _transfers, libusb
from rusb.client.backends._kernel_memory import KernelMemory
from rusb.client.backends.libusb import LibusbBackend
from rusb.errors import BackendError
from rusb.usb.backend import LocalDevice, OpenDevice
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Feature, Request, TransferType
from rusb.usb.urb import Urb, UrbResult

BULK, INTERRUPT = TransferType.BULK, TransferType.INTERRUPT
ISO = TransferType.ISOCHRONOUS


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def noted() -> str:
    """What the journal of detached drivers says."""
    return Path(sys.argv[2], "detached").read_text()


def take_out(name: str) -> None:
    """Unplug a simulated device."""
    Path(os.environ["FAKEUSB_CTL"], f"unplug.{name}").touch()


class Bench:
    """A device in use and what came of each URB."""

    def __init__(self, device: OpenDevice) -> None:
        self.device = device
        self.results: dict[int, list[UrbResult]] = {}
        self._changed = asyncio.Event()

    def submit(self, urb: Urb) -> None:
        self.results[urb.id] = []

        def complete(result: UrbResult) -> None:
            self.results[urb.id].append(result)
            self._changed.set()

        self.device.submit(urb, complete)

    async def run(self, urb: Urb) -> UrbResult:
        self.submit(urb)
        await self.wait(lambda: bool(self.results[urb.id]))
        return self.results[urb.id][0]

    async def wait(self, is_true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not is_true():
                self._changed.clear()
                await self._changed.wait()

    def vendor(self, request: int, value: int = 0, index: int = 0) -> Urb:
        setup = SetupPacket(0x40, request, value, index)
        return Urb.control(1000 + len(self.results), setup)

    def told(self) -> dict[int, list[str]]:
        return {k: [r.status.name for r in v] for k, v in self.results.items()}


async def opened(backend: LibusbBackend, name: str = "1-1") -> Bench:
    devices = await backend.list_devices()
    (found,) = [d for d in devices if d.key.startswith(f"{name}@")]
    return Bench(await backend.open(found))


async def listing(backend: LibusbBackend) -> None:
    devices: list[LocalDevice] = await backend.list_devices()
    for d in devices:
        say(
            key=d.key,
            text=str(d.info),
            speed=d.info.speed.name,
            port=d.info.port,
            path=d.info.port_path,
            bus=d.info.bus,
            usb=d.info.bcd_usb,
            revision=d.info.bcd_device,
            serial=d.info.serial,
            problem=d.problem and str(d.problem),
        )


async def transfers(backend: LibusbBackend) -> None:
    bench = await opened(backend)
    await bench.device.claim_interface(1)
    got = await bench.run(Urb.control(1, SetupPacket.get_descriptor(1, 0, 18)))
    say(what="control", status=got.status.name, data=bytes(got.data).hex())
    out = await bench.run(Urb(2, BULK, 0x04, 700, bytes(range(100)) * 7))
    say(what="out", status=out.status.name, length=out.length)
    short = await bench.run(Urb(3, BULK, 0x83, 4096))
    say(what="short", status=short.status.name, length=short.length)
    counter = await bench.run(Urb(4, INTERRUPT, 0x85, 64))
    say(what="interrupt", status=counter.status.name, length=counter.length)
    await bench.device.set_interface(1, 1)
    packets = (192,) * 8
    iso = await bench.run(Urb(5, ISO, 0x86, 192 * 8, packets=packets))
    say(
        what="iso in",
        status=iso.status.name,
        packets=[p.length for p in iso.packets],
        length=len(iso.data),
    )
    sink = Urb(6, ISO, 0x07, 192 * 4, bytes(192 * 4), packets=(192,) * 4)
    iso = await bench.run(sink)
    say(what="iso out", status=iso.status.name, length=iso.length)
    await bench.device.aclose()


async def stall(backend: LibusbBackend) -> None:
    bench = await opened(backend)
    await bench.device.claim_interface(1)
    bad = Urb.control(1, SetupPacket(0xC0, 0x7F, 0, 0, 8))
    say(status=(await bench.run(bad)).status.name)
    await bench.run(bench.vendor(0x04, 0, 0x83))
    say(status=(await bench.run(Urb(2, BULK, 0x83, 512))).status.name)
    await bench.device.clear_halt(0x83)
    await bench.run(Urb(3, BULK, 0x04, 5, b"again"))
    got = await bench.run(Urb(4, BULK, 0x83, 512))
    say(status=got.status.name, data=bytes(got.data).decode())
    await bench.device.aclose()


async def requests(backend: LibusbBackend) -> None:
    """Control requests of the guest that libusb and the kernel must know of."""
    bench = await opened(backend)
    await bench.device.claim_interface(1)
    asked = (
        SetupPacket.set_configuration(1),
        SetupPacket(0x01, Request.SET_INTERFACE, 1, 1),
        SetupPacket(0x02, Request.CLEAR_FEATURE, Feature.ENDPOINT_HALT, 0x83),
    )
    for number, setup in enumerate(asked, 1):
        say(status=(await bench.run(Urb.control(number, setup))).status.name)
    await bench.device.aclose()


async def closing(backend: LibusbBackend) -> None:
    """The device is closed while libusb is at one request and others wait."""
    bench = await opened(backend)
    await bench.device.claim_interface(1)
    handle = bench.device._handle  # type: ignore[attr-defined]
    said: list[str] = []
    release = handle.releaseInterface
    began, is_over = threading.Event(), threading.Event()

    def select(interface: int, alternate: int) -> None:
        said.append(f"begin {alternate}")
        began.set()
        is_over.wait(10)
        said.append(f"end {alternate}")

    def note(interface: int) -> None:
        said.append("release")
        release(interface)

    handle.setInterfaceAltSetting, handle.releaseInterface = select, note
    for number in range(1, 4):
        setup = SetupPacket(0x01, Request.SET_INTERFACE, number, 1)
        bench.submit(Urb.control(number, setup))
        await asyncio.to_thread(began.wait, 10)
    asyncio.get_running_loop().call_later(0.3, is_over.set)
    await bench.device.aclose()
    say(said=said, told=bench.told())


async def overflow(backend: LibusbBackend) -> None:
    bench = await opened(backend)
    await bench.device.claim_interface(1)
    await bench.run(Urb(1, BULK, 0x04, 300, bytes(300)))
    say(status=(await bench.run(Urb(2, BULK, 0x83, 100))).status.name)
    await bench.device.aclose()


async def cancel(backend: LibusbBackend) -> None:
    bench = await opened(backend)
    await bench.device.claim_interface(1)
    for number in range(1, 9):
        bench.submit(Urb(number, BULK, 0x83, 512))
    for number in range(1, 9):
        bench.device.cancel(number)
    await bench.wait(lambda: all(bench.results.values()))
    await bench.run(Urb(9, BULK, 0x04, 2, b"ok"))
    got = await bench.run(Urb(10, BULK, 0x83, 512))
    say(told=bench.told(), data=bytes(got.data).decode())
    await bench.device.aclose()


async def keeps(backend: LibusbBackend) -> None:
    """What arrived before a cancel is in the result."""
    bench = await opened(backend)
    await bench.device.claim_interface(1)
    await bench.run(Urb(1, BULK, 0x04, 512, bytes(512)))
    bench.submit(Urb(2, BULK, 0x83, 1024))
    await asyncio.sleep(0.1)
    bench.device.cancel(2)
    await bench.wait(lambda: all(bench.results.values()))
    (got,) = bench.results[2]
    say(status=got.status.name, length=got.length, data=len(got.data))
    await bench.device.aclose()


async def again(backend: LibusbBackend) -> None:
    """Transfers and buffers are used again: each result keeps what it had."""
    bench = await opened(backend)
    await bench.device.claim_interface(1)
    texts = [b"a", b"", b"long " * 5000, b"b", b"long " * 5000, b"c" * 512, b"d"]
    for n, text in enumerate(texts):
        await bench.run(Urb(10 * n + 1, BULK, 0x04, len(text), text))
        await bench.run(Urb(10 * n + 2, BULK, 0x83, max(len(text), 512)))
        part = text[:4096]  # the longest control transfer that libusb takes
        store = SetupPacket(0x40, 2, length=len(part))
        await bench.run(Urb.control(10 * n + 3, store, part))
        fetch = SetupPacket(0xC0, 3, length=len(part))
        await bench.run(Urb.control(10 * n + 4, fetch))
    came = {u: bytes(r.data) for u, (r,) in bench.results.items()}
    numbers = range(len(texts))
    transfers = bench.device._transfers  # type: ignore[attr-defined]
    say(
        bulk=[came[10 * n + 2] for n in numbers] == texts,
        control=[came[10 * n + 4] for n in numbers] == [t[:4096] for t in texts],
        made=sum(map(len, transfers._spare.values())),
    )
    for n in range(1000, 1100):  # all at once
        bench.submit(Urb(n, BULK, 0x83, 100_000))
    for n in range(1000, 1100):
        bench.device.cancel(n)
    await bench.wait(lambda: all(bench.results.values()))
    spare = transfers._spare_bytes
    await bench.device.aclose()
    say(spare=spare, limit=_transfers.MAX_SPARE_BYTES, left=len(_transfers._submitted))


async def memory(backend: LibusbBackend) -> None:
    """More than usbfs lends: 30 MiB of reads. Those in the kernel leave nothing but the
    quarter that is for other endpoints."""
    bench = await opened(backend)
    await bench.device.claim_interface(1)
    count, size = 41, 3 << 18
    for number in range(1, count + 1):
        bench.submit(Urb(number, BULK, 0x83, size))
    failed = [n for n, r in bench.results.items() if r]
    control = await bench.run(Urb.control(100, SetupPacket.get_descriptor(1, 0, 18)))
    for number in range(1, 25):
        await bench.run(Urb(200 + number, BULK, 0x04, 5, b"%05d" % number))
    await bench.wait(lambda: all(bench.results[n] for n in range(1, 25)))
    order = [bytes(bench.results[n][0].data).decode() for n in range(1, 25)]
    for number in (count, count - 1):  # they wait; the last one first
        bench.device.cancel(number)
    told = [r.status.name for n in (count, count - 1) for r in bench.results[n]]
    say(failed=failed, control=control.status.name, order=order, cancelled=told)
    await bench.device.aclose()
    say(once=all(len(r) == 1 for r in bench.results.values()))


async def large(backend: LibusbBackend) -> None:
    """Transfers of more than usbfs lends, 1 MiB here, and what follows them."""
    backend._memory = KernelMemory(1 << 20)
    bench = await opened(backend)
    await bench.device.claim_interface(1)
    data = os.urandom(5 << 19)
    bench.submit(Urb(1, BULK, 0x04, len(data), data))
    bench.submit(Urb(2, BULK, 0x04, 5, b"after"))
    bench.submit(Urb(3, BULK, 0x83, len(data)))
    bench.submit(Urb(4, BULK, 0x83, 4 << 20))
    control = await bench.run(Urb.control(5, SetupPacket.get_descriptor(1, 0, 18)))
    await bench.wait(lambda: all(bench.results.values()))
    (came,), (after,) = bench.results[3], bench.results[4]
    say(
        told=bench.told(),
        same=bytes(came.data) == data,
        after=bytes(after.data).decode(),
        control=control.status.name,
    )
    bench.submit(Urb(6, BULK, 0x83, 4 << 20))
    await bench.run(Urb(7, BULK, 0x04, 1 << 19, data[: 1 << 19]))
    await asyncio.sleep(0.3)  # the device takes a moment to send it back
    bench.device.cancel(6)
    await bench.wait(lambda: all(bench.results.values()))
    (got,) = bench.results[6]
    kept = bool(got.data) and data.startswith(bytes(got.data))
    say(status=got.status.name, kept=kept)
    await bench.device.aclose()


async def full_disk(backend: LibusbBackend) -> None:
    """The journal cannot be written: the device works, and a line says so."""

    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device", sys.argv[2])

    setattr(backend._journal, "_write", refuse)  # noqa: B010
    lines: list[str] = []
    handler = logging.Handler()
    setattr(handler, "emit", lambda r: lines.append(r.getMessage()))  # noqa: B010
    logging.getLogger().addHandler(handler)
    bench = await opened(backend)
    await bench.device.claim_interface(0)
    got = await bench.run(Urb.control(1, SetupPacket.get_descriptor(1, 0, 18)))
    await bench.device.aclose()
    again = await opened(backend)
    handle = again.device._handle  # type: ignore[attr-defined]
    say(status=got.status.name, bound=handle.kernelDriverActive(0), said=lines)
    await again.device.aclose()


async def kept(backend: LibusbBackend) -> None:
    for d in await backend.list_devices():
        say(text=str(d.info), kept=d.kept, isochronous=d.has_isochronous)


async def unplug(backend: LibusbBackend) -> None:
    bench = await opened(backend)
    await bench.device.claim_interface(1)
    for number in range(1, 9):
        bench.submit(Urb(number, BULK, 0x83, 512))
    await asyncio.sleep(0.05)
    take_out("1-1")
    await bench.wait(lambda: all(bench.results.values()))
    late = await bench.run(Urb(9, BULK, 0x83, 512))
    say(told=bench.told(), late=late.status.name)
    await bench.device.aclose()


async def drivers(backend: LibusbBackend) -> None:
    """Is the kernel's driver active before, while and after the device is in use?"""
    bench = await opened(backend)
    handle = bench.device._handle  # type: ignore[attr-defined]
    before = handle.kernelDriverActive(0)
    await bench.device.claim_interface(0)
    note = noted()
    claimed = handle.kernelDriverActive(0)
    await bench.device.aclose()
    await bench.device.aclose()
    again = await opened(backend)
    after = again.device._handle.kernelDriverActive(0)  # type: ignore[attr-defined]
    await again.device.aclose()
    say(before=before, noted=note, claimed=claimed, after=after, left=noted())


async def configurations(backend: LibusbBackend) -> None:
    bench = await opened(backend, "2-1.4")
    await bench.device.set_configuration(2)
    got = await bench.run(Urb.control(1, SetupPacket.get_configuration()))
    await bench.device.claim_interface(1)
    await bench.run(Urb(2, BULK, 0x03, 3, b"two"))
    back = await bench.run(Urb(3, BULK, 0x82, 32))
    say(configuration=got.data[0], data=bytes(back.data).decode())
    await bench.device.reset()
    again = await bench.run(Urb.control(4, SetupPacket.get_configuration()))
    say(configuration=again.data[0])
    await bench.device.aclose()


async def busy(backend: LibusbBackend) -> None:
    bench = await opened(backend)
    try:
        await bench.device.claim_interface(7)
    except BackendError as error:
        say(error=str(error))
    say(status=(await bench.run(Urb(1, BULK, 0x8F, 8))).status.name)
    await bench.device.aclose()


async def late_rights(backend: LibusbBackend) -> None:
    """udev gives a device to its users after the kernel has told of it."""
    access, libusb.LOOK_AGAIN = os.access, (0.01, 0.01, 0.02, 0.02)
    libusb.UDEV_SECONDS = 0.2

    def deny(path: object, mode: int) -> bool:
        return "/001/002" not in str(path) and access(str(path), mode)

    async def look() -> str:
        found = [d for d in await backend.list_devices() if d.key.startswith("1-1@")]
        return (
            "nothing" if not found else "usable" if not found[0].problem else "denied"
        )

    def plug() -> None:
        assert backend._since is not None
        backend._since = {k: t for k, t in backend._since.items() if k[:4] != "1-1@"}

    os.access = deny  # type: ignore[assignment]
    say(there_before=await look())
    plug()
    early = await look()
    os.access = access
    say(early=early, then=await look())
    os.access = deny  # type: ignore[assignment]
    plug()
    early = await look()
    await asyncio.sleep(0.25)
    say(early=early, never=await look())
    looks: list[None] = []
    backend._changed = lambda: looks.append(None)
    for _ in range(3):
        backend._plugged(None, None, 0)
    await asyncio.sleep(0.1)
    say(looks=len(looks))


async def main(scenario: str) -> None:
    backend = LibusbBackend(state=Path(sys.argv[2]))
    await globals()[scenario](backend)
    await backend.aclose()
    await backend.aclose()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    say(tasks_left=len(left))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
