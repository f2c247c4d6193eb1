"""What a bulk transfer costs on each wire: Python's calls, and copies of its bytes.

Both ends: two cores of a wire over two RDP connections, joined in memory.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

import pytest

import rusb
from rusb.aio.protocols import listeners, load_protocol
from rusb.client.backends.emulated import Loopback
from rusb.rdp import events as rdp
from rusb.rdp.channels import ChannelHandler, ChannelRegistry
from rusb.rdp.client import ClientSettings
from rusb.rdp.connection import Connection
from rusb.rdp.server import ServerSettings
from rusb.usb.device import DeviceInfo
from rusb.usb.types import DescriptorType, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire import base as wire
from rusb.wire.base import WireProtocol
from tests.support.memory import memory_below
from tests.support.rdp.joined import Joined
from tests.support.wire.redir import BULK_IN, BULK_OUT, Host, bulk

PACKAGE = str(Path(rusb.__file__).parent)
INFO = DeviceInfo(7, 0x1209, 0x0004)
SMALL, LARGE = 512, 64 << 10

MOST_CALLS = {"vrdpusb": (63, 64), "rdpeusb": (74, 79)}
"""For a transfer of 512 bytes, and for one of 64 KiB."""

MOST_CALLS_OF_A_GUEST = 44
"""For a transfer of 512 bytes with usbredir, towards the guest."""


class End(ChannelHandler):
    """One end: a core and what carries its channels."""

    def __init__(self, protocol: WireProtocol, core: wire.Side) -> None:
        self.core = core
        self.opens = isinstance(core, wire.GuestSide)
        self.registry = ChannelRegistry(listeners(protocol, self._opened))

    def _opened(self, protocol: WireProtocol, channel: int, name: str) -> "End":
        self.core.channel_opened(channel, name, now=0)
        return self

    def received(self, channel: int, data: bytes) -> None:
        self.core.receive_data(channel, data, now=0)

    def closed(self, channel: int) -> None:
        self.core.channel_closed(channel)

    def move(
        self,
        connection: Connection,
        events: list[rdp.Event],
        take: Callable[[wire.Event], None],
    ) -> None:
        """Carry what there is between the core and its connection."""
        for event in events:
            if isinstance(event, rdp.ChannelData):
                self.registry.open[event.channel].received(event.channel, event.data)
            elif isinstance(event, rdp.ChannelOpened):
                self.registry.handle(event, connection.close_channel)
            elif isinstance(event, rdp.DynamicReady):
                for name in self.registry.dynamic if self.opens else ():
                    connection.open_channel(name)
        events.clear()
        for told in self.core.events():
            take(told)
        for output in self.core.outputs():
            if isinstance(output, wire.Send):
                connection.send_channel(
                    *(output.channel, output.data),
                    flow=output.device,
                    is_urgent=output.is_urgent,
                    is_fence=output.is_fence,
                )
            else:
                assert isinstance(output, wire.OpenChannel)
                connection.open_channel(output.name)


class Way:
    """The way of a wire's transfers, with a device that answers at once."""

    def __init__(self, name: str) -> None:
        protocol = load_protocol(name)
        self.guest, self.device = protocol.guest_side(), protocol.device_side()
        near, far = End(protocol, self.guest), End(protocol, self.device)
        self.joined = Joined(
            ClientSettings(channels=far.registry.static, dynamic=far.registry.dynamic),
            ServerSettings(
                channels=near.registry.static, dynamic=near.registry.dynamic
            ),
        )
        self.ends = (
            (near, self.joined.server, self.joined.server_events),
            (far, self.joined.client, self.joined.client_events),
        )
        self.descriptors = Loopback().descriptors
        self.data = b""
        self.listed: tuple[DeviceInfo, ...] = ()
        self.results: list[UrbResult] = []
        self.now = 0.0
        self.number = 0
        self.device.announce([INFO], {INFO.id: self.descriptors})
        while not self.listed:
            self.move()
            self.now = max(self.now, self.guest.next_deadline() or 0)
            self.guest.handle_deadline(self.now)
        (self.number,) = (info.id for info in self.listed)
        self.guest.open_device(self.number)
        self.guest.set_configuration(self.number, 1)
        self.move()

    def move(self) -> None:
        """Carry everything until there is no more."""
        while True:
            for end, connection, events in self.ends:
                end.move(connection, events, self._take)
            if not self.joined.step():
                return

    def transfer(self, endpoint: int, size: int) -> UrbResult:
        """Do one."""
        self.data = bytes(size)
        is_in = endpoint & 0x80
        data = b"" if is_in else self.data
        urb = Urb(1, TransferType.BULK, endpoint, size, data)
        self.guest.submit_urb(self.number, urb, now=self.now)
        self.move()
        return self.results.pop()

    def _take(self, event: wire.Event) -> None:
        match event:
            case wire.DevicesRequested():
                self.device.announce([INFO], {INFO.id: self.descriptors})
            case wire.DevicesListed():
                self.listed = event.devices
            case wire.UrbCompleted():
                self.results.append(event.result)
            case wire.UrbSubmitted():
                result = self._answer(event.urb)
                self.device.complete_urb(event.device, event.urb.id, result)

    def _answer(self, urb: Urb) -> UrbResult:
        data = self.data
        if urb.setup is not None:
            device, configuration = self.descriptors.device, self.descriptors
            match urb.setup.value >> 8:
                case DescriptorType.DEVICE:
                    data = device.serialize()
                case DescriptorType.CONFIGURATION:
                    data = configuration.configurations[0].serialize()
                case _:
                    return UrbResult(UrbStatus.STALL)
            data = data[: urb.length]
        if not urb.is_in:
            return UrbResult(UrbStatus.OK, b"", urb.length)
        return UrbResult(UrbStatus.OK, data, len(data))


def count_calls(what: Callable[[], object]) -> int:
    """How many functions of ours that calls, those of dataclasses too."""
    found = 0

    def called(frame: FrameType, event: str, argument: object) -> None:
        nonlocal found
        name = frame.f_code.co_filename
        if event == "call" and (name.startswith(PACKAGE) or name == "<string>"):
            found += 1

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        what()
    finally:
        sys.setprofile(before)
    return found


@pytest.mark.parametrize("endpoint", [Loopback.SOURCE, Loopback.SINK])
def test_a_transfer_takes_few_calls(endpoint: int) -> None:
    for name, most in MOST_CALLS.items():
        way = Way(name)
        for size, limit in zip((SMALL, LARGE), most, strict=True):
            assert way.transfer(endpoint, size).length == size
            calls = count_calls(partial(way.transfer, endpoint, size))
            assert calls <= limit, (name, size)


@pytest.mark.parametrize("endpoint", [BULK_IN, BULK_OUT])
def test_a_transfer_of_a_guest_takes_few_calls(endpoint: int) -> None:
    host = Host()
    is_in = endpoint & 0x80
    data = bytes(SMALL)

    def transfer(id: int) -> None:
        host.send(bulk(id, endpoint, SMALL, b"" if is_in else data))
        (urb,) = host.urbs()
        host.complete(urb, data if is_in else b"")
        host.core.outputs()

    transfer(1)
    assert count_calls(partial(transfer, 2)) <= MOST_CALLS_OF_A_GUEST


@pytest.mark.parametrize("name", MOST_CALLS)
@pytest.mark.parametrize("endpoint", [Loopback.SOURCE, Loopback.SINK])
def test_no_more_than_four_copies_are_there_at_once(name: str, endpoint: int) -> None:
    """The message, its pieces, what they are joined to on their way, and pieces again;
    see docs/architecture.md, section 4, for which copies are made."""
    way = Way(name)
    size = 4 << 20
    way.transfer(endpoint, size)
    with memory_below(9 * size // 2):
        assert way.transfer(endpoint, size).length == size
