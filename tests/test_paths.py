"""Where rusb keeps what it knows between runs."""

import fcntl
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rusb.aio.tls import KnownServers, make_self_signed
from rusb.cli.serve import make_settings
from rusb.client.backends._journal import Journal
from rusb.client.backends._sysfs import Sysfs
from rusb.errors import SettingsError
from rusb.paths import locked, make_private, state_folder
from rusb.server.vbox.lock import lock_path
from rusb.server.vbox.registry import Registry


def test_a_user_may_have_no_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs with any number for a user."""
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "RUSB_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    monkeypatch.setenv("RUSB_HOME", str(tmp_path))
    assert Registry().home == tmp_path
    monkeypatch.delenv("RUSB_HOME")
    with pytest.raises(SettingsError, match="no home directory; set HOME or XDG_STATE"):
        state_folder()
    with pytest.raises(SettingsError, match="set HOME or XDG_CONFIG_HOME"):
        Registry()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder() == tmp_path / "rusb"


@pytest.mark.parametrize("mode", [None, 0o644])
def test_only_the_owner_can_keep_others_waiting(
    tmp_path: Path, mode: int | None
) -> None:
    """Who may read a file may lock it, and keep it for ever."""
    path = tmp_path / "lock"
    if mode is not None:
        path.touch()
        path.chmod(mode)
    with locked(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_file_of_ours_is_one_to_lock(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        make_self_signed(tmp_path)
        KnownServers(tmp_path / "known").check("a:1", b"certificate")
        Journal(tmp_path / "journal", Sysfs(tmp_path)).add("1-1", 2, 0, "usbhid")
    finally:
        os.umask(umask)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.glob("*.lock")}
    assert modes == dict.fromkeys(("server.lock", "known.lock", "journal.lock"), 0o600)


@pytest.mark.parametrize(
    "first",
    [
        lambda: make_self_signed(state_folder()),
        lambda: KnownServers().check("a:1", b"certificate"),
        lambda: Journal(state_folder() / "detached", Sysfs(Path())).recover(),
        lambda: Journal(state_folder() / "detached", Sysfs(Path())).add(
            "1-1", 2, 0, ""
        ),
        lambda: lock_path("3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a716"),
        lambda: make_settings("lab", [], None),
    ],
    ids=["certificate", "pins", "nothing", "journal", "lock", "settings"],
)
def test_whatever_comes_first_makes_the_state_directory_private(
    first: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUSB_STATE", raising=False)
    monkeypatch.delenv("RUSB_RUNTIME", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "local" / "state"))
    umask = os.umask(0o022)
    try:
        first()
    finally:
        os.umask(umask)
    folders = [p for p in tmp_path.rglob("*") if p.is_dir()]
    assert {stat.S_IMODE(p.stat().st_mode) for p in folders} <= {0o700}


def test_a_directory_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    (tmp_path / "file").touch()
    for name in ("file", "file/below"):
        with pytest.raises(OSError, match="file"):
            make_private(tmp_path / name)


def test_a_journal_that_is_too_long_loses_no_line(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text("x\n" * (1 << 19) + "more\n")
    before = path.stat().st_size
    journal = Journal(path, Sysfs(tmp_path))
    for write in (
        journal.recover,
        lambda: journal.add("1-1", 2, 0, "usbhid"),
        lambda: journal.remove("1-1", 0),
    ):
        with pytest.raises(OSError, match="File too large"):
            write()
    assert path.stat().st_size == before


def test_one_waits_for_the_other(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", list[str]()

    def second() -> None:
        with locked(path):
            order.append("second")

    with locked(path), path.open() as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        thread = threading.Thread(target=second)
        thread.start()
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"), locked(tmp_path / "lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()
