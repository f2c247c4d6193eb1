"""Captures of USB: what Linux's usbmon writes, as pcap or pcapng (spec/captures.md)."""

import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from rusb.errors import ParseError
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType

__all__ = ["CapturedDevice", "CapturedTransfer", "read_capture"]

_KINDS = (
    TransferType.ISOCHRONOUS,
    TransferType.INTERRUPT,
    TransferType.CONTROL,
    TransferType.BULK,
)
_LINKS = {189: 48, 220: 64}
"""Bytes of the header of each record, by link type."""

_OTHERS = {
    249: "USBPcap of Windows",
    288: "USB 2.0 packets",
    293: "USB 2.0 packets of low speed",
    294: "USB 2.0 packets of full speed",
    295: "USB 2.0 packets of high speed",
}
_PCAP = {b"\xa1\xb2\xc3\xd4": ">", b"\xd4\xc3\xb2\xa1": "<"}
_PCAP |= {b"\xa1\xb2\x3c\x4d": ">", b"\x4d\x3c\xb2\xa1": "<"}  # nanoseconds
_SECTION, _INTERFACE, _OLD, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
_HEADER = "QBBBBHBBqiiII8s"
_SET_ADDRESS = 0x0005


@dataclass(slots=True)
class CapturedTransfer:
    """One transfer, from its submission to its end.

    Attributes:
        kind, endpoint: as in a URB.
        setup: of a control transfer.
        wanted: bytes asked for.
        sent: data of an OUT transfer.
        received: data of an IN transfer.
        status: 0, or a negative errno of Linux.
        packets: isochronous IN: the data of each packet.
        began, ended: seconds.
        is_cut: data are missing in the file.
    """

    kind: TransferType
    endpoint: int
    setup: SetupPacket | None
    wanted: int
    sent: bytes
    received: bytes = b""
    status: int = 0
    packets: tuple[bytes, ...] = ()
    began: float = 0.0
    ended: float = 0.0
    is_cut: bool = False

    @property
    def is_in(self) -> bool:
        """Do its data come from the device?"""
        return self.endpoint & 0x80 != 0


@dataclass(slots=True)
class CapturedDevice:
    """A device, and all that was asked of it, in the order of the ends."""

    bus: int
    address: int
    transfers: list[CapturedTransfer] = field(default_factory=list)


@dataclass(slots=True)
class _Record:
    """What usbmon tells of one event."""

    id: int
    event: str
    kind: TransferType
    endpoint: int
    device: int
    bus: int
    time: float
    status: int
    length: int
    setup: bytes | None
    packets: list[tuple[int, int]]  # offset, length
    data: bytes


def read_capture(data: bytes) -> list[CapturedDevice]:
    """Return the devices of a file, in the order of their first transfer.

    Raises:
        ParseError: it is no capture of usbmon.
    """
    devices: dict[tuple[int, int], CapturedDevice] = {}
    nameless: dict[int, list[CapturedTransfer]] = defaultdict(list)  # by bus
    under_way: dict[tuple[int, int, int], CapturedTransfer] = {}
    for record in _records(data):
        key = record.bus, record.device, record.id
        if record.event == "S":
            under_way[key] = _submitted(record)
            continue
        transfer = under_way.pop(key, None)
        if transfer is None:
            continue  # it was under way when the capture began
        _end(transfer, record)
        if not record.device:  # it has no address yet
            nameless[record.bus].append(transfer)
            address = _address_set(transfer)
            if address:
                place = record.bus, address
                devices[place] = CapturedDevice(*place, nameless.pop(record.bus))
            continue
        place = record.bus, record.device
        devices.setdefault(place, CapturedDevice(*place)).transfers.append(transfer)
    return list(devices.values())


def _submitted(record: _Record) -> CapturedTransfer:
    setup = SetupPacket.parse(record.setup) if record.setup is not None else None
    is_in = record.endpoint & 0x80 != 0
    return CapturedTransfer(
        record.kind,
        record.endpoint,
        setup,
        record.length,
        b"" if is_in else record.data,
        began=record.time,
        is_cut=not is_in and len(record.data) < record.length,
    )


def _end(transfer: CapturedTransfer, record: _Record) -> None:
    transfer.status, transfer.ended = record.status, record.time
    if not transfer.is_in:
        return
    transfer.received = record.data
    moved = record.length
    if transfer.kind is TransferType.ISOCHRONOUS:
        view = record.data
        transfer.packets = tuple(view[at : at + size] for at, size in record.packets)
        moved = max((at + size for at, size in record.packets if size), default=0)
    transfer.is_cut = len(record.data) < moved


def _address_set(transfer: CapturedTransfer) -> int:
    """The address that a device gets, 0 if none."""
    setup = transfer.setup
    if setup is None or transfer.status:
        return 0
    is_it = setup.request_type << 8 | setup.request == _SET_ADDRESS
    return setup.value & 0x7F if is_it else 0


# ----------------------------------------------------------------------- files ----


def _records(data: bytes) -> Iterator[_Record]:
    order = _PCAP.get(data[:4])
    if order is not None:
        yield from _pcap(data, order)
    elif data[:4] == _SECTION.to_bytes(4, "big"):
        yield from _pcapng(data)
    else:
        raise ParseError("it is neither pcap nor pcapng")


def _check_link(link: int) -> None:
    if link not in _LINKS:
        what = f" ({_OTHERS[link]})" if link in _OTHERS else ""
        raise ParseError(
            f"its link type is {link}{what}, not that of Linux's usbmon (189 or 220)"
        )


def _pcap(data: bytes, order: str) -> Iterator[_Record]:
    if len(data) < 24:
        raise ParseError("it ends within its header")
    (link,) = struct.unpack_from(f"{order}I", data, 20)
    link &= 0x0FFFFFFF
    _check_link(link)
    at = 24
    while at + 16 <= len(data):
        (size,) = struct.unpack_from(f"{order}I", data, at + 8)
        body = data[at + 16 : at + 16 + size]
        if len(body) == size:  # else it is the end of a capture that was killed
            yield _record(body, link, order)
        at += 16 + size


def _pcapng(data: bytes) -> Iterator[_Record]:
    at, order, links = 0, "<", list[int]()
    while at + 12 <= len(data):
        if data[at : at + 4] == _SECTION.to_bytes(4, "big"):
            magic = data[at + 8 : at + 12]
            if magic not in (b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a"):
                raise ParseError(f"a section at {at} without its magic number")
            order = ">" if magic[0] == 0x1A else "<"
            links.clear()
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if size < 12 or size % 4:
            raise ParseError(f"a block of {size} bytes at {at}")
        body = data[at + 8 : at + size - 4]
        if len(body) < size - 12:
            return  # the end of a capture that was killed
        at += size
        if kind == _INTERFACE and len(body) >= 8:
            links.append(struct.unpack_from(f"{order}H", body)[0])
        elif (found := _packet(kind, body, order)) is not None:
            number, packet = found
            if number >= len(links):
                raise ParseError(f"a packet of interface {number}, which is not there")
            _check_link(links[number])
            yield _record(packet, links[number], order)


def _packet(kind: int, body: bytes, order: str) -> tuple[int, bytes] | None:
    """The number of the interface and the bytes of a packet block; None: another."""
    if kind == _SIMPLE and len(body) >= 4:
        (size,) = struct.unpack_from(f"{order}I", body)
        return 0, body[4:][:size]
    if kind not in (_ENHANCED, _OLD) or len(body) < 20:
        return None
    form = "I8xI" if kind == _ENHANCED else "H10xI"
    number, size = struct.unpack_from(order + form, body)
    return number, body[20 : 20 + size]


def _record(body: bytes, link: int, order: str) -> _Record:
    """Read what usbmon writes; a record that is cut has less data than it says."""
    start = _LINKS[link]
    if len(body) < start:
        raise ParseError(f"a record of {len(body)} bytes, the header has {start}")
    id, event, kind, endpoint, device, bus, setup_flag, data_flag, *rest = (
        struct.unpack_from(order + _HEADER, body)
    )
    seconds, micros, status, length, captured, setup = rest
    if kind >= len(_KINDS):
        raise ParseError(f"a transfer of type {kind}")
    has_setup = not setup_flag and _KINDS[kind] is TransferType.CONTROL
    packets: list[tuple[int, int]] = []
    data = body[start : start + captured]
    if link == 220:
        (count,) = struct.unpack_from(f"{order}I", body, 60)
        head = min(16 * count, len(data) - len(data) % 16)
        packets = [
            (at, size)
            for _, at, size in struct.iter_unpack(f"{order}iII4x", data[:head])
        ]
        data = data[head:]
    return _Record(
        id,
        chr(event),
        _KINDS[kind],
        endpoint,
        device,
        bus,
        seconds + micros / 1e6,
        status,
        length,
        setup if has_setup else None,
        packets,
        b"" if data_flag else data,
    )
