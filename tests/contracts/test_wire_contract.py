"""The contract of rusb/wire/base.py, kept by every wire protocol."""

import contextlib
import json
import random
from collections.abc import Callable, Iterator
from typing import cast

import pytest

import rusb.wire
from rusb import plugins
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
from rusb.usb.types import DescriptorType, Request, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    CancelRequested,
    ChannelKind,
    CloseRequested,
    Ignored,
    RequestCompleted,
    Side,
    UrbCompleted,
    UrbSubmitted,
    WireProtocol,
)
from tests.support.amount import seeds
from tests.support.rows import each_row
from tests.support.wire.joined import Answer, Joined, echo, messages

PROTOCOLS = plugins.names(rusb.wire)

INFO = DeviceInfo(1, 0x1209, 0x0001, bcd_device=0x0100, device_class=0xFF)
IN, OUT, OTHER_IN = 0x81, 0x02, 0x83
ENDPOINTS = tuple(EndpointDescriptor(a, 2, 512, 0) for a in (IN, OUT, OTHER_IN))
DESCRIPTORS = DeviceDescriptors(
    DeviceDescriptor(0x0200, 0xFF, 0, 0, 64, 0x1209, 0x0001, 0x0100),
    (
        ConfigurationDescriptor(
            1, 0x80, 50, (InterfaceDescriptor(0, 0, 0xFF, 0, 0, 0, ENDPOINTS),)
        ),
    ),
)


def load(name: str) -> WireProtocol:
    return cast(WireProtocol, plugins.load(rusb.wire, name))


def described(urb: Urb) -> UrbResult:
    """Some protocols read a device before they list it."""
    device, (configuration,) = DESCRIPTORS.device, DESCRIPTORS.configurations
    setup = urb.setup
    if setup is not None and setup.request == Request.GET_DESCRIPTOR:
        is_device = setup.value >> 8 == DescriptorType.DEVICE
        whole = device.serialize() if is_device else configuration.serialize()
        data = whole[: urb.length]
        return UrbResult(UrbStatus.OK, data, len(data))
    return echo(urb)


def silent(urb: Urb) -> None:
    return None


class Session(Joined):
    """A device that is announced, open and configured."""

    def __init__(self, name: str, answer: Answer = echo) -> None:
        plugin = load(name)
        is_stream = plugin.channel.kind is ChannelKind.STREAM
        super().__init__(
            plugin.guest_side(),
            plugin.device_side(),
            INFO,
            descriptors={INFO.id: DESCRIPTORS},
            channel=0 if is_stream else 1004,
            name=plugin.channel.name,
            answer=described,
        )
        (self.info,) = self.listed
        self.id = self.info.id
        self.guest.open_device(self.id)
        self.guest.set_configuration(self.id, 1)
        self.guest.claim_interface(self.id, 0)
        self.move()
        self.forget()
        self.answer = answer

    def submit(self, *urbs: Urb) -> None:
        for urb in urbs:
            self.guest.submit_urb(self.id, urb, now=self.now)
        self.move()

    def completions(self) -> list[tuple[int, UrbStatus]]:
        done = self.guest_saw(UrbCompleted)
        assert {e.device for e in done} <= {self.id}
        return [(e.urb_id, e.result.status) for e in done]


def bulk(id: int, endpoint: int = IN, data: bytes = b"", length: int = 0) -> Urb:
    return Urb(id, TransferType.BULK, endpoint, length or len(data), data)


def some_urbs() -> list[Urb]:
    return [
        bulk(1, IN, length=512),
        bulk(2, OUT, b"hello"),
        Urb.control(3, SetupPacket(0xC0, 1, 2, 3, 16)),
        Urb.control(4, SetupPacket(0x40, 1, 2, 3, 5), b"12345"),
        Urb.control(5, SetupPacket(0x40, 9)),
        bulk(6, IN, length=100_000),
        bulk(7, OUT, bytes(100_000)),
    ]


@pytest.fixture(params=PROTOCOLS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_vrdpusb_is_among_the_plugins() -> None:
    assert "vrdpusb" in PROTOCOLS


def test_a_plugin_says_what_it_is(name: str) -> None:
    plugin = load(name)
    assert plugin.name == name
    assert TransferType.CONTROL in plugin.transfer_types
    assert (plugin.channel.name == "") == (plugin.channel.kind is ChannelKind.STREAM)
    assert len(plugin.channel.name) <= 7  # what a static channel's name may have


def test_what_is_announced_is_listed(name: str) -> None:
    session = Session(name)
    info = session.info
    assert (info.vendor_id, info.product_id) == (INFO.vendor_id, INFO.product_id)
    assert info.bcd_device == INFO.bcd_device
    assert info.remote is True


def test_every_urb_completes_once_with_what_the_device_said(name: str) -> None:
    session = Session(name)
    for urb in some_urbs():
        session.submit(urb)
    urbs = {e.urb.length: e.urb for e in session.device_saw(UrbSubmitted)}
    assert bytes(urbs[5].data) in (b"hello", b"12345")
    done = {e.urb_id: e.result for e in session.guest_saw(UrbCompleted)}
    assert len(session.completions()) == len(done) == 7
    for urb in some_urbs():
        expected = echo(urb)
        assert bytes(done[urb.id].data) == expected.data
        assert (done[urb.id].status, done[urb.id].length) == (0, expected.length)


def test_a_urb_arrives_as_it_was_submitted(name: str) -> None:
    session = Session(name)
    for urb in some_urbs():
        session.forget()
        session.submit(urb)
        (event,) = session.device_saw(UrbSubmitted)
        assert event.device == INFO.id
        came = event.urb
        assert (came.type, came.endpoint, came.length) == (
            *(urb.type, urb.endpoint, urb.length),
        )
        assert (bytes(came.data), came.setup) == (urb.data, urb.setup)


def test_a_short_transfer_is_no_error(name: str) -> None:
    session = Session(name, lambda urb: UrbResult(UrbStatus.OK, b"abc", 3))
    assert session.run(session.id, bulk(1, length=512)) == UrbResult(
        UrbStatus.OK, b"abc", 3
    )


def test_a_stall_stays_a_stall(name: str) -> None:
    session = Session(name, lambda urb: UrbResult(UrbStatus.STALL))
    session.submit(*some_urbs())
    assert sorted(session.completions()) == [(i, UrbStatus.STALL) for i in range(1, 8)]


@each_row("status", [s for s in UrbStatus if s is not UrbStatus.OK])
def test_a_failure_is_a_result_that_is_not_ok(name: str, status: UrbStatus) -> None:
    session = Session(name, lambda urb: UrbResult(status))
    session.submit(*some_urbs())
    done = session.completions()
    assert sorted(i for i, _ in done) == list(range(1, 8))
    assert UrbStatus.OK not in {s for _, s in done}


def test_results_keep_the_order_of_their_endpoint(name: str) -> None:
    """Invariant 2."""
    session = Session(name, silent)
    urbs = [bulk(i, IN if i % 2 else OTHER_IN, length=8) for i in range(1, 21)]
    session.submit(*urbs)
    submitted = [e.urb for e in session.device_saw(UrbSubmitted)]
    assert [u.endpoint for u in submitted] == [u.endpoint for u in urbs]
    for urb in [u for u in submitted if u.endpoint == OTHER_IN]:  # one need not wait
        session.device.complete_urb(INFO.id, urb.id, echo(urb))
    session.move()
    assert [i for i, _ in session.completions()] == list(range(2, 21, 2))
    for urb in [u for u in submitted if u.endpoint == IN]:
        session.device.complete_urb(INFO.id, urb.id, echo(urb))
    session.move()
    assert [i for i, _ in session.completions()][10:] == list(range(1, 21, 2))


def test_no_result_is_longer_than_what_was_asked_for(name: str) -> None:
    """Invariant 3."""
    session = Session(name, lambda urb: UrbResult(UrbStatus.OK, bytes(600), 600))
    for urb in (bulk(1, length=512), Urb.control(2, SetupPacket(0xC0, 1, 0, 0, 8))):
        result = session.run(session.id, urb)
        assert len(result.data) == result.length <= urb.length
    result = session.run(session.id, bulk(3, OUT, b"hello"))
    assert (bytes(result.data), result.length) == (b"", 5)


def test_a_cancelled_urb_completes_once(name: str) -> None:
    session = Session(name, silent)
    session.submit(bulk(1, length=64), bulk(2, OTHER_IN, length=64))
    session.guest.cancel_urb(session.id, 1)
    session.guest.cancel_urb(session.id, 1)
    session.guest.cancel_urb(session.id, 77)
    session.move()
    (cancelled,) = session.device_saw(CancelRequested)
    first, second = session.device_saw(UrbSubmitted)
    assert cancelled.urb_id == first.urb.id
    part = UrbResult(UrbStatus.CANCELLED, b"what came", 9)
    session.device.complete_urb(INFO.id, first.urb.id, part)
    session.device.complete_urb(INFO.id, first.urb.id, part)
    session.device.complete_urb(INFO.id, second.urb.id, echo(second.urb))
    session.move()
    assert sorted(session.completions()) == [
        *((1, UrbStatus.CANCELLED), (2, UrbStatus.OK)),
    ]
    done = {e.urb_id: e.result for e in session.guest_saw(UrbCompleted)}
    assert bytes(done[1].data) == b"what came"


def test_a_cancelled_urb_that_was_finished_keeps_its_result(name: str) -> None:
    session = Session(name, silent)
    session.submit(bulk(1, length=64))
    session.guest.cancel_urb(session.id, 1)
    session.move()
    (submitted,) = session.device_saw(UrbSubmitted)
    session.device.complete_urb(INFO.id, submitted.urb.id, echo(submitted.urb))
    session.move()
    (done,) = session.guest_saw(UrbCompleted)
    assert done.result.length == 64


def test_a_cancel_that_comes_too_late_changes_nothing(name: str) -> None:
    session = Session(name)
    session.submit(bulk(1, length=8))
    session.guest.cancel_urb(session.id, 1)
    session.move()
    assert session.completions() == [(1, UrbStatus.OK)]
    assert session.device_saw(CancelRequested) == []


def test_an_id_may_be_used_again_once_it_completed(name: str) -> None:
    session = Session(name)
    for _ in range(3):
        session.submit(bulk(1, length=8))
    assert session.completions() == [(1, UrbStatus.OK)] * 3


@pytest.mark.parametrize("end", ["close_device", "reset_device"])
def test_close_and_reset_complete_what_is_open_with_cancelled(
    name: str, end: str
) -> None:
    session = Session(name, silent)
    session.submit(bulk(1, length=8), bulk(2, OUT, b"x"))
    stop: Callable[[int], None] = getattr(session.guest, end)
    stop(session.id)
    session.move()
    for event in session.device_saw(CancelRequested):  # a host may have to say so
        result = UrbResult(UrbStatus.CANCELLED)
        session.device.complete_urb(event.device, event.urb_id, result)
    session.move()
    assert sorted(session.completions()) == [
        *((1, UrbStatus.CANCELLED), (2, UrbStatus.CANCELLED)),
    ]


def test_the_end_of_the_channel_completes_everything(name: str) -> None:
    session = Session(name, silent)
    session.submit(bulk(1, length=8), bulk(2, OUT, b"x"))
    session.guest.channel_closed(session.channel)
    assert messages(session.guest) == []
    session.guest.submit_urb(session.id, bulk(3, length=8), now=1)
    session.guest.channel_closed(session.channel)
    session.move()
    gone = UrbStatus.NO_DEVICE
    assert session.completions() == [(1, gone), (2, gone), (3, gone)]


def test_the_end_of_the_channel_forgets_the_device_sides_urbs(name: str) -> None:
    session = Session(name, silent)
    session.submit(bulk(1, length=8))
    (event,) = session.device_saw(UrbSubmitted)
    session.device.channel_closed(session.channel)
    ends = session.device.events()
    assert any(isinstance(e, CancelRequested | CloseRequested) for e in ends)
    session.device.complete_urb(INFO.id, event.urb.id, echo(event.urb))
    session.device.channel_closed(session.channel)
    assert messages(session.device) == []


def test_a_device_that_is_not_announced_any_more_is_not_listed(name: str) -> None:
    session = Session(name)
    session.devices = ()
    session.device.device_lost(INFO.id)
    session.device.announce([])
    session.move()
    assert session.listed == ()


def test_a_device_that_is_not_listed_cannot_be_opened(name: str) -> None:
    session = Session(name)
    with pytest.raises(LocalProtocolError):
        session.guest.open_device(4711)


def test_a_type_that_is_not_carried_completes_invalid(name: str) -> None:
    session = Session(name)
    for kind in set(TransferType) - load(name).transfer_types:
        urb = Urb(9, kind, IN, 8, packets=(8,))
        assert session.run(session.id, urb).status is UrbStatus.INVALID
    assert session.device_saw(UrbSubmitted) == []


@pytest.mark.parametrize("name", ["vrdpusb", "rdpeusb"])
@pytest.mark.parametrize(
    "urb",
    [
        bulk(9, length=-1),
        Urb(9, TransferType.CONTROL, 0x80, -1, b"", SetupPacket(0xC0, 1, length=4)),
        *(
            Urb(9, TransferType.CONTROL, 0x80, 4, b"", setup)
            for setup in (
                SetupPacket(0xC0, 1, -1, 0, 4),
                SetupPacket(0xC0, 1, 0x10000, 0, 4),
                SetupPacket(0xC0, 1, 0, 0x10000, 4),
                SetupPacket(0xC0, 1, 0, 0, 0x10000),
                SetupPacket(0xC0, 256, 0, 0, 4),
                SetupPacket(0x1C0, 1, 0, 0, 4),
            )
        ),
    ],
    ids=str,
)
def test_what_no_bus_carries_completes_invalid(name: str, urb: Urb) -> None:
    """A guest in Python may ask for anything; to submit a URB never raises."""
    session = Session(name)
    assert session.run(session.id, urb).status is UrbStatus.INVALID
    assert session.device_saw(UrbSubmitted) == []
    assert session.run(session.id, bulk(10, length=4)).status is UrbStatus.OK


def ask_everything(session: Session) -> None:
    """Name each kind of request, from 1 to 6."""
    guest, device = session.guest, session.id
    guest.reset_device(device, request=1)
    guest.set_configuration(device, 1, request=2)
    guest.claim_interface(device, 0, request=3)
    guest.set_interface(device, 0, 0, request=4)
    guest.clear_halt(device, IN, request=5)
    guest.release_interface(device, 0, request=6)
    session.move()


def requests(session: Session) -> dict[int, UrbStatus]:
    done = session.guest_saw(RequestCompleted)
    assert {e.device for e in done} <= {session.id}
    found = {e.request: e.status for e in done}
    assert len(found) == len(done)  # each of them once
    return found


def test_a_request_completes_where_somebody_waits_for_it(name: str) -> None:
    session = Session(name)
    assert session.guest_saw(RequestCompleted) == []
    ask_everything(session)
    assert requests(session) == dict.fromkeys(range(1, 7), UrbStatus.OK)


@pytest.mark.parametrize("end", ["close_device", "channel_closed"])
def test_no_request_waits_for_ever(name: str, end: str) -> None:
    session = Session(name, silent)
    ask_everything(session)
    before = requests(session)
    if end == "close_device":
        session.guest.close_device(session.id)
        left = UrbStatus.CANCELLED
    else:
        session.guest.channel_closed(session.channel)
        left = UrbStatus.NO_DEVICE
    session.move()
    after = requests(session)
    assert set(after) == set(range(1, 7))
    assert {s for n, s in after.items() if n not in before} <= {left}


def test_a_request_after_the_end_completes_at_once(name: str) -> None:
    session = Session(name)
    session.guest.channel_closed(session.channel)
    session.guest.clear_halt(session.id, IN, request=7)
    session.guest.claim_interface(session.id, 0, request=8)
    assert messages(session.guest) == []
    session.move()
    assert requests(session) == {7: UrbStatus.NO_DEVICE, 8: UrbStatus.NO_DEVICE}


def test_events_and_outputs_are_handed_out_once(name: str) -> None:
    session = Session(name)
    session.guest.submit_urb(session.id, bulk(1, length=8), now=0)
    assert len(messages(session.guest)) == 1
    assert session.guest.outputs() == []
    session.guest.channel_closed(session.channel)
    assert len(session.guest.events()) >= 1
    assert session.guest.events() == []


# ------------------------------------------------------- whatever arrives ----


def record(name: str) -> tuple[list[bytes], list[bytes], dict[bytes, int]]:
    """What the two sides of a session say to each other, and on which channel."""
    session = Session(name, silent)
    session.submit(*some_urbs())
    session.answer = echo
    for event in session.device_saw(UrbSubmitted):
        session.device.complete_urb(INFO.id, event.urb.id, echo(event.urb))
    session.guest.clear_halt(session.id, IN)
    session.guest.set_interface(session.id, 0, 0)
    session.submit(bulk(11, length=64))
    session.guest.cancel_urb(session.id, 11)
    session.guest.reset_device(session.id)
    session.guest.close_device(session.id)
    session.devices = ()
    session.device.announce([])
    session.move()
    return session.sent, session.received, session.channel_of


def damage(chance: random.Random, data: bytes) -> bytes:
    """Flip, cut, insert or repeat; lengths near the edges."""
    copy = bytearray(data)
    where = chance.randrange(min(len(copy), 64) + 1)
    match chance.randrange(6):
        case 0 if where < len(copy):
            copy[where] ^= 1 << chance.randrange(8)
        case 1:
            del copy[where:]
        case 2:
            del copy[where : where + chance.randint(1, 8)]
        case 3:
            copy[where:where] = chance.randbytes(chance.randint(1, 8))
        case 4:
            edge = chance.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
            copy[where : where + 4] = edge.to_bytes(4, "little")
        case _:
            copy += copy[where:]
    return bytes(copy)


@pytest.mark.fuzz
@pytest.mark.parametrize("is_guest", [True, False])
@pytest.mark.parametrize("seed", seeds(60, 40))
def test_a_core_gives_events_or_one_error_whatever_arrives(
    name: str, is_guest: bool, seed: int
) -> None:
    """Invariants 1 and 4."""
    chance = random.Random(seed)
    session = Session(name, silent)
    session.submit(*some_urbs())
    side: Side = session.guest if is_guest else session.device
    there, back, where = record(name)
    for message in chance.choices(back if is_guest else there, k=40):
        data = damage(chance, message) if chance.random() < 0.7 else message
        channel = where[message]
        try:
            side.receive_data(channel, data, now=1)
        except RemoteProtocolError:
            with pytest.raises(RemoteProtocolError):
                side.receive_data(channel, message, now=1)
            break
    session.of_guest += session.guest.events()
    session.guest.channel_closed(session.channel)
    session.of_guest += session.guest.events()
    assert sorted(i for i, _ in session.completions()) == list(range(1, 8))
    for event in session.guest_saw(UrbCompleted):
        (urb,) = (u for u in some_urbs() if u.id == event.urb_id)
        assert len(event.result.data) <= urb.length
        assert 0 <= event.result.length <= urb.length
    assert all(e.reason for e in session.guest_saw(Ignored))


def shortened(value: object) -> Iterator[object]:
    """Lists with one element less, at whichever depth; for protocols that are text."""
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield [*value[:index], *value[index + 1 :]]
            for other in shortened(one):
                yield [*value[:index], other, *value[index + 1 :]]


@pytest.mark.parametrize("is_guest", [True, False])
def test_text_that_is_nested_deeply_or_lacks_a_part_is_refused(
    name: str, is_guest: bool
) -> None:
    """Invariant 4, as damage at random seldom has it."""
    there, back, where = record(name)
    hostile = [(b"[" * 200_000, back[0] if is_guest else there[0])]
    for message in back if is_guest else there:
        with contextlib.suppress(ValueError):
            for value in shortened(json.loads(message)):
                hostile.append((json.dumps(value).encode(), message))
    for data, message in hostile:
        session = Session(name, silent)
        side: Side = session.guest if is_guest else session.device
        with contextlib.suppress(RemoteProtocolError):
            side.receive_data(where[message], data, now=1)
