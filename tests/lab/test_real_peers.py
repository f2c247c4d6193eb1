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


METHODS = ("RDP", "TLS", "Negotiate")


@pytest.fixture(scope="module", params=METHODS)
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


VIEWERS: dict[str, tuple[Callable[..., list[str]], tuple[str, ...]]] = {
    "rdesktop": (rdesktop, ()),
    "rdesktop -5": (rdesktop, ("-5",)),
    "rdesktop -4": (rdesktop, ("-4",)),
    "rdesktop -e": (rdesktop, ("-e",)),
    "xfreerdp": (xfreerdp, ()),
    "xfreerdp /sec:tls": (xfreerdp, ("/sec:tls",)),
    "xfreerdp /sec:rdp": (xfreerdp, ("/sec:rdp",)),
    "xfreerdp /sec:nla": (xfreerdp, ("/sec:nla",)),
}

TLS, RC4, CLEAR, REFUSED = "TLS", "RC4 128 bit", "in clear", "refused"
OUTCOMES = {  # vrdp-server.md 2.5, for Method = RDP, TLS and Negotiate
    "rdesktop": (RC4, TLS, TLS),
    "rdesktop -5": (RC4, TLS, TLS),
    "rdesktop -4": (RC4, REFUSED, RC4),
    "rdesktop -e": (CLEAR, TLS, TLS),
    "xfreerdp": (RC4, TLS, TLS),
    "xfreerdp /sec:tls": (REFUSED, TLS, TLS),
    "xfreerdp /sec:rdp": (RC4, REFUSED, RC4),
    "xfreerdp /sec:nla": (REFUSED, REFUSED, REFUSED),
}
SAID = {  # in VBox.log
    TLS: "Using enhanced RDP security",
    RC4: "Using standard RDP security",
    CLEAR: "Using standard RDP security",
}


@pytest.mark.parametrize("viewer", VIEWERS)
def test_a_viewer_and_what_the_machine_allows(
    viewer: str,
    method: str,
    server: RusbServer,
    display: Display,
    tmp_path: Path,
    matrix: Record,
) -> None:
    make, options = VIEWERS[viewer]
    outcome = OUTCOMES[viewer][METHODS.index(method)]
    expected = status_picture(WIDTH, HEIGHT, 16, NAME, [])
    before = server.log()
    command = make(server, 16, *options)
    with Program(command, tmp_path, display.name, b"yes\n") as program:
        if outcome == REFUSED:
            assert program.wait_end() != 0
            assert not display.shows(expected)
        else:
            wait(lambda: display.shows(expected), "the status screen", program.said)
            time.sleep(STAYS)
            assert program.process.poll() is None, program.said()
            log = server.log().removeprefix(before)
            assert SAID[outcome] in log, log
            assert ("Methods 0x00000000" in log) == (outcome != RC4), log
    matrix(viewer, f"rusb {method}", outcome, "status screen" * (outcome != REFUSED))


DEPTH_VIEWERS = ["rdesktop", "xfreerdp /sec:tls"]


@pytest.mark.parametrize("method", ["TLS"], indirect=True, scope="module")
@pytest.mark.parametrize("depth", [8, 15, 24, 32])
@pytest.mark.parametrize("viewer", DEPTH_VIEWERS)
def test_every_colour_depth(
    viewer: str, depth: int, server: RusbServer, display: Display, tmp_path: Path
) -> None:
    make, options = VIEWERS[viewer]
    expected = status_picture(WIDTH, HEIGHT, depth, NAME, [])
    command = make(server, depth, *options)
    with Program(command, tmp_path, display.name, b"yes\n") as program:
        wait(lambda: display.shows(expected), "the status screen", program.said)


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


XRDP = [  # its security_layer and crypt_level, our --security, what that gives
    ("tls", "high", "tls", TLS),
    ("negotiate", "high", "tls", TLS),
    ("negotiate", "high", "negotiate", TLS),
    ("rdp", "high", "negotiate", RC4),
    ("rdp", "high", "rdp", RC4),
    ("rdp", "medium", "rdp", "RC4"),
    ("rdp", "low", "rdp", "RC4, one way"),
    ("rdp", "none", "none", CLEAR),
]


@pytest.mark.parametrize(("layer", "level", "security", "outcome"), XRDP)
def test_our_client_and_xrdp(
    layer: str, level: str, security: str, outcome: str, tmp_path: Path, matrix: Record
) -> None:
    with Xrdp(tmp_path, layer, level) as xrdp:
        done = connect(xrdp.port, tmp_path, "--security", security)
    assert "connected to 127.0.0.1" in done.stderr, done.stderr
    assert f"{NO_USB}: nothing came in 4 s" in done.stderr, done.stderr
    assert done.returncode == 75
    matrix(f"rusb --security {security}", f"xrdp {layer} {level}", outcome, NO_USB)


@pytest.mark.parametrize(
    ("security", "wish"), [("tls", "rdp"), ("rdp", "tls"), ("rdp", "none")]
)
def test_our_client_and_an_xrdp_that_wants_something_else(
    security: str, wish: str, tmp_path: Path, matrix: Record
) -> None:
    with Xrdp(tmp_path, security, "high") as xrdp:
        done = connect(xrdp.port, tmp_path, "--security", wish)
    assert done.returncode in (75, 76), done.stderr
    assert "connected to" not in done.stderr
    assert done.stderr.startswith("rusb connect: ")
    matrix(f"rusb --security {wish}", f"xrdp {security} high", REFUSED, "")


@pytest.mark.parametrize(
    ("security", "wish", "outcome"),
    [("tls", "tls", TLS), ("rdp", "none", CLEAR)],  # its "rdp" does without RC4
)
def test_our_client_and_freerdps_server(
    security: str,
    wish: str,
    outcome: str,
    display: Display,
    tmp_path: Path,
    matrix: Record,
) -> None:
    with Shadow(tmp_path, display, security) as shadow:
        done = connect(shadow.port, tmp_path, "--security", wish)
    assert f"{NO_USB}: nothing came in 4 s" in done.stderr, done.stderr
    assert done.returncode == 75
    matrix(f"rusb --security {wish}", f"FreeRDP {security}", outcome, NO_USB)


def test_a_server_that_hangs_up_on_what_it_does_not_know(
    display: Display, tmp_path: Path
) -> None:
    with Shadow(tmp_path, display, "tls") as shadow:
        done = connect(shadow.port, tmp_path, "--usb-timeout", "15")
    assert f"{NO_USB}: it hung up" in done.stderr, done.stderr
    assert done.returncode == 75
