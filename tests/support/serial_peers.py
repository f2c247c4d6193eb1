"""Which serial chips there are, and what a program that uses one is to find."""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rusb.client.backends.emulated import EmulatedDevice
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus
from tests.support.chips import Acm, Ch340, Cp210x, Pl2303, SerialChip
from tests.support.ftdi import Ftdi

__all__ = ["Attached", "CHIPS", "PROGRAM", "STEPS", "Chip", "check", "command"]

PROGRAM = Path(__file__).parent / "serial_program.py"

Chip = Callable[[], SerialChip]
CHIPS: dict[str, Chip] = {
    "cdc-acm": Acm,
    "ftdi": Ftdi,
    "cp210x": Cp210x,
    "ch340": Ch340,
    "pl2303": Pl2303,
}

Step = tuple[str, int, int, str, float, bool]
STEPS: list[Step] = [
    ("a", 115200, 8, "E", 1, False),
    ("b", 9600, 7, "O", 2, False),
    ("c", 38400, 8, "M", 1, False),
    ("d", 250000, 8, "S", 1, False),
    ("e", 19200, 8, "N", 1, True),
]
"""A byte that is sent, and what is set before."""

LINES = [(False, True), (True, False), (False, False), (True, True)]


def command(
    port: str,
    chip: SerialChip,
    steps: list[Step] = STEPS,
    size: int = 4096,
    **more: Any,
) -> list[str]:
    """Return the command line of the program."""
    wanted = {
        "size": size,
        "steps": steps,
        "lines": LINES,
        "has_cts": not isinstance(chip, Acm),
        "breaks": True,
        **more,
    }
    return [sys.executable, str(PROGRAM), port, json.dumps(wanted)]


def check(
    chip: SerialChip, said: str, steps: list[Step] = STEPS, flow: str = "hardware"
) -> None:
    """Did the program find what it should, and the chip get what was set?"""
    assert said.endswith(("}", "}\n")), said
    found = json.loads(said.splitlines()[-1])
    assert all(found.values()), found
    for mark, baud, bits, parity, stop, rtscts in steps:
        got, *others = chip.seen[mark.encode()]
        assert abs(got - baud) <= baud * 0.02, (mark, got, baud)
        assert others == [bits, parity, stop, flow if rtscts else ""], mark


class Attached:
    """An emulated device as a guest gets it, without any wire."""

    round_trip: float | None = None

    def __init__(self, device: EmulatedDevice, number: int = 1) -> None:
        device.attached()
        device.power_on()
        self.device = device
        self.name = f"usb-{number}"
        self.info = device.info(1, 1)
        self.descriptors = device.descriptors
        self.press: Callable[[bool], None] = lambda is_high: None
        self.fails: UrbStatus | None = None  # every bulk transfer that begins
        self.reading = 0
        self.held: list[tuple[Urb, Completion]] | None = None  # control transfers

    def submit(self, urb: Urb, complete: Completion) -> None:
        if self.held is not None and urb.setup is not None:
            self.held.append((urb, complete))
            return
        if self.fails is not None and urb.setup is None:
            loop = asyncio.get_running_loop()
            loop.call_soon(complete, UrbResult(self.fails))
            return
        if urb.is_in and urb.setup is None:
            self.reading += 1

        def completed(result: UrbResult) -> None:
            if urb.is_in and urb.setup is None:
                self.reading -= 1
            complete(result)

        self.device.submit(urb, completed)

    def cancel(self, urb_id: int) -> None:
        self.device.cancel(urb_id)

    def reset(self) -> None:
        self.device.reset_port()

    def watch_pressure(self, changed: Callable[[bool], None]) -> None:
        self.press = changed
