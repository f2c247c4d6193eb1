"""The guest side of usbredir: what it asks, and hosts that are hostile (T30)."""

import struct

import pytest

from rusb.errors import LocalProtocolError, RemoteProtocolError
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import IsoPacket, Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    AlternateRequested,
    CancelRequested,
    DeviceFailed,
    DevicesListed,
    Ignored,
    RequestCompleted,
    UrbCompleted,
    UrbSubmitted,
)
from rusb.wire.usbredir import UsbredirDeviceSide, UsbredirGuestSide
from rusb.wire.usbredir import _codec as codec
from rusb.wire.usbredir import _guest as guest_side
from tests.support.wire.joined import Answer, Joined, clear, echo
from tests.support.wire.redir import (
    ACK,
    ALT_STATUS,
    BUFFERED,
    BULK,
    BULK_IN,
    BULK_OUT,
    BULK_STATUS,
    CANCEL,
    CAPS,
    CONFIGURATION_STATUS,
    CONNECT,
    CONTROL,
    DESCRIPTORS,
    DISCONNECT,
    EP_INFO,
    GET_ALT,
    GET_CONFIGURATION,
    INFO,
    INTERRUPT,
    INTERRUPT_STATUS,
    INVAL,
    IOERROR,
    ISO,
    ISO_IN,
    ISO_OUT,
    ISO_STATUS,
    POLLED,
    REPORTS,
    RESET,
    SET_ALT,
    SET_CONFIGURATION,
    STALL,
    START_INTERRUPT,
    START_ISO,
    STOP_INTERRUPT,
    STOP_ISO,
    STREAMS_STATUS,
    SUCCESS,
    bulk,
    hello,
    live,
    packet,
    packets_of,
)

DEVICE = guest_side.DEVICE

CONNECTED = packet(CONNECT, 0, struct.pack("<BBBBHHH", 2, 0xFF, 0, 0, 0x1209, 1, 0x100))
GONE = packet(DISCONNECT)


def endpoints() -> bytes:
    """ep_info of the endpoints that tests use."""
    types = bytearray(b"\xff" * 32)
    for address, kind in (
        *((BULK_IN, 2), (BULK_OUT, 2), (POLLED, 3), (REPORTS, 3)),
        *((ISO_IN, 1), (ISO_OUT, 1), (0x00, 0), (0x80, 0)),
    ):
        types[codec.endpoint_index(address)] = kind
    return packet(EP_INFO, 0, bytes(types) + bytes(128))


def transfer(
    id: int, kind: TransferType, endpoint: int, length: int = 0, data: bytes = b""
) -> Urb:
    return Urb(id, kind, endpoint, length or len(data), data)


def isochronous(id: int, endpoint: int, *packets: int, data: bytes = b"") -> Urb:
    kind = TransferType.ISOCHRONOUS
    return Urb(id, kind, endpoint, sum(packets), data, packets=packets)


class Guest:
    """The guest side with a connected device; the host is made by hand."""

    def __init__(self) -> None:
        self.core = UsbredirGuestSide()
        self.core.channel_opened(0, "", now=0)
        self.send(hello(), endpoints(), CONNECTED)
        (listed,) = [e for e in self.core.events() if isinstance(e, DevicesListed)]
        (self.info,) = listed.devices
        clear(self.core)

    def send(self, *packets: bytes) -> None:
        self.core.receive_data(0, b"".join(packets), now=0)

    def submit(self, *urbs: Urb) -> list[tuple[int, int, bytes]]:
        """Submit, and return what is sent."""
        for urb in urbs:
            self.core.submit_urb(DEVICE, urb, now=0)
        return self.sent()

    def sent(self) -> list[tuple[int, int, bytes]]:
        return list(packets_of(self.core))

    def done(self) -> list[tuple[int, UrbStatus, bytes]]:
        self.events = self.core.events()
        return [
            (e.urb_id, e.result.status, bytes(e.result.data))
            for e in self.events
            if isinstance(e, UrbCompleted)
        ]


@pytest.fixture
def guest() -> Guest:
    return Guest()


class Both(Joined):
    """Both cores, with a device that is configured."""

    def __init__(self, answer: Answer = echo) -> None:
        super().__init__(
            *(UsbredirGuestSide(), UsbredirDeviceSide(), INFO),
            descriptors={INFO.id: DESCRIPTORS},
            channel=0,
        )
        self.guest.set_configuration(DEVICE, 1)
        self.move()
        self.forget()
        self.answer = answer


# ------------------------------------------------------------- requests ----


def test_a_named_request_completes_with_the_hosts_answer(guest: Guest) -> None:
    core = guest.core
    core.set_configuration(DEVICE, 2, request=11)
    core.set_interface(DEVICE, 0, 1, request=12)
    core.clear_halt(DEVICE, BULK_IN, request=13)
    core.set_configuration(DEVICE, 1)  # nobody waits for this one
    configuration, setting, halt, other = (id for _, id, _ in guest.sent())
    assert core.events() == []
    cleared = struct.pack("<BBBBHHH", 0, 1, 2, IOERROR, 0, BULK_IN, 0)
    guest.send(
        packet(CONFIGURATION_STATUS, configuration, bytes((INVAL, 0))),
        packet(ALT_STATUS, setting, bytes((SUCCESS, 0, 1))),
        packet(CONTROL, halt, cleared),
        packet(CONFIGURATION_STATUS, other, bytes((SUCCESS, 1))),
        packet(CONFIGURATION_STATUS, configuration, bytes((SUCCESS, 1))),  # again
    )
    assert core.events() == [
        RequestCompleted(DEVICE, 11, UrbStatus.STALL),
        RequestCompleted(DEVICE, 12, UrbStatus.OK),
        RequestCompleted(DEVICE, 13, UrbStatus.IO_ERROR),
    ]


@pytest.mark.parametrize(
    ("setup", "kind", "body"),
    [
        (SetupPacket.set_configuration(1), SET_CONFIGURATION, b"\1"),
        (SetupPacket(0x80, 8, 0, 0, 1), GET_CONFIGURATION, b""),
        (SetupPacket.set_interface(1, 2), SET_ALT, b"\1\2"),
        (SetupPacket(0x81, 10, 0, 1, 1), GET_ALT, b"\1"),
        (
            *(SetupPacket.clear_halt(BULK_IN), CONTROL),
            struct.pack("<BBBBHHH", 0, 1, 2, 0, 0, BULK_IN, 0),
        ),
    ],
)
def test_standard_requests_have_packets_of_their_own(  # 7
    guest: Guest, setup: SetupPacket, kind: int, body: bytes
) -> None:
    assert guest.submit(Urb.control(1, setup)) == [(kind, 1, body)]


def test_an_address_is_nobody_elses_business(guest: Guest) -> None:
    assert guest.submit(Urb.control(1, SetupPacket(0, 5, 7))) == []
    assert guest.done() == [(1, UrbStatus.OK, b"")]


@pytest.mark.parametrize(
    ("setup", "answer"),
    [
        (SetupPacket(0x80, 8, 0, 0, 1), (CONFIGURATION_STATUS, b"\0\1")),
        (SetupPacket(0x81, 10, 0, 1, 1), (ALT_STATUS, b"\0\1\1")),
    ],
)
def test_what_is_selected_is_told_in_a_byte(
    guest: Guest, setup: SetupPacket, answer: tuple[int, bytes]
) -> None:
    ((_, id, _),) = guest.submit(Urb.control(1, setup))
    guest.send(packet(answer[0], id, answer[1]))
    assert guest.done() == [(1, UrbStatus.OK, b"\1")]


def test_a_setting_succeeds_or_stalls(guest: Guest) -> None:
    urbs = [
        Urb.control(1, SetupPacket.set_configuration(1)),
        Urb.control(2, SetupPacket.set_configuration(2)),
        Urb.control(3, SetupPacket.set_interface(0, 1)),
    ]
    first, second, third = (id for _, id, _ in guest.submit(*urbs))
    guest.send(packet(CONFIGURATION_STATUS, first, bytes((SUCCESS, 1))))
    guest.send(packet(CONFIGURATION_STATUS, second, bytes((IOERROR, 1))))
    guest.send(packet(ALT_STATUS, third, bytes((INVAL, 0, 0xFF))))
    assert guest.done() == [
        *((1, UrbStatus.OK, b""), (2, UrbStatus.STALL, b"")),
        (3, UrbStatus.STALL, b""),
    ]


def test_a_transfer_that_does_not_fit_its_endpoint_is_not_sent(guest: Guest) -> None:
    sent = guest.submit(
        transfer(1, TransferType.BULK, POLLED, 8),
        transfer(2, TransferType.INTERRUPT, 0x8F, 8),
        transfer(3, TransferType.BULK, BULK_IN, codec.MAX_LENGTH),
        transfer(4, TransferType.BULK, BULK_IN, 8),
        transfer(4, TransferType.BULK, BULK_IN, 8),  # its id is in flight
    )
    assert [kind for kind, _, _ in sent] == [BULK]
    invalid = UrbStatus.INVALID
    assert guest.done() == [(i, invalid, b"") for i in (1, 2, 3, 4)]


def test_without_lengths_of_32_bits_a_bulk_header_is_short() -> None:
    core = UsbredirGuestSide()
    core.channel_opened(0, "", now=0)
    core.receive_data(0, hello(CAPS & ~64) + endpoints() + CONNECTED, now=0)
    core.submit_urb(DEVICE, transfer(1, TransferType.BULK, BULK_IN, 512), now=0)
    ((_, id, body),) = packets_of(core)
    assert body == struct.pack("<BBHI", BULK_IN, 0, 512, 0)
    answer = struct.pack("<BBHI", BULK_IN, 0, 2, 0) + b"ok"
    core.receive_data(0, packet(BULK, id, answer), now=0)
    (done,) = [e.result for e in core.events() if isinstance(e, UrbCompleted)]
    assert bytes(done.data) == b"ok"


# -------------------------------------------------------------- streams ----


def test_the_first_read_of_a_polled_endpoint_starts_it(guest: Guest) -> None:
    sent = guest.submit(
        *(transfer(i, TransferType.INTERRUPT, POLLED, 8) for i in (1, 2))
    )
    assert sent == [(START_INTERRUPT, 0, bytes((POLLED,)))]
    guest.send(packet(INTERRUPT_STATUS, 0, bytes((SUCCESS, POLLED))))
    for n, text in enumerate((b"one", b"two", b"three")):
        guest.send(live(INTERRUPT, POLLED, text, id=n))
    assert guest.done() == [(1, UrbStatus.OK, b"one"), (2, UrbStatus.OK, b"two")]
    assert guest.submit(transfer(3, TransferType.INTERRUPT, POLLED, 8)) == []
    assert guest.done() == [(3, UrbStatus.OK, b"three")]  # it waited


def test_a_report_goes_out_and_is_answered(guest: Guest) -> None:
    ((kind, id, body),) = guest.submit(
        transfer(1, TransferType.INTERRUPT, REPORTS, data=b"report")
    )
    assert (kind, body) == (INTERRUPT, struct.pack("<BBH", REPORTS, 0, 6) + b"report")
    head = struct.pack("<BBH", REPORTS, SUCCESS, 6)
    guest.send(packet(INTERRUPT, id, head))
    (done,) = [e for e in guest.core.events() if isinstance(e, UrbCompleted)]
    assert done.result == UrbResult(UrbStatus.OK, b"", 6)


def test_what_nobody_reads_is_bounded(guest: Guest) -> None:
    guest.submit(transfer(1, TransferType.INTERRUPT, POLLED, 8))
    for n in range(guest_side.MAX_BUFFERED + 100):
        guest.send(live(INTERRUPT, POLLED, b"x", id=n))
    for i in range(2, guest_side.MAX_BUFFERED + 10):
        guest.submit(transfer(i, TransferType.INTERRUPT, POLLED, 8))
    assert len(guest.done()) == 1 + guest_side.MAX_BUFFERED


def test_the_bytes_that_nobody_reads_are_bounded(  # T30
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_side, "MAX_BYTES_BUFFERED", 100)
    guest.submit(transfer(1, TransferType.INTERRUPT, POLLED, 8))
    for n in range(30):
        guest.send(live(INTERRUPT, POLLED, bytes(8), id=n))
    for i in range(2, 14):
        guest.submit(transfer(i, TransferType.INTERRUPT, POLLED, 8))
    assert len(guest.done()) == 1 + 12
    for n in range(30):  # what was read has made room
        guest.send(live(INTERRUPT, POLLED, bytes(8), id=n))
    for i in range(20, 50):
        guest.submit(transfer(i, TransferType.INTERRUPT, POLLED, 8))
    assert len(guest.done()) == 12


@pytest.mark.parametrize(
    ("status", "becomes", "goes_on"),
    [
        (STALL, UrbStatus.STALL, False),
        (IOERROR, UrbStatus.IO_ERROR, True),
        (99, UrbStatus.IO_ERROR, True),
    ],
)
@pytest.mark.parametrize("is_iso", [False, True])
def test_only_a_stall_ends_a_stream(  # 10
    guest: Guest, status: int, becomes: UrbStatus, goes_on: bool, is_iso: bool
) -> None:
    def read(id: int) -> Urb:
        if is_iso:
            return isochronous(id, ISO_IN, 8)
        return transfer(id, TransferType.INTERRUPT, POLLED, 8)

    endpoint = ISO_IN if is_iso else POLLED
    kind, code = (
        (START_ISO, ISO_STATUS) if is_iso else (START_INTERRUPT, INTERRUPT_STATUS)
    )
    guest.submit(read(1))
    guest.send(packet(code, 0, bytes((status, endpoint))))
    guest.send(packet(code, 0, bytes((status, 0x8F))))  # none of ours
    assert guest.done() == [(1, becomes, b"")]
    started = [sent[0] for sent in guest.submit(read(2))]
    assert started == ([] if goes_on else [kind])


def test_a_cancelled_read_of_a_stream_is_free_at_once(guest: Guest) -> None:
    guest.submit(*(transfer(i, TransferType.INTERRUPT, POLLED, 8) for i in (1, 2)))
    guest.core.cancel_urb(DEVICE, 1)
    assert guest.sent() == []
    assert guest.done() == [(1, UrbStatus.CANCELLED, b"")]
    guest.send(live(INTERRUPT, POLLED, b"x"))
    assert guest.done() == [(2, UrbStatus.OK, b"x")]


@pytest.mark.parametrize("by_urb", [False, True])
def test_a_configuration_stops_the_streams_first(guest: Guest, by_urb: bool) -> None:
    guest.submit(
        transfer(1, TransferType.INTERRUPT, POLLED, 8), isochronous(2, ISO_IN, 8)
    )
    if by_urb:
        guest.core.submit_urb(
            DEVICE, Urb.control(3, SetupPacket.set_configuration(1)), now=0
        )
    else:
        guest.core.set_configuration(DEVICE, 1)
    sent = guest.sent()
    assert [(kind, body) for kind, _, body in sent] == [
        *((STOP_INTERRUPT, bytes((POLLED,))), (STOP_ISO, bytes((ISO_IN,)))),
        (SET_CONFIGURATION, b"\1"),
    ]
    cancelled = UrbStatus.CANCELLED
    assert guest.done() == [(1, cancelled, b""), (2, cancelled, b"")]


def test_isochronous_reads_take_as_many_packets_as_they_have(guest: Guest) -> None:
    sent = guest.submit(isochronous(1, ISO_IN, 4, 4))
    assert [(kind, body[0]) for kind, _, body in sent] == [(START_ISO, ISO_IN)]
    guest.send(live(ISO, ISO_IN, b"12345"))
    assert guest.done() == []
    guest.send(live(ISO, ISO_IN, b"", id=1, status=IOERROR))
    (event,) = [e for e in guest.core.events() if isinstance(e, UrbCompleted)]
    parts = (IsoPacket(4), IsoPacket(0, UrbStatus.IO_ERROR))
    assert event.result == UrbResult(UrbStatus.OK, b"1234", 4, parts)


def test_isochronous_writes_are_done_when_they_are_sent(guest: Guest) -> None:
    sent = guest.submit(isochronous(1, ISO_OUT, 2, 0, 1, data=b"abc"))
    sent += guest.submit(isochronous(2, ISO_OUT, 1, data=b"d"))
    assert [(kind, body) for kind, _, body in sent[1:]] == [
        (ISO, struct.pack("<BBH", ISO_OUT, 0, len(part)) + part)
        for part in (b"ab", b"", b"c", b"d")
    ]
    assert (sent[0][0], sent[0][2][0]) == (START_ISO, ISO_OUT)
    first, second = (
        e.result for e in guest.core.events() if isinstance(e, UrbCompleted)
    )
    assert (first.status, first.length, [p.length for p in first.packets]) == (
        *(UrbStatus.OK, 3, [2, 0, 1]),
    )
    assert second.length == 1


def test_isochronous_streams_between_both_ends() -> None:
    def source(urb: Urb) -> UrbResult | None:
        if not urb.packets or len(played) > 64:
            return echo(urb)
        played.append(urb)
        if not urb.is_in:
            return UrbResult(UrbStatus.OK, b"", urb.length)
        if len(played) > 8:
            return None
        data = b"".join(bytes((n,)) * 2 for n in range(len(urb.packets)))
        parts = tuple(IsoPacket(2) for _ in urb.packets)
        return UrbResult(UrbStatus.OK, data, len(data), parts)

    played: list[Urb] = []
    both = Both(source)
    size = guest_side.ISO_PACKETS
    result = both.run(DEVICE, isochronous(1, ISO_IN, *[192] * size))
    assert bytes(result.data) == b"".join(bytes((n, n)) for n in range(size))
    assert [p.length for p in result.packets] == [2] * size
    played.clear()
    for n in range(2, 10):
        both.run(DEVICE, isochronous(n, ISO_OUT, *[3] * size, data=b"abc" * size))
    outs = [urb for urb in played if not urb.is_in]
    assert {bytes(urb.data) for urb in outs} == {b"abc" * size}
    assert len(outs) == 8
    both.forget()
    both.guest.close_device(DEVICE)
    both.move()
    assert both.device_saw(CancelRequested)
    kinds = [struct.unpack_from("<I", message)[0] for message in both.sent]
    assert kinds == [STOP_ISO, STOP_ISO]


def test_a_setting_between_both_ends() -> None:
    both = Both()
    both.guest.set_interface(DEVICE, 1, 1)
    both.move()
    (urb,) = [e.urb for e in both.device_saw(UrbSubmitted)]
    assert urb.setup == SetupPacket.set_interface(1, 1)
    assert both.device_saw(AlternateRequested) == []  # it is a URB
    result = both.run(DEVICE, transfer(1, TransferType.BULK, 0x88, 4))
    assert bytes(result.data) == b"\0\1\2\3"


# ----------------------------------------------- hosts that do as they like ----


def test_more_than_was_asked_for_is_babble(guest: Guest) -> None:
    ((_, id, _),) = guest.submit(transfer(1, TransferType.BULK, BULK_IN, 4))
    guest.send(bulk(id, BULK_IN, data=bytes(600)))
    assert guest.done() == [(1, UrbStatus.OVERFLOW, bytes(4))]
    guest.submit(transfer(2, TransferType.INTERRUPT, POLLED, 2))
    guest.send(live(INTERRUPT, POLLED, b"12345"))
    assert guest.done() == [(2, UrbStatus.OVERFLOW, b"12")]


def test_a_count_beyond_what_was_sent_is_cut(guest: Guest) -> None:
    ((_, id, _),) = guest.submit(transfer(1, TransferType.BULK, BULK_OUT, data=b"abc"))
    head = struct.pack("<BBHIH", BULK_OUT, SUCCESS, 0xFFFF, 0, 0xFFFF)
    guest.send(packet(BULK, id, head))
    (done,) = [e for e in guest.core.events() if isinstance(e, UrbCompleted)]
    assert done.result == UrbResult(UrbStatus.OK, b"", 3)


def test_answers_that_nobody_waits_for_are_dropped(guest: Guest) -> None:
    ((_, id, _),) = guest.submit(transfer(1, TransferType.BULK, BULK_IN, 4))
    control = struct.pack("<BBBBHHH", 0x80, 6, 0x80, 0, 0, 0, 0)
    guest.send(
        *(bulk(77, BULK_IN, data=b"x"), bulk(id, BULK_IN, data=b"abcd")),
        *(bulk(id, BULK_IN, data=b"abcd"), packet(CONTROL, id, control)),
        packet(CONFIGURATION_STATUS, id, b"\0\1"),
        packet(ALT_STATUS, 78, b"\0\0\0"),
        *(live(INTERRUPT, POLLED, b"x"), live(ISO, ISO_IN, b"x")),
        packet(INTERRUPT, 79, struct.pack("<BBH", REPORTS, 0, 1)),
    )
    assert guest.done() == [(1, UrbStatus.OK, b"abcd")]
    assert guest.submit(transfer(2, TransferType.INTERRUPT, POLLED, 4)) != []
    assert guest.done() == []  # what came before the stream began is not kept


def test_a_second_device_is_refused(guest: Guest) -> None:
    assert (guest.info.vendor_id, guest.info.bcd_device) == (0x1209, 0x100)
    guest.submit(transfer(1, TransferType.BULK, BULK_IN, 4))
    guest.send(CONNECTED)
    assert guest.core.events() == [Ignored("device_connect while connected")]


def test_a_device_of_unknown_speed_and_version_is_taken() -> None:
    core = UsbredirGuestSide()
    core.channel_opened(0, "", now=0)
    body = struct.pack("<BBBBHH", 255, 0, 0, 0, 0x1209, 2)
    core.receive_data(0, hello(CAPS & ~2) + packet(CONNECT, 0, body), now=0)
    (listed,) = [e for e in core.events() if isinstance(e, DevicesListed)]
    (info,) = listed.devices
    assert (info.product_id, info.bcd_device, int(info.speed)) == (2, 0, 2)


def test_the_end_of_a_device_is_acknowledged_and_ends_its_transfers(
    guest: Guest,
) -> None:
    guest.submit(
        transfer(1, TransferType.BULK, BULK_IN, 4),
        transfer(2, TransferType.INTERRUPT, POLLED, 4),
    )
    guest.send(GONE)
    assert guest.sent() == [(ACK, 0, b"")]
    gone = UrbStatus.NO_DEVICE
    assert guest.done() == [(1, gone, b""), (2, gone, b"")]
    assert guest.events[-2:] == [
        DeviceFailed(DEVICE, "disconnect", removed=True),
        DevicesListed(()),
    ]
    assert guest.submit(transfer(3, TransferType.BULK, BULK_IN, 4)) == []
    assert guest.done() == [(3, gone, b"")]
    guest.send(GONE)
    assert not any(isinstance(e, DeviceFailed) for e in guest.core.events())
    with pytest.raises(LocalProtocolError):
        guest.core.open_device(DEVICE)
    guest.send(endpoints(), CONNECTED)  # devices come and go on a stream
    guest.core.open_device(DEVICE)


def test_a_host_without_acks_gets_none() -> None:
    core = UsbredirGuestSide()
    core.channel_opened(0, "", now=0)
    core.receive_data(0, hello(CAPS & ~8) + endpoints() + CONNECTED + GONE, now=0)
    assert list(packets_of(core)) == []
    assert core.events()[-1] == DevicesListed(())


@pytest.mark.parametrize(
    ("kind", "size"), [(STREAMS_STATUS, 9), (BULK_STATUS, 6), (BUFFERED, 10)]
)
def test_streams_that_were_not_agreed_on_are_skipped(kind: int, size: int) -> None:
    core = UsbredirGuestSide()
    core.channel_opened(0, "", now=0)
    core.receive_data(0, hello(0xFF) + packet(kind, 0, bytes(size)), now=0)
    (ignored,) = [e for e in core.events() if isinstance(e, Ignored)]
    assert ignored.reason.endswith("without the capability for it")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (live(ISO, ISO_OUT, b""), "iso packet for an OUT endpoint from a host"),
        (packet(RESET), "RESET from the wrong side"),
        (packet(CANCEL, 1), "CANCEL from the wrong side"),
        (packet(START_ISO, 1, b"\1\1\1"), "START_ISO from the wrong side"),
        (packet(EP_INFO, 0, bytes(161)), "packet of type 5 with 161 bytes"),
        (packet(CONNECT, 0, bytes(8)), "packet of type 1 with 8 bytes"),
        (packet(77), "packet of unknown type 77"),
        (packet(BULK, 1, bytes(9)), "packet of type 101 with 9 bytes"),
        (
            packet(BULK, 1, struct.pack("<BBHIH", BULK_OUT, 0, 0, 0, 0) + b"x"),
            "1 bytes of data, the header says 0",
        ),
        (
            packet(4, 0, struct.pack("<I128x", 33)),
            "33 interfaces, at most 32 are allowed",
        ),
    ],
)
def test_a_bad_packet_is_skipped_and_the_next_one_counts(  # T30
    guest: Guest, bad: bytes, why: str
) -> None:
    ((_, id, _),) = guest.submit(transfer(1, TransferType.BULK, BULK_IN, 4))
    guest.send(bad, bulk(id, BULK_IN, data=b"good"))
    assert guest.done() == [(1, UrbStatus.OK, b"good")]
    assert [e for e in guest.events if isinstance(e, Ignored)] == [Ignored(why)]


def test_odd_descriptions_of_endpoints_are_taken_for_none(guest: Guest) -> None:
    types = bytes((7, 200, 4)) + bytes(range(29))
    guest.send(packet(EP_INFO, 0, types + bytes(128)))
    assert set(guest.core.types.values()) <= set(TransferType)
    guest.submit(transfer(1, TransferType.BULK, 0x01, data=b"x"))
    assert guest.done() == [(1, UrbStatus.INVALID, b"")]


def test_an_absurd_length_ends_the_stream_for_good(guest: Guest) -> None:
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="packet of 4294967295 bytes"):
            guest.send(struct.pack("<IIQ", BULK, 0xFFFFFFFF, 9))
    guest.submit(transfer(1, TransferType.BULK, BULK_IN, 4))
    guest.core.channel_closed(0)
    assert guest.done() == [(1, UrbStatus.NO_DEVICE, b"")]
    with pytest.raises(RemoteProtocolError, match="stream is closed"):
        guest.send(b"")
    assert guest.core.next_deadline() is None


def test_before_hello_nothing_counts() -> None:
    core = UsbredirGuestSide()
    core.channel_opened(0, "", now=0)
    core.receive_data(0, struct.pack("<IIIBBBBHHH", CONNECT, 10, 0, *[0] * 7), now=0)
    assert core.events() == [Ignored("packet of type 1 before hello")]
    core.submit_urb(DEVICE, transfer(1, TransferType.BULK, BULK_IN, 4), now=0)
    assert [e.result.status for e in core.events() if isinstance(e, UrbCompleted)] == [
        UrbStatus.NO_DEVICE
    ]
