"""The guest side of ``vrdpusb``: what VirtualBox's server does (vrdpusb.md, 2)."""

import enum
import logging
from collections.abc import Callable

from rusb.errors import LocalProtocolError, ParseError
from rusb.usb.device import DeviceInfo
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    DeviceFailed,
    DevicesListed,
    Event,
    GuestSide,
    Ignored,
    Negotiated,
    Output,
    Send,
    UrbCompleted,
)

from . import _codec as codec
from ._codec import Code, Status

__all__ = ["VrdpUsbGuestSide"]

log = logging.getLogger(__name__)

POLL_INTERVAL = 2.0
"""Seconds between two DEVICE_LIST requests."""

NEGOTIATE_RETRY = 10.0
NEGOTIATE_ATTEMPTS = 6
"""A NEGOTIATE may be lost while the output is suspended (S1)."""

LIST_RETRY = 10.0
"""Seconds after which an unanswered DEVICE_LIST is repeated (S2)."""

CONTROL_TIMEOUT = 5.5
"""Seconds for a control transfer: what hosts allow, and half a second of network."""

POLL_URBS_INTERVAL = 0.01
"""Seconds between POLL_URBS to a client that wants them (2.1)."""

RETIRED_REUSE = 0xFFFFFFFF


class _State(enum.Enum):
    CLOSED = enum.auto()
    NEGOTIATING = enum.auto()
    MUTE = enum.auto()  # negotiation failed
    LISTING = enum.auto()


class _Pending:
    """A URB in flight."""

    __slots__ = ("deadline", "is_control", "is_in", "length", "pieces", "urb_id")

    def __init__(self, urb: Urb, deadline: float | None) -> None:
        self.urb_id = urb.id
        self.is_in = urb.endpoint & 0x80 != 0
        self.is_control = urb.type is TransferType.CONTROL
        self.length = urb.length
        self.deadline = deadline
        self.pieces: list[memoryview] | None = None


class _Device:
    """A device that is open."""

    __slots__ = ("handles", "has_failed", "last_handle", "pending")

    def __init__(self) -> None:
        self.pending: dict[int, _Pending] = {}  # by handle
        self.handles: dict[int, int] = {}  # urb id to handle
        self.last_handle = 0
        self.has_failed = False


class VrdpUsbGuestSide(GuestSide):
    """See :class:`~rusb.wire.base.GuestSide`."""

    def __init__(
        self,
        *,
        poll_interval: float = POLL_INTERVAL,
        control_timeout: float = CONTROL_TIMEOUT,
    ) -> None:
        self.version = 0
        self._poll_interval = poll_interval
        self._control_timeout = control_timeout
        self._state = _State.CLOSED
        self._channel = 0
        self._events: list[Event] = []
        self._outputs: list[Output] = []
        self._devices: dict[int, _Device] = {}
        self._listed: tuple[DeviceInfo, ...] | None = None
        self._is_extended = False
        self._wants_polls = False
        self._empty_lists = 0
        self._attempts = 0
        self._list_due: float | None = None  # next request, or its repetition
        self._control: dict[tuple[int, int], float] = {}  # (device, handle) to deadline
        self._poll_due: float | None = None
        self._handlers: dict[int, Callable[[bytes, float], None]] = {
            Code.URB_RESULT: self._results,
            Code.DEVICE_LIST: self._list,
            Code.NEGOTIATE: self._negotiated,
        }

    # ---------------------------------------------------------------- Side ----

    def channel_opened(self, channel: int, name: str, *, now: float) -> None:
        """Begin to negotiate at once."""
        self._channel = channel
        if self._state is _State.CLOSED:
            self._state = _State.NEGOTIATING
            self._negotiate(now)

    def channel_closed(self, channel: int) -> None:
        """Everything in flight completes with NO_DEVICE."""
        self._state = _State.CLOSED
        for number in list(self._devices):
            self._complete_all(number, UrbStatus.NO_DEVICE)
        self._devices.clear()
        self._list_due = self._poll_due = None
        self._outputs.clear()

    def receive_data(self, channel: int, data: bytes, *, now: float) -> None:
        """Take one message; nothing in it ends the session (1.3)."""
        if self._state is _State.CLOSED:
            return
        if len(data) < 5:
            self._ignore(f"message of {len(data)} bytes")
            return
        length = int.from_bytes(data[:4], "little")
        if length + 4 > len(data):
            self._ignore(f"length field {length}, have {len(data) - 4}")
            return
        code = data[4]
        handler = self._handlers.get(code)
        if handler is not None:
            handler(data, now)
        elif code in _REPLIES:
            self._status_reply(data)
        else:
            self._ignore(f"message with code {code}")

    def next_deadline(self) -> float | None:
        """The next thing to do; constant work per call."""
        # Control deadlines are in the order of submission: the first is the soonest.
        due = self._list_due
        if self._control:
            first = next(iter(self._control.values()))
            due = first if due is None or first < due else due
        if self._poll_due is not None and (due is None or self._poll_due < due):
            due = self._poll_due
        return due

    def handle_deadline(self, now: float) -> None:
        """Repeat what was lost, ask for the list, give up on control transfers."""
        if self._list_due is not None and now >= self._list_due:
            if self._state is _State.NEGOTIATING:
                self._negotiate(now)
            else:
                self._request_list(now)
        while self._control:
            (number, handle), deadline = next(iter(self._control.items()))
            if now < deadline:
                break
            self._send(self._cancel_message(number, handle))
            self._finish(number, handle, UrbResult(UrbStatus.TIMEOUT))
        if self._poll_due is not None and now >= self._poll_due:
            self._send(codec.empty(Code.URB_RESULT))
            is_busy = any(d.pending for d in self._devices.values())
            self._poll_due = now + POLL_URBS_INTERVAL if is_busy else None

    def events(self) -> list[Event]:
        """Take the events."""
        taken, self._events = self._events, []
        return taken

    def outputs(self) -> list[Output]:
        """Take the outputs."""
        taken, self._outputs = self._outputs, []
        return taken

    # ----------------------------------------------------------- GuestSide ----

    def open_device(self, device: int) -> None:
        """Send OPEN; no reply follows unless it is refused (C1)."""
        if not any(d.id == device for d in self._listed or ()):
            raise LocalProtocolError(f"device {device} is not listed")
        if device in self._devices:
            raise LocalProtocolError(f"device {device} is open already")
        self._devices[device] = _Device()
        self._send(codec.request(Code.OPEN, device))

    def close_device(self, device: int) -> None:
        """CANCEL_URB for each URB in flight, then CLOSE (2.7)."""
        if device not in self._devices:
            return
        self._cancel_all(device)
        del self._devices[device]
        self._send(codec.request(Code.CLOSE, device))

    def reset_device(self, device: int) -> None:
        """CANCEL_URB for each URB in flight, then RESET (2.5)."""
        self._cancel_all(device)
        self._send_request(device, Code.RESET)

    def set_configuration(self, device: int, value: int) -> None:
        """Send SET_CONFIGURATION."""
        self._send_request(device, Code.SET_CONFIGURATION, value)

    def claim_interface(self, device: int, interface: int) -> None:
        """Send CLAIM_INTERFACE; the number twice, for the client that needs it (C4)."""
        self._send_request(device, Code.CLAIM_INTERFACE, interface, interface)

    def release_interface(self, device: int, interface: int) -> None:
        """Send RELEASE_INTERFACE."""
        self._send_request(device, Code.RELEASE_INTERFACE, interface)

    def set_interface(self, device: int, interface: int, alternate: int) -> None:
        """Send SET_INTERFACE."""
        self._send_request(device, Code.SET_INTERFACE, interface, alternate)

    def clear_halt(self, device: int, endpoint: int) -> None:
        """Send CLEAR_HALT, with the direction bit (1.6)."""
        self._send_request(device, Code.CLEAR_HALT, endpoint)

    def submit_urb(self, device: int, urb: Urb, *, now: float) -> None:
        """Send SUBMIT_URB (1.7)."""
        target = self._devices.get(device)
        if target is None or target.has_failed or self._state is _State.CLOSED:
            self._reject(device, urb, UrbStatus.NO_DEVICE)
            return
        kind = codec.URB_TYPES.get(urb.type)
        if (
            kind is None  # isochronous: the protocol has no field for packets
            or urb.length > codec.MAX_URB_LENGTH
            or urb.id in target.handles
            or (urb.setup is None) == (kind == codec.URB_CONTROL)
        ):
            self._reject(device, urb, UrbStatus.INVALID)
            return
        handle = self._new_handle(target)
        deadline = None
        length, data = urb.length, urb.data
        if urb.setup is not None:
            deadline = now + self._control_timeout
            self._control[device, handle] = deadline
            length += 8
            data = urb.setup.serialize() + bytes(data)
        target.pending[handle] = _Pending(urb, deadline)
        target.handles[urb.id] = handle
        head = codec.SUBMIT.pack(
            20 + len(data),
            Code.SUBMIT_URB,
            device,
            handle,
            kind,
            urb.endpoint & 0x0F,
            codec.DIRECTION_IN if urb.endpoint & 0x80 else codec.DIRECTION_OUT,
            length,
            len(data),
        )
        self._send(b"".join((head, data)))
        if self._wants_polls and self._poll_due is None:
            self._poll_due = now + POLL_URBS_INTERVAL

    def cancel_urb(self, device: int, urb_id: int) -> None:
        """Send CANCEL_URB; the URB completes at once (2.6)."""
        target = self._devices.get(device)
        handle = target.handles.get(urb_id) if target else None
        if handle is not None:
            self._send(self._cancel_message(device, handle))
            self._finish(device, handle, UrbResult(UrbStatus.CANCELLED))

    # ------------------------------------------------- negotiation and list ----

    def _negotiate(self, now: float) -> None:
        self._attempts += 1
        self._send(
            codec.NEGOTIATE.pack(5, Code.NEGOTIATE, codec.VERSION, codec.EXTENDED)
        )
        if self._attempts < NEGOTIATE_ATTEMPTS:
            self._list_due = now + NEGOTIATE_RETRY
        else:
            self._list_due = None

    def _negotiated(self, data: bytes, now: float) -> None:
        """Evaluate the reply (1.10); it is accepted at any time (S29)."""
        body = data[5:]
        if not body:
            self._ignore("NEGOTIATE without a body")
            return
        flags = body[0]
        version, client_flags = 1, 0
        if flags & codec.HAS_VERSION:
            if len(body) < 5:
                self._refuse(flags, f"bad packet size {len(body)}")
                return
            version = int.from_bytes(body[1:5], "little")
            if version > codec.VERSION:  # S12
                self._refuse(flags, f"unsupported remote USB version {version}")
                return
            if version == codec.VERSION and len(body) >= 9:  # S11
                client_flags = int.from_bytes(body[5:9], "little")
        self.version = version
        self._wants_polls = flags & codec.POLL != 0
        self._is_extended = version == 3 and client_flags & codec.EXTENDED != 0
        self._state = _State.LISTING
        self._events.append(Negotiated(version, flags))
        self._request_list(now)

    def _refuse(self, flags: int, error: str) -> None:
        self._state = _State.MUTE
        self._list_due = None
        self._events.append(Negotiated(0, flags, error))

    def _request_list(self, now: float) -> None:
        self._send(codec.empty(Code.DEVICE_LIST))
        self._list_due = now + LIST_RETRY

    def _list(self, data: bytes, now: float) -> None:
        """Take a list, asked for or not (S30)."""
        if self._state is not _State.LISTING:
            self._ignore("DEVICE_LIST before the negotiation")
            return
        self._list_due = now + self._poll_interval
        try:
            devices = codec.parse_list(data[5:], extended=self._is_extended)
        except ParseError as error:
            # The original drops the rest of the list, which unplugs good devices.
            self._ignore(f"device list: {error}; the one before stands")
            return
        if not devices and self._listed and not self._empty_lists:
            self._empty_lists = 1  # C24: a transient failure looks like this
            self._list_due = now
            return
        self._empty_lists = 0
        if devices != self._listed:
            self._listed = devices
            self._events.append(DevicesListed(devices))

    # --------------------------------------------------------------- replies ----

    def _status_reply(self, data: bytes) -> None:
        if len(data) < codec.STATUS_REPLY.size:
            self._ignore(f"status reply of {len(data)} bytes")
            return
        _, code, status, number = codec.STATUS_REPLY.unpack_from(data)
        device = self._devices.get(number)
        if device is None:
            self._ignore(f"status {status} of unknown device {number}")
            return
        if status == Status.SUCCESS or device.has_failed:
            return  # C2: it may be a failure, but not one that ends the device
        device.has_failed = True
        self._complete_all(number, UrbStatus.NO_DEVICE)
        name = Code(code).name.lower()
        self._events.append(DeviceFailed(number, name, status == Status.REMOVED))

    def _results(self, data: bytes, now: float) -> None:
        """Take result records in the order of checks of 1.8."""
        offset, size = codec.HEADER.size, len(data)
        view = memoryview(data)
        known = codec.FLAG_LAST | (codec.FLAG_FRAGMENT if self.version >= 3 else 0)
        while size - offset >= codec.RECORD.size:
            number, flags, error, handle, length = codec.RECORD.unpack_from(
                data, offset
            )
            offset += codec.RECORD.size
            if flags & ~known or not handle:
                self._ignore(f"URB_RESULT with flags {flags:#x}, handle {handle}")
                return
            device = self._devices.get(number)
            if device is None:
                self._ignore(f"URB_RESULT for device {number}, which is not open")
                return
            pending = device.pending.get(handle)
            if pending is None:  # late, after a cancel (C14); S13 for what follows
                log.debug("< result for finished handle %d", handle)
            else:
                taken = length if pending.is_in else 0
                body = view[offset : offset + taken]
                offset += taken
                self._result(number, handle, pending, (flags, error, length), body)
            if flags & codec.FLAG_LAST:
                return
        if offset != size:
            self._ignore(f"URB_RESULT: {size - offset} bytes are no record")

    def _result(
        self,
        number: int,
        handle: int,
        pending: _Pending,
        record: tuple[int, int, int],
        body: memoryview,
    ) -> None:
        flags, error, length = record
        status = codec.parse_error(error, self.version)
        if not pending.is_in:
            moved = length - 8 if pending.is_control else length
            if moved > pending.length:  # T23: more than was sent
                status = UrbStatus.NO_DEVICE
            moved = min(max(moved, 0), pending.length)
            self._finish(number, handle, UrbResult(status, b"", moved))
            return
        if len(body) < length:  # 7.x: not responding
            self._finish(number, handle, UrbResult(UrbStatus.NO_DEVICE))
            return
        if pending.is_control and pending.pieces is None:
            body = body[8:]  # the echo of the SETUP packet (S27)
        if flags & codec.FLAG_FRAGMENT and status is UrbStatus.OK:  # S25
            pieces = pending.pieces = pending.pieces or []
            pieces.append(body)
            if sum(map(len, pieces)) <= pending.length:
                return
        data: bytes | memoryview = body
        if pending.pieces is not None:
            if pending.pieces[-1:] != [body]:
                pending.pieces.append(body)
            data = b"".join(pending.pieces)
        if len(data) > pending.length:
            status, data = UrbStatus.OVERFLOW, data[: pending.length]
        self._finish(number, handle, UrbResult(status, data, len(data)))

    # -------------------------------------------------------------- small ----

    def _finish(self, number: int, handle: int, result: UrbResult) -> None:
        device = self._devices[number]
        pending = device.pending.pop(handle)
        del device.handles[pending.urb_id]
        if pending.deadline is not None:
            del self._control[number, handle]
        self._events.append(UrbCompleted(number, pending.urb_id, result))

    def _complete_all(self, number: int, status: UrbStatus) -> None:
        for handle in list(self._devices[number].pending):
            self._finish(number, handle, UrbResult(status))

    def _cancel_all(self, number: int) -> None:
        device = self._devices.get(number)
        if device is not None:
            for handle in device.pending:
                self._send(self._cancel_message(number, handle))
            self._complete_all(number, UrbStatus.CANCELLED)

    @staticmethod
    def _new_handle(device: _Device) -> int:
        while True:
            device.last_handle = device.last_handle % RETIRED_REUSE + 1
            if device.last_handle not in device.pending:
                return device.last_handle

    def _send_request(self, device: int, code: Code, *arguments: int) -> None:
        target = self._devices.get(device)
        if target is not None and not target.has_failed:
            self._send(codec.request(code, device, *arguments))

    @staticmethod
    def _cancel_message(device: int, handle: int) -> bytes:
        return codec.HEADER.pack(9, Code.CANCEL_URB) + codec.CANCEL.pack(device, handle)

    def _send(self, message: bytes) -> None:
        self._outputs.append(Send(self._channel, message))

    def _reject(self, device: int, urb: Urb, status: UrbStatus) -> None:
        self._events.append(UrbCompleted(device, urb.id, UrbResult(status)))

    def _ignore(self, reason: str) -> None:
        self._events.append(Ignored(reason))


_REPLIES = frozenset(
    (
        Code.OPEN,
        Code.RESET,
        Code.SET_CONFIGURATION,
        Code.CLAIM_INTERFACE,
        Code.RELEASE_INTERFACE,
        Code.SET_INTERFACE,
        Code.CLEAR_HALT,
    )
)
