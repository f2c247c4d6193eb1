"""The device side of USB/IP: the server, towards vhci_hcd and its like (usbip.md)."""

import itertools
from collections.abc import Mapping, Sequence

from rusb.errors import LocalProtocolError, RemoteProtocolError
from rusb.usb.descriptors import DeviceDescriptors
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.state import DeviceState
from rusb.usb.types import Request, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire._stream import AskedStream
from rusb.wire.base import (
    CancelRequested,
    CloseChannel,
    DeviceSide,
    Negotiated,
    ResetRequested,
    UrbSubmitted,
)

from . import _codec as codec
from ._codec import Code, Flag, Place

__all__ = ["UsbipDeviceSide"]

MAX_PENDING = 1024
"""Transfers in flight; further ones wait in the stream."""

MAX_BYTES_PENDING = 32 << 20
"""What they carry and ask for, as towards QEMU."""


class _Pending:
    """A transfer that the client waits for."""

    __slots__ = ("flags", "packets_field", "start", "unlink", "urb")

    def __init__(self, urb: Urb, flags: int, start: int, packets_field: int) -> None:
        self.urb = urb
        self.flags = flags
        self.start = start
        self.packets_field = packets_field
        self.unlink: int | None = None  # seqnum of what cancelled it


class UsbipDeviceSide(AskedStream, DeviceSide):
    """One device on one stream; see :class:`~rusb.wire.base.DeviceSide`.

    Standard requests arrive as control URBs. URB ids are our own, and no two streams
    have the same. The stream ends with the device: there is no other way to unplug it.

    Args:
        place: where the device is said to be.
        is_imported: the stream begins with transfers, as a kernel's does that was
            told of the device by other means.
    """

    _ids = itertools.count(1)

    def __init__(
        self, place: Place | None = None, *, is_imported: bool = False
    ) -> None:
        super().__init__()
        self._place = place or Place()
        self._is_imported = is_imported
        self._was_full = False
        self._wants_import = False
        self._buffer = bytearray()
        self._info: DeviceInfo | None = None
        self._state: DeviceState | None = None
        self._is_virtualbox = False
        self._pending: dict[int, _Pending] = {}  # by seqnum
        self._seqnums: dict[int, int] = {}  # urb id to seqnum
        self._beside: set[int] = set()  # ids of URBs of ours, which nobody waits for
        self._bytes = 0

    # ---------------------------------------------------------------- Side ----

    def channel_opened(self, channel: int, name: str, *, now: float) -> None:
        """The client begins."""
        self._is_open = True

    def channel_closed(self, channel: int) -> None:
        """Cancel everything: the client has detached the device."""
        self._is_open = False
        self._forget()
        self._outputs.clear()

    def receive_data(self, channel: int, data: bytes, *, now: float) -> None:
        """Take a piece of the stream."""
        if not self._is_open:
            raise RemoteProtocolError("the USB/IP stream is closed")
        if self._is_imported and self._info is None:
            return  # it crossed the end
        self._buffer += data
        try:
            while not self.is_full() and self._next():
                pass
        except RemoteProtocolError:
            self._is_open = False
            raise

    # ------------------------------------------------------------ pressure ----

    def is_busy(self) -> bool:
        """Once too much is in flight, until half is done.

        The client asked for each byte, so that what is in flight bounds what waits
        for it.
        """
        share = 2 if self._was_full else 1
        count = len(self._pending) + len(self._beside)
        self._was_full = (
            count * share >= MAX_PENDING or self._bytes * share >= MAX_BYTES_PENDING
        )
        return self._was_full

    # ---------------------------------------------------------- DeviceSide ----

    def announce(
        self,
        devices: Sequence[DeviceInfo],
        descriptors: Mapping[int, DeviceDescriptors] | None = None,
    ) -> None:
        """Offer the one device, or end the stream.

        Raises:
            LocalProtocolError: several devices, or one without descriptors.
        """
        if len(devices) > 1:
            raise LocalProtocolError("a USB/IP stream carries one device")
        info = devices[0] if devices else None
        if self._info is not None and info != self._info:
            self._disconnect()
        elif info is not None and self._info is None:
            found = (descriptors or {}).get(info.id)
            if found is None:
                raise LocalProtocolError("USB/IP needs the device's descriptors")
            self._info, self._state = info, DeviceState(found)
            if self._wants_import:
                self._import()

    def open_failed(self, device: int) -> None:
        """Nothing is opened on this wire."""

    def device_lost(self, device: int) -> None:
        """As announcing nothing."""
        if self._info is not None:
            self._disconnect()

    def complete_urb(self, device: int, urb_id: int, result: UrbResult) -> None:
        """Answer a transfer. One that was cancelled is answered if it moved data."""
        seqnum = self._seqnums.pop(urb_id, None)
        if seqnum is None:
            self._beside.discard(urb_id)
            return
        pending = self._pending.pop(seqnum)
        self._bytes -= pending.urb.length
        if result.status is not UrbStatus.OK and self._state is not None:
            setup = pending.urb.setup
            if setup is not None and _selects(setup) == Request.SET_CONFIGURATION:
                self._state.unconfigure()
        unlink = pending.unlink
        is_answered = unlink is None or result.length or result.status is UrbStatus.OK
        if is_answered:
            self._answer(seqnum, pending, result)
        if unlink is not None:
            status = 0 if is_answered else codec.ERRNO[UrbStatus.CANCELLED]
            self._send(codec.RET_UNLINK.pack(Code.RET_UNLINK, unlink, 0, 0, 0, status))

    # --------------------------------------------------------- connection ----

    def _import(self) -> None:
        assert self._info is not None
        assert self._state is not None
        descriptors = self._state.descriptors
        record = codec.Record.of(self._place, self._info, descriptors)
        self._send(codec.import_reply(record))
        self._wants_import, self._is_imported = False, True
        self._emit(Negotiated(codec.VERSION))

    def _disconnect(self) -> None:
        gone = UrbResult(UrbStatus.NO_DEVICE)
        for seqnum, pending in list(self._pending.items()):
            if pending.unlink is None:
                self._answer(seqnum, pending, gone)
        self._forget()
        self._output(CloseChannel(0))

    def _forget(self) -> None:
        device = self._info.id if self._info else 0
        for urb_id in self._seqnums:
            self._emit(CancelRequested(device, urb_id))
        self._info = self._state = None
        self._pending.clear()
        self._seqnums.clear()
        self._beside.clear()
        self._buffer.clear()
        self._bytes = 0

    # --------------------------------------------------- from the client ----

    def _next(self) -> bool:
        """Take the next message; False: it is not complete."""
        if self._is_imported:
            return self._next_command()
        size = codec.OPERATION.size
        if self._wants_import or len(self._buffer) < size:
            return False
        codec.check_operation(self._buffer, codec.IMPORT)
        if len(self._buffer) < size + codec.BUSID.size:
            return False
        (busid,) = codec.BUSID.unpack_from(self._buffer, size)
        del self._buffer[: size + codec.BUSID.size]
        if busid.split(b"\0")[0] != self._place.busid.encode():
            self._send(codec.import_reply(None))
            self._output(CloseChannel(0))
            return False
        self._wants_import = True
        if self._info is not None:
            self._import()
        return True

    def _next_command(self) -> bool:
        buffer = self._buffer
        if len(buffer) < codec.HEADER:
            return False
        command = int.from_bytes(buffer[:4], "big")
        if command == Code.CMD_UNLINK:
            _, seqnum, _, _, _, target = codec.CMD_UNLINK.unpack_from(buffer)
            del buffer[: codec.HEADER]
            self._unlink(seqnum, target)
            return True
        if command != Code.CMD_SUBMIT:
            raise RemoteProtocolError(f"unknown USB/IP command {command:#x}")
        (_, seqnum, devid, direction, ep, flags, length, start, count, _, setup) = (
            codec.CMD_SUBMIT.unpack_from(buffer)
        )
        if direction > 1 or ep > 15 or not 0 <= length <= codec.MAX_LENGTH:
            raise RemoteProtocolError(
                f"a transfer of {length} bytes at endpoint {ep}, direction {direction}"
            )
        if devid != self._place.devid:
            raise RemoteProtocolError(f"a transfer for {devid:#x}, another device")
        endpoint = ep | direction << 7
        found = self._type_of(endpoint)
        kind = self._guess(endpoint, count) if found is None else found
        packets = count if kind is TransferType.ISOCHRONOUS else 0
        if not 0 <= packets <= codec.MAX_PACKETS:
            raise RemoteProtocolError(f"a transfer of {packets} packets")
        end = codec.HEADER + (0 if direction else length)
        if len(buffer) < end + 16 * packets:
            return False
        data = bytes(buffer[codec.HEADER : end])
        iso = bytes(buffer[end : end + 16 * packets])
        del buffer[: end + 16 * packets]
        if seqnum in self._pending:
            raise RemoteProtocolError(f"seqnum {seqnum:#x} is in flight already")
        urb = Urb(next(self._ids), kind, endpoint, length, data)
        pending = _Pending(urb, flags, start, count)
        if direction and not flags & Flag.DIR_IN and not count:
            self._is_virtualbox = True  # (9)
        fits = self._fits(urb, setup, iso)
        if found is None or not fits:
            self._answer(seqnum, pending, UrbResult(UrbStatus.INVALID))
        elif urb.setup is None or not self._answered_here(seqnum, pending, urb.setup):
            self._submit(seqnum, pending)
        return True

    def _type_of(self, endpoint: int) -> TransferType | None:
        """What kind of endpoint it is; None: there is none such (4)."""
        if not endpoint & 0x0F:
            return TransferType.CONTROL
        found = self._state.endpoints.get(endpoint) if self._state else None
        return found.transfer_type if found is not None else None

    def _guess(self, endpoint: int, count: int) -> TransferType:
        """What the client takes an endpoint for that is not selected (4).

        Its packets have to be skipped, and answered, if it is isochronous: such
        transfers cross the setting that ends them.
        """
        descriptors = self._state.descriptors if self._state else None
        for configuration in descriptors.configurations if descriptors else ():
            for interface in configuration.interfaces:
                for one in interface.endpoints:
                    if one.address == endpoint:
                        return one.transfer_type
        is_likely = 0 < count <= codec.MAX_PACKETS
        return TransferType.ISOCHRONOUS if is_likely else TransferType.BULK

    @staticmethod
    def _fits(urb: Urb, setup: bytes, iso: bytes) -> bool:
        """Add what belongs to its type; False: it does not make sense."""
        if urb.type is TransferType.CONTROL:
            urb.setup = found = SetupPacket.parse(setup)
            was_in, urb.endpoint = urb.is_in, found.request_type & 0x80
            is_same = was_in == urb.is_in or not found.length
            return is_same and urb.length == found.length  # some say IN for nothing (4)
        if urb.type is TransferType.ISOCHRONOUS:
            described = codec.unpack_iso(iso)
            urb.packets = tuple(length for _, length, _, _ in described)
            offsets = [0, *itertools.accumulate(urb.packets)]
            if offsets[-1] > codec.MAX_LENGTH:
                raise RemoteProtocolError(f"packets of {offsets[-1]} bytes")
            is_packed = [place for place, *_ in described] == offsets[:-1]
            return is_packed and offsets[-1] == urb.length
        return True

    def _submit(self, seqnum: int, pending: _Pending) -> None:
        urb = pending.urb
        if urb.setup is not None:
            self._note(urb.setup)
        self._pending[seqnum] = pending
        self._seqnums[urb.id] = seqnum
        self._bytes += urb.length
        self._pass(urb)
        if pending.flags & Flag.ZERO_PACKET and urb.type is TransferType.BULK:
            self._end_with_zero(urb)

    def _pass(self, urb: Urb) -> None:
        assert self._info is not None
        self._emit(UrbSubmitted(self._info.id, urb))

    def _end_with_zero(self, urb: Urb) -> None:
        """Let an empty packet end a transfer whose last packet is full (4)."""
        assert self._state is not None
        found = self._state.endpoints[urb.endpoint]
        if not urb.is_in and urb.length and not urb.length % found.max_packet_size:
            self._pass_beside(Urb(next(self._ids), urb.type, urb.endpoint, 0))

    def _pass_beside(self, urb: Urb) -> None:
        """Submit what nobody waits for; it is in flight all the same."""
        self._beside.add(urb.id)
        self._pass(urb)

    def _ask(self, setup: SetupPacket) -> None:
        """Submit a request whose answer nobody waits for."""
        self._pass_beside(Urb.control(next(self._ids), setup))

    def _answered_here(
        self, seqnum: int, pending: _Pending, setup: SetupPacket
    ) -> bool:
        """Do what does not go to the device as it is (7)."""
        assert self._state is not None
        assert self._info is not None
        state = self._state
        match setup.request_type, setup.request, setup.value:
            case (0x23, Request.SET_FEATURE, 4):
                self._emit(ResetRequested(self._info.id))
                if state.configuration is not None:
                    self._ask(SetupPacket.set_configuration(state.configuration.value))
                    for number, alternate in state.alternates.items():
                        if alternate:
                            self._ask(SetupPacket.set_interface(number, alternate))
            case (0x00, Request.SET_CONFIGURATION, value) if (
                state.configuration is not None and state.configuration.value == value
            ):
                for number, alternate in list(state.alternates.items()):
                    if alternate:
                        self._ask(SetupPacket.set_interface(number, 0))
                        state.select_interface(number, 0)
            case (0x00, Request.SET_ADDRESS, _):
                pass
            case _:
                return False
        self._answer(seqnum, pending, UrbResult(UrbStatus.OK))
        return True

    def _note(self, setup: SetupPacket) -> None:
        """Keep in mind what is selected: endpoints have the types that follow.

        Now, not when it is done: a client need not wait for that.
        """
        assert self._state is not None
        match _selects(setup):
            case Request.SET_CONFIGURATION:
                self._state.select_configuration(setup.value & 0xFF)
            case Request.SET_INTERFACE:
                self._state.select_interface(setup.index & 0xFF, setup.value & 0xFF)

    def _unlink(self, seqnum: int, target: int) -> None:
        """Cancel a transfer; one that is answered already needs no more (6)."""
        pending = self._pending.get(target)
        if pending is None or pending.unlink is not None:
            self._send(codec.RET_UNLINK.pack(Code.RET_UNLINK, seqnum, 0, 0, 0, 0))
            return
        pending.unlink = seqnum
        assert self._info is not None
        self._emit(CancelRequested(self._info.id, pending.urb.id))

    # ------------------------------------------------------------ answers ----

    def _answer(self, seqnum: int, pending: _Pending, result: UrbResult) -> None:
        urb = pending.urb
        status = codec.ERRNO[result.status]
        data: bytes | memoryview = b""
        length, iso = min(result.length, urb.length), b""
        if urb.is_in:
            data = result.data[: urb.length]
            length = len(data)
            if pending.flags & Flag.SHORT_NOT_OK and not status and length < urb.length:
                status = codec.ERRNO[UrbStatus.UNDERRUN]
        if urb.type is TransferType.ISOCHRONOUS:
            packets = result.packets
            moved = sum(packet.length for packet in packets)
            if len(packets) != len(urb.packets) or (urb.is_in and moved != length):
                packets, data, moved = (), b"", 0  # Linux hangs up on other sums (3.4)
            length = moved
            if not (self._is_virtualbox and not (urb.is_in and length)):
                iso = codec.pack_iso(
                    urb.packets, packets, is_compact=self._is_virtualbox
                )
        head = codec.RET_SUBMIT.pack(
            *(Code.RET_SUBMIT, seqnum, 0, 0, 0, status, length),
            *(pending.start if iso else 0, pending.packets_field, result.error_count),
        )
        self._send(b"".join((head, data, iso)))


def _selects(setup: SetupPacket) -> int | None:
    """SET_CONFIGURATION or SET_INTERFACE, if it is one of them."""
    match setup.request_type, setup.request:
        case (0x00, Request.SET_CONFIGURATION) | (0x01, Request.SET_INTERFACE):
            return setup.request
    return None
