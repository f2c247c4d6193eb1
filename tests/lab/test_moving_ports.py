"""Open serial ports of every kind in a Linux whose QEMU is exchanged (teleport.md 7.9).

Its own drivers judge whether reads that come back empty mean anything to them.
"""

import asyncio
import contextlib
import fcntl
import socket
import termios
from collections.abc import AsyncIterator

import pytest

from rusb.server.guests._stream import DeviceStream, usbredir_core
from rusb.wire.usbredir import UsbredirDeviceSide
from tests.support.chips import SerialChip
from tests.support.lab.usblab import Guest
from tests.support.serial_peers import CHIPS, Attached

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("client VM"),
]

MODULES = "ftdi_sio", "cp210x", "ch341", "pl2303"
PORTS = "ttyACM0", "ttyUSB0", "ttyUSB1", "ttyUSB2", "ttyUSB3"
MOVES = 2
PATIENT = 3
"""The drivers of the first ports stop reading while no program takes anything; those of
others go on, and lose it."""
LINE = "a port that nobody reads"
LINES = 800  # more than Linux takes of a port then

ECHO = (
    "(exec 4<>/dev/{0}; stty -F /dev/{0} raw -echo 115200; cat <&4 >/run/{0}) "
    ">/run/err 2>&1 </dev/null 3>&- &"
)


class Way:
    """From a device's stream to a QEMU, and to the next one."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self._tasks: list[asyncio.Task[None]] = []
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(inner)

    async def lead(self, path: str) -> None:
        """Lead to the QEMU that listens there; nothing is under way."""
        await self._end()
        outer = self._outer = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        outer.connect(path)
        outer.setblocking(False)
        both = (self._inner, outer), (outer, self._inner)
        self._tasks = [asyncio.ensure_future(_carry(*ends)) for ends in both]

    @property
    def is_empty(self) -> bool:
        """Has QEMU taken all, and the stream?"""
        ends = (self._inner, self._outer)
        asked = (termios.FIONREAD, termios.TIOCOUTQ)
        none = bytes(4)
        return all(
            fcntl.ioctl(e.fileno(), a, none) == none for e in ends for a in asked
        )

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def aclose(self) -> None:
        await self._end()
        self._stack.close()


async def _carry(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await loop.sock_recv(source, 1 << 16):
            await loop.sock_sendall(target, data)


@contextlib.asynccontextmanager
async def plugged(guest: Guest) -> AsyncIterator[list[tuple[DeviceStream, Way]]]:
    """All chips are in the guest, and their ports open."""
    found = []
    async with contextlib.AsyncExitStack() as stack:
        for number, make in enumerate(CHIPS.values()):
            path = f"{guest.dir}/r{number}"
            guest.add_usb_redir(f"u{number}", path)
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            way = Way(theirs)
            stack.push_async_callback(way.aclose)
            device = Attached(make(), number + 1)
            stream = await DeviceStream.over(ours, device, usbredir_core(device))
            stack.push_async_callback(stream.aclose)
            await way.lead(path)
            wait = f"test $(ls /dev/tty[UA]* | wc -l) = {number + 1}"
            await asyncio.to_thread(guest.wait, wait)
            found.append((stream, way))
        for port in PORTS:
            await asyncio.to_thread(guest.sh, ECHO.format(port))
            await asyncio.to_thread(guest.wait, f"test -e /run/{port}")
        yield found


async def echoes(
    guest: Guest, lines: list[str], ports: tuple[str, ...] = PORTS
) -> None:
    """What is written comes back, behind what did before."""
    for port in ports:
        await asyncio.to_thread(guest.sh, f"echo {lines[-1]} >/dev/{port}")
    for port in ports:
        size = len("\n".join(lines)) + 1
        wait = f"test $(stat -c %s /run/{port}) -ge {size}"
        await asyncio.to_thread(guest.wait, wait)
        got = await asyncio.to_thread(guest.sh, f"cat /run/{port}")
        assert got.splitlines() == lines, port


async def test_ports_of_every_kind_stay_open(guest: Guest) -> None:
    for module in MODULES:
        guest.load(module)
    lines = ["before"]
    with contextlib.ExitStack() as guests:
        async with plugged(guest) as ports:
            await echoes(guest, lines)
            # a driver may still be about to read again
            while not all(s.keeps_reads_waiting() for s, _ in ports):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for move in range(MOVES):
                guest = guests.enter_context(await suspended(guest, ports))
                lines.append(f"after-{move}")
                await echoes(guest, lines)
            await asyncio.to_thread(guest.sh, "killall -STOP cat")
            for stream, _ in ports[:PATIENT]:
                await flood(stream)
            guest = guests.enter_context(await suspended(guest, ports))
            await asyncio.to_thread(guest.sh, "killall -CONT cat")
            lines += [LINE] * LINES + ["in the end"]
            await echoes(guest, lines, PORTS[:PATIENT])


async def flood(stream: DeviceStream) -> None:
    """A device says more than the guest takes."""
    attached = stream._device
    assert isinstance(attached, Attached)
    chip, core = attached.device, stream._core
    assert isinstance(chip, SerialChip)
    assert isinstance(core, UsbredirDeviceSide)
    chip._waiting.extend(f"{LINE}\n".encode() * LINES)
    chip.kick(chip.IN)
    while core.waiting_reads():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert chip._waiting


async def suspended(guest: Guest, ports: list[tuple[DeviceStream, Way]]) -> Guest:
    """Exchange the QEMU of a guest, whose ports say nothing meanwhile."""
    for stream, _ in ports:
        assert stream.suspend_reads()
    await settled(guest, ports)
    target = await moved(guest, ports)
    for stream, _ in ports:
        stream.resume_reads()
    assert not target.ok("dmesg | grep 'USB disconnect'")
    assert "could not find packet" not in target.logs()
    return target


async def settled(guest: Guest, ports: list[tuple[DeviceStream, Way]]) -> None:
    """Wait until nothing is under way, and QEMU has acted on it."""
    quiet = 0
    while quiet < 5:
        for stream, _ in ports:
            stream.settle_reads()
        is_quiet = all(stream.is_read and way.is_empty for stream, way in ports)
        quiet = quiet + 1 if is_quiet else 0
        guest.qmp("query-status")
        await asyncio.sleep(0.02)


async def moved(guest: Guest, ports: list[tuple[DeviceStream, Way]]) -> Guest:
    """Exchange the QEMU of a guest."""
    words = []
    for number in range(len(ports)):
        path = f"{guest.dir}/next{number}"
        words += ["-chardev", f"socket,id=cu{number},path={path},server=on,wait=off"]
        names = f"chardev=cu{number},id=u{number},bus=xhci.0"
        words += ["-device", f"usb-redir,{names}"]
    target = Guest(*words, incoming=f"unix:{guest.dir}/migration")
    for number, (_, way) in enumerate(ports):
        await way.lead(f"{guest.dir}/next{number}")
    await asyncio.to_thread(guest.migrate, f"unix:{guest.dir}/migration")
    guest.process.kill()
    return target
