"""What our drivers ask of serial chips, and how they read what these say.

Requests marked "Linux" are those that the drivers of Linux 6.1 made of the chips of
tests/lab/test_serial_chips.py for the same settings.
"""

from collections.abc import Sequence

import pytest

from rusb.server.serial.chips import find_ports
from rusb.server.serial.driver import (
    Flow,
    Line,
    LineErrors,
    Modem,
    Parity,
    Request,
    SerialDriver,
    StopBits,
)
from rusb.server.serial.ftdi import divisor
from rusb.server.serial.pl2303 import baud_code
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
    EndpointDescriptor,
    InterfaceDescriptor,
)
from tests.support.amount import chance, inputs
from tests.support.chips import bulk, interrupt
from tests.support.serial_peers import CHIPS

SEVEN_O_TWO = Line(9600, 7, Parity.ODD, StopBits.TWO)
EVEN, SPACE = Line(115200, 8, Parity.EVEN), Line(250000, 8, Parity.SPACE)
BREAK, FRAMING, WRONG = LineErrors.BREAK, LineErrors.FRAMING, LineErrors.PARITY


def driver(name: str) -> SerialDriver:
    (found,) = find_ports(CHIPS[name]().descriptors)
    return found


def seen(requests: Sequence[Request]) -> list[tuple[int, int, int, str]]:
    return [(s.request, s.value, s.index, d.hex()) for s, d in requests]


LINES = [  # Linux
    ("cdc-acm", SEVEN_O_TWO, [(0x20, 0, 0, "80250000020107")]),
    ("ftdi", Line(57600), [(3, 0xC034, 0, ""), (4, 8, 0, "")]),
    ("ftdi", EVEN, [(3, 26, 0, ""), (4, 520, 0, "")]),
    ("ftdi", SEVEN_O_TWO, [(3, 16696, 0, ""), (4, 4359, 0, "")]),
    ("ftdi", Line(38400, 8, Parity.MARK), [(3, 49230, 0, ""), (4, 776, 0, "")]),
    ("ftdi", SPACE, [(3, 12, 0, ""), (4, 1032, 0, "")]),
    ("cp210x", SEVEN_O_TWO, [(30, 0, 0, "80250000"), (3, 1810, 0, "")]),
    (
        "cp210x",
        SPACE,
        [(30, 0, 0, "90d00300"), (3, 2112, 0, "")],
    ),
    ("ch340", Line(9600), [(154, 4882, 45698, ""), (154, 9496, 195, "")]),
    ("ch340", Line(57600), [(154, 4882, 39043, ""), (154, 9496, 195, "")]),
    (
        "ch340",
        EVEN,
        [(154, 4882, 52355, ""), (154, 9496, 219, "")],
    ),
    ("ch340", SEVEN_O_TWO, [(154, 4882, 45698, ""), (154, 9496, 206, "")]),
    ("pl2303", SEVEN_O_TWO, [(0x20, 0, 0, "80250000020107")]),
]


@pytest.mark.parametrize(("name", "line", "requests"), LINES)
def test_line_settings(
    name: str, line: Line, requests: list[tuple[int, int, int, str]]
) -> None:
    assert seen(driver(name).set_line(line)) == requests


OUTPUTS = [  # DTR without RTS; Linux
    ("cdc-acm", (0x22, 1, 0, "")),
    ("ftdi", (1, 0x301, 0, "")),
    ("cp210x", (7, 0x301, 0, "")),
    ("ch340", (164, 0xDF, 0, "")),
    ("pl2303", (0x22, 1, 0, "")),
]


@pytest.mark.parametrize(("name", "request_"), OUTPUTS)
def test_outputs(name: str, request_: tuple[int, int, int, str]) -> None:
    assert seen(driver(name).set_outputs(dtr=True, rts=False)) == [request_]


@pytest.mark.parametrize("name", CHIPS)
def test_a_chip_takes_every_request(name: str) -> None:
    chip = CHIPS[name]()
    (ours,) = find_ports(chip.descriptors)

    def run(requests: Sequence[Request]) -> None:
        for setup, data in requests:
            answer = chip.control(setup, data)
            assert answer is not None, setup
            assert len(answer) <= setup.length

    run(ours.opening())
    for baud in (50, 300, 1200, 9600, 115200, 230400, 921600, 1_000_000, 2_000_000):
        run(ours.set_line(Line(baud)))
        if name == "ftdi" and baud < 300:  # its divisor has 14 bits
            continue
        assert abs(chip.baud - baud) <= baud * 0.03, baud
    for parity in Parity:
        for stop in (StopBits.ONE, StopBits.TWO):
            for bits in (7, 8):
                run(ours.set_line(Line(9600, bits, parity, stop)))
                wanted = (bits, "NOEMS"[parity], 2.0 if stop else 1.0)
                assert chip.settings[1:] == wanted
    for flow in ours.flows:
        run(ours.set_flow(flow))
        names = {Flow.NONE: "", Flow.HARDWARE: "hardware", Flow.SOFTWARE: "software"}
        assert chip.flow == names[flow]
    run(ours.set_flow(Flow.NONE))
    for dtr in (False, True):
        for rts in (True, False):
            run(ours.set_outputs(dtr=dtr, rts=rts))
            assert (chip.dtr, chip.rts) == (dtr, rts)
    for is_on in (True, False):
        run(ours.set_break(is_on=is_on))
        assert chip.is_break is is_on
    assert chip.breaks == 1
    assert chip.settings[1:] == (8, "S", 2.0)  # a break changes nothing else
    for received in (False, True):
        for sent in (False, True):
            run(ours.purge(received=received, sent=sent))
    run(ours.closing())


# ------------------------------------------------------------------- bit rates ----


@pytest.mark.parametrize(
    ("baud", "code"),
    [  # FTDI's AN 120, AN 232B-05
        *((3_000_000, 0), (2_000_000, 1), (1_500_000, 2), (1_000_000, 3)),
        *((300, 10000), (19200, 0x809C), (2_500_000, 0), (1_700_000, 1)),
        *((4_000_000, 0), (1, 0x7FFF | 1 << 15 | 1 << 14 | 1 << 16)),
    ],
)
def test_divisors_of_ftdi(baud: int, code: int) -> None:
    assert divisor(baud) == code if baud > 1 else divisor(baud) >> 16 == 1


@pytest.mark.parametrize(
    ("baud", "code"), [(12_000_000, 0x20000), (6_000_000, 0x20002), (300, 10000)]
)
def test_divisors_of_fast_chips(baud: int, code: int) -> None:
    assert divisor(baud, is_high_speed=True) == code


def pl2303(
    product: int = 0x2303, usb: int = 0x0110, version: int = 0x0300
) -> DeviceDescriptor:
    return DeviceDescriptor(usb, 0, 0, 0, 64, 0x067B, product, version)


@pytest.mark.parametrize(
    ("baud", "device", "code"),
    [
        (115200, pl2303(), 115200),
        (250000, pl2303(), 0x80000380),  # 1536 = 384 * 4
        (250000, pl2303(usb=0x0200), 0x80000600),  # Linux, of a TA
        (1000, pl2303(usb=0x0200), 1200),
        (250000, pl2303(0x23A3), 250000),
        (1, pl2303(), 0x80000FFF),
    ],
)
def test_bit_rates_of_pl2303(baud: int, device: DeviceDescriptor, code: int) -> None:
    assert baud_code(baud, device) == code


# ------------------------------------------------------------- what they tell ----


def test_ftdi_takes_the_status_out_of_each_packet() -> None:
    ours = driver("ftdi")
    packet = b"\x11\x60" + bytes(range(62))
    assert ours.take(packet + packet + b"\xb1\x62ab") == bytes(range(62)) * 2 + b"ab"
    assert ours.modem == Modem.CTS | Modem.DSR | Modem.CD
    assert ours.take_errors() == LineErrors.OVERRUN
    assert ours.take_errors() == LineErrors.NONE
    for odd in (b"", b"\x01", b"\x01\x60", packet + b"\x41"):
        assert ours.take(odd) == odd[2:64]
    assert ours.modem == Modem.RI


@pytest.mark.parametrize(
    ("name", "data", "modem", "errors"),
    [
        ("cdc-acm", "a1200000000002000300", Modem.CD | Modem.DSR, LineErrors.NONE),
        ("cdc-acm", "a1200000000002004c00", Modem.RI, BREAK | LineErrors.OVERRUN),
        ("cdc-acm", "a12000000000020003", Modem.NONE, LineErrors.NONE),  # cut off
        ("cdc-acm", "a1000000000002000300", Modem.NONE, LineErrors.NONE),
        ("pl2303", "a1200000000002008200", Modem.CTS | Modem.DSR, LineErrors.NONE),
        ("pl2303", "a120000000000200", Modem.NONE, LineErrors.NONE),
        (
            "pl2303",
            "a12000000000020034",
            Modem.NONE,
            BREAK | FRAMING | LineErrors.PARITY,
        ),
        ("ch340", "083ffaee00000000", Modem.CTS | Modem.RI, LineErrors.NONE),
        ("ch340", "083f", Modem.NONE, LineErrors.NONE),
    ],
)
def test_notifications(name: str, data: str, modem: Modem, errors: LineErrors) -> None:
    ours = driver(name)
    ours.notified(bytes.fromhex(data))
    assert (ours.modem, ours.take_errors()) == (modem, errors)


@pytest.mark.parametrize("name", ["cp210x", "ch340"])
def test_chips_that_can_be_asked(name: str) -> None:
    chip = CHIPS[name]()
    (ours,) = find_ports(chip.descriptors)
    chip.set_lines(True, False)
    asking = ours.asking()
    assert asking is not None
    answer = chip.control(*asking)
    assert answer
    ours.answered(bytes(answer))
    assert ours.modem == Modem.DSR | Modem.CD
    ours.answered(b"")
    assert ours.modem == Modem.DSR | Modem.CD


# ---------------------------------------------------------- which driver it is ----


def described(
    vendor: int, product: int, *interfaces: InterfaceDescriptor
) -> DeviceDescriptors:
    device = DeviceDescriptor(0x0200, 0, 0, 0, 64, vendor, product, 0x0800)
    configuration = ConfigurationDescriptor(1, 0x80, 50, interfaces)
    return DeviceDescriptors(device, (configuration,))


def vendors(*endpoints: EndpointDescriptor, number: int = 0) -> InterfaceDescriptor:
    return InterfaceDescriptor(number, 0, 0xFF, 0, 0, endpoints=endpoints)


def test_a_chip_with_several_ports_has_one_driver_for_each() -> None:
    interfaces = [
        vendors(bulk(0x81 + 2 * n), bulk(2 + 2 * n), number=n) for n in range(4)
    ]
    ports = find_ports(described(0x0403, 0x6011, *interfaces))
    assert [p.interface.data_in.address for p in ports] == [0x81, 0x83, 0x85, 0x87]
    assert seen(ports[2].set_outputs(dtr=True, rts=True)) == [(1, 0x303, 3, "")]
    assert seen(ports[2].set_line(Line(12_000_000)))[0] == (3, 0, 0x0203, "")


def test_the_union_names_the_data_interface() -> None:
    control = InterfaceDescriptor(
        *(4, 0, 2, 2, 1), extra=bytes.fromhex("0524001001 0524060407")
    )
    data = InterfaceDescriptor(7, 0, 10, 0, 0, endpoints=(bulk(0x81), bulk(0x02)))
    other = InterfaceDescriptor(5, 0, 10, 0, 0, endpoints=(bulk(0x83), bulk(0x04)))
    (port,) = find_ports(described(0x1209, 1, control, other, data))
    assert (port.interface.number, port.interface.data_in.address) == (4, 0x81)
    assert seen(port.set_outputs(dtr=False, rts=True)) == [(0x22, 2, 4, "")]


@pytest.mark.parametrize(
    "extra", ["", "05", "0024060001", "ff24060001", "0524ff0001", "05240600"]
)
def test_odd_functional_descriptors_are_survived(extra: str) -> None:
    control = InterfaceDescriptor(0, 0, 2, 2, 1, extra=bytes.fromhex(extra))
    data = InterfaceDescriptor(1, 0, 10, 0, 0, endpoints=(bulk(0x81), bulk(0x02)))
    (port,) = find_ports(described(0x1209, 1, control, data))
    assert port.interface.data_out.address == 0x02


@pytest.mark.parametrize(
    ("vendor", "product", "interface"),
    [
        (0x1209, 1, InterfaceDescriptor(0, 0, 8, 6, 80, 0, (bulk(0x81), bulk(2)))),
        (0x1209, 1, InterfaceDescriptor(0, 0, 2, 2, 1)),
        (0x1209, 1, vendors(bulk(0x81), bulk(2))),
        (0x0403, 0x6001, vendors(bulk(0x81))),
        (0x0403, 0x6001, vendors(bulk(0x81, 0), bulk(2))),
        (0x067B, 0x2303, vendors(interrupt(0x81, 10))),
    ],
)
def test_no_serial_port(
    vendor: int, product: int, interface: InterfaceDescriptor
) -> None:
    assert find_ports(described(vendor, product, interface)) == []


def test_a_device_without_configuration_has_no_port() -> None:
    device = DeviceDescriptor(0x0200, 0, 0, 0, 64, 0x0403, 0x6001, 0x0600)
    assert find_ports(DeviceDescriptors(device, ())) == []


@pytest.mark.fuzz
@pytest.mark.parametrize("name", CHIPS)
def test_no_answer_of_a_chip_breaks_its_driver(name: str) -> None:
    random = chance(7)
    ours = driver(name)
    for _ in range(inputs(2000)):
        data = random.randbytes(random.choice((0, 1, 2, 3, 8, 9, 10, 63, 64, 65, 200)))
        assert len(ours.take(data)) <= len(data)
        ours.notified(data)
        ours.answered(data)
        assert ours.modem & ~0xF0 == 0
        assert ours.take_errors() & ~0x1E == 0


@pytest.mark.fuzz
def test_no_descriptors_break_the_choice_of_a_driver() -> None:
    random = chance(8)
    for _ in range(inputs(2000)):
        ends = [
            EndpointDescriptor(
                random.randrange(256), random.randrange(4), random.choice((0, 8, 64)), 0
            )
            for _ in range(random.randrange(4))
        ]
        interfaces = [
            InterfaceDescriptor(
                *(random.randrange(3), random.randrange(2)),
                *(random.choice((2, 10, 0xFF)), random.choice((0, 2)), 0, 0),
                endpoints=tuple(random.sample(ends, random.randrange(len(ends) + 1))),
                extra=random.randbytes(random.randrange(12)),
            )
            for _ in range(random.randrange(5))
        ]
        vendor, product = random.choice(((0x0403, 0x6001), (0x067B, 0x2303), (1, 2)))
        for port in find_ports(described(vendor, product, *interfaces)):
            assert port.interface.data_in.packet_size
            assert port.set_outputs(dtr=True, rts=True)
