"""vhci_hcd of another machine, for a server that runs here.

Python is too slow for video in a machine without KVM. So the server is here, and what
it writes to the driver's files, the machine's own kernel gets.
"""

import asyncio
import contextlib
import shlex
import socket
import sys

from rusb.server.guests.vhci import DRIVER, Vhci, VhciPort, parse_status
from tests.support.lab.usblab import Client

__all__ = ["IN_USE", "FarVhci"]

IN_USE = f"awk '$3 ~ /^00[567]/' {DRIVER}/status*"
"""Prints the ports that are in use."""

# sys.argv: where to connect to, and the line for the driver, which lacks the descriptor
_ATTACH = f"""
import socket, sys
sock = socket.create_connection(("10.0.2.2", int(sys.argv[1])))
port, devid, speed = sys.argv[2:]
open("{DRIVER}/attach", "w").write(f"{{port}} {{sock.fileno()}} {{devid}} {{speed}}")
"""


class FarVhci(Vhci):
    """The driver's files in a machine; its kernel gets the end of a TCP connection.

    The machine runs one command at a time: leave it alone while a device is attached.

    Args:
        vm: the machine.
    """

    def __init__(self, vm: Client) -> None:
        super().__init__()
        self._vm = vm
        self._relays: set[asyncio.Task[None]] = set()
        vm.put("/run/attach.py", _ATTACH.encode())

    def ports(self) -> list[VhciPort]:
        """Those of the machine."""
        return parse_status(self._vm.sh(f"cat {DRIVER}/status*"))

    def check_access(self) -> None:
        """It is root who runs commands there."""
        self._vm.sh(f"test -w {DRIVER}/attach")

    def attach(self, port: int, sock: socket.socket, devid: int, speed: int) -> None:
        """Join our end of the connection and the kernel's."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            words = [listener.getsockname()[1], port, devid, speed]
            self._vm.sh(
                f"{sys.executable} -S -E /run/attach.py {shlex.join(map(str, words))}"
            )
            far, _ = listener.accept()
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        relay = asyncio.get_running_loop().create_task(self._relay(sock.dup(), far))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    @staticmethod
    async def _relay(near: socket.socket, far: socket.socket) -> None:
        ends = [await asyncio.open_connection(sock=sock) for sock in (near, far)]
        (from_near, to_near), (from_far, to_far) = ends
        await asyncio.gather(_carry(from_near, to_far), _carry(from_far, to_near))


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """What comes goes; the end, too."""
    with contextlib.suppress(ConnectionError):
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
    target.close()
