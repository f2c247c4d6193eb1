"""Sizes that clients want their screen to have (display.md 9.3)."""

import struct

import pytest

from rusb.errors import ParseError
from rusb.rdp.dispcontrol import capabilities, parse_layout
from tests.support.amount import chance, inputs
from tests.support.rdp.surfaces import layout

# display.md 9.3, of xfreerdp 2.11: 1000x700; the last fields are not in the spec
FREERDP = bytes.fromhex(
    "02000000 38000000 28000000 01000000 01000000 00000000 00000000 e8030000"
    "bc020000 4a010000 e4000000 00000000 64000000 64000000"
)


def test_the_server_allows_one_monitor() -> None:
    assert capabilities().hex(" ", 4) == "05000000 14000000 01000000 00200000 00200000"


LAYOUTS = {
    FREERDP: (1000, 700),
    layout((1, 1001, 701)): (1000, 701),
    layout((0, 800, 600), (1, 640, 480)): (640, 480),
    layout((1, 199, 600)): None,
    layout((1, 800, 8193)): None,
    layout((0, 800, 600)): None,
    layout(): None,
    struct.pack("<II", 9, 8): None,
}


@pytest.mark.parametrize("message", LAYOUTS, ids=range(len(LAYOUTS)))
def test_a_layout_is_the_size_of_its_primary_monitor(message: bytes) -> None:
    assert parse_layout(message) == LAYOUTS[message]


BAD = {
    "short": (FREERDP[:7], "of 7 bytes"),
    "cut": (FREERDP[:-1], "of 56 bytes, have 55"),
    "long": (FREERDP + b"x", "of 56 bytes, have 57"),
    "no number": (struct.pack("<III", 2, 12, 40), "without their number"),
    "lie": (struct.pack("<IIII", 2, 16, 40, 1), "1 monitors of 40 bytes in 16"),
    "each": (layout((1, 800, 600), each=41), "1 monitors of 41 bytes"),
    "many": (layout(*[(0, 800, 600)] * 65), "65 monitors"),
    "huge": (struct.pack("<IIII", 2, 16, 40, 1 << 31), "2147483648 monitors"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_hostile_client_is_refused_in_a_line(name: str) -> None:
    data, reason = BAD[name]
    with pytest.raises(ParseError, match=reason):
        parse_layout(data)


@pytest.mark.fuzz
def test_whatever_a_client_says_is_a_size_or_refused() -> None:
    source = chance(13)
    sizes = refused = 0
    for _ in range(inputs(20_000)):
        data = bytearray(
            layout(*[(source.randrange(2), 800, 600)] * source.randrange(4))
        )
        for _ in range(source.randint(0, 2)):
            data[source.randrange(len(data))] = source.randrange(256)
        del data[source.choice((len(data), source.randrange(len(data)))) :]
        try:
            size = parse_layout(bytes(data))
        except ParseError:
            refused += 1
            continue
        if size is not None:
            sizes += 1
            assert all(200 <= side <= 8192 for side in size)
            assert size[0] % 2 == 0
    assert min(sizes, refused) > 100
