"""A guest whose screen is a VNC server of the test."""

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from rusb.errors import GuestError
from rusb.server.guests.loopback import LoopbackGuest
from tests.support.whole_path import Lab, machine

__all__ = ["ScreenGuest", "ScreenLab"]


class ScreenGuest(LoopbackGuest):
    """A guest whose screen is a VNC server."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.buttons: list[Mapping[str, object]] = []

    async def open_screen(self, head: int) -> socket.socket | None:
        if head:
            return None
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            sock.connect(str(self.path))
        except OSError:
            sock.close()
            raise GuestError("start it with -vnc none") from None
        return sock

    async def send_input(
        self, head: int, events: Sequence[Mapping[str, object]]
    ) -> None:
        self.buttons += events


class ScreenLab(Lab):
    """A server of a machine with two screens, for many clients."""

    def __init__(self, folder: Path, guest: ScreenGuest) -> None:
        display = machine().remote_display
        display.allow_multi_connection = True
        served = machine(remote_display=display, monitors=2)
        self.screen_guest = guest
        super().__init__(folder, served, guest=guest)
