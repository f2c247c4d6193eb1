"""Which messages of vrdpusb may go before those that wait, and which may not."""

import struct
from typing import TypeVar

import pytest

from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import Send
from rusb.wire.vrdpusb import VrdpUsbDeviceSide, VrdpUsbGuestSide
from tests.support.wire.vrdp import (
    CHANNEL,
    ID,
    bulk,
    make_device,
    make_guest,
    message,
    submit,
)

Core = TypeVar("Core", VrdpUsbGuestSide, VrdpUsbDeviceSide)
BULK, INTERRUPT = 2, 3


def sent(core: VrdpUsbGuestSide | VrdpUsbDeviceSide) -> list[tuple[int, str]]:
    """Take what a core sends: codes of messages, and how they may be moved."""
    found = []
    for output in core.outputs():
        assert isinstance(output, Send)
        assert not (output.is_urgent and output.is_fence)
        kind = "fence" if output.is_fence else "urgent" if output.is_urgent else ""
        found.append((output.data[4], kind))
    return found


def key(id: int, *, endpoint: int = 0x82) -> Urb:
    return Urb(
        id, TransferType.INTERRUPT, endpoint, 8, b"" if endpoint & 0x80 else b"8"
    )


def test_interrupt_transfers_are_submitted_and_cancelled_first() -> None:
    guest = make_guest(ID)
    setup = SetupPacket.get_descriptor(3, 1, 18)
    for urb in (bulk(1), key(2), Urb.control(3, setup)):
        guest.submit_urb(ID, urb, now=0)
    assert sent(guest) == [(7, ""), (7, "urgent"), (7, "")]
    for number in (1, 2, 3):
        guest.cancel_urb(ID, number)
    assert sent(guest) == [(10, ""), (10, "urgent"), (10, "")]


def test_cancels_of_a_reset_keep_behind_what_they_cancel() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    guest.submit_urb(ID, key(2), now=0)
    sent(guest)
    guest.reset_device(ID)
    assert sent(guest) == [(10, ""), (10, "urgent"), (2, "fence")]


def test_interrupt_transfers_do_not_pass_what_changes_the_device() -> None:
    """Such as the configuration whose endpoint they are for."""
    guest = make_guest(ID)
    guest.set_configuration(ID, 1)
    guest.claim_interface(ID, 0)
    guest.set_interface(ID, 0, 1)
    guest.clear_halt(ID, 0x82)
    guest.release_interface(ID, 0)
    guest.close_device(ID)
    guest.open_device(ID)
    assert [kind for _, kind in sent(guest)] == 7 * ["fence"]


@pytest.mark.parametrize("status", [UrbStatus.OK, UrbStatus.STALL])
@pytest.mark.parametrize(("kind", "wanted"), [(BULK, ""), (INTERRUPT, "urgent")])
def test_results_of_interrupt_transfers_go_first(
    kind: int, wanted: str, status: UrbStatus
) -> None:
    device = make_device(ID)
    device.receive_data(CHANNEL, submit(1, kind=kind, direction=0), now=0)
    data = bytes(8) if status is UrbStatus.OK else b""
    device.complete_urb(ID, 1, UrbResult(status, data, len(data)))
    assert sent(device) == [(8, wanted)]


@pytest.mark.parametrize(("kind", "wanted"), [(BULK, ""), (INTERRUPT, "urgent")])
def test_refusals_keep_the_order_of_their_endpoint(kind: int, wanted: str) -> None:
    device = make_device(ID)
    device.receive_data(CHANNEL, submit(1, kind=kind, endpoint=77), now=0)
    assert sent(device) == [(8, wanted)]
    device.receive_data(CHANNEL, submit(2, kind=kind, direction=0), now=0)
    device.receive_data(CHANNEL, message(10, struct.pack("<II", ID, 2)), now=0)
    device.complete_urb(ID, 2, UrbResult(UrbStatus.CANCELLED))
    assert sent(device) == [(8, wanted)]
