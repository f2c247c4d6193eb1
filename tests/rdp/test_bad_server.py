"""What hostile and broken servers send: T01 to T07 of docs/spec/bad-inputs.md.

What makes sense in both directions is in test_bad_input.py.
"""

import struct

import pytest

from rusb.errors import NegotiationError, RemoteProtocolError
from rusb.rdp import mcs
from rusb.rdp.capabilities import MIN_CHUNK, server_sets
from rusb.rdp.client import ClientSettings
from rusb.rdp.events import Activated, ChannelOpened, Ignored, TlsRequested
from rusb.rdp.gcc import ServerBlocks
from rusb.rdp.per import ber
from rusb.rdp.security import SecurityFlag, header
from rusb.rdp.share import DataType
from rusb.rdp.x224 import ConnectionConfirm
from tests.support.memory import memory_below
from tests.support.rdp.raw import RawServer, capability, refuse

# ------------------------------------------------------- T02 negotiation ----


def confirm(tail: bytes, *, indicator: int = 0) -> bytes:
    """Return a connection confirm with *tail* where the negotiation reply is."""
    size = indicator or 6 + len(tail)
    body = bytes([size, 0xD0, 0, 0, 0x12, 0x34, 0]) + tail
    return struct.pack(">BBH", 3, 0, 4 + len(body)) + body


REPLY = struct.pack("<BBHI", 2, 0, 8, 1)


@pytest.mark.parametrize(
    "packet",
    [
        confirm(REPLY[:-1]),  # cut
        confirm(REPLY + b"\0"),
        confirm(b"\x01" + REPLY[1:]),  # a request
        confirm(b"\x09" + REPLY[1:]),  # unknown type
        confirm(REPLY[:2] + b"\x09" + REPLY[3:]),  # wrong length
        confirm(REPLY, indicator=6),
        confirm(REPLY, indicator=0xFF),
        confirm(b"x" * 60000, indicator=0xFE),
        b"\x03\0\0\x07\x02\xd0\0",
        b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0" + REPLY,  # its own request
    ],
)
def test_t02_malformed_confirms(packet: bytes) -> None:
    refuse(lambda: RawServer(ClientSettings()).feed(packet))


@pytest.mark.parametrize("protocol", [2, 3, 8, 0xFFFFFFFF])
def test_t02_protocols_that_nobody_asked_for(protocol: int) -> None:
    wire = ConnectionConfirm(selected=protocol).serialize()
    refuse(lambda: RawServer(ClientSettings()).feed(wire))


def test_t02_unknown_flags_do_not_matter() -> None:
    raw = RawServer(ClientSettings())
    raw.feed(confirm(b"\x02\xff" + REPLY[2:]))
    assert raw.seen == [TlsRequested()]


def test_t02_a_second_confirm() -> None:
    raw = RawServer()
    raw.connect()
    refuse(lambda: raw.feed(ConnectionConfirm(selected=0).serialize()))


# ------------------------------------------------------------ T03 BER, MCS ----

GRANTED = ServerBlocks.granting(0, 4)


def response(
    *,
    result: bytes = b"\0",
    called: bytes = b"\0",
    parameters: bytes = ber(2, b"\1") * 8,
    user_data: bytes = GRANTED.serialize(),
) -> bytes:
    """Return a Connect-Response, from its first BER tag on."""
    content = ber(0x0A, result) + ber(2, called) + ber(0x30, parameters)
    return ber(0x7F66, content + ber(4, user_data))


def answered(body: bytes) -> RawServer:
    """Send a body in a data packet, where Connect-Response is expected."""
    raw = RawServer()
    raw.feed(ConnectionConfirm(selected=0).serialize())
    raw.feed(struct.pack(">BBH", 3, 0, 7 + len(body)) + b"\x02\xf0\x80" + body)
    return raw


def test_t03_connect_response_cut_anywhere() -> None:
    whole = response()
    for size in range(len(whole)):
        refuse(lambda: answered(whole[:size]))  # noqa: B023 - called at once
    assert answered(whole)


@pytest.mark.parametrize("parameters", [b"", ber(2, b"\xff") * 8, b"\x02\x84" * 9])
def test_t03_domain_parameters_are_not_looked_at(parameters: bytes) -> None:
    assert answered(response(parameters=parameters, called=b"\xff" * 9))


@pytest.mark.parametrize(
    "body",
    [
        b"\x7f\x66\x80" + response()[3:],  # indefinite
        b"\x7f\x66\x85" + bytes(4) + response()[3:],
        b"\x7f\x66\x84\xff\xff\xff\xff" + response()[5:],
        b"\x7f\x65" + response()[2:],  # Connect-Initial
        response() + b"\0",
        response(result=b""),
        response(result=b"\0\0"),
        response(result=b"\xff" * 2000),  # too long a number to be printed
        response(user_data=b""),
    ],
    ids=range(9),
)
def test_t03_malformed_connect_response(body: bytes) -> None:
    refuse(lambda: answered(body))


@pytest.mark.parametrize("result", [b"\x01", b"\x0f", b"\xff"])
def test_t03_a_refused_connection(result: bytes) -> None:
    with pytest.raises(NegotiationError, match="refused the MCS connection"):
        answered(response(result=result))


@pytest.mark.parametrize("initiator", [0xFFFF - mcs.USER_BASE + 1, 0xFFFF])
def test_t03_a_user_beyond_all_channels(initiator: int) -> None:
    raw = RawServer()
    raw.connect()
    refuse(lambda: raw.feed(mcs.attach_confirm(initiator)))


def test_t03_the_last_user() -> None:
    raw = RawServer()
    raw.connect()
    last = 0xFFFF - mcs.USER_BASE
    assert mcs.join_request(last, 0xFFFF) in raw.feed(mcs.attach_confirm(last))


@pytest.mark.parametrize("count", [5, 31, 32, 0xFFFF])
def test_t03_more_channels_than_asked_for(count: int) -> None:
    blocks = ServerBlocks(0, [1004] * min(count, 32)).serialize()
    sane, said = (struct.pack("<HH", 1003, n) for n in (min(count, 32), count))
    refuse(lambda: RawServer().connect(blocks.replace(sane, said)))


def test_t03_one_channel_for_two_names() -> None:
    blocks = ServerBlocks(0, [1004, 1005, 1004, 1006])
    refuse(lambda: RawServer().connect(blocks.serialize()))


def test_t03_channels_that_are_not_granted_never_open() -> None:
    raw = RawServer()
    raw.connect(ServerBlocks(0, [0, 1003, 1006]).serialize())
    raw.feed(mcs.attach_confirm(9))
    raw.feed(*[mcs.join_confirm(9, c) for c in (1010, 1003, 1006)])
    raw.feed(raw.demand(), raw.data(DataType.FONT_MAP, b""))
    opened = [e for e in raw.seen if isinstance(e, ChannelOpened)]
    assert opened == [ChannelOpened(1006, "vrdpusb")]


def test_t03_confirms_that_nobody_waits_for() -> None:
    for packet in (mcs.attach_confirm(9), mcs.join_confirm(9, 1004)):
        raw = RawServer().until_active()
        refuse(lambda: raw.feed(packet))  # noqa: B023 - called at once


# ---------------------------------------------------------------- T04 GCC ----


def with_block(block: bytes) -> bytes:
    """Return the server's blocks with one more at their end."""
    known = GRANTED.serialize()
    inside = known[23:] + block
    return known[:21] + (0x8000 | len(inside)).to_bytes(2) + inside


@pytest.mark.parametrize(
    "block",
    [
        struct.pack("<HH", 0x0C08, 0),  # would never end
        struct.pack("<HH", 0x0C08, 3),
        struct.pack("<HH", 0x0C08, 5),  # overlaps the end
        struct.pack("<HH", 0x0C08, 0xFFFF),
        b"\x08\x0c",  # cut
        struct.pack("<HH", 0x0C01, 4),  # core without a version
        struct.pack("<HHHHH", 0x0C03, 10, 1003, 2, 1004),  # two channels, one there
        struct.pack("<HH", 0x0C03, 4),
        struct.pack("<HHI", 0x0C02, 8, 0),  # security without a level
    ],
)
def test_t04_malformed_blocks(block: bytes) -> None:
    refuse(lambda: RawServer().connect(with_block(block)))


def test_t04_no_network_block() -> None:
    blocks = GRANTED.serialize().replace(b"\x03\x0c", b"\x09\x0c")
    refuse(lambda: RawServer().connect(blocks))


# ---------------------------------------------- T05 encryption in a TLS session ----


def behind_tls() -> RawServer:
    raw = RawServer(ClientSettings(channels=("vrdpusb",)))
    raw.feed(ConnectionConfirm(selected=1).serialize())
    raw.client.tls_started()
    raw.client.data_to_send()
    return raw


@pytest.mark.parametrize("method", [1, 2, 8, 0x10])
def test_t05_a_server_that_wants_rc4_within_tls(method: int) -> None:
    raw = behind_tls()
    blocks = ServerBlocks(1, [1004], method=method, level=2, security=bytes(300))
    with pytest.raises(NegotiationError, match="encryption method"):
        raw.feed(mcs.serialize_connect_response(blocks.serialize()))


def test_t05_an_encrypted_licence_within_tls() -> None:
    raw = behind_tls()
    wire = mcs.serialize_connect_response(ServerBlocks(1, [1004]).serialize())
    raw.feed(wire, mcs.attach_confirm(1))
    raw.feed(*[mcs.join_confirm(1, c) for c in (1002, 1003, 1004)])
    flags = SecurityFlag.LICENCE | SecurityFlag.ENCRYPT
    refuse(lambda: raw.feed(raw.io(header(flags) + bytes(40))))


@pytest.mark.parametrize("size", range(13))
def test_t05_a_licence_cut_short(size: int) -> None:
    raw = RawServer().until_licence()
    alert = struct.pack("<BBHII", 0xFF, 3, 16, 7, 2)[: max(size - 1, 0)]
    refuse(lambda: raw.feed(raw.io(header(SecurityFlag.LICENCE) + alert)))


# ------------------------------------------------------- T07 capabilities ----


@pytest.mark.parametrize(
    "sets",
    [
        [struct.pack("<HH", 1, 0)],
        [struct.pack("<HH", 1, 3)],
        [struct.pack("<HH", 1, 0xFFFF)],
        [b"\x01"],
    ],
)
def test_t07_malformed_sets(sets: list[bytes]) -> None:
    raw = RawServer().until_licence()
    refuse(lambda: raw.feed(raw.demand(sets)))


def test_t07_sets_without_end() -> None:
    raw = RawServer().until_licence()
    with pytest.raises(RemoteProtocolError, match="65 capability sets, at most 64"):
        raw.feed(raw.demand([capability(99, b"")] * 65))


def test_t07_count_larger_than_the_data() -> None:
    raw = RawServer().until_licence()
    refuse(lambda: raw.feed(raw.demand(count=0xFFFF)))


@pytest.mark.parametrize("stated", [None, 0, 1, 1599, 1600, 16256, 16257, 0xFFFFFFFF])
def test_t07_chunks_are_no_longer_than_the_server_says(stated: int | None) -> None:
    raw = RawServer().until_licence()
    sets = server_sets(800, 600, 16)[:-1]
    if stated is not None:
        sets.append(capability(20, struct.pack("<II", 0, stated)))
    raw.feed(raw.demand(sets), raw.data(DataType.FONT_MAP, b""))
    raw.client.send_channel(1006, bytes(20_000))
    longest = max(map(len, raw.client.data_to_send()))
    assert longest == (stated if stated in (1600, 16256) else MIN_CHUNK)


@pytest.mark.parametrize("size", [0, 1, 0xFFFF])
def test_t07_any_size_of_the_screen_is_taken(size: int) -> None:
    raw = RawServer().until_licence()
    assert raw.feed(raw.demand(server_sets(size, size, size)))
    raw.feed(raw.data(DataType.FONT_MAP, b""))
    assert Activated(size or 800, size or 600, size or 16) in raw.seen


def test_t07_demand_active_twice() -> None:
    raw = RawServer().until_licence()
    assert raw.feed(raw.demand(), raw.demand())
    raw.feed(*[raw.data(DataType.FONT_MAP, b"")] * 2)
    assert [type(e) for e in raw.seen].count(Activated) == 1


def test_t07_data_before_activation() -> None:
    raw = RawServer()
    raw.connect()
    refuse(lambda: raw.feed(raw.data(DataType.FONT_MAP, b"")))
    raw = RawServer().until_licence()
    raw.feed(raw.data(DataType.FONT_MAP, b""))  # nothing to be active with
    chunk = struct.pack("<II", 1, 3) + b"x"
    raw.feed(raw.sender.send_data(1006, len(chunk)) + chunk)
    assert [type(e) for e in raw.seen] == [Ignored]


def test_t07_data_before_the_mcs_connection() -> None:
    raw = RawServer()
    raw.feed(ConnectionConfirm(selected=0).serialize())
    refuse(lambda: raw.feed(raw.data(DataType.FONT_MAP, b"")))


def test_t07_an_error_code_that_is_cut() -> None:
    raw = RawServer().until_active()
    refuse(lambda: raw.feed(raw.data(DataType.ERROR_INFO, b"\1\0\0")))


def test_t07_compressed_pdus_are_skipped_with_a_word() -> None:
    raw = RawServer().until_active()
    packet = bytearray(raw.data(DataType.UPDATE, bytes(4)))
    packet[-7] = 0x21
    raw.feed(bytes(packet))
    assert raw.seen[-1:] == [Ignored("compressed share data PDU 2")]


def test_t07_pictures_that_nobody_wants_are_not_kept() -> None:
    raw = RawServer().until_active()
    slow = raw.data(DataType.UPDATE, bytes(15_000))
    fast = b"\x00\xbe\x80" + bytes(0x3E80 - 3)
    with memory_below(400_000):
        for _ in range(200):
            raw.feed(slow, fast, slow[:20])
            raw.feed(slow[20:])


def test_t07_the_shortest_share_pdus_there_are() -> None:
    raw = RawServer().until_active()
    raw.feed(raw.io(struct.pack("<HH", 4, 0x19) * 4000))
    assert [type(e) for e in raw.seen].count(Ignored) == 4000
