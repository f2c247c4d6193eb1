"""A stream of usbredir goes on in another core, in the same state (teleport.md 7)."""

from dataclasses import replace

import pytest

from rusb.errors import ParseError
from rusb.usb.urb import Urb, UrbStatus
from rusb.wire.base import CancelRequested
from rusb.wire.usbredir import UsbredirDeviceSide
from tests.support.wire.redir import (
    BULK,
    BULK_IN,
    BULK_OUT,
    CANCEL,
    DESCRIPTORS,
    INFO,
    INTERRUPT,
    ISO_IN,
    POLLED,
    START_INTERRUPT,
    START_ISO,
    Host,
    bulk,
    control,
    packet,
)

POLL = packet(START_INTERRUPT, 3, bytes([POLLED]))


def cancelled(host: Host) -> list[int]:
    return [e.urb_id for e in host.core.events() if isinstance(e, CancelRequested)]


def other(host: Host) -> Host:
    """A core that goes on where the one of *host* is."""
    found = Host()
    found.core = UsbredirDeviceSide(round_trip=lambda: 0.0)
    found.core.adopt(INFO, DESCRIPTORS, host.core.state())
    found.core.go_on()
    found.send()
    return found


def test_reads_that_wait_are_asked_for_again_elsewhere(host: Host) -> None:
    host.send(bulk(1, BULK_IN, 8), bulk(2, BULK_IN, 16), bulk(3, BULK_OUT, 0, b"abc"))
    first, second, out = host.urbs()
    host.core.recall()
    assert cancelled(host) == [second.id, first.id]
    host.send(bulk(4, BULK_OUT, 0, b"later"))
    assert host.urbs() == []
    for urb in (second, first):
        host.complete(urb, status=UrbStatus.CANCELLED)
    assert not host.core.is_back  # nobody knows whether the device has that
    host.complete(out)
    assert host.core.is_back
    assert [(kind, id) for kind, id, _ in host.answers()] == [(BULK, 3)]
    there = other(host)
    found = [(urb.endpoint, urb.length, bytes(urb.data)) for urb in there.urbs()]
    assert found == [(BULK_IN, 8, b""), (BULK_IN, 16, b""), (BULK_OUT, 5, b"later")]


def test_what_a_read_has_brought_is_not_lost(host: Host) -> None:
    host.send(bulk(1, BULK_IN, 8), bulk(2, BULK_IN, 8))
    first, second = host.urbs()
    host.core.recall()
    host.complete(second, status=UrbStatus.CANCELLED)
    host.complete(first, b"12", status=UrbStatus.CANCELLED)
    ((kind, id, body),) = host.answers()
    assert (kind, id, body[1], body[-2:]) == (BULK, 1, 0, b"12")
    assert [urb.length for urb in other(host).urbs()] == [8]


def test_an_endpoint_is_polled_on_and_its_reports_are_numbered_on(host: Host) -> None:
    host.send(POLL)
    polls = host.urbs()
    list(host.answers())
    host.complete(polls[0], b"a")
    (poll,) = host.urbs()
    host.core.recall()
    assert cancelled(host) == [urb.id for urb in reversed([*polls[1:], poll])]
    host.complete(polls[1], b"b")  # it came before its cancel
    host.complete(polls[2], b"c", status=UrbStatus.CANCELLED)
    for urb in (*polls[3:], poll):
        host.complete(urb, status=UrbStatus.CANCELLED)
    assert host.core.is_back
    assert [(k, id, b[-1:]) for k, id, b in host.answers()] == [
        (INTERRUPT, n, letter) for n, letter in enumerate((b"a", b"b", b"c"))
    ]
    there = other(host)
    urbs = there.urbs()
    assert len(urbs) == len(polls)
    assert {urb.id for urb in urbs}.isdisjoint(urb.id for urb in polls)
    there.complete(urbs[0], b"d")
    assert [(id, body[-1:]) for _, id, body in there.answers()] == [(3, b"d")]


def test_it_goes_on_here_if_it_cannot_there(host: Host) -> None:
    host.send(POLL, bulk(1, BULK_IN, 8), bulk(2, BULK_IN, 8))
    *polls, first, second = host.urbs()
    list(host.answers())
    host.core.recall()
    host.complete(second, status=UrbStatus.CANCELLED)
    for urb in polls[1:]:
        host.complete(urb, status=UrbStatus.CANCELLED)
    host.core.events()
    host.core.go_on()
    again = host.urbs()
    assert [urb.endpoint for urb in again] == [BULK_IN, *[POLLED] * (len(polls) - 1)]
    # these were still on their way back
    host.complete(first, status=UrbStatus.CANCELLED)
    host.complete(polls[0], status=UrbStatus.CANCELLED)
    assert {urb.endpoint for urb in host.urbs()} == {BULK_IN, POLLED}
    assert list(host.answers()) == []
    host.complete(first, b"x")
    host.complete(again[0], b"y")
    assert [id for _, id, _ in host.answers()] == [1, 2]


def test_what_the_guest_cancels_itself_is_cancelled(host: Host) -> None:
    host.send(bulk(1, BULK_IN, 8), packet(CANCEL, 1))
    (urb,) = host.urbs()
    host.core.recall()
    assert cancelled(host) == []
    host.complete(urb, status=UrbStatus.CANCELLED)
    assert [(id, body[1]) for _, id, body in host.answers()] == [(1, 1)]
    assert host.core.is_back


def test_what_cannot_move(host: Host) -> None:
    assert host.core.may_move
    host.send(packet(START_ISO, 4, bytes([ISO_IN, 8, 4])))
    assert not host.core.may_move
    assert not UsbredirDeviceSide().may_move


def test_a_request_that_is_under_way_ends_first(host: Host) -> None:
    host.send(control(1, 0xC0, 4))
    (urb,) = host.urbs()
    host.core.recall()
    assert cancelled(host) == []
    assert not host.core.is_back
    host.complete(urb, b"1234")
    assert host.core.is_back


@pytest.mark.parametrize(
    "changes",
    [
        {"caps": 1 << 20},
        {"configuration": 9},
        {"alternates": {0: 77}},
        {"polled": {BULK_IN: 0}},
        {"polled": {0x8F: 0}},
    ],
)
def test_a_state_that_cannot_be_is_refused(host: Host, changes: dict[str, int]) -> None:
    host.core.recall()
    state = replace(host.core.state(), **changes)  # type: ignore[arg-type]
    with pytest.raises(ParseError):
        UsbredirDeviceSide().adopt(INFO, DESCRIPTORS, state)


def test_urbs_are_as_they_were(host: Host) -> None:
    """Also one whose packet was cut in two by the move."""
    whole = bulk(7, BULK_OUT, 0, b"a long story")
    host.core.recall()
    host.send(whole[:9])
    there = other(host)
    there.send(whole[9:])
    (urb,) = there.urbs()
    assert isinstance(urb, Urb)
    assert bytes(urb.data) == b"a long story"
