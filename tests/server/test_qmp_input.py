"""What is sent by QMP because VNC cannot carry it (display.md 6.3)."""

import asyncio
from collections.abc import Mapping, Sequence

from rusb.errors import GuestError
from rusb.server.display import qmp_input
from rusb.server.display.qmp_input import QmpInput

SIZE = 101, 201


class Qemu:
    """Takes its time, and notes events in short: ``x 5``, ``left down``."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.gate = asyncio.Event()
        self.input = QmpInput(self._send)

    async def _send(self, events: Sequence[Mapping[str, object]]) -> None:
        said = []
        for event in events:
            data = event["data"]
            assert isinstance(data, dict)
            if event["type"] == "abs":
                said.append(f"{data['axis']} {data['value']}")
            else:
                said.append(f"{data['button']} {'down' if data['down'] else 'up'}")
        self.commands.append(said)
        await self.gate.wait()
        if said == ["extra down"]:
            raise GuestError("no such button")

    async def settle(self) -> None:
        self.gate.set()
        await asyncio.sleep(0.02)


async def test_movements_that_wait_become_one() -> None:
    qemu = Qemu()
    for x in range(5):
        qemu.input.pointer(0, x, 0, SIZE)
        await asyncio.sleep(0)
    await qemu.settle()
    assert qemu.commands == [["x 0", "y 0"], [f"x {4 * 0x7FFF // 100}", "y 0"]]
    await qemu.input.aclose()


async def test_buttons_keep_their_place_and_order() -> None:
    qemu = Qemu()
    qemu.input.pointer(0, 0, 0, SIZE)
    await asyncio.sleep(0)
    qemu.input.pointer(1, 100, 200, SIZE)
    qemu.input.pointer(0, 100, 200, SIZE)
    qemu.input.pointer(8, 100, 0, SIZE)
    qemu.input.pointer(0, 100, 0, SIZE)
    qemu.input.button("side", is_down=True)
    await qemu.settle()
    corner, right = ["x 32767", "y 32767"], ["x 32767", "y 0"]
    assert qemu.commands[1:] == [
        [*corner, "left down"],
        [*corner, "left up"],
        [*right, "wheel-up down"],
        [*right, "wheel-up up"],
        ["side down"],
    ]
    await qemu.input.aclose()


async def test_a_guest_without_such_buttons_and_one_that_does_not_answer() -> None:
    qemu = Qemu()
    qemu.input.button("extra", is_down=True)
    await asyncio.sleep(0)
    for _ in range(500):
        qemu.input.button("side", is_down=True)
    await qemu.settle()
    assert len(qemu.commands) == 1 + qmp_input.MAX_WAITING
    await qemu.input.aclose()


async def test_what_is_pressed_is_released_however_much_waits() -> None:
    qemu = Qemu()
    qemu.input.button("side", is_down=True)
    qemu.input.pointer(1, 0, 0, SIZE)
    await asyncio.sleep(0)
    for _ in range(500):
        qemu.input.pointer(8, 0, 0, SIZE)
        qemu.input.pointer(0, 0, 0, SIZE)
    qemu.input.button("extra", is_down=True)
    for name in ("side", "extra"):
        qemu.input.button(name, is_down=False)
    await qemu.settle()
    said = [command[-1] for command in qemu.commands]
    assert said[0] == "side down"
    assert said[-1] == "side up"
    assert "extra up" not in said  # it was never passed on
    for button in ("left", "wheel-up"):
        assert said.count(f"{button} down") == said.count(f"{button} up") > 0
    assert len(said) <= qmp_input.MAX_WAITING + 4
    await qemu.input.aclose()
