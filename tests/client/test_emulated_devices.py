"""Keyboard, serial port and loopback through USB."""

import struct

import pytest

from rusb.client.backends._emulated.cdc_acm import SerialLoopback
from rusb.client.backends._emulated.keyboard import Keyboard
from rusb.client.backends._emulated.loopback import Loopback
from rusb.errors import BackendError
from rusb.usb.descriptors import InterfaceAssociation
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Speed
from rusb.usb.urb import UrbResult, UrbStatus
from tests.support.usbhost import Host, plugged

OK = UrbStatus.OK

# --------------------------------------------------------------- keyboard ----


def read_reports(host: Host) -> list[bytes]:
    reports = []
    while (pending := host.interrupt(Keyboard.IN, 8)).results:
        reports.append(bytes(pending.result.data))
    host.opened.cancel(pending.urb.id)
    return reports


async def test_a_keyboard_is_a_boot_keyboard() -> None:
    async with plugged(Keyboard()) as host:
        found = host.enumerate()
        (interface,) = found.configurations[0].interfaces
        codes = interface.interface_class, interface.interface_subclass
        assert (*codes, interface.interface_protocol) == (3, 1, 1)
        hid = host.request(0x81, 6, 0x2100, 0, 255)
        assert hid == interface.extra
        assert hid is not None
        report = host.request(0x81, 6, 0x2200, 0, 255)
        assert report is not None
        assert struct.unpack_from("<H", hid, 7) == (len(report),) == (63,)
        assert report[:6].hex() == "05010906a101"  # HID 1.11, B.1
        assert report[-1:] == b"\xc0"
        assert host.request(0x81, 6, 0x2300, 0, 255) is None


async def test_typing_sends_the_reports_of_the_keys() -> None:
    device = Keyboard()
    async with plugged(device) as host:
        device.type_text("hI!\n")
        up = bytes(8)
        assert read_reports(host) == [
            bytes.fromhex("00000b0000000000"),
            up,
            bytes.fromhex("02000c0000000000"),
            up,
            bytes.fromhex("02001e0000000000"),
            up,
            bytes.fromhex("0000280000000000"),
            up,
        ]


async def test_every_key_of_the_layout_is_where_hid_says() -> None:
    device = Keyboard()
    async with plugged(device) as host:
        plain = "az10 -=[]\\;'`,./\t\b\x1b"
        device.type_text(plain)
        keys = [r[2] for r in read_reports(host)[::2]]
        assert keys == [
            *(0x04, 0x1D, 0x1E, 0x27, 0x2C, 0x2D, 0x2E, 0x2F, 0x30, 0x31),
            *(0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x2B, 0x2A, 0x29),
        ]
        device.type_text('AZ!)_+{}|:"~<>?')
        reports = read_reports(host)[::2]
        assert {r[0] for r in reports} == {2}
        assert [r[2] for r in reports] == [
            *(0x04, 0x1D, 0x1E, 0x27, 0x2D, 0x2E, 0x2F, 0x30, 0x31),
            *(0x33, 0x34, 0x35, 0x36, 0x37, 0x38),
        ]


async def test_a_waiting_host_gets_the_report_at_once() -> None:
    device = Keyboard()
    async with plugged(device) as host:
        waiting = host.interrupt(Keyboard.IN, 8)
        device.press(0x04, 0x05, modifiers=1)
        assert waiting.result.data == bytes.fromhex("0100040500000000")
        state = host.request(0xA1, 1, 0x0100, 0, 8)
        assert state == waiting.result.data
        device.press()
        assert host.request(0xA1, 1, 0x0100, 0, 8) == bytes(8)


async def test_the_host_lights_leds_and_sets_idle_and_protocol() -> None:
    device = Keyboard()
    async with plugged(device) as host:
        setup = SetupPacket(0x21, 9, 0x0200, 0, 1)
        assert host.control(setup, b"\x05").status is OK
        assert device.leds == 5
        assert host.request(0xA1, 1, 0x0200, 0, 1) == b"\x05"
        assert host.request(0xA1, 2, 0, 0, 1) == b"\x7d"  # 500 ms
        assert host.request(0x21, 10, 0x0400, 0) == b""
        assert host.request(0xA1, 2, 0, 0, 1) == b"\x04"
        assert host.request(0xA1, 3, 0, 0, 1) == b"\x01"
        assert host.request(0x21, 11, 0, 0) == b""
        assert device.protocol == 0
        await host.opened.reset()
        assert (device.leds, device.protocol) == (0, 1)


async def test_requests_a_keyboard_does_not_know_stall() -> None:
    async with plugged(Keyboard()) as host:
        assert host.request(0x21, 11, 2, 0) is None
        assert host.request(0x21, 11, 0, 1) is None
        assert host.request(0xA1, 1, 0x0300, 0, 8) is None
        assert host.request(0xA1, 1, 0x0101, 0, 8) is None
        assert host.request(0xC0, 1, 0, 0, 8) is None
        setup = SetupPacket(0x21, 9, 0x0200, 0, 2)
        assert host.control(setup, b"12").status is UrbStatus.STALL


async def test_what_cannot_be_typed_is_refused_as_a_whole() -> None:
    device = Keyboard()
    async with plugged(device) as host:
        with pytest.raises(ValueError, match="no key for 'é'"):
            device.type_text("café")
        with pytest.raises(ValueError, match="7 keys"):
            device.press(*range(4, 11))
        with pytest.raises(BackendError, match="does not read"):
            device.type_text("a" * 5000)
        assert read_reports(host) == []
        device.type_text("a" * 4096)
        with pytest.raises(BackendError, match="does not read"):
            device.press()


async def test_nobody_sees_what_is_typed_before_configuration() -> None:
    device = Keyboard()
    async with plugged(device) as host:
        await host.opened.set_configuration(0)
        device.type_text("secret")
        await host.opened.set_configuration(1)
        assert read_reports(host) == []


# ------------------------------------------------------------------ serial ----


async def test_a_serial_port_is_a_modem_with_an_association() -> None:
    async with plugged(SerialLoopback()) as host:
        found = host.enumerate()
        device = found.device
        codes = device.device_class, device.device_subclass, device.device_protocol
        assert codes == (0xEF, 2, 1)
        (configuration,) = found.configurations
        assert configuration.members[0] == InterfaceAssociation(0, 2, 2, 2, 1)
        control, data = configuration.interfaces
        assert (control.interface_class, data.interface_class) == (2, 0x0A)
        assert control.interface_subclass == 2
        union = bytes.fromhex("0524060001")
        assert union in control.extra


async def test_what_is_written_to_the_port_comes_back() -> None:
    async with plugged(SerialLoopback()) as host:
        read = host.bulk(SerialLoopback.IN, 512)
        assert host.bulk(SerialLoopback.OUT, b"hello").result == UrbResult(OK, b"", 5)
        assert bytes(read.result.data) == b"hello"
        host.bulk(SerialLoopback.OUT, b"")
        assert host.bulk(SerialLoopback.IN, 512).results == []


async def test_whole_packets_are_followed_by_an_empty_one() -> None:
    async with plugged(SerialLoopback()) as host:
        host.bulk(SerialLoopback.OUT, bytes(1024))
        read = host.bulk(SerialLoopback.IN, 4096)
        assert read.result.length == 1024
        assert host.bulk(SerialLoopback.IN, 4096).results == []


async def test_the_port_makes_a_fast_writer_wait() -> None:
    async with plugged(SerialLoopback()) as host:
        writes = [host.bulk(SerialLoopback.OUT, bytes(65536)) for _ in range(40)]
        assert sum(bool(w.results) for w in writes) == 16
        reads = [host.bulk(SerialLoopback.IN, 65536) for _ in range(40)]
        assert all(w.results for w in writes)
        assert sum(r.result.length for r in reads) == 40 * 65536


async def test_line_coding_and_control_lines() -> None:
    device = SerialLoopback()
    async with plugged(device) as host:
        assert host.request(0xA1, 0x21, 0, 0, 7) == struct.pack("<IBBB", 9600, 0, 0, 8)
        coding = struct.pack("<IBBB", 115200, 2, 1, 7)
        setup = SetupPacket(0x21, 0x20, 0, 0, 7)
        assert host.control(setup, coding).status is OK
        assert host.request(0xA1, 0x21, 0, 0, 7) == coding
        assert device.line_coding == (115200, 2, 1, 7)
        notice = host.interrupt(SerialLoopback.NOTIFY, 16)
        assert host.request(0x21, 0x22, 3, 0) == b""
        assert device.control_lines == 3
        assert bytes(notice.result.data).hex() == "a1200000000002000300"
        assert host.request(0x21, 0x22, 1, 0) == b""  # DTR is as it was
        notice = host.interrupt(SerialLoopback.NOTIFY, 16)
        assert notice.results == []
        assert host.request(0x21, 0x22, 0, 0) == b""
        assert bytes(notice.result.data)[8:] == b"\0\0"
        assert host.request(0x21, 0x23, 100, 0) == b""
        assert host.request(0xA1, 0x21, 0, 1, 7) is None
        assert host.request(0x21, 0x7F, 0, 0) is None


# ---------------------------------------------------------------- loopback ----


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER])
async def test_bulk_data_come_back_packet_by_packet(speed: Speed) -> None:
    async with plugged(Loopback(speed=speed)) as host:
        host.bulk(Loopback.BULK_OUT, b"short")
        host.bulk(Loopback.BULK_OUT, bytes(1024))
        host.bulk(Loopback.BULK_OUT, b"")
        assert bytes(host.bulk(Loopback.BULK_IN, 4096).result.data) == b"short"
        assert host.bulk(Loopback.BULK_IN, 4096).result.length == 1024
        assert host.bulk(Loopback.BULK_IN, 4096).results == []


async def test_a_full_loopback_waits_for_its_reader() -> None:
    async with plugged(Loopback()) as host:
        data = [bytes((n,)) * 65536 for n in range(30)]
        writes = [host.bulk(Loopback.BULK_OUT, d) for d in data]
        assert sum(bool(w.results) for w in writes) == 16
        reads = [host.bulk(Loopback.BULK_IN, 65536) for _ in data]
        assert [bytes(r.result.data) for r in reads] == data
        assert all(w.result.status is OK for w in writes)


async def test_interrupt_data_come_back() -> None:
    async with plugged(Loopback()) as host:
        waiting = host.interrupt(Loopback.INTERRUPT_IN, 64)
        host.interrupt(Loopback.INTERRUPT_OUT, b"report")
        assert bytes(waiting.result.data) == b"report"


async def test_the_source_never_ends_and_the_sink_takes_all() -> None:
    device = Loopback()
    async with plugged(device) as host:
        for length in (1, 511, 512, 65536, 3 << 20):
            result = host.bulk(Loopback.SOURCE, length).result
            assert (result.status, result.length) == (OK, length)
        result = host.bulk(Loopback.SOURCE, 1024).result
        assert bytes(result.data) == (bytes(range(251)) * 5)[:1024]
        host.bulk(Loopback.SINK, bytes(65536))
        host.bulk(Loopback.SINK, bytes(5))
        assert device.received == 65541


async def test_vendor_requests() -> None:
    async with plugged(Loopback()) as host:
        assert host.request(0xC0, Loopback.IDENTIFY, 0, 0, 64) == Loopback.IDENTITY
        assert host.request(0xC0, Loopback.READ_BACK, 0, 0, 64) == b""
        for data in (b"abc", bytes(4096)):
            setup = SetupPacket(0x40, Loopback.STORE, 0, 0, len(data))
            assert host.control(setup, data).length == len(data)
            assert host.request(0xC0, Loopback.READ_BACK, 0, 0, 4096) == data
        setup = SetupPacket(0x40, Loopback.STORE, 0, 0, 4097)
        assert host.control(setup, bytes(4097)).status is UrbStatus.STALL
        assert host.request(0x40, Loopback.HALT, 0, Loopback.SINK) == b""
        assert host.bulk(Loopback.SINK, b"").result.status is UrbStatus.STALL
        assert host.request(0x40, Loopback.HALT, 0, 0x0F) is None
        assert host.request(0xC0, 9, 0, 0, 1) is None
