"""Where rusb keeps what it knows between runs."""

import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from rusb.aio.tls import KnownServers, make_self_signed
from rusb.client.backends._journal import Journal
from rusb.client.backends._sysfs import Sysfs
from rusb.errors import SettingsError
from rusb.paths import locked, state_folder
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
