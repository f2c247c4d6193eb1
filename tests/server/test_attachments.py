"""Standard requests, pressure, descriptors: what stands between guest and wire."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from rusb.errors import GuestError
from rusb.server import attachments, reading
from rusb.server.attachments import (
    MAX_BYTES_BESIDE,
    MAX_BYTES_IN_FLIGHT,
    MAX_URBS_IN_FLIGHT,
    Attachment,
)
from rusb.server.policy import Policy
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    InterfaceDescriptor,
)
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    CancelRequested,
    DevicesListed,
    RequestCompleted,
    Send,
    UrbCompleted,
)
from rusb.wire.vrdpusb import VrdpUsbDeviceSide, VrdpUsbGuestSide

DEVICE = DeviceDescriptor(0x0200, 0xFF, 0, 0, 64, 0x1209, 1, 0x0100)
CONFIGURATION = ConfigurationDescriptor(
    1,
    0x80,
    50,
    (
        InterfaceDescriptor(0, 0, 0xFF, 0, 0),
        InterfaceDescriptor(0, 1, 0xFF, 0, 0),
        InterfaceDescriptor(1, 0, 0xFF, 0, 0),
    ),
)
BY_HAND = Policy(is_by_hand=True)
Answer = Callable[[Urb], UrbResult | None]


def answer_descriptors(urb: Urb) -> UrbResult | None:
    """Answer what the attach sequence asks."""
    assert urb.setup is not None
    kind = urb.setup.value >> 8
    data = DEVICE.serialize() if kind == 1 else CONFIGURATION.serialize()
    data = data[: urb.length]
    return UrbResult(UrbStatus.OK, data, len(data))


class Wire:
    """An attachment whose wire ends in a client that answers in memory."""

    def __init__(self, answer: Answer = answer_descriptors) -> None:
        self.answer = answer
        self.now = 0.0
        self.guest = VrdpUsbGuestSide()
        self.device = VrdpUsbDeviceSide()
        self.sent: list[bytes] = []
        self.info = DeviceInfo(7, 0x1209, 1, bcd_device=0x0100, device_class=0xFF)
        self.device.channel_opened(1, "vrdpusb", now=0)
        self.guest.channel_opened(1, "vrdpusb", now=0)
        self.device.announce([self.info])
        self.attachment = Attachment(
            self.info,
            name="usb-1",
            number=1,
            core=self.guest,
            flush=self.flush,
            now=lambda: self.now,
        )
        self.flush()
        self.device.announce([self.info])
        self.flush()
        self.sent.clear()

    def flush(self) -> None:
        while True:
            outputs = self.guest.outputs()
            for output in outputs:
                assert isinstance(output, Send)
                self.sent.append(output.data)
                self.device.receive_data(1, output.data, now=0)
            for event in self.device.events():
                if isinstance(event, CancelRequested):
                    cancelled = UrbResult(UrbStatus.CANCELLED)
                    self.device.complete_urb(7, event.urb_id, cancelled)
                urb = getattr(event, "urb", None)
                if urb is not None and (result := self.answer(urb)) is not None:
                    self.device.complete_urb(7, urb.id, result)
            back = self.device.outputs()
            for output in back:
                assert isinstance(output, Send)
                self.guest.receive_data(1, output.data, now=0)
            for done in self.guest.events():
                if isinstance(done, UrbCompleted):
                    self.attachment.completed(done.urb_id, done.result)
                elif isinstance(done, RequestCompleted):
                    self.attachment.request_completed(done.request, done.status)
                else:
                    assert not isinstance(done, DevicesListed) or done.devices
            if not outputs and not back:
                return

    def codes(self) -> list[int]:
        """Message codes that went to the client, and forget them."""
        taken, self.sent = self.sent, []
        return [message[4] for message in taken]

    def control(self, setup: SetupPacket, id: int = 99) -> UrbResult:
        results: list[UrbResult] = []
        self.attachment.submit(Urb.control(id, setup), results.append)
        (result,) = results
        return result


@pytest.fixture
async def wire() -> Wire:
    made = Wire()
    await made.attachment.open(BY_HAND)
    made.codes()
    return made


async def test_opening_reads_the_device_and_every_configuration() -> None:
    made = Wire()
    await made.attachment.open(BY_HAND)
    assert made.attachment.descriptors.device == DEVICE
    assert made.attachment.descriptors.configurations == (CONFIGURATION,)
    assert made.codes() == [0, 7, 7, 7]


async def test_set_configuration_claims_what_it_selects(wire: Wire) -> None:
    assert wire.control(SetupPacket.set_configuration(1)).status is UrbStatus.OK
    assert wire.codes() == [3, 4, 4]
    assert bytes(wire.control(SetupPacket.get_configuration()).data) == b"\1"
    assert wire.control(SetupPacket.set_configuration(0)).status is UrbStatus.OK
    assert wire.codes() == [5, 5, 3]
    assert bytes(wire.control(SetupPacket.get_configuration()).data) == b"\0"


async def test_a_configuration_that_does_not_exist_stalls(wire: Wire) -> None:
    assert wire.control(SetupPacket.set_configuration(9)).status is UrbStatus.STALL
    assert wire.codes() == []


async def test_alternate_settings_are_kept_track_of(wire: Wire) -> None:
    wire.control(SetupPacket.set_configuration(1))
    wire.codes()
    assert wire.control(SetupPacket.set_interface(0, 1)).status is UrbStatus.OK
    assert wire.codes() == [6]
    assert bytes(wire.control(SetupPacket.get_interface(0)).data) == b"\1"
    assert wire.control(SetupPacket.set_interface(1, 1)).status is UrbStatus.STALL
    assert wire.control(SetupPacket.get_interface(5)).status is UrbStatus.STALL


async def test_clear_halt_and_set_address_do_not_travel_as_urbs(wire: Wire) -> None:
    assert wire.control(SetupPacket.clear_halt(0x81)).status is UrbStatus.OK
    assert wire.codes() == [9]
    assert wire.control(SetupPacket(0, 5, 3)).status is UrbStatus.OK
    assert wire.codes() == []


async def test_a_reset_forgets_the_configuration(wire: Wire) -> None:
    wire.control(SetupPacket.set_configuration(1))
    wire.attachment.reset()
    assert bytes(wire.control(SetupPacket.get_configuration()).data) == b"\0"
    assert wire.codes()[-2:] == [2, 7]


async def test_pressure_comes_and_goes_with_the_urbs_in_flight(wire: Wire) -> None:
    wire.answer = lambda urb: None
    seen: list[bool] = []
    done: list[UrbResult] = []
    wire.attachment.watch_pressure(seen.append)
    for number in range(MAX_URBS_IN_FLIGHT):
        urb = Urb(number, TransferType.BULK, 0x81, 512)
        wire.attachment.submit(urb, done.append)
    assert seen == [True]
    for number in range(MAX_URBS_IN_FLIGHT):
        wire.attachment.cancel(number)
    assert seen == [True, False]
    assert [r.status for r in done] == [UrbStatus.CANCELLED] * MAX_URBS_IN_FLIGHT


async def test_pressure_comes_with_the_bytes_in_flight_too(wire: Wire) -> None:
    wire.answer = lambda urb: None
    seen: list[bool] = []
    wire.attachment.watch_pressure(seen.append)
    size = 4 << 20
    for number in range(MAX_BYTES_IN_FLIGHT // size):
        urb = Urb(number, TransferType.BULK, 0x81, size)
        wire.attachment.submit(urb, lambda result: None)
    assert seen == [True]


async def test_a_slow_client_holds_devices_that_send_much(wire: Wire) -> None:
    """The others of the client go on: what waits is not theirs."""
    wire.answer = lambda urb: None
    seen: list[bool] = []
    attachment = wire.attachment
    attachment.watch_pressure(seen.append)

    def submit(number: int, size: int) -> None:
        urb = Urb(number, TransferType.BULK, 0x02, size, bytes(size))
        attachment.submit(urb, lambda result: None)

    attachment.allow(MAX_BYTES_BESIDE)
    submit(1, MAX_BYTES_BESIDE // 2)
    assert seen == []
    submit(2, MAX_BYTES_BESIDE // 2)
    assert seen == [True]
    attachment.cancel(1)
    assert seen == [True]  # until less than half is left
    attachment.allow(MAX_BYTES_BESIDE)
    attachment.allow(MAX_BYTES_IN_FLIGHT)
    assert seen == [True, False]
    submit(3, MAX_BYTES_BESIDE)
    assert seen == [True, False]
    attachment.allow(MAX_BYTES_BESIDE)
    assert seen == [True, False, True]


async def test_an_id_in_flight_is_not_taken_twice(wire: Wire) -> None:
    wire.answer = lambda urb: None
    done: list[UrbResult] = []
    for _ in range(2):
        urb = Urb(5, TransferType.BULK, 0x81, 512)
        wire.attachment.submit(urb, done.append)
    assert [r.status for r in done] == [UrbStatus.INVALID]


async def test_closing_completes_what_is_open_once_and_refuses_more(
    wire: Wire,
) -> None:
    wire.answer = lambda urb: None
    done: list[UrbResult] = []
    for number in range(3):
        urb = Urb(number, TransferType.BULK, 0x81, 512)
        wire.attachment.submit(urb, done.append)
    wire.attachment.close()
    wire.attachment.close()
    assert [r.status for r in done] == [UrbStatus.NO_DEVICE] * 3
    assert wire.control(SetupPacket.get_configuration()).status is UrbStatus.NO_DEVICE
    assert wire.codes()[-4:] == [10, 10, 10, 1]


async def test_a_reset_looks_whether_it_is_still_the_same_device(wire: Wire) -> None:
    seen: list[str] = []
    wire.attachment.watch_changed(seen.append)
    wire.attachment.reset()
    assert (wire.codes(), seen) == ([2, 7], [])
    other = replace(DEVICE, product_id=2)
    wire.answer = lambda urb: UrbResult(UrbStatus.OK, other.serialize(), 18)
    wire.attachment.reset()
    (why,) = seen
    assert "1209:0001 revision 0100 class ff" in why
    assert "1209:0002" in why
    wire.answer = lambda urb: UrbResult(UrbStatus.STALL)
    wire.attachment.reset()  # it did not say that it is another
    assert len(seen) == 1


async def test_t33_descriptors_are_what_was_judged_whatever_the_device_says_later(
    wire: Wire,
) -> None:
    wire.answer = lambda urb: UrbResult(UrbStatus.OK, b"\xff" * 8, 8)
    for kind, whole in ((1, DEVICE.serialize()), (2, CONFIGURATION.serialize())):
        result = wire.control(SetupPacket.get_descriptor(kind, 0, 9))
        assert (bytes(result.data), result.length) == (whole[:9], 9)
        result = wire.control(SetupPacket.get_descriptor(kind, 0, 4096))
        assert bytes(result.data) == whole
    assert wire.codes() == []
    result = wire.control(SetupPacket.get_descriptor(2, 1, 9))
    assert result.status is UrbStatus.STALL


async def test_a_descriptor_that_does_not_come_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attachments, "DESCRIPTOR_TIMEOUT", 0.01)
    monkeypatch.setattr(reading, "DESCRIPTOR_PAUSE", 0.0)
    asked: list[Urb] = []

    def answer(urb: Urb) -> UrbResult | None:
        asked.append(urb)
        return answer_descriptors(urb) if len(asked) > 2 else None

    made = Wire(answer)
    await made.attachment.open(BY_HAND)
    assert made.codes() == [0, 7, 10, 7, 10, 7, 7, 7]

    made = Wire(lambda urb: None)
    with pytest.raises(GuestError, match="cannot read descriptor 1/0: TIMEOUT"):
        await made.attachment.open(BY_HAND)
    assert made.codes() == [0, *[7, 10] * reading.DESCRIPTOR_ATTEMPTS]


async def test_an_attach_that_is_given_up_leaves_nothing_in_flight() -> None:
    made = Wire(lambda urb: None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await made.attachment.open(BY_HAND)
    made.attachment.close()
    assert made.codes() == [0, 7, 10, 1]


async def test_a_device_is_reached_another_way_when_its_client_has_come_back(
    wire: Wire,
) -> None:
    wire.control(SetupPacket.set_configuration(1))
    wire.control(SetupPacket.set_interface(0, 1))
    wire.answer = lambda urb: None
    pressed: list[bool] = []
    done: dict[int, UrbResult] = {}
    attachment = wire.attachment
    attachment.watch_pressure(pressed.append)

    def submit(urb: Urb) -> None:
        attachment.submit(urb, lambda result: done.update({urb.id: result}))

    submit(Urb(1, TransferType.INTERRUPT, 0x83, 8))
    for number in range(100, 100 + MAX_URBS_IN_FLIGHT):
        submit(Urb(number, TransferType.BULK, 0x81, 8))
    submit(Urb(3, TransferType.BULK, 0x02, 2, b"hi"))
    submit(Urb.control(4, SetupPacket(0xC0, 1, 0, 0, 8)))
    submit(Urb(5, TransferType.INTERRUPT, 0x04, 2, b"hi"))
    assert (pressed, done) == ([True], {})

    other = Wire()
    other.attachment = attachment
    asked: list[Urb] = []
    other.answer = asked.append
    attachment.rebind(7, other.guest, other.flush)
    assert {r.status for r in done.values()} == {UrbStatus.IO_ERROR}
    assert len(done) == MAX_URBS_IN_FLIGHT + 3
    assert [(u.type, u.endpoint, u.length) for u in asked] == [
        (TransferType.INTERRUPT, 0x83, 8)
    ]
    # OPEN, SET_CONFIGURATION, two CLAIM_INTERFACE and SET_INTERFACE; SUBMIT_URB
    assert other.codes() == [0, 3, 4, 6, 4, 7]
    assert pressed == [True, False]
    assert attachment.round_trip is None  # this way has one of its own

    other.device.complete_urb(7, asked[0].id, UrbResult(UrbStatus.OK, b"key", 3))
    other.flush()
    assert bytes(done[1].data) == b"key"


async def test_what_a_device_said_is_repeated_only_while_it_is_out_of_reach(
    wire: Wire,
) -> None:
    said = iter((b"\4\3a\0", b"\4\3b\0"))
    wire.answer = lambda urb: UrbResult(UrbStatus.OK, next(said), 4)
    got = list[UrbResult]()
    for number in (1, 2, 3):
        setup = SetupPacket.get_descriptor(3, 1, 4)
        wire.attachment.submit(Urb.control(number, setup), got.append)
        if number == 2:
            wire.attachment.leave()
    assert [bytes(one.data) for one in got] == [b"\4\3a\0", *[b"\4\3b\0"] * 2]


async def test_control_transfers_measure_the_round_trip() -> None:
    """Those that travel and are answered; not a transfer that waits for its data."""
    status, seconds = UrbStatus.OK, 0.02

    def answer(urb: Urb) -> UrbResult | None:
        client.now += seconds
        found = (
            answer_descriptors(urb) if urb.setup and urb.setup.request == 6 else None
        )
        return found or UrbResult(status)

    client = Wire(answer)
    assert client.attachment.round_trip is None
    await client.attachment.open(BY_HAND)
    assert client.attachment.round_trip == pytest.approx(0.02)
    seconds = 0.01
    client.control(SetupPacket.set_configuration(1))
    client.control(SetupPacket.get_descriptor(1, 0, 18))
    client.attachment.submit(Urb(3, TransferType.BULK, 0x81, 8), lambda result: None)
    status = UrbStatus.CANCELLED
    client.control(SetupPacket(0xC0, 1, 0, 0, 8))
    assert client.attachment.round_trip == pytest.approx(0.02)
    status = UrbStatus.STALL
    client.control(SetupPacket(0xC0, 1, 0, 0, 8))
    assert client.attachment.round_trip == pytest.approx(0.01)


async def test_another_way_has_a_clock_of_its_own() -> None:
    """That of the link before may stand still."""

    def answer(urb: Urb) -> UrbResult:
        other.now += 0.03
        return UrbResult(UrbStatus.OK)

    other = Wire(answer)
    attachment = other.attachment = Wire().attachment
    attachment.rebind(7, other.guest, other.flush, now=lambda: other.now)
    other.control(SetupPacket(0xC0, 1, 0, 0, 8))
    assert attachment.round_trip == pytest.approx(0.03)


async def test_what_left_before_a_connection_broke_measures_nothing() -> None:
    """Its answer may have waited for the next connection, and comes at once there."""
    wire = Wire(lambda urb: None)
    wire.guest.open_device(7)
    attachment = wire.attachment
    submit = partial(attachment.submit, complete=lambda result: None)
    submit(Urb.control(1, SetupPacket(0xC0, 1, 0, 0, 8)))
    wire.now += 0.001
    attachment.leave()
    submit(Urb.control(2, SetupPacket(0xC0, 1, 0, 0, 8)))
    attachment.come_back()
    attachment.completed(1, UrbResult(UrbStatus.OK))
    assert attachment.round_trip is None
    wire.now += 0.02
    attachment.completed(2, UrbResult(UrbStatus.OK))
    assert attachment.round_trip == pytest.approx(0.02)
