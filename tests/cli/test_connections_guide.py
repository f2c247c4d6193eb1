"""What docs/guide/connections.md shows when something does not work, made to happen."""

import datetime
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from rusb.server.auth.hashes import hash_legacy
from tests.support.certificates import Authority
from tests.support.rusbserver import CHECKOUT, RusbServer

GUIDE = CHECKOUT / "docs" / "guide" / "connections.md"

MACHINE = f"""<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a709}}" name="Guided">
    <ExtraData>
      <ExtraDataItem name="VBoxAuthSimple/users/john" value="{hash_legacy("secret")}"/>
    </ExtraData>
    <Hardware>
      <RemoteDisplay enabled="true" authType="External" authLibrary="VBoxAuthSimple">
        <VRDEProperties>PROPERTIES</VRDEProperties>
      </RemoteDisplay>
    </Hardware>
  </Machine>
</VirtualBox>
"""

IMPATIENT = (
    "import sys, rusb.server.auth.limits as limits; limits.FIRST_DELAY = 0.0;"
    "from rusb.cli import main; sys.exit(main())"
)
"""``rusb`` without the pauses between wrong passwords."""

RUSB = ("-m", "rusb")
TEN_TIMES = (
    "-c",
    "import sys; from rusb.cli import main;"
    "(status,) = {main(sys.argv[1:]) for _ in range(10)}; sys.exit(status)",
)
"""``rusb`` again and again, with the same status each time."""

WILDCARDS = {
    r"127\.0\.0\.1:\d+": r"127\.0\.0\.1:\d+",
    r"sha256:[0-9a-f]+…": "sha256:[0-9a-f]{64}",
    r"/\S+/": r"/\S+/",
}
"""What is different each time: ports, hashes, folders."""


def read_section() -> dict[str, str]:
    """Return the text under each bold title of the section."""
    text = GUIDE.read_text().partition("\n## What you see when it does not work\n")[2]
    text = text.partition("\n## ")[0]
    parts = re.split(r"^\*\*(.+?)\.\*\*", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def fenced(text: str) -> list[str]:
    """Return the lines in fences."""
    blocks: list[str] = re.findall(r"^```\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


def to_pattern(line: str) -> str:
    """Return a pattern for a line of the guide."""
    wild = "|".join(f"({shape})" for shape in WILDCARDS)
    pattern, end = "", 0
    for found in re.finditer(wild, line):
        pattern += re.escape(line[end : found.start()])
        pattern += list(WILDCARDS.values())[(found.lastindex or 0) - 1]
        end = found.end()
    return pattern + re.escape(line[end:])


class Scene:
    """Servers and clients as processes.

    Attributes:
        said: by clients, at their terminals.
        statuses: that clients ended with.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = ""
        self.statuses: list[int] = []
        self.servers: list[RusbServer] = []
        self.clients: list[subprocess.Popen[bytes]] = []

    @property
    def server(self) -> RusbServer:
        return self.servers[-1]

    def serve(self, *, port: int = 0, is_patient: bool = True, **names: Path) -> None:
        """Start a server, with files as VRDE properties ``Security/NAME``."""
        properties = "".join(
            f'<Property name="Security/{name}" value="{path}"/>'
            for name, path in names.items()
        )
        folder = self.folder / f"server{len(self.servers)}"
        folder.mkdir()
        text = MACHINE.replace("PROPERTIES", properties)
        program = RUSB if is_patient else ("-c", IMPATIENT)
        server = RusbServer(
            folder, text, "--guest", "loopback", port=port, program=program
        )
        self.servers.append(server)
        server.wait_log("TCP server listening")

    def command(self, *words: str, program: Sequence[str] = RUSB) -> list[str]:
        server = f"127.0.0.1:{self.server.port}"
        return [
            *(sys.executable, *program, "connect", server),
            *("-u", "john", "--backend", "emulated", *words),
        ]

    def environment(self, password: str) -> dict[str, str]:
        ours = {"RUSB_STATE": str(self.folder), "RUSB_PASSWORD": password}
        return os.environ | ours | {"RUSB_BACKENDS": "emulated"}

    def visit(
        self, *words: str, password: str = "secret", program: Sequence[str] = RUSB
    ) -> None:
        """Connect, and be refused."""
        self._run(self.command(*words, program=program), password)

    def visit_as_rdesktop(self, password: str) -> None:
        program = "import sys; from rusb.cli.rdesktop import main; sys.exit(main())"
        server = f"127.0.0.1:{self.server.port}"
        words = ["-r", "usb", "-u", "john", server]
        self._run([sys.executable, "-c", program, *words], password)

    def _run(self, command: list[str], password: str) -> None:
        done = subprocess.run(
            command,
            cwd=CHECKOUT,
            env=self.environment(password),
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.said += done.stderr
        self.statuses.append(done.returncode)

    def stay(self, *words: str) -> None:
        """Connect, and stay connected."""
        count = self.server.log().count("remote USB protocol")
        client = subprocess.Popen(
            self.command(*words),
            cwd=CHECKOUT,
            env=self.environment("secret"),
            stderr=subprocess.DEVNULL,
        )
        self.clients.append(client)
        self.server.wait_log("remote USB protocol", count + 1)

    def end(self) -> None:
        for client in self.clients:
            client.terminate()
            client.wait(20)
        for server in self.servers:
            if server.process.poll() is None:
                server.stop()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    found = Scene(tmp_path)
    yield found
    found.end()


def wrong_password(scene: Scene) -> None:
    scene.serve()
    scene.visit(password="wrong")
    scene.visit_as_rdesktop("wrong")
    assert scene.statuses == [67, 76]


def ten_wrong_passwords(scene: Scene) -> None:
    scene.serve(is_patient=False)
    scene.visit(password="wrong", program=TEN_TIMES)
    assert "too many" not in scene.server.log()
    scene.visit()
    assert scene.statuses == [67, 67]
    assert scene.said.count("rusb connect: ") == 11
    assert "Access granted" not in scene.server.log()


def second_client(scene: Scene) -> None:
    scene.serve()
    scene.stay()
    scene.visit()
    assert scene.statuses == [76]


def another_certificate(scene: Scene) -> None:
    scene.serve()
    scene.stay()
    scene.server.stop()
    scene.serve(port=scene.server.port)
    scene.visit()
    assert scene.statuses == [78]
    scene.server.wait_log("Connection closed")
    assert "Logon" not in scene.server.log()


def unusable_certificate(scene: Scene) -> None:
    nowhere = scene.folder / "cert.pem"
    scene.serve(ServerCertificate=nowhere, ServerPrivateKey=nowhere)
    scene.visit()
    assert scene.statuses == [75]
    (warning,) = re.findall(r"VRDP: (WARNING: .*)", scene.server.log())
    assert warning in scene.server.said()


def expired_certificate(scene: Scene) -> None:
    until = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    certificate, key = Authority("cert", until=until).write(scene.folder)
    scene.serve(ServerCertificate=certificate, ServerPrivateKey=key)
    scene.visit("--ca", str(certificate))
    assert scene.statuses == [78]
    text = read_section()["The certificate has expired"]
    ways = re.findall("`([^`]+)`", text.partition("then says")[2])
    assert len(ways) == 2
    scene.server.wait_log("Connection closed")
    assert any(way in scene.server.log() for way in ways)
    scene.stay()  # without --ca


SCENES: dict[str, Callable[[Scene], None]] = {
    "A wrong password": wrong_password,
    "Ten wrong passwords in a row": ten_wrong_passwords,
    "A second client where only one is allowed": second_client,
    "The server shows a different certificate than before": another_certificate,
    "The certificate cannot be used": unusable_certificate,
    "The certificate has expired": expired_certificate,
}


@pytest.mark.parametrize("title", read_section())
def test_what_the_guide_shows_is_what_one_sees(title: str, scene: Scene) -> None:
    text = read_section()[title]
    lines = fenced(text)
    assert lines
    SCENES[title](scene)
    for status in re.findall(r"status (\d+)", text, re.IGNORECASE):
        assert int(status) in scene.statuses
    seen = "".join(server.log() for server in scene.servers)
    for line in lines:
        is_client = line.startswith("rusb connect: ")
        where = scene.said if is_client else seen
        shape = to_pattern(line)
        pattern = f"^{shape}$" if is_client else rf"^[\d:.]+ {shape}$"
        assert re.search(pattern, where, re.MULTILINE), f"{line!r} is not in\n{where}"
