"""The first serial port of a machine: what VirtualBox's files and QEMU say of it."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rusb.errors import SettingsError

from .document import Node

__all__ = ["SERIAL_MODES", "SerialPort", "serial_port_of"]

SERIAL_MODES: Final = {
    "server": ("HostPipe", True),
    "client": ("HostPipe", False),
    "tcpserver": ("TCP", True),
    "tcpclient": ("TCP", False),
    "file": ("RawFile", False),
}
"""Words of ``--uartmode1``: hostMode and server of the settings."""

MAX_SOCKET = 107
"""Bytes of a UNIX socket's path."""


@dataclass(frozen=True, slots=True)
class SerialPort:
    """What the other end of the cable is.

    Attributes:
        mode: ``HostPipe`` (a UNIX socket), ``TCP`` or ``RawFile``.
        path: of a socket or a file; a port of TCP, or ``HOST:PORT``.
        is_server: it waits for a program to connect; else it connects.
    """

    mode: str
    path: str
    is_server: bool = False

    @classmethod
    def parse(cls, word: str, value: str) -> "SerialPort":
        """Read the two words of ``--uartmode1``.

        Raises:
            SettingsError: they cannot be; the message says why.
        """
        mode, is_server = SERIAL_MODES[word]
        if mode == "TCP":
            found = cls(mode, value, is_server)
            found.address()
            return found
        place = Path(value).absolute()
        if not value or not place.parent.is_dir():
            raise SettingsError(f"there is no directory {place.parent}")
        found = cls(mode, str(place), is_server)
        found.check()
        return found

    def address(self) -> tuple[str, int]:
        """Where a port of TCP listens or connects to.

        A server listens for programs on this machine only: a serial console asks
        nobody for a password.

        Raises:
            SettingsError: the path says no such thing.
        """
        host, colon, port = self.path.rpartition(":")
        number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
        is_host = bool(colon) and all(c.isalnum() or c in ".-_" for c in host)
        wanted = "PORT" if self.is_server else "HOST:PORT"
        if not 0 < number < 65536 or (host if self.is_server else not is_host):
            raise SettingsError(f"{self.path!r} is not {wanted}")
        return ("127.0.0.1" if self.is_server else host), number

    def check(self) -> None:
        """Refuse a socket's place that QEMU could not use, or would clear for it.

        Raises:
            SettingsError: the path is too long, or something else is there.
        """
        if self.mode != "HostPipe":
            return
        if len(os.fsencode(self.path)) > MAX_SOCKET:
            raise SettingsError(
                f"the path {self.path} of the socket is longer than {MAX_SOCKET} bytes"
            )
        try:
            is_socket = stat.S_ISSOCK(os.lstat(self.path).st_mode)
        except OSError:
            return  # it is not there yet
        if not is_socket:
            raise SettingsError(
                f"{self.path} already exists and is not a socket; name another path"
            )

    def attributes(self) -> dict[str, str]:
        """What a settings file has besides the port's place."""
        found = {"hostMode": self.mode, "path": self.path}
        is_told = self.mode != "RawFile"
        return found | (
            {"server": "true" if self.is_server else "false"} if is_told else {}
        )


def serial_port_of(port: Node, folder: Path) -> SerialPort | None:
    """Return what an element ``Port`` connects with; None: nothing that QEMU has.

    Args:
        folder: paths may be relative to it.
    """
    given = port.attributes
    mode, path = given.get("hostMode", ""), given.get("path", "")
    known = {kind for kind, _ in SERIAL_MODES.values()}
    if mode not in known or not path or given.get("enabled") in ("false", "0"):
        return None
    place = path if mode == "TCP" else str(folder / path)
    return SerialPort(mode, place, given.get("server") in ("true", "1"))
