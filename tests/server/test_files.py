"""Files that are changed whole, whenever the writer dies."""

import contextlib
import errno
import fcntl
import multiprocessing
import os
import shutil
import stat
from pathlib import Path

import pytest

from rusb.errors import ControlError, SettingsError
from rusb.server.vbox import files
from rusb.server.vbox.document import MAX_SIZE
from rusb.server.vbox.files import (
    change_file,
    locked_folder,
    make_folder,
    read_file,
    write_file,
)
from rusb.server.vbox.lock import MachineLock
from rusb.server.vbox.registry import Registry
from tests.support.dying import die

OLD, NEW = b"old " * 1000, b"new " * 3000

CHANGE = """
from rusb.server.vbox.files import change_file
change_file(path, lambda old: b"new " * 3000)
"""


def test_a_writer_that_dies_at_any_step_leaves_the_old_or_the_new(
    tmp_path: Path,
) -> None:
    path = tmp_path / "M.vbox"
    seen = set()
    for step in range(1, 40):
        path.write_bytes(OLD)
        is_done = die(step, CHANGE, path)
        found = path.read_bytes()
        assert found in (OLD, NEW)
        seen.add((is_done, found))
        change_file(path, lambda old: b"next " + old)  # no left-over is in the way
        assert path.read_bytes() == b"next " + found
        if is_done:
            break
    assert step > 8
    assert seen == {(False, OLD), (False, NEW), (True, NEW)}


EDIT = """
from rusb.server.vbox.registry import Registry
registry = Registry(path / "vms", path / "home")
registry.edit(registry.find("A"), lambda e: (e.set_usb("XHCI", True), e.set_memory(7)))
"""
REGISTER = """
from rusb.server.vbox.registry import Registry
Registry(path / "vms", path / "home").register(path / "vms" / "B" / "B.vbox")
"""


def test_a_version_is_raised_or_not_whenever_the_writer_dies(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "vms", tmp_path / "home")
    entry = registry.register(registry.create("A").path)
    old = entry.path.read_bytes().replace(b"1.18-linux", b"1.12-linux")
    copy = entry.path.with_name("A-1.12-linux.vbox")
    seen = set()
    for step in range(1, 60):
        for other in entry.path.parent.iterdir():
            other.unlink()
        entry.path.write_bytes(old)
        is_done = die(step, EDIT, tmp_path)
        (found,) = registry.machines()
        assert found.machine is not None
        is_raised = found.machine.version == (1, 15)
        assert is_raised or entry.path.read_bytes() == old
        assert found.machine.usb_controllers == (("XHCI",) if is_raised else ())
        assert not copy.exists() or copy.read_bytes() == old
        assert copy.exists() or not is_raised
        seen.add((is_done, is_raised))
        machine = registry.edit(found, lambda e: e.set_usb("XHCI", True))
        assert machine.usb_controllers == ("XHCI",)
        assert copy.read_bytes() == old
        if is_done:
            break
    assert step > 16
    assert seen == {(False, False), (False, True), (True, True)}


@pytest.mark.parametrize("is_first", [True, False])
def test_a_machine_is_registered_or_not_whenever_the_writer_dies(
    tmp_path: Path, is_first: bool
) -> None:
    registry = Registry(tmp_path / "vms", tmp_path / "home")
    first, second, third = (registry.create(name) for name in "ABC")
    if not is_first:
        registry.register(first.path)
        old = registry.path.read_bytes()
    seen = set()
    for step in range(1, 60):
        for other in registry.home.iterdir() if registry.home.exists() else ():
            other.unlink()
        if not is_first:
            registry.path.write_bytes(old)
        is_done = die(step, REGISTER, tmp_path)
        names = [entry.name for entry in registry.machines()]
        before = [] if is_first else ["A"]
        assert names in (before, [*before, "B"])
        seen.add((is_done, "B" in names))
        registry.register(third.path)
        assert [e.name for e in registry.machines()] == [*names, "C"]
        if is_done:
            break
    assert step > 8
    assert seen == {(False, False), (False, True), (True, True)}
    assert second.path.exists()


CREATE = """
from rusb.server.vbox.registry import Registry
Registry(path / "vms", path / "home").create_registered("A", "Debian_64")
"""


@pytest.mark.parametrize("is_first", [True, False])
def test_a_machine_is_created_or_not_whenever_the_writer_dies(
    tmp_path: Path, is_first: bool
) -> None:
    """Its settings and the list are two files; the next command sees both or none."""
    seen = set()
    for step in range(1, 60):
        folder = tmp_path / str(step)
        registry = Registry(folder / "vms", folder / "home")
        if not is_first:
            registry.create_registered("Z")
        is_done = die(step, CREATE, folder)
        is_there = True
        with contextlib.suppress(SettingsError):  # it already exists
            registry.create_registered("A", "Debian_64")
            is_there = False  # no left-over was in the way
        seen.add((is_done, is_there))
        found = registry.machines()
        assert [e.name for e in found] == (["A"] if is_first else ["Z", "A"])
        assert found[-1].machine is not None
        assert found[-1].machine.os_type == "Debian_64"
        assert os.listdir(folder / "vms" / "A") == ["A.vbox"]
        registry.unregister("A", delete=True)
        assert not (folder / "vms" / "A").exists()
        if is_done:
            break
    assert step > 16
    assert seen == {(False, False), (False, True), (True, True)}


def test_a_machine_that_is_being_created_is_read_by_others(tmp_path: Path) -> None:
    """A reader may finish it first; what waits for another machine stays."""
    registry = Registry(tmp_path / "vms", tmp_path / "home")
    path = registry.create_registered("A").path
    waiting = path.with_name("A.vbox-new")
    path.rename(waiting)
    assert [entry.name for entry in registry.machines()] == ["A"]
    assert (path.exists(), waiting.exists()) == (True, False)
    path.unlink()
    shutil.copy(registry.create("B").path, waiting)
    assert [entry.name for entry in registry.machines()] == ["<inaccessible>"]
    assert (path.exists(), waiting.exists()) == (False, True)


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
    with pytest.raises(SettingsError, match="cannot create the directory"):
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


def test_a_file_system_without_locks_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(SettingsError, match=f"cannot lock {tmp_path}: No locks avail"):
        change_file(tmp_path / "x", lambda old: old)
    with pytest.raises(
        ControlError, match=r"cannot lock .*m\.lock: No locks available"
    ):
        MachineLock(tmp_path / "m.lock").take()


def test_a_folder_that_cannot_be_synced_has_the_file_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_file(tmp_path / "M.vbox", NEW)
    assert (tmp_path / "M.vbox").read_bytes() == NEW
