"""What hostile and broken clients send: T01 to T07 of docs/spec/bad-inputs.md.

What makes sense in both directions is sent to both ends; test_bad_server.py has what
only servers send.
"""

import struct

import pytest

from rusb.errors import NegotiationError, ParseError, RemoteProtocolError
from rusb.rdp import mcs, share
from rusb.rdp.capabilities import MAX_CHUNK, MIN_CHUNK, Capabilities, client_sets
from rusb.rdp.events import Activated, ChannelData, Ignored, LogonRequested
from rusb.rdp.gcc import ChannelRequest, ClientBlocks, ClientCore
from rusb.rdp.info import ClientInfo, InfoFlag
from rusb.rdp.notices import ChannelAsked, UnknownBlock
from rusb.rdp.per import Reader, ber, read_ber, read_per_length
from rusb.rdp.security import Method
from rusb.rdp.server import MAX_DOMAIN_REQUESTS, ServerConnection, ServerSettings
from rusb.rdp.share import DataType
from rusb.rdp.x224 import ConnectionRequest
from tests.support.memory import memory_below
from tests.support.rdp.joined import Joined, no_random
from tests.support.rdp.raw import RawClient, RawServer, capability, refuse

USB = 1004
BLOCKS = ClientBlocks(
    ClientCore("raw", 800, 600, 16), channels=[ChannelRequest("vrdpusb", 0)]
)

End = type[RawClient] | type[RawServer]
both = pytest.mark.parametrize(
    "peer", [RawClient, RawServer], ids=["to-server", "to-client"]
)


# -------------------------------------------------------------- T01 TPKT ----


@both
@pytest.mark.parametrize("length", [0, 3, 4, 6])
def test_t01_tpkt_shorter_than_its_headers(peer: End, length: int) -> None:
    refuse(lambda: peer().feed(b"\x03\x00" + length.to_bytes(2) + bytes(16)))


@both
def test_t01_tpkt_larger_than_sent_waits_and_keeps_no_more_than_itself(
    peer: End,
) -> None:
    raw = peer()
    with memory_below(400_000):
        raw.feed(b"\x03\x00\xff\xff", *[bytes(1000)] * 65)
    assert (len(raw.core._buffer), raw.seen) == (65004, [])
    refuse(lambda: raw.feed(bytes(1000)))  # 65535 bytes that are no X.224


@both
def test_t01_tpkt_smaller_than_its_content(peer: End) -> None:
    raw = peer().until_active()
    packet = bytearray(raw.data(DataType.SYNCHRONIZE, share.synchronize(1002)))
    packet[3] -= 4
    refuse(lambda: raw.feed(bytes(packet)))


@both
@pytest.mark.parametrize("cut", range(7, 24))
def test_t01_data_packets_cut_inside_their_headers(peer: End, cut: int) -> None:
    raw = peer().until_active()
    whole = raw.data(DataType.INPUT, struct.pack("<HH", 0, 0) + bytes(200))
    refuse(lambda: raw.feed(b"\x03\x00" + cut.to_bytes(2) + whole[4:cut]))


@both
@pytest.mark.parametrize("first", [0x00, 0x16, 0x3C, 0xFF])
def test_t01_what_is_not_rdp_ends_the_connection(peer: End, first: int) -> None:
    refuse(lambda: peer().feed(bytes([first]) + b"\x03\x01" * 200))


@pytest.mark.parametrize("is_up", [True, False], ids=["to-server", "to-client"])
def test_t01_small_pieces_take_linear_time(is_up: bool) -> None:
    joined = Joined().run()
    ends = joined.client, joined.server
    sender, receiver = ends if is_up else ends[::-1]
    sender.send_channel(1006, bytes(1 << 20))
    data = b"".join(sender.data_to_send())
    for start in range(0, len(data), 7):
        receiver.receive_data(data[start : start + 7])
        assert len(receiver._buffer) <= 16384
    (event,) = receiver.events()
    assert isinstance(event, ChannelData)
    assert len(event.data) == 1 << 20


@both
def test_t01_x224_header_that_is_no_data_header(peer: End) -> None:
    raw = peer().until_active()
    refuse(lambda: raw.feed(b"\x03\x00\x00\x08\x02\xf0\x00\x28"))


# ------------------------------------------------------- T02 negotiation ----


@pytest.mark.parametrize(
    ("tail", "protocols"),
    [
        (b"", None),
        (b"\x01\x00\x08\x00\x01\x00\x00", None),  # cut
        (b"\x07\x00\x08\x00\x01\x00\x00\x00", None),  # unknown type
        (b"\x01\x00\x09\x00\x01\x00\x00\x00", None),  # wrong length
        (b"\x01\x01\x08\x00\x01\x00\x00\x00", 1),  # restricted admin
        (b"\x01\x08\x08\x00\x0b\x00\x00\x00" + bytes(36), 11),  # correlation info
        (b"\x01\x00\x08\x00\xff\xff\xff\xff", 0xFFFFFFFF),
    ],
)
def test_t02_requests_with_peculiar_negotiations(
    tail: bytes, protocols: int | None
) -> None:
    body = bytes([6 + len(tail), 0xE0, 0, 0, 0, 0, 0]) + tail
    assert ConnectionRequest.parse(body).protocols == protocols


def test_t02_all_protocols_at_once_means_tls() -> None:
    raw = RawClient()
    answer = raw.feed(ConnectionRequest(protocols=0xFFFFFFFF).serialize())
    assert answer[-8:].hex() == "0201080001000000"


def test_t02_cookie_without_an_end() -> None:
    raw = RawClient()
    cookie = b"Cookie: mstshash=" + b"x" * 60000
    packet = (
        struct.pack(">BBHBB", 3, 0, 11 + len(cookie), 254, 0xE0) + bytes(5) + cookie
    )
    refuse(lambda: raw.feed(packet))


def test_t02_bytes_in_clear_between_negotiation_and_tls_kill_the_session() -> None:
    for extra in (b"\x03", b"\x03\x00\x00\x08\x02\xf0\x80\x28"):
        raw = RawClient()
        request = ConnectionRequest(protocols=1).serialize()
        refuse(lambda: raw.feed(request + extra))  # noqa: B023 - called at once
        refuse(lambda: raw.feed(b"\x03"))  # noqa: B023
    joined = Joined()
    joined.step()
    confirm = b"".join(joined.server.data_to_send())
    refuse(lambda: joined.client.receive_data(confirm + b"\x03"))


def test_t02_a_second_request() -> None:
    raw = RawClient()
    raw.negotiate()
    refuse(raw.negotiate)


@pytest.mark.parametrize("protocols", [None, 0])
def test_t02_refusals_are_sent_before_the_connection_fails(
    protocols: int | None,
) -> None:
    server = ServerConnection(ServerSettings(), random_bytes=no_random)
    with pytest.raises(NegotiationError):
        server.receive_data(ConnectionRequest(protocols=protocols).serialize())
    answer = b"".join(server.data_to_send())
    assert len(answer) == (11 if protocols is None else 19)
    refuse(lambda: server.receive_data(b"\x03"))


# ------------------------------------------------------------ T03 BER, MCS ----


@pytest.mark.parametrize(
    "wire",
    [
        "04",  # no length
        "0480",  # indefinite
        "0485" + "00" * 5,  # length of length 5
        "0484ffffffff",  # 4 GiB
        "0402ff",  # beyond the end
        "3002ffff",  # another tag
    ],
)
def test_t03_malformed_ber(wire: str) -> None:
    with pytest.raises(ValueError, match="BER|wanted"):
        read_ber(Reader(bytes.fromhex(wire), "test"), 4)


def test_t03_fragmented_per_length() -> None:
    with pytest.raises(ValueError, match="PER"):
        read_per_length(Reader(b"\xc1", "test"))


def test_t03_connect_initial_cut_anywhere() -> None:
    whole = mcs.serialize_connect_initial(BLOCKS.serialize())[7:]
    for size in range(1, len(whole)):
        raw = RawClient()
        raw.negotiate()
        packet = struct.pack(">BBH", 3, 0, 7 + size) + b"\x02\xf0\x80" + whole[:size]
        refuse(lambda: raw.feed(packet))  # noqa: B023 - called at once


def test_t03_negative_domain_parameters_are_not_looked_at() -> None:
    minus = ber(0x30, ber(2, b"\xff") * 8)
    head = ber(4, b"\1") + ber(4, b"\1") + ber(1, b"\xff")
    body = ber(0x7F65, head + minus * 3 + ber(4, BLOCKS.serialize()))
    assert mcs.parse_connect_initial(body) == BLOCKS.serialize()


def test_t03_truncated_domain_parameters() -> None:
    head = ber(4, b"\1") + ber(4, b"\1") + ber(1, b"\xff")
    body = ber(0x7F65, head + ber(0x30, b"") * 2 + ber(4, BLOCKS.serialize()))
    with pytest.raises(ValueError, match="BER tag"):
        mcs.parse_connect_initial(body)


@pytest.mark.parametrize("count", [32, 0xFFFF, 0xFFFFFFFF])
def test_t03_too_many_channels(count: int) -> None:
    blocks = ClientBlocks(BLOCKS.core, channels=[ChannelRequest("x", 0)] * 40)
    wire = blocks.serialize().replace(
        struct.pack("<HHI", 0xC003, 488, 40), struct.pack("<HHI", 0xC003, 488, count)
    )
    raw = RawClient()
    raw.negotiate()
    refuse(lambda: raw.connect(wire))


def test_t03_duplicate_names_and_names_without_an_end() -> None:
    names = ["vrdpusb", "VRDPUSB", "12345678", ""]
    raw = RawClient()
    raw.negotiate()
    wire = ClientBlocks(BLOCKS.core, channels=[ChannelRequest(n, 0) for n in names])
    raw.connect(wire.serialize())
    assert [e for e in raw.seen if isinstance(e, ChannelAsked)] == [
        ChannelAsked("vrdpusb", 1004, is_known=True),
        ChannelAsked("VRDPUSB", 1005, is_known=False),
        ChannelAsked("12345678", 1006, is_known=False),
        ChannelAsked("", 1007, is_known=False),
    ]


@both
def test_t03_data_on_channels_that_were_never_granted_is_skipped(peer: End) -> None:
    raw = peer().until_active()
    raw.seen.clear()
    for channel in (0, 1002, 1008, 1031, 0xFFFF):
        raw.feed(raw.sender.send_data(channel, 9) + bytes(9))
    assert [type(e) for e in raw.seen] == [Ignored] * 5


def test_t03_a_join_of_any_channel_is_confirmed_and_opens_nothing() -> None:
    raw = RawClient()
    raw.negotiate()
    raw.connect()
    assert raw.join([0xFFFF]).endswith(bytes.fromhex("3e000001ffffffff"))
    assert raw.server._channels == {}


def test_t03_joins_without_end_are_not_answered_without_end() -> None:
    raw = RawClient()
    raw.negotiate()
    raw.connect()
    assert raw.join(range(MAX_DOMAIN_REQUESTS - 1))  # and one for the user
    refuse(lambda: raw.join([1003]))


@both
@pytest.mark.parametrize(
    "pdu",
    [b"", b"\x38", b"\x38\0\0\0", b"\xfc", b"\x7f\x65", b"\x2e", b"\x3e\0\0\1"],
)
def test_t03_domain_pdus_that_are_cut_or_unknown(peer: End, pdu: bytes) -> None:
    raw = peer()
    if isinstance(raw, RawClient):
        raw.negotiate()
    raw.connect()
    packet = struct.pack(">BBH", 3, 0, 7 + len(pdu)) + b"\x02\xf0\x80" + pdu
    refuse(lambda: raw.feed(packet))


@both
def test_t03_mcs_before_the_negotiation(peer: End) -> None:
    refuse(lambda: peer().feed(mcs.attach_request()))


def test_t03_mcs_before_connect_initial() -> None:
    raw = RawClient()
    raw.negotiate()
    refuse(lambda: raw.feed(mcs.attach_request()))


# ---------------------------------------------------------------- T04 GCC ----


def with_block(block: bytes) -> bytes:
    """Return a request with one more block at its end."""
    inside = BLOCKS.serialize()[9 + 14 :] + block
    rest = bytes.fromhex("000800100001c00044756361")
    rest += (0x8000 | len(inside)).to_bytes(2) + inside
    return bytes.fromhex("000500147c0001") + (0x8000 | len(rest)).to_bytes(2) + rest


def test_t04_unknown_blocks_are_skipped_with_a_note() -> None:
    raw = RawClient()
    raw.negotiate()
    raw.connect(with_block(struct.pack("<HHI", 0xC0FF, 8, 0)))
    assert UnknownBlock(0xC0FF) in raw.seen


@pytest.mark.parametrize(
    "block",
    [
        struct.pack("<HH", 0xC005, 0),  # would never end
        struct.pack("<HH", 0xC005, 3),
        struct.pack("<HH", 0xC005, 5),  # overlaps the end
        struct.pack("<HH", 0xC005, 0xFFFF),
        b"\x05\xc0",  # cut
        struct.pack("<HHI", 0xC003, 8, 1),  # one channel, none there
        struct.pack("<HHH", 0xC002, 6, 0),  # security without methods
        struct.pack("<HH", 0xC001, 4),  # empty core
        struct.pack("<HHI", 0xC001, 132, 0x00040004) + bytes(124),  # core of RDP 4.0
    ],
)
def test_t04_malformed_blocks(block: bytes) -> None:
    raw = RawClient()
    raw.negotiate()
    refuse(lambda: raw.connect(with_block(block)))


def test_t04_what_a_core_block_may_leave_out() -> None:
    """Each field from low_depth on; one that is cut counts as far as it goes."""
    whole = ClientCore("raw", 800, 600, 16, early_flags=1, selected=1).serialize()[4:]
    for size in range(128, len(whole)):
        core = ClientCore.parse(whole[:size])
        assert (core.name, core.width, core.size) == ("raw", 800, size + 4)
        assert core.depth == (16 if size > 136 else 8 if size > 129 else 0)
        assert (core.early_flags, core.selected) == (size > 140, size > 208)
    with pytest.raises(ParseError, match="127 bytes, not 128 or more"):
        ClientCore.parse(whole[:127])


def test_t04_no_core_block() -> None:
    raw = RawClient()
    raw.negotiate()
    refuse(lambda: raw.connect(BLOCKS.serialize().replace(b"\x01\xc0", b"\x01\xc1")))


@pytest.mark.parametrize("depth", [0, 4, 17, 0xFFFF])
def test_t04_impossible_depths(depth: int) -> None:
    raw = RawClient()
    raw.negotiate()
    wire = ClientBlocks(ClientCore("raw", 800, 600, depth)).serialize()
    if depth == 0:
        wire = wire.replace(b"\x01\xca\x01\x00", b"\x00\x00\x01\x00")
    refuse(lambda: raw.connect(wire))


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ((3840, 2160), (3840, 2160)),
        ((0xFFFF, 0), (8192, 600)),
        ((0xFFFF, 0xFFFF), (8192, 1024)),
        ((1, 0xFFFF), (1, 8192)),
    ],
)
def test_t04_sizes_are_cut_to_what_a_screen_can_be(
    asked: tuple[int, int], given: tuple[int, int]
) -> None:
    raw = RawClient()
    raw.negotiate()
    raw.connect(ClientBlocks(ClientCore("raw", *asked, 16)).serialize())
    assert (raw.server.width, raw.server.height) == given


# -------------------------------------------------------- T05 without RC4 ----


def test_t05_encrypted_client_info_without_encryption() -> None:
    raw = RawClient()
    raw.negotiate()
    raw.connect()
    payload = struct.pack("<HH", 0x0048, 0) + ClientInfo().serialize()
    refuse(lambda: raw.feed(raw.io(payload)))


@both
@pytest.mark.parametrize("head", [0x84, 0xC4])
def test_t05_encrypted_fast_path_without_encryption(peer: End, head: int) -> None:
    raw = peer().until_active()
    refuse(lambda: raw.feed(bytes([head, 4, 0, 0])))


def test_t05_a_fast_path_checksum_that_is_salted_without_encryption() -> None:
    raw = RawClient().until_active()
    refuse(lambda: raw.feed(b"\x44\4\0\0"))


@both
@pytest.mark.parametrize("flags", [0x0008, 0x0808, 0x0018])
def test_t05_encrypted_pdus_in_a_session_without_encryption(
    peer: End, flags: int
) -> None:
    raw = peer().until_active()
    pdu = share.share_data(DataType.SYNCHRONIZE, share.synchronize(1002), 1002)
    refuse(lambda: raw.feed(raw.io(struct.pack("<HH", flags, 0) + pdu)))


# -------------------------------------------------------- T06 Client Info ----


def logged_on(info: bytes) -> LogonRequested:
    raw = RawClient()
    raw.negotiate()
    raw.connect()
    raw.log_on(info)
    (event,) = [e for e in raw.seen if isinstance(e, LogonRequested)]
    return event


def sized(*sizes: int, flags: int = InfoFlag.RDESKTOP, rest: bytes = b"") -> bytes:
    return struct.pack("<II5H", 0, flags, *sizes) + rest


@pytest.mark.parametrize(
    "info",
    [
        b"",
        sized(0, 0, 0, 0, 0)[:-1],
        sized(0xFFFF, 0, 0, 0, 0, rest=bytes(70000 % 16000)),  # CVE-2025-68670
        sized(0, 514, 0, 0, 0, rest=bytes(600)),
        sized(0, 3, 0, 0, 0, rest=bytes(40)),  # odd
        sized(0, 4, 0, 0, 0, rest=b"\0\0\x00\xd8\x00\xd8\0\0" + bytes(8)),  # surrogates
        sized(8, 0, 0, 0, 0, rest=b"a\0b\0"),  # beyond the end
        sized(0, 0, 0, 0, 0, rest=bytes(10) + b"\x02\x00\x01\x00"),  # address, 1 byte
        sized(0, 0, 0, 0, 0, rest=bytes(10) + b"\x02\x00\xff\xff"),
        sized(0, 0, 0, 0, 0, rest=bytes(10) + b"\x02\x00\x00\x00\x08\x00"),
    ],
)
def test_t06_malformed_client_info(info: bytes) -> None:
    refuse(lambda: logged_on(info))


def test_t06_errors_never_show_the_password() -> None:
    password = "hunter2".encode("utf-16-le") + b"\x00\xd8"
    info = sized(0, 0, 16, 0, 0, rest=bytes(4) + password + bytes(8))
    with pytest.raises(RemoteProtocolError) as caught:
        logged_on(info)
    assert "hunter" not in str(caught.value)
    assert "68" not in str(caught.value)


def test_t06_garbage_behind_what_is_read_does_not_matter() -> None:
    info = ClientInfo(user="john", address="10.0.0.1").serialize() + bytes(range(200))
    event = logged_on(info)
    assert (event.credentials.user, event.client.address) == ("john", "10.0.0.1")


def test_t06_a_text_ends_at_its_first_nul() -> None:
    assert logged_on(ClientInfo(user="jo\0hn").serialize()).credentials.user == "jo"


def test_t06_strings_that_are_not_unicode() -> None:
    flags = InfoFlag.RDESKTOP & ~InfoFlag.UNICODE
    info = sized(0, 4, 2, 0, 0, flags=flags, rest=b"\0j\xf6rg\0pw\0\0\0")
    credentials = logged_on(info).credentials
    assert (credentials.user, credentials.password) == ("jörg", "pw")


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
    raw = RawClient()
    raw.negotiate()
    raw.connect()
    raw.log_on()
    refuse(lambda: raw.confirm(sets))


@pytest.mark.parametrize("count", [64, 65])
def test_t07_sets_without_end(count: int) -> None:
    """16000 took a tenth of a second, and there may be 64 such packets in a turn."""
    raw = RawClient()
    raw.negotiate()
    raw.connect()
    raw.log_on()
    raw.server.turn = 64
    unknown = [capability(99, b"")] * count
    if count > 64:
        with pytest.raises(RemoteProtocolError, match="65 capability sets, at most 64"):
            raw.confirm(unknown)
    else:
        raw.confirm(unknown)
        assert raw.server.turn < 0  # it is all of it


def test_t07_count_larger_than_the_data() -> None:
    raw = RawClient()
    raw.negotiate()
    raw.connect()
    raw.log_on()
    refuse(lambda: raw.confirm(count=0xFFFF))


@pytest.mark.parametrize(
    ("stated", "used"),
    [
        (None, MIN_CHUNK),
        *((size, MIN_CHUNK) for size in (0, 1, 1599, 16257, 0xFFFFFFFF)),
        *((size, size) for size in (1600, 1601, 16256)),
    ],
)
def test_t07_chunk_sizes(stated: int | None, used: int) -> None:
    body = bytes(4) if stated is None else struct.pack("<II", 0, stated)
    assert Capabilities.of({20: body}).chunk_size == used
    assert Capabilities.of({}).chunk_size == MIN_CHUNK
    assert MAX_CHUNK == 16256


def test_t07_short_sets_count_as_absent() -> None:
    found = Capabilities.of({1: b"\x01", 2: b"\x02", 20: b"\x03"})
    assert found == Capabilities.of({})


def test_t07_confirm_active_twice() -> None:
    raw = RawClient()
    raw.negotiate()
    raw.connect()
    raw.log_on()
    raw.confirm()
    raw.confirm()
    raw.finish()
    assert Activated(800, 600, 16) in raw.seen
    raw.confirm()
    assert isinstance(raw.seen[-1], Ignored)


def test_t07_share_id_mismatch_is_noticed_and_tolerated() -> None:
    raw = RawClient()
    raw.negotiate()
    raw.connect()
    raw.log_on()
    sets = client_sets(800, 600, 16, keyboard_layout=0, is_rdp4=False)
    body = share.share_control(
        3, struct.pack("<IHHH", 77, 1002, 0, 4 + sum(map(len, sets)))
        + struct.pack("<HH", len(sets), 0) + b"".join(sets), 1002
    )  # fmt: skip
    raw.feed(raw.io(body))
    assert isinstance(raw.seen[-1], Ignored)
    raw.finish()
    assert Activated(800, 600, 16) in raw.seen


def test_t07_data_before_activation_is_skipped() -> None:
    raw = RawClient()
    raw.negotiate()
    raw.connect(BLOCKS.serialize())
    chunk = struct.pack("<II", 1, 3) + b"x"
    raw.feed(raw.sender.send_data(USB, len(chunk)) + chunk)
    assert isinstance(raw.seen[-1], Ignored)


def test_t07_data_before_the_logon_is_decided_is_skipped() -> None:
    server = RawClient()
    server.negotiate()
    server.connect()
    body = struct.pack("<HH", 0x0040, 0) + ClientInfo().serialize()
    server.server.receive_data(server.io(body))
    server.server.events()
    server.server.receive_data(server.data(DataType.FONT_LIST, share.font_list(3)))
    assert [type(e) for e in server.server.events()] == [Ignored]
    assert server.server.data_to_send() == []


@pytest.mark.parametrize(
    "payload",
    [
        b"\x01",
        b"\x03\x00\x17",
        struct.pack("<HHH", 3, 0x17, 1002),
        struct.pack("<HHH", 7, 0x17, 1002),
        struct.pack("<HHH", 0xFFFF, 0x17, 1002),
        struct.pack("<HHH", 6, 0x17, 1002),  # data without its header
    ],
)
@both
def test_t07_malformed_share_pdus(peer: End, payload: bytes) -> None:
    raw = peer().until_active()
    refuse(lambda: raw.feed(raw.io(payload)))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (DataType.CONTROL, b""),
        (DataType.SUPPRESS_OUTPUT, b""),
        (DataType.INPUT, struct.pack("<HH", 9, 0)),
    ],
)
def test_t07_malformed_share_data(kind: DataType, body: bytes) -> None:
    raw = RawClient().until_active()
    refuse(lambda: raw.feed(raw.data(kind, body)))


def test_t07_compressed_pdus_were_not_agreed_on() -> None:
    raw = RawClient().until_active()
    packet = bytearray(raw.data(DataType.SYNCHRONIZE, share.synchronize(1)))
    packet[-7] = 0x21
    refuse(lambda: raw.feed(bytes(packet)))


def piece(raw: RawClient | RawServer, flags: int, part: bytes) -> bytes:
    """Return a segment of what is sent on the I/O channel."""
    head = bytearray(raw.sender.send_data(1003, len(part)))
    head[12] = 0x40 | flags
    return bytes(head) + part


def test_t07_segments_are_joined() -> None:
    raw = RawClient().until_active()
    packet = raw.data(DataType.SYNCHRONIZE, share.synchronize(1002))
    pieces = piece(raw, 0x20, packet[14:19]), piece(raw, 0x10, packet[19:])
    assert len(raw.feed(*pieces)) == len(packet)


@both
def test_t07_segments_without_an_end_are_bounded(peer: End) -> None:
    raw = peer().until_active()
    part = piece(raw, 0, bytes(16000))
    with memory_below(400_000):
        refuse(lambda: raw.feed(*[part] * 5))


def test_t02_only_a_method_that_is_allowed_is_used() -> None:
    raw = RawClient(ServerSettings(frozenset({Method.RDP})))
    with pytest.raises(NegotiationError):
        raw.feed(ConnectionRequest(protocols=1).serialize())
