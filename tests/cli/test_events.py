"""``rusb events`` as a user types it, beside a server and a client."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rusb.cli import main
from tests.support.program import RUSB
from tests.support.rusbserver import CHECKOUT, RusbServer

MACHINE = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a709}" name="Told">
    <Hardware>
      <USB>
        <Controllers><Controller name="xHCI" type="XHCI"/></Controllers>
        <DeviceFilters>
          <DeviceFilter name="drives" active="true" vendorId="1209" productId="1"/>
        </DeviceFilters>
      </USB>
      <RemoteDisplay enabled="true" authType="Null"/>
    </Hardware>
  </Machine>
</VirtualBox>
"""


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a socket's path is short
        monkeypatch.setenv("RUSB_RUNTIME", folder)
        monkeypatch.setenv("RUSB_HOME", str(tmp_path / "home"))
        yield Path(folder)


@pytest.fixture
def server(tmp_path: Path, runtime: Path) -> Iterator[RusbServer]:
    found = RusbServer(tmp_path, MACHINE, "--guest", "loopback")
    found.wait_log("TCP server listening")
    yield found
    if found.process.poll() is None:
        found.stop()


@contextlib.contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*RUSB, *words],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def objects(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What a command prints until it ends."""
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def printed(*words: str) -> list[dict[str, Any]]:
    with running("events", *words) as process:
        return objects(process)


def visit(server: RusbServer, folder: Path) -> None:
    """Offer a drive, which is admitted, and a keyboard, which is not; leave."""
    client = subprocess.Popen(
        [
            *(*RUSB, "connect", f"127.0.0.1:{server.port}", "--all"),
            *("--backend", "emulated:flash-drive,keyboard"),
        ],
        cwd=CHECKOUT,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "RUSB_STATE": str(folder)},
    )
    server.wait_log("VUSB: Attached")
    server.wait_log(": refused: ")
    client.send_signal(signal.SIGTERM)
    client.wait(60)
    server.wait_log("Connection closed")
    server.wait_log("Remote USB: ----", 2)
    server.wait_log("VUSB: Detached")


def test_a_visit(server: RusbServer, tmp_path: Path) -> None:
    with running("events", "Told", "--follow") as following:
        visit(server, tmp_path)
        found = check_visit()
        server.stop()
        lines = objects(following)
    assert lines[:-1] == found
    assert lines[-1]["event"] == "server.stopping"


def check_visit() -> list[dict[str, Any]]:
    found = printed("Told")
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
    assert {event["machine"] for event in found} == {"Told"}
    names = [event["event"] for event in found]
    assert names[:3] == ["server.started", "client.connected", "client.admitted"]
    assert names.count("client.left") == 1
    by_device: dict[str, list[str]] = {}
    for event in found:
        if event["event"].startswith("device."):
            by_device.setdefault(event["id"], []).append(event["event"][7:])
            assert event["client"] == 1
    (drive,) = (names for names in by_device.values() if "admitted" in names)
    (keyboard,) = (names for names in by_device.values() if "refused" in names)
    whole = ["listed", "admitted", "attached", "detached", "gone"]
    assert sorted(drive) == sorted(whole)
    assert drive[:3] == whole[:3]
    assert keyboard == ["listed", "refused", "gone"]
    (refused,) = (e for e in found if e["event"] == "device.refused")
    assert "drives" in refused["verdict"]
    (last,) = (e for e in found if e["event"] == "client.left")
    assert (last["client"], last["reason"]) == (1, "")
    assert last["bytes"] > 1000
    assert 0 < last["seconds"] < 60

    assert printed() == found  # the only machine that is running
    assert printed("Told", "--since", str(len(found) - 1)) == found[-1:]
    return found


def test_a_reader_that_is_killed_harms_nobody(server: RusbServer) -> None:
    with running("events", "Told", "--follow") as following:
        assert following.stdout is not None
        following.stdout.readline()
    assert printed("Told")[0]["event"] == "server.started"


def test_the_state_says_the_same(server: RusbServer, tmp_path: Path) -> None:
    visit(server, tmp_path)
    with running("showvminfo", "Told", "--json") as process:
        out, _ = process.communicate(timeout=60)
    display = json.loads(out)["live"]["display"]
    assert display["port"] == server.port
    assert (display["clients"], display["clients_so_far"]) == ([], 1)
    assert display["last"]["number"] == 1


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        ([], 72, "no machine is running"),
        (["Lab"], 65, "Lab"),
        (["--since", "3"], 64, "--since needs a machine"),
        (["Lab", "--since", "-1"], 64, "--since"),
        (["Lab", "--since", "x"], 64, "'x' is not an event number"),
    ],
)
def test_what_is_wrong_is_said(
    runtime: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    sentence: str,
) -> None:
    try:
        assert main(["events", *words]) == status
    except SystemExit as end:
        assert end.code == status  # noqa: PT017
    assert sentence in capsys.readouterr().err


def test_a_socket_that_answers_nothing_is_said(
    runtime: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One machine that fails does not keep the others from being read."""
    both = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        number = "a" if name == "one" else "b"
        text = MACHINE.replace("6a709", f"6a70{number}").replace("Told", name)
        both.append(RusbServer(folder, text, "--guest", "loopback"))
    try:
        for one in both:
            one.wait_log("TCP server listening")
        (dead,) = runtime.glob("*6a70a.control")
        shutil.move(dead, dead.with_suffix(".moved"))
        assert main(["events"]) == 1
        out, err = capsys.readouterr()
        assert [json.loads(line)["machine"] for line in out.splitlines()] == ["two"]
        assert "rusb events: one: the machine is not running" in err
    finally:
        for one in both:
            one.stop()
