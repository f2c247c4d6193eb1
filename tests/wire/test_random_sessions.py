"""Sessions of two joined cores in which anything happens at any time, from a seed.

Messages wait in queues of their own, so that submits, cancels, resets, unplugs and the
end of the connection meet what is under way; streams are cut anywhere.
"""

import random
from collections import defaultdict, deque

import pytest

from rusb.errors import LocalProtocolError, RemoteProtocolError
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
    EndpointDescriptor,
    InterfaceDescriptor,
)
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire import usbip, usbredir, vrdpusb
from rusb.wire.base import (
    CancelRequested,
    CloseRequested,
    DeviceFailed,
    DevicesListed,
    DevicesRequested,
    Side,
    UrbCompleted,
    UrbSubmitted,
    WireProtocol,
)
from tests.support.amount import chance, inputs
from tests.support.wire.joined import messages

URBS = inputs(3000)
BULK, INTERRUPT, CONTROL = (
    *(TransferType.BULK, TransferType.INTERRUPT),
    TransferType.CONTROL,
)
KINDS = {0x81: BULK, 2: BULK, 0x83: INTERRUPT, 4: INTERRUPT, 0: CONTROL, 0x80: CONTROL}
ENDPOINTS = tuple(
    EndpointDescriptor(a, 2 if k is BULK else 3, 512 if k is BULK else 64, 4)
    for a, k in KINDS.items()
    if k is not CONTROL
)
DESCRIPTORS = DeviceDescriptors(
    DeviceDescriptor(0x0200, 0xFF, 0, 0, 64, 0x1209, 1, 0x0100),
    (
        ConfigurationDescriptor(
            1, 0x80, 50, (InterfaceDescriptor(0, 0, 0xFF, 0, 0, 0, ENDPOINTS),)
        ),
    ),
)
Key = tuple[int, int]  # device, URB id of that side


class Session:
    """One connection, from its beginning to its end."""

    def __init__(self, protocol: WireProtocol, chance: random.Random) -> None:
        self.chance = chance
        self.is_stream = protocol in (usbredir.PLUGIN, usbip.PLUGIN)
        self.may_unplug = protocol is not usbip.PLUGIN  # it ends the stream
        self.guest, self.device = protocol.guest_side(), protocol.device_side()
        self.channel = 0 if self.is_stream else 6
        self.now = 0.0
        self.there: deque[bytes] = deque()  # on their way to the device
        self.back: deque[bytes] = deque()
        self.live: dict[Key, Urb] = {}
        self.submitted: dict[Key, list[int]] = defaultdict(list)  # by endpoint
        self.done: dict[Key, list[int]] = defaultdict(list)
        self.in_flight: dict[Key, Urb] = {}
        self.listed: set[int] = set()
        self.open: set[int] = set()
        self.present = {1} if self.is_stream else {1, 2}
        self.is_over = False
        self.device.channel_opened(self.channel, "", now=0)
        self.guest.channel_opened(self.channel, "", now=0)
        self.announce()
        self.settle()

    def announce(self) -> None:
        infos = [DeviceInfo(i, 0x1209, i, speed=Speed.HIGH) for i in self.present]
        self.device.announce(infos, dict.fromkeys(self.present, DESCRIPTORS))

    # ---------------------------------------------------- what cores say ----

    def settle(self) -> None:
        """Take what both cores have to say, until there is no more."""
        while (events := self.device.events()) or (seen := self.guest.events()):
            for event in events:
                self.device_says(event)
            for event in seen if not events else self.guest.events():
                self.guest_says(event)
        self.there += messages(self.guest)
        self.back += messages(self.device)

    def guest_says(self, event: object) -> None:
        if isinstance(event, UrbCompleted):
            urb = self.live.pop((event.device, event.urb_id))  # not twice, not unknown
            result = event.result
            assert len(result.data) <= urb.length
            assert result.length <= urb.length
            if self.is_over:
                assert result.status in (UrbStatus.NO_DEVICE, UrbStatus.CANCELLED)
            if result.status is UrbStatus.OK:
                self.done[event.device, urb.endpoint].append(event.urb_id)
        elif isinstance(event, DevicesListed):
            self.listed = {info.id for info in event.devices}
            if self.is_stream:
                self.open &= self.listed
        elif isinstance(event, DeviceFailed):
            self.open.discard(event.device)
            if not self.is_stream:
                self.guest.close_device(event.device)

    def device_says(self, event: object) -> None:
        if isinstance(event, UrbSubmitted):
            key = event.device, event.urb.id
            assert key not in self.in_flight
            self.in_flight[key] = event.urb
        elif isinstance(event, CancelRequested):
            urb = self.in_flight.pop((event.device, event.urb_id), None)
            if urb is not None:
                self.complete(event.device, urb, UrbStatus.CANCELLED)
        elif isinstance(event, CloseRequested):
            for key in [k for k in self.in_flight if k[0] == event.device]:
                del self.in_flight[key]
        elif isinstance(event, DevicesRequested):
            self.announce()

    def complete(self, device: int, urb: Urb, status: UrbStatus) -> None:
        moved = self.chance.choice((urb.length, self.chance.randint(0, urb.length)))
        if status not in (UrbStatus.OK, UrbStatus.CANCELLED):
            moved = 0
        data = bytes(moved) if urb.is_in else b""
        self.device.complete_urb(device, urb.id, UrbResult(status, data, moved))

    # ------------------------------------------------------ what happens ----

    def submit(self, number: int) -> None:
        if not self.open:
            return
        device = self.chance.choice(sorted(self.open))
        endpoint = self.chance.choice(list(KINDS))
        length = self.chance.choice((0, 1, 8, 64, 512, 4096, 60_000))
        data = b"" if endpoint & 0x80 else bytes(min(length, 64))
        if KINDS[endpoint] is CONTROL:
            request_type = 0x40 | endpoint
            size = min(length, 255) if endpoint else len(data)
            setup = SetupPacket(request_type, 1, 0, 0, size)
            urb = Urb.control(number, setup, data)
        else:
            length = length if endpoint & 0x80 else len(data)
            urb = Urb(number, KINDS[endpoint], endpoint, length, data)
        self.live[device, number] = urb
        self.submitted[device, endpoint].append(number)
        self.guest.submit_urb(device, urb, now=self.now)

    def cancel(self) -> None:
        if self.live:
            self.guest.cancel_urb(*self.chance.choice(list(self.live)))

    def finish_one(self) -> None:
        """Complete the oldest URB of some endpoint, as a host controller does."""
        if not self.in_flight:
            return
        busy = {(k[0], urb.endpoint) for k, urb in self.in_flight.items()}
        device, endpoint = self.chance.choice(sorted(busy))
        key = next(
            k
            for k, urb in self.in_flight.items()
            if k[0] == device and urb.endpoint == endpoint
        )
        is_good = self.chance.random() < 0.9
        status = UrbStatus.OK if is_good else self.chance.choice(list(UrbStatus))
        self.complete(device, self.in_flight.pop(key), status)

    def deliver(self, queue: deque[bytes], side: Side) -> None:
        if not queue:
            return
        message = queue.popleft()
        if self.is_stream and self.chance.random() < 0.5:
            while queue and self.chance.random() < 0.5:
                message += queue.popleft()
            cut = self.chance.randrange(len(message) + 1)
            message, rest = message[:cut], message[cut:]
            if rest:
                queue.appendleft(rest)
        side.receive_data(self.channel, message, now=self.now)

    def deliver_there(self) -> None:
        self.deliver(self.there, self.device)

    def deliver_back(self) -> None:
        self.deliver(self.back, self.guest)

    def open_one(self) -> None:
        for device in self.listed - self.open:
            try:
                self.guest.open_device(device)
            except LocalProtocolError:  # it is being closed
                continue
            self.open.add(device)
            self.guest.set_configuration(device, 1)

    def reset_or_close(self) -> None:
        if not self.open:
            return
        device = self.chance.choice(sorted(self.open))
        if self.is_stream or self.chance.random() < 0.7:
            self.guest.reset_device(device)
        else:
            self.guest.close_device(device)
            self.open.discard(device)
        self.settle()
        assert not [key for key in self.live if key[0] == device]

    def plug_or_unplug(self) -> None:
        if not self.may_unplug:
            return
        device = 1 if self.is_stream else self.chance.choice((1, 2))
        if device in self.present:
            self.present.discard(device)
            for key in [k for k in self.in_flight if k[0] == device]:
                self.complete(device, self.in_flight.pop(key), UrbStatus.NO_DEVICE)
            self.device.device_lost(device)
        else:
            self.present.add(device)
        self.announce()

    def wait(self) -> None:
        self.now += self.chance.choice((0.001, 0.01, 0.1, 1, 6))
        for side in (self.guest, self.device):
            side.handle_deadline(self.now)

    def run(self, numbers: range) -> None:
        happenings = (
            *((0.30, self.finish_one), (0.25, self.deliver_there)),
            *((0.25, self.deliver_back), (0.01, self.cancel)),
            *((0.03, self.open_one), (0.002, self.reset_or_close)),
            *((0.0005, self.plug_or_unplug), (0.003, self.wait)),
        )
        weights = [weight for weight, _ in happenings]
        for number in numbers:
            self.submit(number)
            self.settle()
            for _, happen in self.chance.choices(happenings, weights, k=6):
                happen()
                self.settle()

    def end(self) -> None:
        """The connection is lost: nothing is left, and nothing comes any more."""
        self.is_over = True
        self.guest.channel_closed(self.channel)
        self.settle()
        assert self.live == {}
        self.device.channel_closed(self.channel)
        self.settle()
        for message in list(self.back)[:5]:
            try:
                self.guest.receive_data(self.channel, message, now=self.now)
            except RemoteProtocolError:
                pass
            assert not any(isinstance(e, UrbCompleted) for e in self.guest.events())
        for key, ids in self.done.items():
            place = {id: n for n, id in enumerate(self.submitted[key])}
            order = [place[id] for id in ids]
            assert order == sorted(order), f"the order of {key} is broken"
        parts = [getattr(self.device, n, None) for n in ("_requests", "_streams")]
        for part in (self.guest, self.device, *(p for p in parts if p is not None)):
            for name, value in vars(part).items():
                if isinstance(value, dict | set) and name not in ("_handlers", "types"):
                    assert not value, f"{type(part).__name__}.{name} is not empty"


@pytest.mark.fuzz
@pytest.mark.parametrize(
    "protocol",
    [vrdpusb.PLUGIN, usbredir.PLUGIN, usbip.PLUGIN],
    ids=["vrdpusb", "usbredir", "usbip"],
)
def test_whatever_happens_each_urb_completes_once_in_order(
    protocol: WireProtocol,
) -> None:
    source = chance(1)
    first, done = 1, 0
    while first < URBS:
        session = Session(protocol, source)
        numbers = range(first, first + source.choice((5, 50, 500, 1000)))
        session.run(numbers)
        session.end()
        first = numbers.stop
        done += sum(map(len, session.done.values()))
    assert done > URBS // 4  # it is about what works, too
