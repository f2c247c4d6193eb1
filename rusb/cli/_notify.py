"""What a service manager learns of us: sd_notify(3), as units of Type=notify need."""

import contextlib
import os
import socket

from rusb.usb.text import clean_text

__all__ = ["notify"]

TIMEOUT = 1.0
"""Seconds for a manager that does not read."""


def notify(state: str = "", status: str = "") -> None:
    """Tell the manager that started us; without one nothing happens.

    Args:
        state: ``READY=1`` or ``STOPPING=1``.
        status: a line that ``systemctl status`` shows.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    if address[0] == "@":  # the abstract name space
        address = "\0" + address[1:]
    lines = [state] if state else []
    lines += [f"STATUS={clean_text(status)}"] if status else []
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        sock.settimeout(TIMEOUT)
        sock.connect(address)
        sock.sendall("\n".join(lines).encode())
