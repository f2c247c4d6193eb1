"""A session of vrdpusb goes on in another core (teleport.md 7.11)."""

from dataclasses import replace

import pytest

from rusb.errors import ParseError
from rusb.usb.device import DeviceInfo
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    DevicesListed,
    DevicesRequested,
    Event,
    Send,
    UrbCompleted,
    UrbSubmitted,
)
from rusb.wire.vrdpusb import VrdpUsbDeviceSide, VrdpUsbGuestSide

INFO = DeviceInfo(5, 0x1209, 2)
READ = Urb(1, TransferType.BULK, 0x81, 64)


class Pair:
    """Both ends, after the first list, with the device open."""

    def __init__(self) -> None:
        self.guest, self.client = VrdpUsbGuestSide(), VrdpUsbDeviceSide()
        self.client.channel_opened(3, "vrdpusb", now=0)
        self.devices = [INFO]
        self.guest.channel_opened(3, "vrdpusb", now=0)
        self.run()
        self.guest.open_device(INFO.id)
        self.run()

    def run(self) -> None:
        """Carry messages until there are no more."""
        self.heard: list[Event] = []
        self.asked: list[Event] = []
        while True:
            down = [o.data for o in self.guest.outputs() if isinstance(o, Send)]
            up = [o.data for o in self.client.outputs() if isinstance(o, Send)]
            self.heard += self.guest.events()
            found = self.client.events()
            self.asked += found
            if any(isinstance(event, DevicesRequested) for event in found):
                self.client.announce(self.devices)
            elif not down and not up:
                break
            for data in down:
                self.client.receive_data(3, data, now=0)
            for data in up:
                self.guest.receive_data(3, data, now=0)


def test_urbs_go_on_and_the_list_is_no_news() -> None:
    pair = Pair()
    assert pair.guest.may_move
    state = pair.guest.state()
    assert (state.version, state.opened) == (3, (INFO.id,))
    pair.guest = VrdpUsbGuestSide()
    pair.guest.adopt(3, state, now=0)
    pair.guest.submit_urb(INFO.id, READ, now=0)
    pair.run()
    (urb,) = (e.urb for e in pair.asked if isinstance(e, UrbSubmitted))
    pair.client.complete_urb(INFO.id, urb.id, UrbResult(UrbStatus.OK, b"abc", 3))
    pair.run()
    (done,) = (e for e in pair.heard if isinstance(e, UrbCompleted))
    assert bytes(done.result.data) == b"abc"
    pair.guest.handle_deadline(2.0)  # it asks for the list again
    pair.run()
    assert not any(isinstance(e, DevicesListed) for e in pair.heard)
    pair.devices = []
    pair.guest.handle_deadline(5.0)
    pair.run()
    pair.guest.handle_deadline(8.0)
    pair.run()
    assert pair.guest.state().listed == ()


def test_it_cannot_move_while_something_is_in_flight() -> None:
    pair = Pair()
    assert not VrdpUsbGuestSide().may_move
    pair.guest.submit_urb(INFO.id, READ, now=0)
    assert not pair.guest.may_move


@pytest.mark.parametrize(
    "changes", [{"version": 0}, {"version": 9}, {"opened": (1,)}, {"listed": ()}]
)
def test_a_state_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    state = replace(Pair().guest.state(), **changes)  # type: ignore[arg-type]
    with pytest.raises(ParseError):
        VrdpUsbGuestSide().adopt(3, state, now=0)
