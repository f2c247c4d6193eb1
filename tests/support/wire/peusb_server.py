"""A server of MS-RDPEUSB for the device side, as others are."""

from typing import TypeVar

from rusb.usb.device import DeviceInfo
from rusb.usb.types import Speed
from rusb.wire.base import CloseChannel, Event, Send
from rusb.wire.rdpeusb import RdpeusbDeviceSide
from rusb.wire.rdpeusb import _messages as messages
from rusb.wire.rdpeusb import _urbs as urbs
from rusb.wire.rdpeusb._messages import AddDevice, Done, Message
from rusb.wire.rdpeusb._urbs import Completion, Transfer, UrbFunction
from tests.support.wire.peusb import CONTROL, FIRST, RAW

__all__ = ["INFO", "Server", "bulk"]

INFO = DeviceInfo(
    7, 0x1209, 0x0001, bcd_device=0x0123, speed=Speed.HIGH, product="Disk"
)
E = TypeVar("E")


class Server:
    """What a server says to our device side, as bytes.

    Attributes:
        said: what the device side said, by channel.
        seen: its events.
        closed: channels that it closed.
    """

    def __init__(self, *devices: DeviceInfo) -> None:
        self.side = RdpeusbDeviceSide()
        self.said: list[tuple[int, Message]] = []
        self.seen: list[Event] = []
        self.closed: list[int] = []
        self.side.announce(devices)
        self.side.channel_opened(CONTROL, "URBDRC", now=0)
        self.handshake(CONTROL)

    def handshake(self, channel: int) -> None:
        for name in ("caps_request", "release_capabilities"):
            self.say(channel, RAW[name])
        for name in ("channel_created_server", "release_notification"):
            self.say(channel, RAW[name])

    def bind(self, channel: int = FIRST) -> AddDevice:
        """Open a channel for a device; return how it is described."""
        self.side.channel_opened(channel, "URBDRC", now=0)
        self.handshake(channel)
        return AddDevice.parse(self.said[-1][1].body)

    def use(self) -> None:
        """Bind, register, and configure as rdpeusb.md 17 does."""
        self.bind()
        for name in ("register_request_callback", "select_configuration"):
            self.say(FIRST, RAW[name])
        self.said.clear()
        self.seen.clear()

    def say(self, channel: int, data: bytes, now: float = 1.5) -> None:
        self.side.receive_data(channel, data, now=now)
        self.take()

    def take(self) -> None:
        for output in self.side.outputs():
            if isinstance(output, Send):
                self.said.append((output.channel, Message.parse(output.data)))
            elif isinstance(output, CloseChannel):
                self.closed.append(output.channel)
        self.seen += self.side.events()

    def saw(self, kind: type[E]) -> list[E]:
        return [e for e in self.seen if isinstance(e, kind)]

    def ask(self, transfer: Transfer) -> None:
        self.say(FIRST, urbs.transfer(5, 77, transfer))

    def call(self, function: int, body: bytes) -> None:
        head = (5, messages.PROXY, 3, function)
        self.say(FIRST, Message(*head, body).serialize())

    def completion(self) -> Completion:
        """The last completion."""
        _, message = self.said[-1]
        has_data = message.function == Done.URB
        assert message.interface == 0x10
        return urbs.parse_completion(message.serialize(), has_data=has_data)


def bulk(request: int, handle: int, size: int, data: bytes | None = None) -> Transfer:
    """Ask for a bulk or an interrupt transfer."""
    body = urbs.BULK.pack(handle, 3)
    function = UrbFunction.BULK_OR_INTERRUPT_TRANSFER
    return Transfer(function, request, body, size, data)
