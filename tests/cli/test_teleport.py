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


def test_why_it_cannot_be_cancelled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(uuid: str, command: str) -> object:
        raise ControlError("too\x9b31m late")

    monkeypatch.setattr(_teleport, "ask_running", ask)
    _teleport._cancel("uuid")
    assert capsys.readouterr().err == "Warning: too31m late\n"


def test_nothing_is_printed_of_a_move_that_did_not_begin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = {**MOVING, "total": 0, "is_over": True, "error": "the password is wrong"}
    monkeypatch.setattr(_teleport, "ask_running", lambda uuid, command: refused)
    with pytest.raises(ControlError, match="^the password is wrong$"):
        _teleport._follow("uuid", "there:6000")
    assert capsys.readouterr().out == ""


def test_how_long_the_source_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    over = {**MOVING, "is_over": True, "downtime": 0.087, "devices": 3}
    monkeypatch.setattr(_teleport, "ask_running", lambda uuid, command: over)
    _teleport._follow("uuid", "there:6000")
    assert capsys.readouterr().out.splitlines() == [
        "50%...",
        "The machine now runs at there:6000: 1 MB transferred, paused for 87 ms.",
        "USB devices that still come through this host: 3. Keep it running until their"
        " clients have followed the machine or disconnected; controlvm VM poweroff"
        " here unplugs them.",
    ]
