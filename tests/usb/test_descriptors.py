"""Descriptors against the examples of the specifications, and broken ones (T33)."""

import re

import pytest

from rusb.errors import ParseError
from rusb.usb.bos import BosDescriptor
from rusb.usb.descriptors import (
    MAX_NOTES,
    ConfigurationDescriptor,
    DeviceDescriptor,
    EndpointDescriptor,
    InterfaceAssociation,
    InterfaceDescriptor,
    SsCompanion,
)
from rusb.usb.strings import (
    parse_languages,
    parse_string,
    serialize_languages,
    serialize_string,
)
from rusb.usb.types import TransferType
from tests.support.amount import chance, inputs

# HID 1.11, appendix E: a keyboard with a mouse
HID_DEVICE = "12010001 00000008 ffff0100 0100040e 3001"
HID_KEYBOARD = "0904000001030101 00 0921010100012 23f00 07058103 08000a"
HID_MOUSE = "0904010001030102 00 092101010001 223200 07058203 08000a"
HID_CONFIGURATION = "09023b00020100a032" + HID_KEYBOARD + HID_MOUSE

# USB Audio 1.0, appendix B: a microphone; endpoint descriptors of nine bytes
MICROPHONE = (
    "09026400020100802d"
    "090400000001010000 09240100011e000101 0c2402010102000100000000"
    "092403020101000100"
    "090401000001020000"
    "090401010101020000 07240101010100 0b24020101021001401f00"
    "090582012800010000 07250100000000"
)

# Interface association ECN, example: video with two interfaces; here SuperSpeed
CAMERA = (
    "09024300020100807d"
    "080b00020e030005"
    "09040000000e010005"
    "0904010001 0e020000"
    "070581050004 01 06300f000030"
)


def from_hex(text: str) -> bytes:
    """Read hexadecimal and put the right wTotalLength in."""
    data = bytearray.fromhex(text.replace(" ", ""))
    data[2:4] = len(data).to_bytes(2, "little")
    return bytes(data)


CONFIGURATIONS = [from_hex(t) for t in (HID_CONFIGURATION, MICROPHONE, CAMERA)]


# ------------------------------------------------------------- as specified ----


def test_a_device_descriptor() -> None:
    data = bytes.fromhex(HID_DEVICE)
    device = DeviceDescriptor.parse(data)
    assert device == DeviceDescriptor(
        *(0x0100, 0, 0, 0, 8, 0xFFFF, 0x0001, 0x0001, 4, 0x0E, 0x30, 1)
    )
    assert device.serialize() == data
    assert DeviceDescriptor.parse(data + b"more") == device


def test_a_keyboard_with_a_mouse() -> None:
    data = from_hex(HID_CONFIGURATION)
    assert data[2] == 0x3B  # as the specification has it
    found = ConfigurationDescriptor.parse(data)
    assert (found.value, found.attributes, found.max_power) == (1, 0xA0, 0x32)
    assert found.interface_numbers == (0, 1)
    keyboard, mouse = found.interfaces
    assert keyboard == InterfaceDescriptor(
        *(0, 0, 3, 1, 1),
        endpoints=(EndpointDescriptor(0x81, 3, 8, 10),),
        extra=bytes.fromhex("0921010100012 23f00".replace(" ", "")),
    )
    (endpoint,) = mouse.endpoints
    assert endpoint.is_in
    assert endpoint.transfer_type is TransferType.INTERRUPT


def test_a_microphone_keeps_its_class_specific_descriptors() -> None:
    found = ConfigurationDescriptor.parse(from_hex(MICROPHONE))
    assert [(i.number, i.alternate) for i in found.interfaces] == [
        *((0, 0), (1, 0), (1, 1))
    ]
    streaming = found.interface(1, 1)
    assert streaming is not None
    assert len(streaming.extra) == 7 + 11
    (endpoint,) = streaming.endpoints
    assert (endpoint.tail, len(endpoint.extra)) == (b"\0\0", 7)
    assert endpoint.bytes_per_interval == 0x28
    assert found.interface(1, 2) is None


def test_a_camera_keeps_association_and_companion() -> None:
    found = ConfigurationDescriptor.parse(from_hex(CAMERA))
    assert found.members[0] == InterfaceAssociation(0, 2, 0x0E, 3, 0, 5)
    (endpoint,) = found.interfaces[1].endpoints
    assert endpoint.companion == SsCompanion(15, 0, 0x3000)
    assert endpoint.bytes_per_interval == 0x3000


@pytest.mark.parametrize("data", CONFIGURATIONS)
def test_a_configuration_is_serialized_as_it_was(data: bytes) -> None:
    found = ConfigurationDescriptor.parse(data)
    assert found.serialize() == data
    assert ConfigurationDescriptor.parse(data + b"\0more") == found


def test_unknown_descriptors_stay_where_they_are() -> None:
    otg, other = "03090 1", "04f00102"
    text = (
        "090200000201008000"
        + otg  # before the first interface
        + "080b000203000000"
        + other  # between an association and its interface
        + "090400000103000000"
        + other
        + "07058103080004"
        + other
        + "0630000000 08".replace(" ", "")  # not directly after its endpoint
        + "080b010103000000"
        + "090401000003000000"
        + other
    )
    data = from_hex(text)
    found = ConfigurationDescriptor.parse(data)
    assert found.serialize() == data
    assert found.extra == bytes.fromhex(otg.replace(" ", ""))
    first, second = (m for m in found.members if isinstance(m, InterfaceAssociation))
    assert (first.extra.hex(), second.extra) == (other, b"")
    (endpoint,) = found.interfaces[0].endpoints
    assert endpoint.companion is None


@pytest.mark.parametrize(
    ("max_packet_size", "bytes_per_interval"),
    [
        (0x0040, 64),
        (0x0400, 1024),
        (0x0C00, 2048),
        (0x1400, 3072),
        (0x0040 | 1 << 11, 128),
    ],
)
def test_high_bandwidth_endpoints_multiply(
    max_packet_size: int, bytes_per_interval: int
) -> None:
    endpoint = EndpointDescriptor(0x81, 1, max_packet_size, 1)
    assert endpoint.bytes_per_interval == bytes_per_interval  # USB 2.0, table 9-13


BOS = (  # USB 3.2, 9.6.2: USB 2.0 extension, SuperSpeed, container id
    "050f2a0003"
    "07100202000000"
    "0a1003000e00010aff07"
    "14100400000102030405060708090a0b0c0d0e0f"
)


def test_a_binary_object_store() -> None:
    data = bytes.fromhex(BOS)
    found = BosDescriptor.parse(data)
    assert [c[2] for c in found.capabilities] == [2, 3, 4]
    assert found.serialize() == data
    assert BosDescriptor.parse(data + b"more") == found


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("rusb", "0a03" + "7200750073006200"),
        ("", "0203"),
        ("µ😀", "0803b5003dd800de"),
    ],
)
def test_strings(text: str, wire: str) -> None:
    assert parse_string(bytes.fromhex(wire)) == text
    assert serialize_string(text).hex() == wire


def test_long_strings_are_cut_and_lone_surrogates_replaced() -> None:
    assert parse_string(serialize_string("x" * 200)) == "x" * 126
    assert parse_string(bytes.fromhex("060300d86100")) == "\ufffda"
    assert parse_string(bytes.fromhex("04037800") + b"more") == "x"


def test_language_tables() -> None:
    assert parse_languages(bytes.fromhex("060309040704")) == (0x0409, 0x0407)
    assert serialize_languages(0x0409).hex() == "04030904"
    assert parse_languages(b"\x02\x03") == ()  # T33: empty


# -------------------------------------------------------------- T33: broken ----


@pytest.mark.parametrize("data", CONFIGURATIONS)
def test_t33_a_configuration_cut_anywhere_is_refused(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(ParseError):
            ConfigurationDescriptor.parse(data[:length])


@pytest.mark.parametrize("length", [0, 1])
@pytest.mark.parametrize("data", CONFIGURATIONS)
def test_t33_descriptors_of_no_length_are_refused(data: bytes, length: int) -> None:
    offset = 0
    while offset < len(data):
        broken = bytearray(data)
        broken[offset] = length
        with pytest.raises(ParseError, match="bLength"):
            ConfigurationDescriptor.parse(bytes(broken))
        offset += data[offset]


@pytest.mark.parametrize("total", [0, 8, 0x3C, 0xFFFF])
def test_t33_a_total_length_that_lies_is_refused(total: int) -> None:
    data = bytearray(from_hex(HID_CONFIGURATION))
    data[2:4] = total.to_bytes(2, "little")
    with pytest.raises(ParseError, match=f"wTotalLength {total}, have 59"):
        ConfigurationDescriptor.parse(bytes(data))


@pytest.mark.parametrize("count", [0, 2, 255])
def test_t33_an_endpoint_count_that_lies_is_refused(count: int) -> None:
    data = bytearray(from_hex(HID_CONFIGURATION))
    data[9 + 4] = count
    with pytest.raises(ParseError, match=f"claims {count} endpoints, has 1"):
        ConfigurationDescriptor.parse(bytes(data))


@pytest.mark.parametrize(
    ("descriptor", "name"),
    [("0804000000030101", "interface"), ("070b0002030000", "association")],
)
def test_t33_descriptors_that_are_too_short_are_refused(
    descriptor: str, name: str
) -> None:
    with pytest.raises(ParseError, match=name):
        ConfigurationDescriptor.parse(from_hex("090200000101008000" + descriptor))
    endpoint = "090400000103000000" + "060581030800"
    with pytest.raises(ParseError, match="endpoint descriptor of 6"):
        ConfigurationDescriptor.parse(from_hex("090200000101008000" + endpoint))


def test_t33_nested_associations_and_stray_endpoints_change_nothing() -> None:
    association, stray = "080b00ff03000000", "07058103080004"
    interface = "090400000003000000"
    text = "090200000101008000" + stray + association * 3 + stray + interface
    found = ConfigurationDescriptor.parse(from_hex(text))
    assert found.serialize() == from_hex(text)
    assert found.interface_numbers == (0,)
    assert [e for i in found.interfaces for e in i.endpoints] == []


def test_t33_the_number_of_interfaces_is_counted_not_believed() -> None:
    data = bytearray(from_hex(HID_CONFIGURATION))
    data[4] = 200
    found = ConfigurationDescriptor.parse(bytes(data))
    assert found.interface_numbers == (0, 1)
    assert found.serialize()[4] == 2


def test_t33_other_descriptors_are_not_taken_for_what_was_asked() -> None:
    device, configuration = bytes.fromhex(HID_DEVICE), from_hex(HID_CONFIGURATION)
    with pytest.raises(ParseError, match="not a device descriptor"):
        DeviceDescriptor.parse(configuration)
    with pytest.raises(ParseError, match="not a configuration"):
        ConfigurationDescriptor.parse(device)
    with pytest.raises(ParseError, match="not a BOS"):
        BosDescriptor.parse(configuration)
    with pytest.raises(ParseError, match="bLength 17"):
        DeviceDescriptor.parse(b"\x11" + device[1:])
    for length in range(18):
        with pytest.raises(ParseError, match=f"of {length} bytes, not 18"):
            DeviceDescriptor.parse(device[:length])


@pytest.mark.parametrize(
    "data",
    [
        "",
        "050f0500",
        "040f050000",
        "050f040000",  # wTotalLength too small
        "050fffff01" + "0310 01".replace(" ", ""),  # T33: huge
        "050f080002" + "031001",  # count lies
        "050f080000" + "031001",
        "050f070001" + "0210",
        "050f080001" + "001001",
        "050f080001" + "041001",
    ],
)
def test_t33_a_broken_object_store_is_refused(data: str) -> None:
    with pytest.raises(ParseError):
        BosDescriptor.parse(bytes.fromhex(data))


@pytest.mark.parametrize(
    "data", ["", "02", "0003", "0103", "0303ff", "0503610062", "0403 61", "0402 6100"]
)
def test_t33_broken_strings_are_refused(data: str) -> None:
    with pytest.raises(ParseError, match="string descriptor"):
        parse_string(bytes.fromhex(data))
    with pytest.raises(ParseError, match="string descriptor"):
        parse_languages(bytes.fromhex(data))


@pytest.mark.fuzz
@pytest.mark.parametrize("data", CONFIGURATIONS)
def test_t33_random_damage_is_refused_or_parsed_for_good(data: bytes) -> None:
    generator, count = chance(len(data)), inputs(3000)
    refused = 0
    for _ in range(count):
        broken = bytearray(data)
        for _ in range(generator.randint(1, 3)):
            broken[generator.randrange(len(broken))] = generator.randrange(256)
        try:
            found = ConfigurationDescriptor.parse(bytes(broken))
        except ParseError:
            refused += 1
        else:
            assert ConfigurationDescriptor.parse(found.serialize()) == found
    assert 0 < refused < count


# ----------------------------------------------- T33: as real devices have them ----

INTERFACE, ENDPOINTS = "0904000002ff000000", ("07058102400000", "07050202400000")


def configuration(
    body: str, *, total: int | None = None, size: int = 9, count: int = 1
) -> bytes:
    data = bytes.fromhex(body.replace(" ", ""))
    total = 9 + len(data) if total is None else total
    return bytes((size, 2, *total.to_bytes(2, "little"), count, 1, 0, 0x80, 50)) + data


GOOD = configuration(INTERFACE + "".join(ENDPOINTS))
ODD = [
    ("fewer endpoints", configuration(INTERFACE + ENDPOINTS[0]), "claims 2 .* has 1"),
    (
        "more endpoints",
        configuration("0904000000ff000000" + "".join(ENDPOINTS)),
        "claims 0 endpoints, has 2",
    ),
    ("zeros at the end", configuration(INTERFACE + "".join(ENDPOINTS) + "0000"), "0, "),
    ("bLength 1", configuration(INTERFACE + "".join(ENDPOINTS) + "0124"), "bLength 1"),
    (
        "cut",
        configuration(INTERFACE + "".join(ENDPOINTS) + "07058302"),
        "bLength 7, have 4",
    ),
    (
        "6-byte endpoint",
        configuration(INTERFACE + "".join(ENDPOINTS) + "060583034000"),
        "endpoint descriptor of 6",
    ),
    (
        "endpoint 0",
        configuration(INTERFACE + "".join(ENDPOINTS) + "07058002400000"),
        "endpoint 0x80",
    ),
    (
        "too long",
        configuration(INTERFACE + "".join(ENDPOINTS), total=255),
        "wTotalLength 255, have 32",
    ),
    (
        "setting twice",
        configuration(INTERFACE + "".join(ENDPOINTS) + INTERFACE + ENDPOINTS[0]),
        "there twice",
    ),
    (
        "short interface",
        configuration(
            INTERFACE + "".join(ENDPOINTS) + "0804010001ff0000" + ENDPOINTS[0]
        ),
        "interface descriptor of 8",
    ),
    (
        "short association",
        configuration("070b0001030000" + INTERFACE + "".join(ENDPOINTS)),
        "association descriptor of 7",
    ),
    (
        "bLength of the head",
        configuration(INTERFACE + "".join(ENDPOINTS), size=8),
        "bLength 8",
    ),
]


@pytest.mark.parametrize(("name", "data", "note"), ODD, ids=[o[0] for o in ODD])
def test_what_is_odd_is_noted_and_the_rest_is_read(
    name: str, data: bytes, note: str
) -> None:
    with pytest.raises(ParseError, match=note):
        ConfigurationDescriptor.parse(data)
    notes: list[str] = []
    found = ConfigurationDescriptor.parse(data, notes)
    assert len(notes) >= 1
    assert re.search(note, notes[0])
    (interface,) = found.interfaces
    wanted = [0x81] if name == "fewer endpoints" else [0x81, 0x02]
    assert [e.address for e in interface.endpoints] == wanted
    corrected = found.serialize()
    assert int.from_bytes(corrected[2:4], "little") == len(corrected)
    assert corrected[9 + 4] == len(wanted)
    if name == "6-byte endpoint":  # skipped, and kept
        assert bytes.fromhex("060583034000") in corrected


def test_a_wrong_number_of_interfaces_is_noted_and_corrected() -> None:
    notes: list[str] = []
    data = configuration(INTERFACE + "".join(ENDPOINTS), count=7)
    found = ConfigurationDescriptor.parse(data, notes)
    assert notes == ["configuration 1 claims 7 interfaces, has 1"]
    assert found.serialize() == GOOD


def test_what_is_right_has_no_notes() -> None:
    for data in (GOOD, *CONFIGURATIONS):
        notes: list[str] = []
        found = ConfigurationDescriptor.parse(data, notes)
        assert (notes, found.serialize()) == ([], data)


@pytest.mark.parametrize("data", [b"", GOOD[:8], b"\x09\x04" + GOOD[2:]])
def test_what_is_no_configuration_is_refused_always(data: bytes) -> None:
    with pytest.raises(ParseError):
        ConfigurationDescriptor.parse(data, [])


def test_notes_of_a_hostile_device_are_bounded() -> None:
    notes: list[str] = []
    found = ConfigurationDescriptor.parse(configuration("0205" * 1000), notes)
    assert (found.interfaces, notes) == (
        (),
        ["configuration 1 claims 1 interfaces, has 0"],
    )
    data = configuration(INTERFACE + "020 5".replace(" ", "") * 1000)
    ConfigurationDescriptor.parse(data, notes)
    assert len(notes) == MAX_NOTES


@pytest.mark.fuzz
def test_noise_with_notes_gives_a_tree_or_the_documented_error() -> None:
    source = chance(33)
    for _ in range(inputs(2000)):
        data = bytearray(source.choice([GOOD, *CONFIGURATIONS]))
        for _ in range(source.randrange(1, 6)):
            data[source.randrange(len(data))] = source.randrange(256)
        notes: list[str] = []
        try:
            found = ConfigurationDescriptor.parse(bytes(data), notes)
        except ParseError:
            continue
        again = ConfigurationDescriptor.parse(found.serialize(), [])
        assert again.interfaces == found.interfaces


def test_a_device_descriptor_with_a_wrong_length_is_noted() -> None:
    data = bytes.fromhex(HID_DEVICE)
    notes: list[str] = []
    found = DeviceDescriptor.parse(b"\0" + data[1:], notes)
    assert found == DeviceDescriptor.parse(data)
    assert notes == ["not a device descriptor: bLength 0"]
