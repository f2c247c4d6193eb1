"""QEMU's end of a move, with a QEMU that says what a real one says only at its end."""

from typing import cast

import pytest

from rusb.errors import GuestError
from rusb.server.machine.process import Hypervisor
from rusb.server.machine.teleport.stream import load


class Failing:
    """It could not load the machine, and is still there."""

    async def execute(self, command: str) -> dict[str, str]:
        assert command == "query-migrate"
        return {"status": "failed", "error-desc": "no\x1b such device"}


async def test_a_machine_that_qemu_cannot_load_is_not_waited_for() -> None:
    with pytest.raises(GuestError, match="cannot load the machine: no such device$"):
        await load(cast(Hypervisor, Failing()))
