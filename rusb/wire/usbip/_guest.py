"""The guest side of USB/IP: the client, as vhci_hcd is (usbip.md 11.1)."""

import dataclasses
import itertools

from rusb.errors import LocalProtocolError, RemoteProtocolError
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Request, TransferType
from rusb.usb.urb import IsoPacket, Urb, UrbResult, UrbStatus
from rusb.wire._stream import StreamSide
from rusb.wire.base import (
    DeviceFailed,
    DevicesListed,
    GuestSide,
    Ignored,
    Negotiated,
    RequestCompleted,
    UrbCompleted,
)

from . import _codec as codec
from ._codec import Code, Flag

__all__ = ["DEVICE", "UsbipGuestSide"]

DEVICE = 1
"""Id of the one device of a stream."""


class _Sent:
    """A transfer whose answer has not come.

    Attributes:
        urb: what was asked for.
        request: the number of a request that somebody waits for.
        is_wanted: somebody waits for the URB's completion.
        unlink: seqnum of the cancel.
    """

    __slots__ = ("is_wanted", "request", "unlink", "urb")

    def __init__(self, urb: Urb, request: int | None, *, is_wanted: bool) -> None:
        self.urb = urb
        self.request = request
        self.is_wanted = is_wanted
        self.unlink: int | None = None


class UsbipGuestSide(StreamSide, GuestSide):
    """One device on one stream; see :class:`~rusb.wire.base.GuestSide`.

    Args:
        busid: which device to import.
        devid: of a device that is imported already: the stream begins with transfers.
    """

    def __init__(self, busid: str = "1-1", *, devid: int = 0) -> None:
        super().__init__()
        self._busid = busid
        self._buffer = bytearray()
        self._is_connected = False
        self._devid = devid
        self._seqnums = itertools.count(1)
        self._sent: dict[int, _Sent] = {}  # by seqnum
        self._urbs: dict[int, int] = {}  # urb id to seqnum
        self._unlinks: dict[int, int] = {}  # seqnum of a cancel to that of its transfer

    # ---------------------------------------------------------------- Side ----

    def channel_opened(self, channel: int, name: str, *, now: float) -> None:
        """Ask for the device at once."""
        self._is_open = True
        if self._devid:
            self._is_connected = True
            self._emit(DevicesListed((_remote(DeviceInfo(0, 0, 0)),)))
        else:
            self._send(codec.import_request(self._busid))

    def channel_closed(self, channel: int) -> None:
        """The server took the device away: everything completes with NO_DEVICE."""
        self._is_open = False
        self._end(UrbStatus.NO_DEVICE)
        self._outputs.clear()
        if self._is_connected:
            self._is_connected = False
            self._emit(DeviceFailed(DEVICE, "disconnect", removed=True))
            self._emit(DevicesListed(()))

    def receive_data(self, channel: int, data: bytes, *, now: float) -> None:
        """Take a piece of the stream."""
        if not self._is_open:
            raise RemoteProtocolError("the USB/IP stream is closed")
        self._buffer += data
        try:
            while self._next():
                pass
        except RemoteProtocolError:
            self._is_open = False
            raise

    # ----------------------------------------------------------- GuestSide ----

    def open_device(self, device: int) -> None:
        """An imported device is open already."""
        if not self._is_connected or device != DEVICE:
            raise LocalProtocolError("no device is imported")

    def close_device(self, device: int) -> None:
        """What is open completes with CANCELLED; the device stays imported."""
        self._cancel_all()
        self._end(UrbStatus.CANCELLED)

    def reset_device(self, device: int, *, request: int | None = None) -> None:
        """Send what Windows and VirtualBox send; Linux's server answers it, too (7)."""
        self._cancel_all()
        self._ask(SetupPacket(0x23, Request.SET_FEATURE, 4), request)

    def set_configuration(
        self, device: int, value: int, *, request: int | None = None
    ) -> None:
        """Send the control request."""
        self._ask(SetupPacket.set_configuration(value), request)

    def claim_interface(
        self, device: int, interface: int, *, request: int | None = None
    ) -> None:
        """Nothing: the server has claimed all."""
        self._request_done(request, UrbStatus.OK)

    def release_interface(
        self, device: int, interface: int, *, request: int | None = None
    ) -> None:
        """Nothing."""
        self._request_done(request, UrbStatus.OK)

    def set_interface(
        self, device: int, interface: int, alternate: int, *, request: int | None = None
    ) -> None:
        """Send the control request."""
        self._ask(SetupPacket.set_interface(interface, alternate), request)

    def clear_halt(
        self, device: int, endpoint: int, *, request: int | None = None
    ) -> None:
        """Send the control request."""
        self._ask(SetupPacket.clear_halt(endpoint), request)

    def submit_urb(self, device: int, urb: Urb, *, now: float) -> None:
        """Start a transfer."""
        if not self._is_connected or not self._is_open:
            self._complete(urb.id, UrbResult(UrbStatus.NO_DEVICE))
        elif (
            urb.id in self._urbs
            or urb.length > codec.MAX_LENGTH
            or len(urb.packets) > codec.MAX_PACKETS
        ):
            self._complete(urb.id, UrbResult(UrbStatus.INVALID))
        else:
            self._urbs[urb.id] = self._submit(_Sent(urb, None, is_wanted=True))

    def cancel_urb(self, device: int, urb_id: int) -> None:
        """Ask the server to stop it; the answer completes it (6)."""
        seqnum = self._urbs.get(urb_id)
        if seqnum is not None:
            self._unlink(seqnum)

    # ------------------------------------------------------------ sending ----

    def _ask(self, setup: SetupPacket, request: int | None) -> None:
        if self._is_connected and self._is_open:
            self._submit(_Sent(Urb.control(0, setup), request, is_wanted=False))
        else:
            self._request_done(request, UrbStatus.NO_DEVICE)

    def _submit(self, sent: _Sent) -> int:
        urb = sent.urb
        seqnum = next(self._seqnums) & 0xFFFFFFFF
        self._sent[seqnum] = sent
        flags = Flag.DIR_IN if urb.is_in else 0
        start, interval = urb.start_frame, urb.interval
        if urb.type is TransferType.ISOCHRONOUS and start is None:
            flags |= Flag.ISO_ASAP
        if urb.type is TransferType.INTERRUPT:
            interval = interval or 1  # some guess the type by it (11.1)
        setup = urb.setup.serialize() if urb.setup else b""
        head = codec.CMD_SUBMIT.pack(
            *(Code.CMD_SUBMIT, seqnum, self._devid, urb.endpoint >> 7),
            *(urb.endpoint & 0x0F, flags, urb.length, (start or 0) & 0x7FFFFFFF),
            *(len(urb.packets), interval, setup),
        )
        data = b"" if urb.is_in else urb.data
        self._send(b"".join((head, data, codec.pack_iso(urb.packets))))
        return seqnum

    def _unlink(self, seqnum: int) -> None:
        sent = self._sent[seqnum]
        if sent.unlink is None:
            sent.unlink = unlink = next(self._seqnums) & 0xFFFFFFFF
            self._unlinks[unlink] = seqnum
            self._send(
                codec.CMD_UNLINK.pack(
                    *(Code.CMD_UNLINK, unlink, self._devid, 0, 0, seqnum)
                )
            )

    def _cancel_all(self) -> None:
        """Cancel everything and wait for no answer."""
        for urb_id, seqnum in list(self._urbs.items()):
            self._unlink(seqnum)
            sent = self._sent[seqnum]
            sent.is_wanted = False
            sent.urb = dataclasses.replace(sent.urb, data=b"")  # it may take long
            del self._urbs[urb_id]
            self._complete(urb_id, UrbResult(UrbStatus.CANCELLED))

    def _end(self, status: UrbStatus) -> None:
        """Complete whatever somebody waits for."""
        for sent in self._sent.values():
            if sent.is_wanted:
                self._complete(sent.urb.id, UrbResult(status))
            self._request_done(sent.request, status)
            sent.is_wanted, sent.request = False, None
        self._urbs.clear()
        if not self._is_open:
            self._sent.clear()
            self._unlinks.clear()

    # --------------------------------------------------- from the server ----

    def _next(self) -> bool:
        """Take the next message; False: it is not complete."""
        buffer = self._buffer
        if not self._is_connected:
            return self._next_reply()
        if len(buffer) < codec.HEADER:
            return False
        command = int.from_bytes(buffer[:4], "big")
        if command == Code.RET_UNLINK:
            seqnum = codec.RET_UNLINK.unpack_from(buffer)[1]
            del buffer[: codec.HEADER]
            self._unlinked(seqnum)
            return True
        if command != Code.RET_SUBMIT:
            raise RemoteProtocolError(f"unknown USB/IP command {command:#x}")
        return self._next_result()

    def _next_reply(self) -> bool:
        """The reply to the import."""
        size = codec.OPERATION.size
        if len(self._buffer) < size:
            return False
        _, status = codec.check_operation(self._buffer, Code.REP_IMPORT)
        if status:
            del self._buffer[:size]
            why = f"device {self._busid}: {codec.import_status(status)}"
            self._emit(Negotiated(codec.VERSION, error=why))
            return False
        if len(self._buffer) < size + codec.RECORD:
            return False
        record = codec.Record.parse(bytes(self._buffer[size : size + codec.RECORD]))
        del self._buffer[: size + codec.RECORD]
        if record.busid != self._busid:
            raise RemoteProtocolError(f"{record.busid!r} instead of {self._busid!r}")
        self._is_connected = True
        self._devid = (record.bus << 16 | record.address & 0xFFFF) & 0xFFFFFFFF
        self._emit(Negotiated(codec.VERSION))
        self._emit(DevicesListed((_remote(record.info),)))
        return True

    def _next_result(self) -> bool:
        buffer = self._buffer
        (_, seqnum, _, _, _, status, length, start, count, _) = (
            codec.RET_SUBMIT.unpack_from(buffer)
        )
        sent = self._sent.get(seqnum)
        if sent is None:
            raise RemoteProtocolError(f"an answer to {seqnum:#x}, which was not asked")
        urb = sent.urb
        if not 0 <= length <= urb.length:
            raise RemoteProtocolError(f"{length} bytes, {urb.length} were asked for")
        end = codec.HEADER + (length if urb.is_in else 0)
        packets = len(urb.packets)
        if packets and count != packets:  # elsewhere it means nothing (4)
            raise RemoteProtocolError(f"{count} packets, {packets} were asked for")
        if len(buffer) < end + 16 * packets:
            return False
        data = bytes(buffer[codec.HEADER : end])
        iso = codec.unpack_iso(bytes(buffer[end : end + 16 * packets]))
        del buffer[: end + 16 * packets]
        moved = tuple(IsoPacket(n, codec.status_of(code)) for _, _, n, code in iso)
        if packets and sum(packet.length for packet in moved) != length:
            raise RemoteProtocolError("packets and data of an answer do not agree")
        for packet, wanted in zip(moved, urb.packets, strict=True):
            if packet.length > wanted:
                raise RemoteProtocolError(
                    f"a packet of {packet.length} bytes, {wanted} were asked for"
                )
        result = UrbResult(codec.status_of(status), data, length, moved, start)
        self._finish(seqnum, sent, result)
        return True

    def _unlinked(self, seqnum: int) -> None:
        target = self._unlinks.get(seqnum)
        if target is None:
            self._emit(Ignored(f"a cancel {seqnum:#x} of nothing that is in flight"))
        else:
            cancelled = UrbResult(UrbStatus.CANCELLED)
            self._finish(target, self._sent[target], cancelled)

    def _finish(self, seqnum: int, sent: _Sent, result: UrbResult) -> None:
        del self._sent[seqnum]
        if sent.unlink is not None:  # perhaps nothing more is said of it
            del self._unlinks[sent.unlink]
        if sent.is_wanted:
            del self._urbs[sent.urb.id]
            self._complete(sent.urb.id, result)
        self._request_done(sent.request, result.status)

    # ---------------------------------------------------------------- small ----

    def _complete(self, urb_id: int, result: UrbResult) -> None:
        self._emit(UrbCompleted(DEVICE, urb_id, result))

    def _request_done(self, request: int | None, status: UrbStatus) -> None:
        if request is not None:
            if not self._is_connected or not self._is_open:
                status = UrbStatus.NO_DEVICE
            self._emit(RequestCompleted(DEVICE, request, status))


def _remote(info: DeviceInfo) -> DeviceInfo:
    """The device under the number that it has here."""
    return dataclasses.replace(info, id=DEVICE, remote=True)
