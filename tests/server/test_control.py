"""The control socket, over real sockets and between real processes."""

import asyncio
import contextlib
import fcntl
import json
import os
import resource
import shutil
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rusb.errors import ControlError
from rusb.server.event_log import EventLog
from rusb.server.machine import control as control_module
from rusb.server.machine.control import (
    MAX_CONNECTIONS,
    MAX_LINE,
    ControlServer,
    call,
    control_path,
    running_path,
    runtime_folder,
)
from rusb.server.vbox import lock as lock_module
from rusb.server.vbox.lock import (
    Holder,
    MachineLock,
    changing,
    holder_of,
    lock_path,
)
from tests.support.control import COMMANDS, make


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[ControlServer]:
    found = make(tmp_path / "m.control")
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
        ("fly", "has no command 'fly'"),
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


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"5\n", "does not belong to a running machine"),
        (b"[]\n", "does not belong to a running machine"),
        (b"null\n", "does not belong to a running machine"),
        (b"{}\n", "does not belong to a running machine"),
        (b'"error"\n', "does not belong to a running machine"),
        (b'{"error": 5}\n', "does not belong to a running machine"),
        (b'{"error": "\\u001b[31mred"}\n', r"^\[31mred$"),
        (b"[" * 100_000 + b"\n", "cannot ask the running machine"),
        (b"x" * (MAX_LINE + 2) + b"\n", "cannot ask the running machine"),
        (b"\xff\n", "cannot ask the running machine"),
        (b"", "closed the connection"),
    ],
)
async def test_an_answer_that_is_none_is_told_so(
    tmp_path: Path, answer: bytes, sentence: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    path = tmp_path / "m.control"
    async with asyncio.timeout(30), await asyncio.start_unix_server(serve, path):
        with pytest.raises(ControlError, match=sentence):
            await call(path, "info")


async def test_t44_another_user_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where somebody opened the socket and its folder to all."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder, "m.control")
        control = make(path)
        await control.start()
        os.chmod(folder, 0o755)
        os.chmod(path, 0o666)
        with connected_as_another_user(path, monkeypatch) as sock:
            sock.sendall(b'{"command": "double", "arguments": {"number": 1}}\n')
            reader, writer = await asyncio.open_unix_connection(sock=sock)
            async with asyncio.timeout(20):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()
        assert await call(path, "double", number=1) == {"twice": 2}
        await control.aclose()


@contextlib.contextmanager
def connected_as_another_user(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """Root becomes nobody for a moment; for others the server is another's."""
    sock = socket.socket(socket.AF_UNIX)
    if os.getuid() == 0:
        os.seteuid(65534)
        try:
            sock.connect(str(path))
        finally:
            os.seteuid(0)
        yield sock
        return
    sock.connect(str(path))
    with monkeypatch.context() as patch:
        patch.setattr("os.getuid", lambda: 1)
        yield sock


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
    extra.write(b"junk\n")
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    for _, writer in [*pairs, (reader, extra)]:
        writer.close()


async def test_arguments_are_an_object(control: ControlServer) -> None:
    reader, writer = await asyncio.open_unix_connection(control.path)
    writer.write(b'{"command": "double", "arguments": [21]}\n')
    assert b"arguments of a command must be an object" in await reader.readline()
    writer.close()


async def test_who_asks_no_more_is_sent_no_more(control: ControlServer) -> None:
    reader, writer = await asyncio.open_unix_connection(control.path)
    writer.write(b"junk\n")
    writer.write_eof()
    assert (await reader.read()).count(b"\n") == 1
    writer.close()


async def test_without_a_running_machine(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="not running"):
        await call(tmp_path / "m.control", "double")


def test_nobody_listens_for_a_machine_that_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUSB_RUNTIME", str(tmp_path / "run"))
    with pytest.raises(ControlError, match="the machine is not running"):
        running_path("3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a7ff")


async def test_a_socket_that_is_there_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(control_module, "WATCH_PERIOD", 0.02)
    control = make(tmp_path / "m.control")
    await control.start()
    await asyncio.sleep(0.2)  # it is looked at some times
    assert "was removed" not in caplog.text
    await control.aclose()


async def test_a_machine_runs_once(control: ControlServer) -> None:
    with pytest.raises(
        ControlError, match=f"already running, in process {os.getpid()}"
    ):
        make(control.path).hold()


HOLD = """
import asyncio, sys
from pathlib import Path
from tests.support.control import make

async def main():
    await make(Path(sys.argv[1])).start()
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_what_a_killed_process_leaves_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "m.control"
    command = [sys.executable, "-c", HOLD, str(path)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    await process.stdout.readline()
    with pytest.raises(ControlError, match=f"in process {process.pid}"):
        make(path).hold()
    process.kill()
    await process.wait()
    assert path.exists()
    with pytest.raises(ControlError, match="not running"):
        await call(path, "double")
    again = make(path)
    await again.start()
    assert await call(path, "double", number=2) == {"twice": 4}
    await again.aclose()
    assert not path.exists()


def test_the_folder_must_be_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        check_folder(Path(folder), monkeypatch)


def test_the_folder_must_leave_room_for_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSB_RUNTIME", "/tmp/" + 56 * "x")
    with pytest.raises(ControlError, match="use a shorter directory"):
        runtime_folder()


def check_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSB_RUNTIME", str(tmp_path / "run"))
    assert control_path("{AB-CD}") == tmp_path / "run" / "ab-cd.control"
    assert stat.S_IMODE(runtime_folder().stat().st_mode) == 0o700
    with monkeypatch.context() as patch:
        patch.setattr("os.getuid", lambda: 4711)
        with pytest.raises(
            ControlError, match="belongs to another user or can be written by"
        ):
            runtime_folder()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(ControlError, match="written by others"):
        runtime_folder()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    monkeypatch.setenv("RUSB_RUNTIME", str(tmp_path / "link"))
    with pytest.raises(ControlError, match="RUSB_RUNTIME"):
        runtime_folder()


async def test_a_socket_that_was_removed_comes_again(
    control: ControlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "WATCH_PERIOD", 0.02)
    moved = tmp_path / "elsewhere.control"
    again = ControlServer(
        lambda: tmp_path / "gone" / "n.control" if not moved.exists() else moved,
        COMMANDS,
        MachineLock(tmp_path / "n.lock"),
        EventLog("Lab"),
    )
    (tmp_path / "gone").mkdir()
    await again.start()
    shutil.rmtree(tmp_path / "gone")
    moved.touch()  # from now on it is to be there
    while holder_of(tmp_path / "n.lock") != Holder(os.getpid(), moved):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    assert await call(moved, "double", number=3) == {"twice": 6}
    await again.aclose()
    assert holder_of(tmp_path / "n.lock") is None


# ------------------------------------------------------------------ locks ----


def test_a_lock_says_who_has_it_and_for_what(tmp_path: Path) -> None:
    path = tmp_path / "m.lock"
    assert holder_of(path) is None
    with changing(path):
        holder = holder_of(path)
        assert holder is not None
        assert (holder.process, holder.is_running) == (os.getpid(), False)
    assert holder_of(path) is None
    lock = MachineLock(path)
    lock.take(tmp_path / "socket")
    holder = holder_of(path)
    assert holder is not None
    assert (holder.is_running, holder.socket) == (True, tmp_path / "socket")
    with pytest.raises(ControlError, match="already running"), changing(path):
        pass
    lock.drop(forget=True)
    lock.drop()
    assert not path.exists()
    assert holder_of(path) is None


def test_a_lock_that_cannot_be_written_is_named_and_let_go(tmp_path: Path) -> None:
    path = tmp_path / "m.lock"
    lock = MachineLock(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # as a full disk
    try:
        with pytest.raises(ControlError, match=r"cannot write .*m\.lock.*RUSB_STATE"):
            lock.take()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not lock.is_held
    with changing(path):
        assert holder_of(path) is not None


def test_whoever_changes_a_machine_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.lock"
    first = MachineLock(path)
    first.take()
    timer = threading.Timer(0.2, lambda: first.drop(forget=True))
    timer.start()
    second = MachineLock(path)
    second.take(tmp_path / "socket")  # of the new file, not of the removed one
    timer.join()
    assert holder_of(path) is not None
    second.drop()
    monkeypatch.setattr(lock_module, "PATIENCE", 0.1)
    with changing(path), pytest.raises(ControlError, match="has been changing"):
        second.take()


def test_whoever_only_looks_at_a_lock_keeps_nobody_out(tmp_path: Path) -> None:
    """Its text may be that of a process that was killed."""
    path = tmp_path / "m.lock"
    path.write_text("1\n/run/m.control\n\n")
    with path.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        timer = threading.Timer(0.05, fcntl.flock, (looking, fcntl.LOCK_UN))
        timer.start()
        lock = MachineLock(path)
        lock.take(tmp_path / "m.control")
        timer.join()
    lock.drop()


def test_t44_a_lock_is_no_way_to_another_file(tmp_path: Path) -> None:
    """A symbolic link in the place of a lock would have its target emptied."""
    target = tmp_path / "precious"
    target.write_text("data")
    (tmp_path / "m.lock").symlink_to(target)
    with pytest.raises(ControlError, match="keeps the machine from running"):
        MachineLock(tmp_path / "m.lock").take()
    assert target.read_text() == "data"


def test_t44_the_folder_of_locks_must_be_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("RUSB_RUNTIME", str(tmp_path / "link"))
    with pytest.raises(ControlError, match="written by others"):
        lock_path("{AB-CD}")
    monkeypatch.setenv("RUSB_RUNTIME", str(tmp_path / "real"))
    assert lock_path("{AB-CD}") == tmp_path / "real" / "ab-cd.lock"
    with monkeypatch.context() as patch:
        patch.setattr("os.getuid", lambda: 4711)
        with pytest.raises(
            ControlError, match="belongs to another user or can be written by"
        ):
            lock_path("{AB-CD}")
    (tmp_path / "real").chmod(0o770)
    with pytest.raises(ControlError, match="written by others"):
        lock_path("{AB-CD}")


def test_t44_the_folder_of_locks_is_made_for_us_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUSB_RUNTIME", str(tmp_path / "run"))
    before = os.umask(0)
    try:
        lock_path("{AB-CD}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


def test_the_lock_does_not_depend_on_the_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUSB_RUNTIME", raising=False)
    monkeypatch.setenv("RUSB_STATE", str(tmp_path))
    found = set()
    for folder in (tmp_path, tmp_path / "gone"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        found.add(lock_module.lock_path("{AB-CD}"))
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    found.add(lock_module.lock_path("ab-cd"))
    assert found == {tmp_path / "run" / "ab-cd.lock"}
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    assert runtime_folder() == Path(f"/tmp/rusb-{os.getuid()}")
