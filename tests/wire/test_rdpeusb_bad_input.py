"""Hostile peers of MS-RDPEUSB (bad-inputs.md T24, T32), and random ones."""

import random
import struct

import pytest

from rusb.errors import ParseError
from rusb.usb.device import DeviceInfo
from rusb.usb.types import TransferType
from rusb.usb.urb import IsoPacket, Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    CloseChannel,
    CloseRequested,
    DeviceFailed,
    RequestCompleted,
    UrbCompleted,
    UrbSubmitted,
)
from rusb.wire.rdpeusb import RdpeusbDeviceSide
from rusb.wire.rdpeusb import _isochronous as isochronous
from rusb.wire.rdpeusb import _messages as messages
from rusb.wire.rdpeusb import _requests as requests
from rusb.wire.rdpeusb import _urbs as urbs
from rusb.wire.rdpeusb._messages import Message
from rusb.wire.rdpeusb._urbs import Completion, Transfer, UrbFunction
from tests.support.amount import chance, inputs
from tests.support.wire.peusb import CONTROL, FIRST, RAW, Client, control

PROXY, STUB = messages.PROXY, messages.STUB


def raw(
    interface: int, mask: int, number: int, function: int, body: bytes = b""
) -> bytes:
    return Message(interface, mask, number, function, body).serialize()


def read(id: int, size: int = 512) -> Urb:
    return Urb(id, TransferType.BULK, 0x81, size)


def done(client: Client) -> dict[int, UrbResult]:
    found = client.saw(UrbCompleted)
    assert len({e.urb_id for e in found}) == len(found)
    return {e.urb_id: e.result for e in found}


# ------------------------------------------------------------------- T32 ----


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(7),
        raw(0, 0, 0, 1)[:11],
        struct.pack("<III", 0xC0000010, 0, 0x101),  # both masks
        raw(7, 0, 0, 0x100),  # no mask
        raw(0, 0, 0, 1, body=bytes(5)),  # capabilities of another size
        raw(0x10, PROXY, 0, 0x99),  # no such function
        raw(0x10, PROXY, 0, 0x101),  # a completion that is empty
        raw(0x10, PROXY, 0, 0x100, body=bytes(15)),
        raw(3, PROXY, 0, 0x100, body=bytes(11)),
        raw(1, PROXY, 0, 0x100),  # ADD_VIRTUAL_CHANNEL on a device's channel
        RAW["add_device_freerdp"],  # a second device on a channel
    ],
)
def test_a_message_that_makes_no_sense_ends_its_device_alone(data: bytes) -> None:
    """13: never the session, nor other devices."""
    client = Client()
    other = client.use()
    client.plug(3, _renamed())
    (number,) = set(client.listed()) - {other}
    client.guest.open_device(number)
    client.submit(number, read(1))
    client.say(3, data)
    failed = client.saw(DeviceFailed)
    if number in client.listed():  # UrbCompleted INVALID came at submit
        pytest.fail(client.ignored())
    assert failed == [DeviceFailed(number, "use", removed=False)]
    assert client.closed == [3]
    assert client.listed() == [other]
    (asked,) = client.submit(other, read(2))
    client.done(asked, b"still here")
    assert done(client)[2].data == b"still here"
    client.say(3, data)
    assert "closed" in client.ignored()


def _renamed() -> bytes:
    message = Message.parse(RAW["add_device_freerdp"])
    device = messages.AddDevice.parse(message.body)
    other = messages.AddDevice(6, "other", (), (), "", 0x200, False, 0x50)
    assert device.instance != other.instance
    return raw(1, PROXY, 0, 0x101, body=other.serialize())


@pytest.mark.parametrize(
    "data", [b"", RAW["add_device_freerdp"], raw(0x10, PROXY, 0, 0x101)]
)
def test_the_control_channel_is_closed_for_good(data: bytes) -> None:
    client = Client()
    number = client.use()
    client.submit(number, read(1))
    client.say(CONTROL, data)
    assert sorted(client.closed) == [CONTROL, FIRST]
    assert done(client)[1].status is UrbStatus.NO_DEVICE
    client.wait(1)
    assert client.listed() == []


def test_an_answer_to_nothing_is_ignored() -> None:
    client = Client()
    client.use()
    client.say(FIRST, raw(5, STUB, 9, 0, body=bytes(40)))
    client.say(FIRST, raw(0x77, PROXY, 9, 0x102, body=bytes(8) + bytes(4)[:0]))
    assert "nothing" in client.ignored()


def test_usb_device_0_and_numbers_of_messages_that_are_used_again() -> None:
    client = Client("windows")
    number = client.use()
    one, two = client.submit(number, read(1), read(2))
    client.done(two, b"2")
    client.done(one, b"1")
    client.done(one, b"1")
    assert {i: bytes(r.data) for i, r in done(client).items()} == {1: b"1", 2: b"2"}
    assert "nobody waits" in client.ignored()


def test_a_completion_of_the_wrong_kind_is_nobodys() -> None:
    client = Client()
    number = client.use()
    (asked,) = client.submit(number, read(1))
    body = messages.IoCompletion(asked[1].request).serialize()
    client.say(FIRST, raw(0x10, PROXY, 0, 0x100, body=body))
    client.guest.reset_device(number)
    client.move()
    request = messages.IoControl.parse(client.calls[-1].body).request
    client.say(FIRST, urbs.completion(0x10, 0, Completion(request)))
    assert client.ignored().count("nobody waits") == 2
    assert client.closed == []


@pytest.mark.parametrize("interface", [0, 4, 0x77])
def test_completions_may_come_on_any_interface(interface: int) -> None:
    """3: on 0 where nothing was registered; do not insist on ours."""
    client = Client()
    number = client.use()
    one, two = client.submit(number, read(1), read(2))
    answer = Completion(one[1].request, size=2, data=b"ab")
    client.say(FIRST, urbs.completion(interface, 0, answer))
    client.say(FIRST, urbs.completion(interface, 0, Completion(two[1].request)))
    assert {i: r.data for i, r in done(client).items()} == {1: b"ab", 2: b""}
    client.guest.reset_device(number, request=5)
    client.move()
    body = messages.IoControl.parse(client.calls[-1].body)
    answered = messages.IoCompletion(body.request).serialize()
    client.say(FIRST, raw(interface, PROXY, 0, 0x100, body=answered))
    assert client.saw(RequestCompleted) == [
        RequestCompleted(number, 5, UrbStatus.OK),
    ]
    assert client.ignored() == ""
    client.say(FIRST, raw(interface, PROXY, 0, 0x103, body=answered))
    assert "function 0x103 is not known" in client.ignored()
    assert client.closed == [FIRST]


def test_more_data_than_was_asked_for() -> None:
    client = Client()
    number = client.use()
    one, two = client.submit(number, read(1, 4), control(2, 0xC0, 1, 0, 0, 4))
    client.done(one, b"12345")
    client.done(two, b"12345")
    expected = UrbResult(UrbStatus.OVERFLOW, b"1234", 4)
    assert done(client) == {1: expected, 2: expected}


def test_a_count_of_what_was_written_that_is_too_high() -> None:
    client = Client()
    number = client.use()
    urb = Urb(1, TransferType.BULK, 0x02, 2, b"ab")
    one, two = client.submit(number, urb, control(2, 0x40, 1, 0, 0, 1, data=b"x"))
    client.done(one, size=0xFFFFFFFF)
    client.done(two, size=0xFFFFFFFF)
    assert {i: r.length for i, r in done(client).items()} == {1: 2, 2: 1}


@pytest.mark.parametrize(
    ("is_whole", "where"),
    [(True, 32), (True, 36), (True, 48), (False, 28), (False, 40)],
)
def test_a_selection_whose_counts_lie(is_whole: bool, where: int) -> None:
    """NumInterfaces, Length and NumberOfPipes, each times its size."""
    client = Client()
    number = client.use()
    client.answers = False
    if is_whole:
        client.guest.set_configuration(number, 1, request=1)
    else:
        client.guest.set_interface(number, 2, 1, request=1)
    client.submit(number, read(5))
    names = "completion_select_interface", "completion_select_configuration"
    message = bytearray(RAW[names[is_whole]])
    message[where : where + 2] = b"\xff\xff"
    message[12:16] = client.asked[0][1].request.to_bytes(4, "little")
    client.say(FIRST, bytes(message))
    assert done(client)[5].status is UrbStatus.NO_DEVICE
    assert client.saw(RequestCompleted)[0].status is UrbStatus.IO_ERROR
    assert client.closed == [FIRST]


def test_more_channels_than_there_may_be() -> None:
    client = Client()
    for _ in range(40):
        client.say(CONTROL, RAW["add_virtual_channel"])
    assert client.wanted == 32
    assert client.ignored().count("more than 32 devices") == 8


@pytest.mark.parametrize("count", [5000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_texts_that_are_too_long(count: int) -> None:
    data = bytearray(Message.parse(RAW["add_device_freerdp"]).body)
    data[8:12] = count.to_bytes(4, "little")
    with pytest.raises(ParseError):
        messages.AddDevice.parse(bytes(data))
    with pytest.raises(ParseError):
        messages.TextResponse.parse(count.to_bytes(4, "little") + bytes(8))


def test_a_body_of_another_size_or_in_the_wrong_envelope() -> None:
    none = Transfer(UrbFunction.GET_CONFIGURATION, 1, b"", 1, b"x")
    body = requests.FEATURE.pack(1, 0)
    for wrong in (
        none,
        Transfer(UrbFunction.GET_INTERFACE, 1, b"", 1),
        Transfer(UrbFunction.SET_FEATURE_TO_DEVICE, 1, body, 4),
        Transfer(UrbFunction.GET_CONFIGURATION, 1, b"", 0x10000),
        Transfer(UrbFunction.CONTROL_TRANSFER, 1, bytes(16), 1),
    ):
        with pytest.raises(ParseError):
            requests.setup_of(wrong)


# ------------------------------------------------------------------- T24 ----


def iso(count: int, *rows: tuple[int, int, int]) -> bytes:
    packets = b"".join(struct.pack("<III", *row) for row in rows)
    return struct.pack("<III", 0, count, 0) + packets


@pytest.mark.parametrize(
    "result",
    [
        iso(0),
        iso(0x10000, (0, 4, 0), (4, 4, 0)),
        iso(0xFFFFFFFF, (0, 4, 0)),
        iso(2, (0, 17, 0), (4, 4, 0)),
        iso(2, (0, 0xFFFFFFFF, 0), (4, 4, 0)),
        iso(2, (5, 4, 0), (4, 4, 0)),
        iso(2, (0, 4, 0), (0xFFFFFFFF, 1, 0)),
        *(iso(2, (0, 4, 0), (4, 4, 0))[:size] for size in (0, 11, 12, 24, 35)),
        iso(2, (0, 4, 0), (4, 4, 0)) + bytes(12),
    ],
)
def test_isochronous_results_that_lie(result: bytes) -> None:
    client = Client()
    number = client.use()
    client.guest.set_interface(number, 2, 1)
    urb = Urb(1, TransferType.ISOCHRONOUS, 0x84, 32, packets=(16, 16))
    client.move()
    (asked,) = client.submit(number, urb)
    answer = Completion(asked[1].request, size=8, data=bytes(8), result=result)
    client.say(FIRST, urbs.completion(0x10, 0, answer))
    lost = (IsoPacket(0, UrbStatus.IO_ERROR),) * 2
    assert done(client)[1] == UrbResult(UrbStatus.IO_ERROR, packets=lost)
    assert client.closed == [FIRST]


def test_an_isochronous_packet_is_no_longer_than_was_asked_for() -> None:
    client = Client()
    number = client.use()
    client.guest.set_interface(number, 2, 1)
    client.move()
    urb = Urb(1, TransferType.ISOCHRONOUS, 0x84, 32, packets=(16, 16))
    (asked,) = client.submit(number, urb)
    result = iso(2, (0, 17, 0), (17, 4, 0))
    answer = Completion(asked[1].request, size=32, data=bytes(32), result=result)
    client.say(FIRST, urbs.completion(0x10, 0, answer))
    assert "packet of 17 bytes for 16" in client.ignored()
    assert client.closed == [FIRST]


@pytest.mark.parametrize("packets", [(), (8,), (8, 9)])
def test_packets_that_are_not_as_long_as_their_urb(packets: tuple[int, ...]) -> None:
    client = Client()
    number = client.use()
    client.guest.set_interface(number, 2, 1)
    client.move()
    urb = Urb(1, TransferType.ISOCHRONOUS, 0x84, 16, packets=packets)
    assert client.submit(number, urb) == []
    assert done(client)[1].status is UrbStatus.INVALID


@pytest.mark.parametrize(
    ("rows", "count", "size"),
    [
        ([], 0, 0),
        ([(0, 0, 0)], 0x10000, 8),
        ([(0, 0, 0)] * 1025, 1025, 8),
        ([(4, 0, 0), (0, 0, 0)], 2, 8),
        ([(0, 0, 0), (9, 0, 0)], 2, 8),
        ([(1, 0, 0)], 1, 8),
        ([(0, 0, 0)], 2, 8),
        ([(0, 0, 0), (4, 0, 0)], 1, 8),
    ],
)
def test_isochronous_requests_that_lie(
    rows: list[tuple[int, int, int]], count: int, size: int
) -> None:
    packets = b"".join(struct.pack("<III", *row) for row in rows)
    body = struct.pack("<IIIII", 0x84, 7, 0, count, 0) + packets
    with pytest.raises(ParseError):
        isochronous.Iso.parse(body, size)
    with pytest.raises(ParseError):
        isochronous.Iso.parse(body[:19], size)
    with pytest.raises(ParseError):
        isochronous.Iso.parse(body + b"x", size)


# ---------------------------------------------------------------- random ----

MESSAGES = 50
"""In one session, unless it ends before."""


def damage(source: random.Random, data: bytes) -> bytes:
    """Change a field, or cut or lengthen a message."""
    copy = bytearray(data)
    where = source.randrange(0, len(copy) + 1, 4) if source.random() < 0.8 else 8
    match source.randrange(6):
        case 0:
            edge = source.choice([0, 1, 0x40000010, 0x7FFFFFFF, 0xFFFFFFFF, 2**16])
            copy[where : where + 4] = edge.to_bytes(4, "little")
        case 1:
            del copy[where:]
        case 2:
            copy[where:where] = source.randbytes(source.randint(1, 8))
        case 3 if where < len(copy):
            copy[where] ^= 1 << source.randrange(8)
        case 4:
            copy[8:12] = source.choice([0, 1, 2, *range(0x100, 0x108)]).to_bytes(
                4, "little"
            )
        case _:
            del copy[where : where + source.randint(1, 8)]
    return bytes(copy)


def some(source: random.Random, id: int) -> Urb:
    kind = TransferType.ISOCHRONOUS
    match source.randrange(4):
        case 0:
            return control(id, 0xC0, 1, 0, 0, source.randrange(64))
        case 1:
            return Urb(id, TransferType.BULK, 0x02, 5, b"hello")
        case 2:
            return Urb(id, kind, 0x84, 48, packets=(16, 16, 8, 8))
    return read(id, source.randrange(512))


@pytest.mark.fuzz
def test_whatever_a_client_says() -> None:
    """Every URB and request completes once, none has too much; nothing is raised."""
    source, left = chance(1), inputs(20_000)
    names = [name for name in RAW if name.startswith(("completion", "iocontrol"))]
    names += ["release_device", "add_virtual_channel"]
    while left > 0:
        client = Client(source.choice(["freerdp", "windows"]))
        number = client.use()
        client.guest.set_interface(number, 2, 1)
        client.move()
        submitted = {}
        for id in range(MESSAGES):
            if client.closed:
                break
            left -= 1
            client.answers = source.random() < 0.7
            if source.random() < 0.4:
                submitted[id] = some(source, id)
                client.submit(number, submitted[id])
            match source.randrange(12):
                case 0:
                    client.guest.cancel_urb(number, source.randrange(id + 1))
                case 1:
                    client.guest.clear_halt(number, 0x81, request=1000 + id)
                case 2:
                    client.guest.set_configuration(number, 1, request=1000 + id)
                case 3:
                    client.guest.set_interface(number, 2, id & 1, request=1000 + id)
                case 4 if source.random() < 0.2:
                    client.guest.reset_device(number, request=1000 + id)
                case 5:
                    client.wait(source.random() * 4)
            data = bytearray(RAW[source.choice(names)])
            if client.asked and source.random() < 0.8:
                data[12:16] = source.choice(client.asked)[1].request.to_bytes(
                    4, "little"
                )
            message = bytes(data)
            if source.random() < 0.15:
                message = damage(source, message)
            if source.random() < 0.95:
                client.say(source.choice([FIRST] * 60 + [CONTROL]), message)
        client.guest.channel_closed(CONTROL)
        found = done(client)
        assert found.keys() == submitted.keys()
        for id, result in found.items():
            assert len(result.data) <= submitted[id].length
            assert 0 <= result.length <= submitted[id].length
        told = [e.request for e in client.saw(RequestCompleted)]
        assert len(told) == len(set(told))
        assert client.guest.next_deadline() in (None, 0.0)


@pytest.mark.fuzz
def test_whatever_a_server_says() -> None:
    source, left = chance(2), inputs(20_000)
    info = DeviceInfo(7, 0x1209, 1)
    names = [name for name in RAW if not name.startswith("completion")]
    while left > 0:
        side = RdpeusbDeviceSide()
        side.channel_opened(CONTROL, "URBDRC", now=0)
        side.channel_opened(FIRST, "URBDRC", now=0)
        side.announce([info])
        start = ("caps_request", "channel_created_server", "release_notification")
        for channel in (CONTROL, FIRST):
            for name in start:
                side.receive_data(channel, RAW[name], now=0)
        side.receive_data(FIRST, RAW["select_configuration"], now=0)
        live: dict[int, Urb] = {}
        for _ in range(MESSAGES):
            left -= 1
            data = RAW[source.choice(names)]
            if source.random() < 0.5:
                data = damage(source, data)
            side.receive_data(source.choice([FIRST] * 30 + [CONTROL]), data, now=1)
            for event in side.events():
                if isinstance(event, UrbSubmitted):
                    urb = event.urb
                    assert urb.id not in live
                    assert urb.is_in or len(urb.data) == urb.length
                    assert urb.length <= urbs.MAX_SIZE
                    live[urb.id] = urb
                elif isinstance(event, CloseRequested):
                    live.clear()
            if live and source.random() < 0.5:
                id, urb = live.popitem()
                packets = tuple(IsoPacket(0) for _ in urb.packets)
                side.complete_urb(7, id, UrbResult(UrbStatus.OK, packets=packets))
            if any(isinstance(output, CloseChannel) for output in side.outputs()):
                break
