"""A wire protocol that has a channel for each device, over static or dynamic channels.

Its messages are pickled tuples: what a word means is in the two sides. The channel
``toy`` carries the list; a device's own channel everything about the device.
"""

import pickle
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rusb.errors import LocalProtocolError
from rusb.usb.descriptors import DeviceDescriptors
from rusb.usb.device import DeviceInfo
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire import base

__all__ = [
    *("DYNAMIC", "FEW", "MORE", "ONE", "OTHER", "SHORT", "STATIC"),
    *("Toy", "ToyDeviceSide", "ToyGuestSide"),
]

_STATIC = base.ChannelSpec(
    "toy", base.ChannelKind.STATIC, further=("toy1", "toy2", "toy3")
)
_DYNAMIC = base.ChannelSpec("TOY", base.ChannelKind.DYNAMIC, max_channels=33)


class _Side(base.Side):
    """What both sides have: a control channel, and a channel for each device."""

    def __init__(self, spec: base.ChannelSpec) -> None:
        self.spec = spec
        self.is_dynamic = spec.kind is base.ChannelKind.DYNAMIC
        self.control: int | None = None
        self.bound: dict[int, int] = {}  # device by channel
        self._events: list[base.Event] = []
        self._outputs: list[base.Output] = []

    def channel_opened(self, channel: int, name: str, *, now: float) -> None:
        if self.control is None:
            self.control = channel
            self.begin()
        else:
            self.device_channel(channel)

    def begin(self) -> None:
        """The control channel is open."""

    def device_channel(self, channel: int) -> None:
        """A channel for a device is open."""

    def receive_data(self, channel: int, data: bytes, *, now: float) -> None:
        word, *values = pickle.loads(data)
        handle = getattr(self, f"on_{word}")
        if channel == self.control:
            handle(*values)
        else:
            handle(channel, *values)

    def put(self, channel: int | None, *message: object) -> None:
        if channel is not None:
            self._outputs.append(base.Send(channel, pickle.dumps(message)))

    def channel_of(self, device: int) -> int | None:
        found = [channel for channel, bound in self.bound.items() if bound == device]
        return found[0] if found else None

    def next_deadline(self) -> float | None:
        return None

    def handle_deadline(self, now: float) -> None: ...

    def events(self) -> list[base.Event]:
        events, self._events = self._events, []
        return events

    def outputs(self) -> list[base.Output]:
        outputs, self._outputs = self._outputs, []
        return outputs


@dataclass
class _Opened:
    urbs: set[int] = field(default_factory=set)
    waiting: list[tuple[object, ...]] = field(default_factory=list)


class ToyGuestSide(_Side, base.GuestSide):
    """Asks. A device that is opened gets a channel: a new one, or one that is free."""

    def __init__(self, spec: base.ChannelSpec) -> None:
        super().__init__(spec)
        self.listed: set[int] = set()
        self.opened: dict[int, _Opened] = {}
        self.free: deque[int] = deque()
        self.wanted: deque[int] = deque()  # devices whose channel is on its way

    def begin(self) -> None:
        self.put(self.control, "hello")

    def device_channel(self, channel: int) -> None:
        if not self.is_dynamic:
            self.free.append(channel)
            return
        device = self.wanted.popleft()
        if device in self.opened:
            self.bind(device, channel)
        else:  # it was closed meanwhile
            self._outputs.append(base.CloseChannel(channel))

    def bind(self, device: int, channel: int) -> None:
        self.bound[channel] = device
        self.put(channel, "open", device)
        for message in self.opened[device].waiting:
            self.put(channel, *message)

    def channel_refused(self, name: str) -> None:
        self.fail(self.wanted.popleft(), "open")

    def channel_closed(self, channel: int) -> None:
        if channel == self.control:
            for device in self.opened:
                self.complete_all(device, UrbStatus.NO_DEVICE)
            self.opened, self.bound = {}, {}
        elif channel in self.bound:
            self.fail(self.bound.pop(channel), "open", removed=True)

    def fail(self, device: int, request: str, *, removed: bool = False) -> None:
        if device in self.opened:
            self.complete_all(device, UrbStatus.NO_DEVICE)
            del self.opened[device]
            self._events.append(base.DeviceFailed(device, request, removed))

    def complete_all(self, device: int, status: UrbStatus) -> None:
        urbs, self.opened[device].urbs = self.opened[device].urbs, set()
        for urb_id in sorted(urbs):
            done = base.UrbCompleted(device, urb_id, UrbResult(status))
            self._events.append(done)

    def tell(self, device: int, *message: object) -> None:
        channel = self.channel_of(device)
        if channel is not None:
            self.put(channel, *message)
        elif device in self.opened:
            self.opened[device].waiting.append(message)

    def on_hello(self) -> None:
        self._events.append(base.Negotiated(1))

    def on_list(self, devices: list[DeviceInfo]) -> None:
        self.listed = {info.id for info in devices}
        remote = tuple(replace(info, remote=True) for info in devices)
        self._events.append(base.DevicesListed(remote))

    def on_done(self, channel: int, urb_id: int, result: UrbResult) -> None:
        device = self.bound.get(channel)
        if device in self.opened and urb_id in self.opened[device].urbs:
            self.opened[device].urbs.remove(urb_id)
            self._events.append(base.UrbCompleted(device, urb_id, result))

    def on_failed(self, channel: int, removed: bool) -> None:
        if channel in self.bound:
            self.fail(self.bound[channel], "open", removed=removed)

    def open_device(self, device: int) -> None:
        if device not in self.listed or device in self.opened:
            raise LocalProtocolError(f"device {device} cannot be opened")
        self.opened[device] = _Opened()
        if self.is_dynamic:
            self.wanted.append(device)
            self._outputs.append(base.OpenChannel(self.spec.name))
        elif self.free:
            self.bind(device, self.free.popleft())
        else:
            self.fail(device, "open")

    def close_device(self, device: int) -> None:
        if device in self.opened:
            self.complete_all(device, UrbStatus.CANCELLED)
            del self.opened[device]
        channel = self.channel_of(device)
        if channel is None:
            return
        del self.bound[channel]
        if self.is_dynamic:
            self._outputs.append(base.CloseChannel(channel))
        else:
            self.put(channel, "close")
            self.free.append(channel)

    def ask(self, asked: base.DeviceRequest, request: int | None) -> None:
        """Ask the device, and answer at once."""
        status = UrbStatus.OK if asked.device in self.opened else UrbStatus.NO_DEVICE
        self.tell(asked.device, "do", asked)
        if request is not None:
            done = base.RequestCompleted(asked.device, request, status)
            self._events.append(done)

    def reset_device(self, device: int, *, request: int | None = None) -> None:
        if device in self.opened:
            self.complete_all(device, UrbStatus.CANCELLED)
        self.ask(base.ResetRequested(device), request)

    def set_configuration(
        self, device: int, value: int, *, request: int | None = None
    ) -> None:
        self.ask(base.ConfigurationRequested(device, value), request)

    def claim_interface(
        self, device: int, interface: int, *, request: int | None = None
    ) -> None:
        self.ask(base.ClaimRequested(device, interface), request)

    def release_interface(
        self, device: int, interface: int, *, request: int | None = None
    ) -> None:
        self.ask(base.ReleaseRequested(device, interface), request)

    def set_interface(
        self, device: int, interface: int, alternate: int, *, request: int | None = None
    ) -> None:
        self.ask(base.AlternateRequested(device, interface, alternate), request)

    def clear_halt(
        self, device: int, endpoint: int, *, request: int | None = None
    ) -> None:
        self.ask(base.ClearHaltRequested(device, endpoint), request)

    def submit_urb(self, device: int, urb: Urb, *, now: float) -> None:
        if device not in self.opened:
            gone = UrbResult(UrbStatus.NO_DEVICE)
            self._events.append(base.UrbCompleted(device, urb.id, gone))
            return
        self.opened[device].urbs.add(urb.id)
        self.tell(device, "urb", replace(urb, data=bytes(urb.data)))

    def cancel_urb(self, device: int, urb_id: int) -> None:
        self.tell(device, "cancel", urb_id)


class ToyDeviceSide(_Side, base.DeviceSide):
    """Answers."""

    has_begun = False

    def on_hello(self) -> None:
        self.has_begun = True
        self.put(self.control, "hello")
        self._events += [base.Negotiated(1), base.DevicesRequested()]

    def on_open(self, channel: int, device: int) -> None:
        self.bound[channel] = device
        self._events.append(base.OpenRequested(device))

    def on_close(self, channel: int) -> None:
        self._events.append(base.CloseRequested(self.bound.pop(channel)))

    def on_do(self, channel: int, request: base.DeviceRequest) -> None:
        self._events.append(request)

    def on_urb(self, channel: int, urb: Urb) -> None:
        self._events.append(base.UrbSubmitted(self.bound[channel], urb))

    def on_cancel(self, channel: int, urb_id: int) -> None:
        self._events.append(base.CancelRequested(self.bound[channel], urb_id))

    def channel_closed(self, channel: int) -> None:
        if not self.has_begun:
            self._events.append(base.Ignored("it never began"))
        channels = list(self.bound) if channel == self.control else [channel]
        for one in channels:
            if one in self.bound:
                self.on_close(one)

    def announce(
        self,
        devices: Sequence[DeviceInfo],
        descriptors: Mapping[int, DeviceDescriptors] | None = None,
    ) -> None:
        self.put(self.control, "list", list(devices))

    def open_failed(self, device: int) -> None:
        self.put(self.channel_of(device), "failed", False)

    def device_lost(self, device: int) -> None:
        self.put(self.channel_of(device), "failed", True)

    def complete_urb(self, device: int, urb_id: int, result: UrbResult) -> None:
        whole = replace(result, data=bytes(result.data))
        self.put(self.channel_of(device), "done", urb_id, whole)


class Toy:
    """The plugin; see :class:`~rusb.wire.base.WireProtocol`."""

    def __init__(
        self,
        name: str,
        channel: base.ChannelSpec,
        types: Iterable[TransferType] = TransferType,
    ) -> None:
        self.name = name
        self.channel = channel
        self.transfer_types = frozenset(types)

    def guest_side(self) -> ToyGuestSide:
        return ToyGuestSide(self.channel)

    def device_side(self) -> ToyDeviceSide:
        return ToyDeviceSide(self.channel)


STATIC = Toy("toystatic", _STATIC)
DYNAMIC = Toy("toydynamic", _DYNAMIC)
OTHER = Toy("toyother", replace(_DYNAMIC, name="OTHER"))
ONE = Toy("toyone", base.ChannelSpec("toy1", base.ChannelKind.STATIC))
MORE = Toy("toymore", replace(_DYNAMIC, further=("MORE",)))
PLAIN = Toy("toyplain", _DYNAMIC, set(TransferType) - {TransferType.ISOCHRONOUS})
FEW = Toy("toyfew", replace(_DYNAMIC, max_channels=2))
SHORT = Toy("toyshort", replace(_DYNAMIC, max_message=100_000))
