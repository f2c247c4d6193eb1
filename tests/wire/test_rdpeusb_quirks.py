"""What clients of MS-RDPEUSB do, one test each: FreeRDP's versions, Windows' client.

The numbers are sections of rdpeusb.md.
"""

import struct
from dataclasses import replace

import pytest

from rusb.errors import LocalProtocolError
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    DeviceFailed,
    DevicesListed,
    Negotiated,
    RequestCompleted,
    UrbCompleted,
)
from rusb.wire.rdpeusb import _messages as messages
from rusb.wire.rdpeusb import _settings as settings
from rusb.wire.rdpeusb import _urbs as urbs
from rusb.wire.rdpeusb._messages import AddDevice, Call, Message
from rusb.wire.rdpeusb._urbs import UrbFunction
from tests.support.wire.peusb import (
    BULK_IN,
    BULK_OUT,
    CONFIGURATION,
    CONTROL,
    DEVICE,
    FIRST,
    INTERRUPT,
    RAW,
    Client,
    calls,
    control,
    read,
    results,
)


def write(id: int, data: bytes) -> Urb:
    return Urb(id, TransferType.BULK, BULK_OUT, len(data), data)


def added(name: str = "add_device_freerdp") -> AddDevice:
    return AddDevice.parse(Message.parse(RAW[name]).body)


def add(device: AddDevice) -> bytes:
    body = device.serialize()
    head = (messages.SINK, messages.PROXY, 0, messages.Sink.ADD_DEVICE)
    return Message(*head, body).serialize()


# --------------------------------------------------- 4: channels, devices ----


def test_each_channel_has_one_release_and_the_control_channel_is_first() -> None:
    """4: FreeRDP would bind a device to the control channel at a second release."""
    client = Client()
    assert client.saw(Negotiated) == [Negotiated(1)]
    client.say(CONTROL, RAW["channel_created_client"])
    client.say(CONTROL, RAW["caps_response"])
    assert "out of turn" in client.ignored()
    assert "twice" in client.ignored()
    assert client.guest.outputs() == []


def test_a_device_is_read_before_it_is_listed() -> None:
    """5.1: the ids of ADD_DEVICE are not to be trusted."""
    client = Client()
    client.descriptors = dict(client.descriptors)
    client.plug()
    ((info,),) = [e.devices for e in client.saw(DevicesListed)]
    assert (info.vendor_id, info.product_id, info.speed) == (0x1234, 0x5678, Speed.HIGH)
    assert info.remote
    (register,) = calls(client, Call.REGISTER)
    assert register.interface == 5


def test_a_channel_for_which_no_device_is_left_is_closed() -> None:
    """4: FreeRDP stays silent."""
    client = Client()
    client.say(CONTROL, RAW["add_virtual_channel"])
    client.guest.channel_opened(FIRST, "URBDRC", now=0)
    client.wait(9)
    assert client.closed == []
    client.wait(2)
    assert client.closed == [FIRST]


def test_a_device_on_two_channels_is_kept_on_the_first() -> None:
    """4: mstsc may announce a device twice."""
    client = Client("windows")
    client.plug()
    client.plug(3)
    assert client.closed == [3]
    assert len(client.saw(DevicesListed)) == 1


def test_a_refused_device_lets_go_and_comes_back_when_it_is_plugged_in_again() -> None:
    """5.7: FreeRDP ignores RETRACT_DEVICE, so its channel is closed."""
    client = Client()
    client.plug()
    (number,) = client.listed()
    assert client.guest.refuse_device(number)
    client.move()
    assert (client.closed, len(calls(client, Call.RETRACT))) == ([FIRST], 1)
    assert client.listed() == [number]  # it is refused, not gone
    assert client.guest.refuse_device(number)
    client.guest.open_device(number)
    assert client.saw(DeviceFailed) == [DeviceFailed(number, "open")]
    client.plug(3)
    (again,) = client.listed()
    assert again != number
    assert not client.guest.refuse_device(99)


def test_no_more_refused_devices_are_listed_than_there_may_be_devices() -> None:
    client = Client()
    for n in range(40):
        client.plug(n + 2, add(replace(added(), instance=str(n))))
        client.guest.refuse_device(client.listed()[-1])
        client.move()
    assert len(client.listed()) == 32


def test_a_device_that_is_closed_may_be_opened_again() -> None:
    """4: its channel stays, for FreeRDP offers no device twice."""
    client = Client()
    number = client.use()
    client.submit(number, read(1))
    client.guest.close_device(number)
    client.move()
    assert results(client)[1].status is UrbStatus.CANCELLED
    assert client.closed == []
    client.guest.close_device(number)
    client.guest.open_device(number)
    with pytest.raises(LocalProtocolError):
        client.guest.open_device(number)


def test_a_device_whose_channel_closes_is_gone() -> None:
    """2.6, 9: so FreeRDP says that it was unplugged."""
    client = Client()
    number = client.use()
    client.submit(number, read(1))
    client.guest.channel_closed(FIRST)
    assert results(client)[1].status is UrbStatus.NO_DEVICE
    assert client.saw(DeviceFailed) == [DeviceFailed(number, "use", removed=True)]
    assert client.saw(DevicesListed)[-1].devices == ()
    client.submit(number, read(2))
    assert results(client)[2].status is UrbStatus.NO_DEVICE


def test_the_control_channel_takes_all_devices_with_it() -> None:
    client = Client()
    number = client.use()
    client.submit(number, read(1))
    client.guest.channel_closed(CONTROL)
    client.guest.channel_closed(CONTROL)
    client.wait(1)
    assert results(client)[1].status is UrbStatus.NO_DEVICE
    assert client.saw(DevicesListed)[-1].devices == ()
    assert client.closed == [FIRST]
    client.guest.channel_opened(7, "URBDRC", now=0)
    client.move()
    assert client.closed == [FIRST, 7]


def test_what_nobody_asked_for_is_closed() -> None:
    client = Client()
    client.guest.channel_opened(7, "URBDRC", now=0)
    client.guest.channel_refused("URBDRC")
    client.say(CONTROL, RAW["add_virtual_channel"])
    client.guest.channel_refused("URBDRC")
    client.move()
    assert client.closed == [7]
    assert "refuses" in client.ignored()


# ------------------------------------------------------- 10.1: profiles ----


def test_windows_gets_typed_requests_alone() -> None:
    """10.1, 13: UsbDevice 0 and no jitter buffer are mstsc's."""
    client = Client("windows")
    number = client.use()
    asked = client.submit(number, control(1, 0xA1, 0xFE, 0, 0, 1))
    assert [t.function for _, t in asked] == [UrbFunction.CLASS_INTERFACE]
    asked = client.submit(number, control(2, 0x82, 12, 0, 0x84, 2))
    assert [t.function for _, t in asked] == [UrbFunction.CONTROL_TRANSFER]


def test_freerdp_gets_setup_packets_as_they_are() -> None:
    """10.1: its typed SET_FEATURE and SET_DESCRIPTOR go wrong."""
    client = Client()
    number = client.use()
    ((_, transfer),) = client.submit(number, control(1, 0x00, 3, 1, 0, 0))
    assert transfer.function == UrbFunction.CONTROL_TRANSFER_EX
    timeout = struct.unpack_from("<I", transfer.body, 8)
    assert timeout == (5000,)  # never 0: FreeRDP would wait for ever


def test_a_client_that_refuses_control_transfer_ex_gets_typed_ones_for_good() -> None:
    """10.1: 0x80070057."""
    client = Client("windows")
    device = replace(added("add_device_windows_style"), device=5, jitter=0x50)
    client.plug(added=add(device))
    (number,) = client.listed()
    assert client.guest._devices[number].is_typed
    client.guest.open_device(number)
    client.guest._devices[number].is_typed = False
    client.submit(number, control(1, 0xC0, 5, 0, 0, 4))
    ((_, transfer),) = client.asked
    assert transfer.function == UrbFunction.VENDOR_DEVICE


# --------------------------------------------------- 5.6, 8, 12: results ----


def test_freerdp_2_echoes_what_was_written() -> None:
    """12: 0x101 with the data in place of 0x102."""
    client = Client()
    (asked,) = client.submit(client.use(), write(1, b"hello"))
    client.done(asked, b"hello")
    assert results(client)[1] == UrbResult(UrbStatus.OK, b"", 5)


def test_freerdp_3_says_how_much_was_written() -> None:
    client = Client()
    (asked,) = client.submit(client.use(), write(1, b"hello"))
    client.done(asked, size=5)
    assert results(client)[1] == UrbResult(UrbStatus.OK, b"", 5)


def test_freerdp_2_sends_stale_data_with_a_failed_control_transfer() -> None:
    """5.6, 12: the status counts."""
    client = Client()
    (asked,) = client.submit(client.use(), control(1, 0xC0, 1, 0, 0, 16))
    client.done(asked, bytes(16), usbd=0xC0000004)
    assert results(client)[1] == UrbResult(UrbStatus.STALL, b"", 0)


def test_freerdp_2_announces_output_that_is_not_there() -> None:
    """5.4, 12: RESET_PORT."""
    client = Client()
    number = client.use()
    client.guest.reset_device(number, request=9)
    client.move()
    (call,) = calls(client, Call.IO_CONTROL)
    request = messages.IoControl.parse(call.body).request
    body = bytearray(Message.parse(RAW["iocontrol_completion_reset_freerdp2"]).body)
    body[0:4] = request.to_bytes(4, "little")
    client.say(FIRST, Message(0x10, messages.PROXY, 0, 0x100, bytes(body)).serialize())
    assert client.saw(RequestCompleted) == [RequestCompleted(number, 9, UrbStatus.OK)]


def test_the_padding_of_a_result_may_be_the_function() -> None:
    """7: FreeRDP 2.11, and the sample of the specification."""
    client = Client()
    number = client.use()
    client.answers = False
    client.guest.set_interface(number, 2, 1, request=1)
    client.move()
    ((_, transfer),) = client.asked
    raw = bytearray(RAW["completion_select_interface_freerdp2"])
    raw[12:16] = transfer.request.to_bytes(4, "little")
    client.say(FIRST, bytes(raw))
    assert client.saw(RequestCompleted) == [RequestCompleted(number, 1, UrbStatus.OK)]


@pytest.mark.parametrize("status", [1, 3, 4, 5, 6])
def test_freerdp_sends_the_status_of_libusb(status: int) -> None:
    """8."""
    client = Client()
    number = client.use()
    (asked,) = client.submit(number, read(1))
    client.guest.cancel_urb(number, 1)
    client.done(asked, usbd=status)
    expected = {1: "IO_ERROR", 3: "CANCELLED", 4: "STALL", 5: "NO_DEVICE"}
    assert results(client)[1].status.name == expected.get(status, "OVERFLOW")


def test_a_short_transfer_is_no_error_to_windows_either() -> None:
    """6, 8: the flag is always set, and the status may say so."""
    client = Client("windows")
    (asked,) = client.submit(client.use(), read(1))
    (flags,) = struct.unpack_from("<I", asked[1].body, 4)
    assert flags == 3
    client.done(asked, b"abc", usbd=0xC0000009)
    assert results(client)[1] == UrbResult(UrbStatus.OK, b"abc", 3)


def test_windows_releases_and_asks_for_interfaces() -> None:
    """5.7, 13."""
    client = Client("windows")
    number = client.use()
    client.say(FIRST, RAW["release_device"])
    client.guest.receive_data(FIRST, RAW["query_interface_request"], now=0)
    (answer,) = client.guest.outputs()
    assert Message.parse(answer.data).mask == messages.STUB  # type: ignore[union-attr]
    assert client.listed() == [number]


def test_numbers_of_requests_have_thirty_bits() -> None:
    """6: FreeRDP returns no more."""
    client = Client()
    number = client.use()
    client.guest._devices[number]._last = urbs.MAX_REQUEST - 1
    asked = client.submit(number, read(1), read(2), read(3))
    assert [t.request for _, t in asked] == [urbs.MAX_REQUEST, 1, 2]
    client.guest._devices[number]._last = 0
    ((_, transfer),) = client.submit(number, read(4))
    assert transfer.request == 3  # those that wait are not used


# ------------------------------------------ 6, 12, 13: configurations ----


def test_the_whole_configuration_is_selected_whatever_the_guest_may_see() -> None:
    """12, 13: FreeRDP 2.11 crashes, mstsc refuses what is cut."""
    client = Client()
    client.plug()
    (number,) = client.listed()
    client.answers = False
    client.guest.open_device(number)
    client.guest.set_configuration(number, 1, request=1)
    client.move()
    ((_, transfer),) = client.asked
    found = settings.Configuration.parse(transfer.body)
    assert found.descriptor == CONFIGURATION
    assert [(i.number, i.alternate) for i in found.interfaces] == [
        *((0, 0), (1, 0), (2, 0)),
    ]


def test_freerdp_3_selects_nothing_and_calls_it_a_success() -> None:
    """12: with the wrong interfaces, handle 0 and none of them."""
    client = Client()
    number = client.use()
    client.answers = False
    client.guest.set_configuration(number, 1, request=1)
    client.submit(number, read(5))  # it waits
    ((_, transfer),) = client.asked
    raw = bytearray(RAW["completion_deconfigure"])
    raw[12:16] = transfer.request.to_bytes(4, "little")
    client.say(FIRST, bytes(raw))
    (done,) = client.saw(RequestCompleted)
    assert done.status is UrbStatus.IO_ERROR
    assert results(client)[5].status is UrbStatus.INVALID


def test_configurations_and_settings_that_do_not_exist() -> None:
    client = Client()
    number = client.use()
    client.guest.set_configuration(number, 7, request=1)
    client.guest.set_interface(number, 2, 9, request=2)
    client.guest.clear_halt(number, 0x8F, request=3)
    client.guest.clear_halt(number, 0x80, request=4)
    client.guest.set_configuration(number, 0, request=5)
    client.guest.set_interface(number, 2, 1, request=6)
    client.move()
    stall = UrbStatus.STALL
    statuses = [e.status for e in client.saw(RequestCompleted)]
    assert statuses == [stall, stall, stall, UrbStatus.OK, UrbStatus.OK, stall]


def test_requests_wait_for_a_configuration_and_keep_their_order() -> None:
    client = Client()
    number = client.use()
    client.answers = False
    client.guest.set_configuration(number, 1, request=1)
    client.guest.set_configuration(number, 1, request=2)
    client.guest.set_interface(number, 2, 1, request=3)
    client.guest.clear_halt(number, BULK_IN, request=4)
    client.submit(number, read(5), read(6), read(5))
    client.guest.cancel_urb(number, 6)
    assert len(client.asked) == 1
    done = [(e.urb_id, e.result.status) for e in client.saw(UrbCompleted)]
    assert done == [(5, UrbStatus.INVALID), (6, UrbStatus.CANCELLED)]  # 5: the second
    client.answers = True
    first = client.asked.pop()
    client.asked.append(first)
    client._answer(first)
    client.move()
    statuses = [(e.request, e.status) for e in client.saw(RequestCompleted)]
    assert statuses == [(n, UrbStatus.OK) for n in (1, 2, 3)]
    functions = [t.function for _, t in client.asked]
    assert functions == [
        UrbFunction.SYNC_RESET_PIPE_AND_CLEAR_STALL,
        UrbFunction.BULK_OR_INTERRUPT_TRANSFER,
    ]


def test_a_setting_with_other_pipes_is_refused() -> None:
    """9, step 7."""
    client = Client()
    number = client.use()
    client.guest.set_interface(number, 0, 0, request=1)  # answered as if it were 2
    client.move()
    assert client.saw(RequestCompleted)[0].status is UrbStatus.IO_ERROR


def test_standard_requests_as_urbs_take_the_same_way() -> None:
    client = Client()
    number = client.use()
    client.submit(
        number,
        Urb.control(1, SetupPacket.set_configuration(1)),
        Urb.control(2, SetupPacket.set_interface(2, 1)),
        control(3, 0x00, 5, 9),
        control(4, 0x40, 1, 0, 0, 5, data=b"1"),
    )
    done = {i: r.status for i, r in results(client).items()}
    ok = UrbStatus.OK
    assert done == {1: ok, 2: ok, 3: ok, 4: UrbStatus.INVALID}
    ((_, transfer),) = client.submit(
        number, Urb.control(5, SetupPacket.clear_halt(BULK_IN))
    )
    assert transfer.function == UrbFunction.SYNC_RESET_PIPE_AND_CLEAR_STALL


# ---------------------------------------------- 10.2, 10.4: interruptions ----


def test_freerdp_gives_up_reading_after_ten_seconds() -> None:
    """10.2: it is asked again, for a guest expects NAKs for ever."""
    client = Client()
    number = client.use()
    (asked,) = client.submit(number, read(1, 8, INTERRUPT))
    client.done(asked, usbd=2)
    assert results(client) == {}
    (again,) = client.asked
    client.done(again, b"12345678")
    assert results(client)[1].data == b"12345678"


def test_what_came_before_the_ten_seconds_is_delivered() -> None:
    """10.2."""
    client = Client()
    (asked,) = client.submit(client.use(), read(1))
    client.done(asked, b"part", usbd=2)
    assert results(client)[1] == UrbResult(UrbStatus.OK, b"part", 4)


def test_data_keep_their_order_when_the_first_of_several_is_given_up() -> None:
    client = Client()
    number = client.use()
    first, second, third = client.submit(number, read(1), read(2), read(3))
    client.done(first, usbd=2)
    client.done(second, b"a")
    client.done(third, b"b")
    (fourth,) = client.asked
    client.guest.cancel_urb(number, 3)
    client.done(fourth, usbd=3)
    done = [(e.urb_id, bytes(e.result.data)) for e in client.saw(UrbCompleted)]
    assert done == [(1, b"a"), (2, b"b"), (3, b"")]


def test_freerdp_cancels_everything_when_a_halt_is_cleared() -> None:
    """10.4: what the guest still waits for is asked again, as far as it was done."""
    client = Client()
    number = client.use()
    one, two = client.submit(number, read(1, 8, INTERRUPT), write(2, b"hello"))
    client.guest.clear_halt(number, BULK_IN, request=1)
    client.move()
    client.done(one, usbd=3)
    client.done(two, usbd=3, size=2)
    clear, again, rest = client.asked
    assert rest[1].data == b"llo"
    client.done(clear)
    client.done(again, b"x")
    client.done(rest, size=3)
    assert results(client)[1].data == b"x"
    assert results(client)[2] == UrbResult(UrbStatus.OK, b"", 5)
    assert len(client.saw(RequestCompleted)) == 1
    assert UrbFunction.ABORT_PIPE not in {t.function for _, t in client.asked}


# ------------------------------------------------------ 5.1, 9: reading ----


def test_a_device_that_cannot_be_read_is_let_go() -> None:
    client = Client(device=DEVICE[:8])
    client.plug()
    assert client.closed == [FIRST]
    assert client.saw(DevicesListed) == []
    assert "cannot be read" in client.ignored()


def test_a_device_that_answers_nothing_is_let_go() -> None:
    client = Client()
    client.answers = False
    client.plug()
    client.wait(60)
    assert client.closed == [FIRST]


def test_a_device_that_leaves_while_it_is_read() -> None:
    client = Client()
    client.answers = False
    client.plug()
    client.guest.channel_closed(FIRST)
    assert client.saw(DevicesListed) == []
    assert client.guest.next_deadline() is None


def test_a_configuration_too_large_to_be_read() -> None:
    client = Client(configuration=CONFIGURATION[:2] + b"\xff\xff" + CONFIGURATION[4:])
    client.plug()
    assert "claims 65535 bytes" in client.ignored()


def test_a_second_configuration_that_is_not_there() -> None:
    """T33: the count may be wrong, and the first one works."""
    client = Client(device=DEVICE[:17] + b"\x03", configuration=CONFIGURATION)
    client.plug()
    assert len(client.listed()) == 1


@pytest.mark.parametrize(
    ("size", "speed"),
    [(512, Speed.HIGH), (1024, Speed.SUPER), (64, Speed.FULL)],
)
def test_the_speed_is_that_of_the_descriptors(size: int, speed: Speed) -> None:
    """5.1: DeviceIsHighSpeed is not reliable."""
    bulk = struct.pack("<H", 512)
    configuration = CONFIGURATION.replace(bulk, struct.pack("<H", size))
    client = Client(configuration=configuration)
    client.plug()
    assert client.saw(DevicesListed)[0].devices[0].speed is speed


@pytest.mark.parametrize(
    ("size", "is_capable", "speed"),
    [
        (192, False, Speed.FULL),
        (192, True, Speed.HIGH),
        (1024, False, Speed.HIGH),
        (0x0A00, False, Speed.HIGH),
    ],
)
def test_the_speed_of_a_device_that_only_streams(
    size: int, is_capable: bool, speed: Speed
) -> None:
    """USB 2.0, 9.6.2: only what can do high speed has a device qualifier; and full
    speed has no packets of more than 1023 bytes, nor several in a microframe."""
    endpoint = struct.pack("<BBBBHB", 7, 5, 0x81, 5, size, 1)
    body = bytes.fromhex("090400000101010000") + endpoint
    head = struct.pack("<BBHBBBBB", 9, 2, 9 + len(body), 1, 1, 0, 0x80, 50)
    client = Client(configuration=head + body)
    if is_capable:
        client.descriptors[6] = bytes.fromhex("0a060002000000400100")
    client.plug()
    assert client.saw(DevicesListed)[0].devices[0].speed is speed


def test_a_slow_mouse() -> None:
    mouse = bytes.fromhex("09022200010100a032 0904000001030102 00 0705810304000a")
    mouse = mouse[:2] + len(mouse).to_bytes(2, "little") + mouse[4:]
    device = DEVICE[:7] + b"\x08" + DEVICE[8:]
    client = Client(device=device, configuration=mouse)
    client.plug()
    assert client.saw(DevicesListed)[0].devices[0].speed is Speed.LOW


def test_strings_are_read_for_the_filters() -> None:
    client = Client()
    language = bytes.fromhex("04030904")
    text = "Maker".encode("utf-16-le")
    client.strings = {0: language, 1: bytes((2 + len(text), 3)) + text, 2: b"\x03"}
    client.plug()
    (info,) = client.saw(DevicesListed)[0].devices
    assert (info.manufacturer, info.product, info.serial) == ("Maker", None, None)
