"""Captures as Linux's usbmon and pcapng have them (docs/spec/captures.md, 1)."""

import itertools
import struct
from collections.abc import Callable, Sequence

from rusb.usb.backend import OpenDevice
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus

__all__ = ["Recorder", "pcap", "pcapng", "record"]

HEADER = "QBBBBHBBqiiII8siiII"
KINDS = {
    TransferType.ISOCHRONOUS: 0,
    TransferType.INTERRUPT: 1,
    TransferType.CONTROL: 2,
    TransferType.BULK: 3,
}
ERRNO = {
    UrbStatus.OK: 0,
    UrbStatus.STALL: -32,
    UrbStatus.CANCELLED: -2,
    UrbStatus.NO_DEVICE: -19,
    UrbStatus.INVALID: -22,
}


def record(
    event: str,
    urb: Urb,
    *,
    id: int,
    status: int,
    length: int,
    data: bytes = b"",
    packets: Sequence[int] = (),
    device: int = 1,
    bus: int = 1,
    time: float = 0.0,
    order: str = "<",
    link: int = 220,
    left_out: bool = False,
) -> bytes:
    """One record of usbmon."""
    is_first = event == "S"
    setup = urb.setup.serialize() if urb.setup is not None and is_first else bytes(8)
    has_data = is_first != urb.is_in
    flag = 0 if has_data and length else ord("<" if urb.is_in else ">")
    described, offset = b"", 0
    for size in packets if link == 220 else ():
        described += struct.pack(f"{order}iII4x", 0 if size else -18, offset, size)
        offset += size
    if packets:
        setup = struct.pack(f"{order}ii", 0, len(packets))
    body = described + data
    head = struct.pack(
        order + HEADER,
        *(id, ord(event), KINDS[urb.type], urb.endpoint, device, bus),
        *(0 if is_first and urb.setup is not None else 0x2D, flag),
        *(int(time), round(time % 1 * 1e6), status, length, len(body), setup),
        *(urb.interval, 0, 0x200 if urb.is_in else 0, len(packets)),
    )
    if left_out:
        head = head[:15] + b"Z" + head[16:]
    return head[: 64 if link == 220 else 48] + body


def pcapng(records: Sequence[bytes], *, order: str = "<", link: int = 220) -> bytes:
    """A file with one interface."""

    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        size = struct.pack(f"{order}I", len(body) + 12)
        return struct.pack(f"{order}I", kind) + size + body + size

    parts = [
        block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1)),
        block(1, struct.pack(f"{order}HHI", link, 0, 0)),
    ]
    for one in records:
        size = len(one)
        parts.append(block(6, struct.pack(f"{order}IIIII", 0, 0, 0, size, size) + one))
    parts.append(block(5, struct.pack(f"{order}III", 0, 0, 0)))  # statistics
    return b"".join(parts)


def pcap(
    records: Sequence[bytes], *, order: str = "<", link: int = 220, magic: int = 0
) -> bytes:
    """A file of the older form."""
    magic = magic or 0xA1B2C3D4
    head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 1 << 18, link)
    return head + b"".join(
        struct.pack(f"{order}IIII", 0, 0, len(one), len(one)) + one for one in records
    )


class Recorder:
    """What passes at an open device, as records.

    Args:
        device: it is used through this.
        clock: seconds.
    """

    def __init__(
        self, device: OpenDevice, clock: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.device = device
        self.records: list[bytes] = []
        self._clock = clock
        self._ids = itertools.count(1)

    def submit(self, urb: Urb, complete: Completion) -> None:
        """As the device does."""
        id, sent = next(self._ids), b"" if urb.is_in else bytes(urb.data)
        self.records.append(
            record(
                *("S", urb),
                id=id,
                status=-115,
                length=urb.length,
                data=sent,
                packets=urb.packets if not urb.is_in else (),
                time=self._clock(),
            )
        )

        def completed(result: UrbResult) -> None:
            self.records.append(
                record(
                    *("C", urb),
                    id=id,
                    status=ERRNO[result.status],
                    length=result.length,
                    data=bytes(result.data),
                    packets=[p.length for p in result.packets],
                    time=self._clock(),
                )
            )
            complete(result)

        self.device.submit(urb, completed)

    def control(self, setup: SetupPacket, data: bytes = b"") -> UrbResult:
        """A request, which is answered at once."""
        results: list[UrbResult] = []
        self.submit(Urb.control(next(self._ids), setup, data), results.append)
        return results[0]

    def run(self, kind: TransferType, endpoint: int, what: bytes | int) -> UrbResult:
        """A transfer, which is answered at once."""
        results: list[UrbResult] = []
        length = what if isinstance(what, int) else len(what)
        data = what if isinstance(what, bytes) else b""
        urb = Urb(next(self._ids), kind, endpoint, length, data)
        self.submit(urb, results.append)
        return results[0]
