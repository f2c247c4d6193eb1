"""What a test can believe to be virsh and a libvirt with one domain.

``virsh`` is a program in the folder; what it is asked is answered in a thread here.
QEMU's end of each redirected device is made as with a real one: it connects.
"""

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Self
from xml.etree import ElementTree

from tests.support.fake_qemu import GuestEnd, Redirected

__all__ = ["FakeLibvirt", "Failed"]

_PROGRAM = """#!{python} -SEI
import _socket, sys
given = sys.stdin.read() if "--file=/dev/stdin" in sys.argv else ""
sock = _socket.socket(_socket.AF_UNIX)
sock.connect({path!r})
sock.sendall("\\0".join([given, *sys.argv[1:], ""]).encode())
sock.shutdown(_socket.SHUT_WR)
answer = b""
while piece := sock.recv(1 << 16):
    answer += piece
status, said, errors = answer.decode().split("\\0")
sys.stdout.write(said)
sys.stderr.write(errors)
sys.exit(int(status))
"""
"""Hundreds of them start: without ``json`` and ``socket`` in 8 ms instead of 19."""


class Failed(Exception):
    """Raised by an answer: virsh fails with this text."""


class FakeLibvirt:
    """A libvirt with the domain ``lab``.

    Attributes:
        program: what to run in place of virsh.
        run: of the domain; empty: it is off.
        controllers: XML of its USB controllers.
        label: XML of what confines it.
        devices: redirected ones, by alias, as XML.
        ends: QEMU's end of each.
        answers: instead of what is done here; by word.
        asked: words of each command, without those that every one has.
        plug: makes QEMU's end of a connected socket.
        rejects: refuse devices on the usbredir connection.
    """

    def __init__(self, folder: Path) -> None:
        self.program = str(folder / "virsh")
        self.uri = "qemu:///system"
        self.run = "1"
        self.controllers = "<controller type='usb' index='0' model='qemu-xhci'/>"
        self.label = ""
        self.devices: dict[str, ElementTree.Element] = {}
        self.ends: dict[str, GuestEnd] = {}
        self.answers: dict[str, Callable[[], str]] = {}
        self.asked: list[list[str]] = []
        self.plug: Callable[[socket.socket], GuestEnd] = self._redirect
        self.rejects = False
        path = str(folder / "libvirt")
        Path(self.program).write_text(_PROGRAM.format(python=sys.executable, path=path))
        os.chmod(self.program, 0o700)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(path)
        self._server.listen(16)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End. Idempotent."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._server.close()
        self.shut_down()

    def shut_down(self) -> None:
        """The domain ends."""
        self.run = ""
        self.devices.clear()
        for alias in list(self.ends):
            self.ends.pop(alias).close()

    def detach(self, alias: str) -> None:
        """What detach-device does, by whomever."""
        del self.devices[alias]
        self.ends.pop(alias).close()

    # ---------------------------------------------------------- serving ----

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            with contextlib.suppress(OSError, ValueError):  # a virsh that was killed
                with client:
                    asked = b"".join(iter(partial(client.recv, 1 << 16), b""))
                    given, *argv, _ = asked.decode().split("\0")
                    status, said, errors = self._answer(argv, given)
                    client.sendall(f"{status}\0{said}\0{errors}".encode())

    def _answer(self, argv: list[str], given: str) -> tuple[int, str, str]:
        if argv[0] == "--connect":
            del argv[:2]
        self.asked.append(argv)
        word, *options = argv
        values = dict(o.removeprefix("--").partition("=")[::2] for o in options)
        try:
            if word in self.answers:
                return 0, self.answers[word](), ""
            if values.get("domain", "lab") not in ("lab", self.run):
                raise Failed(f"failed to get domain {values['domain']!r}")
            method = getattr(self, f"_do_{word.replace('-', '_')}")
            return 0, method(values, given), ""
        except Failed as error:
            return 1, "", f"error: {error}\n"

    def _do_uri(self, values: dict[str, str], given: str) -> str:
        return f"{self.uri}\n\n"

    def _do_list(self, values: dict[str, str], given: str) -> str:
        return "lab\nother\n\n"

    def _do_dumpxml(self, values: dict[str, str], given: str) -> str:
        run = f" id='{self.run}'" if self.run else ""
        devices = "".join(
            ElementTree.tostring(d, encoding="unicode") for d in self.devices.values()
        )
        names = "<name>lab</name><uuid>c4b22ead</uuid>"
        return (
            f"<domain type='qemu'{run}>{names}{self.label}"
            f"<devices>{self.controllers}{devices}</devices></domain>"
        )

    def _do_attach_device(self, values: dict[str, str], given: str) -> str:
        device = ElementTree.fromstring(given)
        source, alias = device.find("source"), device.find("alias")
        assert source is not None
        assert alias is not None
        if path := source.get("path"):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
        else:
            place = str(source.get("host")), int(source.get("service", ""))
            sock = socket.create_connection(place)
        address = device.find("address")
        assert address is not None
        address.set("port", str(len(self.devices) + 1))
        name = alias.get("name", "")
        self.devices[name] = device
        self.ends[name] = self.plug(sock)
        return "Device attached successfully\n"

    def _do_detach_device_alias(self, values: dict[str, str], given: str) -> str:
        if values["alias"] not in self.devices:
            raise Failed(f"no device found with alias {values['alias']}")
        self.detach(values["alias"])
        return "Device detach request sent successfully\n"

    def _redirect(self, sock: socket.socket) -> GuestEnd:
        return Redirected(sock, rejects=self.rejects)
