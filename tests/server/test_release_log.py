"""VBox.log: its format, its rotation, what it does with hostile text."""

import contextlib
import errno
import os
import re
import stat
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from rusb.errors import Hint, SettingsError
from rusb.server.quotas import MAX_LINE, RemoteLog
from rusb.server.release_log import ReleaseLog
from rusb.usb.text import LineQuota


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_every_line_begins_with_the_run_time(tmp_path: Path) -> None:
    clock = Clock()
    log = ReleaseLog(str(tmp_path / "VBox.log"), clock=clock)
    clock.now += 3600 * 101 + 62.000345
    log.write("VRDP: hello")
    log.close()
    lines = (tmp_path / "VBox.log").read_text().splitlines()
    assert all(re.match(r"\d{2,}:\d\d:\d\d\.\d{6} ", line) for line in lines)
    assert lines[-1] == "101:01:02.000345 VRDP: hello"


def test_the_header_says_what_ran_where(tmp_path: Path) -> None:
    ReleaseLog(str(tmp_path / "VBox.log")).close()
    text = (tmp_path / "VBox.log").read_text()
    assert re.search(r" rusb \S+ linux\..* release log\n", text)
    assert re.search(r" Log opened \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z\n", text)
    for name in ("OS Product", "OS Release", "Host RAM", "Executable", "Process ID"):
        assert f" {name}: " in text


@pytest.mark.parametrize(
    ("umask", "mode"), [(0, 0o640), (0o022, 0o640), (0o077, 0o600)]
)
def test_not_everybody_may_read_it(tmp_path: Path, umask: int, mode: int) -> None:
    """Names that were not accepted are in it, and some are passwords."""
    path = tmp_path / "VBox.log"
    before = os.umask(umask)
    try:
        ReleaseLog(str(path)).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_older_logs_are_kept_up_to_three(tmp_path: Path) -> None:
    for number in range(6):
        log = ReleaseLog(str(tmp_path / "VBox.log"))
        log.write(f"run {number}")
        log.close()
    found = {p.name: p.read_text().splitlines()[-1][-5:] for p in tmp_path.iterdir()}
    assert found == {
        "VBox.log": "run 5",
        "VBox.log.1": "run 4",
        "VBox.log.2": "run 3",
        "VBox.log.3": "run 2",
    }


def test_t42_control_characters_and_endless_lines_do_not_pass(tmp_path: Path) -> None:
    log = ReleaseLog(str(tmp_path / "VBox.log"))
    log.write("Name = [\x1b[2Jx\r\n00:00:00.000000 forged\t]")
    log.write("y" * 100_000)
    log.close()
    lines = (tmp_path / "VBox.log").read_text().splitlines()
    assert lines[-2].endswith("Name = [[2Jx00:00:00.000000 forged ]")
    assert len(lines[-1]) < MAX_LINE + 40


def test_a_folder_that_is_not_there_is_an_error_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot write the log") as caught:
        ReleaseLog(str(tmp_path / "nowhere" / "VBox.log"))
    assert caught.value.hint is Hint.OTHER_LOG


def test_a_full_disk_loses_lines_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = ReleaseLog("/dev/full")
    log.write("one")
    log.close()
    full = "goes on when there is room: No space left on device"
    assert caplog.text.count(full) == 1


@pytest.mark.parametrize("taken", [0, 9], ids=["nothing", "a part of the line"])
def test_a_log_goes_on_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, taken: int
) -> None:
    class Disk(FileIO):
        is_full = False

        def write(self, data: Any) -> int:
            if not self.is_full:
                return super().write(data)
            if not taken:
                raise OSError(errno.ENOSPC, "")
            return super().write(data[:taken])

    path = tmp_path / "VBox.log"
    log = ReleaseLog(path)
    log.close()
    log._file = disk = Disk(path, "a")
    disk.is_full = True
    log.write("one")
    log.write("two")
    disk.is_full = False
    log.write("three")
    log.write("four")
    log.close()
    lines = [line[16:] for line in path.read_text().splitlines() if line[16:]]
    assert lines[-3:] == [
        "Log: 2 lines are missing here: the disk was full",
        "three",
        "four",
    ]
    assert caplog.text.count("goes on when there is room") == 1


def test_standard_error_without_a_reader_ends_the_log_and_not_the_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = os.pipe()
    with contextlib.suppress(OSError), open(writer, "w", buffering=1) as errors:
        monkeypatch.setattr("sys.stderr", errors)
        log = ReleaseLog("-")
        os.close(reader)
        log.write("one")
        log.write("two")
        log.close()
        monkeypatch.undo()
    assert caplog.text.count("the log on standard error ends here: Broken pipe") == 1


def test_a_log_has_a_largest_size_while_it_is_open(tmp_path: Path) -> None:
    log = ReleaseLog(str(tmp_path / "VBox.log"), max_size=20_000)
    for number in range(5000):
        log.write(f"line {number} {'x' * 80}")
    log.close()
    sizes = {p.name: p.stat().st_size for p in tmp_path.iterdir()}
    assert sorted(sizes) == ["VBox.log", "VBox.log.1", "VBox.log.2", "VBox.log.3"]
    assert max(sizes.values()) < 20_000 + 200
    text = (tmp_path / "VBox.log").read_text()
    assert "Log continued after 20000 bytes" in text
    assert "Log opened" in text
    assert "line 4999 " in text


@pytest.mark.parametrize("kind", ["symlink", "fifo", "null"])
def test_only_a_regular_file_is_rotated(tmp_path: Path, kind: str) -> None:
    """As root, --log /dev/null renamed the device and left a file in its place."""
    path, target = tmp_path / "VBox.log", tmp_path / "target"
    reader = -1
    if kind == "symlink":
        target.write_text("before\n")
        path.symlink_to(target)
    elif kind == "fifo":
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    elif os.getuid() == 0:  # never the one that the machine needs
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    else:
        path = Path("/dev/null")
    before = path.lstat()
    log = ReleaseLog(str(path), max_size=1000)
    for number in range(2000):  # far more than a pipe takes
        log.write(f"line {number}")
    log.close()
    after = path.lstat()
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert {p.name for p in tmp_path.iterdir()} <= {"VBox.log", "target"}
    if kind == "symlink":
        lines = target.read_text().splitlines()
        assert lines[0] == "before"
        assert lines[-1].endswith("line 1999")
    if reader >= 0:
        assert b"release log" in os.read(reader, 100)
        os.close(reader)


def test_a_pipe_that_nobody_reads_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "VBox.log")
    with pytest.raises(SettingsError, match="no program reads from it"):
        ReleaseLog(str(tmp_path / "VBox.log"))


def test_where_no_new_file_can_be_made_the_log_is_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root opened it in a directory of its own, and was dropped."""
    log = ReleaseLog(str(tmp_path / "VBox.log"), max_size=20_000)

    def refuse(path: Path, target: Path) -> Path:
        raise PermissionError

    monkeypatch.setattr(Path, "replace", refuse)
    for number in range(1000):
        log.write(f"line {number} {'x' * 80}")
    log.close()
    (found,) = tmp_path.iterdir()
    assert found.stat().st_size < 20_000 + 200
    assert "line 999 " in found.read_text()


def test_root_follows_nobody_elses_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would write into a file that the other may not even read."""
    (tmp_path / "VBox.log").symlink_to(tmp_path / "secret")
    if os.getuid() == 0:
        os.chown(tmp_path / "VBox.log", 65534, 65534, follow_symlinks=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(SettingsError, match="belongs to another user"):
        ReleaseLog(str(tmp_path / "VBox.log"))
    assert not (tmp_path / "secret").exists()


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_put_in_the_place_of_an_open_log_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Somebody else's link, a pipe that nobody reads: the log stays bounded."""
    path, size = tmp_path / "VBox.log", 20_000
    log = ReleaseLog(str(path), max_size=size)
    path.rename(tmp_path / "moved")
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "secret")
        if os.getuid() == 0:
            os.chown(path, 65534, 65534, follow_symlinks=False)
        monkeypatch.setattr("os.geteuid", lambda: 0)
    for number in range(1000):
        log.write(f"line {number} {'x' * 80}")
    log.close()
    assert (tmp_path / "moved").stat().st_size < size + 200
    assert "line 999 " in (tmp_path / "moved").read_text()
    assert not (tmp_path / "secret").exists()


def test_a_peer_causes_as_many_lines_as_it_may(tmp_path: Path) -> None:
    clock = Clock()
    log = ReleaseLog(str(tmp_path / "VBox.log"), clock=clock)
    shared = LineQuota(25, 1.0)
    one = RemoteLog(log, "VRDP: client 1", LineQuota(20, 1.0), shared)
    other = RemoteLog(log, "VRDP: client 2", LineQuota(20, 1.0), shared)
    for number in range(100):
        one.write(f"one {number}")
    for number in range(100):
        other.write(f"other {number}")
    clock.now += 2.0
    one.write("one again")
    other.tell_left_out()
    log.close()
    lines = (tmp_path / "VBox.log").read_text().splitlines()
    said = [line.partition(" ")[2] for line in lines]
    assert (
        said[-27:]
        == [
            *(f"one {n}" for n in range(20)),
            *(f"other {n}" for n in range(5)),
            "VRDP: client 1: 80 lines were left out here.",
            "one again",
            "VRDP: client 2: 95 lines were left out here.",
        ][-27:]
    )
    assert not shared.is_full(clock.now)
    assert shared.is_full(clock.now + 25)


def test_nobody_fills_the_log_with_what_was_left_out(tmp_path: Path) -> None:
    """One line for each connection, without end."""
    clock = Clock()
    log = ReleaseLog(str(tmp_path / "VBox.log"), clock=clock)
    shared = LineQuota(3, 1.0)
    for number in range(100):
        one = RemoteLog(log, f"client {number}", LineQuota(20, 1.0), shared)
        for _ in range(4):
            one.write(f"connection {number}")
        one.tell_left_out()
    clock.now += 1.0
    RemoteLog(log, "client 100", LineQuota(20, 1.0), shared).write("the next one")
    log.close()
    lines = (tmp_path / "VBox.log").read_text().splitlines()
    said = [line.partition(" ")[2] for line in lines]
    assert said[-5:] == [
        *["connection 0"] * 3,
        "397 lines of earlier clients were left out.",
        "the next one",
    ]


def test_standard_error_is_a_log_too(capsys: pytest.CaptureFixture[str]) -> None:
    log = ReleaseLog(None)
    log.write("VRDP: hello")
    log.close()
    assert capsys.readouterr().err.endswith(" VRDP: hello\n")
