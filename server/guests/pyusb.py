"""pyusb programs as the guest: each device is a socket in a folder, usbredir on it.

``python -m rusb.server.guests.pyusb [--dir DIR] PROGRAM [ARG …]`` runs an unmodified
pyusb program, a file or ``-m MODULE``, that sees these devices and no others.
"""

import argparse
import asyncio
import logging
import os
import runpy
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from rusb.errors import GuestError
from rusb.usb.setup import SetupPacket
from rusb.usb.urb import Urb, UrbResult, UrbStatus

from ._listening import is_stale, listen_at, make_own_folder
from ._pyusb_backend import Backend, default_folder
from ._stream import DeviceStream, usbredir_core
from .base import AttachedDevice, GuestBackend

__all__ = ["PyusbGuest", "main"]

log = logging.getLogger(__name__)

MAX_PATH = 107
"""Bytes that the address of a UNIX socket may have."""


class _Socket:
    """A device and the socket at which a program finds it."""

    def __init__(self, device: AttachedDevice, path: Path) -> None:
        self.device = device
        self.path = path
        self.configuration = 0
        self.listener: asyncio.Server | None = None
        self.stream: DeviceStream | None = None

    def accept(self) -> asyncio.Protocol:
        """One program at a time; a further one is hung up on."""
        if self.stream is not None:
            return _Busy()
        self.stream = DeviceStream(
            self.device,
            usbredir_core(self.device, self.configuration),
            on_ended=self._ended,
        )
        return self.stream

    def configure(self) -> None:
        """Select the first configuration, as a Linux host does by itself."""
        found = self.device.descriptors.configurations
        self.configuration = found[0].value if found else 0
        if found:
            setup = SetupPacket.set_configuration(self.configuration)
            self.device.submit(Urb.control(0, setup), self._configured)

    def _configured(self, result: UrbResult) -> None:
        if result.status is not UrbStatus.OK:
            self.configuration = 0
            log.warning(
                "%s: SET_CONFIGURATION failed: %s", self.device.name, result.status.name
            )

    def _ended(self) -> None:
        """The program went: leave the device as the next one expects it."""
        stream, self.stream = self.stream, None
        if stream is not None and stream.was_used:
            self.device.reset()
            self.configure()


class _Busy(asyncio.Protocol):
    """Hangs up at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class PyusbGuest(GuestBackend):
    """Keeps a socket ``NAME.usb`` in a folder for each device.

    Args:
        address: the folder; None: ``RUSB_PYUSB``, or one in the run-time directory.
    """

    def __init__(self, address: str | None = None) -> None:
        self.folder = Path(address) if address else default_folder()
        super().__init__(str(self.folder.absolute()))
        self._sockets: dict[str, _Socket] = {}

    async def start(self) -> None:
        """Make the folder, which must be ours alone; remove stale sockets."""
        make_own_folder(self.folder, "pyusb")
        for path in self.folder.glob("*.usb"):
            if stat.S_ISSOCK(path.lstat().st_mode) and await is_stale(path):
                path.unlink(missing_ok=True)

    async def attach(self, device: AttachedDevice) -> str:
        """Offer the device to the next program that comes."""
        path = self.folder / f"{device.name}.usb"
        if len(os.fsencode(path)) > MAX_PATH:
            raise GuestError(
                f"{path} is longer than the {MAX_PATH} bytes that the address of a"
                " socket may have; use a shorter directory"
            )
        ours = _Socket(device, path)
        ours.configure()
        ours.listener = await listen_at(path, ours.accept)
        self._sockets[device.name] = ours
        return f"{path}"

    async def detach(self, device: AttachedDevice) -> None:
        """Unplug it from the program that has it and remove the socket."""
        ours = self._sockets.pop(device.name, None)
        if ours is None:
            return
        if ours.listener is not None:
            ours.listener.close()
        ours.path.unlink(missing_ok=True)
        if ours.stream is not None:
            await ours.stream.aclose()

    async def aclose(self) -> None:
        """Unplug everything."""
        for ours in list(self._sockets.values()):
            await self.detach(ours.device)


PLUGIN = PyusbGuest


def main(argv: Sequence[str] | None = None) -> None:
    """Run a pyusb program with the remote devices as its only ones."""
    parser = argparse.ArgumentParser(
        prog="python -m rusb.server.guests.pyusb",
        description="run an unmodified pyusb program that sees the remote devices",
    )
    parser.add_argument(
        "--dir", type=Path, help="directory of rusb serve --guest pyusb:DIR"
    )
    parser.add_argument(
        "-m", dest="module", action="store_true", help="PROGRAM is a module"
    )
    parser.add_argument("program", metavar="PROGRAM")
    parser.add_argument("args", nargs=argparse.REMAINDER, metavar="ARG")
    given = parser.parse_args(argv)
    _replace_backends(Backend(given.dir))
    sys.argv = [given.program, *given.args]
    if given.module:
        sys.path.insert(0, os.getcwd())
        runpy.run_module(given.program, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(given.program).resolve().parent))
        runpy.run_path(given.program, run_name="__main__")


def _replace_backends(backend: Backend) -> None:
    """Make every way in which pyusb finds a backend find ours."""
    import usb.backend.libusb0
    import usb.backend.libusb1
    import usb.backend.openusb

    usb.backend.libusb1.get_backend = lambda find_library=None: backend
    usb.backend.libusb0.get_backend = lambda find_library=None: None
    usb.backend.openusb.get_backend = lambda find_library=None: None


if __name__ == "__main__":
    main()
