"""The control socket, over real sockets and between real processes."""

import asyncio
import json
import os
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rusb.errors import ControlError, GuestError
from rusb.server.control import (
    MAX_CONNECTIONS,
    MAX_LINE,
    ControlServer,
    call,
    control_path,
    runtime_folder,
)


async def double(arguments: Mapping[str, Any]) -> object:
    return {"twice": 2 * arguments["number"]}


async def refuse(arguments: Mapping[str, Any]) -> object:
    raise GuestError("the guest does not listen")


COMMANDS = {"double": double, "refuse": refuse}


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[ControlServer]:
    found = ControlServer(tmp_path / "m.control", COMMANDS)
    async with asyncio.timeout(20):
        await found.start()
        yield found
        await found.aclose()


async def test_a_command_returns_its_value(control: ControlServer) -> None:
    assert await call(control.path, "double", number=21) == {"twice": 42}
    assert stat.S_IMODE(control.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("refuse", "the guest does not listen"),
        ("fly", "does not know 'fly'"),
        ("double", "internal error: KeyError"),
    ],
)
async def test_errors_come_back_as_sentences(
    control: ControlServer, command: str, sentence: str
) -> None:
    with pytest.raises(ControlError, match=sentence):
        await call(control.path, command)


@pytest.mark.parametrize(
    "line",
    [
        b"junk\n",
        b"[]\n",
        b'{"command": {}}\n',
        b'{"command": "double", "arguments": 5}\n',
        b"[" * 100_000 + b"\n",
    ],
)
async def test_what_is_no_request_is_told_so(
    control: ControlServer, line: bytes
) -> None:
    reader, writer = await asyncio.open_unix_connection(control.path)
    writer.write(line)
    assert "error" in json.loads(await reader.readline())
    writer.close()
    assert await call(control.path, "double", number=1) == {"twice": 2}


async def test_an_endless_line_is_hung_up_on(control: ControlServer) -> None:
    _, writer = await asyncio.open_unix_connection(control.path)

    async def flood() -> None:
        while True:
            writer.write(bytes(MAX_LINE))
            await writer.drain()

    with pytest.raises(ConnectionError):
        await flood()
    assert await call(control.path, "double", number=1) == {"twice": 2}


async def test_too_many_connections_are_hung_up_on(control: ControlServer) -> None:
    pairs = [
        await asyncio.open_unix_connection(control.path) for _ in range(MAX_CONNECTIONS)
    ]
    for _, writer in pairs:
        writer.write(b"junk\n")
    for reader, _ in pairs:
        await reader.readline()
    reader, extra = await asyncio.open_unix_connection(control.path)
    assert await reader.read() == b""
    for _, writer in [*pairs, (reader, extra)]:
        writer.close()


async def test_without_a_running_machine(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="not running"):
        await call(tmp_path / "m.control", "double")


async def test_a_machine_runs_once(control: ControlServer) -> None:
    with pytest.raises(
        ControlError, match=f"already running, in process {os.getpid()}"
    ):
        ControlServer(control.path, {}).hold()


HOLD = """
import asyncio, sys
from pathlib import Path
from rusb.server.control import ControlServer

async def main():
    await ControlServer(Path(sys.argv[1]), {}).start()
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_what_a_killed_process_leaves_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "m.control"
    command = [sys.executable, "-c", HOLD, str(path)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    with pytest.raises(ControlError, match=f"in process {process.pid}"):
        ControlServer(path, {}).hold()
    process.kill()
    await process.wait()
    assert path.exists()
    with pytest.raises(ControlError, match="not running"):
        await call(path, "double")
    again = ControlServer(path, COMMANDS)
    await again.start()
    assert await call(path, "double", number=2) == {"twice": 4}
    await again.aclose()
    assert not path.exists()


def test_the_folder_must_be_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        check_folder(Path(folder), monkeypatch)


def test_the_folder_must_leave_room_for_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSB_RUNTIME", "/tmp/" + 56 * "x")
    with pytest.raises(ControlError, match="name a shorter folder"):
        runtime_folder()


def check_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSB_RUNTIME", str(tmp_path / "run"))
    assert control_path("{AB-CD}") == tmp_path / "run" / "ab-cd.control"
    assert stat.S_IMODE(runtime_folder().stat().st_mode) == 0o700
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(ControlError, match="written by others"):
        runtime_folder()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    monkeypatch.setenv("RUSB_RUNTIME", str(tmp_path / "link"))
    with pytest.raises(ControlError, match="RUSB_RUNTIME"):
        runtime_folder()
