"""The guest side of ``vrdpusb``: what VirtualBox's server does (vrdpusb.md, 2)."""

import enum
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from rusb.errors import LocalProtocolError, ParseError
from rusb.usb.device import DeviceInfo
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus, cut_payload
from rusb.wire.base import (
    DeviceFailed,
    DevicesListed,
    Event,
    GuestSide,
    Ignored,
    Negotiated,
    Output,
    RequestCompleted,
    Send,
    UrbCompleted,
)

from . import _codec as codec
from ._codec import Code, Status

__all__ = ["VrdpUsbGuestSide", "WireState"]

log = logging.getLogger(__name__)

POLL_INTERVAL = 2.0
"""Seconds from a device list to the next request for one."""

NEGOTIATE_RETRY = 10.0
NEGOTIATE_ATTEMPTS = 6
"""A NEGOTIATE may be lost while the output is suspended (S1)."""

LIST_RETRY = 10.0
"""Seconds after which an unanswered DEVICE_LIST is repeated (S2)."""

CONTROL_TIMEOUT = 300.0
"""Seconds for a control transfer. The guest sets the limit, which may be a minute (chip
erase); this one is for what was lost (C11) in a guest that sets none."""

CANCEL_TIMEOUT = 2.0
"""Seconds for the result of a cancelled URB, which has what was moved until then (C14).
Clients that have none, or that suppress it, are not waited for."""

POLL_URBS_INTERVAL = 0.01
"""Seconds between POLL_URBS to a client that wants them (2.1)."""

MAX_HANDLE = 0xFFFFFFFF

MAX_RECORDS = 4096
"""Results in one message; every known client sends one."""

_OK = UrbStatus.OK
_CONTROL, _INTERRUPT = TransferType.CONTROL, TransferType.INTERRUPT


@dataclass(frozen=True, slots=True)
class WireState:
    """A session that nothing is in flight of; another core goes on with it.

    Attributes:
        version: in force.
        is_extended: lists have the client's own fields.
        wants_polls: the client is to be asked for results.
        last_handle: what the latest URB was called.
        listed: the devices of the last list.
        opened: ids of those that are open.
    """

    version: int
    is_extended: bool
    wants_polls: bool
    last_handle: int
    listed: tuple[DeviceInfo, ...]
    opened: tuple[int, ...]


class _State(enum.Enum):
    CLOSED = enum.auto()
    NEGOTIATING = enum.auto()
    MUTE = enum.auto()  # negotiation failed
    LISTING = enum.auto()


_CLOSED = _State.CLOSED


class _Device:
    """A device that is open."""

    __slots__ = ("cancelled", "fragments", "handles", "has_failed", "pending")

    def __init__(self) -> None:
        self.pending: dict[int, Urb] = {}  # in flight, by handle
        self.handles: dict[int, int] = {}  # urb id to handle
        self.cancelled: set[int] = set()  # handles
        self.fragments: dict[int, bytearray] = {}  # what has come so far, by handle
        self.has_failed = False


class VrdpUsbGuestSide(GuestSide):
    """See :class:`~rusb.wire.base.GuestSide`. No message of a client ends the session.

    Args:
        poll_interval: seconds from a device list to the next request for one.
        control_timeout: seconds after which a control transfer is cancelled and
            completes with TIMEOUT; no other transfer is ever timed.

    Attributes:
        version: protocol version in force, 0 before the negotiation.
    """

    def __init__(
        self,
        *,
        poll_interval: float = POLL_INTERVAL,
        control_timeout: float = CONTROL_TIMEOUT,
    ) -> None:
        self._poll_interval = poll_interval
        self._control_timeout = control_timeout
        self._channel = 0
        self._events: list[Event] = []
        self._outputs: list[Output] = []
        self._handlers: dict[int, Callable[[bytes, float], None]] = {
            Code.URB_RESULT: self._results,
            Code.DEVICE_LIST: self._list,
            Code.NEGOTIATE: self._negotiated,
        } | dict.fromkeys(_REPLIES, self._status_reply)
        # One count for all devices, so that a late result of a device that was
        # closed and opened again meets no new URB.
        self._last_handle = 0
        self._start()

    def _start(self) -> None:
        """Forget the session there was."""
        self.version = 0
        self._unknown_flags = _unknown_flags(0)  # of a result
        self._state = _CLOSED
        self._agreed: tuple[int, ...] = ()
        self._is_extended = False
        self._wants_polls = False
        self._attempts = 0
        self._devices: dict[int, _Device] = {}
        self._listed: tuple[DeviceInfo, ...] | None = None
        self._was_empty = False  # the last list was, and is not believed yet
        self._list_due = inf  # next request, or its repetition
        self._poll_due = inf
        self._control_due = inf  # the soonest of these, or one that is done
        # (device, handle) to deadline, in the order of submission, of cancelling
        self._control: dict[tuple[int, int], float] = {}
        self._cancelled: dict[tuple[int, int], float] = {}
        self._just_cancelled: dict[tuple[int, int], None] = {}  # without one so far

    # ------------------------------------------------------ to another core ----

    @property
    def may_move(self) -> bool:
        """Could another core go on? Nothing may be in flight."""
        is_idle = not any(d.pending or d.has_failed for d in self._devices.values())
        return is_idle and self._state is _State.LISTING and self._listed is not None

    def state(self) -> WireState:
        """Return what another core needs to go on; where :attr:`may_move` is true."""
        return WireState(
            self.version,
            self._is_extended,
            self._wants_polls,
            self._last_handle,
            self._listed or (),
            tuple(self._devices),
        )

    def adopt(self, channel: int, state: WireState, *, now: float) -> None:
        """Go on with the session of another core, on a channel; before all else.

        Raises:
            ParseError: *state* contradicts itself.
        """
        if not 1 <= state.version <= codec.VERSION:
            raise ParseError(f"remote USB version {state.version}")
        if not {*state.opened} <= {info.id for info in state.listed}:
            raise ParseError("a device that is open and was not listed")
        self._channel, self.version = channel, state.version
        self._state = _State.LISTING
        self._is_extended, self._wants_polls = state.is_extended, state.wants_polls
        self._poll_due = now if state.wants_polls else inf
        self._last_handle = state.last_handle
        self._listed = state.listed
        self._devices = {number: _Device() for number in state.opened}
        self._list_due = now + self._poll_interval

    # ---------------------------------------------------------------- Side ----

    def channel_opened(self, channel: int, name: str, *, now: float) -> None:
        """Begin to negotiate at once."""
        self._channel = channel
        if self._state is _State.CLOSED:
            self._state = _State.NEGOTIATING
            self._negotiate(now)

    def channel_closed(self, channel: int) -> None:
        """Everything in flight completes with NO_DEVICE."""
        for number in self._devices:
            self._complete_all(number, UrbStatus.NO_DEVICE)
        self._outputs.clear()
        self._start()

    def receive_data(self, channel: int, data: bytes, *, now: float) -> None:
        """Take one message; a bad one is skipped (1.3)."""
        if self._state is _CLOSED:
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
        """The next thing to do, or earlier; constant work per call."""
        if self._just_cancelled:
            return 0.0  # tell the time
        due = self._list_due
        if self._control_due < due:
            due = self._control_due
        if self._poll_due < due:
            due = self._poll_due
        if self._cancelled:  # the first is the soonest
            due = min(due, next(iter(self._cancelled.values())))
        return due if due < inf else None

    def handle_deadline(self, now: float) -> None:
        """Repeat what was lost, ask for the list, give up on control transfers."""
        if now >= self._list_due:
            if self._state is _State.NEGOTIATING:
                self._negotiate(now)
            else:
                self._request_list(now)
        for number, handle in _late(self._control, now):
            self._send(codec.cancel(number, handle), number)
            status = UrbStatus.TIMEOUT
            self._finish(number, self._devices[number], handle, UrbResult(status))
        self._control_due = next(iter(self._control.values()), inf)
        for number, handle in _late(self._cancelled, now):
            status = UrbStatus.CANCELLED
            self._finish(number, self._devices[number], handle, UrbResult(status))
        for key in self._just_cancelled:
            self._cancelled[key] = now + CANCEL_TIMEOUT
        self._just_cancelled.clear()
        if now >= self._poll_due:
            self._poll_due = inf
            if any(d.pending for d in self._devices.values()):  # S17
                self._send(codec.empty(Code.POLL_URBS))
                self._poll_due = now + POLL_URBS_INTERVAL

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
        self._send(codec.request(Code.OPEN, device), device, is_fence=True)

    def close_device(self, device: int) -> None:
        """CANCEL_URB for each URB in flight, then CLOSE (2.7)."""
        if device not in self._devices:
            return
        self._cancel_all(device)
        del self._devices[device]
        self._send(codec.request(Code.CLOSE, device), device, is_fence=True)

    def reset_device(self, device: int, *, request: int | None = None) -> None:
        """CANCEL_URB for each URB in flight, then RESET (2.5)."""
        self._cancel_all(device)
        self._send_request(device, Code.RESET, request=request)

    def set_configuration(
        self, device: int, value: int, *, request: int | None = None
    ) -> None:
        """Send SET_CONFIGURATION."""
        self._send_request(device, Code.SET_CONFIGURATION, value, request=request)

    def claim_interface(
        self, device: int, interface: int, *, request: int | None = None
    ) -> None:
        """Send CLAIM_INTERFACE; the number twice, for the client that needs it (C4)."""
        numbers = interface, interface
        self._send_request(device, Code.CLAIM_INTERFACE, *numbers, request=request)

    def release_interface(
        self, device: int, interface: int, *, request: int | None = None
    ) -> None:
        """Send RELEASE_INTERFACE."""
        self._send_request(device, Code.RELEASE_INTERFACE, interface, request=request)

    def set_interface(
        self, device: int, interface: int, alternate: int, *, request: int | None = None
    ) -> None:
        """Send SET_INTERFACE."""
        numbers = interface, alternate
        self._send_request(device, Code.SET_INTERFACE, *numbers, request=request)

    def clear_halt(
        self, device: int, endpoint: int, *, request: int | None = None
    ) -> None:
        """Send CLEAR_HALT, with the direction bit (1.6)."""
        self._send_request(device, Code.CLEAR_HALT, endpoint, request=request)

    def submit_urb(self, device: int, urb: Urb, *, now: float) -> None:
        """Send SUBMIT_URB (1.7).

        What contradicts itself completes INVALID, for a client may trust us (C13).
        """
        target = self._devices.get(device)
        if target is None or target.has_failed:
            self._reject(device, urb, UrbStatus.NO_DEVICE)
            return
        kind = codec.URB_TYPES.get(urb.type)  # none for isochronous
        if kind is None or urb.id in target.handles or _is_impossible(urb):
            self._reject(device, urb, UrbStatus.INVALID)
            return
        handle = self._new_handle(target)
        target.pending[handle] = urb
        target.handles[urb.id] = handle
        endpoint, length = urb.endpoint, urb.length
        data, direction = urb.data, codec.DIRECTION_OUT
        if endpoint & 0x80:
            data, direction = b"", codec.DIRECTION_IN
        if urb.setup is not None:
            due = self._control[device, handle] = now + self._control_timeout
            if due < self._control_due:
                self._control_due = due
            data = urb.setup.serialize() + data
            length = 8 + urb.setup.length
        size = len(data)
        head = codec.SUBMIT.pack(
            20 + size,
            codec.SUBMIT_URB,
            device,
            handle,
            kind,
            endpoint & 0x0F,
            direction,
            length,
            size,
        )
        self._outputs.append(
            Send(self._channel, head + data, urb.type is _INTERRUPT, False, device)
        )
        if self._wants_polls and self._poll_due == inf:
            self._poll_due = now + POLL_URBS_INTERVAL

    def cancel_urb(self, device: int, urb_id: int) -> None:
        """Send CANCEL_URB; the URB completes with its result, or soon without."""
        target = self._devices.get(device)
        handle = target.handles.get(urb_id) if target is not None else None
        if target is None or handle is None or handle in target.cancelled:
            return
        target.cancelled.add(handle)
        self._just_cancelled[device, handle] = None
        self._send_cancel(device, handle, target.pending[handle])

    # ------------------------------------------------- negotiation and list ----

    def _negotiate(self, now: float) -> None:
        self._attempts += 1
        self._send(
            codec.NEGOTIATE.pack(5, Code.NEGOTIATE, codec.VERSION, codec.EXTENDED)
        )
        is_last = self._attempts >= NEGOTIATE_ATTEMPTS
        self._list_due = inf if is_last else now + NEGOTIATE_RETRY

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
            if not 1 <= version <= codec.VERSION:  # S12
                self._refuse(flags, f"unsupported remote USB version {version}")
                return
            if version == codec.VERSION and len(body) >= 9:  # S11
                client_flags = int.from_bytes(body[5:9], "little")
        self.version = version
        self._unknown_flags = _unknown_flags(version)
        self._wants_polls = flags & codec.POLL != 0
        self._poll_due = now if self._wants_polls else inf
        self._is_extended = version == 3 and client_flags & codec.EXTENDED != 0
        self._state = _State.LISTING
        agreed = version, flags, client_flags
        if agreed != self._agreed:
            self._agreed = agreed
            self._events.append(Negotiated(version, flags))
        self._request_list(now)

    def _refuse(self, flags: int, error: str) -> None:
        if self._state is _State.MUTE:
            self._ignore(error)
            return
        self._state = _State.MUTE
        self._agreed = ()
        self._list_due = inf
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
            self._ignore(f"device list: {error}; the previous one stays in effect")
            return
        if not devices and self._listed and self.version == 1 and not self._was_empty:
            # C24: rdesktop-vrdp, always version 1, sends this when it fails to look.
            self._was_empty = True
            self._ignore("empty device list; waiting for the next one")
            return
        self._was_empty = False
        if devices != self._listed:
            self._listed = devices
            self._events.append(DevicesListed(devices))

    # --------------------------------------------------------------- replies ----

    def _status_reply(self, data: bytes, now: float) -> None:
        if len(data) < codec.STATUS_REPLY.size:
            self._ignore(f"status reply of {len(data)} bytes")
            return
        _, code, status, number = codec.STATUS_REPLY.unpack_from(data)
        device = self._devices.get(number)
        if device is None:
            self._ignore(f"status {status} of device {number}, which is not open")
            return
        if status == Status.SUCCESS or device.has_failed:
            return  # C2: it may be a failure, but not one that ends the device
        device.has_failed = True
        self._complete_all(number, UrbStatus.NO_DEVICE)
        name = Code(code).name.lower()
        self._events.append(DeviceFailed(number, name, status == Status.REMOVED))

    def _results(self, data: bytes, now: float) -> None:
        """Take result records in the order of checks of 1.8."""
        start, end = codec.HEADER.size, len(data)
        for _ in range(MAX_RECORDS):
            offset = start + codec.RECORD.size
            if offset > end:
                if start < end or start == codec.HEADER.size:
                    self._ignore(f"URB_RESULT: a record of {end - start} bytes")
                return
            record = codec.RECORD.unpack_from(data, start)
            number, flags, _, handle, length = record
            if flags & self._unknown_flags or not handle:
                self._ignore(f"URB_RESULT with flags {flags:#x}, handle {handle}")
                return
            device = self._devices.get(number)
            if device is None:
                self._ignore(f"URB_RESULT for device {number}, which is not open")
                return
            urb = device.pending.get(handle)
            start = offset
            if urb is None:  # late, after a cancel (C14); S13 for what follows
                log.debug("< result for finished handle %d", handle)
            else:
                body: bytes | memoryview = b""
                if length and urb.endpoint & 0x80:
                    start += length
                    body = cut_payload(data, offset, start)
                result = self._result(device, urb, record, body)
                if result is not None:
                    self._finish(number, device, handle, result)
            if flags & codec.FLAG_LAST:
                return
        self._ignore(f"URB_RESULT with more than {MAX_RECORDS} records")

    def _result(
        self,
        device: _Device,
        urb: Urb,
        record: tuple[int, int, int, int, int],
        body: bytes | memoryview,
    ) -> UrbResult | None:
        """Return how a URB ended; None: that was a fragment of it, which is kept.

        Args:
            device: whose it is.
            urb: itself.
            record: id, flags, error, handle and len.
            body: what there is of its data; empty for OUT.
        """
        _, flags, error, handle, length = record
        status = _OK
        if error:
            status = codec.parse_error(error, self.version)
            if handle in device.cancelled:
                status = UrbStatus.CANCELLED
        head = 0 if urb.setup is None else 8  # the SETUP packet, echoed (S27)
        if not urb.endpoint & 0x80:
            moved = length - head if length > head else 0
            if moved > urb.length:
                status, moved = UrbStatus.NO_DEVICE, urb.length
            return UrbResult(status, b"", moved)
        if len(body) < length:  # 7.x: not responding
            return UrbResult(UrbStatus.NO_DEVICE)
        if flags & codec.FLAG_FRAGMENT or handle in device.fragments:
            buffer = device.fragments.setdefault(handle, bytearray())
            buffer += body
            is_more = flags & codec.FLAG_FRAGMENT and status is _OK  # S25
            if is_more and len(buffer) <= head + urb.length:
                return None
            body = memoryview(buffer)
        data = body[head:] if head else body
        if len(data) > urb.length:
            status, data = UrbStatus.OVERFLOW, data[: urb.length]
        return UrbResult(status, data, len(data))

    # -------------------------------------------------------------- small ----

    def _finish(
        self, number: int, device: _Device, handle: int, result: UrbResult
    ) -> None:
        urb = device.pending.pop(handle)
        del device.handles[urb.id]
        if urb.setup is not None:
            del self._control[number, handle]
        if device.fragments:
            device.fragments.pop(handle, None)
        if handle in device.cancelled:
            device.cancelled.remove(handle)
            self._cancelled.pop((number, handle), None)
            self._just_cancelled.pop((number, handle), None)
        self._events.append(UrbCompleted(number, urb.id, result))

    def _complete_all(self, number: int, status: UrbStatus) -> None:
        device = self._devices[number]
        for handle in list(device.pending):
            self._finish(number, device, handle, UrbResult(status))

    def _cancel_all(self, number: int) -> None:
        device = self._devices.get(number)
        if device is not None:
            for handle, urb in device.pending.items():
                if handle not in device.cancelled:
                    self._send_cancel(number, handle, urb)
            self._complete_all(number, UrbStatus.CANCELLED)

    def _send_cancel(self, device: int, handle: int, urb: Urb) -> None:
        """Cancel a URB; one that is urgent is cancelled as soon."""
        is_urgent = urb.type is _INTERRUPT
        self._send(codec.cancel(device, handle), device, is_urgent=is_urgent)

    def _new_handle(self, device: _Device) -> int:
        """The next number that is not 0 and not in flight."""
        while True:
            self._last_handle = self._last_handle % MAX_HANDLE + 1
            if self._last_handle not in device.pending:
                return self._last_handle

    def _send_request(
        self, device: int, code: Code, *arguments: int, request: int | None
    ) -> None:
        """Send a request; it is done with that, for no reply confirms one (C2)."""
        target, status = self._devices.get(device), UrbStatus.NO_DEVICE
        if target is not None and not target.has_failed:
            status = UrbStatus.OK
            # interrupt transfers before and after it stay there
            message = codec.request(code, device, *arguments)
            self._send(message, device, is_fence=True)
        if request is not None:
            self._events.append(RequestCompleted(device, request, status))

    def _send(
        self,
        message: bytes,
        device: int = 0,
        *,
        is_urgent: bool = False,
        is_fence: bool = False,
    ) -> None:
        self._outputs.append(Send(self._channel, message, is_urgent, is_fence, device))

    def _reject(self, device: int, urb: Urb, status: UrbStatus) -> None:
        self._events.append(UrbCompleted(device, urb.id, UrbResult(status)))

    def _ignore(self, reason: str) -> None:
        self._events.append(Ignored(reason))


def _late(limits: dict[tuple[int, int], float], now: float) -> list[tuple[int, int]]:
    """What is due of *limits*, which are in order."""
    return [
        key for key, _ in itertools.takewhile(lambda e: e[1] <= now, limits.items())
    ]


def _unknown_flags(version: int) -> int:
    """Which flags of a result have no meaning in a version."""
    return ~(codec.FLAG_LAST | (codec.FLAG_FRAGMENT if version >= 3 else 0))


def _is_impossible(urb: Urb) -> bool:
    """Does the URB contradict itself, or is it too large?"""
    if not 0 <= urb.length <= codec.MAX_URB_LENGTH or urb.endpoint & 0x70:
        return True
    is_out = not urb.endpoint & 0x80
    if is_out and len(urb.data) != urb.length:
        return True
    setup = urb.setup
    if urb.type is not _CONTROL:
        return setup is not None
    if setup is None or (setup.request_type & 0x80 == 0) != is_out:
        return True
    return not setup.is_possible or (is_out and setup.length != urb.length)


_REPLIES: tuple[int, ...] = (
    Code.OPEN,
    Code.RESET,
    Code.SET_CONFIGURATION,
    Code.CLAIM_INTERFACE,
    Code.RELEASE_INTERFACE,
    Code.SET_INTERFACE,
    Code.CLEAR_HALT,
)
