"""Reads that are suspended, so that a QEMU with several of them can move (teleport.md
7.9): none is lost, none is doubled, and none waits."""

import struct

import pytest

from rusb.usb.urb import UrbStatus
from rusb.wire.base import CancelRequested
from tests.support.wire.redir import (
    ACK,
    BULK,
    BULK_IN,
    BULK_OUT,
    CANCEL,
    DESCRIPTORS,
    DISCONNECT,
    EP_INFO,
    INFO,
    INTERFACE_INFO,
    INTERRUPT,
    INTERRUPT_STATUS,
    POLLED,
    RESET,
    SET_ALT,
    SET_CONFIGURATION,
    START_INTERRUPT,
    STOP_INTERRUPT,
    SUCCESS,
    Host,
    bulk,
    packet,
)

BULK_KIND, INTERRUPT_KIND = 2, 3


def kind_of(body: bytes, address: int) -> tuple[int, int]:
    """Type and interval of an IN endpoint in an ep_info."""
    index = 16 | address & 15
    return body[index], body[32 + index]


def answer(id: int, data: bytes = b"", status: int = SUCCESS) -> tuple[int, int, bytes]:
    head = struct.pack("<BBHIH", BULK_IN, status, len(data), 0, 0)
    return BULK, id, head + data


def cancels(host: Host) -> list[int]:
    return [e.urb_id for e in host.core.events() if isinstance(e, CancelRequested)]


def test_reads_come_back_and_qemu_keeps_further_ones(host: Host) -> None:
    host.send(bulk(10, BULK_IN, 64), bulk(11, BULK_IN, 64), bulk(12, BULK_OUT, 0, b"x"))
    first, second, out = host.urbs()
    host.core.suspend_reads({BULK_IN})
    assert cancels(host) == [second.id, first.id]

    host.complete(second, status=UrbStatus.CANCELLED)
    assert list(host.answers()) == []  # in order
    host.complete(first, b"abc", UrbStatus.CANCELLED)
    assert list(host.answers()) == [answer(10, b"abc")]
    assert host.core.is_suspending  # it will read again, as it kept two
    host.send(bulk(16, BULK_IN, 64))
    assert host.urbs() == []
    infos = list(host.answers())
    assert infos[2:] == [answer(11), answer(16)]
    assert [kind for kind, _, _ in infos[:2]] == [INTERFACE_INFO, EP_INFO]
    assert kind_of(infos[1][2], BULK_IN) == (INTERRUPT_KIND, 1)
    assert kind_of(infos[1][2], POLLED) == (INTERRUPT_KIND, 4)
    assert not host.core.is_suspending
    assert host.core.waiting_reads() == 0
    host.complete(out)
    assert [id for _, id, _ in host.answers()] == [12]

    host.send(bulk(13, BULK_IN, 64))  # it was on the way
    assert host.urbs() == []
    assert list(host.answers()) == [answer(13)]
    host.send(packet(START_INTERRUPT, 14, bytes([BULK_IN])))
    assert host.urbs() == []
    assert list(host.answers()) == [(INTERRUPT_STATUS, 14, bytes([SUCCESS, BULK_IN]))]
    host.send(packet(STOP_INTERRUPT, 15, bytes([BULK_IN])))
    assert list(host.answers()) == [(INTERRUPT_STATUS, 15, bytes([SUCCESS, BULK_IN]))]


def test_afterwards_it_reads_as_before(host: Host) -> None:
    host.core.suspend_reads({BULK_IN})
    list(host.answers())
    host.core.resume_reads()
    kick, interfaces, endpoints = host.answers()
    assert kick == (INTERRUPT, 0, struct.pack("<BBH", BULK_IN, SUCCESS, 0))
    assert (interfaces[0], endpoints[0]) == (INTERFACE_INFO, EP_INFO)
    assert kind_of(endpoints[2], BULK_IN) == (BULK_KIND, 0)
    host.send(packet(START_INTERRUPT, 20, bytes([BULK_IN])))  # it crossed that
    assert list(host.answers()) == [(INTERRUPT_STATUS, 20, bytes([SUCCESS, BULK_IN]))]
    host.send(bulk(21, BULK_IN, 64))
    (urb,) = host.urbs()
    host.complete(urb, b"data")
    assert list(host.answers()) == [answer(21, b"data")]
    host.core.resume_reads()
    assert list(host.answers()) == []


def test_another_device_on_the_stream_is_polled_at_the_same_address(
    host: Host,
) -> None:
    host.core.suspend_reads({POLLED})
    host.core.resume_reads()
    host.core.announce([])
    host.send(packet(ACK))
    host.core.announce([INFO], {INFO.id: DESCRIPTORS})
    host.send(packet(SET_CONFIGURATION, 30, b"\1"))
    (urb,) = host.urbs()
    host.complete(urb)
    host.send(packet(START_INTERRUPT, 31, bytes([POLLED])))
    assert {urb.endpoint for urb in host.urbs()} == {POLLED}


def test_to_suspend_once_more_says_nothing(host: Host) -> None:
    host.core.suspend_reads({BULK_IN})
    list(host.answers())
    host.core.suspend_reads({BULK_IN})
    assert list(host.answers()) == []


def test_it_does_not_move_to_another_core_meanwhile(host: Host) -> None:
    """Which would know nothing of that, and not resume it."""
    host.core.suspend_reads({BULK_IN})
    assert not host.core.may_move
    host.core.resume_reads()
    assert host.core.may_move


def test_an_endpoint_that_is_not_there_has_no_read_to_end(host: Host) -> None:
    """QEMU would complain about a packet of one that is none."""
    host.core.suspend_reads({0x88})
    list(host.answers())
    host.core.resume_reads()
    assert [kind for kind, _, _ in host.answers()] == [INTERFACE_INFO, EP_INFO]


def test_a_read_that_comes_back_too_late_is_asked_for_again(host: Host) -> None:
    host.send(bulk(10, BULK_IN, 64))
    (urb,) = host.urbs()
    host.core.suspend_reads({BULK_IN})
    host.core.resume_reads()
    list(host.answers())
    host.urbs()
    host.complete(urb, status=UrbStatus.CANCELLED)
    (again,) = host.urbs()
    host.complete(again, b"late")
    assert list(host.answers()) == [answer(10, b"late")]


def test_what_is_held_when_it_is_given_up_is_asked_for_again(host: Host) -> None:
    host.send(bulk(10, BULK_IN, 64), bulk(11, BULK_IN, 64))
    first, second = host.urbs()
    host.core.suspend_reads({BULK_IN})
    host.complete(second, status=UrbStatus.CANCELLED)
    assert host.core.is_suspending
    host.core.resume_reads()
    assert list(host.answers()) == []  # QEMU was told nothing
    (again,) = host.urbs()
    assert again.id == second.id
    host.complete(first, b"a")  # it was too late to come back
    host.complete(again, b"b")
    assert list(host.answers()) == [answer(10, b"a"), answer(11, b"b")]


def test_a_guest_that_stops_reading_meanwhile_is_not_waited_for(host: Host) -> None:
    host.send(bulk(10, BULK_IN, 64), bulk(11, BULK_IN, 64))
    first, second = host.urbs()
    host.core.suspend_reads({BULK_IN})
    host.complete(second, status=UrbStatus.CANCELLED)
    host.send(packet(CANCEL, 11), packet(CANCEL, 10))
    host.complete(first, status=UrbStatus.CANCELLED)
    kinds = [(kind, id) for kind, id, _ in host.answers()]
    assert sorted(kinds) == sorted(
        [(BULK, 11), (BULK, 10), (INTERFACE_INFO, 0), (EP_INFO, 0)]
    )
    assert not host.core.is_suspending


def test_a_guest_that_keeps_fewer_reads_than_it_did(host: Host) -> None:
    """Nothing tells but that it does not read again."""
    host.send(*(bulk(id, BULK_IN, 64) for id in (10, 11, 12)))
    first, *others = host.urbs()
    host.complete(first, b"a")
    list(host.answers())
    assert host.core.held_reads is None
    host.core.suspend_reads({BULK_IN})
    assert host.core.held_reads is None
    for held, urb in enumerate(reversed(others), 1):
        host.complete(urb, status=UrbStatus.CANCELLED)
        assert host.core.held_reads == (held if held == 2 else None)
    assert host.core.is_suspending
    assert list(host.answers()) == []
    host.core.expect_no_reads()
    kinds = [(kind, id) for kind, id, _ in host.answers()]
    assert kinds == [(INTERFACE_INFO, 0), (EP_INFO, 0), (BULK, 11), (BULK, 12)]
    assert not host.core.is_suspending
    assert host.core.held_reads is None
    host.core.resume_reads()
    list(host.answers())

    host.send(bulk(13, BULK_IN, 64), bulk(14, BULK_IN, 64))
    urbs = host.urbs()
    host.core.suspend_reads({BULK_IN})
    for urb in reversed(urbs):
        host.complete(urb, status=UrbStatus.CANCELLED)
    assert not host.core.is_suspending  # it is known to keep two


@pytest.mark.parametrize(
    "end", [packet(RESET), packet(SET_CONFIGURATION, 5, b"\2")], ids=["reset", "select"]
)
def test_what_was_kept_before_a_reset_is_not_waited_for(host: Host, end: bytes) -> None:
    """Another driver may have the device since."""
    host.send(*(bulk(id, BULK_IN, 64) for id in (10, 11, 12)))
    host.urbs()
    host.send(end)
    for urb in host.urbs():
        host.complete(urb)
    host.send(packet(SET_CONFIGURATION, 6, b"\1"))
    for urb in host.urbs():
        host.complete(urb)
    host.send(bulk(13, BULK_IN, 64), bulk(14, BULK_IN, 64))
    first, second = host.urbs()
    host.core.suspend_reads({BULK_IN})
    for urb in (second, first):
        host.complete(urb, status=UrbStatus.CANCELLED)
    assert not host.core.is_suspending


def test_what_the_guest_cancels_meanwhile_is_answered_once(host: Host) -> None:
    host.send(bulk(10, BULK_IN, 64), bulk(11, BULK_IN, 64))
    first, second = host.urbs()
    host.core.suspend_reads({BULK_IN})
    list(host.answers())
    host.send(packet(CANCEL, 10))
    for urb in (second, first):
        host.complete(urb, status=UrbStatus.CANCELLED)
    found = [id for kind, id, _ in host.answers() if kind == BULK]
    assert sorted(found) == [10, 11]
    assert not host.core.is_suspending


def test_only_the_endpoints_that_are_named(host: Host) -> None:
    host.send(bulk(10, BULK_IN, 64))
    (urb,) = host.urbs()
    host.core.suspend_reads({0x88})
    list(host.answers())
    assert cancels(host) == []
    assert host.core.waiting_reads() == 1
    assert host.core.waiting_reads({BULK_IN}) == 0
    host.complete(urb, b"data")
    assert list(host.answers()) == [answer(10, b"data")]


def test_another_alternate_setting_is_described_likewise(host: Host) -> None:
    host.core.suspend_reads({BULK_IN, 0x88})
    list(host.answers())
    host.send(packet(SET_ALT, 5, b"\1\1"))
    (urb,) = host.urbs()
    host.complete(urb)
    (infos,) = (body for kind, _, body in host.answers() if kind == EP_INFO)
    assert kind_of(infos, BULK_IN) == kind_of(infos, 0x88) == (INTERRUPT_KIND, 1)


def test_a_device_that_left_is_not_there_to_be_resumed(host: Host) -> None:
    host.core.suspend_reads({BULK_IN})
    list(host.answers())
    host.core.announce([])
    assert [kind for kind, _, _ in host.answers()] == [DISCONNECT]
    host.core.resume_reads()
    host.core.suspend_reads({BULK_IN})
    host.send(packet(ACK))
    assert list(host.answers()) == []
