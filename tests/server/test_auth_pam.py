"""``VBoxAuth`` against this system's PAM and an account made for it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rusb.server.auth import Request, choose
from rusb.server.auth.pam import Pam
from rusb.server.vbox.settings import Machine, RemoteDisplay

SERVICE = f"rusb-test-{os.getpid()}"
PASSWORD = "Correct horse 9"  # noqa: S105


@pytest.fixture(scope="module")
def user() -> Iterator[str]:
    tools = [shutil.which(name) for name in ("useradd", "userdel", "chpasswd", "chage")]
    if os.name != "posix" or os.geteuid() != 0 or None in tools:
        pytest.skip("needs root, PAM and useradd, to make an account for the test")
    name = f"rusbtest{os.getpid()}"
    service = Path("/etc/pam.d", SERVICE)
    try:
        service.write_text(
            "auth required pam_unix.so nodelay\naccount required pam_unix.so\n", "utf-8"
        )
        subprocess.run(["useradd", "-M", name], check=True)
        subprocess.run(["chpasswd"], input=f"{name}:{PASSWORD}".encode(), check=True)
        yield name
    finally:
        service.unlink(missing_ok=True)
        subprocess.run(["userdel", name], check=False)


async def is_granted(user: str, password: str) -> bool:
    machine = Machine("m", remote_display=RemoteDisplay(auth_type="External"))
    it = choose(machine, pam_service=SERVICE)
    return (await it.check(Request(user, "IGNORED", password))).granted


async def test_the_right_password_is_let_in(user: str) -> None:
    assert await is_granted(user, PASSWORD)


@pytest.mark.parametrize("password", ["", "wrong", PASSWORD + "\0x", "\ud800"])
async def test_a_wrong_password_is_not(user: str, password: str) -> None:
    assert not await is_granted(user, password)


async def test_an_unknown_or_missing_user_is_not(user: str) -> None:
    for name in ("", user + "x", f"{user}\0", f"WORK\\{user}"):
        assert not await is_granted(name, PASSWORD)


@pytest.fixture
def expired(user: str) -> Iterator[str]:
    subprocess.run(["chage", "-E", "1", user], check=True)
    yield user
    subprocess.run(["chage", "-E", "-1", user], check=True)


async def test_an_expired_account_is_not(expired: str) -> None:
    assert not await is_granted(expired, PASSWORD)


@pytest.fixture
def unknown(user: str) -> Iterator[str]:
    """PAM has no information about any account, whatever the password is."""
    service = Path("/etc/pam.d", SERVICE)
    before = service.read_text("utf-8")
    account = "account required pam_debug.so acct=authinfo_unavail\n"
    service.write_text(f"auth required pam_unix.so nodelay\n{account}", "utf-8")
    yield user
    service.write_text(before, "utf-8")


async def test_an_account_without_information_is_let_in_if_told_to(
    unknown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not await is_granted(unknown, PASSWORD)
    monkeypatch.setenv("VBOX_PAM_ALLOW_INACTIVE", "1")
    assert await is_granted(unknown, PASSWORD)
    assert not await is_granted(unknown, "wrong")


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VBOX_AUTH_PAM_SERVICE", "VRDP_AUTH_PAM_SERVICE"):
        monkeypatch.delenv(name, raising=False)
    assert Pam().service == "login"
    monkeypatch.setenv("VRDP_AUTH_PAM_SERVICE", "old")
    assert Pam().service == "old"
    monkeypatch.setenv("VBOX_AUTH_PAM_SERVICE", "new")
    assert Pam().service == "new"
    assert Pam("given").service == "given"
