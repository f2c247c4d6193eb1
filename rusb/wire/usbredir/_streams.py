"""Streams of the device side: endpoints that are polled, and isochronous ones."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from rusb.usb.descriptors import EndpointDescriptor
from rusb.usb.polling import MIN_DEPTH, interrupt_depth, interrupt_interval
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import CancelRequested, Event, Output, Send, UrbSubmitted

from . import _codec as codec
from ._codec import Packet, Splitter, Type

__all__ = ["Streams"]

MAX_POLLS = 128
"""Transfers in flight of all interrupt IN streams of a device, but for the five that
each may have at any time. They stay for as long as the device has nothing to say, and
with five at each of the other 14 endpoints they still are less than half of what the
server lets a device have, so that bulk transfers never wait for them."""

MAX_FAILURES = 16
"""Transfers of an interrupt IN stream that may fail in a row. One that fails always,
perhaps at once, would be asked for without end (9.2, rule 4)."""

MAX_PACKETS_PER_URB, MAX_ISO_URBS = 32, 16
"""Bounds of start_iso_stream (10)."""

_ENDS_STREAM = (UrbStatus.STALL, UrbStatus.NO_DEVICE, UrbStatus.CANCELLED)


class _Stream:
    """An endpoint that is polled (interrupt IN) or streams (isochronous).

    Args:
        size: bytes of a packet.
        interval: seconds between two packets of the device; isochronous: not used.
        urbs: isochronous: transfers to keep in flight.
        packets: isochronous packets of each; 0: interrupt.
    """

    def __init__(
        self,
        endpoint: EndpointDescriptor,
        size: int,
        interval: float = 0.0,
        urbs: int = 0,
        packets: int = 0,
    ) -> None:
        self.address = endpoint.address
        self.kind = endpoint.transfer_type
        self.size = size
        self.interval = interval
        self.urbs = urbs
        self.packets = packets
        self.next_id = 0
        self.failures = 0  # in a row
        self.in_flight: set[int] = set()
        self.queue: deque[bytes] = deque()  # isochronous OUT
        self.is_running = False  # isochronous OUT: the jitter buffer is filled

    @property
    def is_iso(self) -> bool:
        return self.kind is TransferType.ISOCHRONOUS

    @property
    def status_type(self) -> Type:
        return Type.ISO_STATUS if self.is_iso else Type.INTERRUPT_STATUS

    def number(self) -> int:
        """The id of the next packet."""
        id, self.next_id = self.next_id, self.next_id + 1 & 0xFFFFFFFF
        return id


class Streams:
    """The streams of one device.

    Args:
        ids: gives the ids of URBs.
        splitter: knows how packets are written.
        emit: takes an event.
        output: takes an output.
        round_trip: seconds to the device and back; None: not known.

    Attributes:
        device: id of the device in events.
        speed: of the device.
        running: by endpoint address.
        urbs: by the id of a URB in flight.
    """

    def __init__(
        self,
        ids: Iterator[int],
        splitter: Splitter,
        emit: Callable[[Event], None],
        output: Callable[[Output], None],
        round_trip: Callable[[], float | None],
    ) -> None:
        self.device = 0
        self.speed = Speed.UNKNOWN
        self.running: dict[int, _Stream] = {}
        self.urbs: dict[int, _Stream] = {}
        self._ids = ids
        self._splitter = splitter
        self._emit = emit
        self._output = output
        self._round_trip = round_trip
        self._is_congested = self._is_recalled = False
        self._recalled: set[int] = set()

    @property
    def may_move(self) -> bool:
        """Can what runs begin elsewhere without a gap? Isochronous streams cannot."""
        return not any(stream.is_iso for stream in self.running.values())

    def recall(self) -> None:
        """Have what is in flight come back, the last first; nothing is asked for."""
        self._is_recalled = True
        self._recalled = set(self.urbs)
        for urb_id in reversed(self.urbs):
            self._emit(CancelRequested(self.device, urb_id))

    def ask_again(self) -> None:
        """Go on after :meth:`recall`."""
        self._is_recalled = False
        for stream in list(self.running.values()):
            if stream.address & 0x80:
                self._fill(stream)

    def numbers(self) -> dict[int, int]:
        """Return the number of the next packet of each endpoint that is polled."""
        return {address: stream.next_id for address, stream in self.running.items()}

    def adopt(self, endpoint: EndpointDescriptor, size: int, number: int) -> None:
        """Poll an endpoint that was polled elsewhere, from :meth:`ask_again` on."""
        interval = interrupt_interval(endpoint, self.speed)
        stream = self.running[endpoint.address] = _Stream(endpoint, size, interval)
        stream.next_id = number

    def congest(self, is_congested: bool) -> None:
        """The guest does not take what it is sent, or does again."""
        self._is_congested = is_congested
        for stream in () if is_congested else list(self.running.values()):
            if stream.address & 0x80:
                self._fill(stream)

    # ------------------------------------------------------- start and stop ----

    def start_interrupt(
        self, packet: Packet, endpoint: EndpointDescriptor | None, size: int
    ) -> None:
        """Poll an interrupt IN endpoint (9.2)."""
        stream = None
        if endpoint is not None and endpoint.transfer_type is TransferType.INTERRUPT:
            interval = interrupt_interval(endpoint, self.speed)
            stream = _Stream(endpoint, size, interval)
        self._start(packet, Type.INTERRUPT_STATUS, stream)

    def start_iso(
        self, packet: Packet, endpoint: EndpointDescriptor | None, size: int
    ) -> None:
        """Start an isochronous stream (10)."""
        _, packets, urbs = packet.fields
        stream = None
        if (
            endpoint is not None
            and endpoint.transfer_type is TransferType.ISOCHRONOUS
            and 1 <= packets <= MAX_PACKETS_PER_URB
            and 1 <= urbs <= MAX_ISO_URBS
        ):
            stream = _Stream(endpoint, size, urbs=urbs, packets=packets)
        self._start(packet, Type.ISO_STATUS, stream)

    def _start(self, packet: Packet, answer: Type, stream: _Stream | None) -> None:
        address = packet.fields[0]
        if stream is None:
            self._send(answer, packet.id, codec.STALL, address)
        elif address in self.running:
            self._send(answer, packet.id, codec.INVAL, address)
        else:
            self.running[address] = stream
            self._send(answer, packet.id, codec.SUCCESS, address)
            if address & 0x80:
                self._fill(stream)

    def stop_asked(self, packet: Packet) -> None:
        """Stop as the guest asks, whether it runs or not."""
        is_iso = packet.type == Type.STOP_ISO
        answer = Type.ISO_STATUS if is_iso else Type.INTERRUPT_STATUS
        self.stop(packet.fields)
        self._send(answer, packet.id, codec.SUCCESS, packet.fields[0])

    def stop(self, addresses: Iterable[int]) -> None:
        """Cancel what runs at these endpoints and say nothing."""
        for address in addresses:
            stream = self.running.pop(address, None)
            for urb_id in stream.in_flight if stream is not None else ():
                del self.urbs[urb_id]
                self._emit(CancelRequested(self.device, urb_id))

    def stop_all(self) -> None:
        """Cancel everything and say nothing."""
        self.stop(list(self.running))

    def fail_all(self) -> None:
        """Cancel everything; the guest is to start it again."""
        for stream in list(self.running.values()):
            self._fail(stream)

    def _fail(self, stream: _Stream) -> None:
        self.stop([stream.address])
        self._send(stream.status_type, 0, codec.STALL, stream.address)

    # ------------------------------------------------------------ transfers ----

    def complete(self, urb_id: int, result: UrbResult) -> None:
        """Pass on what a transfer brought, and go on."""
        stream = self.urbs.pop(urb_id)
        stream.in_flight.discard(urb_id)
        is_recalled = urb_id in self._recalled
        self._recalled.discard(urb_id)
        if is_recalled and result.status is UrbStatus.CANCELLED:
            if not result.length:
                self._fill(stream)
                return
            result = UrbResult(UrbStatus.OK, result.data, result.length)
        is_ok = result.status is UrbStatus.OK
        stream.failures = 0 if is_ok else stream.failures + 1
        if result.status in _ENDS_STREAM or (
            not is_ok and (stream.is_iso or stream.failures >= MAX_FAILURES)
        ):
            self._fail(stream)
        elif not stream.address & 0x80:
            self._drain(stream)
        else:
            if stream.is_iso:
                self._pass_packets(stream, result)
            else:
                self._pass_on(Type.INTERRUPT, stream, result.status, result.data)
            self._fill(stream)

    def _pass_packets(self, stream: _Stream, result: UrbResult) -> None:
        """Each packet becomes one of the wire's, lost ones too."""
        offset = 0
        for part in result.packets:
            data = result.data[offset : offset + part.length]
            offset += part.length
            if self._is_congested:
                stream.number()  # it is dropped, and the guest sees the gap
            else:
                self._pass_on(Type.ISO, stream, part.status, data)

    def _pass_on(
        self, kind: Type, stream: _Stream, status: UrbStatus, data: bytes | memoryview
    ) -> None:
        code = codec.STATUS_CODES.get(status, codec.IOERROR)
        body = data if code == codec.SUCCESS else b""
        head = (stream.address, code, len(body))
        self._send(kind, stream.number(), *head, data=body)

    def _fill(self, stream: _Stream) -> None:
        """Keep the stream's IN transfers in flight."""
        if self._is_recalled or (self._is_congested and not stream.is_iso):
            return
        packets = (stream.size,) * stream.packets
        length = sum(packets) if packets else stream.size
        for _ in range(self._depth(stream) - len(stream.in_flight)):
            self._submit(stream, length, b"", packets)

    def _depth(self, stream: _Stream) -> int:
        """How many IN transfers of the stream should be in flight?"""
        if stream.is_iso:
            return stream.urbs
        depth = interrupt_depth(stream.interval, self._round_trip())
        others = sum(
            len(s.in_flight)
            for s in self.running.values()
            if s is not stream and not s.is_iso
        )
        return min(depth, max(MAX_POLLS - others, MIN_DEPTH))

    def output(self, packet: Packet) -> None:
        """Collect; begin when half of the buffer is full, drop half when it is."""
        address, _, length = packet.fields
        stream = self.running.get(address)
        if stream is None or length > stream.size:
            self._send(Type.ISO_STATUS, 0, codec.INVAL, address)
            return
        stream.queue.append(bytes(packet.data))
        capacity = stream.packets * stream.urbs
        if len(stream.queue) > capacity:
            for _ in range(max(1, capacity // 2)):
                stream.queue.popleft()
        if len(stream.queue) >= max(1, capacity // 2):
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
            data = b"".join(parts)
            self._submit(stream, len(data), data, tuple(map(len, parts)))
        if not stream.in_flight:
            stream.is_running = False  # underrun: fill to half again

    def _submit(
        self, stream: _Stream, length: int, data: bytes, packets: tuple[int, ...]
    ) -> None:
        urb_id = next(self._ids)
        kind, address = stream.kind, stream.address
        urb = Urb(urb_id, kind, address, length, data, packets=packets)
        stream.in_flight.add(urb_id)
        self.urbs[urb_id] = stream
        self._emit(UrbSubmitted(self.device, urb))

    def _send(
        self, kind: Type, id: int, *fields: int, data: bytes | memoryview = b""
    ) -> None:
        packet = self._splitter.serialize(kind, id, *fields, data=data)
        self._output(Send(0, packet))
