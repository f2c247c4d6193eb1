"""Isochronous transfers over MS-RDPEUSB (rdpeusb.md 10.3), and what none can carry."""

import pytest

from rusb.usb.types import TransferType
from rusb.usb.urb import IsoPacket, Urb, UrbResult, UrbStatus
from rusb.wire.rdpeusb import _isochronous as isochronous
from rusb.wire.rdpeusb import _urbs as urbs
from tests.support.wire.peusb import (
    FIRST,
    ISO_IN,
    ISO_OUT,
    RAW,
    Client,
    read,
    results,
)


def iso(id: int, *packets: int, endpoint: int = ISO_IN) -> Urb:
    data = b"" if endpoint & 0x80 else bytes(range(sum(packets)))
    kind = TransferType.ISOCHRONOUS
    return Urb(id, kind, endpoint, sum(packets), data, packets=packets)


def with_iso() -> tuple[Client, int]:
    client = Client()
    number = client.use()
    client.guest.set_interface(number, 2, 1)
    client.move()
    return client, number


@pytest.mark.parametrize("name", ["completion_iso_in", "completion_iso_in_freerdp2"])
def test_isochronous_data_are_cut_by_the_list_of_packets(name: str) -> None:
    """10.3, 12: FreeRDP 2.11 sends the whole buffer."""
    client, number = with_iso()
    (asked,) = client.submit(number, iso(1, 16, 16, 16, 16))
    raw = bytearray(RAW[name])
    raw[12:16] = asked[1].request.to_bytes(4, "little")
    client.say(FIRST, bytes(raw))
    result = results(client)[1]
    assert [p.length for p in result.packets] == [14, 0, 14, 14]
    assert (result.status, result.length, len(result.data)) == (UrbStatus.OK, 42, 42)
    assert bytes(result.data[14:16]) == b"01"


@pytest.mark.parametrize("name", ["completion_iso_out", "completion_iso_out_freerdp2"])
def test_isochronous_output_counts_its_packets(name: str) -> None:
    """10.3, 12: FreeRDP 2.11 reports 0 bytes."""
    client, number = with_iso()
    (asked,) = client.submit(number, iso(1, 16, 16, 16, 16, endpoint=ISO_OUT))
    raw = bytearray(RAW[name])
    raw[12:16] = asked[1].request.to_bytes(4, "little")
    client.say(FIRST, bytes(raw))
    assert results(client)[1].length == 64


def test_packets_of_unequal_length_go_in_transfers_of_their_own() -> None:
    """10.3: FreeRDP divides the buffer equally."""
    client, number = with_iso()
    asked = client.submit(number, iso(1, 8, 8, 16, 8, endpoint=ISO_OUT))
    assert [bytes(t.data or b"") for _, t in asked] == [
        *(bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 40))),
    ]
    for one, lengths in zip(list(asked), ([8, 8], [16], [8]), strict=True):
        packets = [IsoPacket(length) for length in lengths]
        done = urbs.Completion(
            one[1].request, result=isochronous.serialize_result(0, packets)
        )
        client.say(FIRST, urbs.completion(0x10, 0, done))
    result = results(client)[1]
    assert (result.status, result.length) == (UrbStatus.OK, 40)
    assert [p.length for p in result.packets] == [8, 8, 16, 8]


def test_an_isochronous_transfer_without_a_reply_times_out() -> None:
    """10.3: FreeRDP does not reply to a stall there."""
    client, number = with_iso()
    client.submit(number, iso(1, 16, 16), iso(2, 0), iso(3))
    client.wait(6)
    result = results(client)[1]
    assert result.status is UrbStatus.TIMEOUT
    assert len(result.packets) == 2
    assert results(client)[3].status is UrbStatus.INVALID


@pytest.mark.parametrize("usbd", [3, 0xC0010000])
def test_a_cancelled_isochronous_transfer_may_tell_of_no_packet(usbd: int) -> None:
    """It costs the packets, not the device."""
    client, number = with_iso()
    (asked,) = client.submit(number, iso(1, 16, 16))
    client.guest.cancel_urb(number, 1)
    done = urbs.Completion(
        asked[1].request, usbd, result=isochronous.serialize_result(0, ())
    )
    client.say(FIRST, urbs.completion(0x10, 0, done))
    result = results(client)[1]
    assert result.status is UrbStatus.CANCELLED
    assert [p.status for p in result.packets] == [UrbStatus.CANCELLED] * 2
    assert client.closed == []


@pytest.mark.parametrize("usbd", [3, 0xC0010000])
def test_what_a_cancelled_isochronous_transfer_tells_is_kept(usbd: int) -> None:
    client, number = with_iso()
    (asked,) = client.submit(number, iso(1, 16, 16))
    client.guest.cancel_urb(number, 1)
    packets = IsoPacket(2), IsoPacket(0, UrbStatus.CANCELLED)
    told = isochronous.serialize_result(0, packets)
    done = urbs.Completion(asked[1].request, usbd, 0, 2, b"ab", told)
    client.say(FIRST, urbs.completion(0x10, 0, done))
    expected = UrbResult(UrbStatus.CANCELLED, b"ab", 2, packets)
    assert results(client)[1] == expected


def test_what_cannot_be_carried_completes_invalid() -> None:
    client = Client()
    number = client.use()
    client.submit(number, read(1, urbs.MAX_SIZE + 1), read(2, 8, 0x8F), iso(3, 8))
    done = {i: r.status for i, r in results(client).items()}
    assert done == dict.fromkeys((1, 2, 3), UrbStatus.INVALID)
    client.guest.cancel_urb(99, 1)
