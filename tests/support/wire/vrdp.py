"""Messages of vrdpusb as a peer would write them, and cores in a known state."""

import struct

from rusb.usb.device import DeviceInfo
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb
from rusb.wire import base as wire
from rusb.wire.vrdpusb import VrdpUsbDeviceSide, VrdpUsbGuestSide
from tests.support.wire.joined import Joined, clear, messages

__all__ = [
    "CHANNEL",
    "ID",
    "assert_ignored",
    "bulk",
    "device_list",
    "entry",
    "join",
    "make_device",
    "make_guest",
    "message",
    "negotiate_reply",
    "receive",
    "record",
    "results",
    "status",
    "submit",
]

CHANNEL = 1006
ID = 0x0203
LAST, FRAGMENT = 1, 2


def message(code: int, body: bytes = b"") -> bytes:
    return struct.pack("<IB", 1 + len(body), code) + body


# ------------------------------------------------------- client to server ----


def negotiate_reply(version: int = 3, client_flags: int = 0) -> bytes:
    if version == 1:
        return message(12, b"\0")
    if version == 2:
        return message(12, struct.pack("<BI", 2, 2))
    return message(12, struct.pack("<BII", 6, version, client_flags))


def entry(
    number: int = ID,
    *,
    size: int | None = None,
    strings: tuple[int, int, int] = (0, 0, 0),
    bcd_usb: int = 0x0200,
    product: int = 0x2303,
    speed: int | None = None,
    tail: bytes = b"",
) -> bytes:
    """One entry of a list; *speed* makes it an extended one."""
    extra = b"" if speed is None else struct.pack("<H", speed)
    if size is None:
        size = 25 + len(extra) + len(tail)
    head = (size, number, bcd_usb, 0xFF, 1, 2, 0x1209, product, 0x0101, *strings, 2)
    return struct.pack("<HIHBBBHHHHHHH", *head) + extra + tail


def device_list(*entries: bytes, end: bytes = b"\0\0") -> bytes:
    return message(11, b"".join(entries) + end)


def status(code: int, value: int, number: int = ID) -> bytes:
    return message(code, struct.pack("<BI", value, number))


def record(
    handle: int,
    data: bytes = b"",
    *,
    number: int = ID,
    flags: int = LAST,
    error: int = 0,
    length: int | None = None,
) -> bytes:
    size = len(data) if length is None else length
    return struct.pack("<IBBII", number, flags, error, handle, size) + data


def results(*records: bytes) -> bytes:
    return message(8, b"".join(records))


# ------------------------------------------------------- server to client ----


def submit(
    handle: int,
    data: bytes = b"",
    *,
    number: int = ID,
    kind: int = 2,
    endpoint: int = 1,
    direction: int = 1,
    urb_len: int = 64,
    data_len: int | None = None,
) -> bytes:
    size = len(data) if data_len is None else data_len
    fields = (number, handle, kind, endpoint, direction, urb_len, size)
    return message(7, struct.pack("<IIBBBII", *fields) + data)


# ------------------------------------------------------------------ cores ----


def make_guest(*ids: int, version: int = 3, client_flags: int = 0) -> VrdpUsbGuestSide:
    """A guest side whose client listed these devices; they are open."""
    guest = VrdpUsbGuestSide()
    guest.channel_opened(CHANNEL, "vrdpusb", now=0)
    guest.receive_data(CHANNEL, negotiate_reply(version, client_flags), now=0)
    speed = 3 if client_flags else None
    entries = [entry(i, speed=speed) for i in ids]
    guest.receive_data(CHANNEL, device_list(*entries), now=0)
    for number in ids:
        guest.open_device(number)
    clear(guest)
    return guest


def make_device(
    *ids: int, version: int = 3, flags: int = 1, is_open: bool = True
) -> VrdpUsbDeviceSide:
    """A device side that has listed these devices; they are open."""
    device = VrdpUsbDeviceSide()
    device.channel_opened(CHANNEL, "vrdpusb", now=0)
    device.receive_data(CHANNEL, message(12, struct.pack("<HH", version, flags)), now=0)
    device.receive_data(CHANNEL, message(11), now=0)
    device.announce([DeviceInfo(i, 0x1209, 0x2303) for i in ids])
    for number in ids if is_open else ():
        device.receive_data(CHANNEL, message(0, struct.pack("<I", number)), now=0)
    clear(device)
    return device


def join(*ids: int) -> Joined:
    """Both of ours; the devices are open."""
    joined = Joined(
        VrdpUsbGuestSide(),
        VrdpUsbDeviceSide(),
        *(DeviceInfo(i, 0x1209, 0x2303, device_class=0xFF) for i in ids),
        channel=CHANNEL,
        name="vrdpusb",
    )
    for number in ids:
        joined.guest.open_device(number)
    joined.move()
    joined.forget()
    return joined


def bulk(
    id: int, length: int = 64, *, endpoint: int = 0x81, data: bytes | memoryview = b""
) -> Urb:
    return Urb(id, TransferType.BULK, endpoint, len(data) or length, data)


# ---------------------------------------------------------------- received ----


def receive(
    side: VrdpUsbGuestSide | VrdpUsbDeviceSide, *data: bytes, now: float = 1
) -> list[wire.Event]:
    """Give a core some messages; return what it reports."""
    for one in data:
        side.receive_data(CHANNEL, one, now=now)
    return side.events()


def assert_ignored(side: VrdpUsbGuestSide | VrdpUsbDeviceSide, data: bytes) -> None:
    """A message is reported, and nothing else comes of it."""
    (event,) = receive(side, data)
    assert isinstance(event, wire.Ignored)
    assert event.reason
    assert messages(side) == []
