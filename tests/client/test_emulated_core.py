"""The semantics of USB that every emulated device has."""

import asyncio
import struct
from collections.abc import Sequence

import pytest

from rusb.client.backends._emulated.core import Data, EmulatedDevice
from rusb.client.backends._emulated.describe import bulk, describe, interrupt
from rusb.client.backends._emulated.loopback import Loopback
from rusb.errors import BackendError, DeviceGone
from rusb.usb.bos import BosDescriptor
from rusb.usb.descriptors import InterfaceDescriptor
from rusb.usb.setup import SetupPacket
from rusb.usb.types import DescriptorType, Speed, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from tests.support.usbhost import plugged

OK, STALL, CANCELLED = UrbStatus.OK, UrbStatus.STALL, UrbStatus.CANCELLED
BULK, ISO = TransferType.BULK, TransferType.ISOCHRONOUS
ENGLISH = 0x0409


class Source(EmulatedDevice):
    """Gives pieces that a test puts in ``pieces``; keeps what it is given."""

    IN, OUT = 0x81, 0x01

    def __init__(self, speed: Speed = Speed.HIGH) -> None:
        ends = (bulk(self.IN, speed), bulk(self.OUT, speed))
        interface = InterfaceDescriptor(0, 0, 0xFF, 0, 0, endpoints=ends)
        super().__init__(describe(speed, 0x10, interface), ("a", "b", "c"), speed=speed)
        self.pieces: list[bytes] = []
        self.taken: list[bytes] = []

    def give(self, *pieces: bytes) -> None:
        self.pieces += pieces
        self.kick(self.IN)

    def data_in(self, endpoint: int, room: int) -> Data | None:
        return self.pieces.pop(0) if self.pieces else None

    def data_out(self, endpoint: int, data: Data) -> bool:
        self.taken.append(bytes(data))
        return True


# ------------------------------------------------------ standard requests ----


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER])
async def test_a_host_can_enumerate_it(speed: Speed) -> None:
    device = Loopback(speed=speed)
    async with plugged(device) as host:
        found = host.enumerate()
        assert found == device.descriptors
        assert found.device.max_packet_size0 == (9 if speed is Speed.SUPER else 64)
        assert host.string(found.device.product) == "Loopback"
        assert host.string(found.device.serial) == "525553420004"
        size = {Speed.FULL: 64, Speed.HIGH: 512, Speed.SUPER: 1024}[speed]
        endpoints = found.configurations[0].interfaces[0].endpoints
        assert {e.packet_size for e in endpoints if e.transfer_type is BULK} == {size}
        assert all((e.companion is not None) == (speed >= 4) for e in endpoints)


async def test_descriptors_are_cut_at_wlength() -> None:
    async with plugged(Loopback()) as host:
        whole = host.descriptor(DescriptorType.DEVICE, length=255)
        assert len(whole) == 18
        for length in range(19):
            assert (
                host.descriptor(DescriptorType.DEVICE, length=length)
                == (whole[:length])
            )


async def test_a_string_in_another_language_stalls() -> None:
    async with plugged(Loopback()) as host:
        assert host.descriptor(DescriptorType.STRING) == b"\x04\x03\x09\x04"
        assert host.request(0x80, 6, 0x0301, ENGLISH, 255) is not None
        assert host.request(0x80, 6, 0x0301, 0x0407, 255) is None
        assert host.request(0x80, 6, 0x0304, ENGLISH, 255) is None


async def test_a_device_without_strings_has_no_language_table() -> None:
    device = Source()
    device.strings = ()
    async with plugged(device) as host:
        assert host.request(0x80, 6, 0x0300, 0, 255) is None


async def test_a_high_speed_device_says_what_it_is_at_full_speed() -> None:
    async with plugged(Loopback()) as host:
        qualifier = host.descriptor(DescriptorType.DEVICE_QUALIFIER)
        assert qualifier.hex() == "0a060002ff0000400100"  # USB 2.0, 9.6.2
        other = host.descriptor(DescriptorType.OTHER_SPEED_CONFIGURATION, length=9)
        assert other[1] == DescriptorType.OTHER_SPEED_CONFIGURATION
        total = int.from_bytes(other[2:4], "little")
        other = host.descriptor(7, length=total)
        assert len(other) == total
        offset = 9 + 9  # to the first endpoint, which is bulk
        assert struct.unpack_from("<BBBBH", other, offset)[2:] == (0x81, 2, 64)


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.SUPER])
async def test_other_speeds_have_no_qualifier(speed: Speed) -> None:
    async with plugged(Loopback(speed=speed)) as host:
        assert host.request(0x80, 6, 0x0600, 0, 10) is None
        assert host.request(0x80, 6, 0x0700, 0, 9) is None


async def test_only_super_speed_has_a_bos() -> None:
    async with plugged(Loopback()) as host:
        assert host.request(0x80, 6, 0x0F00, 0, 5) is None
    async with plugged(Loopback(speed=Speed.SUPER)) as host:
        bos = BosDescriptor.parse(host.descriptor(DescriptorType.BOS))
        assert [c[2] for c in bos.capabilities] == [2, 3]  # USB 3.2, table 9-14
        assert [len(c) for c in bos.capabilities] == [7, 10]


async def test_unknown_descriptors_and_requests_stall() -> None:
    async with plugged(Loopback()) as host:
        assert host.request(0x80, 6, 0x0201, 0, 9) is None  # a second configuration
        assert host.request(0x80, 6, 0x4200, 0, 9) is None
        assert host.request(0x80, 12, 0, 0, 2) is None
        assert host.request(0x00, 7, 0x0100, 0, 0) is None
        assert host.request(0xA1, 0x55, 0, 0, 1) is None
        assert host.request(0x00, 48, 0, 0, 0) is None  # SET_SEL, not at high speed


async def test_configuration_and_alternate_settings_are_selected() -> None:
    async with plugged(Loopback()) as host:
        assert host.request(0x80, 8, 0, 0, 1) == b"\x01"  # as the system left it
        assert host.request(0x00, 9, 2) is None
        assert host.request(0x00, 9, 0) == b""
        assert host.request(0x80, 8, 0, 0, 1) == b"\x00"
        assert host.request(0x81, 10, 0, 1, 1) is None
        assert host.request(0x01, 11, 1, 1) is None
        assert host.request(0x00, 9, 1) == b""
        assert host.request(0x81, 10, 0, 1, 1) == b"\x00"
        assert host.request(0x01, 11, 1, 1) == b""
        assert host.request(0x81, 10, 0, 1, 1) == b"\x01"
        assert host.request(0x01, 11, 2, 1) is None
        assert host.request(0x01, 11, 1, 9) is None


async def test_status_tells_of_halts_and_of_wakeup() -> None:
    async with plugged(Loopback()) as host:
        assert host.request(0x80, 0, 0, 0, 2) == b"\x00\x00"
        assert host.request(0x81, 0, 0, 1, 2) == b"\x00\x00"
        assert host.request(0x81, 0, 0, 2, 2) is None
        assert host.request(0x82, 0, 0, 0x81, 2) == b"\x00\x00"
        assert host.request(0x82, 0, 0, 0x00, 2) == b"\x00\x00"
        assert host.request(0x82, 0, 0, 0x8F, 2) is None
        assert host.request(0x02, 3, 0, 0x81) == b""
        assert host.request(0x82, 0, 0, 0x81, 2) == b"\x01\x00"
        assert host.request(0x02, 3, 0, 0x8F) is None
        assert host.request(0x00, 3, 1) is None  # no remote wakeup


async def test_remote_wakeup_is_a_feature_of_devices_that_have_it() -> None:
    ends = (interrupt(0x81, Speed.FULL, 8),)
    interface = InterfaceDescriptor(0, 0, 0xFF, 0, 0, endpoints=ends)
    descriptors = describe(Speed.FULL, 0x10, interface, attributes=0xE0)
    async with plugged(EmulatedDevice(descriptors, speed=Speed.FULL)) as host:
        assert host.request(0x80, 0, 0, 0, 2) == b"\x01\x00"  # self-powered
        assert host.request(0x00, 3, 1) == b""
        assert host.request(0x80, 0, 0, 0, 2) == b"\x03\x00"
        assert host.request(0x00, 1, 1) == b""
        assert host.request(0x80, 0, 0, 0, 2) == b"\x01\x00"
        assert host.request(0x00, 3, 1) == b""
        await host.opened.reset()
        assert host.request(0x80, 0, 0, 0, 2) == b"\x01\x00"


async def test_super_speed_has_requests_of_its_own() -> None:
    async with plugged(Loopback(speed=Speed.SUPER)) as host:
        sel = SetupPacket(0x00, 48, 0, 0, 6)
        assert host.control(sel, bytes(6)).status is OK
        assert host.request(0x00, 49, 40) == b""
        assert host.request(0x00, 3, 48) == b""
        assert host.request(0x00, 3, 49) == b""
        assert host.request(0x80, 0, 0, 0, 2) == b"\x0c\x00"
        assert host.request(0x01, 3, 0, 0) == b""  # function suspend


async def test_the_data_stage_must_have_the_length_of_the_setup_packet() -> None:
    async with plugged(Loopback()) as host:
        store = SetupPacket(0x40, Loopback.STORE, 0, 0, 4)
        assert host.control(store, b"1234").status is OK
        assert host.control(store, b"12345").status is UrbStatus.INVALID
        assert host.control(store, b"").status is UrbStatus.INVALID
        assert host.request(0xC0, Loopback.READ_BACK, 0, 0, 64) == b"1234"
        nothing = Urb(99, TransferType.CONTROL, 0, 0)
        assert host.start(nothing).result.status is UrbStatus.INVALID


# ---------------------------------------------------------------- packets ----


async def test_in_waits_for_data_and_ends_at_a_short_packet() -> None:
    device = Source()
    async with plugged(device) as host:
        read = host.bulk(Source.IN, 4096)
        assert read.results == []
        device.give(bytes(100))
        assert (read.result.status, read.result.length) == (OK, 100)


async def test_in_gathers_full_packets_until_its_buffer_is_full() -> None:
    device = Source()
    async with plugged(device) as host:
        read = host.bulk(Source.IN, 2048)
        device.give(b"a" * 512)
        device.give(b"b" * 1024)
        assert read.results == []
        device.give(b"c" * 512 + b"d" * 300)
        assert bytes(read.result.data) == b"a" * 512 + b"b" * 1024 + b"c" * 512
        assert bytes(host.bulk(Source.IN, 512).result.data) == b"d" * 300


async def test_in_ends_at_a_zero_length_packet() -> None:
    device = Source()
    async with plugged(device) as host:
        read = host.bulk(Source.IN, 4096)
        device.give(bytes(1024), b"")
        assert (read.result.status, read.result.length) == (OK, 1024)
        device.give(b"")
        assert host.bulk(Source.IN, 4096).result == UrbResult(OK)


async def test_a_packet_that_does_not_fit_overflows_and_is_lost() -> None:
    device = Source()
    async with plugged(device) as host:
        device.give(b"a" * 512 + b"b" * 512 + b"c" * 512 + b"d" * 10)
        result = host.bulk(Source.IN, 700).result
        assert result.status is UrbStatus.OVERFLOW
        assert bytes(result.data) == b"a" * 512
        assert bytes(host.bulk(Source.IN, 700).result.data)[:1] == b"c"
        assert host.bulk(Source.IN, 700).results == []


async def test_a_read_of_nothing_needs_a_packet_of_nothing() -> None:
    device = Source()
    async with plugged(device) as host:
        read = host.bulk(Source.IN, 0)
        assert read.results == []
        device.give(b"")
        assert read.result == UrbResult(OK)
        device.give(b"1")
        assert host.bulk(Source.IN, 0).result.status is UrbStatus.OVERFLOW


async def test_sent_data_wait_in_order() -> None:
    device = Source()
    async with plugged(device) as host:
        assert device.send(Source.IN, b"one")
        assert device.send(Source.IN, b"two")
        assert bytes(host.bulk(Source.IN, 64).result.data) == b"one"
        assert bytes(host.bulk(Source.IN, 64).result.data) == b"two"
        assert not device.send(0x8F, b"nowhere")


async def test_out_keeps_transfers_apart_and_counts_bytes() -> None:
    device = Source()
    async with plugged(device) as host:
        assert host.bulk(Source.OUT, b"abc").result == UrbResult(OK, b"", 3)
        assert host.bulk(Source.OUT, b"").result == UrbResult(OK)
        assert device.taken == [b"abc", b""]


async def test_completions_keep_the_order_of_submissions() -> None:
    device = Source()
    async with plugged(device) as host:
        reads = [host.bulk(Source.IN, 64) for _ in range(20)]
        for number in range(20):
            device.give(bytes((number,)))
        assert [r.result.data[0] for r in reads] == list(range(20))
        assert host.completed == sorted(host.completed)


async def test_submitting_from_a_completion_does_not_grow_the_stack() -> None:
    async with plugged(Loopback()) as host:
        left = 5000

        def again(result: UrbResult) -> None:
            nonlocal left
            assert result.status is OK
            left -= 1
            if left:
                host.submit(BULK, Loopback.SOURCE, 512, then=again)

        host.submit(BULK, Loopback.SOURCE, 512, then=again)
        assert left == 0
        assert len(host.completed) == 5000


# ------------------------------------------------------------------ halts ----


async def test_a_halted_endpoint_stalls_until_it_is_cleared() -> None:
    device = Source()
    async with plugged(device) as host:
        waiting = [host.bulk(Source.IN, 64) for _ in range(2)]
        device.halt(Source.IN)
        assert [w.result.status for w in waiting] == [STALL, STALL]
        device.give(b"x")
        assert host.bulk(Source.IN, 64).result.status is STALL
        assert host.bulk(Source.OUT, b"x").result.status is OK
        await host.opened.clear_halt(Source.IN)
        assert bytes(host.bulk(Source.IN, 64).result.data) == b"x"


async def test_a_stall_leaves_what_came_before_it() -> None:
    device = Source()
    async with plugged(device) as host:
        read = host.bulk(Source.IN, 4096)
        device.give(bytes(1024))
        device.halt(Source.IN)
        assert (read.result.status, read.result.length) == (STALL, 1024)


async def test_a_host_can_halt_an_endpoint_and_clear_it() -> None:
    async with plugged(Loopback()) as host:
        assert host.request(0x02, 3, 0, Loopback.SINK) == b""
        assert host.bulk(Loopback.SINK, b"x").result.status is STALL
        assert host.request(0x02, 1, 0, Loopback.SINK) == b""
        assert host.bulk(Loopback.SINK, b"x").result.status is OK
        assert host.request(0x02, 1, 0, 0x0F) is None
        assert host.request(0x02, 1, 0, 0x00) == b""


async def test_selecting_a_configuration_clears_halts() -> None:
    device = Source()
    async with plugged(device) as host:
        device.halt(Source.OUT)
        await host.opened.set_configuration(1)
        assert host.bulk(Source.OUT, b"x").result.status is OK


# -------------------------------------- cancel, reset, unplug, bad transfers ----


async def test_a_cancelled_transfer_keeps_its_data_and_the_next_goes_on() -> None:
    device = Source()
    async with plugged(device) as host:
        first, second = host.bulk(Source.IN, 4096), host.bulk(Source.IN, 4096)
        device.give(bytes(512))
        host.opened.cancel(first.urb.id)
        assert (first.result.status, first.result.length) == (CANCELLED, 512)
        device.give(b"rest")
        assert bytes(second.result.data) == b"rest"
        host.opened.cancel(second.urb.id)
        host.opened.cancel(4711)
        assert len(second.results) == 1


async def test_one_in_the_middle_can_be_cancelled() -> None:
    device = Source()
    async with plugged(device) as host:
        reads = [host.bulk(Source.IN, 64) for _ in range(3)]
        host.opened.cancel(reads[1].urb.id)
        assert reads[1].result.status is CANCELLED
        device.give(b"a", b"b")
        assert [bytes(reads[n].result.data) for n in (0, 2)] == [b"a", b"b"]


async def test_a_reset_cancels_and_restores_the_configuration() -> None:
    device = Source()
    async with plugged(device) as host:
        read = host.bulk(Source.IN, 64)
        device.halt(Source.OUT)
        await host.opened.reset()
        assert read.result.status is CANCELLED
        assert host.request(0x80, 8, 0, 0, 1) == b"\x01"
        assert host.bulk(Source.OUT, b"x").result.status is OK


async def test_unplugging_completes_everything_once_with_no_device() -> None:
    device = Source()
    async with plugged(device) as host:
        reads = [host.bulk(Source.IN, 64) for _ in range(5)]
        host.backend.unplug(device)
        assert {r.result.status for r in reads} == {UrbStatus.NO_DEVICE}
        assert host.bulk(Source.OUT, b"x").result.status is UrbStatus.NO_DEVICE
        status = host.control(SetupPacket.get_descriptor(1)).status
        assert status is UrbStatus.NO_DEVICE
        host.opened.cancel(reads[0].urb.id)
        for call in (
            host.opened.reset(),
            host.opened.set_configuration(1),
            host.opened.claim_interface(0),
            host.opened.release_interface(0),
            host.opened.set_interface(0, 0),
            host.opened.clear_halt(0x81),
        ):
            with pytest.raises(DeviceGone):
                await call
        await host.opened.aclose()
        host.backend.plug(device)
        assert host.bulk(Source.OUT, b"x").result.status is UrbStatus.NO_DEVICE


async def test_an_endpoint_that_vanishes_cancels_its_transfers() -> None:
    async with plugged(Loopback()) as host:
        iso = host.submit(ISO, Loopback.ISO_IN, 8, (8,))
        assert iso.result.status is UrbStatus.INVALID
        await host.opened.set_interface(1, 1)
        kept = host.bulk(Loopback.BULK_IN, 512)
        iso = host.submit(ISO, Loopback.ISO_IN, 8, (8,))
        await host.opened.set_interface(1, 0)
        assert iso.result.status is CANCELLED
        assert kept.results == []
        await host.opened.set_configuration(0)
        assert kept.result.status is CANCELLED


async def test_t23_transfers_that_make_no_sense_are_invalid() -> None:
    async with plugged(Loopback()) as host:
        invalid = UrbStatus.INVALID
        assert host.bulk(0x8E, 64).result.status is invalid
        assert host.interrupt(Loopback.BULK_IN, 64).result.status is invalid
        assert host.bulk(Loopback.SOURCE, 1 << 31).result.status is invalid
        assert host.start(Urb(1, BULK, 0x81, -1)).result.status is invalid
        waiting = host.start(Urb(77, BULK, Loopback.BULK_IN, 64))
        assert host.start(Urb(77, BULK, Loopback.BULK_IN, 64)).result.status is invalid
        assert waiting.results == []


async def test_t25_the_number_of_waiting_transfers_is_limited() -> None:
    async with plugged(Loopback()) as host:
        reads = [host.bulk(Loopback.BULK_IN, 0) for _ in range(5000)]
        refused = [r for r in reads if r.results]
        assert len(refused) == 5000 - 4096
        assert {r.result.status for r in refused} == {UrbStatus.INVALID}


async def test_a_bug_in_a_device_is_an_io_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Source):
        def data_out(self, endpoint: int, data: Data) -> bool:
            raise ZeroDivisionError

        def control(self, setup: SetupPacket, data: Data) -> Data | None:
            raise ZeroDivisionError

    async with plugged(Broken()) as host:
        assert host.bulk(Source.OUT, b"x").result.status is UrbStatus.IO_ERROR
        broken = SetupPacket(0xC0, 1, 0, 0, 1)
        assert host.control(broken).status is UrbStatus.IO_ERROR
        assert host.bulk(Source.IN, 8).results == []
        assert caplog.text.count("bug") == 2


async def test_wrong_selections_are_backend_errors() -> None:
    async with plugged(Loopback()) as host:
        for call in (
            host.opened.set_configuration(9),
            host.opened.claim_interface(9),
            host.opened.release_interface(9),
            host.opened.set_interface(0, 1),
            host.opened.clear_halt(0x8E),
        ):
            with pytest.raises(BackendError, match="no"):
                await call
        await host.opened.claim_interface(0)
        await host.opened.claim_interface(0)
        await host.opened.release_interface(0)


# ------------------------------------------------------------ isochronous ----


class Microphone(Loopback):
    """Answers with packets of lengths a test chooses."""

    lengths: Sequence[int] = ()

    def iso_in(self, endpoint: int, lengths: Sequence[int]) -> Sequence[Data]:
        return [bytes((n,)) * n for n in self.lengths]


async def test_isochronous_packets_arrive_at_the_pace_of_the_frames() -> None:
    async with plugged(Loopback(speed=Speed.FULL)) as host:
        await host.opened.set_interface(1, 1)
        loop = asyncio.get_running_loop()
        start = loop.time()
        reads = [host.submit(ISO, Loopback.ISO_IN, 2560, (256,) * 10) for _ in range(4)]
        assert reads[0].results == []
        result = await host.until(reads[3])
        assert 0.039 <= loop.time() - start < 0.5
        assert result.length == 2560
        assert [p.length for p in result.packets] == [256] * 10
        numbers = [
            struct.unpack_from("<I", r.result.data, offset)[0]
            for r in reads
            for offset in range(0, 2560, 256)
        ]
        assert numbers == list(range(40))


async def test_isochronous_transfers_begin_in_the_frame_they_name() -> None:
    async with plugged(Loopback(speed=Speed.FULL)) as host:
        await host.opened.set_interface(1, 1)
        now = await host.opened.frame_number()
        assert now is not None
        soon, wanted = host.submit(ISO, Loopback.ISO_IN, 256, (256,)), now + 500
        named = host.submit(ISO, Loopback.ISO_IN, 256, (256,), start_frame=wanted)
        behind = host.submit(ISO, Loopback.ISO_IN, 256, (256,))
        past = host.submit(ISO, Loopback.ISO_IN, 256, (256,), start_frame=now - 1)
        never = host.submit(ISO, Loopback.ISO_IN, 256, (256,), start_frame=now + 9999)
        await host.until(never)
        began = [t.result.start_frame for t in (soon, named, behind, past, never)]
        assert now <= began[0] <= wanted - 1
        assert began[1] == wanted
        assert began == sorted(set(began))  # a busy machine may leave frames out
        later = await host.opened.frame_number()
        assert later is not None
        assert later >= wanted


async def test_isochronous_out_counts_what_it_took() -> None:
    device = Loopback()
    async with plugged(device) as host:
        await host.opened.set_interface(1, 1)
        write = host.submit(ISO, Loopback.ISO_OUT, bytes(300), (100, 0, 200))
        result = await host.until(write)
        assert (result.status, result.length, result.data) == (OK, 300, b"")
        assert [p.length for p in result.packets] == [100, 0, 200]
        assert device.received == 300


async def test_isochronous_packets_may_be_short_or_too_long() -> None:
    device = Microphone()
    device.lengths = (10, 200, 0)
    async with plugged(device) as host:
        await host.opened.set_interface(1, 1)
        read = host.submit(ISO, Loopback.ISO_IN, 300, (100, 100, 100))
        result = await host.until(read)
        assert bytes(result.data) == b"\x0a" * 10
        assert [p.length for p in result.packets] == [10, 0, 0]
        assert [p.status for p in result.packets] == [OK, UrbStatus.OVERFLOW, OK]


@pytest.mark.parametrize(
    ("length", "packets"),
    [
        (0, ()),
        (8, ()),
        (8, (4, 5)),
        (2048, (2048,)),
        (8, (16, -8)),
        (1025, (1,) * 1025),
    ],
)
async def test_t24_isochronous_packets_must_add_up(
    length: int, packets: tuple[int, ...]
) -> None:
    async with plugged(Loopback()) as host:
        await host.opened.set_interface(1, 1)
        read = host.submit(ISO, Loopback.ISO_IN, length, packets)
        assert read.result.status is UrbStatus.INVALID


async def test_cancelling_the_first_isochronous_transfer_lets_the_next_finish() -> None:
    async with plugged(Loopback()) as host:
        await host.opened.set_interface(1, 1)
        first = host.submit(ISO, Loopback.ISO_IN, 800, (100,) * 8)
        second = host.submit(ISO, Loopback.ISO_IN, 800, (100,) * 8)
        host.opened.cancel(first.urb.id)
        assert first.result.status is CANCELLED
        assert (await host.until(second)).length == 800


async def test_closing_cancels_and_leaves_the_device_as_it_was() -> None:
    device = Loopback()
    async with plugged(device) as host:
        read = host.bulk(Loopback.BULK_IN, 64)
        await host.opened.set_interface(1, 1)
        await host.opened.aclose()
        await host.opened.aclose()
        assert read.result.status is CANCELLED
        assert device.state.alternates == {0: 0, 1: 0}
        gone = host.bulk(Loopback.SINK, b"x").result.status
        assert gone is UrbStatus.NO_DEVICE
