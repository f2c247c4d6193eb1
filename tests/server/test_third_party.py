"""Programs that others wrote for pyusb, run unchanged with a remote device.

They are the command line tools of pyftdi, as its wheel installs them. The device is at
a client, which offers it over TLS; the programs are the guest.
"""

import asyncio
import contextlib
import os
import sys
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path

from rusb.client.backends.emulated import EmulatedBackend
from rusb.server.guests.pyusb import PyusbGuest
from tests.support.ftdi import Ftdi
from tests.support.remote import remote

SCRIPTS = Path(sysconfig.get_path("scripts"))
URL = "ftdi://ftdi:232:RUSB0001/1"


@contextlib.asynccontextmanager
async def served(backend: EmulatedBackend, folder: Path) -> AsyncIterator[Path]:
    """Offer what *backend* has; yield the folder where the guest sees it."""
    guest = PyusbGuest(str(folder / "bus"))
    async with remote(backend, guest, folder):
        yield guest.folder


async def start(
    bus: Path, *command: str, stdin: int = asyncio.subprocess.DEVNULL
) -> asyncio.subprocess.Process:
    """Start a program as the guest."""
    assert (SCRIPTS / command[0]).exists(), "make test installs pyftdi"
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "rusb.server.guests.pyusb", "--dir", str(bus)),
        *(str(SCRIPTS / command[0]), *command[1:]),
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def test_ftdi_urls_lists_the_remote_device(tmp_path: Path) -> None:
    async with served(EmulatedBackend(devices=[Ftdi()]), tmp_path) as bus:
        program = await start(bus, "ftdi_urls.py")
        out, _ = await program.communicate()
    assert program.returncode == 0, out.decode()
    assert f"{URL}  (FT232R USB UART)" in out.decode()


async def test_ftconf_reads_its_eeprom(tmp_path: Path) -> None:
    device = Ftdi()
    async with served(EmulatedBackend(devices=[device]), tmp_path) as bus:
        program = await start(bus, "ftconf.py", "--hexblock", "0", URL)
        out, _ = await program.communicate()
    rows = [line.replace(" ", "") for line in out.decode().splitlines()]
    assert bytes(range(16)).hex() in rows, out.decode()
    assert bytes(range(112, 128)).hex() in rows
    assert (0x90, 0, 63) in device.requests


async def test_pyterm_sends_and_receives_through_it(tmp_path: Path) -> None:
    device = Ftdi()
    ours, its = os.openpty()
    try:
        async with served(EmulatedBackend(devices=[device]), tmp_path) as bus:
            program = await start(bus, "pyterm.py", "-f", "-b", "9600", URL, stdin=its)
            assert program.stdout is not None
            await program.stdout.readuntil(b"9600 bps\n")
            text = b"".join(b"line %d of many;" % n for n in range(60))
            os.write(ours, text)
            assert await program.stdout.readexactly(len(text)) == text
            os.write(ours, b"\x02")  # Ctrl+B ends it
            out, _ = await program.communicate()
    finally:
        os.close(ours)
        os.close(its)
    assert b"Bye." in out
    assert program.returncode == 0, out.decode()
    baud_rates = [value for request, value, _ in device.requests if request == 3]
    assert baud_rates[-1] == 3_000_000 // 9600 | 1 << 14  # divisor 312.5


async def test_pyterm_ends_when_the_device_is_pulled_out(tmp_path: Path) -> None:
    device = Ftdi()
    backend = EmulatedBackend(devices=[device])
    ours, its = os.openpty()
    try:
        async with served(backend, tmp_path) as bus:
            program = await start(bus, "pyterm.py", "-f", URL, stdin=its)
            assert program.stdout is not None
            await program.stdout.readuntil(b"bps\n")
            backend.unplug(device)
            await program.stdout.readuntil(
                b"UsbError: [Errno "
            )  # 19, or 5 in mid-transfer
            os.write(ours, b"x")  # it sits and waits for a key
            await program.communicate()
    finally:
        os.close(ours)
        os.close(its)
