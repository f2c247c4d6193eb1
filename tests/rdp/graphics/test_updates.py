"""Damage and frames become updates, and updates become pictures again."""

import math
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from rusb.errors import LocalProtocolError, ParseError
from rusb.rdp.graphics import updates
from rusb.rdp.graphics.canvas import Canvas
from rusb.rdp.graphics.framing import MAX_PART, fast_updates, slow_update
from rusb.rdp.graphics.pixels import (
    DEPTHS,
    PALETTE,
    Frame,
    from_depth,
    new_frame,
    to_depth,
)
from rusb.rdp.graphics.updates import (
    CLIP_RESET,
    MAX_BITMAPS,
    Compression,
    Damage,
    Encoder,
    Form,
    Update,
    UpdateKind,
    palette_update,
)
from rusb.rdp.security import PlainSecurity
from rusb.rdp.share import DataType
from rusb.rdp.tpkt import MAX_PACKET, packet_size
from tests.support.amount import chance, inputs
from tests.support.rdp.pictures import VECTORS, desktop, kinds, noise, vector_picture

SIZES = [(1, 1), (64, 64), (65, 17), (801, 97), (128, 601), (1023, 3), (3, 1023)]


def everything(width: int, height: int) -> updates.Cells:
    damage = Damage(width, height)
    damage.add_all()
    return damage.take()


def seen(frame: Frame, width: int, height: int, depth: int) -> Frame:
    """What a client of a depth is to see of a frame."""
    return from_depth(to_depth(frame[:height, :width], depth), depth, PALETTE)


def canvas_of(width: int, height: int) -> Canvas:
    canvas = Canvas()
    canvas.begin(width, height)
    return canvas


def mixed(width: int, height: int) -> Frame:
    """A frame with a bit of everything."""
    frame = new_frame(width, height)
    pictures = kinds(width, -(-height // 7), 5)
    frame[:height, :width] = pictures.reshape(-1, width)[:height]
    return frame


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_updates_draw_the_frame(
    width: int, height: int, depth: int, compression: Compression
) -> None:
    frame, canvas = mixed(width, height), canvas_of(width, height)
    encoder = Encoder(frame, width, height)
    for update in encoder.updates(everything(width, height), Form(depth, compression)):
        assert update.kind is UpdateKind.BITMAP
        assert len(update.body) <= MAX_BITMAPS + 4
        assert not canvas.is_complete
        canvas.draw(update.body)
    assert canvas.is_complete
    assert np.array_equal(canvas.pixels(), seen(frame, width, height, depth))


def rectangles(update: Update) -> list[tuple[int, ...]]:
    """The heads of an update's rectangles."""
    found, pos = [], 4
    while pos < len(update.body):
        found.append(struct.unpack_from("<9H", update.body, pos))
        pos += 18 + found[-1][8]
    assert struct.unpack_from("<HH", update.body) == (1, len(found))
    return found


def test_rectangles_are_as_clients_want_them() -> None:
    width, height = 801, 601
    encoder = Encoder(mixed(width, height), width, height)
    found = encoder.updates(everything(width, height), Form(16))
    for left, top, right, bottom, wide, high, depth, flags, _ in sum(
        map(rectangles, found), []
    ):
        assert wide % 4 == 0
        assert wide <= 64 >= high
        assert bottom < height
        assert (right, bottom) == (min(left + wide, width) - 1, top + high - 1)
        assert (depth, flags & ~0x0401) == (16, 0)


def test_compressed_bitmaps_have_a_header_where_clients_need_it() -> None:
    frame = desktop(64, 64)
    bare, headed = (
        Encoder(frame, 64, 64).updates(everything(64, 64), Form(16, compression))[0]
        for compression in (Compression.BARE, Compression.HEADED)
    )
    (bare_head,), (head,) = rectangles(bare), rectangles(headed)
    assert (bare_head[7], head[7]) == (0x0401, 0x0001)
    size = bare_head[8]
    assert head[8] == size + 8
    assert struct.unpack_from("<4H", headed.body, 22) == (0, size, 128, 8192)
    assert headed.body[30:] == bare.body[22:]


@pytest.mark.parametrize("depth", DEPTHS)
def test_what_compression_makes_longer_is_sent_as_it_is(depth: int) -> None:
    found = Encoder(noise(64, 64), 64, 64).updates(everything(64, 64), Form(depth))
    (head,) = rectangles(found[0])
    assert (head[7], head[8]) == (0, 4096 * ((depth + 7) // 8))


@pytest.mark.parametrize("depth", [8, 16, 24])
def test_the_packets_of_the_vectors(depth: int) -> None:
    """The picture lies at no border of cells, so it is sent by hand."""
    packet = bytes.fromhex(VECTORS["packets"][str(depth)])
    head, body = PlainSecurity().unwrap_fast(packet)
    assert (head, body[0]) == (0, UpdateKind.BITMAP)
    update = Update(UpdateKind.BITMAP, body[3:])
    (part,) = fast_updates(update, 0)
    assert PlainSecurity().wrap_fast(part) == packet
    canvas = canvas_of(40, 20)
    canvas.draw(update.body)
    picture = vector_picture()
    assert np.array_equal(canvas.pixels()[4:10, 8:24], seen(picture, 16, 6, depth))
    assert not canvas.is_complete


# ------------------------------------------------------------------ damage ----


def cells_of(*rectangles: tuple[int, int, int, int]) -> set[tuple[int, int]]:
    damage = Damage(100, 70)
    for rectangle in rectangles:
        damage.add(*rectangle)
    rows, columns = damage.take().nonzero()
    return set(zip(columns.tolist(), rows.tolist(), strict=True))


def test_a_rectangle_damages_the_cells_that_it_touches() -> None:
    assert cells_of((0, 0, 1, 1)) == {(0, 0)}
    assert cells_of((16, 16, 16, 16)) == {(1, 1)}
    assert cells_of((15, 31, 2, 2)) == {(0, 1), (1, 1), (0, 2), (1, 2)}
    assert cells_of((99, 69, 1, 1)) == {(6, 4)}
    assert cells_of((0, 0, 1, 1), (99, 0, 1, 1)) == {(0, 0), (6, 0)}


def test_damage_beyond_the_screen_is_ignored() -> None:
    for rectangle in [(-20, -20, 30, 30), (0, 0, 10, 10)]:
        assert cells_of(rectangle) == {(0, 0)}
    for rectangle in [(-20, 0, 10, 9), (0, -20, 9, 10), (112, 0, 9, 9), (0, 80, 9, 9)]:
        assert cells_of(rectangle) == set()
    assert len(cells_of((-5, -5, 9999, 9999))) == 7 * 5


def test_damage_is_taken_in_rows_where_there_is_much() -> None:
    damage = Damage(160, 80)
    damage.add_all()  # ten by five
    taken = [damage.take(15) for _ in range(3)]
    assert [cells.sum(1).tolist() for cells in taken] == [
        [10, 10, 0, 0, 0],
        [0, 0, 10, 10, 0],
        [0, 0, 0, 0, 10],
    ]
    assert not damage
    damage.add_all()
    assert damage.take(50).all()
    damage.add_all()
    assert damage.take(1).sum() == 10


def test_damage_is_taken_once() -> None:
    damage = Damage(100, 70)
    assert not damage
    damage.add(3, 3, 1, 1)
    assert damage
    assert damage.take().sum() == 1
    assert not damage
    damage.add_all()
    assert damage.take().all()
    assert not damage.take().any()


def test_tiles_cover_the_damage_and_little_else() -> None:
    """What is drawn are the cells; of a tile that has several, all between them."""
    random = chance(1)
    for _ in range(inputs(50)):
        width, height = random.randint(1, 300), random.randint(1, 300)
        damage, frame = Damage(width, height), noise(width, height)
        for _ in range(random.randint(1, 4)):
            x, y = random.randrange(width), random.randrange(height)
            damage.add(x, y, random.randint(1, 40), random.randint(1, 40))
        cells = damage.take()
        canvas = canvas_of(width, height)
        for update in Encoder(frame, width, height).updates(cells, Form(24)):
            canvas.draw(update.body)
        wide = np.repeat(np.repeat(cells, 16, 0), 16, 1)[:height, :width]
        drawn = canvas._drawn
        assert drawn[wide].all()
        tiles = np.add.reduceat(wide, np.arange(0, height, 64), 0)
        tiles = np.add.reduceat(tiles, np.arange(0, width, 64), 1) > 0
        spread = np.repeat(np.repeat(tiles, 64, 0), 64, 1)[:height, :width]
        assert not drawn[~spread].any()
        assert np.array_equal(canvas.pixels()[drawn], frame[:height, :width][drawn])


def test_one_cell_is_one_small_bitmap() -> None:
    damage = Damage(300, 300)
    damage.add(100, 100, 9, 12)
    (update,) = Encoder(desktop(300, 300), 300, 300).updates(damage.take(), Form(16))
    ((*place, wide, high, _, _, _),) = rectangles(update)
    assert place == [96, 96, 111, 111]
    assert (wide, high) == (16, 16)


def test_the_last_cell_ends_with_the_screen() -> None:
    damage = Damage(301, 301)
    damage.add(300, 300, 1, 1)
    (update,) = Encoder(desktop(301, 301), 301, 301).updates(damage.take(), Form(16))
    ((*place, wide, high, _, _, _),) = rectangles(update)
    assert place == [288, 288, 300, 300]
    assert (wide, high) == (16, 13)


def test_nothing_is_drawn_where_nothing_has_changed() -> None:
    encoder = Encoder(desktop(300, 300), 300, 300)
    assert not encoder.updates(Damage(300, 300).take(), Form(16))


# ----------------------------------------------------------------- sharing ----


def test_viewers_of_one_form_share_the_bytes() -> None:
    encoder = Encoder(desktop(200, 200), 200, 200)
    cells = everything(200, 200)
    first = encoder.updates(cells, Form(16))
    assert encoder.updates(cells.copy(), Form(16)) is first
    assert encoder.updates(cells, Form(15)) is not first
    assert encoder.updates(cells, Form(16, Compression.HEADED)) is not first
    cells[0, 0] = False
    assert encoder.updates(cells, Form(16)) is not first


def least(act: Callable[[], object], times: int) -> float:
    """Seconds of CPU that something costs when nothing disturbs it."""
    best = math.inf
    for _ in range(times):
        begin = time.process_time()
        act()
        best = min(best, time.process_time() - begin)
    return best


def test_what_encoding_costs() -> None:
    """The ratios of display.md 12; -s prints the milliseconds."""
    frame = desktop(1280, 800)
    zlib_ = least(lambda: zlib.compress(to_depth(frame, 16).tobytes(), 1), 5)
    print(f"\nzlib, level 1: {1000 * zlib_:.1f} ms")

    def cost(depth: int, times: int, *area: int) -> float:
        damage = Damage(1280, 800)
        damage.add(*area)
        cells, form = damage.take(), Form(depth)
        found = least(lambda: Encoder(frame, 1280, 800).updates(cells, form), times)
        print(f"{depth:2} bit, {area[2]}x{area[3]}: {1000 * found:.2f} ms")
        return found

    whole = cost(24, 7, 0, 0, 1280, 800)
    assert whole <= 3.5 * zlib_
    whole = cost(16, 7, 0, 0, 1280, 800)
    assert cost(16, 20, 512, 320, 200, 200) <= 0.2 * whole
    assert cost(16, 200, 520, 324, 9, 12) <= 0.02 * whole


@pytest.mark.parametrize(("depth", "share"), [(8, 0.25), (16, 0.25), (24, 0.2)])
def test_the_bytes_of_a_desktop(depth: int, share: float) -> None:
    frame = desktop(1280, 800)
    found = Encoder(frame, 1280, 800).updates(everything(1280, 800), Form(depth))
    raw = 1280 * 800 * ((depth + 7) // 8)
    assert sum(len(update.body) for update in found) <= share * raw


# ----------------------------------------------------------------- framing ----

PARTS = [1, MAX_PART, MAX_PART + 1, 3 * MAX_PART]


@pytest.mark.parametrize("size", PARTS)
def test_long_updates_travel_in_several_packets(size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    update = Update(UpdateKind.NEW_POINTER, body[:size])
    parts = list(fast_updates(update, 1 << 16))
    flags = [part[0] >> 4 for part in parts]
    assert [part[0] & 0x0F for part in parts] == [11] * len(parts)
    assert flags == ([0] if size <= MAX_PART else [2, *[3] * (len(parts) - 2), 1])
    assert b"".join(part[3:] for part in parts) == update.body
    for part in parts:
        packet = PlainSecurity().wrap_fast(part)
        assert packet_size(packet, 0) == len(packet) <= MAX_PACKET - 8  # a checksum
        assert struct.unpack_from("<H", part, 1) == (len(part) - 3,)


def test_who_takes_no_parts_gets_none() -> None:
    update = Update(UpdateKind.NEW_POINTER, bytes(MAX_PART + 1))
    for send in (
        lambda: list(fast_updates(update, MAX_PART)),
        lambda: slow_update(update),
    ):
        with pytest.raises(LocalProtocolError):
            send()


SLOW = [  # display.md 4.1
    (UpdateKind.BITMAP, "01000000", DataType.UPDATE, "01000000"),
    (UpdateKind.PALETTE, "0200", DataType.UPDATE, "0200"),
    (UpdateKind.ORDERS, "0100 0902", DataType.UPDATE, "0000 0000 0100 0000 0902"),
    (UpdateKind.POINTER_HIDDEN, "", DataType.POINTER, "0100 0000 00000000"),
    (UpdateKind.POINTER_DEFAULT, "", DataType.POINTER, "0100 0000 007f0000"),
    (UpdateKind.POINTER_POSITION, "0a001400", DataType.POINTER, "0300 0000 0a001400"),
    (UpdateKind.COLOUR_POINTER, "0500", DataType.POINTER, "0600 0000 0500"),
    (UpdateKind.CACHED_POINTER, "0500", DataType.POINTER, "0700 0000 0500"),
    (UpdateKind.NEW_POINTER, "20000500", DataType.POINTER, "0800 0000 20000500"),
]


@pytest.mark.parametrize(("kind", "body", "pdu", "slow"), SLOW)
def test_the_slow_path(kind: UpdateKind, body: str, pdu: DataType, slow: str) -> None:
    found = slow_update(Update(kind, bytes.fromhex(body)))
    assert found == (pdu, bytes.fromhex(slow))


def test_the_clip_reset_is_an_order_for_one_pixel() -> None:
    (part,) = fast_updates(CLIP_RESET, 0)
    order = "0100 0d027f0f 0000000000000000 0000 0000 0100 0100 cc 0000 0000"
    assert part == b"\0\x1b\0" + bytes.fromhex(order)


# ------------------------------------------------------------------ canvas ----


def test_a_palette_of_the_servers_own() -> None:
    canvas = canvas_of(16, 16)
    body = bytearray(palette_update().body)
    body[8:11] = b"\x12\x34\x56"
    canvas.draw(bytes(body))
    frame = new_frame(16, 16)
    for update in Encoder(frame, 16, 16).updates(everything(16, 16), Form(8)):
        canvas.draw(update.body)
    assert (canvas.pixels() == 0x123456).all()


@pytest.mark.parametrize("size", [(0, 1), (1, 0), (8193, 1), (1, 8193), (8192, 1025)])
def test_screens_that_there_are_not(size: tuple[int, int]) -> None:
    with pytest.raises(ParseError):
        Canvas().begin(*size)


def bitmap(*fields: int, data: bytes = bytes(8), count: int = 1) -> bytes:
    return struct.pack("<HH9H", 1, count, *fields, len(data)) + data


GOOD = (0, 0, 3, 0, 4, 1, 16, 0)
BAD = [
    bitmap(*GOOD)[:-1],
    bitmap(*GOOD)[:20],
    bitmap(*GOOD, count=2),
    bitmap(*GOOD) + b"\0",
    bitmap(0, 0, 3, 0, 4, 1, 32, 0, data=bytes(16)),
    bitmap(0, 0, 3, 0, 0, 1, 16, 0, data=b""),
    bitmap(0, 0, 3, 0, 4, 2, 16, 0),
    bitmap(0, 0, 3, 0, 4, 1, 16, 1),  # shorter than its header
    bitmap(0, 0, 99, 99, 65535, 65535, 16, 0x401, data=b"\xf0\xff\xff"),
    b"\1\0",
    b"\2\0",
]


def test_a_bitmap_says_which_depth_it_has() -> None:
    canvas = canvas_of(16, 16)
    canvas.draw(bitmap(0, 0, 0, 0, 1, 1, 24, 0, data=b"\3\2\1"))
    canvas.draw(bitmap(1, 0, 1, 0, 1, 1, 16, 0, data=b"\xe0\x07"))
    assert canvas.pixels()[0, :2].tolist() == [0x010203, 0x00FF00]


@pytest.mark.parametrize("update", BAD)
def test_malformed_updates(update: bytes) -> None:
    canvas = canvas_of(16, 16)
    canvas.draw(bitmap(*GOOD))
    with pytest.raises(ParseError):
        canvas.draw(update)


def test_a_server_cannot_make_one_update_cost_much() -> None:
    """However often it names the whole screen, which a few bytes fill."""
    canvas = canvas_of(64, 64)
    whole = struct.pack("<9H", 0, 0, 63, 63, 64, 64, 16, 0x401, 3) + b"\xf0\0\x10"
    canvas.draw(struct.pack("<HH", 1, 1) + whole)
    with pytest.raises(ParseError):
        canvas.draw(struct.pack("<HH", 1, 2) + 2 * whole)


@pytest.mark.parametrize(
    ("place", "count"),
    [
        ((15, 0, 18, 0), 1),
        ((0, 15, 3, 99), 4),
        ((60, 60, 63, 60), 0),
        ((3, 3, 4, 3), 2),
    ],
)
def test_what_lies_beyond_rectangle_and_screen_is_not_drawn(
    place: tuple[int, int, int, int], count: int
) -> None:
    canvas = canvas_of(16, 16)
    canvas.draw(bitmap(*place, 4, 1, 16, 0, data=b"\xff" * 8))
    assert canvas.pixels().shape == (16, 16)
    assert (canvas.pixels() != 0).sum() == count
    canvas.draw(bitmap(5, 5, 5, 5, 1, 2, 16, 0, data=b"\xff" * 4))  # one row of two
    assert (canvas.pixels() != 0).sum() == count + 1
    canvas.draw(b"\0\0\1\0")  # orders are skipped


@pytest.mark.fuzz
@pytest.mark.parametrize("depth", DEPTHS)
def test_any_update_is_drawn_or_refused(depth: int) -> None:
    random = chance(depth)
    canvas = canvas_of(70, 50)
    whole = Encoder(desktop(70, 50), 70, 50).updates(everything(70, 50), Form(depth))
    good = [palette_update().body, whole[0].body, bitmap(*GOOD)]
    for _ in range(inputs(1_000)):
        update = bytearray(random.choice(good))
        for _ in range(random.randint(0, 4)):
            update[random.randrange(min(len(update), 60))] = random.randrange(256)
        del update[random.randint(1, 2 * len(update)) :]
        try:
            canvas.draw(bytes(update))
        except ParseError:
            continue
    assert canvas.pixels().shape == (50, 70)
