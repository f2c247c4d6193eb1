"""Two cores of a wire protocol joined in memory, at a time that tests set."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from rusb.usb.descriptors import DeviceDescriptors
from rusb.usb.device import DeviceInfo
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    CloseChannel,
    DeviceSide,
    DevicesListed,
    DevicesRequested,
    Event,
    GuestSide,
    OpenChannel,
    Output,
    Send,
    Side,
    UrbCompleted,
    UrbSubmitted,
)

__all__ = ["Joined", "clear", "echo", "messages"]

E = TypeVar("E")
Answer = Callable[[Urb], UrbResult | None]


def echo(urb: Urb) -> UrbResult:
    """Every byte sent arrives; every byte asked for comes, counting up."""
    if not urb.is_in:
        return UrbResult(UrbStatus.OK, b"", urb.length)
    data = bytes(i & 0xFF for i in range(urb.length))
    return UrbResult(UrbStatus.OK, data, len(data))


def messages(side: Side) -> list[bytes]:
    """Take what a core sends; it opens no channels."""
    outputs = side.outputs()
    assert all(isinstance(o, Send | CloseChannel) for o in outputs)
    return [o.data for o in outputs if isinstance(o, Send)]


def clear(side: Side) -> None:
    """Forget what a core has for its caller so far."""
    side.events()
    side.outputs()


class Joined:
    """A guest side and a device side; what one sends the other receives.

    The device end announces ``devices`` when it is asked, and answers each URB with
    ``answer``, if that gives a result.

    Attributes:
        now: what the cores take for the time.
        of_guest, of_device: events so far.
        sent: messages of the guest side so far.
        received: messages of the device side so far.
        channels: what is open.
        channel_of: where a message went last.
    """

    def __init__(
        self,
        guest: GuestSide,
        device: DeviceSide,
        *devices: DeviceInfo,
        descriptors: Mapping[int, DeviceDescriptors] | None = None,
        answer: Answer = echo,
        channel: int = 1,
        name: str = "",
    ) -> None:
        self.now = 0.0
        self.guest, self.device = guest, device
        self.devices = devices
        self.descriptors = descriptors
        self.answer = answer
        self.channel = channel
        self.channels = {channel}
        self._closed: set[int] = set()
        self.channel_of: dict[bytes, int] = {}
        self.of_guest: list[Event] = []
        self.of_device: list[Event] = []
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        device.channel_opened(channel, name, now=0)
        guest.channel_opened(channel, name, now=0)
        device.announce(devices, descriptors)
        self.move()

    def move(self) -> None:
        """Carry messages to and fro until there are no more."""
        while True:
            there, back = self.guest.outputs(), self.device.outputs()
            self._carry(there, self.device, self.sent)
            self._carry(back, self.guest, self.received)
            events = self.device.events()
            self.of_device += events
            for event in events:
                self._serve(event)
            more = self.guest.events()
            self.of_guest += more
            if not (there or back or events or more):
                return

    def _carry(self, outputs: list[Output], to: Side, record: list[bytes]) -> None:
        """Do what a side wants; a number that one has closed is closed for both."""
        for output in outputs:
            match output:
                case Send():
                    record.append(output.data)
                    if output.channel in self.channels:
                        self.channel_of[output.data] = output.channel
                        to.receive_data(output.channel, output.data, now=self.now)
                case OpenChannel():
                    number = self.channel + len(self.channels) + len(self._closed)
                    self.channels.add(number)
                    self.device.channel_opened(number, output.name, now=self.now)
                    self.guest.channel_opened(number, output.name, now=self.now)
                case CloseChannel() if output.channel in self.channels:
                    self.channels.remove(output.channel)
                    self._closed.add(output.channel)
                    to.channel_closed(output.channel)

    def _serve(self, event: Event) -> None:
        if isinstance(event, DevicesRequested):
            self.device.announce(self.devices, self.descriptors)
        elif isinstance(event, UrbSubmitted):
            result = self.answer(event.urb)
            if result is not None:
                self.device.complete_urb(event.device, event.urb.id, result)

    def wait(self, seconds: float) -> None:
        """Let time pass, in the steps the cores ask for."""
        end = self.now + seconds
        while True:
            deadlines = [s.next_deadline() for s in (self.guest, self.device)]
            due = [d for d in deadlines if d is not None and d <= end]
            self.now = max(self.now, min(due, default=end))
            for side in (self.guest, self.device):
                side.handle_deadline(self.now)
            self.move()
            if not due:
                return

    def forget(self) -> None:
        """Clear what was recorded so far."""
        for record in (self.of_guest, self.of_device, self.sent, self.received):
            record.clear()

    def guest_saw(self, kind: type[E]) -> list[E]:
        """Events of the guest side of one kind."""
        return [e for e in self.of_guest if isinstance(e, kind)]

    def device_saw(self, kind: type[E]) -> list[E]:
        """Events of the device side of one kind."""
        return [e for e in self.of_device if isinstance(e, kind)]

    @property
    def listed(self) -> tuple[DeviceInfo, ...]:
        """The device list that the guest side reported last."""
        return self.guest_saw(DevicesListed)[-1].devices

    def run(self, device: int, urb: Urb) -> UrbResult:
        """Submit a URB and return its result, which comes without waiting."""
        self.guest.submit_urb(device, urb, now=self.now)
        self.move()
        done = [e for e in self.guest_saw(UrbCompleted) if e.urb_id == urb.id]
        assert len(done) == 1
        return done[0].result
