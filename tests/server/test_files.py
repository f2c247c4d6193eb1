"""Files that are changed whole, whenever the writer dies."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rusb.errors import SettingsError
from rusb.server.machine import files
from rusb.server.machine.files import change_file, locked_folder, write_file

OLD, NEW = b"old " * 1000, b"new " * 3000

DIE = """
import os, sys
from pathlib import Path
from rusb.server.machine import files

step, count = int(sys.argv[2]), 0

def deadly(function):
    def run(*args, **known):
        global count
        count += 1
        if count == step:
            os._exit(9)
        return function(*args, **known)
    return run

for name in ("open", "fsync", "link", "replace", "close"):
    setattr(os, name, deadly(getattr(os, name)))
Path.unlink = deadly(Path.unlink)
real = os.fdopen

def fdopen(*args):
    file = real(*args)
    write = file.write
    class Half:
        def __enter__(self): return self
        def __exit__(self, *a): file.close()
        def write(self, data):
            write(data[: len(data) // 2]); file.flush()
            deadly(lambda: None)()
            write(data[len(data) // 2 :])
        def flush(self): file.flush()
        def fileno(self): return file.fileno()
    return Half()

os.fdopen = fdopen
files.change_file(Path(sys.argv[1]), lambda old: b"new " * 3000)
print("done", count)
"""


def test_a_writer_that_dies_at_any_step_leaves_the_old_or_the_new(
    tmp_path: Path,
) -> None:
    path = tmp_path / "M.vbox"
    seen = set()
    for step in range(1, 40):
        path.write_bytes(OLD)
        command = [sys.executable, "-c", DIE, str(path), str(step)]
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
        assert done.returncode in (0, 9), done.stderr
        found = path.read_bytes()
        assert found in (OLD, NEW)
        seen.add((done.returncode, found))
        change_file(path, lambda old: b"next " + old)  # no left-over is in the way
        assert path.read_bytes() == b"next " + found
        if done.returncode == 0:
            break
    assert step > 8
    assert seen == {(9, OLD), (9, NEW), (0, NEW)}


def test_mode_and_the_previous_version_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "M.vbox"
    path.write_bytes(OLD)
    path.chmod(0o640)
    write_file(path, NEW)
    assert path.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "M.vbox-prev").read_bytes() == OLD
    assert sorted(os.listdir(tmp_path)) == ["M.vbox", "M.vbox-prev"]


def test_nothing_is_written_when_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "M.vbox"
    path.write_bytes(OLD)
    change_file(path, lambda old: old)
    assert os.listdir(tmp_path) == ["M.vbox"]


def test_a_program_without_our_lock_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "M.vbox"
    path.write_bytes(OLD)

    def change(old: bytes) -> bytes:
        path.write_bytes(b"theirs")
        return NEW

    with pytest.raises(SettingsError, match="another program"):
        change_file(path, change)
    assert path.read_bytes() == b"theirs"


def test_what_fails_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "M.vbox"
    path.write_bytes(OLD)

    def change(old: bytes) -> bytes:
        raise SettingsError("no")

    with pytest.raises(SettingsError, match="no"):
        change_file(path, change)
    assert path.read_bytes() == OLD
    with pytest.raises(SettingsError, match="cannot read"):
        change_file(tmp_path / "gone.vbox", change)
    with pytest.raises(SettingsError, match="cannot open"):
        change_file(tmp_path / "gone" / "gone.vbox", change)


def _count(path: Path) -> None:
    for _ in range(25):
        change_file(path, lambda old: b"%d" % (int(old) + 1))


def test_two_processes_do_not_lose_a_change(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_bytes(b"0")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_count, args=(path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert path.read_bytes() == b"75"


def test_a_lock_that_stays_is_given_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOCK_TIMEOUT", 0.1)
    with locked_folder(tmp_path), pytest.raises(SettingsError, match="try again"):
        change_file(tmp_path / "x", lambda old: old)
