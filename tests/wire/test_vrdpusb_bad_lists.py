"""Device lists of hostile and broken clients (bad-inputs.md, T21, and T42 of names)."""

import struct
import time

import pytest

from rusb.usb.device import DeviceInfo
from rusb.usb.urb import UrbResult, UrbStatus
from rusb.wire import base as wire
from rusb.wire.vrdpusb._codec import MAX_DEVICES, MAX_STRING
from tests.support.wire.joined import messages
from tests.support.wire.vrdp import (
    ID,
    assert_ignored,
    bulk,
    device_list,
    entry,
    make_device,
    make_guest,
    message,
    receive,
)

GOOD, TEXT = entry(ID), b"name\0"


def with_string(offset: int, tail: bytes) -> bytes:
    return entry(7, strings=(0, offset, 0), tail=tail)


BAD_LISTS = {
    "shorter than an entry": entry(7, size=24),
    "one byte": entry(7, size=1),
    "beyond the message": entry(7, size=28),
    "64 KiB": entry(7, size=0xFFFF),
    "cut in the fixed part": entry(7)[:20],
    "cut in next": entry(7)[:3],
    "string beyond the entry": with_string(0xFFFF, TEXT),
    "string just beyond the entry": with_string(30, TEXT),
    "string without end": with_string(25, b"name"),
    "string that ends in the next entry": with_string(25, b"name") + entry(8),
}


@pytest.mark.parametrize("bad", BAD_LISTS.values(), ids=list(BAD_LISTS))
def test_t21_a_list_with_a_bad_entry_leaves_the_one_before(bad: bytes) -> None:
    guest = make_guest(ID)
    assert_ignored(guest, device_list(GOOD, entry(5), bad, end=b""))
    guest.submit_urb(ID, bulk(1), now=0)
    assert len(messages(guest)) == 1
    (listed,) = receive(guest, device_list(GOOD, entry(5)))
    assert isinstance(listed, wire.DevicesListed)


def test_t21_a_next_of_zero_in_the_middle_ends_the_list() -> None:
    guest = make_guest()
    (listed,) = receive(guest, device_list(GOOD, entry(7, size=0), entry(8)))
    assert isinstance(listed, wire.DevicesListed)
    assert [d.id for d in listed.devices] == [ID]


@pytest.mark.parametrize("end", [b"", b"\0", b"\x7f"])
def test_t21_a_missing_terminator_is_tolerated(end: bytes) -> None:
    guest = make_guest()
    (listed,) = receive(guest, device_list(GOOD, end=end))
    assert isinstance(listed, wire.DevicesListed)
    assert [d.id for d in listed.devices] == [ID]


def test_t21_an_empty_body_means_no_devices() -> None:
    guest = make_guest(ID)
    assert receive(guest, message(11)) == [wire.DevicesListed(())]


def test_t21_entries_need_not_be_aligned() -> None:
    odd = [with_string(25, b"a" * n + b"\0") for n in range(1, 4)]
    entries = [o[:2] + struct.pack("<I", i) + o[6:] for i, o in enumerate(odd, 1)]
    (listed,) = receive(make_guest(), device_list(*entries))
    assert isinstance(listed, wire.DevicesListed)
    assert [d.product for d in listed.devices] == ["a", "aa", "aaa"]


TEXTS = [
    (b"", None),
    (b"Ger\xc3\xa4t", "Gerät"),
    (b"\xff\xfebad", "??bad"),
    (b"a\x1b[31mred\x07\x7f\tb", "a[31mred b"),
    ("\u2028line\u202eoverride\x85".encode(), "lineoverride"),
    (b"\x01\x02", None),
    (b"x" * 60000, "x" * MAX_STRING),
    ("€".encode() * 20000, "€" * MAX_STRING),
]


@pytest.mark.parametrize(("raw", "clean"), TEXTS)
def test_t21_t42_strings_are_cleaned_and_capped(raw: bytes, clean: str | None) -> None:
    (listed,) = receive(make_guest(), device_list(with_string(25, raw + b"\0")))
    assert isinstance(listed, wire.DevicesListed)
    assert listed.devices[0].product == clean


def test_t21_strings_may_overlap_and_lie_anywhere_in_the_entry() -> None:
    data = entry(7, strings=(25, 27, 2), tail=b"abcd\0")
    (listed,) = receive(make_guest(), device_list(data))
    assert isinstance(listed, wire.DevicesListed)
    device = listed.devices[0]
    assert (device.manufacturer, device.product) == ("abcd", "cd")


def test_t21_our_client_sends_names_that_fit() -> None:
    long = DeviceInfo(5, 1, 2, 0, 0, 0, 0, 0, "€" * 99999, "\ud800 \0 x\n", "")
    device, guest = make_device(), make_guest(client_flags=1)
    device.announce([long])
    (listed,) = receive(guest, *messages(device))
    assert isinstance(listed, wire.DevicesListed)
    (info,) = listed.devices
    assert info.manufacturer == "€" * MAX_STRING
    assert (info.product, info.serial) == ("  x", None)


@pytest.mark.parametrize("ids", [range(1, 10_001), [7] * 10_001], ids=["all", "one"])
def test_t21_a_list_of_10000_devices_is_ignored(ids: list[int]) -> None:
    guest = make_guest(ID)
    data = device_list(*(entry(i) for i in ids))
    began = time.process_time()
    assert_ignored(guest, data)
    assert time.process_time() - began < 0.5


def test_t21_as_many_devices_as_allowed_are_listed() -> None:
    guest = make_guest()
    entries = [entry(i) for i in range(1, MAX_DEVICES + 1)]
    (listed,) = receive(guest, device_list(*entries))
    assert isinstance(listed, wire.DevicesListed)
    assert len(listed.devices) == MAX_DEVICES
    assert_ignored(guest, device_list(*entries, entry(MAX_DEVICES + 1)))


def test_t21_a_device_that_vanishes_keeps_its_urbs_until_it_is_closed() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    assert receive(guest, device_list()) == [wire.DevicesListed(())]
    guest.close_device(ID)
    cancelled = UrbResult(UrbStatus.CANCELLED)
    assert guest.events() == [wire.UrbCompleted(ID, 1, cancelled)]
