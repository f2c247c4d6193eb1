"""The client's side of MS-RDPEUSB, as FreeRDP's (rdpeusb.md): it offers devices.

The first channel is for control; each release of a further one binds the next device.
A request's answer says that it was passed on: the guest's next one is done after it.
"""

import itertools
import struct
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from rusb.errors import ParseError
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptors,
    InterfaceDescriptor,
)
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import IsoPacket, Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    AlternateRequested,
    CancelRequested,
    ClaimRequested,
    ClearHaltRequested,
    CloseChannel,
    CloseRequested,
    ConfigurationRequested,
    DeviceSide,
    DevicesRequested,
    Event,
    Ignored,
    Negotiated,
    OpenRequested,
    Output,
    ResetRequested,
    Send,
    UrbSubmitted,
)

from . import _isochronous as isochronous
from . import _messages as messages
from . import _requests as requests
from . import _settings as settings
from . import _urbs as urbs
from ._messages import (
    CAPABILITIES,
    CREATED,
    HEADER,
    HEADER_SIZE,
    PROXY,
    SINK,
    STUB,
    TO_CLIENT,
    TO_SERVER,
    VERSION,
    Call,
    Done,
    Function,
    IoCode,
    Message,
    Sink,
)
from ._urbs import Completion, HResult, Transfer, UrbFunction

__all__ = ["MAX_URBS", "RdpeusbDeviceSide"]

MAX_URBS: Final = 4096
"""Transfers of one device without an answer; a server that asks more is not serious."""

FIRST_INTERFACE: Final = 5
JITTER: Final = 0x50
"""As FreeRDP counts devices, and its buffer for isochronous output: so servers take us
for it, and may send any SETUP packet as it is (10.1)."""

CONFIGURED: Final = 1
"""The handle of the configuration, the only one there is."""

_OK = UrbStatus.OK
_INTERRUPT, _ISOCHRONOUS = TransferType.INTERRUPT, TransferType.ISOCHRONOUS
_TRANSFER_IN, _TRANSFER_OUT = Call.TRANSFER_IN, Call.TRANSFER_OUT
_BULK = UrbFunction.BULK_OR_INTERRUPT_TRANSFER
_LAST_OF_ANY = Function.QUERY_INTERFACE
_INVALID = urbs.usbd_of(UrbStatus.INVALID)


class _Device:
    """A device on its channel."""

    __slots__ = (
        *("active", "channel", "completions", "info", "interface", "is_open"),
        *("pipes", "proxy", "settings", "urbs"),
    )

    def __init__(self, info: DeviceInfo, channel: int, interface: int) -> None:
        self.info = info
        self.channel = channel
        self.interface = interface
        self.proxy = interface | PROXY  # how requests to it begin
        self.completions = 0  # where nothing is registered (5.2)
        self.is_open = False
        self.active: ConfigurationDescriptor | None = None
        self.settings: dict[int, InterfaceDescriptor] = {}
        self.pipes: dict[int, TransferType] = {}  # by address, which is the handle
        self.urbs: dict[int, tuple[Urb, int, bool]] = {}  # MessageId; is it NoAck?

    def select(self, setting: InterfaceDescriptor) -> None:
        """Use an alternate setting."""
        self.settings[setting.number] = setting
        self.pipes = {
            endpoint.address: endpoint.transfer_type
            for one in self.settings.values()
            for endpoint in one.endpoints
        }


class RdpeusbDeviceSide(DeviceSide):
    """The end with the devices; see :class:`~rusb.wire.base.DeviceSide`."""

    def __init__(self) -> None:
        self._control: int | None = None
        self._is_over = False
        self._is_announcing = False  # the control channel was released
        self._channels: set[int] = set()  # of devices, without one yet
        self._known: set[int] = set()  # announced, whatever became of them
        self._pending: deque[DeviceInfo] = deque()
        self._devices: dict[int, _Device] = {}  # by channel
        self._by_number: dict[int, _Device] = {}  # the same, by that of the device
        self._interfaces = itertools.count(FIRST_INTERFACE)
        self._messages = itertools.count()
        self._events: list[Event] = []
        self._outputs: list[Output] = []

    # ---------------------------------------------------------------- Side ----

    def channel_opened(self, channel: int, name: str, *, now: float) -> None:
        """Wait for the server, which speaks first."""
        if self._is_over:
            self._outputs.append(CloseChannel(channel))
        elif self._control is None:
            self._control = channel
        else:
            self._channels.add(channel)

    def channel_closed(self, channel: int) -> None:
        """Its device is the server's no more; with the control channel none is."""
        if channel == self._control:
            self._is_over = True
            for one in list(self._devices):
                self._close(one)
        else:
            self._channels.discard(channel)
            self._close(channel)

    def receive_data(self, channel: int, data: bytes, *, now: float) -> None:
        """Take one message; a bad one ends its channel."""
        device = self._devices.get(channel)
        if device is None and (
            self._is_over or channel not in (self._control, *self._channels)
        ):
            self._ignore("a message on a channel that is closed")
            return
        try:
            if device is not None and len(data) >= HEADER_SIZE:
                word, number, function = HEADER.unpack_from(data)
                is_out = function == _TRANSFER_OUT
                if word == device.proxy and (is_out or function == _TRANSFER_IN):
                    # as nearly always
                    if not device.is_open:
                        self._open(device)
                    urb = urbs.parse_transfer(data, is_out=is_out)
                    self._transfer(device, number, urb, now)
                    return
            self._take(channel, device, Message.parse(data), now)
        except ParseError as error:
            self._ignore(f"channel {channel} is closed: {error}")
            self._outputs.append(CloseChannel(channel))
            self.channel_closed(channel)

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

    # ---------------------------------------------------------- DeviceSide ----

    def announce(
        self,
        devices: Sequence[DeviceInfo],
        descriptors: Mapping[int, DeviceDescriptors] | None = None,
    ) -> None:
        """Ask for a channel for each device that is new, close those that are gone."""
        listed = {info.id for info in devices}
        self._pending = deque(info for info in self._pending if info.id in listed)
        for device in list(self._devices.values()):
            if device.info.id not in listed:
                self._let_go(device)
        self._known &= listed
        for info in devices:
            if info.id not in self._known:
                self._known.add(info.id)
                self._pending.append(info)
                if self._is_announcing:
                    self._add_channel(info)

    def open_failed(self, device: int) -> None:
        """Close its channel."""
        self._lose(device)

    def device_lost(self, device: int) -> None:
        """Close its channel."""
        self._lose(device)

    def complete_urb(self, device: int, urb_id: int, result: UrbResult) -> None:
        """Send URB_COMPLETION, or URB_COMPLETION_NO_DATA."""
        found = self._by_number.get(device)
        entry = found.urbs.pop(urb_id, None) if found is not None else None
        if found is None or entry is None:
            return
        urb, number, is_mute = entry
        if is_mute:
            return
        kind, status, iso = urb.type, result.status, b""
        data: bytes | memoryview | None = None
        if kind is _ISOCHRONOUS:
            lost = (IsoPacket(0, status),) * len(urb.packets)
            iso = isochronous.serialize_result(
                result.start_frame, result.packets or lost
            )
        moved = result.length
        if urb.endpoint & 0x80:
            moved = len(result.data)
            data = result.data if moved else None
        usbd = 0 if status is _OK else urbs.usbd_of(status)
        message = urbs.pack_completion(
            *(found.completions, number, urb_id, usbd, 0, moved, data, iso)
        )
        self._outputs.append(Send(found.channel, message, kind is _INTERRUPT))

    # --------------------------------------------------- from the server ----

    def _take(
        self, channel: int, device: _Device | None, message: Message, now: float
    ) -> None:
        if (
            device is not None
            and message.interface == device.interface
            and message.mask == PROXY
            and message.function > _LAST_OF_ANY
        ):
            self._asked(device, message, now)
            return
        key = message.interface, message.function
        if message.mask == STUB:
            self._ignore("an answer to nothing")
        elif message.mask == 0 and key == (CAPABILITIES, Function.CAPABILITY):
            self._capable(channel, message)
        elif message.mask == 0 and key == (CAPABILITIES, Function.RELEASE):
            pass
        elif message.mask == 0:
            raise ParseError(f"a message without a mask for {message.interface}")
        elif key == (TO_CLIENT, CREATED):
            messages.ChannelCreated.parse(message.body)
            body = messages.ChannelCreated().serialize()
            self._say(channel, TO_SERVER, CREATED, message.id, body)
        elif key == (TO_CLIENT, Function.RELEASE):
            self._released(channel)
        elif message.function == Function.RELEASE:
            self._ignore("the server releases an interface")
        elif message.function == Function.QUERY_INTERFACE:
            self._ignore("the server asks for an interface")  # as FreeRDP (5.7)
        else:
            raise ParseError(f"no device has the interface {message.interface}")

    def _capable(self, channel: int, message: Message) -> None:
        if len(message.body) != 4:
            raise ParseError(f"capabilities of {len(message.body)} bytes")
        if channel == self._control:
            version = int.from_bytes(message.body, "little")
            self._events.append(Negotiated(version))
        result = (0).to_bytes(4, "little")
        answer = Message(CAPABILITIES, 0, message.id, VERSION, result)
        self._outputs.append(Send(channel, answer.serialize()))

    def _released(self, channel: int) -> None:
        """On the control channel: announce; on another: bind the next device (4)."""
        if channel == self._control:
            if not self._is_announcing:
                self._is_announcing = True
                self._events.append(DevicesRequested())
                for info in self._pending:
                    self._add_channel(info)
        elif channel in self._channels and self._pending:
            self._channels.remove(channel)
            info = self._pending.popleft()
            device = _Device(info, channel, next(self._interfaces))
            self._devices[channel] = self._by_number[info.id] = device
            body = _description(info, device.interface).serialize()
            self._say(channel, SINK, Sink.ADD_DEVICE, next(self._messages), body)

    def _add_channel(self, info: DeviceInfo) -> None:
        assert self._control is not None
        number = info.id & 0xFFFFFFFF
        self._say(self._control, SINK, Sink.ADD_VIRTUAL_CHANNEL, number)

    def _open(self, device: _Device) -> None:
        """The server uses it, for the first time."""
        device.is_open = True
        self._events.append(OpenRequested(device.info.id))

    def _asked(self, device: _Device, message: Message, now: float) -> None:
        """All but transfers."""
        body = message.body
        if not device.is_open:
            self._open(device)
        match message.function:
            case Call.CANCEL:
                (request,) = _number(body)
                if request in device.urbs:
                    self._events.append(CancelRequested(device.info.id, request))
            case Call.REGISTER:
                found = messages.Registration.parse(body).completion
                device.completions = found or 0
            case Call.IO_CONTROL | Call.INTERNAL_IO_CONTROL:
                self._io(device, message.id, messages.IoControl.parse(body), now)
            case Call.QUERY_TEXT:
                self._text(device, message, messages.TextRequest.parse(body))
            case Call.RETRACT:
                _number(body)
                self._ignore("the server does not want the device")  # a close follows
            case function:
                raise ParseError(f"function {function:#x} is not known")

    def _io(
        self, device: _Device, number: int, asked: messages.IoControl, now: float
    ) -> None:
        """FreeRDP answers no others (5.4)."""
        output = b""
        match asked.code:
            case IoCode.RESET_PORT:
                self._events.append(ResetRequested(device.info.id))
            case IoCode.CYCLE_PORT:
                pass
            case IoCode.GET_PORT_STATUS:
                output = (3).to_bytes(4, "little")  # enabled, connected
            case IoCode.QUERY_BUS_TIME:
                output = _frame(now)
            case code:
                self._ignore(f"I/O control {code:#x}")
                return
        done = messages.IoCompletion(asked.request, 0, output[: asked.size])
        to = device.channel, device.completions, Done.IO_CONTROL
        self._say(*to, number, done.serialize())

    def _text(
        self, device: _Device, message: Message, asked: messages.TextRequest
    ) -> None:
        info = device.info
        text = info.product or str(info)
        if asked.kind:
            text = f"Port_#{info.port:04}.Hub_#{info.bus:04}"
        body = messages.TextResponse(text).serialize()
        answer = Message(device.interface, STUB, message.id, 0, body)
        self._outputs.append(Send(device.channel, answer.serialize()))

    # ----------------------------------------------------------- transfers ----

    def _transfer(
        self, device: _Device, number: int, urb: Transfer, now: float
    ) -> None:
        """Start a transfer, or do what it asks for at once."""
        if urb.request in device.urbs or len(device.urbs) >= MAX_URBS:
            self._ignore(f"request {urb.request} is there already, or too many are")
            return
        if urb.function == _BULK:
            self._submit(device, number, urb, _first(urb, urbs.BULK), ())
            return
        done = Completion(urb.request)
        match urb.function:
            case UrbFunction.ISOCH_TRANSFER:
                iso = isochronous.Iso.parse(urb.body, urb.size)
                self._submit(device, number, urb, iso.handle, iso.lengths)
                return
            case UrbFunction.SELECT_CONFIGURATION:
                self._configure(device, urb, done)
            case UrbFunction.SELECT_INTERFACE:
                self._set_interface(device, urb, done)
            case UrbFunction.GET_CURRENT_FRAME_NUMBER:
                done.result = _frame(now)
            case (
                UrbFunction.ABORT_PIPE
                | UrbFunction.SYNC_RESET_PIPE
                | UrbFunction.SYNC_CLEAR_STALL
                | UrbFunction.SYNC_RESET_PIPE_AND_CLEAR_STALL
            ):
                self._pipe(device, urb, done)
            case _:
                setup = requests.setup_of(urb)
                if setup is not None:
                    self._control_transfer(device, number, urb, setup)
                    return
                done.usbd = urbs.NOT_SUPPORTED
        self._complete(device, number, done)

    def _control_transfer(
        self, device: _Device, number: int, urb: Transfer, setup: SetupPacket
    ) -> None:
        made = Urb.control(urb.request, setup, bytes(urb.data or b""))
        device.urbs[made.id] = made, number, False
        self._events.append(UrbSubmitted(device.info.id, made))

    def _submit(
        self,
        device: _Device,
        number: int,
        urb: Transfer,
        handle: int,
        packets: tuple[int, ...],
    ) -> None:
        kind = device.pipes.get(handle)
        is_in = urb.data is None
        is_iso = kind is _ISOCHRONOUS
        if kind is None or (handle & 0x80 != 0) is not is_in or is_iso == (not packets):
            done = Completion(urb.request, _INVALID, HResult.INVALID)
            self._complete(device, number, done)
            return
        made = Urb(
            urb.request, kind, handle, urb.size, urb.data or b"", packets=packets
        )
        device.urbs[made.id] = made, number, urb.no_ack
        self._events.append(UrbSubmitted(device.info.id, made))

    def _configure(self, device: _Device, urb: Transfer, done: Completion) -> None:
        """Select what the request describes; its answer describes it, too."""
        asked = settings.Configuration.parse(urb.body)
        value, result = 0, settings.ConfigurationResult()
        device.active, device.settings, device.pipes = None, {}, {}
        if asked.descriptor is not None:
            found = ConfigurationDescriptor.parse(asked.descriptor, [])
            wanted = [found.interface(i.number, i.alternate) for i in asked.interfaces]
            chosen = [setting for setting in wanted if setting is not None]
            numbers = [setting.number for setting in chosen]
            if None in wanted or len(set(numbers)) != len(numbers):  # 13
                done.usbd, done.hresult = _INVALID, HResult.INVALID
                return
            device.active, value = found, found.value
            for setting in chosen:
                device.select(setting)
            result = settings.ConfigurationResult(
                CONFIGURED, tuple(map(_setting, chosen))
            )
        number = device.info.id
        self._events.append(ConfigurationRequested(number, value))
        self._events += [ClaimRequested(number, i) for i in device.settings]
        done.result = result.serialize()

    def _set_interface(self, device: _Device, urb: Transfer, done: Completion) -> None:
        asked = settings.InterfaceSelection.parse(urb.body).interface
        active = device.active
        found = active.interface(asked.number, asked.alternate) if active else None
        if found is None:
            done.usbd, done.hresult = _INVALID, HResult.INVALID
            return
        device.select(found)
        self._events.append(
            AlternateRequested(device.info.id, found.number, found.alternate)
        )
        done.result = _setting(found).serialize()

    def _pipe(self, device: _Device, urb: Transfer, done: Completion) -> None:
        """ABORT_PIPE cancels; the others clear a halt, but for SYNC_RESET_PIPE."""
        handle, number = _first(urb, urbs.PIPE), device.info.id
        if handle not in device.pipes:
            done.usbd = _INVALID
        elif urb.function == UrbFunction.ABORT_PIPE:
            self._events += [
                CancelRequested(number, one.id)
                for one, _, _ in device.urbs.values()
                if one.endpoint == handle
            ]
        elif urb.function != UrbFunction.SYNC_RESET_PIPE:
            self._events.append(ClearHaltRequested(number, handle))

    # --------------------------------------------------------------- small ----

    def _complete(self, device: _Device, number: int, done: Completion) -> None:
        message = urbs.completion(device.completions, number, done)
        self._outputs.append(Send(device.channel, message))

    def _lose(self, number: int) -> None:
        device = self._by_number.get(number)
        if device is not None:
            self._let_go(device)

    def _let_go(self, device: _Device) -> None:
        """Close the channel of what is not there any more; nobody is asked to."""
        del self._devices[device.channel], self._by_number[device.info.id]
        self._outputs.append(CloseChannel(device.channel))

    def _close(self, channel: int) -> None:
        """The server has closed the channel of a device."""
        device = self._devices.pop(channel, None)
        if device is None:
            return
        del self._by_number[device.info.id]
        if device.is_open:
            self._events.append(CloseRequested(device.info.id))

    def _ignore(self, reason: str) -> None:
        self._events.append(Ignored(reason))

    def _say(
        self,
        channel: int,
        interface: int,
        function: int,
        number: int,
        body: bytes = b"",
    ) -> None:
        message = Message(interface, PROXY, number, function, body)
        self._outputs.append(Send(channel, message.serialize()))


# ------------------------------------------------------------- functions ----


def _number(body: bytes | memoryview) -> tuple[int]:
    if len(body) != messages.CANCEL.size:
        raise ParseError(f"a request to cancel or to retract of {len(body)} bytes")
    (number,) = messages.CANCEL.unpack(body)
    return (number,)


def _first(urb: Transfer, layout: struct.Struct) -> int:
    """The handle that a TS_URB begins with."""
    if len(urb.body) != layout.size:
        raise ParseError(f"TS_URB {urb.function:#x}: a body of {len(urb.body)} bytes")
    handle: int = layout.unpack(urb.body)[0]
    return handle


def _frame(now: float) -> bytes:
    """The frame number: milliseconds, as FreeRDP counts (5.4)."""
    return (int(now * 1000) & 0xFFFFFFFF).to_bytes(4, "little")


def _setting(setting: InterfaceDescriptor) -> settings.InterfaceResult:
    """Describe an alternate setting; an endpoint's address is its handle."""
    return settings.InterfaceResult(
        setting.number,
        setting.alternate,
        setting.interface_class,
        setting.interface_subclass,
        setting.interface_protocol,
        setting.number,
        tuple(
            settings.PipeResult(
                e.max_packet_size, e.address, e.interval, e.transfer_type, e.address
            )
            for e in setting.endpoints
        ),
    )


def _description(info: DeviceInfo, interface: int) -> messages.AddDevice:
    """What ADD_DEVICE says of a device; the instance is that of a plug-in (5.1)."""
    ids = f"USB\\VID_{info.vendor_id:04X}&PID_{info.product_id:04X}"
    kind = f"{info.device_class:02X}"
    below = f"{kind}&SubClass_{info.device_subclass:02X}"
    protocol = f"{below}&Prot_{info.device_protocol:02X}"
    word = "Class" if info.device_class else "DevClass"
    return messages.AddDevice(
        interface,
        f"{ids}\\{info.id:08X}",
        (f"{ids}&REV_{info.bcd_device:04X}", ids),
        tuple(f"USB\\{word}_{one}" for one in (protocol, below, kind)),
        f"{{00000000-0000-0000-0000-{info.id:012x}}}",
        info.bcd_usb,
        info.speed >= Speed.HIGH,
        JITTER,
    )
