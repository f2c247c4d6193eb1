"""Viewers of others against our server, our client against servers of others.

Each test is a cell of a matrix, client by server by security, which is printed after
the tests with what was seen.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rusb.server.display.status import status_picture
from tests.lab.peers import (
    HEIGHT,
    WIDTH,
    Display,
    Program,
    Shadow,
    Xrdp,
    missing,
    wait,
)
from tests.lab.rusbserver import CHECKOUT, RusbServer

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

NAME = "Peers"
MACHINE = f"""<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a703}}" name="{NAME}">
    <Hardware>
      <RemoteDisplay enabled="true" allowMultiConnection="true">
        <VRDEProperties>
          <Property name="Security/Method" value="METHOD"/>
        </VRDEProperties>
      </RemoteDisplay>
      <USB>
        <Controllers><Controller name="xHCI" type="XHCI"/></Controllers>
        <DeviceFilters>
          <DeviceFilter name="all" active="true" remote="yes"/>
        </DeviceFilters>
      </USB>
    </Hardware>
  </Machine>
</VirtualBox>
"""

STAYS = 1.5
"""Seconds a viewer is watched after it has shown the screen."""

Record = Callable[[str, str, str, str], None]


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    if packages := missing():
        words = "install them: apt-get install --no-install-recommends"
        reason = f"{words} {' '.join(packages)}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module", params=["TLS"])
def method(request: pytest.FixtureRequest) -> str:
    """Each value of ``Security/Method``."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def server(
    method: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RusbServer]:
    """Our server with one of them."""
    machine = MACHINE.replace("METHOD", method)
    server = RusbServer(tmp_path_factory.mktemp("s"), machine, "--guest", "loopback")
    try:
        server.wait_log("TCP server listening")
        yield server
    finally:
        server.stop()


@pytest.fixture
def display(tmp_path: Path) -> Iterator[Display]:
    with Display(tmp_path) as display:
        yield display


def rdesktop(server: RusbServer, depth: int, *options: str) -> list[str]:
    size = f"{WIDTH}x{HEIGHT}"
    address = f"127.0.0.1:{server.port}"
    return ["rdesktop", "-a", str(depth), "-g", size, *options, address]


def xfreerdp(server: RusbServer, depth: int, *options: str) -> list[str]:
    size = f"/size:{WIDTH}x{HEIGHT}"
    address = f"/v:127.0.0.1:{server.port}"
    return ["xfreerdp", address, size, f"/bpp:{depth}", "/cert:ignore", *options]


VIEWERS = {
    "rdesktop": (rdesktop, ()),
    "xfreerdp /sec:tls": (xfreerdp, ("/sec:tls",)),
}


@pytest.mark.parametrize("depth", [8, 15, 16, 24, 32])
@pytest.mark.parametrize("viewer", VIEWERS)
def test_a_viewer_shows_the_status_screen_and_stays(
    viewer: str,
    depth: int,
    method: str,
    server: RusbServer,
    display: Display,
    tmp_path: Path,
    matrix: Record,
) -> None:
    make, options = VIEWERS[viewer]
    expected = status_picture(WIDTH, HEIGHT, depth, NAME, [])
    command = make(server, depth, *options)
    with Program(command, tmp_path, display.name, b"yes\n") as program:
        wait(lambda: display.shows(expected), "the status screen", program.said)
        closed = server.log().count("Connection closed")
        time.sleep(STAYS)
        assert program.process.poll() is None, program.said()
        assert server.log().count("Connection closed") == closed
    matrix(viewer, f"rusb {method}", "TLS", f"status screen, {depth} bpp")


# ------------------------------------------ our client, servers of others ----


def connect(port: int, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run ``rusb connect`` with an emulated device until it ends by itself."""
    command = [sys.executable, "-m", "rusb", "connect", f"127.0.0.1:{port}"]
    command += ["--backend", "emulated:serial", "-u", "vera"]
    command += ["--usb-timeout", "4", *options]
    return subprocess.run(
        command,
        cwd=CHECKOUT,
        env={**os.environ, "RUSB_STATE": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


NO_USB = "has no remote USB"


def test_our_client_and_xrdp(tmp_path: Path, matrix: Record) -> None:
    with Xrdp(tmp_path, "tls") as xrdp:
        done = connect(xrdp.port, tmp_path)
    assert "connected to 127.0.0.1" in done.stderr, done.stderr
    assert NO_USB in done.stderr, done.stderr
    assert done.returncode == 75
    matrix("rusb connect", "xrdp tls", "TLS", NO_USB)


def test_our_client_and_freerdps_shadow_server(
    display: Display, tmp_path: Path, matrix: Record
) -> None:
    with Shadow(tmp_path, display, "tls") as shadow:
        done = connect(shadow.port, tmp_path)
    assert f"{NO_USB}: nothing came in 4 s" in done.stderr, done.stderr
    assert done.returncode == 75
    matrix("rusb connect", "shadow tls", "TLS", NO_USB)


def test_a_server_that_hangs_up_on_what_it_does_not_know(
    display: Display, tmp_path: Path
) -> None:
    with Shadow(tmp_path, display, "tls") as shadow:
        done = connect(shadow.port, tmp_path, "--usb-timeout", "15")
    assert f"{NO_USB}: it hung up" in done.stderr, done.stderr
    assert done.returncode == 75
