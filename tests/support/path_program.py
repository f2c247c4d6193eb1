"""The whole client under simulated USB; prints JSON lines.

Server with a loopback guest and client with libusb in this process, TLS between them.
``path_program.py SCENARIO FOLDER``.
"""

import asyncio
import os
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path

from rusb.client.backends.libusb import LibusbBackend
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.filters.model import Filter
from rusb.filters.parser import parse_offer
from rusb.server.config import ServerConfig
from rusb.server.guests.loopback import LoopbackDevice, LoopbackGuest
from rusb.server.server import Server
from rusb.server.vbox.settings import Machine
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult
from tests.support.libusb_program import say, take_out

BULK, INTERRUPT = TransferType.BULK, TransferType.INTERRUPT


class Guest:
    """The guest's view of the device, and what came of each URB."""

    def __init__(self, device: LoopbackDevice) -> None:
        self.device = device
        self.results: dict[int, list[str]] = defaultdict(list)
        self._changed = asyncio.Event()

    def completed(self, number: int, result: UrbResult) -> None:
        self.results[number].append(result.status.name)
        self._changed.set()

    def submit(self, number: int) -> int:
        """Start a bulk IN that nothing answers."""
        done = partial(self.completed, number)
        return self.device.submit(BULK, 0x83, 512, b"", done)

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(30):
            while sum(map(len, self.results.values())) < count:
                self._changed.clear()
                await self._changed.wait()


async def transfers(guest: Guest) -> None:
    device = guest.device
    out = await device.write(0x04, bytes(700))
    back = await device.read(0x83, 4096)
    counter = await device.read(0x85, 64, INTERRUPT)
    iso = await device.run(
        Urb(900, TransferType.ISOCHRONOUS, 0x86, 192, packets=(192,))
    )
    say(
        out=[out.status.name, out.length],
        back=[back.status.name, back.length],
        interrupt=[counter.status.name, counter.length],
        iso=iso.status.name,
        strings=device.strings,
    )


async def stall(guest: Guest) -> None:
    device = guest.device
    bad = await device.control(SetupPacket(0xC0, 0x7F, 0, 0, 8))
    await device.control(SetupPacket(0x40, 0x04, 0, 0x83))
    halted = await device.read(0x83, 512)
    await device.control(SetupPacket.clear_halt(0x83))
    await device.write(0x04, b"again")
    after = await device.read(0x83, 512)
    say(status=[r.status.name for r in (bad, halted, after)])


async def overflow(guest: Guest) -> None:
    await guest.device.write(0x04, bytes(300))
    say(status=(await guest.device.read(0x83, 100)).status.name)


async def cancel(guest: Guest) -> None:
    ids = [guest.submit(number) for number in range(8)]
    await guest.device.control(SetupPacket.get_descriptor(1, length=18))
    for urb_id in ids:
        guest.device.attached.cancel(urb_id)
    await guest.wait(8)
    await guest.device.write(0x04, b"ok")
    got = await guest.device.read(0x83, 512)
    say(results=guest.results, data=bytes(got.data).decode())


async def unplug(guest: Guest) -> None:
    for number in range(8):
        guest.submit(number)
    await guest.device.control(SetupPacket.get_descriptor(1, length=18))
    take_out("1-1")
    await guest.wait(8)
    say(results=guest.results)


async def main(scenario: str, folder: Path) -> None:
    os.makedirs(folder, exist_ok=True)
    machine = Machine("M", filters=(Filter("all"),), usb_controllers=("XHCI",))
    loopback = LoopbackGuest()
    server = Server(
        ServerConfig(
            machine,
            ports=[0],
            address="127.0.0.1",
            log=str(folder / "VBox.log"),
            state=folder,
        ),
        guest=loopback,
    )
    async with server:
        config = ClientConfig(
            "127.0.0.1",
            server.port,
            known_servers=folder / "known",
            filters=(parse_offer("1209:0001"),),
        )
        async with connect(config, backends=[LibusbBackend(state=folder)]):
            async with asyncio.timeout(30):
                (device,) = await loopback.wait_for(1)
            await globals()[scenario](Guest(device))
    left = asyncio.all_tasks() - {asyncio.current_task()}
    say(tasks_left=len(left))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
