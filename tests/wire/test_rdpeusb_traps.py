"""The traps of MS-RDPEUSB, in the order of rdpeusb.md 12 and 13, one by one.

Those of transfers and their results are in test_rdpeusb_quirks.py, by name of the
client: what was written (12, row 1), failed control transfers (2), the padding of
results (6), no interfaces (7), typed requests, duplicates. Isochronous data (4, 5) are
in test_rdpeusb_isochronous.py.
"""

import struct

import pytest

from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    AlternateRequested,
    Ignored,
    RequestCompleted,
    Send,
    UrbCompleted,
    UrbSubmitted,
)
from rusb.wire.rdpeusb import _messages as messages
from rusb.wire.rdpeusb import _settings as settings
from rusb.wire.rdpeusb import _urbs as urbs
from rusb.wire.rdpeusb._messages import Call, Message
from rusb.wire.rdpeusb._urbs import Completion, Transfer, UrbFunction
from tests.support.wire.peusb import (
    CONFIGURATION,
    CONTROL,
    FIRST,
    RAW,
    Client,
    control,
)
from tests.support.wire.peusb_server import INFO, Server, bulk

BULK_IN, BULK_OUT, INTERRUPT, ISO_IN = 0x81, 0x02, 0x83, 0x84


def read(id: int, size: int = 512, endpoint: int = BULK_IN) -> Urb:
    return Urb(id, TransferType.BULK, endpoint, size)


def results(client: Client) -> dict[int, UrbResult]:
    return {e.urb_id: e.result for e in client.saw(UrbCompleted)}


def told(client: Client) -> list[tuple[int, UrbStatus]]:
    return [(e.request, e.status) for e in client.saw(RequestCompleted)]


# ------------------------------------- 12: FreeRDP's versions, row by row ----


def test_freerdp_3_has_no_data_with_a_failed_control_transfer() -> None:
    """12, row 2; FreeRDP 2.11's stale data are in test_rdpeusb_quirks.py."""
    client = Client()
    ((_, transfer),) = client.submit(client.use(), control(1, 0xC0, 1, 0, 0, 16))
    raw = bytearray(RAW["completion_stall"])
    raw[12:16] = transfer.request.to_bytes(4, "little")
    client.say(FIRST, bytes(raw))
    assert results(client)[1] == UrbResult(UrbStatus.STALL)


@pytest.mark.parametrize(
    "name", ["iocontrol_completion_reset", "iocontrol_completion_reset_freerdp2"]
)
def test_what_freerdp_announces_of_an_io_control_may_not_be_there(name: str) -> None:
    """12, row 3."""
    body = Message.parse(RAW[name]).body
    assert messages.IoCompletion.parse(body).output == b""


@pytest.mark.parametrize("announced", [0, 4, 8])
def test_a_reset_is_confirmed_whatever_is_announced(announced: int) -> None:
    """12, row 3."""
    client = Client()
    number = client.use()
    client.guest.reset_device(number, request=9)
    client.move()
    (call,) = (m for m in client.calls if m.function == Call.IO_CONTROL)
    request = messages.IoControl.parse(call.body).request
    body = struct.pack("<IIII", request, 0, announced, announced)
    client.say(FIRST, Message(0x10, messages.PROXY, 0, 0x100, body).serialize())
    assert told(client) == [(9, UrbStatus.OK)]


def test_the_size_of_each_ts_urb_is_said_twice_and_alike() -> None:
    """12, "Size != CbTsUrb": FreeRDP 3 drops what differs, without a word."""
    client = Client()
    client.plug()
    (number,) = client.listed()
    guest = client.guest
    sent: list[bytes] = []

    def take() -> None:
        for output in guest.outputs():
            assert isinstance(output, Send)
            sent.append(output.data)
            client._take(output.channel, output.data)
        client.seen += guest.events()

    guest.open_device(number)
    guest.set_configuration(number, 1)
    take()
    guest.set_interface(number, 2, 1)
    take()
    guest.clear_halt(number, BULK_IN)
    for urb in (
        control(1, 0xC0, 1, 0, 0, 16),
        control(2, 0x40, 1, 0, 0, 3, data=b"abc"),
        read(3),
        Urb(4, TransferType.BULK, BULK_OUT, 5, b"hello"),
        Urb(5, TransferType.INTERRUPT, INTERRUPT, 8),
        Urb(6, TransferType.ISOCHRONOUS, ISO_IN, 32, packets=(16, 16)),
    ):
        guest.submit_urb(number, urb, now=0)
    take()
    functions = set()
    for data in sent:
        message = Message.parse(data)
        assert message.function in (Call.TRANSFER_IN, Call.TRANSFER_OUT)
        total, size, function = struct.unpack_from("<IHH", message.body)
        assert total == size
        functions.add(function)
    assert functions == {
        UrbFunction.SELECT_CONFIGURATION,
        UrbFunction.SELECT_INTERFACE,
        UrbFunction.SYNC_RESET_PIPE_AND_CLEAR_STALL,
        UrbFunction.CONTROL_TRANSFER_EX,
        UrbFunction.BULK_OR_INTERRUPT_TRANSFER,
        UrbFunction.ISOCH_TRANSFER,
    }


@pytest.mark.parametrize("wrong", [0, 8, 15, 17, 0xFFFF])
def test_a_server_whose_size_is_not_cb_ts_urb_loses_the_device(wrong: int) -> None:
    """12, "Size != CbTsUrb": our client does not guess which of the two is right."""
    server = Server(INFO)
    server.use()
    raw = bytearray(urbs.transfer(5, 1, bulk(1, BULK_IN, 8)))
    assert struct.unpack_from("<IH", raw, 12) == (16, 16)
    struct.pack_into("<H", raw, 16, wrong)
    server.say(FIRST, bytes(raw))
    assert server.saw(UrbSubmitted) == []
    assert server.closed == [FIRST]
    assert f"TS_URB of {wrong} bytes in 16" in server.saw(Ignored)[-1].reason


def test_a_client_whose_size_is_not_cb_ts_urb_result_loses_the_device() -> None:
    """12, "Size != CbTsUrb", in an answer."""
    client = Client()
    (asked,) = client.submit(client.use(), read(1))
    raw = bytearray(urbs.completion(0x10, 0, Completion(asked[1].request)))
    struct.pack_into("<H", raw, 20, 9)
    client.say(FIRST, bytes(raw))
    assert client.closed == [FIRST]
    assert results(client)[1].status is UrbStatus.NO_DEVICE


def test_alternate_0_after_select_configuration() -> None:
    """12, last row: FreeRDP 3 selects it on every interface, FreeRDP 2.11 does not; so
    it is asked for where it is not selected, before the guest goes on."""
    client = Client()
    number = client.use()
    guest = client.guest
    guest.set_interface(number, 2, 1, request=1)
    client.move()
    client.answers = False
    guest.reset_device(number)  # which FreeRDP only confirms
    guest.set_configuration(number, 1, request=2)
    client.submit(number, read(5))
    assert [t.function for _, t in client.asked] == [UrbFunction.SELECT_CONFIGURATION]
    client._answer(client.asked[0])
    client.move()
    ((_, transfer),) = client.asked
    assert transfer.function == UrbFunction.SELECT_INTERFACE
    selected = settings.InterfaceSelection.parse(transfer.body)
    assert (selected.interface.number, selected.interface.alternate) == (2, 0)
    assert told(client) == [(1, UrbStatus.OK)]
    result = settings.InterfaceResult(2, 0, 0xFF, 0, 0, 2, ()).serialize()
    done = Completion(transfer.request, result=result)
    client.say(FIRST, urbs.completion(0x10, 0, done))
    assert told(client) == [(1, UrbStatus.OK), (2, UrbStatus.OK)]
    assert client.asked[-1][1].function == UrbFunction.BULK_OR_INTERRUPT_TRANSFER
    guest.set_configuration(number, 1, request=3)  # it is selected now
    client.move()
    client._answer(client.asked[-1])
    client.move()
    assert told(client)[-1] == (3, UrbStatus.OK)
    ended = Urb(9, TransferType.ISOCHRONOUS, ISO_IN, 8, packets=(8,))
    guest.submit_urb(number, ended, now=0)  # there is no such endpoint any more
    assert results(client)[9].status is UrbStatus.INVALID


def test_alternate_0_that_cannot_be_selected_fails_the_configuration() -> None:
    """12, last row: the guest would take the device for what it is not."""
    client = Client()
    number = client.use()
    client.guest.set_interface(number, 2, 1)
    client.move()
    client.answers = False
    client.guest.set_configuration(number, 1, request=2)
    client.move()
    client._answer(client.asked[0])
    client.move()
    ((_, transfer),) = client.asked
    done = Completion(transfer.request, usbd=0xC0000004)
    client.say(FIRST, urbs.completion(0x10, 0, done))
    assert told(client) == [(2, UrbStatus.STALL)]
    assert client.closed == []


def test_interface_numbers_with_a_gap_are_selected_as_they_are() -> None:
    """12, both versions: FreeRDP does not manage; the guest learns it, and whoever
    does manage is not harmed."""
    second = bytes.fromhex("0904010001030102 00")
    assert CONFIGURATION.count(second) == 1
    third = bytes.fromhex("0904020000ff000000")
    assert CONFIGURATION.count(third) == 1
    configuration = CONFIGURATION.replace(third, third[:2] + b"\x07" + third[3:])
    client = Client(configuration=configuration)
    client.plug()
    (number,) = client.listed()
    client.answers = False
    client.guest.open_device(number)
    client.guest.set_configuration(number, 1, request=1)
    client.move()
    ((_, transfer),) = client.asked
    found = settings.Configuration.parse(transfer.body)
    assert [i.number for i in found.interfaces] == [0, 1, 2, 7]
    raw = bytearray(RAW["completion_deconfigure"])
    raw[12:16] = transfer.request.to_bytes(4, "little")
    client.say(FIRST, bytes(raw))
    assert told(client) == [(1, UrbStatus.IO_ERROR)]
    assert client.closed == []


def test_select_interface_has_no_output_and_waits_for_a_configuration() -> None:
    """12, both versions: OutputBufferSize 0, and a configuration before it."""
    client = Client()
    client.plug()
    (number,) = client.listed()
    client.guest.open_device(number)
    client.answers = False
    client.guest.set_interface(number, 2, 1, request=1)
    client.move()
    assert client.asked == []
    assert told(client) == [(1, UrbStatus.STALL)]
    client.answers = True
    client.guest.set_configuration(number, 1)
    client.move()
    client.answers = False
    client.guest.set_interface(number, 2, 1)
    client.move()
    ((_, transfer),) = client.asked
    assert (transfer.size, transfer.data) == (0, None)


def test_bulk_before_select_configuration_fails_without_a_reply() -> None:
    """12, both versions: so it is not even sent, and fails at once."""
    client = Client()
    client.plug()
    (number,) = client.listed()
    client.guest.open_device(number)
    assert client.submit(number, read(1), read(2, endpoint=BULK_OUT)) == []
    assert {r.status for r in results(client).values()} == {UrbStatus.INVALID}
    assert set(results(client)) == {1, 2}


def test_bulk_before_select_configuration_is_answered_by_our_client() -> None:
    """12, both versions: a server need not wait for its watchdog."""
    server = Server(INFO)
    server.bind()
    server.say(FIRST, RAW["register_request_callback"])
    server.ask(bulk(1, BULK_IN, 8))
    assert server.completion().hresult == urbs.HResult.INVALID
    assert server.saw(UrbSubmitted) == []


def test_our_client_selects_what_a_server_asks_after_a_configuration() -> None:
    """12, last row, from a server that knows FreeRDP 2.11."""
    server = Server(INFO)
    server.use()
    zero = settings.InterfaceSelection(1, settings.Interface(2, 0, ())).serialize()
    server.say(FIRST, RAW["select_interface"])
    server.ask(Transfer(UrbFunction.SELECT_INTERFACE, 3, zero, 0))
    assert server.saw(AlternateRequested) == [
        AlternateRequested(INFO.id, 2, 1),
        AlternateRequested(INFO.id, 2, 0),
    ]


# ------------------------------------------------- 13: Windows' client ----


def test_the_handshake_is_whole_on_each_channel() -> None:
    """13: mstsc closes a channel of a device that leaves some of it out."""
    client = Client("windows")
    guest = client.guest
    client.say(CONTROL, RAW["add_virtual_channel"])
    guest.channel_opened(FIRST, "URBDRC", now=0)
    sent = [guest.outputs()]
    for answer in ("caps_response", "channel_created_client"):
        guest.receive_data(FIRST, RAW[answer], now=0)
        sent.append(guest.outputs())
    assert [[o.data for o in some if isinstance(o, Send)] for some in sent] == [
        [RAW["caps_request"]],
        [RAW["release_capabilities"], RAW["channel_created_server"]],
        [RAW["release_notification"]],
    ]


def test_usb_device_0_is_called_on_interface_0() -> None:
    """13: it is that of the capabilities, too."""
    client = Client("windows")
    client.use()
    client.guest.submit_urb(client.listed()[0], read(1), now=0)
    (output,) = client.guest.outputs()
    assert isinstance(output, Send)
    message = Message.parse(output.data)
    assert (message.interface, message.mask) == (0, messages.PROXY)


def test_windows_refuses_a_configuration_without_harm() -> None:
    """13: 0x80070057."""
    client = Client("windows")
    number = client.use()
    client.answers = False
    client.guest.set_configuration(number, 1, request=1)
    client.move()
    client.done(client.asked[0], hresult=urbs.HResult.INVALID)
    assert told(client) == [(1, UrbStatus.INVALID)]
    assert client.closed == []


@pytest.mark.parametrize(
    ("hresult", "status"),
    [
        (urbs.HResult.FAILED, UrbStatus.IO_ERROR),
        (urbs.HResult.INVALID, UrbStatus.INVALID),
        (0x8007048F, UrbStatus.IO_ERROR),
    ],
)
@pytest.mark.parametrize("kind", ["bulk", "control"])
def test_failures_of_windows_are_in_hresult(
    kind: str, hresult: int, status: UrbStatus
) -> None:
    """13: UsbdStatus may say nothing."""
    client = Client("windows")
    urb = read(1) if kind == "bulk" else control(1, 0xC0, 1, 0, 0, 16)
    (asked,) = client.submit(client.use(), urb)
    client.done(asked, hresult=hresult)
    assert results(client)[1] == UrbResult(status)


@pytest.mark.parametrize(
    "data", [b"\x10\0\0", RAW["completion_bulk_in"][:30], b"\xff" * 64]
)
def test_what_cannot_be_read_never_ends_the_session(data: bytes) -> None:
    """13: it is logged, the device fails, its channel is closed; others go on."""
    client = Client("windows")
    client.plug()
    other = messages.AddDevice.parse(Message.parse(RAW["add_device_freerdp"]).body)
    head = (messages.SINK, messages.PROXY, 0, messages.Sink.ADD_DEVICE)
    client.plug(3, Message(*head, other.serialize()).serialize())
    first, second = client.listed()
    client.guest.open_device(first)
    client.say(FIRST, data)
    assert client.closed == [FIRST]
    assert client.ignored()
    assert client.listed() == [second]


# ------------------------------------------------- 3: who is spoken to ----


def test_a_release_of_the_interface_for_completions_is_ignored() -> None:
    """13: RIMCALL_RELEASE after requests, of whichever interface."""
    client = Client("windows")
    number = client.use()
    for function in (messages.Function.RELEASE, messages.Function.QUERY_INTERFACE):
        head = (0x10, messages.PROXY, 5, function)
        client.say(FIRST, Message(*head, bytes(16)).serialize())
    assert client.listed() == [number]
    assert "releases an interface" in client.ignored()


def test_a_completion_without_a_mask_ends_the_device() -> None:
    client = Client()
    (asked,) = client.submit(client.use(), read(1))
    raw = bytearray(urbs.completion(0x10, 0, Completion(asked[1].request)))
    raw[3] &= 0x3F
    client.say(FIRST, bytes(raw))
    assert client.closed == [FIRST]
    assert "without a mask" in client.ignored()


def test_a_transfer_without_a_mask_ends_the_device() -> None:
    server = Server(INFO)
    server.use()
    raw = bytearray(urbs.transfer(5, 1, bulk(1, BULK_IN, 8)))
    raw[3] &= 0x3F
    server.say(FIRST, bytes(raw))
    assert server.closed == [FIRST]
    assert server.saw(UrbSubmitted) == []


def test_alternate_0_of_an_interface_that_another_configuration_had() -> None:
    """12, last row: it is not there any more, and nobody misses it."""
    client = Client()
    number = client.use()
    client.guest._devices[number]._moved.add(9)
    client.guest.set_configuration(number, 1, request=1)
    client.move()
    assert told(client) == [(1, UrbStatus.OK)]
    assert client.guest._devices[number]._moved == set()
