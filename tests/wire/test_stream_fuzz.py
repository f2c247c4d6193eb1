"""Hostile and broken peers of the protocols over a stream, at both ends (T30, T31).

Each input is a message of a session in which some bytes were changed, left out or put
in. A core takes it, or ends with a RemoteProtocolError; each URB completes once.
"""

import contextlib
import random
from collections import Counter
from collections.abc import Callable

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
from rusb.usb.urb import IsoPacket, Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    DeviceSide,
    Event,
    GuestSide,
    RequestCompleted,
    UrbCompleted,
    UrbSubmitted,
    WireProtocol,
)
from rusb.wire.usbip import PLUGIN as USBIP
from rusb.wire.usbip import DeviceList, Export
from rusb.wire.usbip import _codec as codec
from rusb.wire.usbredir import PLUGIN as USBREDIR
from tests.support.amount import chance, inputs
from tests.support.wire.joined import Joined

INPUTS = inputs(20_000)
PROTOCOLS = [
    pytest.param(USBIP, id="usbip"),
    pytest.param(USBREDIR, id="usbredir"),
]

ENDPOINTS = tuple(
    EndpointDescriptor(*e)
    for e in ((0x81, 2, 64, 0), (0x02, 2, 64, 0), (0x83, 3, 8, 4), (0x84, 1, 64, 1))
)
DESCRIPTORS = DeviceDescriptors(
    DeviceDescriptor(0x0200, 0, 0, 0, 64, 0x1209, 1, 0x0100),
    (
        ConfigurationDescriptor(
            1, 0x80, 50, (InterfaceDescriptor(0, 0, 0xFF, 0, 0, 0, ENDPOINTS),)
        ),
    ),
)
INFO = DeviceInfo(1, 0x1209, 1, bcd_device=0x0100, speed=Speed.FULL)

GET = SetupPacket.get_descriptor(1, 0, 18)
URBS = (
    Urb.control(1, GET),
    Urb.control(2, SetupPacket(0x40, 7, 1, 2, 5), b"hello"),
    Urb(3, TransferType.BULK, 0x81, 200),
    Urb(4, TransferType.BULK, 0x02, 130, bytes(130)),
    Urb(5, TransferType.INTERRUPT, 0x83, 8),
    Urb(6, TransferType.ISOCHRONOUS, 0x84, 48, packets=(16, 16, 16)),
    Urb.control(7, SetupPacket.set_interface(0, 0)),
    Urb.control(8, SetupPacket.get_configuration()),
)


def submit(guest: GuestSide) -> None:
    for urb in URBS:
        guest.submit_urb(1, urb, now=0)


def cancel(guest: GuestSide) -> None:
    guest.submit_urb(1, Urb(9, TransferType.BULK, 0x81, 64), now=0)
    guest.cancel_urb(1, 9)


STEPS: tuple[Callable[[GuestSide], None], ...] = (
    lambda guest: None,
    lambda guest: guest.open_device(1),
    lambda guest: guest.set_configuration(1, 1, request=1),
    submit,
    lambda guest: guest.clear_halt(1, 0x81, request=2),
    cancel,
    lambda guest: guest.set_interface(1, 0, 0, request=3),
    lambda guest: guest.reset_device(1, request=4),
)


def answer(urb: Urb) -> UrbResult:
    """As a device would, but little."""
    if urb.packets:
        packets = tuple(IsoPacket(n) for n in urb.packets)
        data = bytes(urb.length if urb.is_in else 0)
        return UrbResult(UrbStatus.OK, data, urb.length, packets)
    moved = min(urb.length, 256)
    return UrbResult(UrbStatus.OK, bytes(moved if urb.is_in else 0), moved)


def session(protocol: WireProtocol) -> tuple[list[bytes], list[bytes]]:
    """What is asked in each step, and answered."""
    joined = Joined(
        *(protocol.guest_side(), protocol.device_side(), INFO),
        descriptors={INFO.id: DESCRIPTORS},
        answer=answer,
        channel=0,
    )
    asked, answered = [], []
    for step in STEPS:
        step(joined.guest)
        joined.move()
        asked.append(b"".join(joined.sent))
        answered.append(b"".join(joined.received))
        joined.forget()
    return asked, answered


def spoil(data: bytes, source: random.Random) -> bytes:
    """Change some of it, or nothing."""
    found = bytearray(data)
    for _ in range(source.choice((0, 0, 1, 1, 2, 8))):
        if not found:
            break
        at = source.randrange(len(found))
        match source.randrange(8):
            case 0:
                del found[at : at + source.choice((1, 2, 4, 16))]
            case 1:
                found[at:at] = source.randbytes(source.choice((1, 4, 48)))
            case 2:  # a number somewhere in a header
                number = source.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
                found[at & ~3 : (at & ~3) + 4] = number.to_bytes(4, "big")
            case 3:
                found[at & ~3 : (at & ~3) + 4] = source.randrange(64).to_bytes(4, "big")
            case _:
                found[at] = source.choice(
                    (0, 1, 0x7F, 0x80, 0xFF, source.randrange(256))
                )
    return bytes(found)


def feed(core: GuestSide | DeviceSide, data: bytes, source: random.Random) -> None:
    """Whole, or in two pieces."""
    cut = source.choice((len(data), source.randrange(len(data) + 1)))
    core.receive_data(0, data[:cut], now=0)
    if cut < len(data):
        core.receive_data(0, data[cut:], now=0)


@pytest.mark.fuzz
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_says_anything(protocol: WireProtocol) -> None:
    """Of USB/IP, and a host of usbredir: what our backends talk to."""
    _, answered = session(protocol)
    source, fed, begun, ended = chance(31), 0, 0, 0
    while fed < INPUTS:
        begun += 1
        guest = protocol.guest_side()
        guest.channel_opened(0, "", now=0)
        events: list[Event] = []
        asked = Counter[tuple[str, int]]()
        try:
            for step, said in zip(STEPS, answered, strict=True):
                with contextlib.suppress(LocalProtocolError):
                    step(guest)
                    asked.update(ASKED.get(step, ()))
                fed += 1
                feed(guest, spoil(said, source), source)
                events += guest.events()
                guest.outputs()
        except RemoteProtocolError:
            ended += 1
            with pytest.raises(RemoteProtocolError):
                guest.receive_data(0, b"more", now=0)
        guest.channel_closed(0)
        events += guest.events()
        check(events, asked)
    assert 0 < ended < begun


ASKED = {
    STEPS[2]: [("request", 1)],
    submit: [("urb", urb.id) for urb in URBS],
    STEPS[4]: [("request", 2)],
    cancel: [("urb", 9)],
    STEPS[6]: [("request", 3)],
    STEPS[7]: [("request", 4)],
}


def check(events: list[Event], asked: Counter[tuple[str, int]]) -> None:
    """Everything that was asked has one answer, which fits."""
    lengths = {urb.id: urb.length for urb in URBS} | {9: 64}
    done = Counter[tuple[str, int]]()
    for event in events:
        if isinstance(event, UrbCompleted):
            done["urb", event.urb_id] += 1
            assert len(event.result.data) <= lengths[event.urb_id]
            assert event.result.length <= lengths[event.urb_id]
        elif isinstance(event, RequestCompleted):
            done["request", event.request] += 1
    assert done == asked


@pytest.mark.fuzz
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_that_says_anything(protocol: WireProtocol) -> None:
    """Of USB/IP, and a guest of usbredir: what our guests talk to."""
    asked, _ = session(protocol)
    source, fed, begun, ended = chance(30), 0, 0, 0
    while fed < INPUTS:
        begun += 1
        device = protocol.device_side()
        device.channel_opened(0, "", now=0)
        device.announce([INFO], {INFO.id: DESCRIPTORS})
        seen: set[int] = set()
        try:
            for said in asked:
                fed += 1
                feed(device, spoil(said, source), source)
                serve(device, seen, source)
        except RemoteProtocolError:
            ended += 1
            with pytest.raises(RemoteProtocolError):
                device.receive_data(0, b"more", now=0)
        device.channel_closed(0)
        device.events()
        assert device.outputs() == []
    assert 0 < ended < begun


def serve(device: DeviceSide, seen: set[int], source: random.Random) -> None:
    """Answer most of what is asked, as long as there is something new."""
    for _ in range(20):
        events = device.events()
        for event in events:
            if isinstance(event, UrbSubmitted):
                assert event.urb.id not in seen
                seen.add(event.urb.id)
                assert event.urb.length <= codec.MAX_LENGTH + 1024
                if source.random() < 0.9:
                    result = answer(event.urb)
                    if event.urb.length > 1 << 16:
                        result = UrbResult(UrbStatus.STALL)
                    device.complete_urb(INFO.id, event.urb.id, result)
        if not events:
            return


@pytest.mark.fuzz
def test_lists_and_requests_of_anything() -> None:
    """T31: a list of devices, and what a client asks before it has one."""
    info = DeviceInfo(0, 0x1209, 1, speed=Speed.HIGH)
    records = [
        codec.Record(f"1-{n}", 1, n, info, 1, 1, ((8, 6, 0x50),) * n, n) for n in (1, 2)
    ]
    known = codec.device_list(records)
    requests = (codec.list_request(), codec.import_request("1-1"))
    source, read = chance(32), Counter[str]()
    for n in range(INPUTS):
        data = spoil(known, source)
        try:
            found = DeviceList().receive(data)
        except RemoteProtocolError:
            read["bad list"] += 1
        else:
            read["list" if found else "part of a list"] += 1
        export = Export()
        try:
            said = spoil(requests[n % 2], source)
            for at in range(0, len(said), 7):
                export.receive(said[at : at + 7])
        except RemoteProtocolError:
            read["bad request"] += 1
    assert len(read) == 4
