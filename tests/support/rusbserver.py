"""``rusb serve`` as a process of its own."""

import contextlib
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.lab.assets import LabError

CHECKOUT = Path(__file__).resolve().parents[2]


class RusbServer:
    """Serves a machine on a free port of 127.0.0.1.

    Args:
        folder: of the log and the certificate.
        machine: text of the ``.vbox`` file.
        options: of ``rusb serve``.
        port: another one than the free one.
        program: of Python, to which ``serve`` and so on are given.
        address: to listen on.
    """

    def __init__(
        self,
        folder: Path,
        machine: str,
        *options: str,
        port: int = 0,
        program: Sequence[str] = ("-m", "rusb"),
        address: str = "127.0.0.1",
    ) -> None:
        self.log_path = folder / "VBox.log"
        settings = folder / "Machine.vbox"
        settings.write_text(machine)
        self.port = port or free_port()
        command = [
            *(sys.executable, *program, "serve", str(settings), "-v"),
            *("--log", str(self.log_path), *options),
            *("--address", address, "--port", str(self.port)),
        ]
        self._errors = folder / "serve.log"
        with open(self._errors, "wb") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                stderr=errors,
                env={**os.environ, "RUSB_STATE": str(folder)},
            )

    def log(self) -> str:
        """VBox.log as it is now."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def said(self) -> str:
        """What it said at the terminal."""
        return self._errors.read_text()

    def wait_log(self, text: str, count: int = 1) -> None:
        """Wait until VBox.log holds *text* that often."""
        end = time.monotonic() + 60
        while self.log().count(text) < count:
            if time.monotonic() > end or self.process.poll() is not None:
                raise LabError(f"no {text!r}: {self.log()}{self.said()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ask it to end."""
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def free_port() -> int:
    """A port that nobody listens on, and that no system gives away by itself."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port at which localhost refuses connections: taken, and nobody listens."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        found = socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)
        for family, *_, where in found:
            held = stack.enter_context(socket.socket(family))
            with contextlib.suppress(OSError):  # no IPv6, or somebody was faster
                held.bind(where)
        yield port


def free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    while True:
        first = free_port()
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


MACHINE = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a708}" name="Served">
    <Hardware>
      <RemoteDisplay enabled="true">
        <VRDEProperties>PROPERTIES</VRDEProperties>
      </RemoteDisplay>
    </Hardware>
  </Machine>
</VirtualBox>
"""


WITH_USB = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a703}" name="Kernel">
    <Hardware>
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


def text(**properties: str) -> str:
    """Return a .vbox file with VRDE properties ``Security/NAME``."""
    elements = (
        f'<Property name="Security/{name}" value="{value}"/>'
        for name, value in properties.items()
    )
    return MACHINE.replace("PROPERTIES", "".join(elements))
