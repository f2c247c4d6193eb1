"""``controlvm teleport`` as it is followed on a terminal."""

import asyncio
import os
import signal
from collections.abc import Mapping
from typing import Any

import pytest

from rusb.cli.vbox import _teleport
from rusb.errors import ControlError

MOVING: Mapping[str, Any] = {
    **{"stage": "moving", "is_over": False, "error": "", "downtime": None},
    **{"transferred": 1 << 20, "remaining": 1 << 20, "total": 2 << 20, "devices": 0},
}


def test_a_ctrl_c_that_comes_with_the_answer_cancels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """asyncio takes it for a wish to stop waiting, and no longer waits."""
    asked: list[str] = []

    async def answer() -> Mapping[str, Any]:
        os.kill(os.getpid(), signal.SIGINT)
        return MOVING

    def ask(uuid: str, command: str) -> Mapping[str, Any]:
        asked.append(command)
        if command == "teleportcancel":
            return {}
        if "teleportcancel" in asked:
            return {**MOVING, "is_over": True, "error": "the teleport was cancelled"}
        assert len(asked) < 3, "the Ctrl-C was lost"
        return asyncio.run(answer())

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(_teleport, "ask_running", ask)
    with pytest.raises(ControlError, match="was cancelled"):
        _teleport._follow("uuid", "there:6000")
    assert asked == ["teleportstatus", "teleportcancel", "teleportstatus"]
    assert signal.getsignal(signal.SIGINT) == before
