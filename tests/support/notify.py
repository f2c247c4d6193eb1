"""A service manager."""

import socket


class Manager:
    """The socket of a service manager."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(30)

    def read(self) -> list[str]:
        """Return the lines of the next message."""
        return self.socket.recv(4096).decode().splitlines()
