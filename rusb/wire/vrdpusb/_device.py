"""The device side of ``vrdpusb``: a client, as section 8 of vrdpusb.md wants it."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from rusb.errors import LocalProtocolError
from rusb.usb.descriptors import DeviceDescriptors
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus, cut_payload
from rusb.wire.base import (
    AlternateRequested,
    CancelRequested,
    ClaimRequested,
    ClearHaltRequested,
    CloseRequested,
    ConfigurationRequested,
    DeviceSide,
    DevicesRequested,
    Event,
    Ignored,
    Negotiated,
    OpenRequested,
    Output,
    ReleaseRequested,
    ResetRequested,
    Send,
    UrbSubmitted,
)

from . import _codec as codec
from ._codec import Code, Status

__all__ = ["VrdpUsbDeviceSide"]

MAX_URBS_IN_FLIGHT = 4096
"""Per device; servers queue a few dozen. More are answered with an error."""

MAX_BYTES_IN_FLIGHT = 64 << 20
"""Per device: buffers of its URBs, twice what our server asks for. Likewise."""

_OK = UrbStatus.OK
_INTERRUPT = TransferType.INTERRUPT

_parse_setup = lru_cache(64)(SetupPacket.parse)
"""Guests ask the same again and again, and to make one takes as long as five other
objects of a transfer do."""

NEGOTIATE_TIMEOUT = 10.0
"""Seconds without NEGOTIATE after which we speak first (S1)."""

LIST_TIMEOUT = 10.0
"""Seconds without a DEVICE_LIST request after which one is sent unasked (S2)."""


class _Device:
    """A device that is open."""

    __slots__ = ("bytes", "cancelled", "pending")

    def __init__(self) -> None:
        # in flight, by handle, each with its SETUP packet, which results echo
        self.pending: dict[int, tuple[Urb, bytes]] = {}
        self.cancelled: set[int] = set()  # handles
        self.bytes = 0


class VrdpUsbDeviceSide(DeviceSide):
    """See :class:`~rusb.wire.base.DeviceSide`. URB ids are the server's handles.

    No message of a server ends the session.

    Args:
        negotiate_timeout: seconds to wait for NEGOTIATE before speaking first. The
            real server may need 40 while it attaches another client's device (S1).

    Attributes:
        version: protocol version in force, 0 before the negotiation.
    """

    def __init__(self, *, negotiate_timeout: float = NEGOTIATE_TIMEOUT) -> None:
        self._negotiate_timeout = negotiate_timeout
        self._channel = 0
        self._events: list[Event] = []
        self._outputs: list[Output] = []
        self._listed: frozenset[int] = frozenset()
        self._handlers: dict[int, Callable[[bytes, float], None]] = {
            Code.OPEN: self._open,
            Code.CLOSE: self._close,
            Code.SUBMIT_URB: self._submit,
            Code.POLL_URBS: self._poll,
            Code.CANCEL_URB: self._cancel,
            Code.DEVICE_LIST: self._list,
            Code.NEGOTIATE: self._negotiate,
        } | dict.fromkeys(_ARGUMENTS, self._request)
        self._start()

    def _start(self) -> None:
        """Forget the session there was, but not the devices."""
        self.version = 0
        self._is_open = False
        self._is_extended = False
        self._is_asked = False  # a DEVICE_LIST request waits for announce()
        self._sent: bytes | None = None  # the last list
        self._devices: dict[int, _Device] = {}
        self._lost: set[int] = set()
        self._due: float | None = None

    # ---------------------------------------------------------------- Side ----

    def channel_opened(self, channel: int, name: str, *, now: float) -> None:
        """The client waits to be asked."""
        self._channel = channel
        if not self._is_open:
            self._is_open = True
            self._due = now + self._negotiate_timeout

    def channel_closed(self, channel: int) -> None:
        """Every open device is closed (C19)."""
        self._events += map(CloseRequested, self._devices)
        self._outputs.clear()
        self._start()

    def receive_data(self, channel: int, data: bytes, *, now: float) -> None:
        """Take one message; a bad one is skipped (1.3)."""
        if not self._is_open:
            return
        size = len(data)
        length, code = codec.HEADER.unpack_from(data) if size >= 5 else (size, 0)
        if length + 4 > size:
            self._ignore(codec.describe(data))
            return
        handler = self._handlers.get(code)
        if handler is not None:
            handler(data, now)
        else:
            self._ignore(f"message with code {code}")

    def next_deadline(self) -> float | None:
        """When the server has been silent for too long."""
        return self._due

    def handle_deadline(self, now: float) -> None:
        """Speak first: NEGOTIATE once (S1), or the list (S2)."""
        if self._due is None or now < self._due:
            return
        self._due = now + LIST_TIMEOUT
        if self.version == 0:  # every server accepts version 1
            self._send(codec.negotiate_reply(1, 0))
            self._agree(1, 0, is_extended=False)
        else:
            self._ask()

    def events(self) -> list[Event]:
        """Take the events."""
        taken, self._events = self._events, []
        return taken

    def outputs(self) -> list[Output]:
        """Take the outputs."""
        taken, self._outputs = self._outputs, []
        return taken

    # ---------------------------------------------------------- DeviceSide ----

    def announce(
        self,
        devices: Sequence[DeviceInfo],
        descriptors: Mapping[int, DeviceDescriptors] | None = None,
    ) -> None:
        """Store the list; send it if it is asked for, or new to the server (S30).

        Raises:
            LocalProtocolError: an id is not 1 to 65535 (S6), or not unique (S8).
        """
        listed = frozenset(d.id for d in devices)
        if len(listed) < len(devices) or any(not 0 < i <= 0xFFFF for i in listed):
            raise LocalProtocolError("device ids are unique and 1 to 65535")
        self._listed = listed
        self._lost -= listed
        message = codec.serialize_list(devices, extended=self._is_extended)
        if self._is_asked or (self._sent is not None and message != self._sent):
            self._is_asked = False
            self._sent = message
            self._send(message)

    def open_failed(self, device: int) -> None:
        """Status 1, at once: the virtual machine waits for it (S20)."""
        refused = self._devices.pop(device, None)
        self._reply(Code.OPEN, Status.DENIED, device)
        for handle, (urb, setup) in (refused or _Device()).pending.items():
            self._send_error(
                *(device, handle, codec.NOT_RESPONDING, setup),
                is_in=urb.is_in,
                is_urgent=urb.type is _INTERRUPT,
            )

    def device_lost(self, device: int) -> None:
        """From now on requests are answered with status 2 (2.8)."""
        self._lost.add(device)

    def complete_urb(self, device: int, urb_id: int, result: UrbResult) -> None:
        """Send the one URB_RESULT (1.8): one record, LAST set (S13)."""
        target = self._devices.get(device)
        if target is None or urb_id not in target.pending:
            return  # the device was closed
        urb, setup = target.pending.pop(urb_id)
        most = urb.length
        target.bytes -= most
        is_in = urb.endpoint & 0x80 != 0
        is_urgent = urb.type is _INTERRUPT  # before what a disk sends
        error = 0
        if result.status is not _OK:
            error = codec.serialize_error(result.status, self.version)
            if urb_id not in target.cancelled:
                self._send_error(
                    *(device, urb_id, error, setup), is_in=is_in, is_urgent=is_urgent
                )
                return
            error = codec.STALLED  # C14, with what was moved until then
        if target.cancelled:
            target.cancelled.discard(urb_id)
        data: bytes | memoryview = b""
        if not is_in:
            size, length = 0, min(result.length, most) + len(setup)
        else:
            data = result.data
            if len(data) > most:
                data = data[:most]
            if setup:
                data = setup + data
            length = size = len(data)
        head = codec.RESULT.pack(
            15 + size,
            codec.URB_RESULT,
            device,
            codec.FLAG_LAST,
            error,
            urb_id,
            length,
        )
        self._outputs.append(Send(self._channel, head + data, is_urgent, False, device))

    # ---------------------------------------------------------- the requests ----

    def _negotiate(self, data: bytes, now: float) -> None:
        """Answer every NEGOTIATE with the smaller of both versions (1.10)."""
        if len(data) < codec.NEGOTIATE.size:
            self._ignore(f"NEGOTIATE of {len(data)} bytes")
            return
        _, _, offered, flags = codec.NEGOTIATE.unpack_from(data)
        version = max(1, min(offered, codec.VERSION))
        client_flags = flags & codec.EXTENDED if version == codec.VERSION else 0
        self._send(codec.negotiate_reply(version, client_flags))
        self._due = now + LIST_TIMEOUT
        self._agree(version, flags, is_extended=client_flags != 0)

    def _agree(self, version: int, flags: int, *, is_extended: bool) -> None:
        if (version, is_extended) != (self.version, self._is_extended):
            self.version, self._is_extended = version, is_extended
            self._events.append(Negotiated(version, flags))

    def _list(self, data: bytes, now: float) -> None:
        self._due = now + LIST_TIMEOUT
        self._ask()

    def _ask(self) -> None:
        """Ask our caller for the list."""
        self._is_asked = True
        self._events.append(DevicesRequested())

    def _open(self, data: bytes, now: float) -> None:
        device = self._id(data)
        if device is None:
            return
        if device in self._lost:
            self._reply(Code.OPEN, Status.REMOVED, device)
        elif device in self._devices:
            return  # C16: idempotent
        elif device not in self._listed:
            self._reply(Code.OPEN, Status.DENIED, device)
        else:
            self._devices[device] = _Device()
            self._events.append(OpenRequested(device))

    def _close(self, data: bytes, now: float) -> None:
        device = self._id(data)
        if device is not None and self._devices.pop(device, None) is not None:
            self._events.append(CloseRequested(device))

    def _request(self, data: bytes, now: float) -> None:
        """A request that needs an open device."""
        code, device = data[4], self._id(data)
        if device is None:
            return
        if device in self._lost:
            self._reply(code, Status.REMOVED, device)
            return
        if device not in self._devices:
            self._reply(code, Status.DENIED, device)
            return
        arguments = data[9:]
        if len(arguments) < _ARGUMENTS[code]:
            self._ignore(f"code {code} with {len(arguments)} bytes after the id")
            return
        self._events.append(_make_event(code, device, arguments))

    def _poll(self, data: bytes, now: float) -> None:
        """POLL_URBS: everything that was ready has been sent (S17)."""

    def _submit(self, data: bytes, now: float) -> None:
        """SUBMIT_URB (1.7): start it, or answer at once (C11)."""
        if len(data) < codec.SUBMIT.size:
            self._ignore(f"SUBMIT_URB of {len(data)} bytes")
            return
        _, _, number, handle, kind, endpoint, direction, length, size = (
            codec.SUBMIT.unpack_from(data)
        )
        device = self._devices.get(number)
        if not handle or (device is not None and handle in device.pending):
            if device is None or handle not in device.cancelled:
                # An answer would end the other URB of that handle.
                self._ignore(f"SUBMIT_URB with handle {handle}, 0 or in flight")
                return
            device.cancelled.remove(handle)  # the server waits for it no more
            device.bytes -= device.pending.pop(handle)[0].length
        is_in = direction == codec.DIRECTION_IN
        start = codec.SUBMIT.size
        stop = start + size
        setup, request = b"", None
        if kind == codec.URB_CONTROL and size >= 8 and len(data) >= start + 8:
            setup = data[start : start + 8]
            request = _parse_setup(setup)
        if (
            device is None
            or number in self._lost
            or stop > len(data)
            or _is_bad(kind, endpoint, direction, length, size, request)
            or len(device.pending) >= MAX_URBS_IN_FLIGHT
            or device.bytes + length > MAX_BYTES_IN_FLIGHT
        ):  # C11
            self._send_error(
                *(number, handle, codec.NOT_RESPONDING, setup),
                is_in=is_in,
                is_urgent=kind == codec.URB_INTERRUPT,
            )
            return
        if request is not None:
            length = request.length
        payload: bytes | memoryview = b""
        if is_in:
            endpoint |= 0x80
        else:
            payload = cut_payload(data, start + len(setup), stop)
        kind = codec.TRANSFER_TYPES[kind]
        urb = Urb(handle, kind, endpoint, length, payload, request)
        device.pending[handle] = urb, setup
        device.bytes += length
        self._events.append(UrbSubmitted(number, urb))

    def _cancel(self, data: bytes, now: float) -> None:
        """Abort; the result still goes out (C14), unknown ids are ignored (C18)."""
        if len(data) < codec.CANCEL.size:
            self._ignore(f"CANCEL_URB of {len(data)} bytes")
            return
        _, _, number, handle = codec.CANCEL.unpack_from(data)
        device = self._devices.get(number)
        if device is None or handle not in device.pending:
            return
        if handle not in device.cancelled:
            device.cancelled.add(handle)
            self._events.append(CancelRequested(number, handle))

    # ---------------------------------------------------------------- small ----

    def _id(self, data: bytes) -> int | None:
        if len(data) < codec.REQUEST.size:
            self._ignore(f"code {data[4]} with {len(data)} bytes")
            return None
        return int.from_bytes(data[5:9], "little")

    def _reply(self, code: int, status: Status, device: int) -> None:
        self._send(codec.STATUS_REPLY.pack(6, code, status, device), device)

    def _send_error(
        self,
        device: int,
        handle: int,
        error: int,
        setup: bytes,
        *,
        is_in: bool,
        is_urgent: bool,
    ) -> None:
        """End a URB without data, but for the echo of the SETUP packet (S16)."""
        echo = setup if is_in else b""
        size = 15 + len(echo)
        head = (size, codec.URB_RESULT, device, codec.FLAG_LAST, error, handle)
        message = codec.RESULT.pack(*head, len(setup)) + echo
        self._outputs.append(Send(self._channel, message, is_urgent, False, device))

    def _send(self, message: bytes, device: int = 0) -> None:
        self._outputs.append(Send(self._channel, message, device=device))

    def _ignore(self, reason: str) -> None:
        self._events.append(Ignored(reason))


def _is_bad(
    kind: int,
    endpoint: int,
    direction: int,
    length: int,
    size: int,
    request: SetupPacket | None,
) -> bool:
    """Does a SUBMIT_URB contradict itself, or want too much (C12, C13, T23)?"""
    if kind not in codec.TRANSFER_TYPES or endpoint > 0x0F:
        return True
    if length > codec.MAX_URB_LENGTH or size > length:
        return True
    if direction == codec.DIRECTION_OUT:
        if size != length:
            return True
    elif direction != codec.DIRECTION_IN:
        return True
    if kind != codec.URB_CONTROL:
        return False
    is_out = direction == codec.DIRECTION_OUT
    if request is None or (request.request_type & 0x80 == 0) != is_out:
        return True
    # No backend may be led to move more than its buffer holds.
    wanted = request.length + 8
    return wanted > length or (wanted < length and is_out)


_ARGUMENTS: dict[int, int] = {
    Code.RESET: 0,
    Code.SET_CONFIGURATION: 1,
    Code.CLAIM_INTERFACE: 1,
    Code.RELEASE_INTERFACE: 1,
    Code.SET_INTERFACE: 2,
    Code.CLEAR_HALT: 1,
}


def _make_event(code: int, device: int, arguments: bytes) -> Event:
    match code:
        case Code.RESET:
            return ResetRequested(device)
        case Code.SET_CONFIGURATION:
            return ConfigurationRequested(device, arguments[0])
        case Code.CLAIM_INTERFACE:  # C4: the first of two
            return ClaimRequested(device, arguments[0])
        case Code.RELEASE_INTERFACE:
            return ReleaseRequested(device, arguments[0])
        case Code.SET_INTERFACE:
            return AlternateRequested(device, arguments[0], arguments[1])
        case _:
            return ClearHaltRequested(device, arguments[0])
