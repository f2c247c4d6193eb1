"""USB/IP as other programs speak it (usbip.md)."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from rusb.errors import LocalProtocolError, RemoteProtocolError
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
    EndpointDescriptor,
    InterfaceDescriptor,
)
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import IsoPacket, Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    CancelRequested,
    CloseChannel,
    DevicesListed,
    Ignored,
    Negotiated,
    ResetRequested,
    UrbCompleted,
    UrbSubmitted,
)
from rusb.wire.usbip import Export, Place, Record, UsbipDeviceSide, UsbipGuestSide
from rusb.wire.usbip import _codec as codec
from rusb.wire.usbip._device import MAX_PENDING
from tests.support.wire.joined import clear, messages

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "usbip.json").read_text())
URBS = {urb["name"]: urb for urb in VECTORS["urbs"]}
OPERATIONS = {one["name"]: one for one in VECTORS["operations"]}

INFO = DeviceInfo(7, 0x046D, 0xC077, bcd_device=0x7200, speed=Speed.FULL)


def described(*endpoints: tuple[int, int, int]) -> DeviceDescriptors:
    """A device with these endpoints: address, attributes, size. Setting 1 is empty."""
    found = tuple(EndpointDescriptor(*e, 1) for e in endpoints)
    used = InterfaceDescriptor(0, 0, 3, 1, 2, 0, found)
    return DeviceDescriptors(
        DeviceDescriptor(0x0200, 0, 0, 0, 8, 0x046D, 0xC077, 0x7200),
        (
            ConfigurationDescriptor(
                1, 0xA0, 50, (used, InterfaceDescriptor(0, 1, 3, 1, 2))
            ),
        ),
    )


MOUSE = described((0x81, 3, 4))
DISK = described((0x81, 2, 512), (0x02, 2, 512))
SOUND = described((0x82, 1, 8), (0x01, 1, 8))


class Server:
    """A device side that a client has imported, and configured."""

    def __init__(self, descriptors: DeviceDescriptors, devnum: int = 2) -> None:
        self.core = UsbipDeviceSide(Place(1, devnum), is_imported=True)
        self.core.channel_opened(0, "", now=0)
        self.core.announce([INFO], {INFO.id: descriptors})
        (urb,) = self.take(bytes.fromhex(URBS["set_configuration"]["hex"]), devnum)
        self.core.complete_urb(INFO.id, urb.id, UrbResult(UrbStatus.OK))
        clear(self.core)

    def take(self, data: bytes, devnum: int = 0) -> list[Urb]:
        """Give it a message; return what it submits."""
        if devnum:  # the message of another device
            data = data[:8] + struct.pack(">I", 1 << 16 | devnum) + data[12:]
        self.core.receive_data(0, data, now=0)
        return [e.urb for e in self.core.events() if isinstance(e, UrbSubmitted)]

    def said(self) -> bytes:
        return b"".join(messages(self.core))


def vector(name: str) -> bytes:
    return bytes.fromhex(URBS[name]["hex"])


def result_of(answer: dict[str, Any]) -> UrbResult:
    """What a device did, as an answer tells it."""
    fields = answer["fields"]
    data = bytes.fromhex(answer["data"])
    packets = tuple(
        IsoPacket(p["actual_length"], codec.status_of(p["status"]))
        for p in answer["iso"] or ()
    )
    status = codec.status_of(fields["status"])
    return UrbResult(status, data, fields["actual_length"], packets)


SERVERS = {
    "mouse": (MOUSE, 2),
    "disk": (DISK, 3),
    "sound": (SOUND, 2),
}


def kind_of(name: str) -> str:
    request = URBS[URBS[name].get("answers", name)]
    if request.get("transfer") == "iso":
        return "sound"
    return "disk" if request["fields"]["devid"] == 65539 else "mouse"


PLAIN = [
    name
    for name, urb in URBS.items()
    if urb["message"] == "RET_SUBMIT"
    and not name.endswith(
        ("iso_virtualbox", "empty_virtualbox", "compacted_virtualbox")
    )
    and name not in ("iso_out_ok_virtualbox", "bulk_in_short_not_ok")
    and not name.startswith(("port_reset", "set_configuration"))
]


@pytest.mark.parametrize("name", PLAIN)
def test_a_request_is_answered_as_others_answer_it(name: str) -> None:
    answer = URBS[name]
    server = Server(*SERVERS[kind_of(name)])
    urb = server.take(vector(answer["answers"]))[0]
    request = URBS[answer["answers"]]
    assert urb.length == request["fields"]["transfer_buffer_length"]
    assert bytes(urb.data).hex() == request["data"]
    assert urb.packets == tuple(p["length"] for p in request["iso"])
    server.core.complete_urb(INFO.id, urb.id, result_of(answer))
    assert server.said().hex() == answer["hex"]


@pytest.mark.parametrize(
    "name",
    [
        "iso_in_compacted_virtualbox",
        "iso_in_all_empty_virtualbox",
        "iso_out_ok_virtualbox",
    ],
)
def test_virtualbox_gets_isochronous_answers_in_its_own_form(name: str) -> None:
    """Section 9: it is known by its first request."""
    server = Server(SOUND)
    (first,) = server.take(vector("control_in_virtualbox"))
    server.core.complete_urb(INFO.id, first.id, UrbResult(UrbStatus.OK))
    server.said()
    answer = URBS[name]
    (urb,) = server.take(vector(answer["answers"]))
    plain = name.removesuffix("_virtualbox")
    server.core.complete_urb(INFO.id, urb.id, result_of(URBS[plain]))
    assert server.said().hex() == answer["hex"]


def test_short_not_ok_makes_a_short_answer_an_error_with_its_data() -> None:
    """Section 4; usb-storage of Linux sets it."""
    server = Server(DISK, 3)
    request = bytearray(vector("bulk_in"))
    request[23] |= 1
    (urb,) = server.take(bytes(request))
    answer = URBS["bulk_in_short_not_ok"]
    data = bytes.fromhex(answer["data"])
    server.core.complete_urb(INFO.id, urb.id, UrbResult(UrbStatus.OK, data, len(data)))
    assert server.said().hex() == answer["hex"]


def test_zero_packet_appends_an_empty_one() -> None:
    server = Server(DISK, 3)
    full, empty = server.take(vector("bulk_out_zero_packet"))
    assert (full.length, empty.length, empty.endpoint) == (512, 0, 0x02)
    server.core.complete_urb(INFO.id, empty.id, UrbResult(UrbStatus.OK))
    assert server.said() == b""
    server.core.complete_urb(INFO.id, full.id, UrbResult(UrbStatus.OK, length=512))
    assert server.said() == vector("bulk_out_zero_packet_ok")
    assert len(server.take(vector("bulk_out"))) == 1  # 31 bytes


def test_a_port_reset_resets_and_restores_what_was_selected() -> None:
    """Section 7: VirtualBox and usbip-win2 send it; devices never see it."""
    server = Server(MOUSE)
    server.core.receive_data(0, vector("port_reset_request"), now=0)
    reset, restored = server.core.events()
    assert isinstance(reset, ResetRequested)
    assert isinstance(restored, UrbSubmitted)
    assert restored.urb.setup == SetupPacket.set_configuration(1)
    assert server.said() == vector("port_reset_request_ok")


def test_the_active_configuration_is_not_selected_again() -> None:
    server = Server(MOUSE)
    (urb,) = server.take(control(20, SetupPacket.set_interface(0, 1)))
    server.core.complete_urb(INFO.id, urb.id, UrbResult(UrbStatus.OK))
    server.said()
    (urb,) = server.take(vector("set_configuration"))
    assert urb.setup == SetupPacket.set_interface(0, 0)  # nobody waits for that
    assert server.said() == vector("set_configuration_ok")
    assert server.take(vector("set_configuration")) == []


def test_a_configuration_that_failed_is_selected_again() -> None:
    server = Server(MOUSE)
    (urb,) = server.take(control(20, SetupPacket.set_configuration(2)))
    server.core.complete_urb(INFO.id, urb.id, UrbResult(UrbStatus.STALL))
    assert len(server.take(vector("set_configuration"))) == 1


def control(seqnum: int, setup: SetupPacket) -> bytes:
    return codec.CMD_SUBMIT.pack(
        *(1, seqnum, 65538, setup.request_type >> 7, 0, 0, setup.length, 0, 0, 0),
        setup.serialize(),
    )


# ------------------------------------------------------------- cancelling ----


def test_a_pending_transfer_is_cancelled_and_not_answered() -> None:
    server = Server(MOUSE)
    (urb,) = server.take(vector("interrupt_in_pending"))
    server.core.receive_data(0, vector("unlink"), now=0)
    assert server.core.events() == [CancelRequested(INFO.id, urb.id)]
    assert server.said() == b""
    server.core.complete_urb(INFO.id, urb.id, UrbResult(UrbStatus.CANCELLED))
    assert server.said() == vector("ret_unlink_cancelled")


def test_what_was_answered_already_cannot_be_cancelled() -> None:
    server = Server(MOUSE)
    (urb,) = server.take(vector("interrupt_in_pending"))
    server.core.complete_urb(INFO.id, urb.id, UrbResult(UrbStatus.OK, b"abcd", 4))
    server.core.receive_data(0, vector("unlink"), now=0)
    assert server.said()[-48:] == vector("ret_unlink_too_late")


def test_what_a_cancelled_transfer_has_moved_is_not_lost() -> None:
    """Section 6: decided once; the answer is on the wire before the unlink's."""
    server = Server(MOUSE)
    (urb,) = server.take(vector("interrupt_in_pending"))
    server.core.receive_data(0, vector("unlink"), now=0)
    moved = UrbResult(UrbStatus.CANCELLED, b"ab", 2)
    server.core.complete_urb(INFO.id, urb.id, moved)
    said = server.said()
    head = codec.RET_SUBMIT.unpack_from(said)
    assert (head[0], head[1], head[5], head[6]) == (3, 11, -104, 2)
    assert said[48:50] == b"ab"
    assert said[50:] == vector("ret_unlink_too_late")


# ------------------------------------------------------- bad input (T31) ----


def changed(name: str, offset: int, value: int) -> bytes:
    data = vector(name)
    return data[:offset] + struct.pack(">I", value) + data[offset + 4 :]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (changed("bulk_in", 24, 0x7FFFFFFF), "2147483647 bytes"),
        (changed("bulk_in", 24, 0x80000000), "-2147483648 bytes"),
        (changed("bulk_in", 16, 16), "endpoint 16"),
        (changed("bulk_in", 12, 2), "direction 2"),
        (changed("bulk_in", 8, 1), "another device"),
        (changed("bulk_in", 0, 3), "unknown USB/IP command 0x3"),
        (changed("bulk_in", 0, 0), "unknown USB/IP command 0x0"),
    ],
)
def test_a_message_that_makes_no_sense_ends_the_stream(data: bytes, why: str) -> None:
    server = Server(DISK, 3)
    with pytest.raises(RemoteProtocolError, match=why):
        server.take(data)
    with pytest.raises(RemoteProtocolError, match="closed"):
        server.take(vector("bulk_in"))


@pytest.mark.parametrize("count", [0x80000000, 0xFFFFFFFF, codec.MAX_PACKETS + 1])
def test_isochronous_packets_are_bounded(count: int) -> None:
    server = Server(SOUND)
    with pytest.raises(RemoteProtocolError, match="packets"):
        server.take(changed("iso_in", 32, count))


def test_a_stale_number_of_packets_means_nothing_elsewhere() -> None:
    """Section 4: Linux sends whatever the URB has."""
    server = Server(DISK, 3)
    assert len(server.take(changed("bulk_in", 32, 0x12345))) == 1
    assert len(server.take(changed("bulk_in", 4, 99))) == 1  # still in step


@pytest.mark.parametrize("field", [48, 52, 64])
def test_isochronous_packets_that_do_not_fit_are_refused(field: int) -> None:
    server = Server(SOUND)
    assert server.take(changed("iso_in", field, 9)) == []
    status = codec.RET_SUBMIT.unpack_from(server.said())[5]
    assert status == codec.ERRNO[UrbStatus.INVALID]


def test_isochronous_packets_that_are_absurd_end_the_stream() -> None:  # T24, T31
    data = bytes.fromhex(URBS["iso_in"]["hex"])
    for at in (52, 68, 84):
        data = data[:at] + b"\xff" * 4 + data[at + 4 :]
    with pytest.raises(RemoteProtocolError, match="packets of 12884901885 bytes"):
        Server(SOUND).take(data)


def test_an_endpoint_that_is_not_there_is_refused_and_its_data_skipped() -> None:
    """Section 11: Linux's server loses the stream there."""
    server = Server(DISK, 3)
    assert server.take(changed("bulk_out", 16, 9)) == []
    assert codec.RET_SUBMIT.unpack_from(server.said())[5] == -22
    assert len(server.take(vector("bulk_in"))) == 1


@pytest.mark.parametrize("endpoint", [2, 9])
@pytest.mark.parametrize("name", ["iso_in", "iso_out"])
def test_packets_for_an_endpoint_that_is_not_selected_are_skipped(
    name: str, endpoint: int
) -> None:
    """Transfers of a stream cross the request that ends it: the setting has no
    endpoints by then, and another client may mean one that was never there."""
    server = Server(SOUND)
    (urb,) = server.take(control(20, SetupPacket.set_interface(0, 1)))
    server.core.complete_urb(INFO.id, urb.id, UrbResult(UrbStatus.OK))
    server.said()
    request = changed(name, 16, endpoint)
    assert server.take(request) == []
    answer = server.said()
    head = codec.RET_SUBMIT.unpack_from(answer)
    wanted = URBS[name]["fields"]["number_of_packets"]
    assert (head[5], head[6], head[8]) == (-22, 0, wanted)
    assert len(answer) == codec.HEADER + 16 * wanted  # Linux reads that many
    (urb,) = server.take(control(21, SetupPacket.set_interface(0, 0)))  # in step
    assert urb.setup == SetupPacket.set_interface(0, 0)


@pytest.mark.parametrize("count", [5, 0xFFFFFFFF])
def test_a_bulk_endpoint_that_is_not_selected_has_no_packets(count: int) -> None:
    server = Server(DISK, 3)
    setup = SetupPacket.set_interface(0, 1)
    request = bytearray(control(20, setup))
    request[8:12] = (65539).to_bytes(4, "big")
    assert len(server.take(bytes(request))) == 1
    assert server.take(changed("bulk_out", 32, count)) == []
    assert codec.RET_SUBMIT.unpack_from(server.said())[5] == -22
    request[4:8] = (21).to_bytes(4, "big")
    assert len(server.take(bytes(request))) == 1  # in step


def test_a_seqnum_in_flight_is_not_taken_twice() -> None:
    server = Server(DISK, 3)
    server.take(vector("bulk_in"))
    with pytest.raises(RemoteProtocolError, match="in flight already"):
        server.take(vector("bulk_in"))


def test_a_client_that_does_not_read_is_not_read() -> None:
    server = Server(DISK, 3)
    request = b"".join(changed("bulk_in", 4, n) for n in range(100, 2 * MAX_PENDING))
    urbs = server.take(request)
    assert len(urbs) == MAX_PENDING
    assert server.core.is_full()
    for urb in urbs[: MAX_PENDING // 2]:
        server.core.complete_urb(INFO.id, urb.id, UrbResult(UrbStatus.OK))
    assert server.core.is_full()  # until half of it is done
    server.core.complete_urb(INFO.id, urbs[-1].id, UrbResult(UrbStatus.OK))
    assert not server.core.is_full()
    assert len(server.take(b"")) > 0


def test_what_nobody_waits_for_is_in_flight_all_the_same() -> None:
    """The empty packets behind transfers that the client cancels at once."""
    server = Server(DISK, 3)
    count = MAX_PENDING + 100
    for n in range(100, 100 + count):
        cancel = codec.CMD_UNLINK.pack(2, 2 * count + n, 0x10003, 0, 0, n)
        for urb in server.take(changed("bulk_out_zero_packet", 4, n) + cancel):
            if urb.length:
                result = UrbResult(UrbStatus.CANCELLED)
                server.core.complete_urb(INFO.id, urb.id, result)
            else:
                empty = urb.id
    assert server.core.is_full()
    for urb_id in range(empty - 2 * MAX_PENDING, empty + 1):
        server.core.complete_urb(INFO.id, urb_id, UrbResult(UrbStatus.OK))
    assert not server.core.is_full()
    assert server.take(b"")


def test_bytes_in_flight_are_bounded() -> None:
    server = Server(DISK, 3)
    large = [
        changed("bulk_in", 4, n)[:24] + struct.pack(">I", codec.MAX_LENGTH) + bytes(20)
        for n in range(100, 110)
    ]
    assert len(server.take(b"".join(large))) == 2


# ----------------------------------------------------------------- import ----


def test_a_list_is_as_others_make_it() -> None:
    records = codec.DeviceList().receive(
        bytes.fromhex(OPERATIONS["rep_devlist_two"]["hex"])
    )
    assert records is not None
    assert [r.busid for r in records] == ["1-1", "1-2"]
    assert [r.info.speed for r in records] == [Speed.FULL, Speed.HIGH]
    assert (records[1].info.vendor_id, records[1].info.product_id) == (1921, 21863)
    empty = bytes.fromhex(OPERATIONS["rep_devlist_empty"]["hex"])
    assert codec.DeviceList().receive(empty) == ()
    assert codec.device_list([]) == empty
    assert codec.list_request().hex() == OPERATIONS["req_devlist"]["hex"]
    assert codec.import_request("1-1").hex() == OPERATIONS["req_import"]["hex"]


def test_our_list_can_be_read() -> None:
    ours = Record.of(Place(1, 3), INFO, SOUND)
    data = codec.device_list([ours, ours])
    assert len(data) == 12 + 2 * (312 + 4)
    found = codec.DeviceList().receive(data)
    assert found is not None
    assert [r.busid for r in found] == ["1-3", "1-3"]
    assert found[0].interface_count == 1
    for end in range(len(data)):
        assert codec.DeviceList().receive(data[:end]) is None


def test_a_list_in_small_pieces_is_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever sends a long one byte by byte would keep us busy with reading it."""
    ours = Record.of(Place(1, 3), INFO, SOUND)
    data, read = codec.device_list([ours] * 30), 0
    parse = Record.parse

    def count(record: bytes) -> Record:
        nonlocal read
        read += 1
        return parse(record)

    monkeypatch.setattr(Record, "parse", count)
    found = codec.DeviceList()
    assert {found.receive(bytes((byte,))) for byte in data[:-1]} == {None}
    assert len(found.receive(data[-1:]) or ()) == read == 30
    assert len(found.receive(data) or ()) == read == 30  # nothing follows a list


def test_a_list_is_bounded() -> None:
    data = codec.OPERATION.pack(0x0111, 5, 0) + struct.pack(">I", 0xFFFFFFFF)
    with pytest.raises(RemoteProtocolError, match="4294967295 devices"):
        codec.DeviceList().receive(data)


def test_texts_without_an_end_are_as_long_as_their_fields() -> None:  # T31
    path, busid = b"p" * 256, b"1-" + b"2" * 30
    data = codec.device_list([Record.of(Place(1, 3), INFO, SOUND)])
    (found,) = (
        codec.DeviceList().receive(data[:12] + path + busid + data[12 + 288 :]) or ()
    )
    assert found.busid == busid.decode()
    assert (found.info.vendor_id, found.bus) == (INFO.vendor_id, 1)


def test_a_request_comes_in_any_pieces() -> None:
    wanted = None
    export = Export()
    for byte in codec.import_request("1-3"):
        assert wanted is None
        wanted = export.receive(bytes((byte,)))
    assert wanted is not None
    assert wanted.busid == "1-3"
    listed = Export().receive(codec.list_request())
    assert listed is not None
    assert listed.busid is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x01\x06\x80\x05\0\0\0\0", "0x0106"),
        (b"\x01\x11\x80\x07\0\0\0\0", "operation 0x8007"),
        (b"GET / HT", "version"),
    ],
)
def test_another_version_or_operation_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        Export().receive(data)


def test_a_busid_without_an_end_is_none_of_ours() -> None:
    export = Export()
    request = codec.OPERATION.pack(0x0111, 0x8003, 0) + b"1" * 32
    wanted = export.receive(request)
    assert wanted is not None
    assert wanted.busid == "1" * 32


def test_an_import_of_another_device_is_refused_and_the_stream_ended() -> None:
    core = UsbipDeviceSide(Place(1, 1))
    core.channel_opened(0, "", now=0)
    core.announce([INFO], {INFO.id: MOUSE})
    core.receive_data(0, codec.import_request("1-2"), now=0)
    refusal, end = core.outputs()
    assert getattr(refusal, "data", None) == codec.import_reply(None)
    assert isinstance(end, CloseChannel)


def test_several_devices_or_one_without_descriptors_cannot_be_announced() -> None:
    core = UsbipDeviceSide()
    with pytest.raises(LocalProtocolError, match="one device"):
        core.announce([INFO, INFO], {})
    with pytest.raises(LocalProtocolError, match="descriptors"):
        core.announce([INFO], {})


# ----------------------------------------------------------------- client ----


def imported() -> UsbipGuestSide:
    core = UsbipGuestSide("1-1")
    core.channel_opened(0, "", now=0)
    assert messages(core) == [codec.import_request("1-1")]
    core.receive_data(0, bytes.fromhex(OPERATIONS["rep_import_ok"]["hex"]), now=0)
    negotiated, listed = core.events()
    assert isinstance(negotiated, Negotiated)
    assert isinstance(listed, DevicesListed)
    assert (listed.devices[0].vendor_id, listed.devices[0].speed) == (1133, Speed.FULL)
    return core


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("rep_import_busy", "it is in use"),
        ("rep_import_not_available", "not available"),
        ("rep_import_general_error", "status 5"),
    ],
)
def test_a_refused_import_says_why(name: str, why: str) -> None:
    core = UsbipGuestSide("1-1")
    core.channel_opened(0, "", now=0)
    core.receive_data(0, bytes.fromhex(OPERATIONS[name]["hex"]), now=0)
    (event,) = core.events()
    assert isinstance(event, Negotiated)
    assert event.error is not None
    assert why in event.error


def test_another_device_than_was_asked_for_is_refused() -> None:
    core = UsbipGuestSide("1-2")
    core.channel_opened(0, "", now=0)
    with pytest.raises(RemoteProtocolError, match="'1-1' instead of '1-2'"):
        core.receive_data(0, bytes.fromhex(OPERATIONS["rep_import_ok"]["hex"]), now=0)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (codec.RET_SUBMIT.pack(3, 1, 0, 0, 0, 0, 600, 0, 0, 0), "600 bytes, 512"),
        (codec.RET_SUBMIT.pack(3, 1, 0, 0, 0, 0, -1, 0, 0, 0), "-1 bytes"),
        (codec.RET_SUBMIT.pack(3, 9, 0, 0, 0, 0, 0, 0, 0, 0), "not asked"),
        (codec.RET_SUBMIT.pack(1, 1, 0, 0, 0, 0, 0, 0, 0, 0), "command 0x1"),
    ],
)
def test_a_server_that_answers_nonsense_is_left(answer: bytes, why: str) -> None:
    core = imported()
    core.submit_urb(1, Urb(5, TransferType.BULK, 0x81, 512), now=0)
    with pytest.raises(RemoteProtocolError, match=why):
        core.receive_data(0, answer, now=0)
    core.channel_closed(0)
    done = [e for e in core.events() if isinstance(e, UrbCompleted)]
    assert [(e.urb_id, e.result.status) for e in done] == [(5, UrbStatus.NO_DEVICE)]


def test_packets_and_data_of_an_answer_must_agree() -> None:
    core = imported()
    urb = Urb(5, TransferType.ISOCHRONOUS, 0x82, 24, packets=(8, 8, 8))
    core.submit_urb(1, urb, now=0)
    head = codec.RET_SUBMIT.pack(3, 1, 0, 0, 0, 0, 8, 0, 3, 0)
    iso = codec.pack_iso((8, 8, 8), (IsoPacket(8), IsoPacket(8), IsoPacket(0)))
    with pytest.raises(RemoteProtocolError, match="do not agree"):
        core.receive_data(0, head + bytes(8) + iso, now=0)


@pytest.mark.parametrize(  # T31
    ("count", "lengths", "why"),
    [
        (2, (8, 8, 0), "2 packets, 3 were asked for"),
        (4, (8, 8, 0), "4 packets, 3"),
        (-0x80000000, (8, 8, 0), "-2147483648 packets, 3"),
        (3, (9, 7, 0), "a packet of 9 bytes, 8 were asked for"),
    ],
)
def test_packets_of_an_answer_are_those_that_were_asked_for(
    count: int, lengths: tuple[int, ...], why: str
) -> None:
    core = imported()
    urb = Urb(5, TransferType.ISOCHRONOUS, 0x82, 24, packets=(8, 8, 8))
    core.submit_urb(1, urb, now=0)
    head = codec.RET_SUBMIT.pack(3, 1, 0, 0, 0, 0, 16, 0, count, 0)
    iso = codec.pack_iso((8, 8, 8), tuple(map(IsoPacket, lengths)))
    with pytest.raises(RemoteProtocolError, match=why):
        core.receive_data(0, head + bytes(16) + iso, now=0)


def test_a_stale_number_of_packets_in_an_answer_means_nothing() -> None:
    core = imported()
    core.submit_urb(1, Urb(5, TransferType.BULK, 0x81, 512), now=0)
    head = codec.RET_SUBMIT.pack(3, 1, 0, 0, 0, 0, 4, 0, -1, 0)
    core.receive_data(0, head + b"data", now=0)
    (done,) = [e for e in core.events() if isinstance(e, UrbCompleted)]
    assert done.result.data == b"data"


def test_a_cancel_that_is_never_answered_is_forgotten_with_its_transfer() -> None:
    core = imported()
    for n in range(100):
        core.submit_urb(1, Urb(n, TransferType.BULK, 0x81, 512), now=0)
        core.cancel_urb(1, n)
        answer = codec.RET_SUBMIT.pack(3, 1 + 2 * n, 0, 0, 0, -104, 0, 0, 0, 0)
        core.receive_data(0, answer, now=0)
    assert not core._unlinks


@pytest.mark.parametrize("end", ["reset_device", "close_device"])
def test_data_of_what_was_cancelled_is_not_kept_for_its_answer(end: str) -> None:
    """A server may answer late, or never."""
    core = imported()
    for number in range(3):
        urb = Urb(number, TransferType.BULK, 0x02, 1 << 20, bytes(1 << 20))
        core.submit_urb(1, urb, now=0)
    getattr(core, end)(1)
    kept = [bytes(one.urb.data) for one in core._sent.values()]
    assert kept[:3] == [b"", b"", b""]
    done = [e.urb_id for e in core.events() if isinstance(e, UrbCompleted)]
    assert done == [0, 1, 2]
    late = codec.RET_SUBMIT.pack(3, 1, 0, 0, 0, 0, 1 << 20, 0, 0, 0)
    core.receive_data(0, late, now=0)  # is understood all the same
    assert 1 not in core._sent


def test_an_answer_after_a_close_is_still_read() -> None:
    """Its data must not be taken for the next header."""
    core = imported()
    core.submit_urb(1, Urb(5, TransferType.BULK, 0x81, 512), now=0)
    core.close_device(1)
    clear(core)
    late = codec.RET_SUBMIT.pack(3, 1, 0, 0, 0, 0, 512, 0, 0, 0) + bytes(512)
    core.receive_data(0, late + codec.RET_UNLINK.pack(4, 2, 0, 0, 0, 0), now=0)
    assert [type(event) for event in core.events()] == [Ignored]  # the cancel's
    core.submit_urb(1, Urb(5, TransferType.BULK, 0x81, 512), now=0)
    answer = codec.RET_SUBMIT.pack(3, 3, 0, 0, 0, 0, 2, 0, 0, 0) + b"ok"
    core.receive_data(0, answer, now=0)
    (event,) = core.events()
    assert isinstance(event, UrbCompleted)
    assert bytes(event.result.data) == b"ok"
