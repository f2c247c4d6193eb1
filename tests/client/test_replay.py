"""Devices out of captures (docs/spec/captures.md)."""

import asyncio
import logging
import struct
from functools import partial
from pathlib import Path

import pytest

from rusb.client.backends import _replayed
from rusb.client.backends._capture import read_capture
from rusb.client.backends._replayed import ReplayedDevice
from rusb.client.backends.emulated import EmulatedBackend, FlashDrive
from rusb.client.devices import load_backend
from rusb.errors import BackendError, ParseError
from rusb.usb.backend import OpenDevice
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from tests.support.amount import chance, inputs
from tests.support.capturing import Recorder, pcap, pcapng, record

BULK, INTERRUPT, ISOCHRONOUS = (
    *(TransferType.BULK, TransferType.INTERRUPT),
    TransferType.ISOCHRONOUS,
)
ZERO16 = bytes(16)

# captures.md 1: the first GET_DESCRIPTOR, its answer, and an isochronous completion
FIRST = bytes.fromhex(
    "0000000001000000 53 02 80 01 0100 00 3c bef5086b00000000 b5570d00 8dffffff"
    "12000000 00000000 8006000100001200"
)
ANSWER = bytes.fromhex(
    "0000000001000000 43 02 80 01 0100 2d 00 bef5086b00000000 925a0d00 00000000"
    "12000000 12000000 0000000000000000"
)
DEVICE = bytes.fromhex("12010002000000400912010000010102 0301")
STARTED = bytes.fromhex(
    "0900000000000000 53 00 84 02 0100 2d 3c bef5086b00000000 00000000 8dffffff"
    "00010000 00000000 0000000000000000"
)
SOUND = bytes.fromhex(
    "0900000000000000 43 00 84 02 0100 2d 00 bef5086b00000000 00000000 00000000"
    "54000000 84000000 0100000003000000 01000000 00000000 00000000 03000000"
    "00000000 00000000 14000000 00000000"
    "acffffff 14000000 00000000 00000000"
    "00000000 14000000 40000000 00000000"
)

# --------------------------------------------------------------------- the file ----


def test_the_records_of_the_specification() -> None:
    records = [FIRST + ZERO16, ANSWER + ZERO16 + DEVICE]
    (device,) = read_capture(pcapng(records))
    assert (device.bus, device.address) == (1, 1)
    (one,) = device.transfers
    assert one.setup == SetupPacket.get_descriptor(1, 0, 18)
    assert (one.wanted, one.received, one.status) == (18, DEVICE, 0)
    assert one.ended - one.began == pytest.approx((0x0D5A92 - 0x0D57B5) / 1e6, rel=1e-3)
    assert not one.is_cut


def test_isochronous_packets_of_the_specification() -> None:
    data = bytes(range(84))
    (device,) = read_capture(pcapng([STARTED + ZERO16, SOUND + data]))
    assert device.transfers[0].packets == (data[:20], b"", data[20:])
    assert not device.transfers[0].is_cut


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("link", [189, 220])
@pytest.mark.parametrize("form", [pcap, pcapng])
def test_all_forms_of_a_file(order: str, link: int, form: object) -> None:
    urb = Urb.control(1, SetupPacket.get_descriptor(1, 0, 18))
    one = partial(record, urb=urb, id=7, length=18, order=order, link=link)
    records = [
        one("S", status=-115, time=1.5),
        one("C", status=0, data=DEVICE, time=1.75),
    ]
    make = pcap if form is pcap else pcapng
    (device,) = read_capture(make(records, order=order, link=link))
    (found,) = device.transfers
    assert found.received == DEVICE
    assert (found.began, found.ended) == (1.5, 1.75)


def test_nanoseconds_of_pcap() -> None:
    records = [FIRST + ZERO16, ANSWER + ZERO16 + DEVICE]
    assert len(read_capture(pcap(records, magic=0xA1B23C4D))) == 1


def test_a_device_before_its_address_is_the_one_that_gets_it() -> None:
    first = Urb.control(1, SetupPacket.get_descriptor(1, 0, 64))
    second = Urb.control(2, SetupPacket(0x00, 5, 9))
    third = Urb.control(3, SetupPacket.get_descriptor(2, 0, 9))
    records = [
        record("S", first, id=1, status=-115, length=64, device=0),
        record("C", first, id=1, status=0, length=18, data=DEVICE, device=0),
        record("S", second, id=2, status=-115, length=0, device=0),
        record("C", second, id=2, status=0, length=0, device=0),
        record("S", third, id=3, status=-115, length=9, device=9),
        record("C", third, id=3, status=0, length=9, data=bytes(9), device=9),
    ]
    (device,) = read_capture(pcapng(records))
    assert device.address == 9
    assert [t.setup for t in device.transfers] == [
        first.setup,
        second.setup,
        third.setup,
    ]


def test_a_transfer_without_its_beginning_is_left_out() -> None:
    assert read_capture(pcapng([ANSWER + ZERO16 + DEVICE])) == []


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "neither pcap nor pcapng"),
        (b"GIF89a" + bytes(100), "neither pcap nor pcapng"),
        (pcap([])[:20], "ends within its header"),
        (pcap([], link=249), r"249 \(USBPcap of Windows\), not that of Linux"),
        (pcap([], link=1), "link type is 1, not"),
        (pcapng([FIRST], link=249), "249"),
        (pcapng([FIRST + ZERO16])[:8] + bytes(100), "without its magic"),
        (pcapng([])[:28] + struct.pack("<II", 6, 8) + bytes(20), "block of 8 bytes"),
        (pcapng([])[:28] + struct.pack("<II", 6, 13) + bytes(20), "block of 13 bytes"),
        (pcapng([FIRST]), "a record of 48 bytes"),
        (pcapng([FIRST[:9] + b"\x04" + FIRST[10:] + ZERO16]), "transfer of type 4"),
        (
            pcapng([])[:28] + struct.pack("<II20xI", 6, 32, 32),
            "interface 0, which is not there",
        ),
    ],
)
def test_a_file_that_is_none(data: bytes, why: str) -> None:
    with pytest.raises(ParseError, match=why):
        read_capture(data)


@pytest.mark.parametrize("form", [pcap, pcapng])
def test_a_capture_that_was_killed_has_what_came_before(form: object) -> None:
    make = pcap if form is pcap else pcapng
    data = make([FIRST + ZERO16, ANSWER + ZERO16 + DEVICE, FIRST + ZERO16])
    whole = read_capture(data)
    for cut in range(len(data) - 60, len(data)):
        assert read_capture(data[:cut]) == whole


# -------------------------------------------------------------------- a device ----


async def recorded(
    kind: str, setups: tuple[SetupPacket, ...] = ()
) -> tuple[Recorder, EmulatedBackend]:
    """A device of ours that was enumerated while it was recorded."""
    backend = EmulatedBackend(kind)
    (local,) = await backend.list_devices()
    recorder = Recorder(await backend.open(local))
    for setup in setups or ENUMERATION:
        recorder.control(setup)
    return recorder, backend


ENUMERATION = (
    SetupPacket.get_descriptor(1, 0, 8),
    SetupPacket.get_descriptor(1, 0, 18),
    SetupPacket.get_descriptor(6, 0, 10),
    SetupPacket.get_descriptor(2, 0, 9),
    SetupPacket.get_descriptor(2, 0, 255),
    *(SetupPacket.get_descriptor(3, n, 255, 0x409 if n else 0) for n in range(4)),
    SetupPacket.set_configuration(1),
)


async def played(path: Path, records: list[bytes], options: str = "") -> OpenDevice:
    """A device that answers as it was recorded."""
    path.write_bytes(pcapng(records))  # noqa: ASYNC240
    backend = load_backend(f"replay:{path}{options}")
    (local,) = await backend.list_devices()
    return await backend.open(local)


async def test_requests_are_answered_as_they_were(tmp_path: Path) -> None:
    there, backend = await recorded("keyboard")
    there.control(SetupPacket(0x81, 6, 0x2200, 0, 255))  # report descriptor
    there.control(SetupPacket(0xA1, 1, 0x0100, 0, 8))
    again = Recorder(await played(tmp_path / "k.pcapng", there.records))
    for setup in ENUMERATION:
        again.control(setup)
    again.control(SetupPacket(0x81, 6, 0x2200, 0, 255))
    again.control(SetupPacket(0xA1, 1, 0x0100, 0, 8))
    assert again.records == there.records
    # another length: cut
    whole = again.control(SetupPacket.get_descriptor(2, 0, 255)).data
    assert again.control(SetupPacket.get_descriptor(2, 0, 20)).data == whole[:20]
    await backend.aclose()


async def test_the_device_is_listed_as_it_was(tmp_path: Path) -> None:
    there, backend = await recorded("keyboard")
    path = tmp_path / "k.pcapng"
    path.write_bytes(pcapng(there.records))
    (mine,) = await backend.list_devices()
    (local,) = await load_backend(f"replay:{path},device=1209:0002").list_devices()
    assert local.info.product == mine.info.product == "Keyboard"
    assert local.info.speed is Speed.FULL
    assert local.info.vendor_id == mine.info.vendor_id


async def test_answers_come_in_their_order_and_the_last_repeats(tmp_path: Path) -> None:
    there, backend = await recorded("keyboard")
    ask = Urb.control(1, SetupPacket(0xC0, 9, 0, 0, 4))
    for n, (status, data) in enumerate([(0, b"one!"), (-32, b""), (0, b"two!")]):
        there.records += [
            record("S", ask, id=100 + n, status=-115, length=4),
            record("C", ask, id=100 + n, status=status, length=len(data), data=data),
        ]
    assert ask.setup is not None
    again = Recorder(await played(tmp_path / "k.pcapng", there.records))
    results = [again.control(ask.setup) for _ in range(4)]
    found = [r.status.name if r.status else bytes(r.data) for r in results]
    assert found == [b"one!", "STALL", b"two!", b"two!"]
    await backend.aclose()


async def test_who_opens_it_next_has_it_from_the_beginning(tmp_path: Path) -> None:
    there, backend = await recorded("keyboard")
    ask = Urb.control(1, SetupPacket(0xC0, 9, 0, 0, 4))
    for n, data in enumerate((b"one!", b"two!")):
        there.records += [
            record("S", ask, id=100 + n, status=-115, length=4),
            record("C", ask, id=100 + n, status=0, length=4, data=data),
        ]
    path = tmp_path / "k.pcapng"
    path.write_bytes(pcapng(there.records))
    replay = load_backend(f"replay:{path}")
    (local,) = await replay.list_devices()
    assert ask.setup is not None
    for _ in range(2):
        opened = Recorder(await replay.open(local))
        found = [bytes(opened.control(ask.setup).data) for _ in range(3)]
        assert found == [b"one!", b"two!", b"two!"]
        await opened.device.aclose()
    await replay.aclose()
    await backend.aclose()


async def test_what_is_not_known_stalls_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_replayed, "_MAX_COMPLAINTS", 3)
    there, backend = await recorded("keyboard")
    again = Recorder(await played(tmp_path / "k.pcapng", there.records))
    for _ in range(5):
        result = again.control(SetupPacket(0xC0, 0x55, 1, 2, 3))
        assert result.status is UrbStatus.STALL
    lines = [r.message for r in caplog.records if "is not in the capture" in r.message]
    assert lines == ["replay: the request c055010002000300 is not in the capture"] * 3
    await backend.aclose()


async def test_data_come_after_what_was_sent_before_them(tmp_path: Path) -> None:
    there, backend = await recorded("loopback")
    there.run(BULK, 0x02, b"first")
    there.run(BULK, 0x82, 512)
    there.run(BULK, 0x02, b"x" * 1024)
    urb = Urb(1, BULK, 0x82, 2048)  # it is ended by an empty packet
    there.records += [
        record("S", urb, id=99, status=-115, length=2048),
        record("C", urb, id=99, status=0, length=1024, data=b"x" * 1024),
    ]
    device = await played(tmp_path / "l.pcapng", there.records)
    await device.set_configuration(1)
    results: list[UrbResult] = []
    for n in (1, 2):
        device.submit(Urb(n, BULK, 0x82, 2048), results.append)
    assert not results
    for n, data in ((3, b"first"), (4, b"another thing")):
        device.submit(Urb(n, BULK, 0x02, len(data), data), lambda result: None)
        await asyncio.sleep(0.01)
    assert [bytes(r.data) for r in results] == [b"first", b"x" * 1024]
    await backend.aclose()


async def test_a_stall_halts_the_endpoint(tmp_path: Path) -> None:
    there, backend = await recorded("loopback")
    urb = Urb(1, BULK, 0x82, 512)
    there.records += [
        record("S", urb, id=200, status=-115, length=512),
        record("C", urb, id=200, status=-32, length=0),
        record("S", urb, id=201, status=-115, length=512),
        record("C", urb, id=201, status=0, length=2, data=b"ok"),
    ]
    again = Recorder(await played(tmp_path / "l.pcapng", there.records))
    await again.device.set_configuration(1)
    assert again.run(BULK, 0x82, 512).status is UrbStatus.STALL
    assert again.run(BULK, 0x82, 512).status is UrbStatus.STALL
    await again.device.clear_halt(0x82)
    assert bytes(again.run(BULK, 0x82, 512).data) == b"ok"
    await backend.aclose()


@pytest.mark.parametrize(("options", "least"), [("", 0.2), (",speed=0", 0.0)])
async def test_reports_come_at_their_distance(
    tmp_path: Path, options: str, least: float
) -> None:
    there, backend = await recorded("keyboard")
    urb = Urb(1, INTERRUPT, 0x81, 8)
    for n, ended in enumerate((10.1, 10.2)):
        there.records += [
            record("S", urb, id=300 + n, status=-115, length=8, time=10.0),
            record("C", urb, id=300 + n, status=0, length=8, data=bytes(8), time=ended),
        ]
    device = await played(tmp_path / "k.pcapng", there.records, options)
    await device.set_configuration(1)
    loop = asyncio.get_running_loop()
    start = loop.time()
    for n in (1, 2):
        done = loop.create_future()
        device.submit(Urb(n, INTERRUPT, 0x81, 8), done.set_result)
        if not least:
            assert done.done()
        await asyncio.wait_for(done, 10)
    assert loop.time() - start >= least - 0.01
    await device.aclose()
    await backend.aclose()


async def test_sound_is_played_and_then_there_is_silence(tmp_path: Path) -> None:
    there, backend = await recorded("microphone")
    described = backend.devices[0].descriptors
    (alternate,) = [
        i
        for c in described.configurations
        for i in c.interfaces
        if any(e.transfer_type is ISOCHRONOUS for e in i.endpoints)
    ]
    address = alternate.endpoints[0].address
    urb = Urb(1, ISOCHRONOUS, address, 8, packets=(4, 4))
    there.records += [
        record("S", urb, id=400, status=-115, length=8),
        record("C", urb, id=400, status=0, length=6, data=b"abcdef", packets=(4, 2)),
    ]
    device = await played(tmp_path / "m.pcapng", there.records)
    await device.set_configuration(1)
    await device.set_interface(alternate.number, alternate.alternate)
    found = []
    for n in (1, 2):
        done: asyncio.Future[UrbResult] = asyncio.get_running_loop().create_future()
        urb = Urb(n, ISOCHRONOUS, address, 8, packets=(4, 4))
        device.submit(urb, done.set_result)
        found.append(bytes((await asyncio.wait_for(done, 10)).data))
    assert found == [b"abcdef", b""]
    await device.aclose()
    await backend.aclose()


# ------------------------------------------------------------------------ disks ----

BLOCK = 512
IMAGE = bytes(n // BLOCK & 0xFF for n in range(64 * BLOCK))


def cdb(code: int, first: int = 0, count: int = 0) -> bytes:
    return struct.pack(">BBIBHB", code, 0, first, 0, count, 0)


class Host:
    """What a host does with a bulk-only device."""

    def __init__(self, device: Recorder) -> None:
        self.device = device
        self._tag = 0

    def command(
        self, block: bytes, length: int = 0, data: bytes = b""
    ) -> tuple[bytes, int, int]:
        """Data, status and residue."""
        self._tag += 1
        flags = 0 if data else 0x80
        head = struct.pack(
            "<4sIIBBB16s",
            *(b"USBC", self._tag, length or len(data), flags, 0, len(block), block),
        )
        self.device.run(BULK, 0x02, head)
        got = b""
        if data:
            self.device.run(BULK, 0x02, data)
        elif length:
            got = bytes(self.device.run(BULK, 0x81, length).data)
        status = bytes(self.device.run(BULK, 0x81, 13).data)
        signature, tag, residue, code = struct.unpack("<4sIIB", status)
        assert (signature, tag) == (b"USBS", self._tag)
        return got, code, residue


CAPACITY = cdb(0x25)
INQUIRY = bytes((0x12, 0, 0, 0, 36, 0))
SENSE = bytes((0x03, 0, 0, 0, 18, 0))


async def disk(tmp_path: Path) -> Host:
    """A disk of which 8 blocks were read and 2 written."""
    backend = EmulatedBackend(devices=[FlashDrive(bytearray(IMAGE))])
    (local,) = await backend.list_devices()
    there = Recorder(await backend.open(local))
    for setup in ENUMERATION:
        there.control(setup)
    host = Host(there)
    assert host.command(INQUIRY, 36)[1] == 0
    assert host.command(CAPACITY, 8)[1] == 0
    assert host.command(cdb(0x28, 8, 8), 8 * BLOCK)[1] == 0
    assert host.command(cdb(0x2A, 40, 2), data=b"w" * 2 * BLOCK)[1] == 0
    await backend.aclose()
    again = Recorder(await played(tmp_path / "d.pcapng", there.records))
    await again.device.set_configuration(1)
    return Host(again)


async def test_a_disk_answers_and_has_the_sectors_that_were_seen(
    tmp_path: Path,
) -> None:
    host = await disk(tmp_path)
    data, status, residue = host.command(INQUIRY, 36)
    assert (data[8:12], status, residue) == (b"rusb", 0, 0)
    assert host.command(CAPACITY, 8)[0] == struct.pack(">II", 63, BLOCK)
    whole = host.command(cdb(0x28, 8, 8), 8 * BLOCK)
    assert whole == (IMAGE[8 * BLOCK : 16 * BLOCK], 0, 0)
    part = host.command(cdb(0x28, 10, 3), 3 * BLOCK)  # as nobody asked before
    assert part == (IMAGE[10 * BLOCK : 13 * BLOCK], 0, 0)
    written = host.command(cdb(0x28, 41, 1), BLOCK)
    assert written == (b"w" * BLOCK, 0, 0)


async def test_what_is_written_now_is_read(tmp_path: Path) -> None:
    host = await disk(tmp_path)
    assert host.command(cdb(0x2A, 9, 1), data=b"n" * BLOCK) == (b"", 0, 0)
    found = host.command(cdb(0x28, 8, 2), 2 * BLOCK)
    assert found == (IMAGE[8 * BLOCK : 9 * BLOCK] + b"n" * BLOCK, 0, 0)


async def test_sectors_that_nobody_saw_cannot_be_read(tmp_path: Path) -> None:
    host = await disk(tmp_path)
    assert host.command(cdb(0x28, 15, 2), 2 * BLOCK) == (b"", 1, 2 * BLOCK)
    sense = host.command(SENSE, 18)[0]
    assert (sense[2], sense[12]) == (0x03, 0x11)
    assert host.command(bytes((0x5A,)) + bytes(9), 8)[1] == 1  # MODE SENSE
    assert host.command(SENSE, 18)[0][2] == 0x05


async def test_data_that_end_early_do_not_run_into_the_status(tmp_path: Path) -> None:
    host = await disk(tmp_path)
    found = host.command(cdb(0x28, 8, 1), 2 * BLOCK)
    assert found == (IMAGE[8 * BLOCK : 9 * BLOCK], 0, BLOCK)


async def test_a_reset_forgets_a_command_that_is_under_way(tmp_path: Path) -> None:
    host = await disk(tmp_path)
    head = struct.pack("<4sIIBBB16s", b"USBC", 9, BLOCK, 0, 0, 10, cdb(0x2A, 9, 1))
    host.device.run(BULK, 0x02, head)
    await host.device.device.reset()
    assert host.command(cdb(0x28, 9, 1), BLOCK)[0] == IMAGE[9 * BLOCK : 10 * BLOCK]


async def test_what_is_no_command_is_not_answered(tmp_path: Path) -> None:
    host = await disk(tmp_path)
    host.device.run(BULK, 0x02, b"nonsense")
    assert host.command(CAPACITY, 8)[1] == 0


# --------------------------------------------------------------------- refusals ----


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("replay", "needs replay:FILE"),
        ("replay:,device=1209:0001", "needs replay:FILE"),
        ("replay:x,device=12", "must be device=VID:PID"),
        ("replay:x,speed=fast", "must be a number"),
        ("replay:x,speed=-1", "must be a number"),
        ("replay:x,speed=nan", "must be a number"),
        ("replay:/nowhere/x.pcapng", "is not a file"),
        ("replay:/", "is not a file"),
    ],
)
def test_an_address_that_is_none(text: str, why: str) -> None:
    with pytest.raises(BackendError, match=why):
        load_backend(text)


async def test_another_device_is_named(tmp_path: Path) -> None:
    there, backend = await recorded("keyboard")
    path = tmp_path / "a,b.pcapng"
    path.write_bytes(pcapng(there.records))
    with pytest.raises(BackendError, match="it has no 0951:1666, but 1209:0002"):
        load_backend(f"replay:{path},device=0951:1666")
    await backend.aclose()


async def test_data_that_were_left_out_are_named(tmp_path: Path) -> None:
    there, backend = await recorded("keyboard")
    for endpoint, data, left_out in (
        (0x81, b"", True),
        (0x81, bytes(4), False),
        (0x01, b"", True),
        (0x01, bytes(4), False),
    ):
        urb = Urb(1, INTERRUPT, endpoint, 8)
        sent, came = (b"", data) if urb.is_in else (data, b"")
        path = tmp_path / "k.pcapng"
        end = record("C", urb, id=9, status=0, length=8, data=came, left_out=left_out)
        begin = record(
            "S", urb, id=9, status=-115, length=8, data=sent, left_out=left_out
        )
        path.write_bytes(pcapng([*there.records, begin, end]))
        with pytest.raises(BackendError, match="data of 1 transfers are not in the"):
            load_backend(f"replay:{path}")
    await backend.aclose()


def test_a_file_without_devices(tmp_path: Path) -> None:
    path = tmp_path / "empty.pcapng"
    path.write_bytes(pcapng([]))
    with pytest.raises(BackendError, match="no transfers of a device are in it"):
        load_backend(f"replay:{path}")


async def test_without_a_configuration_one_is_made_of_the_endpoints_used(
    tmp_path: Path,
) -> None:
    there, backend = await recorded("loopback")
    there.run(BULK, 0x02, b"first")
    there.run(BULK, 0x82, 512)
    records = [r for r in there.records if r[40:44] != bytes.fromhex("80060002")]
    again = Recorder(await played(tmp_path / "l.pcapng", records))
    await again.device.set_configuration(1)
    again.run(BULK, 0x02, b"first")
    assert bytes(again.run(BULK, 0x82, 512).data) == b"first"
    await backend.aclose()


# --------------------------------------------------------------------- anything ----

SHORTLY = (
    SetupPacket.get_descriptor(1, 0, 18),
    SetupPacket.get_descriptor(2, 0, 255),
    SetupPacket.set_configuration(1),
)
SETUPS = (
    *ENUMERATION,
    SetupPacket(0xA1, 0xFE, 0, 0, 1),
    SetupPacket(0x21, 0xFF, 0, 0, 0),
    SetupPacket.set_interface(0, 1),
    SetupPacket.clear_halt(0x81),
)


@pytest.mark.fuzz
async def test_any_file_is_refused_or_played() -> None:
    """Files with a few bytes changed, or cut."""
    logging.getLogger("rusb.client.backends._replayed").setLevel(logging.ERROR)
    source = chance(15)
    disk = await disk_records()
    texts = [pcapng(disk), pcap(disk)]
    there, backend = await recorded("keyboard", SHORTLY)
    texts.append(pcapng(there.records))
    await backend.aclose()
    read = 0
    for n in range(inputs(20_000)):
        data = bytearray(texts[n % len(texts)])
        for _ in range(source.choice((1, 2, 5, 30))):
            at = source.randrange(len(data))
            data[at] = source.choice((0, 1, 0x7F, 0x80, 0xFF, source.randrange(256)))
        if source.random() < 0.1:
            del data[source.randrange(len(data)) :]
        try:
            devices = read_capture(bytes(data))
        except ParseError:
            continue
        read += 1
        for captured in devices[:1]:
            try:
                device = ReplayedDevice(captured, 0)
            except ParseError:
                continue
            if not n % 4:
                play(device, source.choice(SETUPS))
    assert read > inputs(20_000) // 4


def play(device: ReplayedDevice, setup: SetupPacket) -> None:
    device.power_on()
    results: list[UrbResult] = []
    urbs = [Urb.control(1, setup), Urb.control(2, SetupPacket.set_configuration(1))]
    wrapper = b"USBC" + bytes(4) + b"\0\2\0\0\x80\0\x0a" + cdb(0x28, 8, 1) + bytes(6)
    urbs += [Urb(3, BULK, 2, 31, wrapper), Urb(4, BULK, 0x81, 512)]
    urbs += [Urb(5, INTERRUPT, 0x81, 8), Urb(6, BULK, 0x81, 13)]
    for urb in urbs:
        device.submit(urb, results.append)
    device.power_off()
    device.detached()
    assert len(results) == len(urbs)


async def disk_records() -> list[bytes]:
    backend = EmulatedBackend(devices=[FlashDrive(bytearray(IMAGE))])
    (local,) = await backend.list_devices()
    there = Recorder(await backend.open(local))
    for setup in SHORTLY:
        there.control(setup)
    host = Host(there)
    host.command(CAPACITY, 8)
    host.command(cdb(0x28, 8, 1), BLOCK)
    await backend.aclose()
    return there.records
