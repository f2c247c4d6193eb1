"""One device of a client, as its channel shows it: what is asked, and what waits.

rdpeusb.md 8 to 11. The client has opened it; what is in flight is known here.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from rusb.errors import ParseError
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    InterfaceDescriptor,
)
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import (
    Feature,
    Request,
    TransferType,
)
from rusb.usb.urb import IsoPacket, Urb, UrbResult, UrbStatus
from rusb.wire.base import Event, Output, UrbCompleted

from . import _isochronous as isochronous
from . import _messages as messages
from . import _requests as requests
from . import _settings as settings
from . import _urbs as urbs
from ._reading import Configurations, read_device
from ._table import CANCEL_LIMIT, Done, RequestTable, Sent
from ._urbs import Completion, Flags, HResult, Transfer, UrbFunction

__all__ = ["RemoteDevice"]

CONTROL_LIMIT: Final = 300.0
"""Seconds for a control transfer. The guest sets the limit, which may be a minute (chip
erase); this one is for what was lost in a guest that sets none."""

READ_LIMIT, REQUEST_LIMIT, SELECT_LIMIT = 10.0, 10.0, 15.0
"""Seconds for what we ask ourselves, for requests, for a configuration (11)."""

ISO_LIMIT: Final = 5.0
"""Seconds for isochronous transfers (11)."""

_FREERDP_JITTER: Final = 0x50
_FREERDP_FIRST: Final = 4
"""What tells FreeRDP in ADD_DEVICE (10.1)."""

_READ: Final = int(Flags.IN | Flags.SHORT_OK)
"""What a bulk read is asked for with (6)."""

_Told = Callable[[UrbStatus], None]

_OK, _ISOCHRONOUS = UrbStatus.OK, TransferType.ISOCHRONOUS
_BULK = UrbFunction.BULK_OR_INTERRUPT_TRANSFER


class _Waiting:
    """What waits until a configuration or a setting is selected."""

    __slots__ = ("end", "start", "urb_id")

    def __init__(
        self, start: Callable[[], None], end: _Told, urb_id: int | None = None
    ) -> None:
        self.start, self.end, self.urb_id = start, end, urb_id


class RemoteDevice(RequestTable):
    """A device that a client has added on a channel.

    Args:
        number: by which the guest names it.
        added: how the client described it.
        channel: its channel.
        events: where the results of the guest's URBs go.
        outputs: where messages go.
        ready: called when it has been read: ``info`` is there then.
        failed: called, once, when it cannot be used any more, with the reason.

    Attributes:
        info: what it is.
        is_open: the guest uses it.
        is_typed: control transfers are made as Windows' drivers make them (10.1).
    """

    def __init__(
        self,
        number: int,
        added: messages.AddDevice,
        channel: int,
        events: list[Event],
        outputs: list[Output],
        *,
        ready: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        super().__init__(added.device, channel, outputs, failed)
        self.number = number
        self.instance = added.instance
        self.info = DeviceInfo(number, 0, 0, remote=True)
        self.is_open = False
        is_freerdp = added.device >= _FREERDP_FIRST and added.jitter == _FREERDP_JITTER
        self.is_typed = not is_freerdp
        self._events = events
        self._ready = ready
        self._is_over = False
        self._configurations: Configurations = {}
        self._steps = read_device(self.info, self._configurations)
        self._configuration = 0  # handle
        self._active: ConfigurationDescriptor | None = None
        self._pipes: dict[int, dict[int, int]] = {}  # handle by interface and address
        self._handles: dict[int, int] = {}  # by address
        self._moved: set[int] = set()  # interfaces that are not in their first setting
        self._is_selecting = False
        self._waiting: deque[_Waiting] = deque()

    # ---------------------------------------------------------- its life ----

    def start(self, completion: int) -> None:
        """Say where completions go, and read it (9)."""
        body = messages.Registration(completion).serialize()
        self._call(messages.Call.REGISTER, body)
        self._step(None)

    def retract(self) -> None:
        """Say that it is not wanted; the caller closes the channel."""
        self._call(messages.Call.RETRACT, messages.CANCEL.pack(1))

    def end(self, status: UrbStatus) -> None:
        """Complete everything; nothing is sent."""
        sent, self._sent = list(self._sent.values()), {}
        waiting, self._waiting = list(self._waiting), deque()
        self._by_urb, self._due, self._unarmed = {}, {}, []
        self._is_over = True
        for one in sent:
            one.done(one, status, None)
        for one_waiting in waiting:
            one_waiting.end(status)

    # ----------------------------------------------------- what is asked ----

    def submit(self, urb: Urb) -> None:
        """Start a transfer of the guest's."""
        if urb.id in self._by_urb or (self._waiting and self._waits(urb.id)):
            self._complete_urb(urb.id, UrbResult(UrbStatus.INVALID))
        elif self._is_selecting:
            end = partial(self._end_urb, urb)
            self._waiting.append(_Waiting(partial(self.submit, urb), end, urb.id))
        elif not 0 <= urb.length <= urbs.MAX_SIZE:
            self._complete_urb(urb.id, UrbResult(UrbStatus.INVALID))
        elif urb.setup is not None and not urb.setup.is_possible:
            self._complete_urb(urb.id, UrbResult(UrbStatus.INVALID))
        elif urb.setup is not None:
            self._request(urb, urb.setup)
        elif (handle := self._handles.get(urb.endpoint)) is None:
            self._complete_urb(urb.id, UrbResult(UrbStatus.INVALID))
        elif urb.type is _ISOCHRONOUS:
            self._isochronous(urb, handle)
        else:
            if urb.endpoint & 0x80:
                body = urbs.BULK.pack(handle, _READ)
                made = Transfer(_BULK, 0, body, urb.length)
            else:
                body = urbs.BULK.pack(handle, 0)
                made = Transfer(_BULK, 0, body, len(urb.data), urb.data)
            self._post(made, self._bulk_done, None, urb)

    def cancel(self, urb_id: int) -> None:
        """Ask for its end; it completes with what was moved."""
        for waiting in self._waiting:
            if waiting.urb_id == urb_id:
                self._waiting.remove(waiting)
                waiting.end(UrbStatus.CANCELLED)
                return
        for sent in self._by_urb.get(urb_id, ()):
            if not sent.is_cancelled:
                sent.is_cancelled, sent.limit = True, CANCEL_LIMIT
                sent.is_counted = True
                self._due.pop(sent.number, None)
                self._unarmed.append(sent)
                self._cancel(sent)

    def reset(self, told: _Told) -> None:
        """Cancel everything, wait for nothing of it, and reset the port."""
        self.drop()
        code = messages.IoCode.RESET_PORT
        sent = Sent(None, partial(_tell, told), REQUEST_LIMIT, None)
        self._enter(sent)
        body = messages.IoControl(code, sent.number).serialize()
        self._call(messages.Call.IO_CONTROL, body, is_fence=True)

    def drop(self) -> None:
        """Complete every URB with CANCELLED; what comes late is ignored."""
        for waiting in [w for w in self._waiting if w.urb_id is not None]:
            self._waiting.remove(waiting)
            waiting.end(UrbStatus.CANCELLED)
        for sent in [s for s in self._sent.values() if s.urb is not None]:
            self._forget(sent)
            if not sent.is_cancelled:
                self._cancel(sent)
            sent.done(sent, UrbStatus.CANCELLED, None)

    def stop(self) -> None:
        """Complete everything with CANCELLED; what comes late is ignored."""
        waiting, self._waiting = list(self._waiting), deque()
        for one in waiting:
            one.end(UrbStatus.CANCELLED)
        self.drop()
        for sent in list(self._sent.values()):
            self._forget(sent)
            sent.done(sent, UrbStatus.CANCELLED, None)

    def set_configuration(self, value: int, told: _Told) -> None:
        """Select a configuration: always the device's own, whole (9)."""
        if self._is_selecting:
            start = partial(self.set_configuration, value, told)
            self._waiting.append(_Waiting(start, told))
            return
        found = self._configurations.get(value)
        if found is None and value:
            told(UrbStatus.STALL)
            return
        body = settings.Configuration()
        if found is not None:
            wanted = (_first_setting(found[0], n) for n in found[0].interface_numbers)
            body = settings.Configuration(tuple(map(_wanted, wanted)), found[1])
        self._is_selecting = True
        done = partial(self._configured, found[0] if found else None, told)
        self._ask(
            UrbFunction.SELECT_CONFIGURATION, body.serialize(), done, SELECT_LIMIT
        )

    def set_interface(self, number: int, alternate: int, told: _Told) -> None:
        """Select an alternate setting."""
        if self._is_selecting:
            start = partial(self.set_interface, number, alternate, told)
            self._waiting.append(_Waiting(start, told))
            return
        active = self._active
        setting = active.interface(number, alternate) if active else None
        if setting is None:
            told(UrbStatus.STALL)
        else:
            self._select(setting, told)

    def _select(self, setting: InterfaceDescriptor, told: _Told) -> None:
        self._is_selecting = True
        done = partial(self._set, setting, told)
        body = settings.InterfaceSelection(self._configuration, _wanted(setting))
        self._ask(UrbFunction.SELECT_INTERFACE, body.serialize(), done, REQUEST_LIMIT)

    def clear_halt(self, endpoint: int, told: _Told) -> None:
        """Clear a halt. FreeRDP cancels all that is in flight, which is sent again."""
        if self._is_selecting:
            start = partial(self.clear_halt, endpoint, told)
            self._waiting.append(_Waiting(start, told))
            return
        handle = self._handles.get(endpoint)
        if handle is None:
            told(UrbStatus.OK if not endpoint & 0x0F else UrbStatus.STALL)
            return
        function = UrbFunction.SYNC_RESET_PIPE_AND_CLEAR_STALL
        body = urbs.PIPE.pack(handle)
        self._ask(function, body, partial(_tell, told), REQUEST_LIMIT)

    # ------------------------------------------------- what the client says ----

    def io_completed(self, done: messages.IoCompletion) -> bool:
        """An IO_CONTROL is done; False: nobody asked."""
        sent = self._sent.get(done.request)
        if sent is None or sent.transfer is not None:
            return False
        self._forget(sent)
        self._expiries = 0
        sent.done(sent, urbs.status_of(0, done.result), None)
        return True

    def completed(self, done: Completion) -> bool:
        """A transfer is done; False: nobody asked.

        Raises:
            ParseError: its result makes no sense; it has completed.
        """
        sent = self._sent.get(done.request)
        if sent is None or sent.transfer is None:
            return False
        self._forget(sent)
        self._expiries = 0
        status = _OK
        if done.usbd or done.hresult:
            status = urbs.status_of(done.usbd, done.hresult)
        sent.done(sent, status, done)
        return True

    # ------------------------------------------------------------ reading ----

    def _step(self, result: UrbResult | None) -> None:
        """Go on reading the device."""
        try:
            setup = self._steps.send(result)
        except StopIteration as stop:
            self.info = stop.value
            self._ready()
        except ParseError as error:
            self._failed(f"it cannot be read: {error}")
        else:
            self._control(Urb.control(0, setup), setup, self._was_read, READ_LIMIT)

    def _was_read(self, sent: Sent, status: UrbStatus, done: Completion | None) -> None:
        if self._is_over or self._retyped(sent, done, self._was_read):
            return
        data = done.data or b"" if done is not None and status is UrbStatus.OK else b""
        self._step(UrbResult(status, bytes(data), len(data)))

    # ------------------------------------------------------ configurations ----

    def _ask(
        self, function: UrbFunction, body: bytes, done: Done, limit: float
    ) -> None:
        """Ask for what has no data."""
        self._post(Transfer(function, 0, body, 0), done, limit)

    def _configured(
        self,
        wanted: ConfigurationDescriptor | None,
        told: _Told,
        sent: Sent,
        status: UrbStatus,
        done: Completion | None,
    ) -> None:
        self._is_selecting = False
        self._active, self._configuration, self._pipes = None, 0, {}
        self._handles = {}
        try:
            if done is not None and status is UrbStatus.OK and wanted is not None:
                result = settings.ConfigurationResult.parse(done.result)
                # 12: wrong interfaces, and FreeRDP 3 has a success without any
                if len(result.interfaces) == len(wanted.interface_numbers):
                    self._active, self._configuration = wanted, result.handle
                    for one in result.interfaces:
                        self._learn(one)
                else:
                    status = UrbStatus.IO_ERROR
        except ParseError:
            told(UrbStatus.IO_ERROR)
            raise
        self._settle(told, status)
        self._go_on()

    def _settle(self, told: _Told, status: UrbStatus) -> None:
        """12: FreeRDP 2.11 leaves interfaces in the settings that they had; a guest
        expects the first of each."""
        active = self._active
        if status is UrbStatus.OK and active is not None:
            self._moved &= set(active.interface_numbers)
            for number in self._moved:
                setting = _first_setting(active, number)
                self._select(setting, partial(self._settle, told))
                return
        told(status)

    def _set(
        self,
        wanted: InterfaceDescriptor,
        told: _Told,
        sent: Sent,
        status: UrbStatus,
        done: Completion | None,
    ) -> None:
        self._is_selecting = False
        try:
            if done is not None and status is UrbStatus.OK:
                result = settings.InterfaceResult.parse(done.result)
                addresses = {pipe.address for pipe in result.pipes}
                if addresses == {e.address for e in wanted.endpoints}:
                    self._learn(result)
                    self._note(wanted)
                else:
                    status = UrbStatus.IO_ERROR
        except ParseError:
            told(UrbStatus.IO_ERROR)
            raise
        told(status)
        self._go_on()

    def _note(self, setting: InterfaceDescriptor) -> None:
        """Remember whether an interface is in its first setting."""
        assert self._active is not None
        if setting == _first_setting(self._active, setting.number):
            self._moved.discard(setting.number)
        else:
            self._moved.add(setting.number)

    def _learn(self, result: settings.InterfaceResult) -> None:
        self._pipes[result.number] = {p.address: p.handle for p in result.pipes}
        self._handles = {
            address: handle
            for pipes in self._pipes.values()
            for address, handle in pipes.items()
        }

    def _waits(self, urb_id: int) -> bool:
        return any(w.urb_id == urb_id for w in self._waiting)

    def _go_on(self) -> None:
        while self._waiting and not self._is_selecting:
            self._waiting.popleft().start()

    # ----------------------------------------------------------- transfers ----

    def _request(self, urb: Urb, setup: SetupPacket) -> None:
        """Standard requests that have functions of their own use them (10.1)."""
        told = partial(self._end_urb, urb)
        match setup.request_type, setup.request:
            case 0x00, Request.SET_ADDRESS:
                told(UrbStatus.OK)
            case 0x00, Request.SET_CONFIGURATION:
                self.set_configuration(setup.value & 0xFF, told)
            case 0x01, Request.SET_INTERFACE:
                self.set_interface(setup.index & 0xFF, setup.value & 0xFF, told)
            case 0x02, Request.CLEAR_FEATURE if setup.value == Feature.ENDPOINT_HALT:
                self.clear_halt(setup.index & 0xFF, told)
            case _ if not urb.is_in and len(urb.data) != setup.length:
                told(UrbStatus.INVALID)
            case _:
                self._control(urb, setup, self._control_done, CONTROL_LIMIT)

    def _control(self, urb: Urb, setup: SetupPacket, done: Done, limit: float) -> None:
        made = typed = requests.typed(setup) if self.is_typed else None
        if typed is None:
            function, body = requests.control(setup, is_ex=not self.is_typed)
            made = function, body, not urb.is_in
        assert made is not None
        function, body, is_out = made
        data = urb.data if is_out else None
        size = len(data) if data is not None else urb.length
        self._post(Transfer(function, 0, body, size, data), done, limit, urb)

    def _isochronous(self, urb: Urb, handle: int) -> None:
        """Send packets of one length together: FreeRDP divides equally (10.3)."""
        parts = isochronous.cut(urb, handle)
        if not parts:
            self._complete_urb(urb.id, UrbResult(UrbStatus.INVALID))
            return
        whole = isochronous.Whole(urb, [lengths for _, lengths in parts])
        for index, (made, _) in enumerate(parts):
            self._post(made, partial(self._iso_done, whole, index), ISO_LIMIT, urb)

    def _bulk_done(
        self, sent: Sent, status: UrbStatus, done: Completion | None
    ) -> None:
        urb = sent.urb
        assert urb is not None
        if done is None:
            self._end_urb(urb, status)
            return
        is_ok = status is _OK
        data = done.data or b""
        if not urb.endpoint & 0x80:
            moved = min(sent.moved + done.size, urb.length)
            if not is_ok and _is_interrupted(sent, done, urbs.LIBUSB_CANCELLED):
                self._again(sent, urb, moved)
            else:
                self._complete_urb(urb.id, UrbResult(status, b"", moved))
            return
        is_interrupted = not is_ok and _is_interrupted(
            sent, done, urbs.LIBUSB_CANCELLED, urbs.LIBUSB_TIMED_OUT
        )
        if is_interrupted and not data:
            self._again(sent, urb, 0)
            return
        if is_interrupted:
            status = UrbStatus.OK
        if len(data) > urb.length:
            status, data = UrbStatus.OVERFLOW, data[: urb.length]
        self._complete_urb(urb.id, UrbResult(status, data, len(data)))

    def _again(self, sent: Sent, urb: Urb, moved: int) -> None:
        """Send again what the guest still waits for (10.2, 10.4).

        What was sent after it is before it now: each request is that of the URB before
        then, so that the data of an endpoint keep their order.
        """
        transfer = sent.transfer
        assert transfer is not None
        data = None if urb.is_in else urb.data[moved:]
        size = urb.length if data is None else len(data)
        again = Transfer(transfer.function, 0, transfer.body, size, data)
        behind = [
            s
            for s in self._sent.values()
            if s.urb is not None and s.urb.endpoint == urb.endpoint
        ]
        is_alike = urb.is_in and all(
            s.urb is not None and s.urb.length == urb.length and not s.is_cancelled
            for s in behind
        )
        for other in behind if is_alike else ():
            assert other.urb is not None
            other.urb, urb = urb, other.urb
            self._by_urb[other.urb.id] = [other]
        self._by_urb.pop(urb.id, None)
        self._post(again, self._bulk_done, None, urb, moved)

    def _control_done(
        self, sent: Sent, status: UrbStatus, done: Completion | None
    ) -> None:
        urb = sent.urb
        assert urb is not None
        if self._retyped(sent, done, self._control_done):
            return
        data: bytes | memoryview = b""
        moved = 0
        if done is not None and status is UrbStatus.OK:  # 5.6: else they are stale
            data = done.data or b"" if urb.is_in else b""
            moved = len(data) if urb.is_in else min(done.size, urb.length)
        if len(data) > urb.length:
            status, data = UrbStatus.OVERFLOW, data[: urb.length]
            moved = urb.length
        self._complete_urb(urb.id, UrbResult(status, data, moved))

    def _retyped(self, sent: Sent, done: Completion | None, then: Done) -> bool:
        """Does the client not know CONTROL_TRANSFER_EX? Then it is asked otherwise."""
        transfer, urb = sent.transfer, sent.urb
        if (
            done is None
            or sent.is_cancelled
            or done.hresult != HResult.INVALID
            or transfer is None
            or transfer.function != UrbFunction.CONTROL_TRANSFER_EX
        ):
            return False
        assert urb is not None
        assert urb.setup is not None
        self.is_typed = True
        self._control(urb, urb.setup, then, sent.limit or CONTROL_LIMIT)
        return True

    def _iso_done(
        self,
        whole: isochronous.Whole,
        index: int,
        sent: Sent,
        status: UrbStatus,
        done: Completion | None,
    ) -> None:
        try:
            whole.take(index, status, done)
        finally:
            if (result := whole.result()) is not None:
                self._complete_urb(whole.urb.id, result)

    # --------------------------------------------------------------- small ----

    def _complete_urb(self, urb_id: int, result: UrbResult) -> None:
        self._events.append(UrbCompleted(self.number, urb_id, result))

    def _end_urb(self, urb: Urb, status: UrbStatus) -> None:
        packets = (IsoPacket(0, status),) * len(urb.packets)
        self._complete_urb(urb.id, UrbResult(status, packets=packets))


# ------------------------------------------------------------- functions ----


def _tell(told: _Told, sent: Sent, status: UrbStatus, done: Completion | None) -> None:
    told(status)


def _first_setting(
    configuration: ConfigurationDescriptor, number: int
) -> InterfaceDescriptor:
    """Alternate setting 0, or what is there in its place."""
    found = configuration.interface(number)
    return found or next(i for i in configuration.interfaces if i.number == number)


def _wanted(setting: InterfaceDescriptor) -> settings.Interface:
    sizes = tuple(endpoint.max_packet_size for endpoint in setting.endpoints)
    return settings.Interface(setting.number, setting.alternate, sizes)


def _is_interrupted(sent: Sent, done: Completion, *codes: int) -> bool:
    """Did FreeRDP stop it, though the guest still waits?"""
    return not sent.is_cancelled and not done.hresult and done.usbd in codes
