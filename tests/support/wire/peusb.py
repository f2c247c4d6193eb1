"""A client of MS-RDPEUSB for the guest side, as FreeRDP and Windows' client are."""

import json
from pathlib import Path
from typing import TypeVar

from rusb.usb.setup import SetupPacket
from rusb.usb.types import DescriptorType, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    CloseChannel,
    Event,
    Ignored,
    OpenChannel,
    Send,
    UrbCompleted,
)
from rusb.wire.rdpeusb import RdpeusbGuestSide
from rusb.wire.rdpeusb import _messages as messages
from rusb.wire.rdpeusb import _urbs as urbs
from rusb.wire.rdpeusb._messages import Call, Message
from rusb.wire.rdpeusb._requests import setup_of
from rusb.wire.rdpeusb._urbs import Completion, Transfer, UrbFunction

__all__ = [
    "CONFIGURATION",
    "CONTROL",
    "DEVICE",
    "FIRST",
    "RAW",
    "Client",
    "calls",
    "control",
    "results",
]

_VECTORS = json.loads(
    (Path(__file__).parents[2] / "vectors" / "rdpeusb.json").read_text()
)
RAW = {one["name"]: bytes.fromhex(one["hex"]) for one in _VECTORS["messages"]}
_FIELDS = {one["name"]: one["fields"] for one in _VECTORS["messages"]}

DEVICE = bytes.fromhex(_FIELDS["completion_device_descriptor"]["output_buffer"])
CONFIGURATION = bytes.fromhex(_FIELDS["completion_config_descriptor"]["output_buffer"])
"""A device of three interfaces: bulk 0x81 and 0x02, interrupt 0x83, isochronous 0x84
and 0x05 in an alternate setting (rdpeusb.md 17)."""

BULK_IN, BULK_OUT, INTERRUPT, ISO_IN, ISO_OUT = 0x81, 0x02, 0x83, 0x84, 0x05
"""Its endpoints."""

E = TypeVar("E")
CONTROL, FIRST = 1, 2


class Client:
    """Answers a guest side; what it does not answer by itself waits in ``asked``.

    Args:
        kind: "freerdp" or "windows": how it announces devices, and what it knows.
        descriptors: of the device, by type.

    Attributes:
        asked: transfers without an answer, with the channel they came on.
        calls: other messages to a device, oldest first.
        closed: channels that the guest side has closed.
        wanted: channels that it has asked for.
        now: the time.
    """

    def __init__(
        self,
        kind: str = "freerdp",
        *,
        device: bytes = DEVICE,
        configuration: bytes = CONFIGURATION,
    ) -> None:
        self.guest = RdpeusbGuestSide()
        self.kind = kind
        self.descriptors: dict[int, bytes] = {
            DescriptorType.DEVICE: device,
            DescriptorType.CONFIGURATION: configuration,
        }
        self.asked: list[tuple[int, Transfer]] = []
        self.calls: list[Message] = []
        self.seen: list[Event] = []
        self.closed: list[int] = []
        self.wanted = 0
        self.now = 0.0
        self.answers = True
        self.strings: dict[int, bytes] = {}
        self.guest.channel_opened(CONTROL, "URBDRC", now=0)
        self.handshake(CONTROL)

    def handshake(self, channel: int) -> None:
        """Answer what is said on a channel that has opened."""
        for answer in ("caps_response", "channel_created_client"):
            self.move()
            self.say(channel, RAW[answer])

    def plug(self, channel: int = FIRST, added: bytes = b"") -> None:
        """Announce a device, and bind it to a channel."""
        self.say(CONTROL, RAW["add_virtual_channel"])
        assert self.wanted == 1
        self.wanted = 0
        self.guest.channel_opened(channel, "URBDRC", now=self.now)
        self.handshake(channel)
        names = {"freerdp": "add_device_freerdp", "windows": "add_device_windows_style"}
        self.say(channel, added or RAW[names[self.kind]])

    def use(self) -> int:
        """Plug it in, open and configure it; return its number."""
        self.plug()
        (info,) = self.listed()
        self.guest.open_device(info)
        self.guest.set_configuration(info, 1)
        self.move()
        self.seen.clear()
        self.calls.clear()
        return info

    def listed(self) -> list[int]:
        return [d.number for d in self.guest._devices.values()]

    def say(self, channel: int, data: bytes) -> None:
        """Send a message, and see what comes of it."""
        self.guest.receive_data(channel, data, now=self.now)
        self.move()

    def done(
        self, asked: tuple[int, Transfer], data: bytes | None = None, **fields: int
    ) -> None:
        """Complete a transfer."""
        channel, transfer = asked
        if asked in self.asked:
            self.asked.remove(asked)
        if data is not None:
            fields.setdefault("size", len(data))
        answer = Completion(transfer.request, data=data, **fields)  # type: ignore[arg-type]
        self.say(channel, urbs.completion(0x10, 0, answer))

    def move(self) -> None:
        """Take what the guest side has for us."""
        while outputs := self.guest.outputs():
            for output in outputs:
                match output:
                    case OpenChannel():
                        self.wanted += 1
                    case CloseChannel():
                        self.closed.append(output.channel)
                    case Send():
                        self._take(output.channel, output.data)
        self.seen += self.guest.events()

    def saw(self, kind: type[E]) -> list[E]:
        """Events of a kind."""
        self.seen += self.guest.events()
        return [e for e in self.seen if isinstance(e, kind)]

    def ignored(self) -> str:
        """What was skipped, and why."""
        return "\n".join(e.reason for e in self.saw(Ignored))

    def submit(self, device: int, *transfers: Urb) -> list[tuple[int, Transfer]]:
        """Submit URBs; return what came of them."""
        before = len(self.asked)
        for urb in transfers:
            self.guest.submit_urb(device, urb, now=self.now)
        self.move()
        return self.asked[before:]

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while (due := self.guest.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.guest.handle_deadline(self.now)
            self.move()
        self.now = end

    # ----------------------------------------------------------- answers ----

    def _take(self, channel: int, data: bytes) -> None:
        message = Message.parse(data)
        if message.mask != messages.PROXY or message.interface == messages.TO_CLIENT:
            return
        if message.function not in (Call.TRANSFER_IN, Call.TRANSFER_OUT):
            self.calls.append(message)
            return
        is_out = message.function == Call.TRANSFER_OUT
        transfer = urbs.parse_transfer(data, is_out=is_out)
        asked = channel, transfer
        self.asked.append(asked)
        if self.answers:
            self._answer(asked)

    def _answer(self, asked: tuple[int, Transfer]) -> None:
        transfer = asked[1]
        if (
            self.kind == "windows"
            and transfer.function == UrbFunction.CONTROL_TRANSFER_EX
        ):
            self._later(asked, hresult=0x80070057)
            return
        setup = setup_of(transfer)
        if setup is not None and setup.request == 6 and setup.is_standard:
            kind, index = setup.value >> 8, setup.value & 0xFF
            found = self.descriptors if kind != DescriptorType.STRING else self.strings
            data = found.get(index if kind == DescriptorType.STRING else kind)
            if kind == DescriptorType.CONFIGURATION and index:
                data = None
            if data is None:
                self._later(asked, usbd=urbs.usbd_of(UrbStatus.STALL))
            else:
                self._later(asked, data[: setup.length])
        elif transfer.function == UrbFunction.SELECT_CONFIGURATION:
            name = "completion_select_configuration"
            if not transfer.body[0]:
                name = "completion_deconfigure"
            self._result(asked, name)
        elif transfer.function == UrbFunction.SELECT_INTERFACE:
            self._result(asked, "completion_select_interface")

    def _result(self, asked: tuple[int, Transfer], name: str) -> None:
        done = urbs.parse_completion(RAW[name], has_data=False)
        done.request = asked[1].request
        self.asked.remove(asked)
        message = urbs.completion(0x10, 0, done)
        self.guest.receive_data(asked[0], message, now=self.now)

    def _later(
        self, asked: tuple[int, Transfer], data: bytes | None = None, **fields: int
    ) -> None:
        self.asked.remove(asked)
        size = len(data) if data is not None else 0
        answer = Completion(asked[1].request, size=size, data=data, **fields)  # type: ignore[arg-type]
        message = urbs.completion(0x10, 0, answer)
        self.guest.receive_data(asked[0], message, now=self.now)


def control(id: int, *fields: int, data: bytes = b"") -> Urb:
    """A control transfer."""
    return Urb.control(id, SetupPacket(*fields), data)


def results(client: Client) -> dict[int, UrbResult]:
    """What has completed, by id; each once."""
    done = client.saw(UrbCompleted)
    found = {e.urb_id: e.result for e in done}
    assert len(found) == len(done)
    return found


def calls(client: Client, function: Call) -> list[Message]:
    """The calls of one function that the client got."""
    return [m for m in client.calls if m.function == function]


def read(id: int, size: int = 512, endpoint: int = BULK_IN) -> Urb:
    """A transfer from an endpoint of the device."""
    kind = TransferType.INTERRUPT if endpoint == INTERRUPT else TransferType.BULK
    return Urb(id, kind, endpoint, size)
