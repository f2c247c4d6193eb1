"""A disk of a client at a distance, in a real Linux."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rusb.cli._bench import relay
from tests.support.lab.usblab import Guest
from tests.support.rusbserver import CHECKOUT, RusbServer

__all__ = ["far_disk", "seconds"]

MACHINE = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a713}" name="Far">
    <Hardware>
      <USB>
        <Controllers><Controller name="xHCI" type="XHCI"/></Controllers>
        <DeviceFilters><DeviceFilter name="all" active="true"/></DeviceFilters>
      </USB>
    </Hardware>
  </Machine>
</VirtualBox>
"""


@contextlib.contextmanager
def far_disk(
    guest: Guest, folder: Path, image: Path, mode: str, rtt_ms: int
) -> Iterator[RusbServer]:
    """The guest has a disk of a client that is so far away."""
    folder.mkdir()
    options = "--guest", f"qemu:{guest.monitor}", "--storage", mode
    server = RusbServer(folder, MACHINE, *options)
    env = {**os.environ, "RUSB_STATE": str(folder)}
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        server.wait_log("TCP server listening")
        port = server.port
        if rtt_ms:
            network = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", relay.__name__, str(port), str(rtt_ms)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    cwd=CHECKOUT,
                )
            )
            assert network.stdout is not None
            port = int(network.stdout.readline())
        client = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "rusb", "connect", f"127.0.0.1:{port}"]
                + ["--backend", f"emulated:flash-drive={image}"],
                cwd=CHECKOUT,
                env=env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        stack.callback(client.terminate)
        guest.wait("test -b /dev/sda")
        yield server
    guest.wait("! test -b /dev/sda")


def seconds(guest: Guest, command: str) -> float:
    start = time.monotonic()
    guest.sh(command, 120)
    return time.monotonic() - start
