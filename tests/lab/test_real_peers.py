"""Viewers of others against our server, our client against servers of others.

Each test is a cell of a matrix, client by server by security, which is printed after
the tests: the security that our end found, and what was seen.
"""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from rusb.rdp.standard import METHODS as METHODS_OF_RC4
from rusb.rdp.standard import Encryption
from rusb.server.config import ServerConfig
from rusb.server.display.status import status_frame
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.server import Server
from rusb.server.vbox.settings import RemoteDisplay
from tests.support.lab.peers import (
    HEIGHT,
    MACHINE,
    NAME,
    WIDTH,
    Display,
    Program,
    Record,
    Shadow,
    Xrdp,
    wait,
)
from tests.support.rusbserver import CHECKOUT, RusbServer
from tests.support.whole_path import machine

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(180),
    pytest.mark.usefixtures("programs"),
]


STAYS = 1.5
"""Seconds a viewer is watched after it has shown the screen."""


METHODS = ("RDP", "TLS", "Negotiate")
X509_WORD, BROKEN = "x509", "without certificate"
FILES = ("ServerCertificate", "ServerPrivateKey")


def one_process(*method_and_row: str) -> ParameterSet:
    """Parameters, of which those of one method share a server."""
    return pytest.param(
        *method_and_row, marks=pytest.mark.xdist_group(method_and_row[0])
    )


@pytest.fixture(scope="module", params=[one_process(m) for m in METHODS])
def method(request: pytest.FixtureRequest) -> str:
    """Each value of ``Security/Method``."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def server(
    method: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RusbServer]:
    """Our server with one of them, and perhaps something else after a blank."""
    word, _, more = method.partition(" ")
    properties = {"Method": word}
    if more == X509_WORD:
        properties["RDPCertificate"] = more
    elif more == BROKEN:
        properties |= dict.fromkeys(FILES, "/nowhere/file.pem")
    lines = (
        f'<Property name="Security/{name}" value="{value}"/>'
        for name, value in properties.items()
    )
    machine = MACHINE.replace("PROPERTIES", "".join(lines))
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

TLS, RC4, CLEAR = "TLS", "RC4, 128 bit", "none"
X509 = f"{RC4}, X.509"
CODE_1, CODE_2 = "failure 1: tls required", "failure 2: tls not allowed"
CODE_3 = "failure 3: no certificate"
SCREEN, LEFT = "status screen", "the client leaves"

OUTCOMES = {  # vrdp-server.md 2.5, for Method = RDP, TLS and Negotiate
    "rdesktop": (RC4, TLS, TLS),
    "rdesktop -5": (RC4, TLS, TLS),
    "rdesktop -4": (RC4, CODE_1, RC4),
    "rdesktop -e": (CLEAR, TLS, TLS),
    "xfreerdp": (RC4, TLS, TLS),
    "xfreerdp /sec:tls": (CODE_2, TLS, TLS),
    "xfreerdp /sec:rdp": (RC4, CODE_1, RC4),
    "xfreerdp /sec:nla": (CODE_2, TLS, TLS),
}

_SAID = re.compile(
    r"Using (enhanced) RDP security|Encryption: (.*)|Certificate: (X.509)"
    r"|refused a client that wants .*: (tls required|tls not allowed|no certificate)"
)


def security_of(log: str) -> str:
    """What the last connection in VBox.log has come to."""
    found = "-"
    for is_tls, encryption, certificate, refusal in _SAID.findall(log):
        if certificate:
            found = f"{found}, {certificate}"
        elif refusal:
            (found,) = (c for c in (CODE_1, CODE_2, CODE_3) if c.endswith(refusal))
        else:
            found = TLS if is_tls else encryption
    return found


def try_viewer(
    viewer: str, server: RusbServer, display: Display, folder: Path, depth: int = 16
) -> tuple[str, str]:
    """Return the security that the server found, and what was seen."""
    make, options = VIEWERS[viewer]
    expected = status_frame(WIDTH, HEIGHT, NAME, [])[:HEIGHT, :WIDTH]
    shown = min(depth, 24)
    before = server.log()
    command = make(server, depth, *options)
    with Program(command, folder, display.name, b"yes\n") as program:
        wait(
            lambda: (
                display.shows(expected, shown) or program.process.poll() is not None
            ),
            "the status screen, or the end",
            program.said,
        )
        time.sleep(STAYS)
        status = program.process.poll()
        security = security_of(server.log().removeprefix(before))
        if status is None:
            assert display.shows(expected, shown)
            return security, SCREEN
        assert status == 76 if viewer.startswith("rdesktop") else status != 0
        assert display.is_blank()
        return security, LEFT


@pytest.mark.parametrize("viewer", VIEWERS)
def test_a_viewer_and_what_the_machine_allows(
    viewer: str,
    method: str,
    server: RusbServer,
    display: Display,
    tmp_path: Path,
    matrix: Record,
) -> None:
    security, seen = try_viewer(viewer, server, display, tmp_path)
    outcome = OUTCOMES[viewer][METHODS.index(method)]
    is_refused = outcome in (CODE_1, CODE_2) or viewer == "xfreerdp /sec:nla"
    assert (security, seen) == (outcome, LEFT if is_refused else SCREEN)
    matrix(viewer, f"rusb {method}", security, seen)


@pytest.mark.parametrize(
    "method", [one_process(f"RDP {X509_WORD}")], indirect=True, scope="module"
)
@pytest.mark.parametrize(
    ("viewer", "outcome"),
    [("rdesktop", X509), ("rdesktop -4", RC4), ("xfreerdp /sec:rdp", X509)],
)
def test_a_viewer_and_an_x509_certificate(
    viewer: str,
    outcome: str,
    method: str,
    server: RusbServer,
    display: Display,
    tmp_path: Path,
    matrix: Record,
) -> None:
    security, seen = try_viewer(viewer, server, display, tmp_path)
    assert (security, seen) == (outcome, SCREEN)
    matrix(viewer, f"rusb {method}", security, seen)


WITHOUT = [  # 2.5, its last column; B.3, check 2
    ("TLS", "xfreerdp /sec:tls", CODE_3, LEFT),
    ("TLS", "xfreerdp", CODE_1, LEFT),  # which tries the others, too
    ("TLS", "rdesktop", CODE_1, LEFT),  # 8.4: again without negotiation
    ("TLS", "rdesktop -4", CODE_1, LEFT),
    ("Negotiate", "xfreerdp /sec:tls", "-", LEFT),
    ("Negotiate", "xfreerdp", RC4, SCREEN),
    ("Negotiate", "rdesktop", RC4, SCREEN),
    ("Negotiate", "rdesktop -e", CLEAR, SCREEN),
]


@pytest.mark.parametrize(
    ("method", "viewer", "outcome", "seen"),
    [one_process(f"{method} {BROKEN}", *row) for method, *row in WITHOUT],
    indirect=["method"],
    scope="module",
)
def test_a_viewer_and_a_server_without_a_certificate(
    method: str,
    viewer: str,
    outcome: str,
    seen: str,
    server: RusbServer,
    display: Display,
    tmp_path: Path,
    matrix: Record,
) -> None:
    before = server.log()
    security, found = try_viewer(viewer, server, display, tmp_path)
    matrix(viewer, f"rusb {method}", security, found)
    assert (security, found) == (outcome, seen)
    log = server.log().removeprefix(before)
    asks_tls = viewer != "rdesktop -4"
    assert ("no certificate" in log) == (asks_tls and method.startswith("TLS"))


@pytest.mark.parametrize(
    "method", [one_process(m) for m in METHODS[:2]], indirect=True, scope="module"
)
@pytest.mark.parametrize("depth", [8, 15, 24, 32])
@pytest.mark.parametrize("viewer", ["rdesktop", "xfreerdp"])
def test_every_colour_depth(
    viewer: str,
    depth: int,
    method: str,
    server: RusbServer,
    display: Display,
    tmp_path: Path,
    matrix: Record,
) -> None:
    security, seen = try_viewer(viewer, server, display, tmp_path, depth)
    assert (security, seen) == ({"TLS": TLS, "RDP": RC4}[method], SCREEN)
    matrix(viewer, f"rusb {method}", security, f"{seen} of {depth} bit")


# ------------------------------------------ our client, servers of others ----


def command(port: int, *options: str) -> list[str]:
    """``rusb connect`` with an emulated device."""
    words = [sys.executable, "-m", "rusb", "connect", f"127.0.0.1:{port}"]
    words += ["--backend", "emulated:serial", "-u", "vera"]
    return [*words, "--usb-timeout", "4", *options]


def connect(port: int, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it until it ends by itself."""
    return subprocess.run(
        command(port, *options),
        cwd=CHECKOUT,
        env={**os.environ, "RUSB_STATE": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def security_in(said: str) -> str:
    """What the client says of a connection, and a dash if it made none."""
    found = re.search(r"^connected to [^ ]+ \((.*)\)$", said, re.MULTILINE)
    return found[1] if found else "-"


NO_USB = "has no remote USB"
TLS13, NOTHING = "TLS 1.3", "no encryption"
ONE_WAY = "RC4, 40 bit, but not what the server sends"


XRDP = [  # its security_layer and crypt_level, our --security, what that gives
    ("tls", "high", "tls", TLS13),
    ("negotiate", "high", "tls", TLS13),
    ("negotiate", "high", "negotiate", TLS13),
    ("rdp", "high", "negotiate", RC4),
    ("rdp", "high", "rdp", RC4),
    ("rdp", "medium", "rdp", "RC4, 40 bit"),
    ("rdp", "low", "rdp", ONE_WAY),
    ("rdp", "none", "none", NOTHING),
]


@pytest.mark.parametrize(("layer", "level", "security", "outcome"), XRDP)
def test_our_client_and_xrdp(
    layer: str, level: str, security: str, outcome: str, tmp_path: Path, matrix: Record
) -> None:
    with Xrdp(tmp_path, layer, level) as xrdp:
        done = connect(xrdp.port, tmp_path, "--security", security)
    found = security_in(done.stderr)
    assert found == outcome, done.stderr
    assert f"{NO_USB}: it sent nothing about USB for 4 s" in done.stderr, done.stderr
    assert done.returncode == 75
    matrix(f"rusb --security {security}", f"xrdp {layer} {level}", found, NO_USB)


def test_our_client_and_fips(tmp_path: Path, matrix: Record) -> None:
    with Xrdp(tmp_path, "rdp", "fips") as xrdp:
        done = connect(xrdp.port, tmp_path, "--security", "rdp")
    assert "insists on encryption method 0x10, which is not" in done.stderr
    assert "Allow TLS" in done.stderr
    assert done.returncode == 75
    found = security_in(done.stderr)
    matrix("rusb --security rdp", "xrdp rdp fips", found, LEFT)


@pytest.mark.parametrize(
    ("security", "wish"), [("tls", "rdp"), ("rdp", "tls"), ("rdp", "none")]
)
def test_our_client_and_an_xrdp_that_wants_something_else(
    security: str, wish: str, tmp_path: Path, matrix: Record
) -> None:
    with Xrdp(tmp_path, security, "high") as xrdp:
        done = connect(xrdp.port, tmp_path, "--security", wish)
    assert done.returncode in (75, 76), done.stderr
    assert done.stderr.startswith("rusb connect: ")
    found = security_in(done.stderr)
    assert found == "-"
    matrix(f"rusb --security {wish}", f"xrdp {security} high", found, LEFT)


@pytest.mark.parametrize(
    ("security", "wish", "outcome"),
    [("tls", "tls", TLS13), ("rdp", "none", NOTHING)],  # its "rdp" does without RC4
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
    found = security_in(done.stderr)
    assert found == outcome, done.stderr
    assert f"{NO_USB}: it sent nothing about USB for 4 s" in done.stderr, done.stderr
    assert done.returncode == 75
    matrix(f"rusb --security {wish}", f"FreeRDP {security}", found, NO_USB)


def test_a_server_that_hangs_up_on_what_it_does_not_know(
    display: Display, tmp_path: Path
) -> None:
    with Shadow(tmp_path, display, "tls") as shadow:
        done = connect(shadow.port, tmp_path, "--usb-timeout", "15")
    assert "without a goodbye, and had not offered remote USB" in done.stderr
    assert done.returncode == 76


# -------------------------------------------------------- our client and server ----

OURS = [
    ("rdp", (Encryption.BITS_40,), "", "RC4, 40 bit"),
    ("rdp", (Encryption.BITS_56,), "", "RC4, 56 bit"),
    ("rdp", METHODS_OF_RC4, "", RC4),
    ("rdp", METHODS_OF_RC4, "x509", RC4),
    ("tls", METHODS_OF_RC4, "", TLS13),
    ("none", METHODS_OF_RC4, "", NOTHING),
]


@pytest.mark.parametrize(("security", "strengths", "certificate", "outcome"), OURS)
async def test_our_client_and_our_server(
    security: str,
    strengths: Sequence[Encryption],
    certificate: str,
    outcome: str,
    tmp_path: Path,
    matrix: Record,
) -> None:
    """The server is in this process: no setting makes it take less than it can."""
    properties = {"Security/Method": "Negotiate"}
    properties["Security/RDPCertificate"] = certificate
    settings = machine(remote_display=RemoteDisplay(properties=properties))
    log, state = str(tmp_path / "VBox.log"), tmp_path / "state"
    config = ServerConfig(
        settings, ports=[0], address="127.0.0.1", log=log, state=state
    )
    guest = LoopbackGuest()
    async with asyncio.timeout(60), Server(config, guest=guest) as server:
        server._security.settings.encryption = tuple(strengths)
        words = command(server.port, "--security", security)
        words += ["--known-servers", str(tmp_path / "known")]
        client = await asyncio.create_subprocess_exec(
            *words, cwd=CHECKOUT, stderr=asyncio.subprocess.PIPE
        )
        (device,) = await guest.wait_for(1)
        assert device.strings["product"]
        client.terminate()
        _, said = await client.communicate()
    found = security_in(said.decode())
    assert found == outcome, said
    log_says = security_of((tmp_path / "VBox.log").read_text())
    by_log = {TLS13: TLS, NOTHING: CLEAR}.get(found, found)
    assert log_says == (f"{by_log}, X.509" if certificate else by_log)
    name = "rusb Negotiate" + f" {certificate}" * bool(certificate)
    matrix(f"rusb --security {security}", name, found, "a device in the guest")
