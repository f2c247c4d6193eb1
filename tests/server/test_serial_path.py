"""pyserial programs with a serial port that is at a client, over TLS, unchanged."""

import asyncio
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend
from rusb.server.guests.pty import PtyGuest
from rusb.server.guests.rfc2217 import Rfc2217Guest
from tests.support.remote import remote
from tests.support.serial_peers import CHIPS, STEPS, Step, check, command

PTY_STEPS: list[Step] = [
    ("a", 115200, 8, "N", 2, False),
    ("b", 250000, 8, "N", 1, False),
    ("c", 19200, 8, "N", 1, True),
]
"""Linux keeps a pseudo-terminal at 8 bits without parity."""


async def run(*words: str) -> str:
    program = await asyncio.create_subprocess_exec(
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await program.communicate()
    assert program.returncode == 0, errors.decode()
    return out.decode()


@pytest.mark.parametrize("name", CHIPS)
async def test_a_program_opens_the_port_by_rfc2217(name: str, tmp_path: Path) -> None:
    chip = CHIPS[name]()
    steps = [step for step in STEPS if name != "cdc-acm" or not step[-1]]
    guest = Rfc2217Guest("0")
    async with remote(EmulatedBackend(devices=[chip]), guest, tmp_path):
        url = f"rfc2217://127.0.0.1:{guest.port}"
        said = await run(*command(url, chip, steps))
    check(chip, said, steps)
    assert chip.breaks == 1


@pytest.mark.parametrize("name", CHIPS)
async def test_a_program_opens_the_pseudo_terminal(name: str, tmp_path: Path) -> None:
    chip = CHIPS[name]()
    guest = PtyGuest(str(tmp_path / "tty"))
    async with remote(EmulatedBackend(devices=[chip]), guest, tmp_path):
        (link,) = guest.folder.iterdir()
        size = 64 << 10 if name == "ftdi" else 4096
        words = command(str(link), chip, PTY_STEPS, size, lines=[], breaks=False)
        said = await run(*words)
        async with asyncio.timeout(10):
            while chip.dtr:  # noqa: ASYNC110 - it is closed soon after
                await asyncio.sleep(0.02)
    flow = "" if name == "cdc-acm" else "hardware"
    check(chip, said, PTY_STEPS, flow)
    assert (chip.dtr, chip.rts) == (False, False)
    assert not list(guest.folder.iterdir())
