"""pyserial programs with a serial port that is at a client, over TLS, unchanged."""

import asyncio
from pathlib import Path
from typing import Any

from rusb.client.backends.emulated import EmulatedBackend
from rusb.server.guests.pty import PtyGuest
from rusb.server.guests.rfc2217 import Rfc2217Guest
from tests.support.chips import Acm
from tests.support.ftdi import Ftdi
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


async def test_a_program_opens_the_port_by_rfc2217(tmp_path: Path) -> None:
    """One for each kind of chip, at the same time."""
    chips = {name: make() for name, make in CHIPS.items()}
    steps = {name: STEPS for name in chips}
    steps["cdc-acm"] = [step for step in STEPS if not step[-1]]  # has no flow control
    guest = Rfc2217Guest("0")
    devices = EmulatedBackend(devices=list(chips.values()))
    async with remote(devices, guest, tmp_path), asyncio.TaskGroup() as programs:
        running = {}
        for place in guest._slots:
            assert place._port is not None
            name = place._port.driver.name.lower()
            words = command(place.describe(), chips[name], steps[name])
            running[name] = programs.create_task(run(*words))
    assert running.keys() == chips.keys()
    for name, chip in chips.items():
        check(chip, running[name].result(), steps[name])
        assert chip.breaks == 1


async def test_a_program_opens_the_pseudo_terminal(tmp_path: Path) -> None:
    """One for each kind of chip, at the same time."""
    chips = {f"{chip.string(2)}": chip for chip in (make() for make in CHIPS.values())}
    guest = PtyGuest(str(tmp_path / "tty"))
    devices = EmulatedBackend(devices=list(chips.values()))
    async with remote(devices, guest, tmp_path):
        async with asyncio.TaskGroup() as programs:
            running = {}
            for link in guest.folder.iterdir():
                (name,) = (n for n in chips if n.replace(" ", "_") in link.name)
                size = 64 << 10 if isinstance(chips[name], Ftdi) else 4096
                more: dict[str, Any] = {"lines": [], "breaks": False}
                words = command(str(link), chips[name], PTY_STEPS, size, **more)
                running[name] = programs.create_task(run(*words))
        async with asyncio.timeout(10):
            while any(chip.dtr for chip in chips.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # it is closed soon after
    assert running.keys() == chips.keys()
    for name, chip in chips.items():
        flow = "" if isinstance(chip, Acm) else "hardware"
        check(chip, running[name].result(), PTY_STEPS, flow)
        assert (chip.dtr, chip.rts) == (False, False)
    assert not list(guest.folder.iterdir())
