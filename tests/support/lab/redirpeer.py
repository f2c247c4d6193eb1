"""A small usbredir peer that owns a disk: independent of the code under test.

It models a high- or super-speed USB memory stick in RAM: control and bulk only
(docs/spec/qemu-lab.md 6).
"""

import contextlib
import socket
import struct
import threading

__all__ = ["Peer", "RamDisk", "plug"]

HELLO, CONNECT, DISCONNECT, RESET, INTERFACES, ENDPOINTS = range(6)
SET_CONFIGURATION, GET_CONFIGURATION, CONFIGURATION_STATUS = 6, 7, 8
SET_ALTERNATE, GET_ALTERNATE, ALTERNATE_STATUS = 9, 10, 11
CANCEL, CONTROL, BULK = 21, 100, 101

VERSION_BCD, DISCONNECT_ACK, MAX_PACKET = 1 << 1, 1 << 3, 1 << 4
LONG_IDS, LONG_BULK = 1 << 5, 1 << 6
CAPABILITIES = VERSION_BCD | DISCONNECT_ACK | MAX_PACKET | LONG_IDS | LONG_BULK

OK, STALL = 0, 4
HIGH, SUPER = 2, 3
_STRINGS = {1: "Lab", 2: "RAM disk", 3: "0123456789AB"}


class RamDisk:
    """A memory stick whose content is *image*, changed in place by writes."""

    def __init__(
        self, image: bytearray, speed: int = HIGH, vid: int = 0x0951, pid: int = 0x1666
    ) -> None:
        self.image, self.speed, self.vid, self.pid = image, speed, vid, pid
        self.packet_size = {HIGH: 512, SUPER: 1024}[speed]
        self._queue: list[bytes | memoryview] = []
        self._write: tuple[int, int, bytes] | None = None

    # ---------------------------------------------------- descriptors ----

    def descriptor(self, value: int) -> bytes | None:
        """What GET_DESCRIPTOR of wValue *value* returns; None stalls."""
        kind, index = value >> 8, value & 0xFF
        if kind == 1:
            return self._device()
        if kind == 2:
            return self._configuration()
        if kind == 3:
            return self._string(index)
        if kind == 15 and self.speed == SUPER:
            return self._bos()
        return None

    def _device(self) -> bytes:
        is_super = self.speed == SUPER
        version, packet_size = (0x300, 9) if is_super else (0x200, 64)
        head = struct.pack("<BBHBBBB", 18, 1, version, 0, 0, 0, packet_size)
        return head + struct.pack("<HHHBBBB", self.vid, self.pid, 0x100, 1, 2, 3, 1)

    def _configuration(self) -> bytes:
        body = bytes([9, 4, 0, 0, 2, 8, 6, 0x50, 0])
        for address in (0x81, 0x02):
            body += struct.pack("<BBBBHB", 7, 5, address, 2, self.packet_size, 0)
            if self.speed == SUPER:
                body += bytes([6, 0x30, 0, 0, 0, 0])
        head = struct.pack("<BBHBBBBB", 9, 2, 9 + len(body), 1, 1, 0, 0x80, 50)
        return head + body

    def _string(self, index: int) -> bytes | None:
        if index == 0:
            return b"\x04\x03\x09\x04"
        text = _STRINGS.get(index)
        if text is None:
            return None
        return bytes([2 + 2 * len(text), 3]) + text.encode("utf-16le")

    def _bos(self) -> bytes:
        head = struct.pack("<BBHB", 5, 15, 22, 2) + struct.pack("<BBBI", 7, 16, 2, 2)
        return head + struct.pack("<BBBBHBBH", 10, 16, 3, 0, 14, 1, 10, 32)

    def control(
        self, kind: int, request: int, value: int, length: int
    ) -> tuple[int, bytes]:
        """Answer a control request with status and data."""
        is_in = kind & 0x80 != 0
        if kind & 0x9F == 0x80 and request == 6:
            data = self.descriptor(value)
            return (OK, data[:length]) if data else (STALL, b"")
        if is_in and request == 0:  # GET_STATUS
            return OK, bytes(2)
        if (kind, request) == (0xA1, 0xFE):  # Get Max LUN
            return OK, b"\0"
        if (kind, request) == (0x21, 0xFF):  # Bulk-Only Mass Storage Reset
            self._queue, self._write = [], None
            return OK, b""
        return (STALL, b"") if is_in else (OK, b"")  # clear halt, SET_SEL, ...

    # ------------------------------------------------ bulk-only transport ----

    def bulk_out(self, data: bytes) -> int:
        """Take a command or data to write; return the status."""
        if self._write:
            offset, left, csw = self._write
            self.image[offset : offset + len(data)] = data
            left -= len(data)
            self._write = (offset + len(data), left, csw) if left > 0 else None
            if self._write is None:
                self._queue = [csw]
            return OK
        if len(data) != 31 or data[:4] != b"USBC":
            return STALL
        tag, wanted, flags, _, size = struct.unpack_from("<IIBBB", data, 4)
        command = data[15 : 15 + size]
        if command[0] == 0x2A:  # WRITE(10)
            offset, length = self._range(command)
            csw = struct.pack("<4sIIB", b"USBS", tag, 0, 0)
            self._write = (offset, length, csw)
            return OK
        answer = self._answer(command)
        found = (b"" if answer is None else answer)[:wanted]
        residue = wanted - len(found)
        csw = struct.pack("<4sIIB", b"USBS", tag, residue, int(answer is None))
        has_data_stage = len(found) > 0 or (wanted > 0 and flags & 0x80)
        self._queue = [found, csw] if has_data_stage else [csw]
        return OK

    def _range(self, command: bytes) -> tuple[int, int]:
        lba, count = struct.unpack_from(">IxH", command, 2)
        return lba * 512, count * 512

    def _answer(self, command: bytes) -> bytes | memoryview | None:
        """Data of a SCSI command; None fails it."""
        op = command[0]
        if op in (0x00, 0x1B, 0x1E, 0x35):  # ready?, start, prevent, synchronise
            return b""
        if op == 0x03:  # REQUEST SENSE
            return bytes([0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0])
        if op == 0x12 and not command[1] & 1:  # INQUIRY
            name = b"Lab     RAM disk        1.00"
            return bytes([0, 0x80, 5, 2, 31, 0, 0, 0]) + name
        if op == 0x1A:  # MODE SENSE(6)
            return b"\3\0\0\0"
        if op == 0x25:  # READ CAPACITY(10)
            return struct.pack(">II", len(self.image) // 512 - 1, 512)
        if op == 0x28:  # READ(10)
            offset, length = self._range(command)
            return memoryview(self.image)[offset : offset + length]
        return None

    def bulk_in(self, length: int) -> tuple[int, bytes]:
        """Give the next data or status, *length* bytes at most."""
        if not self._queue:
            return STALL, b""
        data = self._queue.pop(0)
        if len(data) > length:
            self._queue.insert(0, data[length:])
        return OK, bytes(data[:length])


class Peer:
    """One usbredir connection that offers *device*, served by a thread of its own.

    Attributes:
        peer_capabilities: what the other side announced.
        version: the other side's version text.
    """

    def __init__(
        self,
        sock: socket.socket,
        device: RamDisk,
        resume_capabilities: int | None = None,
    ) -> None:
        """Say hello and announce the device, or go on where another connection was.

        Args:
            resume_capabilities: the other side's, when its state was migrated.
        """
        self._socket, self.device = sock, device
        self._buffer = bytearray()
        self.version = ""
        self.peer_capabilities = resume_capabilities or 0
        if resume_capabilities is None:
            hello = b"lab peer 1".ljust(64, b"\0") + struct.pack("<I", CAPABILITIES)
            self._send(HELLO, hello)
            kind, _, body = self._receive()
            assert kind == HELLO
            self.version = body[:64].rstrip(b"\0").decode()
            (self.peer_capabilities,) = struct.unpack_from("<I", body, 64)
            self._announce()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _have(self, capability: int) -> bool:
        return CAPABILITIES & self.peer_capabilities & capability != 0

    def _send(self, kind: int, body: bytes = b"", id: int = 0) -> None:
        is_long = kind != HELLO and self._have(LONG_IDS)
        head = struct.pack("<IIQ" if is_long else "<III", kind, len(body), id)
        self._socket.sendall(head + body)

    def _need(self, size: int) -> None:
        while len(self._buffer) < size:
            data = self._socket.recv(1 << 20)
            if not data:
                raise EOFError
            self._buffer += data

    def _receive(self) -> tuple[int, int, bytes]:
        layout = "<IIQ" if self._have(LONG_IDS) else "<III"
        size = struct.calcsize(layout)
        self._need(size)
        kind, length, id = struct.unpack_from(layout, self._buffer)
        self._need(size + length)
        body = bytes(self._buffer[size : size + length])
        del self._buffer[: size + length]
        return kind, id, body

    def _infos(self) -> None:
        fields = b"".join(bytes([v]).ljust(32, b"\0") for v in (0, 8, 6, 0x50))
        self._send(INTERFACES, struct.pack("<I", 1) + fields)
        kinds, sizes = [255] * 32, [0] * 32
        size = self.device.packet_size
        for index, kind, packet in (
            (0, 0, 64),
            (16, 0, 64),
            (17, 2, size),
            (2, 2, size),
        ):
            kinds[index], sizes[index] = kind, packet
        body = bytes(kinds) + bytes(32) + bytes(32)
        if self._have(MAX_PACKET):
            body += struct.pack("<32H", *sizes)
        self._send(ENDPOINTS, body)

    def _announce(self) -> None:
        self._infos()
        device = self.device
        body = struct.pack("<BBBBHH", device.speed, 0, 0, 0, device.vid, device.pid)
        if self._have(VERSION_BCD):
            body += struct.pack("<H", 0x100)
        self._send(CONNECT, body)

    def _serve(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._handle(*self._receive())

    def _handle(self, kind: int, id: int, body: bytes) -> None:
        """Answer; reset, cancel, filters and the disconnect ack want no answer."""
        if kind == CONTROL:
            self._handle_control(id, body)
        elif kind == BULK:
            self._handle_bulk(id, body)
        elif kind == SET_CONFIGURATION:
            self._infos()
            self._send(CONFIGURATION_STATUS, bytes([OK, body[0]]), id)
        elif kind == GET_CONFIGURATION:
            self._send(CONFIGURATION_STATUS, bytes([OK, 1]), id)
        elif kind == SET_ALTERNATE:
            self._send(ALTERNATE_STATUS, bytes([OK, body[0], body[1]]), id)
        elif kind == GET_ALTERNATE:
            self._send(ALTERNATE_STATUS, bytes([OK, body[0], 0]), id)

    def _handle_control(self, id: int, body: bytes) -> None:
        layout = struct.Struct("<BBBBHHH")
        endpoint, request, kind, _, value, index, length = layout.unpack_from(body)
        status, data = self.device.control(kind, request, value, length)
        if kind & 0x80:
            length = len(data)
        elif status != OK:
            length = 0
        head = layout.pack(endpoint, request, kind, status, value, index, length)
        self._send(CONTROL, head + data, id)

    def _handle_bulk(self, id: int, body: bytes) -> None:
        endpoint, _, length, stream = struct.unpack_from("<BBHI", body)
        is_long = self._have(LONG_BULK)
        size = 10 if is_long else 8
        if is_long:
            length |= struct.unpack_from("<H", body, 8)[0] << 16
        data = b""
        if endpoint & 0x80:
            status, data = self.device.bulk_in(length)
            length = len(data)
        else:
            status = self.device.bulk_out(body[size:])
        head = struct.pack("<BBHI", endpoint, status, length & 0xFFFF, stream)
        if is_long:
            head += struct.pack("<H", length >> 16)
        self._send(BULK, head + data, id)

    def close(self) -> None:
        """Hang up and wait for the thread. Idempotent."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        self._socket.close()


def plug(path: str, device: RamDisk) -> Peer:
    """Offer *device* to the usb-redir that listens at *path*."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(path)
        return Peer(sock, device)
    except BaseException:
        sock.close()
        raise
