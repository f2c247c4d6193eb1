"""Which messages of MS-RDPEUSB may go before those that wait, and which may not."""

import pytest

from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import DeviceSide, Send, UrbSubmitted
from rusb.wire.rdpeusb import RdpeusbGuestSide
from rusb.wire.rdpeusb import _isochronous as isochronous
from rusb.wire.rdpeusb import _urbs as urbs
from rusb.wire.rdpeusb._messages import Call, Message
from rusb.wire.rdpeusb._urbs import Transfer, UrbFunction
from tests.support.wire.peusb import FIRST, RAW, Client
from tests.support.wire.peusb_server import INFO, Server, bulk

BULK, KEY = 0x81, 0x83


def sent(core: RdpeusbGuestSide | DeviceSide) -> list[tuple[int, str]]:
    """Take what a core sends: functions of messages, and how they may be moved."""
    found = []
    for output in core.outputs():
        assert isinstance(output, Send)
        assert not (output.is_urgent and output.is_fence)
        kind = "fence" if output.is_fence else "urgent" if output.is_urgent else ""
        found.append((Message.parse(output.data).function, kind))
    return found


def read(id: int, endpoint: int) -> Urb:
    kind = TransferType.INTERRUPT if endpoint == KEY else TransferType.BULK
    return Urb(id, kind, endpoint, 8)


def test_interrupt_transfers_are_submitted_and_cancelled_first() -> None:
    client = Client()
    number, guest = client.use(), client.guest
    setup = SetupPacket.get_descriptor(3, 1, 18)
    for urb in (read(1, BULK), read(2, KEY), Urb.control(3, setup)):
        guest.submit_urb(number, urb, now=0)
    transfer = Call.TRANSFER_IN
    assert sent(guest) == [(transfer, ""), (transfer, "urgent"), (transfer, "")]
    for id in (1, 2, 3):
        guest.cancel_urb(number, id)
    cancel = Call.CANCEL
    assert sent(guest) == [(cancel, ""), (cancel, "urgent"), (cancel, "")]


def test_what_is_asked_again_is_as_urgent_as_before() -> None:
    """10.2: FreeRDP gives up reading after ten seconds."""
    client = Client()
    number, guest = client.use(), client.guest
    for id, endpoint, kind in ((1, BULK, ""), (2, KEY, "urgent")):
        (asked,) = client.submit(number, read(id, endpoint))
        done = urbs.Completion(asked[1].request, urbs.LIBUSB_TIMED_OUT)
        message = urbs.completion(0x10, 0, done)
        guest.receive_data(FIRST, message, now=0)
        assert sent(guest) == [(Call.TRANSFER_IN, kind)]


def test_interrupt_transfers_do_not_pass_what_changes_the_device() -> None:
    """Such as the halt that is cleared for them."""
    client = Client()
    number, guest = client.use(), client.guest
    guest.submit_urb(number, read(1, KEY), now=0)
    sent(guest)
    guest.clear_halt(number, KEY)
    assert sent(guest) == [(Call.TRANSFER_IN, "fence")]
    guest.reset_device(number)
    assert sent(guest) == [(Call.CANCEL, "urgent"), (Call.IO_CONTROL, "fence")]
    guest.set_configuration(number, 1)
    assert sent(guest) == [(Call.TRANSFER_IN, "fence")]
    client = Client()
    number, guest = client.use(), client.guest
    guest.set_interface(number, 2, 1)
    assert sent(guest) == [(Call.TRANSFER_IN, "fence")]


@pytest.mark.parametrize("status", [UrbStatus.OK, UrbStatus.STALL, UrbStatus.CANCELLED])
@pytest.mark.parametrize(("endpoint", "wanted"), [(BULK, ""), (KEY, "urgent")])
def test_results_of_interrupt_transfers_go_first(
    endpoint: int, wanted: str, status: UrbStatus
) -> None:
    server = Server(INFO)
    server.use()
    server.ask(bulk(1, endpoint, 8))
    (submitted,) = server.saw(UrbSubmitted)
    result = UrbResult(status)
    if status is UrbStatus.OK:
        result = UrbResult(status, bytes(8), 8)
    server.side.complete_urb(INFO.id, submitted.urb.id, result)
    assert [kind for _, kind in sent(server.side)] == [wanted]


def test_what_is_refused_keeps_the_order_of_its_endpoint() -> None:
    """There is no such endpoint: nothing of it can be on its way."""
    server = Server(INFO)
    server.use()
    server.side.receive_data(FIRST, urbs.transfer(5, 77, bulk(1, 0x8F, 8)), now=0)
    assert [kind for _, kind in sent(server.side)] == [""]


def test_isochronous_transfers_do_not_pass_others() -> None:
    """They may fill the network."""
    server = Server(INFO)
    server.use()
    setting = Transfer(
        UrbFunction.SELECT_INTERFACE, 1, RAW["select_interface"][24:-4], 0
    )
    server.ask(setting)
    iso = isochronous.Iso(0x84, (8,), 7).serialize()
    server.ask(Transfer(UrbFunction.ISOCH_TRANSFER, 2, iso, 8))
    server.side.complete_urb(INFO.id, 2, UrbResult(UrbStatus.OK))
    assert [kind for _, kind in sent(server.side)] == [""]
