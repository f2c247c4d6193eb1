"""What a service manager gets to read: sd_notify(3)."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rusb.cli._notify import notify
from tests.support.notify import Manager
from tests.support.program import RUSB
from tests.support.rusbserver import CHECKOUT, RusbServer, text


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/notify")
        found = Manager(f"{folder}/notify")
        with contextlib.closing(found.socket):
            yield found


def test_a_message(manager: Manager) -> None:
    notify("READY=1", "at\nwork\x1b[1m")
    assert manager.read() == ["READY=1", "STATUS=atwork[1m"]
    notify("STOPPING=1")
    assert manager.read() == ["STOPPING=1"]


def test_the_abstract_name_space(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"rusb-test-{os.getpid()}"
    found = Manager(f"\0{name}")
    with contextlib.closing(found.socket):
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify("READY=1")
        assert found.read() == ["READY=1"]


@pytest.mark.parametrize("address", ["", "junk", "/nowhere/notify", "@rusb-nobody"])
def test_nobody_is_there(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


def test_a_manager_that_does_not_read_does_not_hang_us(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as full:
        full.setblocking(False)
        full.connect(manager.socket.getsockname())
        with contextlib.suppress(BlockingIOError):
            while full.send(bytes(512)):
                pass
        monkeypatch.setattr("rusb.cli._notify.TIMEOUT", 0.1)
        notify("READY=1")


def test_serve_and_connect_say_when_they_are_ready(
    manager: Manager, tmp_path: Path
) -> None:
    server = RusbServer(tmp_path, text(), "--guest", "loopback")
    try:
        ready = ["READY=1", f"STATUS=Served: listening on port {server.port}"]
        assert manager.read() == ready
        place = f"127.0.0.1:{server.port}"
        words = ["connect", "--backend", "emulated:flash-drive", place]
        client = subprocess.Popen(
            [*RUSB, *words],
            cwd=CHECKOUT,
            env={**os.environ, "RUSB_STATE": str(tmp_path)},
        )
        try:
            ready = ["READY=1", f"STATUS=connected to {place} (TLS 1.3)"]
            assert manager.read() == ready
            client.send_signal(signal.SIGTERM)
            assert manager.read() == ["STOPPING=1"]
            assert client.wait(30) == 0
        finally:
            client.kill()
            client.wait()
    finally:
        server.stop()
    assert manager.read() == ["STOPPING=1"]
