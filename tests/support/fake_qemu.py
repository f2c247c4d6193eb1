"""What a test can believe to be QEMU: a QMP server with usb-redir devices.

It takes file descriptors, chardevs and devices, and is as rude as a test wants.
"""

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

__all__ = ["DONE", "FakeQemu", "GuestEnd", "Redirected", "Refused"]

GREETING = {"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": []}}
DONE: dict[str, object] = {}
SUCCESS_OF_UNKNOWN = DONE

HELLO, CONNECT, RESET, DISCONNECT, REJECT, ACK = 0, 1, 3, 2, 22, 24
CAPABILITIES = 0xFF


class Refused(Exception):
    """Raised by an answer: QEMU refuses with this text."""


class GuestEnd(Protocol):
    """QEMU's end of one usbredir connection, in a thread of its own."""

    is_attached: bool

    def close(self) -> None:
        """End it. Idempotent."""


class Redirected(threading.Thread):
    """QEMU's end of one usbredir connection: attaches what is announced."""

    def __init__(self, sock: socket.socket, *, rejects: bool) -> None:
        super().__init__(daemon=True)
        self.socket = sock
        self.is_attached = False
        self.rejects = rejects
        self.packets: list[int] = []
        self.start()

    def run(self) -> None:
        hello = b"qemu usb-redir guest 7.2.22".ljust(64, b"\0")
        hello += struct.pack("<I", CAPABILITIES)
        with contextlib.suppress(OSError, EOFError):
            self.socket.sendall(struct.pack("<III", HELLO, len(hello), 0) + hello)
            kind, length, _ = struct.unpack("<III", self._read(12))
            self._read(length)
            while True:
                kind, length, _ = struct.unpack("<IIQ", self._read(16))
                self._read(length)
                self.packets.append(kind)
                self._answer(kind)
        self.is_attached = False

    def _answer(self, kind: int) -> None:
        if kind == CONNECT and self.rejects:
            self._send(REJECT)
        elif kind == CONNECT:
            self.is_attached = True
            self._send(RESET)
        elif kind == DISCONNECT:
            self.is_attached = False
            self._send(ACK)

    def _send(self, kind: int) -> None:
        self.socket.sendall(struct.pack("<IIQ", kind, 0, 0))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.join(5)
        self.socket.close()


class FakeQemu:
    """A QMP server at *path*, serving one client at a time, as QEMU does.

    Attributes:
        answers: what commands answer instead of what they do here; an answer that
            returns None is never sent.
        commands: names and arguments of what was executed.
        chardevs, devices: what exists now.
        ends: QEMU's end of the usbredir connection of each device.
        plug: makes one of a connected socket.
        rejects: refuse devices on the usbredir connection.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Callable[[dict[str, Any]], object]] = {}
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.chardevs: dict[str, socket.socket | None] = {}
        self.devices: dict[str, str] = {}
        self.ends: dict[str, GuestEnd] = {}
        self.plug: Callable[[socket.socket], GuestEnd] = self._redirect
        self.rejects = False
        self.tree: dict[str, list[dict[str, str]]] = {
            "/machine/peripheral": [{"name": "xhci", "type": "child<qemu-xhci>"}],
            "/machine/peripheral/xhci": [{"name": "xhci.0", "type": "child<usb-bus>"}],
        }
        self._fds: list[int] = []
        self._named: dict[str, int] = {}
        self._client: socket.socket | None = None
        self._lock = threading.Lock()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End, as a killed QEMU does. Idempotent."""
        for sock in (self._server, self._client):
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._server.close()
        for end in self.ends.values():
            end.close()
        for left in self.chardevs.values():
            if left is not None:
                left.close()
        for fd in (*self._fds, *self._named.values()):
            os.close(fd)
        self._fds, self._named = [], {}
        self.path.unlink(missing_ok=True)

    def send(self, message: Mapping[str, object] | bytes) -> None:
        """Send anything to the client."""
        raw = message if isinstance(message, bytes) else json.dumps(message).encode()
        with self._lock:
            if self._client is not None:
                self._client.sendall(raw + b"\r\n")

    def emit(self, event: str, **data: object) -> None:
        """Send an event."""
        stamp = {"seconds": 1, "microseconds": 0}
        self.send({"event": event, "timestamp": stamp, "data": data})

    def hang_up(self) -> None:
        """Drop the client."""
        if self._client is not None:
            self._client.shutdown(socket.SHUT_RDWR)

    def remove_device(self, id: str) -> None:
        """What device_del does, by whomever: device and chardev go."""
        chardev = self.devices.pop(id)
        self.chardevs.pop(chardev, None)
        self.ends.pop(id).close()
        self.emit("DEVICE_DELETED", device=id, path=f"/machine/peripheral/{id}")

    # ---------------------------------------------------------- serving ----

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._client = client
            with contextlib.suppress(OSError):
                self.send(GREETING)
                self._serve_client(client)
            self._client = None
            client.close()

    def _serve_client(self, client: socket.socket) -> None:
        text = ""
        while True:
            data, fds, _, _ = socket.recv_fds(client, 65536, 1)
            self._fds += fds
            if not data:
                return
            text = (text + data.decode()).lstrip()
            with contextlib.suppress(json.JSONDecodeError):  # not yet complete
                while text:  # messages need no line ends
                    message, size = json.JSONDecoder().raw_decode(text)
                    text = text[size:].lstrip()
                    self._run(message)

    def _run(self, message: dict[str, Any]) -> None:
        name, arguments = message["execute"], message.get("arguments", {})
        self.commands.append((name, arguments))
        method = getattr(self, "_do_" + name.replace("-", "_"), None)
        run = self.answers.get(name) or method or (lambda arguments: DONE)
        try:
            result = run(arguments)
        except Refused as error:
            reply = {"error": {"class": "GenericError", "desc": str(error)}}
        else:
            if result is None:
                return
            reply = {"return": result}  # type: ignore[dict-item]
        self.send({**reply, **{k: v for k, v in message.items() if k == "id"}})

    # --------------------------------------------------------- commands ----

    def _do_device_list_properties(self, arguments: dict[str, Any]) -> object:
        return [{"name": "chardev", "type": "str"}]

    def _do_qom_list(self, arguments: dict[str, Any]) -> object:
        return self.tree.get(arguments["path"], [])

    def _do_qom_get(self, arguments: dict[str, Any]) -> object:
        end = self.ends.get(arguments["path"].rpartition("/")[2])
        if end is None:
            raise Refused("no such object")
        return end.is_attached

    def _do_query_status(self, arguments: dict[str, Any]) -> object:
        return {"status": "running", "running": True}

    def _do_query_chardev(self, arguments: dict[str, Any]) -> object:
        return [
            {
                "label": name,
                "filename": "unix:" if sock else f"disconnected:fd:{name}",
                "frontend-open": True,
            }
            for name, sock in self.chardevs.items()
        ]

    def _do_human_monitor_command(self, arguments: dict[str, Any]) -> object:
        line = "  Device 0.0, Port {}, Speed 480 Mb/s, Product X, ID: {}\r\n"
        return "".join(line.format(n, id) for n, id in enumerate(self.devices, 1))

    def _do_getfd(self, arguments: dict[str, Any]) -> object:
        if not self._fds:
            raise Refused("No file descriptor supplied via SCM_RIGHTS")
        self._named[arguments["fdname"]] = self._fds.pop()
        return DONE

    def _do_chardev_add(self, arguments: dict[str, Any]) -> object:
        name = arguments["backend"]["data"]["addr"]["data"]["str"]
        fd = self._named.pop(name)
        self.chardevs[arguments["id"]] = socket.socket(fileno=fd)
        return DONE

    def _do_chardev_remove(self, arguments: dict[str, Any]) -> object:
        if arguments["id"] not in self.chardevs:
            raise Refused(f"Chardev '{arguments['id']}' not found")
        if arguments["id"] in self.devices.values():
            raise Refused(f"Chardev '{arguments['id']}' is busy")
        sock = self.chardevs.pop(arguments["id"])
        if sock is not None:
            sock.close()
        return DONE

    def _do_device_add(self, arguments: dict[str, Any]) -> object:
        id, chardev = arguments["id"], arguments["chardev"]
        sock = self.chardevs[chardev]
        assert sock is not None
        self.devices[id] = chardev
        self.ends[id] = self.plug(sock)
        return DONE

    def _redirect(self, sock: socket.socket) -> GuestEnd:
        return Redirected(sock, rejects=self.rejects)

    def _do_device_del(self, arguments: dict[str, Any]) -> object:
        if arguments["id"] not in self.devices:
            raise Refused(f"Device '{arguments['id']}' not found")
        self.remove_device(arguments["id"])
        return DONE
