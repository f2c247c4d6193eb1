"""How long the guest side of MS-RDPEUSB waits for what (rdpeusb.md 11)."""

import pytest

from rusb.usb.urb import UrbResult, UrbStatus
from rusb.wire.base import (
    RequestCompleted,
)
from rusb.wire.rdpeusb._messages import Call
from tests.support.wire.peusb import (
    BULK_IN,
    FIRST,
    INTERRUPT,
    Client,
    calls,
    control,
    read,
    results,
)


def test_a_control_request_that_the_guest_waits_for_is_no_expiry() -> None:
    """11: nor is anything else meanwhile, for the client handles nothing else (2.8)."""
    client = Client()
    number = client.use()
    client.submit(number, control(1, 0xC0, 9, 0, 0, 64), *(read(n) for n in (2, 3, 4)))
    for n in (2, 3, 4):
        client.guest.cancel_urb(number, n)
        client.wait(3)
    assert client.closed == []
    ((_, transfer),) = [a for a in client.asked if a[1].size == 64]
    client.done((FIRST, transfer), bytes(64))
    assert results(client)[1].status is UrbStatus.OK
    assert {results(client)[n].status for n in (2, 3, 4)} == {UrbStatus.CANCELLED}


def test_a_mouse_that_nobody_moves_has_all_the_time() -> None:
    client = Client("windows")
    number = client.use()
    (asked,) = client.submit(number, read(1, 8, INTERRUPT))
    client.wait(100_000)
    client.done(asked, b"moved")
    assert results(client)[1].data == b"moved"


def test_a_control_transfer_that_is_lost_ends_some_time() -> None:
    client = Client()
    client.submit(client.use(), control(1, 0xC0, 9, 0, 0, 64))
    client.wait(299)
    assert results(client) == {}
    client.wait(2)
    assert results(client)[1].status is UrbStatus.TIMEOUT
    assert len(calls(client, Call.CANCEL)) == 1
    assert client.closed == []


def test_three_expiries_in_a_row_end_the_device() -> None:
    client = Client()
    number = client.use()
    for n in range(3):
        assert client.closed == []
        client.submit(number, read(n))
        client.guest.cancel_urb(number, n)
        client.guest.cancel_urb(number, n)
        client.wait(3)
    assert len(calls(client, Call.CANCEL)) == 3
    assert client.closed == [FIRST]
    assert client.listed() == []


def test_a_completion_in_between_is_a_sign_of_life() -> None:
    client = Client()
    number = client.use()
    for n in range(0, 10, 2):
        client.submit(number, read(n))
        client.guest.cancel_urb(number, n)
        client.wait(3)
        (asked,) = client.submit(number, read(n + 1))
        client.done(asked, b"")
    client.asked.clear()
    assert client.closed == []


@pytest.mark.parametrize("what", ["configuration", "setting", "halt", "reset"])
def test_requests_without_an_answer_time_out(what: str) -> None:
    client = Client()
    number = client.use()
    client.answers = False
    guest = client.guest
    match what:
        case "configuration":
            guest.set_configuration(number, 1, request=1)
        case "setting":
            guest.set_interface(number, 2, 1, request=1)
        case "halt":
            guest.clear_halt(number, BULK_IN, request=1)
        case _:
            guest.reset_device(number, request=1)
    client.wait(16)
    assert client.saw(RequestCompleted)[0].status is UrbStatus.TIMEOUT


def test_a_late_completion_of_what_was_given_up_is_ignored() -> None:
    client = Client()
    number = client.use()
    (asked,) = client.submit(number, read(1))
    client.guest.cancel_urb(number, 1)
    client.wait(3)
    client.done(asked, b"late")
    assert results(client)[1] == UrbResult(UrbStatus.CANCELLED)
    assert "nobody waits" in client.ignored()


def test_a_reset_waits_for_nothing_but_its_confirmation() -> None:
    client = Client()
    number = client.use()
    client.submit(number, read(1), read(2))
    client.guest.cancel_urb(number, 1)
    client.guest.reset_device(number)
    client.move()
    assert {r.status for r in results(client).values()} == {UrbStatus.CANCELLED}
    assert len(calls(client, Call.CANCEL)) == 2
