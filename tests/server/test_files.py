"""Files that are changed whole, whenever the writer dies."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rusb.errors import SettingsError
from rusb.server.machine import files
from rusb.server.machine.document import MAX_SIZE
from rusb.server.machine.files import (
    change_file,
    locked_folder,
    make_folder,
    read_file,
    write_file,
)

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


def test_only_regular_files_of_a_reasonable_size_are_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, sentence in (
        (fifo, "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "gone", "No such file"),
        (tmp_path / "a\0b", "null"),
    ):
        with pytest.raises(SettingsError, match=sentence):
            read_file(path)
    large = tmp_path / "large"
    large.write_bytes(b" " * MAX_SIZE)
    assert len(read_file(large)) == MAX_SIZE
    os.truncate(large, 1 << 40)
    with pytest.raises(SettingsError, match="larger than 4 MiB"):
        read_file(large)


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    path, link = tmp_path / "M.vbox", tmp_path / "link" / "L.vbox"
    path.write_bytes(OLD)
    make_folder(link.parent)
    link.symlink_to(path)
    change_file(link, lambda old: NEW)
    assert link.is_symlink()
    assert path.read_bytes() == NEW


def test_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    path = tmp_path / "M.vbox"
    path.write_bytes(OLD)
    write_file(path, NEW)
    assert path.read_bytes() == NEW
    assert (tmp_path / "M.vbox-prev").read_bytes() == OLD


def test_the_umask_does_not_take_the_mode_away(tmp_path: Path) -> None:
    path = tmp_path / "M.vbox"
    path.write_bytes(OLD)
    path.chmod(0o664)
    before = os.umask(0o077)
    try:
        write_file(path, NEW)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o664


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot make the folder"):
        make_folder(tmp_path / "file" / "folder")
    with pytest.raises(SettingsError, match="nothing was changed"):
        write_file(tmp_path / "gone" / "file", NEW)
    (tmp_path / "M.vbox-tmp").mkdir()  # in the way
    with pytest.raises(SettingsError, match="nothing was changed"):
        write_file(tmp_path / "M.vbox", NEW)


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
