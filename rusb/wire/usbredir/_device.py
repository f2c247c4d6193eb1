"""The device side of usbredir: the usb-host, towards QEMU (usbredir.md 6 to 13)."""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from rusb.errors import LocalProtocolError, ParseError, RemoteProtocolError
from rusb.usb.descriptors import DeviceDescriptors, EndpointDescriptor
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.state import DeviceState
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire._stream import AskedStream
from rusb.wire.base import (
    CloseRequested,
    DeviceSide,
    Ignored,
    Negotiated,
    ResetRequested,
    UrbSubmitted,
)

from . import _codec as codec
from ._codec import Cap, Packet, Splitter, Type
from ._infos import ep_info, interface_info, packet_size
from ._requests import Requests
from ._streams import Streams

__all__ = ["StreamState", "UsbredirDeviceSide"]

VERSION = "rusb usb-host"


@dataclass(frozen=True, slots=True)
class StreamState:
    """A stream that nothing is in flight of; another core goes on with it.

    Attributes:
        caps: what both sides can do.
        configuration: value of the one that is selected; 0: none.
        alternates: alternate setting of each interface of it.
        polled: number of the next packet, by address of an endpoint that is polled.
        waiting: what the guest has said and nobody has acted on.
        was_reset: nothing was asked since the last reset.
    """

    caps: int
    configuration: int
    alternates: Mapping[int, int]
    polled: Mapping[int, int]
    waiting: bytes
    was_reset: bool = False


class UsbredirDeviceSide(AskedStream, DeviceSide):
    """One device on one stream; see :class:`~rusb.wire.base.DeviceSide`.

    Standard requests arrive as control URBs; ``CloseRequested`` means that the guest
    refused the device. URB ids are our own, and no two streams have the same: a device
    may still have transfers of a stream that has ended.

    Args:
        configuration: value of the one that is selected already when the device is
            announced.
        round_trip: tells how many seconds it is to the device and back; None: nobody
            knows yet.

    Attributes:
        is_adopted: it goes on with the stream of another core.
        is_suspending: :meth:`suspend_reads` was called, and reads are not yet back.
    """

    _ids = itertools.count(1)

    def __init__(
        self,
        configuration: int = 0,
        *,
        round_trip: Callable[[], float | None] = lambda: None,
    ) -> None:
        super().__init__()
        self._configuration = configuration
        self._splitter = Splitter(from_host=False, caps=codec.HOST_CAPS)
        self._info: DeviceInfo | None = None
        self._state: DeviceState | None = None
        self._is_connected = False  # device_connect was sent
        self._waits_for_ack = False
        self._requests = Requests(self._emit)
        self._streams = Streams(
            *(self._ids, self._splitter, self._emit, self._output, round_trip)
        )
        self._was_reset = False  # nothing was asked since the last reset
        self._is_recalled = self.is_adopted = self.is_suspending = False
        self._suspended: frozenset[int] = frozenset()
        self._polled: frozenset[int] = frozenset()  # those QEMU takes for polled ones
        self._told_polled: set[int] = set()  # and those that it once did

    # ---------------------------------------------------------------- Side ----

    def channel_opened(self, channel: int, name: str, *, now: float) -> None:
        """Say hello at once."""
        self._is_open = True
        self._send(self._splitter.hello(VERSION))

    def channel_closed(self, channel: int) -> None:
        """Cancel everything."""
        self._is_open = False
        self._forget()
        self._outputs.clear()

    def receive_data(self, channel: int, data: bytes, *, now: float) -> None:
        """Take a piece of the stream; a bad packet is skipped (1.2)."""
        if not self._is_open:
            raise RemoteProtocolError("the usbredir stream is closed")
        self._splitter.feed(data)
        while not self.is_full() and (packet := self._splitter.next()) is not None:
            if isinstance(packet, str):
                self._emit(Ignored(packet))
            else:
                self._take(packet)
        if self.is_suspending:
            self._suspend_held()

    # ------------------------------------------------------------ pressure ----

    def is_busy(self) -> bool:
        """Once too much is in flight, until half is done."""
        return self._is_recalled or self._requests.is_full()

    # ---------------------------------------------------- to another core ----

    @property
    def may_move(self) -> bool:
        """Could another core go on with this stream?"""
        is_plain = self._is_connected and not self._waits_for_ack
        return is_plain and not self._suspended and self._streams.may_move

    def recall(self) -> None:
        """Take nothing more from the guest, and have what waits at the device come
        back; what is not a read ends as ever."""
        self._is_recalled = True
        self._requests.recall()
        self._streams.recall()

    @property
    def is_back(self) -> bool:
        """Is nothing in flight any more, since :meth:`recall`?"""
        return self._is_recalled and self._requests.is_back and not self._streams.urbs

    def go_on(self) -> None:
        """Ask again for what has come back; then call ``receive_data`` of nothing."""
        self._is_recalled = False
        self._requests.ask_again()
        self._streams.ask_again()

    def state(self) -> StreamState:
        """Return what another core needs to go on; once :attr:`is_back` is true."""
        state, splitter = self._state, self._splitter
        assert state is not None
        back = (
            splitter.serialize(p.type, p.id, *p.fields, data=p.data)
            for p in self._requests.taken_back()
        )
        active = state.configuration
        return StreamState(
            splitter.caps,
            active.value if active else 0,
            dict(state.alternates),
            self._streams.numbers(),
            b"".join(back) + splitter.waiting,
            was_reset=self._was_reset,
        )

    def adopt(
        self, info: DeviceInfo, descriptors: DeviceDescriptors, state: StreamState
    ) -> None:
        """Go on with a stream of another core from :meth:`go_on` on; before all else.

        Raises:
            ParseError: *state* does not fit the device.
        """
        self._splitter.adopt(state.caps, state.waiting)
        found = self._state = DeviceState(descriptors)
        is_right = found.select_configuration(state.configuration)
        settings = state.alternates.items()
        if not is_right or not all(found.select_interface(*one) for one in settings):
            raise ParseError("a configuration or setting that the device does not have")
        self._info = info
        self._requests.device = self._streams.device = info.id
        self._streams.speed = info.speed
        for address, number in state.polled.items():
            endpoint = found.endpoints.get(address)
            if endpoint is None or not (
                endpoint.transfer_type is TransferType.INTERRUPT and endpoint.is_in
            ):
                raise ParseError(f"endpoint 0x{address:02x} cannot be polled")
            size = packet_size(endpoint, info.speed)
            self._streams.adopt(endpoint, size, number)
        self._was_reset = state.was_reset
        self._is_open = self._is_connected = self._is_recalled = True
        self.is_adopted = True

    # ------------------------------------- for a QEMU that moves its machine ----

    def waiting_reads(self, but: Collection[int] = ()) -> int:
        """How many bulk reads of the guest wait at the endpoint that has most?

        Args:
            but: addresses of endpoints that do not count.
        """
        return self._requests.waiting_reads(but)

    def suspend_reads(self, addresses: Collection[int]) -> None:
        """Leave no read of the guest waiting at some bulk IN endpoints.

        Those that wait come back, and bring what there is. Once all of them are here,
        QEMU is told that the endpoints are polled: then it keeps further ones to
        itself, and moves all of them (teleport.md 7.9). What the device says has to
        wait.
        """
        if self._is_connected and self._suspended != set(addresses):
            self._suspended = frozenset(addresses)
            self.is_suspending = True
            self._requests.suspend(self._suspended)
            self._suspend_held()

    @property
    def held_reads(self) -> int | None:
        """How many reads of the guest have come back since :meth:`suspend_reads`?
        None: some have not, or further ones are not waited for."""
        return self._requests.held if self.is_suspending else None

    def expect_no_reads(self) -> None:
        """While :attr:`held_reads` is not None: those are all that the guest keeps. It
        has had time enough to read again for each one that was answered."""
        self._requests.keeps_no_more()
        self._suspend_held()

    def _suspend_held(self) -> None:
        """In one piece: QEMU aborts if an endpoint that becomes a polled one has reads
        waiting, and the guest reads there once more."""
        if not self._requests.is_held:
            return
        self.is_suspending = False
        self._polled = self._suspended
        self._told_polled.update(self._suspended)
        self._send_infos()
        self._requests.release()
        self._answer()

    def resume_reads(self) -> None:
        """Take the guest's reads again; one of those that QEMU kept brings nothing."""
        polled, self._polled = self._polled, frozenset()
        self._suspended, self.is_suspending = frozenset(), False
        self._requests.suspend(())
        if polled and self._is_connected:
            assert self._state is not None
            for address in polled & self._state.endpoints.keys():
                # has QEMU try again
                self._send_packet(Type.INTERRUPT, 0, address, codec.SUCCESS, 0)
            self._send_infos()

    def congest(self, is_congested: bool) -> None:
        """The guest does not take what it is sent, or does again.

        Isochronous input is live and is dropped meanwhile (10); interrupt endpoints
        are not polled.
        """
        super().congest(is_congested)
        self._streams.congest(is_congested)

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
            self._requests.device = self._streams.device = info.id
            self._streams.speed = info.speed
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
        if urb_id in self._streams.urbs:
            self._streams.complete(urb_id, result)
        else:
            self._requests.complete(urb_id, result)
            self._answer()
            if self.is_suspending:
                self._suspend_held()

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
        self._requests.abort_all()
        self._answer()
        self._streams.stop_all()
        if self._is_connected:
            self._send_packet(Type.DEVICE_DISCONNECT)
            self._waits_for_ack = bool(self._splitter.caps & Cap.DISCONNECT_ACK)
        self._forget()

    def _forget(self) -> None:
        self._info = self._state = None
        self._suspended = self._polled = frozenset()
        self._told_polled.clear()
        self._is_connected = self.is_suspending = False
        self._requests.forget_all()
        self._streams.stop_all()

    def _send_infos(self) -> None:
        """Describe what is selected now (6.2)."""
        state, info, caps = self._state, self._info, self._splitter.caps
        assert state is not None
        assert info is not None
        self._send_packet(Type.INTERFACE_INFO, 0, *interface_info(state))
        fields = ep_info(state, info.speed, caps, self._polled)
        self._send_packet(Type.EP_INFO, 0, *fields)

    # ----------------------------------------------------- from the guest ----

    def _take(self, packet: Packet) -> None:
        if packet.type == Type.HELLO:
            self._emit(Negotiated(1, self._splitter.caps))
            self._connect()
            return
        if packet.type == Type.DISCONNECT_ACK:
            self._waits_for_ack = False
            self._connect()
            return
        if packet.type == Type.FILTER_FILTER:
            return  # the guest's rules; it enforces them itself
        if not self._is_connected:
            self._emit(Ignored(f"packet of type {packet.type}, no device"))
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
                self._requests.cancel(packet.id)
                self._answer()
            case Type.RESET:
                self._reset()
            case Type.START_INTERRUPT:
                self._start_interrupt(packet)
            case Type.START_ISO:
                self._streams.start_iso(packet, *self._endpoint(packet))
            case Type.STOP_INTERRUPT | Type.STOP_ISO:
                self._streams.stop_asked(packet)
            case Type.ISO:
                self._streams.output(packet)
            case Type.FILTER_REJECT:
                self._rejected()

    def _start_interrupt(self, packet: Packet) -> None:
        """Poll an endpoint, unless its reads are suspended, or were when it was said.

        After a stall QEMU would hand one to the guest when they are suspended again.
        """
        address = packet.fields[0]
        if address in self._told_polled:
            fields = codec.SUCCESS, address
            self._send_packet(Type.INTERRUPT_STATUS, packet.id, *fields)
        else:
            self._streams.start_interrupt(packet, *self._endpoint(packet))

    def _endpoint(self, packet: Packet) -> tuple[EndpointDescriptor | None, int]:
        """The endpoint that a packet names, and the size of its packets."""
        assert self._state is not None
        assert self._info is not None
        found = self._state.endpoints.get(packet.fields[0])
        return found, packet_size(found, self._info.speed) if found else 0

    def _rejected(self) -> None:
        """The guest refused the device and has detached it already (6.3)."""
        device = self._device_id
        self._forget()
        self._emit(CloseRequested(device))

    def _data_request(self, packet: Packet) -> None:
        """control_packet, bulk_packet, interrupt_packet (8, 9)."""
        assert self._state is not None
        if self._requests.is_in_flight(packet.id):
            self._emit(Ignored(f"request {packet.id:#x} is in flight already"))
            self._refuse(packet)
            return
        fields = packet.fields
        if packet.type == Type.CONTROL:
            endpoint, request, request_type, _, value, index, length = fields
            if endpoint & 0x7F:
                self._refuse(packet)
                return
            setup = SetupPacket(request_type, request, value, index, length)
            self._set_up(packet, setup)
            return
        found = self._state.endpoints.get(fields[0])
        wanted = (
            TransferType.BULK if packet.type == Type.BULK else TransferType.INTERRUPT
        )
        if found is None or found.transfer_type is not wanted:
            self._refuse(packet)
            return
        length = codec.bulk_length(fields) if packet.type == Type.BULK else fields[2]
        if length > codec.MAX_LENGTH:
            self._refuse(packet)
            return
        urb = Urb(next(self._ids), wanted, fields[0], length, packet.data)
        self._requests.submit(packet, urb)
        self._answer()

    def _set_up(self, packet: Packet, setup: SetupPacket) -> None:
        """Pass a request on as a control transfer."""
        urb = Urb.control(next(self._ids), setup, bytes(packet.data))
        self._requests.submit(packet, urb)
        self._answer()

    def _refuse(self, packet: Packet) -> None:
        self._reply(packet, codec.INVAL, 0, b"")

    # ------------------------------------------------------------- answers ----

    def _answer(self) -> None:
        """Send the answers that are due."""
        due = self._requests.due
        for packet, result in due:
            match packet.type:
                case Type.SET_CONFIGURATION:
                    self._configured(packet, result)
                case Type.SET_ALT_SETTING:
                    self._alt_set(packet, result)
                case _:
                    status = codec.STATUS_CODES.get(result.status, codec.IOERROR)
                    self._reply(packet, status, result.length, result.data)
        due.clear()

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

    # ----------------------------------------- configuration and reset (7) ----

    def _set_configuration(self, packet: Packet) -> None:
        assert self._state is not None
        value = packet.fields[0]
        chosen = self._state.descriptors.configuration(value)
        if chosen is self._state.configuration and (chosen or not value):
            self._status(packet.id, codec.SUCCESS)
            return
        self._requests.abort_all()
        self._answer()
        self._streams.stop_all()
        self._set_up(packet, SetupPacket.set_configuration(value))

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
                addresses = [e.address for e in interface.endpoints]
                self._streams.stop(addresses)
                self._requests.abort_at(addresses)
                self._answer()
        self._set_up(packet, SetupPacket.set_interface(number, alternate))

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
        self._requests.abort_all()
        self._answer()
        self._streams.fail_all()
        if self._was_reset:
            return
        self._was_reset = True
        device, state = self._device_id, self._state
        self._emit(ResetRequested(device))
        active, alternates = state.configuration, dict(state.alternates)
        if active is not None:  # the device below forgets it, the guest does not
            self._restore(SetupPacket.set_configuration(active.value))
            for number, alternate in alternates.items():
                if alternate:
                    self._restore(SetupPacket.set_interface(number, alternate))

    def _restore(self, setup: SetupPacket) -> None:
        """Submit a request whose answer nobody waits for."""
        urb = Urb.control(next(self._ids), setup)
        self._emit(UrbSubmitted(self._device_id, urb))

    # ---------------------------------------------------------------- small ----

    def _send_packet(
        self,
        kind: int,
        id: int = 0,
        *fields: int | bytes,
        data: bytes | memoryview = b"",
    ) -> None:
        self._send(self._splitter.serialize(kind, id, *fields, data=data))
