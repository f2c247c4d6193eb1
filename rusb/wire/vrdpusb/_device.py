"""The device side of ``vrdpusb``: a client, as section 8 of vrdpusb.md wants it."""

from collections.abc import Callable, Mapping, Sequence

from rusb.errors import LocalProtocolError
from rusb.usb.descriptors import DeviceDescriptors
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.urb import Urb, UrbResult
from rusb.wire.base import (
    ConfigurationSet,
    DeviceClosed,
    DeviceOpened,
    DeviceReset,
    DeviceSide,
    DevicesRequested,
    Event,
    HaltCleared,
    Ignored,
    InterfaceClaimed,
    InterfaceReleased,
    InterfaceSet,
    Negotiated,
    Output,
    Send,
    UrbCancelled,
    UrbSubmitted,
)

from . import _codec as codec
from ._codec import Code, Status

__all__ = ["VrdpUsbDeviceSide"]

MAX_URBS_IN_FLIGHT = 4096
"""Per device; servers queue a few dozen. More are answered with an error."""

FIRST_SIGN_TIMEOUT = 40.0
"""Seconds without NEGOTIATE after which we speak first (S1); the server may be busy
attaching another client's device for 30."""

LIST_TIMEOUT = 10.0
"""Seconds without a DEVICE_LIST request after which the list is sent unasked (S2)."""


class _Pending:
    """A URB in flight: what its answer needs."""

    __slots__ = ("handle", "is_in", "length", "setup")

    def __init__(self, handle: int, length: int, is_in: bool, setup: bytes) -> None:
        self.handle = handle
        self.length = length
        self.is_in = is_in
        self.setup = setup


class VrdpUsbDeviceSide(DeviceSide):
    """See :class:`~rusb.wire.base.DeviceSide`. URB ids are the server's handles."""

    def __init__(self) -> None:
        self.version = 0
        self._channel = 0
        self._is_open = False
        self._is_extended = False
        self._events: list[Event] = []
        self._outputs: list[Output] = []
        self._listed: tuple[DeviceInfo, ...] = ()
        self._has_list = False
        self._is_asked = False  # a DEVICE_LIST request waits for announce()
        self._sent: bytes | None = None
        self._devices: dict[int, dict[int, _Pending]] = {}  # open ones
        self._lost: set[int] = set()
        self._due: float | None = None
        self._handlers: dict[int, Callable[[bytes], None]] = {
            Code.OPEN: self._open,
            Code.CLOSE: self._close,
            Code.SUBMIT_URB: self._submit,
            Code.CANCEL_URB: self._cancel,
            Code.URB_RESULT: lambda data: None,  # POLL_URBS: we never negotiate it
            Code.RESET: self._request,
            Code.SET_CONFIGURATION: self._request,
            Code.CLAIM_INTERFACE: self._request,
            Code.RELEASE_INTERFACE: self._request,
            Code.SET_INTERFACE: self._request,
            Code.CLEAR_HALT: self._request,
        }

    # ---------------------------------------------------------------- Side ----

    def channel_opened(self, channel: int, name: str, *, now: float) -> None:
        """The client waits to be asked."""
        self._channel = channel
        if not self._is_open:
            self._is_open = True
            self._due = now + FIRST_SIGN_TIMEOUT

    def channel_closed(self, channel: int) -> None:
        """Every open device is closed (C19)."""
        self._is_open = False
        self._due = None
        self._outputs.clear()
        for device in self._devices:
            self._events.append(DeviceClosed(device))
        self._devices.clear()

    def receive_data(self, channel: int, data: bytes, *, now: float) -> None:
        """Take one message; a bad one is skipped (1.3)."""
        if not self._is_open:
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
            handler(data)
        elif code == Code.NEGOTIATE:
            self._negotiate(data, now)
        elif code == Code.DEVICE_LIST:
            self._due = now + LIST_TIMEOUT
            self._is_asked = True
            self._events.append(DevicesRequested())
        else:
            self._ignore(f"message with code {code}")

    def next_deadline(self) -> float | None:
        """When the server has been silent for too long."""
        return self._due

    def handle_deadline(self, now: float) -> None:
        """Speak first: NEGOTIATE once (S1), or the list (S2)."""
        if self._due is None or now < self._due:
            return
        if self.version == 0:
            self._due = None
            self._send(codec.negotiate_reply(codec.VERSION, 0))
            self._agree(codec.VERSION, 0)
        else:
            self._due = now + LIST_TIMEOUT
            if self._sent is not None:
                self._send(self._sent)

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
        """Store the list; send it if it is asked for, or new to the server (S30)."""
        if any(not 0 < d.id <= 0xFFFF for d in devices):
            raise LocalProtocolError("device ids are 1 to 65535")
        self._listed = tuple(devices)
        self._has_list = True
        self._lost -= {d.id for d in devices}
        message = codec.serialize_list(devices, extended=self._is_extended)
        if self._is_asked or (self._sent is not None and message != self._sent):
            self._is_asked = False
            self._sent = message
            self._send(message)

    def open_failed(self, device: int) -> None:
        """Status 1, at once: the virtual machine waits for it (S20)."""
        self._devices.pop(device, None)
        self._reply(Code.OPEN, Status.DENIED, device)

    def device_lost(self, device: int) -> None:
        """From now on requests are answered with status 2 (2.8)."""
        self._lost.add(device)

    def complete_urb(self, device: int, urb_id: int, result: UrbResult) -> None:
        """Send the one URB_RESULT (1.8): one record, LAST set (S13)."""
        pending = self._devices.get(device, {}).pop(urb_id, None)
        if pending is None:
            return  # cancelled (C14), or the device was closed
        error = codec.serialize_error(result.status, self.version)
        setup = pending.setup
        if not pending.is_in:
            length = len(setup) + (0 if error else result.length)
            body: tuple[bytes | memoryview, ...] = ()
        elif error:  # S16
            length, body = len(setup), (setup,)
        else:
            data = result.data[: pending.length]
            length, body = len(setup) + len(data), (setup, data)
        head = codec.RESULT.pack(
            15 + (length if body else 0),
            Code.URB_RESULT,
            device,
            codec.FLAG_LAST,
            error,
            pending.handle,
            length,
        )
        self._send(b"".join((head, *body)))

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
        self._agree(version, client_flags)

    def _agree(self, version: int, client_flags: int) -> None:
        self.version = version
        self._is_extended = client_flags & codec.EXTENDED != 0
        self._events.append(Negotiated(version, client_flags))

    def _open(self, data: bytes) -> None:
        device = self._id(data)
        if device is None:
            return
        if device in self._devices:
            return  # C16: idempotent
        if device in self._lost:
            self._reply(Code.OPEN, Status.REMOVED, device)
        elif not any(d.id == device for d in self._listed):
            self._reply(Code.OPEN, Status.DENIED, device)
        else:
            self._devices[device] = {}
            self._events.append(DeviceOpened(device))

    def _close(self, data: bytes) -> None:
        device = self._id(data)
        if device is not None and self._devices.pop(device, None) is not None:
            self._events.append(DeviceClosed(device))

    def _request(self, data: bytes) -> None:
        """A request that needs an open device."""
        code, device = data[4], self._id(data)
        if device is None:
            return
        if device not in self._devices:
            self._reply(code, Status.DENIED, device)
            return
        if device in self._lost:
            self._reply(code, Status.REMOVED, device)
            return
        arguments = data[9:]
        if len(arguments) < _ARGUMENTS[code]:
            self._ignore(f"code {code} with {len(arguments)} bytes after the id")
            return
        self._events.append(_make_event(code, device, arguments))

    def _submit(self, data: bytes) -> None:
        """SUBMIT_URB (1.7): start it, or answer at once (C11)."""
        if len(data) < codec.SUBMIT.size:
            self._ignore(f"SUBMIT_URB of {len(data)} bytes")
            return
        _, _, device, handle, kind, endpoint, direction, length, size = (
            codec.SUBMIT.unpack_from(data)
        )
        if not handle or codec.SUBMIT.size + size > len(data):
            self._ignore(f"SUBMIT_URB with handle {handle}, {size} bytes of data")
            return
        pending = self._devices.get(device)
        if pending is not None and handle in pending:
            self._ignore(f"SUBMIT_URB with handle {handle}, which is in flight")
            return
        is_in = direction == codec.DIRECTION_IN
        payload = memoryview(data)[codec.SUBMIT.size : codec.SUBMIT.size + size]
        is_control = kind == codec.URB_CONTROL
        setup = bytes(payload[:8]) if is_control else b""
        head = len(setup)
        trouble = self._is_bad(kind, endpoint, direction, length, size, setup)
        if (
            pending is None
            or device in self._lost
            or trouble
            or (len(pending) >= MAX_URBS_IN_FLIGHT)
        ):
            self._answer_error(device, handle, is_in, setup)
            return
        pending[handle] = _Pending(handle, length - head, is_in, setup)
        urb = Urb(
            handle,
            codec.TRANSFER_TYPES[kind],
            endpoint | 0x80 if is_in else endpoint,
            length - head,
            b"" if is_in else payload[head:],
            SetupPacket.parse(setup) if is_control else None,
        )
        self._events.append(UrbSubmitted(device, urb))

    @staticmethod
    def _is_bad(
        kind: int, endpoint: int, direction: int, length: int, size: int, setup: bytes
    ) -> bool:
        """Does the URB contradict itself (C12, C13, T23)?"""
        if kind not in codec.TRANSFER_TYPES or endpoint > 0x0F:
            return True
        if direction not in (codec.DIRECTION_IN, codec.DIRECTION_OUT):
            return True
        if length > codec.MAX_URB_LENGTH or size > length:
            return True
        if kind == codec.URB_CONTROL:
            if len(setup) != 8 or length - 8 > 0xFFFF:
                return True
            return (setup[0] & 0x80 != 0) != (direction == codec.DIRECTION_IN)
        return direction == codec.DIRECTION_OUT and size != length

    def _answer_error(
        self, device: int, handle: int, is_in: bool, setup: bytes
    ) -> None:
        body = setup if is_in and len(setup) == 8 else b""
        head = codec.RESULT.pack(
            15 + len(body),
            Code.URB_RESULT,
            device,
            codec.FLAG_LAST,
            codec.NOT_RESPONDING,
            handle,
            len(setup) if len(setup) == 8 else 0,
        )
        self._send(head + body)

    def _cancel(self, data: bytes) -> None:
        """Abort; the result is suppressed (C14), unknown ids are ignored (C18)."""
        if len(data) < codec.HEADER.size + codec.CANCEL.size:
            self._ignore(f"CANCEL_URB of {len(data)} bytes")
            return
        device, handle = codec.CANCEL.unpack_from(data, codec.HEADER.size)
        if self._devices.get(device, {}).pop(handle, None) is not None:
            self._events.append(UrbCancelled(device, handle))

    # ---------------------------------------------------------------- small ----

    def _id(self, data: bytes) -> int | None:
        if len(data) < codec.REQUEST.size:
            self._ignore(f"code {data[4]} with {len(data)} bytes")
            return None
        return int.from_bytes(data[5:9], "little")

    def _reply(self, code: int, status: Status, device: int) -> None:
        self._send(codec.STATUS_REPLY.pack(6, code, status, device))

    def _send(self, message: bytes) -> None:
        self._outputs.append(Send(self._channel, message))

    def _ignore(self, reason: str) -> None:
        self._events.append(Ignored(reason))


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
            return DeviceReset(device)
        case Code.SET_CONFIGURATION:
            return ConfigurationSet(device, arguments[0])
        case Code.CLAIM_INTERFACE:  # C4: the first of two
            return InterfaceClaimed(device, arguments[0])
        case Code.RELEASE_INTERFACE:
            return InterfaceReleased(device, arguments[0])
        case Code.SET_INTERFACE:
            return InterfaceSet(device, arguments[0], arguments[1])
        case _:
            return HaltCleared(device, arguments[0])
