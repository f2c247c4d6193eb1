"""The guest side of usbredir: what QEMU's usb-redir does (usbredir.md 14)."""

import itertools
from collections import deque

from rusb.errors import LocalProtocolError, RemoteProtocolError
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Request, Speed, TransferType
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
from ._codec import Cap, Packet, Splitter, Type

__all__ = ["DEVICE", "UsbredirGuestSide"]

VERSION = "rusb usb-guest"

DEVICE = 1
"""Id of the one device of a stream."""

MAX_BUFFERED, MAX_BYTES_BUFFERED = 1024, 4 << 20
"""Packets of one polled endpoint that wait to be read, and their bytes; QEMU keeps as
many packets. Further ones are dropped."""

ISO_PACKETS, ISO_URBS = 8, 4
"""Size of the isochronous streams that are started."""


class _Stream:
    """An endpoint that the host polls for us, and who waits for its data."""

    def __init__(self, kind: TransferType) -> None:
        self.kind = kind
        self.packets: deque[tuple[int, bytes]] = deque()
        self.waiting: deque[Urb] = deque()
        self._bytes = 0

    def keep(self, status: int, data: bytes) -> bool:
        """Keep a packet until it is read, if there is room for it."""
        if (
            len(self.packets) >= MAX_BUFFERED
            or self._bytes + len(data) > MAX_BYTES_BUFFERED
        ):
            return False
        self._bytes += len(data)
        self.packets.append((status, data))
        return True

    def take(self) -> tuple[int, bytes]:
        """Take out the oldest packet."""
        status, data = self.packets.popleft()
        self._bytes -= len(data)
        return status, data


class UsbredirGuestSide(StreamSide, GuestSide):
    """One device on one stream; see :class:`~rusb.wire.base.GuestSide`.

    Attributes:
        types: transfer type by endpoint address, as the host described it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.types: dict[int, TransferType] = {}
        self._splitter = Splitter(from_host=True, caps=codec.HOST_CAPS)
        self._is_connected = False
        self._urbs: dict[int, Urb] = {}  # by urb id
        self._ids = itertools.count(1)
        self._wire_ids: dict[int, int] = {}  # wire id to urb id
        self._sent: dict[int, int] = {}  # urb id to wire id
        self._cancelled: set[int] = set()  # urb ids whose answer is waited for
        self._streams: dict[int, _Stream] = {}
        self._requests: dict[int, int] = {}  # wire id to number

    # ---------------------------------------------------------------- Side ----

    def channel_opened(self, channel: int, name: str, *, now: float) -> None:
        """Say hello at once."""
        self._is_open = True
        self._send(self._splitter.hello(VERSION))

    def channel_closed(self, channel: int) -> None:
        """Everything in flight completes with NO_DEVICE."""
        self._is_open = False
        self._gone()
        self._outputs.clear()

    def receive_data(self, channel: int, data: bytes, *, now: float) -> None:
        """Take a piece of the stream; a bad packet is skipped (1.2)."""
        if not self._is_open:
            raise RemoteProtocolError("the usbredir stream is closed")
        self._splitter.feed(data)
        while (packet := self._splitter.next()) is not None:
            if isinstance(packet, str):
                self._emit(Ignored(packet))
            else:
                self._take(packet)

    # ----------------------------------------------------------- GuestSide ----

    def open_device(self, device: int) -> None:
        """A connected device is open already."""
        if not self._is_connected or device != DEVICE:
            raise LocalProtocolError("no device is connected")

    def close_device(self, device: int) -> None:
        """What is open completes with CANCELLED; the device stays connected."""
        self._cancel_all(device)
        self._stop_streams()
        self._end_requests(UrbStatus.CANCELLED)

    def reset_device(self, device: int, *, request: int | None = None) -> None:
        """Send reset, which has no answer; the host stops every stream."""
        self._cancel_all(device)
        self._streams.clear()
        self._packet(Type.RESET)
        self._request_done(request)

    def set_configuration(
        self, device: int, value: int, *, request: int | None = None
    ) -> None:
        """Send set_configuration."""
        self._stop_streams()
        self._packet(Type.SET_CONFIGURATION, self._request_id(request), value)

    def claim_interface(
        self, device: int, interface: int, *, request: int | None = None
    ) -> None:
        """Nothing: usbredir claims with the configuration."""
        self._request_done(request)

    def release_interface(
        self, device: int, interface: int, *, request: int | None = None
    ) -> None:
        """Nothing."""
        self._request_done(request)

    def set_interface(
        self, device: int, interface: int, alternate: int, *, request: int | None = None
    ) -> None:
        """Send set_alt_setting."""
        fields = interface, alternate
        self._packet(Type.SET_ALT_SETTING, self._request_id(request), *fields)

    def clear_halt(
        self, device: int, endpoint: int, *, request: int | None = None
    ) -> None:
        """Send the control request."""
        setup = SetupPacket.clear_halt(endpoint)
        self._control(self._request_id(request), setup, b"")

    def submit_urb(self, device: int, urb: Urb, *, now: float) -> None:
        """Start a transfer."""
        if not self._is_connected or not self._is_open:
            self._complete(urb.id, UrbResult(UrbStatus.NO_DEVICE))
            return
        if urb.id in self._urbs or urb.length > codec.MAX_LENGTH - 1024:
            self._complete(urb.id, UrbResult(UrbStatus.INVALID))
            return
        self._urbs[urb.id] = urb
        if urb.setup is not None:
            self._submit_control(urb, urb.setup)
        elif self.types.get(urb.endpoint) is not urb.type:
            self._finish(urb.id, UrbResult(UrbStatus.INVALID))
        elif urb.type is TransferType.BULK:
            data = b"" if urb.is_in else urb.data
            self._send(
                self._splitter.bulk(
                    self._wire_id(urb), urb.endpoint, 0, urb.length, data
                )
            )
        elif urb.is_in:
            self._stream(urb).waiting.append(urb)
            self._serve(urb.endpoint)
        elif urb.type is TransferType.INTERRUPT:
            head = (urb.endpoint, 0, urb.length)
            self._packet(Type.INTERRUPT, self._wire_id(urb), *head, data=urb.data)
        else:
            self._iso_out(urb)

    def cancel_urb(self, device: int, urb_id: int) -> None:
        """The URB completes with the host's answer, which has what was moved (12).

        What only waits for a polled endpoint completes at once.
        """
        urb = self._urbs.get(urb_id)
        if urb is None or urb_id in self._cancelled:
            return
        wire_id = self._sent.get(urb_id)
        if wire_id is not None:
            self._cancelled.add(urb_id)
            self._packet(Type.CANCEL, wire_id)
            return
        self._streams[urb.endpoint].waiting.remove(urb)
        self._finish(urb_id, UrbResult(UrbStatus.CANCELLED))

    # ------------------------------------------------------------- requests ----

    def _request_id(self, request: int | None) -> int:
        """Return the wire id of a request, whose answer completes it."""
        wire_id = next(self._ids)
        if request is None:
            pass
        elif self._is_connected:
            self._requests[wire_id] = request
        else:
            self._request_done(request)
        return wire_id

    def _request_done(self, request: int | None, status: int = codec.SUCCESS) -> None:
        if request is not None:
            found = _status(status) if self._is_connected else UrbStatus.NO_DEVICE
            self._emit(RequestCompleted(DEVICE, request, found))

    def _end_requests(self, status: UrbStatus) -> None:
        for request in self._requests.values():
            self._emit(RequestCompleted(DEVICE, request, status))
        self._requests.clear()

    # ------------------------------------------------------------ transfers ----

    def _wire_id(self, urb: Urb) -> int:
        wire_id = next(self._ids)
        self._wire_ids[wire_id] = urb.id
        self._sent[urb.id] = wire_id
        return wire_id

    def _submit_control(self, urb: Urb, setup: SetupPacket) -> None:
        """Standard requests that have packets of their own use them (7)."""
        match setup.request_type, setup.request:
            case 0x00, Request.SET_ADDRESS:
                self._finish(urb.id, UrbResult(UrbStatus.OK))
            case 0x00, Request.SET_CONFIGURATION:
                self._stop_streams()
                value = setup.value & 0xFF
                self._packet(Type.SET_CONFIGURATION, self._wire_id(urb), value)
            case 0x80, Request.GET_CONFIGURATION:
                self._packet(Type.GET_CONFIGURATION, self._wire_id(urb))
            case 0x01, Request.SET_INTERFACE:
                fields = (setup.index & 0xFF, setup.value & 0xFF)
                self._packet(Type.SET_ALT_SETTING, self._wire_id(urb), *fields)
            case 0x81, Request.GET_INTERFACE:
                number = setup.index & 0xFF
                self._packet(Type.GET_ALT_SETTING, self._wire_id(urb), number)
            case _:
                self._control(self._wire_id(urb), setup, urb.data)

    def _control(
        self, wire_id: int, setup: SetupPacket, data: bytes | memoryview
    ) -> None:
        self._packet(
            Type.CONTROL,
            wire_id,
            setup.request_type & 0x80,
            setup.request,
            setup.request_type,
            0,
            setup.value,
            setup.index,
            setup.length if setup.request_type & 0x80 else len(data),
            data=data,
        )

    def _stream(self, urb: Urb) -> _Stream:
        """Return the stream of a polled endpoint, started if need be."""
        stream = self._streams.get(urb.endpoint)
        if stream is None:
            stream = self._streams[urb.endpoint] = _Stream(urb.type)
            if urb.type is TransferType.INTERRUPT:
                self._packet(Type.START_INTERRUPT, 0, urb.endpoint)
            else:
                fields = (urb.endpoint, ISO_PACKETS, ISO_URBS)
                self._packet(Type.START_ISO, 0, *fields)
        return stream

    def _iso_out(self, urb: Urb) -> None:
        if urb.endpoint not in self._streams:
            self._streams[urb.endpoint] = _Stream(urb.type)
            fields = (urb.endpoint, ISO_PACKETS, ISO_URBS)
            self._packet(Type.START_ISO, 0, *fields)
        offset = 0
        for size in urb.packets:
            data = urb.data[offset : offset + size]
            offset += size
            self._packet(Type.ISO, 0, urb.endpoint, 0, len(data), data=data)
        done = tuple(IsoPacket(size) for size in urb.packets)
        self._finish(urb.id, UrbResult(UrbStatus.OK, b"", urb.length, done))

    def _serve(self, endpoint: int) -> None:
        """Complete who waits with what is there."""
        stream = self._streams.get(endpoint)
        while stream is not None and stream.waiting and stream.packets:
            urb = stream.waiting[0]
            if stream.kind is TransferType.ISOCHRONOUS:
                if len(stream.packets) < len(urb.packets):
                    return
                result = self._iso_result(stream, urb)
            else:
                status, data = stream.take()
                result = _in_result(status, data, urb.length)
            stream.waiting.popleft()
            self._finish(urb.id, result)

    @staticmethod
    def _iso_result(stream: _Stream, urb: Urb) -> UrbResult:
        parts, pieces = [], []
        for wanted in urb.packets:
            status, data = stream.take()
            data = data[:wanted]
            parts.append(IsoPacket(len(data), _status(status)))
            pieces.append(data)
        joined = b"".join(pieces)
        return UrbResult(UrbStatus.OK, joined, len(joined), tuple(parts))

    def _stop_streams(self) -> None:
        for endpoint, stream in self._streams.items():
            is_iso = stream.kind is TransferType.ISOCHRONOUS
            self._packet(Type.STOP_ISO if is_iso else Type.STOP_INTERRUPT, 0, endpoint)
            for urb in stream.waiting:
                self._finish(urb.id, UrbResult(UrbStatus.CANCELLED))
        self._streams.clear()

    # --------------------------------------------------------- from the host ----

    def _take(self, packet: Packet) -> None:
        fields = packet.fields
        match packet.type:
            case Type.BULK | Type.CONTROL:
                self._answered(packet)
            case Type.INTERRUPT if not fields[0] & 0x80:
                self._answered(packet)
            case Type.INTERRUPT | Type.ISO:
                stream = self._streams.get(fields[0])
                if stream is not None and stream.keep(fields[1], bytes(packet.data)):
                    self._serve(fields[0])
            case Type.CONFIGURATION_STATUS:
                self._status_answer(packet.id, fields[0], fields[1])
            case Type.ALT_SETTING_STATUS:
                self._status_answer(packet.id, fields[0], fields[2])
            case Type.INTERRUPT_STATUS | Type.ISO_STATUS if fields[0]:
                self._stream_failed(fields[1], fields[0])
            case Type.EP_INFO:
                self._endpoints(packet)
            case Type.DEVICE_CONNECT:
                self._connected(fields)
            case Type.DEVICE_DISCONNECT:
                if self._splitter.caps & Cap.DISCONNECT_ACK:
                    self._packet(Type.DISCONNECT_ACK)
                self._gone()
                self._emit(DevicesListed(()))
            case Type.HELLO:
                self._emit(Negotiated(1, self._splitter.caps))

    def _answered(self, packet: Packet) -> None:
        urb_id = self._wire_ids.get(packet.id)
        urb = self._urbs.get(urb_id) if urb_id is not None else None
        fields = packet.fields
        if urb is None:  # cancelled, or our own
            if packet.type == Type.CONTROL:
                self._request_done(self._requests.pop(packet.id, None), fields[3])
            return
        if packet.type == Type.CONTROL:
            status, length = fields[3], fields[6]
        elif packet.type == Type.BULK:
            status, length = fields[1], codec.bulk_length(fields)
        else:
            status, length = fields[1], fields[2]
        if urb.is_in:
            result = _in_result(status, packet.data, urb.length)
        else:
            result = UrbResult(_status(status), b"", min(length, urb.length))
        self._finish(urb.id, result)

    def _status_answer(self, wire_id: int, status: int, value: int) -> None:
        urb_id = self._wire_ids.get(wire_id)
        urb = self._urbs.get(urb_id) if urb_id is not None else None
        if urb is None:
            kind = codec.STALL if status else codec.SUCCESS
            self._request_done(self._requests.pop(wire_id, None), kind)
            return
        if status:  # a host controller would see the request stall
            self._finish(urb.id, UrbResult(UrbStatus.STALL))
        elif urb.is_in:
            data = bytes((value,))[: urb.length]
            self._finish(urb.id, UrbResult(UrbStatus.OK, data, len(data)))
        else:
            self._finish(urb.id, UrbResult(UrbStatus.OK))

    def _stream_failed(self, endpoint: int, status: int) -> None:
        """Whoever waits learns it; only a stall stops the stream (10)."""
        stream = self._streams.get(endpoint)
        if stream is None:
            return
        if status == codec.STALL:
            del self._streams[endpoint]
        waiting, stream.waiting = stream.waiting, deque()
        for urb in waiting:
            self._finish(urb.id, UrbResult(_status(status)))

    def _endpoints(self, packet: Packet) -> None:
        raw = packet.fields[0]
        assert isinstance(raw, bytes)
        self.types = {
            (index & 0x0F) | (0x80 if index & 0x10 else 0): TransferType(code)
            for index, code in enumerate(raw)
            if code <= 3 and index & 0x0F
        }

    def _connected(self, fields: tuple[int, ...]) -> None:
        if self._is_connected:
            self._emit(Ignored("device_connect while connected"))
            return
        self._is_connected = True
        info = DeviceInfo(
            DEVICE,
            fields[4],
            fields[5],
            bcd_device=fields[6] if len(fields) > 6 else 0,
            device_class=fields[1],
            device_subclass=fields[2],
            device_protocol=fields[3],
            speed=codec.SPEEDS.get(fields[0], Speed.FULL),
            remote=True,
        )
        self._emit(DevicesListed((info,)))

    def _gone(self) -> None:
        was_connected, self._is_connected = self._is_connected, False
        self._streams.clear()
        for urb_id in list(self._urbs):
            self._finish(urb_id, UrbResult(UrbStatus.NO_DEVICE))
        self._end_requests(UrbStatus.NO_DEVICE)
        if was_connected:
            self._emit(DeviceFailed(DEVICE, "disconnect", removed=True))

    # ---------------------------------------------------------------- small ----

    def _cancel_all(self, device: int) -> None:
        """Cancel everything and wait for no answer."""
        for urb_id in list(self._urbs):
            self.cancel_urb(device, urb_id)
            if urb_id in self._urbs:
                self._finish(urb_id, UrbResult(UrbStatus.CANCELLED))

    def _finish(self, urb_id: int, result: UrbResult) -> None:
        del self._urbs[urb_id]
        self._cancelled.discard(urb_id)
        wire_id = self._sent.pop(urb_id, None)
        if wire_id is not None:
            del self._wire_ids[wire_id]
        self._complete(urb_id, result)

    def _complete(self, urb_id: int, result: UrbResult) -> None:
        self._emit(UrbCompleted(DEVICE, urb_id, result))

    def _packet(
        self,
        kind: int,
        id: int = 0,
        *fields: int | bytes,
        data: bytes | memoryview = b"",
    ) -> None:
        self._send(self._splitter.serialize(kind, id, *fields, data=data))


def _status(code: int) -> UrbStatus:
    return codec.STATUSES.get(code, UrbStatus.IO_ERROR)


def _in_result(code: int, data: bytes | memoryview, wanted: int) -> UrbResult:
    """More than was asked for is babble."""
    status = _status(code)
    if len(data) > wanted:
        status, data = UrbStatus.OVERFLOW, data[:wanted]
    return UrbResult(status, data, len(data))
