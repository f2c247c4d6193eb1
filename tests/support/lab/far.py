"""A disk of a client at a distance, in a real Linux."""

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rusb.cli._bench import relay
from tests.support.lab.usblab import VM, Client, Guest
from tests.support.rusbserver import CHECKOUT, RusbServer, free_port

__all__ = ["MIB", "far_disk", "far_usbip_disk", "seconds", "speeds"]

MIB = 1 << 20

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
    with contextlib.ExitStack() as stack:
        server = _serve(stack, folder, *options)
        _bring(stack, folder, image, _away(stack, server.port, rtt_ms))
        guest.wait("test -b /dev/sda")
        yield server
    guest.wait("! test -b /dev/sda")


@contextlib.contextmanager
def far_usbip_disk(
    vm: Client, folder: Path, image: Path, rtt_ms: int
) -> Iterator[RusbServer]:
    """A machine's vhci_hcd has the disk by USB/IP from a server so far away."""
    folder.mkdir()
    port = free_port()
    usbip = "/usr/sbin/usbip"
    vm.modprobe("vhci_hcd")
    with contextlib.ExitStack() as stack:
        options = "--guest", f"usbip:127.0.0.1:{port}", "--storage", "off"
        server = _serve(stack, folder, *options)
        _bring(stack, folder, image, server.port)
        server.wait_log("busid 1-1")
        far = _away(stack, port, rtt_ms)
        vm.sh(f"{usbip} --tcp-port {far} attach -r 10.0.2.2 -b 1-1")
        vm.wait("test -b /dev/sda")
        yield server
        vm.sh(f"{usbip} detach -p 0")
        vm.wait("! test -b /dev/sda")


def _serve(stack: contextlib.ExitStack, folder: Path, *options: str) -> RusbServer:
    server = RusbServer(folder, MACHINE, *options)
    stack.callback(server.stop)
    server.wait_log("TCP server listening")
    return server


def _away(stack: contextlib.ExitStack, port: int, rtt_ms: int) -> int:
    """A port that leads to another one, so far away."""
    if not rtt_ms:
        return port
    network = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-m", relay.__name__, str(port), str(rtt_ms)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=CHECKOUT,
        )
    )
    assert network.stdout is not None
    return int(network.stdout.readline())


def _bring(stack: contextlib.ExitStack, folder: Path, image: Path, port: int) -> None:
    client = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-m", "rusb", "connect", f"127.0.0.1:{port}"]
            + ["--backend", f"emulated:flash-drive={image}"],
            cwd=CHECKOUT,
            env={**os.environ, "RUSB_STATE": str(folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    )
    stack.callback(client.terminate)


def seconds(guest: VM, command: str) -> float:
    start = time.monotonic()
    guest.sh(command, 120)
    return time.monotonic() - start


def speeds(
    vm: VM,
    folder: Path,
    mode: str,
    rtt_ms: int,
    *,
    read: int,
    write: int,
    times: int = 1,
) -> tuple[float, float]:
    """Return the MiB a second with which a machine reads and writes a disk, directly.

    Args:
        vm: a guest of ours; or a client that has the disk by USB/IP.
        folder: a new one.
        mode: of ``--storage``.
        rtt_ms: how far away the disk is.
        read: MiB to read.
        write: MiB to write behind them.
        times: how often to do both.
    """
    folder.mkdir()
    image, new = folder / "disk.img", random.Random(2).randbytes(write * MIB)
    content = random.Random(1).randbytes(read * MIB)
    image.write_bytes(content + bytes(len(new)))
    disk: contextlib.AbstractContextManager[object]
    if isinstance(vm, Client):
        disk = far_usbip_disk(vm, folder / "far", image, rtt_ms)
    else:
        assert isinstance(vm, Guest)
        disk = far_disk(vm, folder / "far", image, mode, rtt_ms)
    with disk:
        again = f"for i in {'1 ' * times}; do"
        dd = f"dd bs={MIB} if=/dev/sda of=/dev/null iflag=direct count={read}"
        vm.sh("dd if=/dev/sda of=/dev/null count=0")  # it has looked for partitions
        reading = seconds(vm, f"{again} {dd} || exit 1; done")
        vm.put("/tmp/new", new)
        dd = f"dd bs={MIB} if=/tmp/new of=/dev/sda seek={read} oflag=direct"
        writing = seconds(vm, f"{again} {dd} conv=notrunc || exit 1; done")
        assert image.read_bytes() == content + new
    return times * read / reading, times * write / writing
