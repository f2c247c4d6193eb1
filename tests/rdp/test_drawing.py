"""What a server core draws for which client, and when."""

import struct
from collections.abc import Sequence

import pytest

from rusb.rdp import events as rdp
from rusb.rdp.capabilities import client_sets
from rusb.rdp.client import ClientSettings
from rusb.rdp.gcc import ChannelRequest, ClientBlocks, ClientCore
from rusb.rdp.graphics.canvas import Canvas
from rusb.rdp.graphics.framing import MAX_PART
from rusb.rdp.graphics.pointers import PointerLimits
from rusb.rdp.graphics.updates import (
    CLIP_RESET,
    Compression,
    Form,
    Update,
    UpdateKind,
    palette_update,
)
from rusb.rdp.info import ClientInfo
from rusb.rdp.share import DataType, ShareData, split_share
from rusb.rdp.tpkt import packet_size
from tests.support.rdp.joined import Joined, clear
from tests.support.rdp.raw import RawClient, capability

GENERAL, BITMAP, ORDER, POINTER = 1, 2, 3, 8
MULTIFRAGMENT, LARGE_POINTER = 26, 27


def sets(**changes: bytes | None) -> list[bytes]:
    """The sets of our client, some with other bodies, some missing."""
    numbers = {name.lower(): number for name, number in globals().items()}
    found = client_sets(800, 600, 16, keyboard_layout=0, is_rdp4=False)
    by_type = {int.from_bytes(one[:2], "little"): one for one in found}
    for name, body in changes.items():
        by_type.pop(numbers[name], None)
        if body is not None:
            by_type[numbers[name]] = capability(numbers[name], body)
    return list(by_type.values())


def active(
    able: Sequence[bytes] | None = None,
    *,
    depth: int = 16,
    channels: Sequence[str] = (),
    info: ClientInfo | None = None,
) -> tuple[RawClient, bytes]:
    """A client that is active, and what it got in its last step until then."""
    raw = RawClient()
    raw.negotiate()
    core = ClientCore("raw", 800, 600, depth)
    names = [ChannelRequest(name, 0) for name in channels]
    raw.connect(ClientBlocks(core, channels=names).serialize())
    raw.join()
    raw.log_on((info or ClientInfo(user="raw")).serialize())
    raw.confirm(able)
    return raw, raw.finish()


def packets(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = packet_size(data, 0)
        found.append(data[:size])
        data = data[size:]
    return found


def drawn(data: bytes) -> list[tuple[int, bytes]]:
    """What packets draw: the kind of the fast path, or 100 + that of a share PDU."""
    found = []
    for packet in packets(data):
        if packet[0] == 0:
            code, size = struct.unpack_from("<BH", packet, 3)
            assert size == len(packet) - 6
            found.append((code, packet[6:]))
            continue
        payload = packet[15:] if packet[13] & 0x80 else packet[14:]
        for _, _, body in split_share(payload):
            pdu = ShareData.parse(body)
            if pdu.type in (DataType.UPDATE, DataType.POINTER):
                found.append((100 + pdu.type, pdu.body))
    return found


def order_set(scrblt: int) -> bytes:
    (order,) = (s for s in sets() if s[:2] == b"\3\0")
    body = bytearray(order[4:])
    body[32 + 2] = scrblt
    return bytes(body)


def test_the_palette_comes_before_anything_else() -> None:
    assert drawn(active(depth=16)[1]) == []
    ((kind, body),) = drawn(active(depth=8)[1])
    assert (kind, body) == (UpdateKind.PALETTE, palette_update().body)


def test_the_clip_rectangle_is_reset_for_clients_that_can() -> None:
    able = sets(order=order_set(1))
    assert active(able)[0].server.takes_scrblt
    assert not active()[0].server.takes_scrblt
    assert drawn(active(able)[1]) == [(UpdateKind.ORDERS, CLIP_RESET.body)]
    raw, data = active(able, depth=8)
    assert [kind for kind, _ in drawn(data)] == [UpdateKind.PALETTE, UpdateKind.ORDERS]
    raw.server.resize(1024, 768)
    raw.confirm(able)
    assert len(drawn(raw.finish())) == 2  # again after a change of size


@pytest.mark.parametrize("depth", [8, 15, 16, 24])
@pytest.mark.parametrize("version", [4, 5])
def test_a_client_gets_updates_the_way_it_takes_them(depth: int, version: int) -> None:
    joined = Joined(ClientSettings(depth=depth, version=version, screen=Canvas())).run()
    server = joined.server
    compression = Compression.HEADED if version == 4 else Compression.BARE
    assert server.form == Form(depth, compression)
    bitmap = Update(UpdateKind.BITMAP, b"\1\0\0\0")
    server.send_update(bitmap)
    server.send_update(palette_update())
    wanted = [(1, bitmap.body), (2, palette_update().body)]
    if version == 4:
        wanted = [(100 + DataType.UPDATE, body) for _, body in wanted]
    data = b"".join(server.data_to_send())
    assert drawn(data) == wanted
    joined.client.receive_data(data)
    assert [e for e in joined.client.events() if isinstance(e, rdp.Ignored)] == []


def test_a_client_may_take_no_compressed_bitmaps() -> None:
    (bitmap,) = (s[4:] for s in sets() if s[:2] == b"\2\0")
    assert bitmap[16:18] == b"\1\0"
    able = sets(bitmap=bitmap[:16] + bytes(2) + bitmap[18:])
    assert active(able)[0].server.form == Form(16, Compression.NONE)
    assert active(sets(bitmap=None))[0].server.form == Form(16, Compression.NONE)


POINTERS = [
    (sets(), PointerLimits(True, 20, 32)),
    (sets(pointer=bytes.fromhex("0100 1400 0500")), PointerLimits(True, 5, 32)),
    (sets(pointer=bytes.fromhex("0100 0700")), PointerLimits(False, 7, 32)),
    (sets(pointer=None), PointerLimits(False, 1, 32)),
    (sets(large_pointer=b"\1\0"), PointerLimits(True, 20, 60)),
    (
        sets(large_pointer=b"\1\0", multifragment=b"\xff\xff\0\0"),
        PointerLimits(True, 20, 96),
    ),
    (
        sets(general=None, large_pointer=b"\1\0", multifragment=b"\xff\xff\0\0"),
        PointerLimits(True, 20, 60),  # the slow path knows no parts
    ),
]


@pytest.mark.parametrize(("able", "limits"), POINTERS)
def test_pointers_that_a_client_takes(able: list[bytes], limits: PointerLimits) -> None:
    assert active(able)[0].server.pointer_limits == limits


def test_rdesktop_vrdp_gets_colour_pointers() -> None:
    """display.md 4.5: it draws new ones wrongly; rdesktop 1.9 has drdynvc."""
    directory = "C:\\WINNT\\System32\\mstscax.dll"  # 1.9
    old = ClientInfo(user="raw", client_directory=directory)
    raw, _ = active(info=old, channels=["rdpsnd"])
    assert raw.server._is_rdesktop
    assert raw.server.pointer_limits == PointerLimits(False, 20, 32)
    raw, _ = active(info=old, channels=["rdpsnd", "drdynvc"])
    assert raw.server.pointer_limits == PointerLimits(True, 20, 32)
    raw, _ = active(channels=["rdpsnd"])
    assert raw.server.pointer_limits == PointerLimits(True, 20, 32)


def test_a_large_pointer_travels_in_parts() -> None:
    raw, _ = active(sets(large_pointer=b"\1\0", multifragment=b"\xff\xff\0\0"))
    raw.server.send_update(Update(UpdateKind.NEW_POINTER, bytes(38_000)))
    found = drawn(b"".join(raw.server.data_to_send()))
    assert [(kind, len(body)) for kind, body in found] == [
        (0x2B, MAX_PART),
        (0x3B, MAX_PART),
        (0x1B, 38_000 - 2 * MAX_PART),
    ]


def test_a_client_without_a_window_gets_no_pictures() -> None:
    joined = Joined(*clear()).run()
    assert joined.server.output_suppressed
    assert not joined.server.takes_output
    joined.server.send_update(palette_update())
    assert joined.server.data_to_send() == []


def test_nothing_is_drawn_between_two_sizes() -> None:
    raw, _ = active()
    assert raw.server.takes_output
    raw.server.resize(1024, 768)
    raw.server.data_to_send()
    assert not raw.server.takes_output
    raw.server.send_update(palette_update())
    assert raw.server.data_to_send() == []
    raw.confirm()
    raw.finish()
    assert raw.server.takes_output


def test_a_size_that_is_known_at_logon_is_the_sessions_from_the_start() -> None:
    raw = RawClient()
    raw.negotiate()
    raw.connect()
    raw.join()
    raw.server.resize(1280, 1024)
    raw.log_on()
    raw.confirm()
    raw.finish()
    sizes = [e for e in raw.seen if isinstance(e, rdp.Activated)]
    assert sizes == [rdp.Activated(1280, 1024, 16)]


def test_pictures_are_wanted_again_after_suppression_and_on_request() -> None:
    raw = RawClient().until_active()
    raw.feed(raw.data(DataType.SUPPRESS_OUTPUT, bytes(4)))
    assert raw.server.output_suppressed
    raw.seen.clear()
    raw.feed(raw.data(DataType.SUPPRESS_OUTPUT, struct.pack("<B3x4H", 1, 0, 0, 9, 9)))
    assert not raw.server.output_suppressed
    area = struct.pack("<B3x4H", 1, 16, 32, 47, 32)
    raw.feed(raw.data(DataType.REFRESH_RECT, area))
    raw.feed(raw.data(DataType.REFRESH_RECT, area[:-1]))
    raw.feed(raw.data(DataType.REFRESH_RECT, struct.pack("<B3x", 0)))  # 1.15: not one
    everything = rdp.RefreshRequested()
    part = rdp.RefreshRequested((16, 32, 32, 1))
    assert raw.seen == [everything, part, everything]
