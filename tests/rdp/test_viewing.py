"""The client core as a viewer: what a server draws reaches its screen."""

import struct

import numpy as np
import pytest

from rusb.errors import RemoteProtocolError
from rusb.rdp import events as rdp
from rusb.rdp import share
from rusb.rdp.capabilities import server_sets
from rusb.rdp.client import ClientSettings
from rusb.rdp.graphics.canvas import MAX_SIDE, Canvas
from rusb.rdp.graphics.pixels import DEPTHS, PALETTE, from_depth, to_depth
from rusb.rdp.graphics.pointers import HIDDEN_POINTER
from rusb.rdp.graphics.updates import CLIP_RESET, Damage, Encoder
from rusb.rdp.security import PlainSecurity
from rusb.rdp.share import DataType
from tests.support.amount import chance, inputs
from tests.support.rdp.joined import Joined
from tests.support.rdp.pictures import desktop
from tests.support.rdp.raw import RawServer


def draw(joined: Joined, width: int, height: int) -> None:
    """Have the server draw its whole screen."""
    damage = Damage(width, height)
    damage.add_all()
    encoder = Encoder(desktop(width, height), width, height)
    for update in encoder.updates(damage.take(), joined.server.form):
        joined.server.send_update(update)


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("depth", DEPTHS)
def test_a_screen_and_then_one_of_another_size(depth: int, version: int) -> None:
    canvas = Canvas()
    settings = ClientSettings(
        width=200, height=120, depth=depth, version=version, screen=canvas
    )
    joined = Joined(settings).run()
    for size in ((200, 120), (333, 77)):
        joined.server.resize(*size)
        joined.run()
        assert not canvas.is_complete
        joined.server.send_update(HIDDEN_POINTER)
        draw(joined, *size)
        joined.server.send_update(CLIP_RESET)  # orders are skipped
        joined.run()
        assert canvas.is_complete
        expected = to_depth(desktop(*size)[: size[1], : size[0]], depth)
        assert np.array_equal(canvas.pixels(), from_depth(expected, depth, PALETTE))
    assert joined.of_client(rdp.Ignored) == []


def viewer() -> RawServer:
    settings = ClientSettings(wants_tls=False, encryption=False, screen=Canvas())
    return RawServer(settings).until_active()


def fast(*updates: bytes) -> bytes:
    return PlainSecurity().wrap_fast(b"".join(updates))


def test_several_updates_in_a_packet() -> None:
    raw = viewer()
    screen = raw.client.settings.screen
    assert isinstance(screen, Canvas)
    pixel = struct.pack("<HH9H", 1, 1, 5, 5, 5, 5, 1, 1, 24, 0, 3) + b"\3\2\1"
    other = struct.pack("<HH9H", 1, 1, 6, 5, 6, 5, 1, 1, 24, 0, 3) + b"\6\5\4"
    parts = [struct.pack("<BH", 1, len(u)) + u for u in (pixel, other)]
    raw.feed(fast(parts[0], b"\5\0\0", parts[1]))
    assert screen.pixels()[5, 5:7].tolist() == [0x010203, 0x040506]
    raw.feed(raw.data(DataType.UPDATE, pixel.replace(b"\3\2\1", b"\0\0\0")))
    assert screen.pixels()[5, 5] == 0


@pytest.mark.parametrize("update", ["21 0100 00", "31 0000", "81 20 0000"])
def test_updates_that_were_not_agreed_on_are_reported(update: str) -> None:
    raw = viewer()
    raw.feed(fast(bytes.fromhex(update)))
    assert isinstance(raw.seen[-1], rdp.Ignored)


def test_an_update_with_flags_that_say_nothing() -> None:
    raw = viewer()
    pixel = struct.pack("<HH9H", 1, 1, 5, 5, 5, 5, 1, 1, 24, 0, 3) + b"\3\2\1"
    raw.feed(fast(struct.pack("<BBH", 0x81, 0, len(pixel)) + pixel))
    screen = raw.client.settings.screen
    assert isinstance(screen, Canvas)
    assert screen.pixels()[5, 5] == 0x010203


@pytest.mark.parametrize("update", ["01", "01 05", "01 0500 0100", "81 00 05"])
def test_updates_that_are_cut_off(update: str) -> None:
    with pytest.raises(RemoteProtocolError):
        viewer().feed(fast(bytes.fromhex(update)))


def test_a_server_with_a_screen_that_takes_all_memory() -> None:
    for size in ((MAX_SIDE + 1, 1), (65535, 65535)):
        raw = RawServer(
            ClientSettings(wants_tls=False, encryption=False, screen=Canvas())
        ).until_licence()
        raw.feed(raw.demand(server_sets(*size, 24)))
        with pytest.raises(RemoteProtocolError, match="screen of"):
            raw.feed(raw.data(DataType.FONT_MAP, share.font_map()))


def test_what_comes_between_two_sizes_is_not_drawn() -> None:
    raw = viewer()
    raw.feed(raw.demand(server_sets(640, 480, 24)), fast(b"\1\4\0\1\0\1\0"))
    raw.feed(raw.data(DataType.FONT_MAP, share.font_map()))
    with pytest.raises(RemoteProtocolError):
        raw.feed(fast(b"\1\4\0\1\0\1\0"))


def test_without_a_screen_nobody_looks() -> None:
    raw = RawServer().until_active()
    raw.seen.clear()
    raw.feed(fast(b"\1"), raw.data(DataType.UPDATE, b"\1\0\1"))
    assert raw.seen == []


@pytest.mark.fuzz
def test_any_output_is_drawn_or_refused() -> None:
    random = chance(1)
    raw = viewer()
    pixel = struct.pack("<HH9H", 1, 1, 5, 5, 8, 5, 4, 1, 24, 0x401, 4) + b"\x64\1\2\3"
    good = struct.pack("<BH", 1, len(pixel)) + pixel
    for _ in range(inputs(400)):
        update = bytearray(good * random.randint(1, 2))
        for _ in range(random.randint(0, 3)):
            update[random.randrange(len(update))] = random.randrange(256)
        packet = fast(bytes(update))
        if random.random() < 0.3:
            packet = raw.data(DataType.UPDATE, bytes(update[3:]))
        try:
            raw.feed(packet)
        except RemoteProtocolError:
            raw = viewer()
