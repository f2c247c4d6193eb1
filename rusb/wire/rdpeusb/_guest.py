"""The server's side of MS-RDPEUSB: channels, the handshake, and devices (rdpeusb.md).

The first channel is for control: the client asks there for a further channel for each
of its devices. All have the same handshake. What cannot be read ends the device whose
channel it came on, and never the connection (13).
"""

import enum
import itertools
from collections.abc import Callable
from functools import partial
from typing import Final

from rusb.errors import LocalProtocolError, ParseError
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    CloseChannel,
    DeviceFailed,
    DevicesListed,
    Event,
    GuestSide,
    Ignored,
    Negotiated,
    OpenChannel,
    Output,
    RequestCompleted,
    Send,
    UrbCompleted,
)

from . import _messages as messages
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
    Done,
    Function,
    Message,
    Sink,
)
from ._remote import RemoteDevice

__all__ = ["CHANNEL", "MAX_DEVICES", "RdpeusbGuestSide"]

CHANNEL: Final = "URBDRC"

FIRST_DEVICE: Final = 0x10000
"""Our numbers are above those of ``vrdpusb``, which a client may have beside it."""

MAX_DEVICES: Final = 32
"""Device channels of a session, open or on their way (14)."""

ADD_LIMIT: Final = 10.0
"""Seconds from the opening of a device channel to its device: where none is left the
client stays silent (4)."""

COMPLETIONS: Final = 0x10
"""The interface for completions, the same on each channel (16)."""


class _Phase(enum.Enum):
    """How far a channel has come (4)."""

    CAPABILITIES = enum.auto()
    CREATED = enum.auto()
    RELEASED = enum.auto()
    IN_USE = enum.auto()


_COMPLETION: Final = COMPLETIONS | PROXY
"""How completions begin; see HEADER."""

_URB, _URB_NO_DATA = Done.URB, Done.URB_NO_DATA
_UNWANTED: Final = "a completion that nobody waits for"


class _Channel:
    """A channel and its handshake; a device, once it has been added."""

    __slots__ = ("device", "due", "number", "phase")

    def __init__(self, number: int) -> None:
        self.number = number
        self.phase = _Phase.CAPABILITIES
        self.due: float | None = None
        self.device: RemoteDevice | None = None


class RdpeusbGuestSide(GuestSide):
    """The end with the guest; see :class:`~rusb.wire.base.GuestSide`."""

    def __init__(self) -> None:
        self._control: int | None = None
        self._is_over = False
        self._channels: dict[int, _Channel] = {}
        self._wanted = 0  # channels that are on their way
        self._devices: dict[int, RemoteDevice] = {}  # listed, by number
        # by number of a device, while it is there
        self._where: dict[int, _Channel] = {}
        self._numbers = itertools.count(FIRST_DEVICE)
        self._is_gone = False  # the control channel is; whoever lists must be told
        # devices add to these two lists, which are never others
        self._events: list[Event] = []
        self._outputs: list[Output] = []

    # ---------------------------------------------------------------- Side ----

    def channel_opened(self, channel: int, name: str, *, now: float) -> None:
        """Begin the handshake; the first one is for control."""
        if self._is_over or (self._control is not None and not self._wanted):
            self._outputs.append(CloseChannel(channel))
            return
        opened = self._channels[channel] = _Channel(channel)
        if self._control is None:
            self._control = channel
        else:
            self._wanted -= 1
            opened.due = now + ADD_LIMIT
        body = (messages.VERSION).to_bytes(4, "little")
        self._say(opened, CAPABILITIES, 0, Function.CAPABILITY, body)

    def channel_refused(self, name: str) -> None:
        """The client asked for a channel, and does not take it."""
        if self._wanted:
            self._wanted -= 1
        self._ignore(f"the client refuses a channel {name} that it asked for")

    def channel_closed(self, channel: int) -> None:
        """Its device is gone; with the control channel all are."""
        if channel == self._control:
            self._end()
        elif channel in self._channels:
            self._remove(self._channels[channel], removed=True)

    def receive_data(self, channel: int, data: bytes, *, now: float) -> None:
        """Take one message; a bad one ends its channel."""
        known = self._channels.get(channel)
        if known is None:
            self._ignore("a message on a channel that is closed")
            return
        device = known.device
        try:
            if device is not None and len(data) >= HEADER_SIZE:
                word, _, function = HEADER.unpack_from(data)
                has_data = function == _URB
                if word == _COMPLETION and (has_data or function == _URB_NO_DATA):
                    # as nearly always
                    self._completed(device, data, has_data=has_data)
                    return
            self._take(known, data)
        except ParseError as error:
            self._give_up(known, str(error))

    def next_deadline(self) -> float | None:
        """Return when a limit passes."""
        if self._is_gone:
            return 0.0
        first = None
        for channel in self._channels.values():
            device, due = channel.device, channel.due
            if due is None and device is not None:
                due = device.next_deadline()
            if due is not None and (first is None or due < first):
                first = due
        return first

    def handle_deadline(self, now: float) -> None:
        """Close silent channels, give up what took too long."""
        if self._is_gone:
            self._is_gone = False
            self._devices.clear()
            self._events.append(DevicesListed(()))
        for channel in list(self._channels.values()):
            if channel.due is not None and channel.due <= now:
                self._give_up(channel, f"no device within {ADD_LIMIT:g} s")
            elif channel.device is not None:
                channel.device.handle_deadline(now)

    def events(self) -> list[Event]:
        """Take the events."""
        taken = self._events.copy()
        self._events.clear()
        return taken

    def outputs(self) -> list[Output]:
        """Take the outputs."""
        taken = self._outputs.copy()
        self._outputs.clear()
        return taken

    # ----------------------------------------------------------- GuestSide ----

    def open_device(self, device: int) -> None:
        """The client has opened it already; one whose channel is closed fails."""
        known = self._devices.get(device)
        if known is None or known.is_open:
            raise LocalProtocolError(f"device {device} is not listed, or open already")
        if device in self._where:
            known.is_open = True
        else:
            self._events.append(DeviceFailed(device, "open"))

    def close_device(self, device: int) -> None:
        """Complete what is open with CANCELLED. The channel stays, for FreeRDP offers
        no device twice in a session (4): it may be opened again."""
        known = self._devices.get(device)
        if known is not None and known.is_open:
            known.is_open = False
            known.stop()

    def refuse_device(self, device: int) -> bool:
        """Close its channel (5.7)."""
        channel = self._where.pop(device, None)
        if channel is None:
            return device in self._devices
        known = self._devices[device]
        known.is_open = False
        known.retract()
        known.end(UrbStatus.CANCELLED)
        del self._channels[channel.number]
        self._outputs.append(CloseChannel(channel.number))
        refused = [number for number in self._devices if number not in self._where]
        if len(refused) > MAX_DEVICES:  # unplugged since, as far as anybody knows
            self._unlist(refused[0])
        return True

    def reset_device(self, device: int, *, request: int | None = None) -> None:
        """IO_CONTROL RESET_PORT, which FreeRDP only confirms (5.4)."""
        self._ask(device, request, lambda one, told: one.reset(told))

    def set_configuration(
        self, device: int, value: int, *, request: int | None = None
    ) -> None:
        """SELECT_CONFIGURATION."""
        self._ask(device, request, lambda one, told: one.set_configuration(value, told))

    def claim_interface(
        self, device: int, interface: int, *, request: int | None = None
    ) -> None:
        """Nothing: the client claims with the configuration."""
        self._ask(device, request, lambda one, told: told(UrbStatus.OK))

    def release_interface(
        self, device: int, interface: int, *, request: int | None = None
    ) -> None:
        """Nothing."""
        self._ask(device, request, lambda one, told: told(UrbStatus.OK))

    def set_interface(
        self, device: int, interface: int, alternate: int, *, request: int | None = None
    ) -> None:
        """SELECT_INTERFACE."""
        self._ask(
            device,
            request,
            lambda one, told: one.set_interface(interface, alternate, told),
        )

    def clear_halt(
        self, device: int, endpoint: int, *, request: int | None = None
    ) -> None:
        """SYNC_RESET_PIPE_AND_CLEAR_STALL."""
        self._ask(device, request, lambda one, told: one.clear_halt(endpoint, told))

    def submit_urb(self, device: int, urb: Urb, *, now: float) -> None:
        """Start a transfer."""
        known = self._devices.get(device)
        if known is None or not known.is_open:
            result = UrbResult(UrbStatus.NO_DEVICE)
            self._events.append(UrbCompleted(device, urb.id, result))
        else:
            known.submit(urb)

    def cancel_urb(self, device: int, urb_id: int) -> None:
        """Ask for the end of a transfer."""
        known = self._devices.get(device)
        if known is not None:
            known.cancel(urb_id)

    def _ask(
        self,
        device: int,
        request: int | None,
        ask: Callable[[RemoteDevice, Callable[[UrbStatus], None]], None],
    ) -> None:
        def told(status: UrbStatus) -> None:
            if request is not None:
                self._events.append(RequestCompleted(device, request, status))

        known = self._devices.get(device)
        if known is None or not known.is_open:
            told(UrbStatus.NO_DEVICE)
        else:
            ask(known, told)

    # --------------------------------------------------- from the client ----

    def _take(self, channel: _Channel, data: bytes) -> None:
        """Find out what a message is, in the order of section 3."""
        message, device = Message.parse(data), channel.device
        key = message.interface, message.function
        if message.mask == 0 and message.interface == CAPABILITIES:
            self._capable(channel, message)
        elif message.mask == STUB:
            self._ignore("an answer to nothing")
        elif message.mask == 0:
            raise ParseError(f"a message without a mask for {message.interface}")
        elif key == (TO_SERVER, CREATED):
            self._created(channel, message)
        elif key == (SINK, Sink.ADD_VIRTUAL_CHANNEL):
            self._channel_wanted(channel)
        elif key == (SINK, Sink.ADD_DEVICE):
            self._add(channel, messages.AddDevice.parse(message.body))
        elif message.function == Function.RELEASE:
            self._ignore("the client releases an interface")  # 13: mstsc, often
        elif message.function == Function.QUERY_INTERFACE:
            code = urbs.HResult.NO_INTERFACE.to_bytes(4, "little")
            answer = Message(message.interface, STUB, message.id, 0, code)
            self._outputs.append(Send(channel.number, answer.serialize()))
        elif device is None:
            raise ParseError(f"function {message.function:#x} without a device")
        elif message.function in (_URB, _URB_NO_DATA):
            self._completed(device, data, has_data=message.function == _URB)
        elif message.function == Done.IO_CONTROL:
            done = messages.IoCompletion.parse(message.body)
            if not device.io_completed(done):
                self._ignore(_UNWANTED)
        else:
            raise ParseError(f"function {message.function:#x} is not known")

    def _capable(self, channel: _Channel, message: Message) -> None:
        """Any version will do (4)."""
        # what stands in the place of a function is the version: it is a response
        if len(message.body) != 4:
            raise ParseError(f"capabilities with {len(message.body)} bytes more")
        if channel.phase is not _Phase.CAPABILITIES:
            self._ignore("capabilities twice")
            return
        channel.phase = _Phase.CREATED
        if channel.number == self._control:
            self._events.append(Negotiated(message.function))
        self._say(channel, CAPABILITIES, 0, Function.RELEASE)
        body = messages.ChannelCreated().serialize()
        self._say(channel, TO_CLIENT, PROXY, CREATED, body)

    def _created(self, channel: _Channel, message: Message) -> None:
        messages.ChannelCreated.parse(message.body)
        if channel.phase is not _Phase.CREATED:
            # 4: a second release would make a device channel of the control channel
            self._ignore("CHANNEL_CREATED out of turn")
            return
        channel.phase = _Phase.RELEASED
        self._say(channel, TO_CLIENT, PROXY, Function.RELEASE)

    def _channel_wanted(self, channel: _Channel) -> None:
        if channel.number != self._control or channel.phase is not _Phase.RELEASED:
            raise ParseError("ADD_VIRTUAL_CHANNEL on a channel of a device")
        if len(self._channels) - 1 + self._wanted >= MAX_DEVICES:
            self._ignore(f"more than {MAX_DEVICES} devices")
            return
        self._wanted += 1
        self._outputs.append(OpenChannel(CHANNEL))

    def _add(self, channel: _Channel, added: messages.AddDevice) -> None:
        """A device is there: read it, then list it."""
        if channel.number == self._control or channel.phase is not _Phase.RELEASED:
            raise ParseError("ADD_DEVICE out of turn")
        for other in self._channels.values():
            # 4: mstsc may announce a device on two channels
            if other.device is not None and other.device.instance == added.instance:
                self._give_up(channel, "the device is there already")
                return
        for number, known in list(self._devices.items()):
            if known.instance == added.instance:  # refused, and plugged in again
                self._unlist(number)
        number = next(self._numbers)
        channel.phase, channel.due = _Phase.IN_USE, None
        channel.device = RemoteDevice(
            number,
            added,
            channel.number,
            self._events,
            self._outputs,
            ready=partial(self._list, channel),
            failed=partial(self._give_up, channel),
        )
        channel.device.start(COMPLETIONS)

    def _list(self, channel: _Channel) -> None:
        device = channel.device
        assert device is not None
        self._devices[device.number] = device
        self._where[device.number] = channel
        self._tell_list()

    def _completed(self, device: RemoteDevice, data: bytes, *, has_data: bool) -> None:
        """A transfer is done."""
        if not device.completed(urbs.parse_completion(data, has_data=has_data)):
            self._ignore(_UNWANTED)

    # --------------------------------------------------------------- small ----

    def _end(self) -> None:
        """The control channel is gone, and with it everything."""
        if self._is_over:
            return
        self._is_over = self._is_gone = True
        channels, self._channels = self._channels, {}
        self._where.clear()
        self._wanted = 0
        for channel in channels.values():
            if channel.device is not None:
                channel.device.is_open = False
                channel.device.end(UrbStatus.NO_DEVICE)
            if channel.number != self._control:
                self._outputs.append(CloseChannel(channel.number))

    def _give_up(self, channel: _Channel, why: str) -> None:
        """Close a channel of which nothing can be made any more."""
        self._ignore(f"channel {channel.number} is closed: {why}")
        if channel.number == self._control:
            self._end()
            self._outputs.append(CloseChannel(channel.number))
        elif channel.number in self._channels:
            self._outputs.append(CloseChannel(channel.number))
            self._remove(channel, removed=False)

    def _remove(self, channel: _Channel, *, removed: bool) -> None:
        """A channel is gone, and its device with it."""
        del self._channels[channel.number]
        device = channel.device
        if device is None:
            return
        was_open, device.is_open = device.is_open, False
        device.end(UrbStatus.NO_DEVICE)
        if was_open:
            self._events.append(DeviceFailed(device.number, "use", removed))
        if device.number in self._devices:
            self._unlist(device.number)

    def _unlist(self, number: int) -> None:
        del self._devices[number]
        self._where.pop(number, None)
        self._tell_list()

    def _tell_list(self) -> None:
        listed = tuple(device.info for device in self._devices.values())
        self._events.append(DevicesListed(listed))

    def _ignore(self, reason: str) -> None:
        self._events.append(Ignored(reason))

    def _say(
        self,
        channel: _Channel,
        interface: int,
        mask: int,
        function: int,
        body: bytes = b"",
    ) -> None:
        """A message of the handshake, all of which have the number 0."""
        message = Message(interface, mask, 0, function, body)
        self._outputs.append(Send(channel.number, message.serialize()))
