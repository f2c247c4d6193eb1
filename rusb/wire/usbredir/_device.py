"""The device side of usbredir: the usb-host, towards QEMU (usbredir.md 6 to 13)."""

import itertools
from collections import deque
from collections.abc import Mapping, Sequence

from rusb.errors import LocalProtocolError, RemoteProtocolError
from rusb.usb.descriptors import DeviceDescriptors, EndpointDescriptor
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.state import DeviceState
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    CancelRequested,
    CloseRequested,
    DeviceSide,
    Event,
    Ignored,
    Negotiated,
    Output,
    ResetRequested,
    Send,
    UrbSubmitted,
)

from . import _codec as codec
from ._codec import Cap, Packet, Splitter, Type, endpoint_index

__all__ = ["UsbredirDeviceSide"]

VERSION = "rusb usb-host"

INTERRUPT_URBS = 5
"""Transfers kept in flight per interrupt IN stream (9.2)."""

MAX_FAILURES = 16
"""Transfers of an interrupt IN stream that may fail in a row. One that fails always,
perhaps at once, would be asked for without end (9.2, rule 4)."""

MAX_PACKETS_PER_URB, MAX_ISO_URBS = 32, 16
"""Bounds of start_iso_stream (10)."""

MAX_PENDING = 1024
"""Requests of the guest in flight; QEMU queues some dozens (18). Further ones wait."""

MAX_BYTES_PENDING = 32 << 20
"""What they carry and ask for: thirty-two of the largest that QEMU sends (1 MiB). With
what is queued for a guest that does not read it is what a guest can make us keep."""

_POLLED = (TransferType.INTERRUPT, TransferType.ISOCHRONOUS)
_ENDS_STREAM = (UrbStatus.STALL, UrbStatus.NO_DEVICE, UrbStatus.CANCELLED)
_CANCELLED = UrbResult(UrbStatus.CANCELLED)


class _Request:
    """A request of the guest that waits for its answer."""

    __slots__ = ("length", "packet", "result")

    def __init__(self, packet: Packet, length: int) -> None:
        self.packet = packet
        self.length = length
        self.result: UrbResult | None = None


class _Stream:
    """An endpoint that is polled (interrupt IN) or streams (isochronous)."""

    def __init__(self, endpoint: EndpointDescriptor, urbs: int, packets: int) -> None:
        self.endpoint = endpoint
        self.urbs = urbs
        self.packets = packets
        self.next_id = 0
        self.failures = 0  # in a row
        self.in_flight: set[int] = set()
        self.queue: deque[bytes] = deque()  # isochronous OUT
        self.is_running = False  # isochronous OUT: the jitter buffer is filled


class UsbredirDeviceSide(DeviceSide):
    """One device on one stream; see :class:`~rusb.wire.base.DeviceSide`.

    Standard requests arrive as control URBs; ``CloseRequested`` means that the guest
    refused the device. URB ids are our own, and no two streams have the same: a device
    may still have transfers of a stream that has ended.

    What the guest asks is taken up only while there is room: the rest of what was
    received waits while :meth:`is_full`; ``receive_data`` of nothing goes on with it.

    Args:
        configuration: value of the one that is selected already when the device is
            announced.
    """

    _ids = itertools.count(1)

    def __init__(self, configuration: int = 0) -> None:
        self._configuration = configuration
        self._is_held = False
        self._is_congested = False
        self._was_full = False
        self._bytes = 0  # of requests in flight
        self._splitter = Splitter(from_host=False, caps=codec.HOST_CAPS)
        self._events: list[Event] = []
        self._outputs: list[Output] = []
        self._is_open = False
        self._info: DeviceInfo | None = None
        self._state: DeviceState | None = None
        self._is_connected = False  # device_connect was sent
        self._waits_for_ack = False
        self._requests: dict[int, _Request] = {}  # by urb id
        self._by_guest: dict[int, int] = {}  # the guest's id to urb id
        self._cancelled: dict[int, int] = {}  # likewise, of what it cancelled
        self._order: dict[int, deque[int]] = {}  # bulk: endpoint to urb ids
        self._streams: dict[int, _Stream] = {}  # by endpoint address
        self._stream_urbs: dict[int, _Stream] = {}  # by urb id
        self._was_reset = False  # nothing was asked since the last reset

    # ---------------------------------------------------------------- Side ----

    def channel_opened(self, channel: int, name: str, *, now: float) -> None:
        """Say hello at once."""
        self._is_open = True
        self._send(self._splitter.hello(VERSION))

    def channel_closed(self, channel: int) -> None:
        """Cancel everything."""
        self._is_open = False
        for urb_id in (*self._requests, *self._stream_urbs):
            self._events.append(CancelRequested(self._device_id, urb_id))
        self._forget()
        self._outputs.clear()

    def receive_data(self, channel: int, data: bytes, *, now: float) -> None:
        """Take a piece of the stream; a bad packet is skipped (1.2)."""
        if not self._is_open:
            raise RemoteProtocolError("the usbredir stream is closed")
        self._splitter.feed(data)
        while not self.is_full() and (packet := self._splitter.next()) is not None:
            if isinstance(packet, str):
                self._events.append(Ignored(packet))
            else:
                self._take(packet)

    def next_deadline(self) -> float | None:
        """It has no clock."""
        return None

    def handle_deadline(self, now: float) -> None:
        """It has no clock."""

    def events(self) -> list[Event]:
        """Take the events."""
        taken, self._events = self._events, []
        return taken

    def outputs(self) -> list[Output]:
        """Take the outputs."""
        taken, self._outputs = self._outputs, []
        return taken

    # ------------------------------------------------------------ pressure ----

    def is_full(self) -> bool:
        """Must the guest wait now? Once too much is in flight, until half is done."""
        share = 2 if self._was_full else 1
        self._was_full = (
            len(self._requests) * share >= MAX_PENDING
            or self._bytes * share >= MAX_BYTES_PENDING
        )
        return self._was_full or self._is_held or self._is_congested

    def hold(self, is_held: bool) -> None:
        """The way to the device is too slow, or free again."""
        self._is_held = is_held

    def congest(self, is_congested: bool) -> None:
        """The guest does not take what it is sent, or does again.

        Isochronous input is live and is dropped meanwhile (10); interrupt endpoints
        are not polled.
        """
        self._is_congested = is_congested
        for stream in () if is_congested else list(self._streams.values()):
            if stream.endpoint.address & 0x80:
                self._fill(stream)

    # ---------------------------------------------------------- DeviceSide ----

    def announce(
        self,
        devices: Sequence[DeviceInfo],
        descriptors: Mapping[int, DeviceDescriptors] | None = None,
    ) -> None:
        """Connect the one device, or disconnect it.

        Raises:
            LocalProtocolError: several devices, or one without descriptors.
        """
        if len(devices) > 1:
            raise LocalProtocolError("a usbredir stream carries one device")
        info = devices[0] if devices else None
        if self._info is not None and info != self._info:
            self._disconnect()
        if info is not None and self._info is None:
            found = (descriptors or {}).get(info.id)
            if found is None:
                raise LocalProtocolError("usbredir needs the device's descriptors")
            self._info, self._state = info, DeviceState(found)
            if self._configuration:
                self._state.select_configuration(self._configuration)
            self._connect()

    def open_failed(self, device: int) -> None:
        """Nothing is opened on this wire."""

    def device_lost(self, device: int) -> None:
        """As announcing nothing."""
        if self._info is not None:
            self._disconnect()

    def complete_urb(self, device: int, urb_id: int, result: UrbResult) -> None:
        """Answer a request, or pass on what a stream brought."""
        stream = self._stream_urbs.pop(urb_id, None)
        if stream is not None:
            stream.in_flight.discard(urb_id)
            self._stream_result(stream, result)
            return
        request = self._requests.get(urb_id)
        if request is None:
            return  # cancelled
        request.result = result
        packet = request.packet
        if self._cancelled.get(packet.id) == urb_id:
            self._answer(urb_id, request)
            return
        order = self._order.get(packet.fields[0]) if packet.type == Type.BULK else None
        if order is None:
            self._answer(urb_id, request)
            return
        # Answers of one bulk endpoint keep the order of the requests (9.1).
        while order and (first := self._requests[order[0]]).result is not None:
            self._answer(order[0], first)

    # ------------------------------------------------------------- connection ----

    @property
    def _device_id(self) -> int:
        return self._info.id if self._info else 0

    def _connect(self) -> None:
        """Announce the device as soon as both hellos are there (6.1)."""
        info, state = self._info, self._state
        if not self._splitter.has_hello or self._waits_for_ack or info is None:
            return
        assert state is not None
        device = state.descriptors.device
        self._send_infos()
        fields = [
            codec.SPEED_CODES.get(info.speed, 255),
            device.device_class,
            device.device_subclass,
            device.device_protocol,
            device.vendor_id,
            device.product_id,
        ]
        if self._splitter.caps & Cap.DEVICE_VERSION:
            fields.append(device.bcd_device)
        self._send_packet(Type.DEVICE_CONNECT, 0, *fields)
        self._is_connected = True

    def _disconnect(self) -> None:
        """Answer what is pending with cancelled, then disconnect (13)."""
        self._cancel_everything()
        if self._is_connected:
            self._send_packet(Type.DEVICE_DISCONNECT)
            self._waits_for_ack = bool(self._splitter.caps & Cap.DISCONNECT_ACK)
        self._forget()

    def _forget(self) -> None:
        self._info = self._state = None
        self._is_connected = False
        self._requests.clear()
        self._bytes = 0
        self._by_guest.clear()
        self._cancelled.clear()
        self._order.clear()
        self._streams.clear()
        self._stream_urbs.clear()

    def _send_infos(self) -> None:
        """interface_info and ep_info of what is selected now (6.2)."""
        state = self._state
        assert state is not None
        chosen = state.interfaces[: codec.ENDPOINTS]
        columns = (
            bytes(i.number for i in chosen),
            bytes(i.interface_class for i in chosen),
            bytes(i.interface_subclass for i in chosen),
            bytes(i.interface_protocol for i in chosen),
        )
        padded = [column.ljust(codec.ENDPOINTS, b"\0") for column in columns]
        self._send_packet(Type.INTERFACE_INFO, 0, len(chosen), *padded)
        types = bytearray([codec.NO_ENDPOINT] * codec.ENDPOINTS)
        intervals, interfaces = bytearray(codec.ENDPOINTS), bytearray(codec.ENDPOINTS)
        sizes = [0] * codec.ENDPOINTS
        types[0] = types[16] = 0
        sizes[0] = sizes[16] = self._packet_size0()
        for interface in chosen:
            for endpoint in interface.endpoints:
                index = endpoint_index(endpoint.address)
                types[index] = codec.TRANSFER_CODES[endpoint.transfer_type]
                # 6.2: QEMU refuses a device with a polled endpoint whose interval is 0
                is_polled = endpoint.transfer_type in _POLLED
                intervals[index] = endpoint.interval or int(is_polled)
                interfaces[index] = interface.number
                sizes[index] = self._packet_size(endpoint)
        fields = [bytes(types), bytes(intervals), bytes(interfaces)]
        if self._splitter.caps & Cap.MAX_PACKET_SIZE:
            fields.append(b"".join(s.to_bytes(2, "little") for s in sizes))
        self._send_packet(Type.EP_INFO, 0, *fields)

    def _packet_size0(self) -> int:
        assert self._state is not None
        assert self._info is not None
        size = self._state.descriptors.device.max_packet_size0
        return 512 if self._info.speed is Speed.SUPER else size

    def _packet_size(self, endpoint: EndpointDescriptor) -> int:
        assert self._info is not None
        size = endpoint.packet_size
        if (
            endpoint.transfer_type is TransferType.ISOCHRONOUS
            and self._info.speed is Speed.HIGH
        ):
            size *= 1 + (endpoint.max_packet_size >> 11 & 3)
        return size

    # ----------------------------------------------------- from the guest ----

    def _take(self, packet: Packet) -> None:
        if packet.type == Type.HELLO:
            self._events.append(Negotiated(1, self._splitter.caps))
            self._connect()
            return
        if packet.type == Type.DISCONNECT_ACK:
            self._waits_for_ack = False
            self._connect()
            return
        if packet.type == Type.FILTER_FILTER:
            return  # the guest's rules; it enforces them itself
        if not self._is_connected:
            self._events.append(Ignored(f"packet of type {packet.type}, no device"))
            return
        self._take_for_device(packet)

    def _take_for_device(self, packet: Packet) -> None:
        match packet.type:
            case Type.BULK | Type.CONTROL | Type.INTERRUPT:
                self._was_reset = False
                self._data_request(packet)
            case Type.SET_CONFIGURATION:
                self._set_configuration(packet)
            case Type.SET_ALT_SETTING:
                self._set_alt_setting(packet)
            case Type.GET_CONFIGURATION:
                self._status(packet.id, codec.SUCCESS)
            case Type.GET_ALT_SETTING:
                self._alt_status(packet.id, packet.fields[0], codec.SUCCESS)
            case Type.CANCEL:
                self._cancel(packet.id)
            case Type.RESET:
                self._reset()
            case Type.START_INTERRUPT:
                self._start_interrupt(packet)
            case Type.STOP_INTERRUPT:
                self._stop_stream(packet.fields[0])
                self._send_packet(
                    Type.INTERRUPT_STATUS, packet.id, codec.SUCCESS, packet.fields[0]
                )
            case Type.START_ISO:
                self._start_iso(packet)
            case Type.STOP_ISO:
                self._stop_stream(packet.fields[0])
                self._send_packet(
                    Type.ISO_STATUS, packet.id, codec.SUCCESS, packet.fields[0]
                )
            case Type.ISO:
                self._iso_out(packet)
            case Type.FILTER_REJECT:
                self._rejected()

    def _rejected(self) -> None:
        """The guest refused the device and has detached it already (6.3)."""
        device = self._device_id
        self._cancel_everything(answer=False)
        self._forget()
        self._events.append(CloseRequested(device))

    def _submit(self, packet: Packet, urb: Urb) -> None:
        if (before := self._cancelled.get(packet.id)) is not None:
            self._abort(before)  # the guest takes the first answer for the old one
        self._requests[urb.id] = _Request(packet, urb.length)
        self._bytes += urb.length
        self._by_guest[packet.id] = urb.id
        if packet.type == Type.BULK:
            self._order.setdefault(urb.endpoint, deque()).append(urb.id)
        self._events.append(UrbSubmitted(self._device_id, urb))

    def _data_request(self, packet: Packet) -> None:
        """control_packet, bulk_packet, interrupt_packet (8, 9)."""
        assert self._state is not None
        if packet.id in self._by_guest:
            self._events.append(Ignored(f"request {packet.id:#x} is in flight already"))
            self._refuse(packet)
            return
        fields, urb_id = packet.fields, next(self._ids)
        if packet.type == Type.CONTROL:
            endpoint, request, request_type, _, value, index, length = fields
            if endpoint & 0x7F:
                self._refuse(packet)
                return
            setup = SetupPacket(request_type, request, value, index, length)
            self._submit(packet, Urb.control(urb_id, setup, bytes(packet.data)))
            return
        found = self._state.endpoints.get(fields[0])
        wanted = (
            TransferType.BULK if packet.type == Type.BULK else (TransferType.INTERRUPT)
        )
        if found is None or found.transfer_type is not wanted:
            self._refuse(packet)
            return
        length = codec.bulk_length(fields) if packet.type == Type.BULK else fields[2]
        self._submit(packet, Urb(urb_id, wanted, fields[0], length, packet.data))

    def _refuse(self, packet: Packet) -> None:
        self._reply(packet, codec.INVAL, 0, b"")

    # ------------------------------------------------------------- answers ----

    def _answer(self, urb_id: int, request: _Request) -> None:
        packet, result = request.packet, request.result
        assert result is not None
        self._drop_request(urb_id, packet)
        status = codec.STATUS_CODES.get(result.status, codec.IOERROR)
        match packet.type:
            case Type.SET_CONFIGURATION:
                self._configured(packet, result)
            case Type.SET_ALT_SETTING:
                self._alt_set(packet, result)
            case _:
                self._reply(packet, status, result.length, result.data)

    def _drop_request(self, urb_id: int, packet: Packet) -> None:
        self._bytes -= self._requests.pop(urb_id).length
        if self._cancelled.get(packet.id) == urb_id:
            del self._cancelled[packet.id]
            return
        self._by_guest.pop(packet.id, None)
        if packet.type == Type.BULK:
            self._order[packet.fields[0]].remove(urb_id)

    def _reply(
        self, packet: Packet, status: int, length: int, data: bytes | memoryview
    ) -> None:
        """The answer to a data packet; never more than was asked for (5)."""
        fields = packet.fields
        if packet.type == Type.CONTROL:
            endpoint, request, request_type, _, value, index, wanted = fields
            data = data[:wanted] if request_type & 0x80 else b""
            length = len(data) if request_type & 0x80 else min(length, wanted)
            head = (endpoint, request, request_type, status, value, index, length)
            self._send_packet(Type.CONTROL, packet.id, *head, data=data)
        elif packet.type == Type.BULK:
            wanted = codec.bulk_length(fields)
            data = data[:wanted] if fields[0] & 0x80 else b""
            length = len(data) if fields[0] & 0x80 else min(length, wanted)
            self._send(self._splitter.bulk(packet.id, fields[0], status, length, data))
        else:
            length = min(length, fields[2])
            self._send_packet(Type.INTERRUPT, packet.id, fields[0], status, length)

    def _cancel(self, guest_id: int) -> None:
        """Answer exactly once (12): with what the device has moved until it stops.

        From now on the id may be used again, and later requests do not wait.
        """
        urb_id = self._by_guest.get(guest_id)
        if urb_id is None:
            return
        request = self._requests[urb_id]
        packet = request.packet
        if packet.type not in (Type.CONTROL, Type.BULK, Type.INTERRUPT):
            return
        del self._by_guest[guest_id]
        self._cancelled[guest_id] = urb_id
        if packet.type == Type.BULK:
            self._order[packet.fields[0]].remove(urb_id)
        if request.result is None:
            self._events.append(CancelRequested(self._device_id, urb_id))
        else:  # it is done, and only waited for its turn
            self._answer(urb_id, request)
        self._flush_order(packet)

    def _abort(self, urb_id: int) -> None:
        """Answer a request with cancelled, at once."""
        request = self._requests[urb_id]
        if self._cancelled.get(request.packet.id) != urb_id:
            self._events.append(CancelRequested(self._device_id, urb_id))
        request.result = _CANCELLED
        self._answer(urb_id, request)
        self._flush_order(request.packet)

    def _flush_order(self, packet: Packet) -> None:
        """What waited behind a cancelled request may go now."""
        order = self._order.get(packet.fields[0]) if packet.type == Type.BULK else None
        while order and (first := self._requests[order[0]]).result is not None:
            self._answer(order[0], first)

    def _cancel_everything(self, *, answer: bool = True) -> None:
        for urb_id, request in list(self._requests.items()):
            if answer:
                request.result = _CANCELLED
                self._answer(urb_id, request)
            self._events.append(CancelRequested(self._device_id, urb_id))
        self._requests.clear()
        self._cancelled.clear()
        self._bytes = 0
        for address in list(self._streams):
            self._stop_stream(address)

    # ----------------------------------------- configuration and reset (7) ----

    def _set_configuration(self, packet: Packet) -> None:
        assert self._state is not None
        value = packet.fields[0]
        chosen = self._state.descriptors.configuration(value)
        if chosen is self._state.configuration and (chosen or not value):
            self._status(packet.id, codec.SUCCESS)
            return
        self._cancel_everything()
        urb = Urb.control(next(self._ids), SetupPacket.set_configuration(value))
        self._submit(packet, urb)

    def _configured(self, packet: Packet, result: UrbResult) -> None:
        assert self._state is not None
        if result.status is UrbStatus.OK and self._state.select_configuration(
            packet.fields[0]
        ):
            self._send_infos()
            self._status(packet.id, codec.SUCCESS)
        else:
            self._status(packet.id, codec.IOERROR)

    def _status(self, id: int, status: int) -> None:
        assert self._state is not None
        active = self._state.configuration
        value = active.value if active else 0
        self._send_packet(Type.CONFIGURATION_STATUS, id, status, value)

    def _set_alt_setting(self, packet: Packet) -> None:
        assert self._state is not None
        number, alternate = packet.fields
        if number not in self._state.alternates:
            self._alt_status(packet.id, number, codec.INVAL)
            return
        for interface in self._state.interfaces:
            if interface.number == number:
                self._stop_endpoints([e.address for e in interface.endpoints])
        setup = SetupPacket.set_interface(number, alternate)
        self._submit(packet, Urb.control(next(self._ids), setup))

    def _stop_endpoints(self, addresses: list[int]) -> None:
        for address in addresses:
            self._stop_stream(address)
        for urb_id, request in list(self._requests.items()):
            if urb_id not in self._requests:
                continue  # it waited for its turn and was answered with one before
            if request.packet.type in (Type.BULK, Type.INTERRUPT) and (
                request.packet.fields[0] in addresses
            ):
                self._abort(urb_id)

    def _alt_set(self, packet: Packet, result: UrbResult) -> None:
        assert self._state is not None
        number, alternate = packet.fields
        if result.status is UrbStatus.OK and self._state.select_interface(
            number, alternate
        ):
            self._send_infos()
            self._alt_status(packet.id, number, codec.SUCCESS)
        else:
            self._alt_status(packet.id, number, codec.IOERROR)

    def _alt_status(self, id: int, number: int, status: int) -> None:
        assert self._state is not None
        current = self._state.alternates.get(number)
        if current is None:
            status, current = codec.INVAL, 0xFF
        self._send_packet(Type.ALT_SETTING_STATUS, id, status, number, current)

    def _reset(self) -> None:
        """Reset the device once for a run of resets; there is no answer."""
        assert self._state is not None
        running = [(s.endpoint, s) for s in self._streams.values()]
        self._cancel_everything()
        for endpoint, _ in running:
            is_iso = endpoint.transfer_type is TransferType.ISOCHRONOUS
            kind = Type.ISO_STATUS if is_iso else Type.INTERRUPT_STATUS
            self._send_packet(kind, 0, codec.STALL, endpoint.address)
        if self._was_reset:
            return
        self._was_reset = True
        device, state = self._device_id, self._state
        self._events.append(ResetRequested(device))
        active, alternates = state.configuration, dict(state.alternates)
        if active is not None:  # the device below forgets it, the guest does not
            self._restore(SetupPacket.set_configuration(active.value))
            for number, alternate in alternates.items():
                if alternate:
                    self._restore(SetupPacket.set_interface(number, alternate))

    def _restore(self, setup: SetupPacket) -> None:
        """Submit a request whose answer nobody waits for."""
        urb = Urb.control(next(self._ids), setup)
        self._events.append(UrbSubmitted(self._device_id, urb))

    # -------------------------------------------------------------- streams ----

    def _start_interrupt(self, packet: Packet) -> None:
        """Poll an interrupt IN endpoint (9.2)."""
        assert self._state is not None
        address = packet.fields[0]
        endpoint = self._state.endpoints.get(address)
        status = codec.SUCCESS
        if endpoint is None or endpoint.transfer_type is not TransferType.INTERRUPT:
            status = codec.STALL
        elif address in self._streams:
            status = codec.INVAL
        else:
            self._streams[address] = _Stream(endpoint, INTERRUPT_URBS, 0)
        self._send_packet(Type.INTERRUPT_STATUS, packet.id, status, address)
        if status == codec.SUCCESS:
            self._fill(self._streams[address])

    def _start_iso(self, packet: Packet) -> None:
        """Start an isochronous stream (10)."""
        assert self._state is not None
        address, packets, urbs = packet.fields
        endpoint = self._state.endpoints.get(address)
        status = codec.SUCCESS
        if (
            endpoint is None
            or endpoint.transfer_type is not TransferType.ISOCHRONOUS
            or not 1 <= packets <= MAX_PACKETS_PER_URB
            or not 1 <= urbs <= MAX_ISO_URBS
        ):
            status = codec.STALL
        elif address in self._streams:
            status = codec.INVAL
        else:
            self._streams[address] = _Stream(endpoint, urbs, packets)
        self._send_packet(Type.ISO_STATUS, packet.id, status, address)
        if status == codec.SUCCESS and address & 0x80:
            self._fill(self._streams[address])

    def _fill(self, stream: _Stream) -> None:
        """Keep the stream's IN transfers in flight."""
        endpoint = stream.endpoint
        kind = endpoint.transfer_type
        if self._is_congested and kind is TransferType.INTERRUPT:
            return
        size = self._packet_size(endpoint)
        packets = (size,) * stream.packets
        while len(stream.in_flight) < stream.urbs:
            urb_id = next(self._ids)
            length = sum(packets) if packets else size
            urb = Urb(urb_id, kind, endpoint.address, length, packets=packets)
            stream.in_flight.add(urb_id)
            self._stream_urbs[urb_id] = stream
            self._events.append(UrbSubmitted(self._device_id, urb))

    def _stream_result(self, stream: _Stream, result: UrbResult) -> None:
        address = stream.endpoint.address
        is_iso = stream.endpoint.transfer_type is TransferType.ISOCHRONOUS
        is_ok = result.status is UrbStatus.OK
        stream.failures = 0 if is_ok else stream.failures + 1
        if result.status in _ENDS_STREAM or (
            not is_ok and (is_iso or stream.failures >= MAX_FAILURES)
        ):
            self._stop_stream(address)
            kind = Type.ISO_STATUS if is_iso else Type.INTERRUPT_STATUS
            self._send_packet(kind, 0, codec.STALL, address)
            return
        if not address & 0x80:
            self._drain(stream)
            return
        if is_iso:
            self._iso_in(stream, result)
        else:
            status = codec.STATUS_CODES.get(result.status, codec.IOERROR)
            data = result.data if status == codec.SUCCESS else b""
            self._send_packet(
                Type.INTERRUPT,
                stream.next_id,
                address,
                status,
                len(data),
                data=data,
            )
            stream.next_id = stream.next_id + 1 & 0xFFFFFFFF
        self._fill(stream)

    def _iso_in(self, stream: _Stream, result: UrbResult) -> None:
        """Each packet becomes one of the wire's, lost ones too."""
        offset = 0
        for part in result.packets:
            data = result.data[offset : offset + part.length]
            offset += part.length
            if not self._is_congested:
                status = codec.STATUS_CODES.get(part.status, codec.IOERROR)
                body = data if status == codec.SUCCESS else b""
                head = (stream.endpoint.address, status, len(body))
                self._send_packet(Type.ISO, stream.next_id, *head, data=body)
            stream.next_id = stream.next_id + 1 & 0xFFFFFFFF

    def _iso_out(self, packet: Packet) -> None:
        """Collect; begin when half of the buffer is full, drop half when it is."""
        address, _, length = packet.fields
        stream = self._streams.get(address)
        if stream is None or length > self._packet_size(stream.endpoint):
            self._send_packet(Type.ISO_STATUS, 0, codec.INVAL, address)
            return
        stream.queue.append(bytes(packet.data))
        capacity = stream.packets * stream.urbs
        if len(stream.queue) > capacity:
            for _ in range(max(1, capacity // 2)):
                stream.queue.popleft()
        if not stream.is_running and len(stream.queue) >= max(1, capacity // 2):
            stream.is_running = True
        self._drain(stream)

    def _drain(self, stream: _Stream) -> None:
        """Submit isochronous OUT transfers while there is data for whole ones."""
        if not stream.is_running:
            return
        while (
            len(stream.in_flight) < stream.urbs and len(stream.queue) >= stream.packets
        ):
            parts = [stream.queue.popleft() for _ in range(stream.packets)]
            urb_id = next(self._ids)
            data = b"".join(parts)
            urb = Urb(
                urb_id,
                TransferType.ISOCHRONOUS,
                stream.endpoint.address,
                len(data),
                data,
                packets=tuple(map(len, parts)),
            )
            stream.in_flight.add(urb_id)
            self._stream_urbs[urb_id] = stream
            self._events.append(UrbSubmitted(self._device_id, urb))
        if not stream.in_flight:
            stream.is_running = False  # underrun: fill to half again

    def _stop_stream(self, address: int) -> None:
        stream = self._streams.pop(address, None)
        if stream is None:
            return
        for urb_id in stream.in_flight:
            self._stream_urbs.pop(urb_id, None)
            self._events.append(CancelRequested(self._device_id, urb_id))

    # ---------------------------------------------------------------- small ----

    def _send_packet(
        self,
        kind: int,
        id: int = 0,
        *fields: int | bytes,
        data: bytes | memoryview = b"",
    ) -> None:
        self._send(self._splitter.serialize(kind, id, *fields, data=data))

    def _send(self, data: bytes) -> None:
        self._outputs.append(Send(0, data))
