"""Peers that are not ours: rdesktop, viewers, other servers (1.20, 8.4, 8.6, 8.8)."""

import struct

import pytest

from rusb.errors import NegotiationError, RemoteProtocolError
from rusb.rdp import events as rdp
from rusb.rdp import mcs, share
from rusb.rdp.capabilities import (
    client_sets,
    serialize_confirm_active,
)
from rusb.rdp.client import ClientSettings
from rusb.rdp.gcc import ClientBlocks, ClientCore, ServerBlocks
from rusb.rdp.info import ClientInfo
from rusb.rdp.licensing import VALID_CLIENT
from rusb.rdp.security import Method
from rusb.rdp.server import ServerConnection, ServerSettings
from rusb.rdp.share import DataType, ShareType
from rusb.rdp.x224 import ConnectionConfirm
from tests.support.rdp.joined import Joined, clear, no_random
from tests.support.rdp.raw import RawClient, RawServer, in_clear, vector

USB = 1007  # fourth of rdesktop's channels
CHUNK = struct.pack("<II", 5, 3) + b"hello"


OPTIONS = bytes.fromhex("c0000000")  # 0xC0000000 as rdesktop writes it


def rdesktop(
    *, core_size: int = 216, headers: bytes = b"", options: bytes = OPTIONS
) -> RawClient:
    """rdesktop-vrdp -e -r usb as far as Client Info, from the vectors."""
    raw = RawClient(headers=headers)
    assert raw.negotiate(vector("x224", "rdesktop-cr-v4", "bytes"))[5] == 0xD0
    blocks = vector("client_rdesktop_vrdp", "gcc-request-r-usb-standard", "user_data")
    assert b"vrdpusb\0" + OPTIONS in blocks
    blocks = in_clear(blocks).replace(b"vrdpusb\0" + OPTIONS, b"vrdpusb\0" + options)
    if core_size == 212:  # before 1.8: no serverSelectedProtocol
        core = blocks[23 : 23 + 212]
        rest = b"\x01\xc0\xd4\x00" + core[4:] + blocks[23 + 216 :]
        head = bytes.fromhex("000800100001c00044756361")
        inside = head + (0x8000 | len(rest)).to_bytes(2) + rest
        blocks = blocks[:7] + (0x8000 | len(inside)).to_bytes(2) + inside
    assert raw.connect(blocks)
    erect = vector("mcs_pdus", "rdesktop-erect-domain", "bytes")
    assert raw.feed(erect, mcs.attach_request()) == mcs.attach_confirm(1)
    raw.feed(*[mcs.join_request(1, channel) for channel in range(1002, 1009)])
    raw.log_on(vector("client_rdesktop_vrdp", "client-info-v5", "info_packet"))
    return raw


def rdesktop_confirm(raw: RawClient) -> bytes:
    """Confirm Active as rdesktop sends it: 14 sets, none for channels."""
    sets = client_sets(800, 600, 16, keyboard_layout=0x409, is_rdp4=False)[:-1]
    body = serialize_confirm_active(share.SHARE_ID, sets)
    pdu = share.share_control(ShareType.CONFIRM_ACTIVE, body, 1002)
    return raw.feed(raw.io(raw.headers + pdu))


def test_rdesktop_connects_with_big_endian_options_and_loose_pdus() -> None:
    raw = rdesktop()
    (logon,) = [e for e in raw.seen if isinstance(e, rdp.LogonRequested)]
    who = logon.credentials
    assert (who.user, who.password, who.domain, who.screen) == ("john", "secret", "", 1)
    assert (logon.client.kind, logon.client.address) == ("rdesktop", "192.0.2.10")
    rdesktop_confirm(raw)
    raw.finish()
    assert raw.seen[-1:] == [rdp.ChannelOpened(USB, "vrdpusb")]
    raw.feed(raw.sender.send_data(USB, len(CHUNK)) + CHUNK)
    assert raw.seen[-1:] == [rdp.ChannelData(USB, b"hello")]
    assert raw.server._sender.chunk_size == 1600
    raw.server.send_channel(USB, b"hello")
    (head, payload) = raw.server.data_to_send()
    assert (head + payload).endswith(b"\x03\xef\x70\x0d" + CHUNK)


@pytest.mark.parametrize(
    ("options", "is_shown"),
    [
        ("000020c0", True),  # 0xC0200000, as Microsoft's clients write it
        ("c0200000", False),  # the same from rdesktop: big-endian, so not seen
        ("c0a00000", False),  # rdesktop's options of cliprdr
        ("80800000", False),  # and of rdpdr
        ("000000c0", False),
    ],
)
@pytest.mark.parametrize("size", [5, 5000])
def test_show_protocol_is_echoed_to_who_asked_for_it(
    options: str, is_shown: bool, size: int
) -> None:
    """1.18: flag 0x10 in every chunk."""
    raw = rdesktop(options=bytes.fromhex(options))
    rdesktop_confirm(raw)
    raw.finish()
    raw.server.send_channel(USB, bytes(size))
    wire = b"".join(raw.server.data_to_send())
    flags = []
    while wire:
        start = 15 if wire[13] & 0x80 else 14
        flags.append(int.from_bytes(wire[start + 4 : start + 8], "little"))
        wire = wire[int.from_bytes(wire[2:4]) :]
    assert [f & 0x10 for f in flags] == [0x10 * is_shown] * len(flags)
    assert (flags[0] & 1, flags[-1] & 2, len(flags)) == (1, 2, 1 if size == 5 else 4)


def test_rdesktop_gets_nothing_between_demand_active_and_font_map_but_answers() -> None:
    """1.13: it counts three, whatever they are; Synchronize comes unasked."""
    raw = rdesktop()
    assert kinds_of(rdesktop_confirm(raw)) == [31]
    assert kinds_of(raw.finish()) == [20, 20, 40]


def kinds_of(answers: bytes) -> list[int]:
    """Return the types of the share data PDUs in packets."""
    kinds = []
    while answers:
        size = int.from_bytes(answers[2:4])
        kinds.append(answers[14 + 14])
        answers = answers[size:]
    return kinds


def test_a_client_that_waits_for_synchronize_gets_it_once_per_activation() -> None:
    """MS-RDPBCGR 3.3.5.3.13.2; aardwolf sends its own only then."""
    raw = RawClient()
    raw.negotiate()
    raw.connect()
    raw.join()
    raw.log_on()
    answer = raw.confirm()
    assert kinds_of(answer) == [31]
    assert answer[-4:] == struct.pack("<HH", 1, share.SERVER_USER)
    assert raw.confirm() == b""  # a second Confirm Active of the same activation
    assert kinds_of(raw.finish()) == [20, 20, 40]
    sync = raw.data(DataType.SYNCHRONIZE, share.synchronize(1002))
    assert kinds_of(raw.feed(sync)) == [31]  # in the session each is answered
    raw.server.resize(1024, 768)
    raw.server.data_to_send()
    assert kinds_of(raw.confirm()) == [31]


class Miscounting(RawClient):
    """aardwolf 0.2 counts six bytes too many in what it sends after its logon."""

    surplus = 0

    def io(self, payload: bytes) -> bytes:
        size = int.from_bytes(payload[:2], "little") + self.surplus
        return super().io(size.to_bytes(2, "little") + payload[2:])


@pytest.mark.parametrize("surplus", [1, 6, 0x7000])
def test_share_control_lengths_that_are_too_long(surplus: int) -> None:
    raw = Miscounting()
    raw.negotiate()
    raw.connect()
    raw.join()
    raw.log_on()
    raw.surplus = surplus
    raw.confirm()
    raw.finish()
    assert rdp.Activated(800, 600, 16) in raw.seen


@pytest.mark.parametrize("outer", [0, 1, 268, 0x3FFF])
def test_a_proxy_that_rewrites_the_blocks_leaves_the_outer_length(outer: int) -> None:
    """A man in the middle such as PyRDP: the request was 268 bytes longer than that."""
    user_data = ClientBlocks(ClientCore("raw", 800, 600, 16)).serialize()
    key, rest = user_data[:7], user_data[9:]
    assert user_data[7] & 0x80
    raw = RawClient()
    raw.negotiate()
    assert raw.connect(key + (0x8000 | outer).to_bytes(2) + rest)
    raw.join()
    raw.log_on()
    raw.confirm()
    raw.finish()
    assert rdp.Activated(800, 600, 16) in raw.seen


def test_rdesktop_18_with_headers_it_never_stopped_to_write() -> None:
    """1.20: flags 0x0030 on Confirm Active, zero after it."""
    raw = rdesktop(headers=struct.pack("<HH", 0x0030, 0))
    answers = rdesktop_confirm(raw)
    assert answers[14:16] == b"\x16\0"  # it misreads packets that carry one
    raw.headers = bytes(4)
    assert raw.finish()[14:16] == b"\x1a\0"
    assert rdp.Activated(800, 600, 16) in raw.seen
    raw.feed(raw.sender.send_data(USB, 4 + len(CHUNK)) + bytes(4) + CHUNK)
    assert raw.seen[-1:] == [rdp.ChannelData(USB, b"hello")]
    raw.server.send_channel(USB, b"hello")
    assert b"".join(raw.server.data_to_send()).endswith(b"\x70\x0d" + CHUNK)


def test_rdesktop_17_gets_the_headers_it_wants() -> None:
    raw = rdesktop(core_size=212, headers=bytes(4))
    answers = rdesktop_confirm(raw)
    assert answers[13:18] == b"\x1a\0\0\0\0"
    assert raw.finish()[13:18] == b"\x1e\0\0\0\0"
    big = bytes(range(256)) * 20
    raw.server.send_channel(USB, big)
    wire = b"".join(raw.server.data_to_send())
    assert wire[13:20] == b"\x86\x4c" + bytes(4) + b"\x00"
    raw.sender.prefix = bytes(4)
    raw.feed(b"".join(raw.sender.cut(USB, big)))
    assert raw.seen[-1:] == [rdp.ChannelData(USB, big)]


@pytest.mark.parametrize("can_resize", [True, False])
def test_a_client_keeps_its_size_if_it_says_that_it_must(can_resize: bool) -> None:
    """1.17: desktopResizeFlag of the Bitmap set."""
    raw = RawClient()
    raw.negotiate()
    raw.connect()
    raw.join()
    raw.log_on()
    sets = client_sets(800, 600, 16, keyboard_layout=0, is_rdp4=False)
    if not can_resize:
        sets[1] = sets[1][:18] + bytes(2) + sets[1][20:]
    raw.confirm(sets)
    raw.finish()
    raw.server.resize(1024, 768)
    assert bool(raw.server.data_to_send()) is can_resize
    assert raw.server.width == (1024 if can_resize else 800)


def test_a_font_list_without_confirm_active_does_not_activate() -> None:
    raw = RawClient()
    raw.negotiate()
    raw.connect()
    raw.join()
    raw.log_on()
    raw.feed(raw.data(DataType.FONT_LIST, share.font_list(3)))
    assert isinstance(raw.seen[-1], rdp.Ignored)
    raw.confirm()
    raw.finish()
    assert rdp.Activated(800, 600, 16) in raw.seen


def test_rdesktop_leaves_with_an_x224_disconnect() -> None:
    raw = rdesktop()
    rdesktop_confirm(raw)
    raw.finish()
    raw.feed(bytes.fromhex("0300000b06800000000000"))
    assert raw.seen[-1:] == [rdp.Disconnected(None, clean=True)]


def test_a_windows_client_leaves_with_a_shutdown_request() -> None:
    raw = RawClient().until_active()
    answer = raw.feed(raw.data(DataType.SHUTDOWN_REQUEST, b""))
    assert raw.seen[-1:] == [rdp.Disconnected(0, clean=True)]
    assert answer.endswith(mcs.ultimatum(is_by_user=False))
    assert raw.feed(mcs.ultimatum(is_by_user=True)) == b""


# ---------------------------------------------------------------- version 4 ----


def rdp4(info: bytes) -> RawClient:
    raw = RawClient()
    raw.negotiate(vector("x224", "rdesktop-cr-v4", "bytes"))
    blocks = vector("client_rdesktop_vrdp", "gcc-request-v4", "user_data")
    raw.connect(in_clear(blocks))
    raw.join()
    raw.log_on(info)
    return raw


def test_an_rdp4_client_needs_no_extended_part_and_two_font_lists() -> None:
    raw = rdp4(ClientInfo(user="john", is_extended=False).serialize())
    (logon,) = [e for e in raw.seen if isinstance(e, rdp.LogonRequested)]
    assert (logon.client.kind, logon.client.address) == ("RDP4", "")
    raw.confirm(client_sets(800, 600, 16, keyboard_layout=0, is_rdp4=True))
    raw.feed(raw.data(DataType.FONT_LIST, share.font_list(1)))
    assert rdp.Activated(800, 600, 16) not in raw.seen
    assert raw.feed(raw.data(DataType.FONT_LIST, share.font_list(2)))
    assert raw.seen[-1:] == [rdp.Activated(800, 600, 16)]


@pytest.mark.parametrize("empty", [(0, 2), (1,), (0, 1, 2, 3, 4)])
def test_rdesktop_18_leaves_out_the_terminators_of_empty_strings(
    empty: tuple[int, ...],
) -> None:
    """8.6: only in version 4."""
    texts = ["D", "user", "pw", "shell", "dir"]
    for index in empty:
        texts[index] = ""
    raw = [text.encode("utf-16-le") for text in texts]
    head = struct.pack("<II5H", 0, 0x133, *map(len, raw))
    body = b"".join(text + b"\0\0" for text in raw if text)
    info = ClientInfo.parse(head + body)
    found = [info.domain, info.user, info.password, info.shell, info.directory]
    assert found == texts
    assert not info.is_extended


def test_our_version_4_client_connects_without_channels() -> None:
    settings, server = clear()
    settings.version = 4
    joined = Joined(settings, server).run()
    assert joined.of_client(rdp.Activated)
    assert joined.of_server(rdp.Activated)
    assert joined.of_client(rdp.ChannelOpened) == []
    assert b"\x01\x00\x08\x00" not in joined.sent_by_client[0]  # no negotiation


# ------------------------------------------------------------ other servers ----


def test_the_client_reaches_a_session_and_uses_the_servers_size() -> None:
    raw = RawServer().until_active()
    assert (raw.client.width, raw.client.height, raw.client.depth) == (1024, 768, 24)


@pytest.mark.parametrize(
    "block", [struct.pack("<HHI", 0x0C04, 8, 0), struct.pack("<HHI", 0x0C08, 8, 0)]
)
def test_unknown_server_blocks_are_skipped(block: bytes) -> None:
    known = ServerBlocks.granting(0, 4).serialize()
    inside = known[23:] + block
    RawServer().until_licence(known[:21] + (0x8000 | len(inside)).to_bytes(2) + inside)


def test_a_server_that_wants_rc4_is_refused_with_a_way_out() -> None:
    wire = vector("gcc_and_connect_response", "connect-response-128-3ch", "bytes")
    raw = RawServer()
    raw.feed(ConnectionConfirm(selected=0).serialize())
    with pytest.raises(NegotiationError, match="Allow TLS"):
        raw.feed(wire)


def test_more_channels_than_asked_for() -> None:
    with pytest.raises(RemoteProtocolError, match="granted 5"):
        RawServer().connect(ServerBlocks.granting(0, 5).serialize())


def test_a_refused_join_leaves_the_other_channels() -> None:
    raw = RawServer()
    raw.connect()
    raw.feed(mcs.attach_confirm(9))
    raw.feed(mcs.join_confirm(9, 1010), mcs.join_confirm(9, 1003))
    refused = bytes.fromhex("0300000d02f0803ce0000903ec")
    raw.feed(refused, *[mcs.join_confirm(9, c) for c in (1005, 1006, 1007)])
    assert raw.client.is_logged_on
    assert sorted(raw.client._channels) == [1005, 1006, 1007]


@pytest.mark.parametrize(
    ("wire", "match"),
    [
        (mcs.join_confirm(9, 1099), "asked for"),
        (bytes.fromhex("0300000d02f0803ce0000903f2"), "refused MCS channel"),
        (mcs.attach_confirm(7), "instead of"),
    ],
)
def test_confirms_that_do_not_fit(wire: bytes, match: str) -> None:
    raw = RawServer()
    raw.connect()
    raw.feed(mcs.attach_confirm(9))
    with pytest.raises((RemoteProtocolError, NegotiationError), match=match):
        raw.feed(wire)


def test_a_refused_user_or_connection_is_no_common_ground() -> None:
    raw = RawServer()
    raw.feed(ConnectionConfirm(selected=0).serialize())
    response = bytearray(mcs.serialize_connect_response(ServerBlocks().serialize()))
    response[response.index(b"\x0a\x01\x00") + 2] = 3
    with pytest.raises(NegotiationError, match="result 3"):
        raw.feed(bytes(response))


LICENCES = [
    (bytes([2, 3, 16, 0]) + bytes(12), "licence"),
    (bytes([0x77, 3, 16, 0]) + bytes(12), "unknown licence message"),
    (struct.pack("<BBHIIHH", 0xFF, 3, 16, 2, 1, 4, 0), "code 2"),
]


@pytest.mark.parametrize(("message", "match"), LICENCES)
def test_servers_that_want_a_licence_are_told_apart(message: bytes, match: str) -> None:
    raw = RawServer().until_licence()
    with pytest.raises(NegotiationError, match=match):
        raw.feed(raw.io(struct.pack("<HH", 0x80, 0) + message))


def test_a_client_that_is_asked_for_a_licence_asks_for_a_new_one() -> None:
    settings = ClientSettings(
        user="vera", client_name="desk", wants_tls=False, encryption=False
    )
    raw = RawServer(settings).until_licence()
    request = struct.pack("<HH", 0x80, 0) + bytes([1, 3, 16, 0]) + bytes(12)
    said = raw.feed(raw.io(request))
    start = said.index(b"\x80\0\0\0\x13\x03")
    (size,) = struct.unpack_from("<H", said, start + 6)
    assert len(said) == start + 4 + size
    assert b"\x0f\0\x05\0vera\0\x10\0\x05\0desk\0" in said
    raw.feed(raw.io(struct.pack("<HH", 0x80, 0) + VALID_CLIENT))
    assert raw.feed(raw.demand())


@pytest.mark.parametrize("kind", [3, 4])
def test_a_new_licence_is_taken_as_it_comes(kind: int) -> None:
    raw = RawServer().until_licence()
    message = bytes([kind, 3, 24, 0]) + bytes(20)
    raw.feed(raw.io(struct.pack("<HH", 0x80, 0) + message))
    assert raw.feed(raw.demand())


def test_a_server_may_leave_the_licence_out() -> None:
    raw = RawServer().until_licence()
    assert raw.feed(raw.demand())


def test_a_redirection_of_a_broker_says_so() -> None:
    raw = RawServer().until_licence()
    with pytest.raises(NegotiationError, match="redirect"):
        raw.feed(raw.io(struct.pack("<HH", 0x0400, 0) + bytes(20)))
    raw = RawServer().until_licence()
    raw.feed(raw.demand())
    packet = raw.io(share.share_control(ShareType.REDIRECTION, bytes(20), 0))
    with pytest.raises(NegotiationError, match="redirect"):
        raw.feed(packet)
    with pytest.raises(RemoteProtocolError, match="a redirection to ''"):
        RawServer().until_active().feed(packet)


def test_headers_of_the_original_server_are_taken_and_returned() -> None:
    """1.20: it writes them for ever to those it takes for rdesktop."""
    raw = RawServer().until_licence()
    raw.feed(raw.io(struct.pack("<HH", 0x0280, 0x0010) + VALID_CLIENT))
    answers = raw.feed(raw.demand(headers=bytes(4)))
    assert answers[15:19] == bytes(4)
    font_map = share.share_data(DataType.FONT_MAP, b"", 1002)
    raw.feed(raw.io(bytes(4) + font_map))
    raw.feed(raw.sender.send_data(1006, 4 + len(CHUNK)) + bytes(4) + CHUNK)
    assert raw.seen[-1:] == [rdp.ChannelData(1006, b"hello")]


def test_a_demand_active_in_segments_of_mcs() -> None:
    raw = RawServer().until_licence()
    payload = raw.demand()[15:]
    assert len(payload) > 200
    for flags, part in (
        (0x20, payload[:100]),
        (0, payload[100:150]),
        (0x10, payload[150:]),
    ):
        head = bytearray(raw.sender.send_data(1003, len(part)))
        head[12] = 0x40 | flags
        answer = raw.feed(bytes(head) + part)
    assert answer


def test_several_pdus_in_one_packet_and_flow_pdus() -> None:
    raw = RawServer().until_active()
    flow = struct.pack("<HHHH", 0x8000, 0x42, 0, 1002)
    sync = share.share_data(DataType.SYNCHRONIZE, share.synchronize(1002), 1002)
    raw.feed(raw.io(flow + sync + share.share_data(99, b"?", 1002)))
    assert not any(isinstance(e, rdp.Disconnected) for e in raw.seen)


@pytest.mark.parametrize("kind", [DataType.UPDATE, DataType.POINTER, 38, 41, 55, 99])
def test_pictures_and_unknown_pdus_do_not_matter(kind: int) -> None:
    raw = RawServer().until_active()
    raw.feed(raw.data(kind, bytes(100)), b"\x00\x80\x10" + bytes(13))
    raw.feed(b"\x44\x08" + bytes(6))
    assert not any(isinstance(e, rdp.Disconnected) for e in raw.seen)


def test_a_keepalive_is_tolerated_and_not_answered() -> None:
    joined = Joined().run()
    joined.server.keepalive()
    joined.client.receive_data(b"".join(joined.server.data_to_send()))
    assert (joined.client.events(), joined.client.data_to_send()) == ([], [])


def test_deactivation_and_activation_keep_channels_open() -> None:
    raw = RawServer().until_active()
    raw.seen.clear()
    raw.feed(raw.io(b"\x04\x00\x16\x00"))
    raw.client.send_channel(1006, b"x")
    raw.feed(raw.demand())
    raw.feed(raw.data(DataType.FONT_MAP, b""))
    assert raw.seen == [rdp.Activated(1024, 768, 24)]


@pytest.mark.parametrize("code", [1, 5, 12])
def test_error_info_and_deactivation_are_an_end(code: int) -> None:
    raw = RawServer().until_active()
    raw.feed(raw.data(DataType.ERROR_INFO, struct.pack("<I", code)))
    raw.feed(raw.io(b"\x04\x00\x16\x00"))
    assert raw.seen[-1:] == [rdp.Disconnected(code, clean=True)]
    assert raw.feed(mcs.ultimatum(is_by_user=False)) == b""
    raw.client.disconnect()
    assert raw.client.data_to_send() == []


def test_error_info_none_is_not_an_end() -> None:
    raw = RawServer().until_active()
    raw.feed(raw.data(DataType.ERROR_INFO, bytes(4)), raw.io(b"\x04\x00\x16\x00"))
    raw.feed(raw.demand(), raw.data(DataType.FONT_MAP, b""))
    raw.feed(mcs.ultimatum(is_by_user=False))
    assert raw.seen[-1:] == [rdp.Disconnected(0, clean=True)]


def test_an_ultimatum_before_the_session_is_not_a_clean_end() -> None:
    raw = RawServer().until_licence()
    raw.feed(mcs.ultimatum(is_by_user=False))
    assert raw.seen[-1:] == [rdp.Disconnected(None, clean=False)]


@pytest.mark.parametrize(
    ("code", "match"),
    [
        *((1, "insists on TLS"), (2, "Security/Method"), (3, "ServerCertificate")),
        *((4, "inconsistent"), (5, "CredSSP"), (6, "smart card"), (99, "failure 99")),
    ],
)
def test_refusals_say_what_to_do(code: int, match: str) -> None:
    raw = RawServer(ClientSettings())
    with pytest.raises(NegotiationError, match=match) as caught:
        raw.feed(ConnectionConfirm(failure=code).serialize())
    # what TLS without can do is told apart, for those who may try it
    assert caught.value.stage == ("tls" if code in (2, 3) else "rdp")


def test_a_server_that_knows_no_negotiation_is_not_sent_a_password() -> None:
    raw = RawServer(ClientSettings(password="secret"))
    with pytest.raises(NegotiationError, match="in the clear"):
        raw.feed(ConnectionConfirm().serialize())


def test_the_server_keeps_to_the_default_policy() -> None:
    server = ServerConnection(ServerSettings(), random_bytes=no_random)
    assert server.settings.methods == {Method.TLS}


def test_what_the_client_asks_for_is_in_its_blocks() -> None:
    settings, server = clear()
    settings.console = settings.compression = settings.remote_sound = True
    settings.client_name, settings.password = "a-name-of-more-than-15", "pw"
    joined = Joined(settings, server).run()
    assert joined.server._blocks is not None
    blocks = joined.server._blocks
    assert (blocks.core.name, blocks.cluster) == ("a-name-of-more-", 0x0B)
    assert [(c.name, c.options) for c in blocks.channels] == [
        ("cliprdr", 0xC0A00000),
        ("rdpsnd", 0xC0000000),
        ("vrdpusb", 0xC0000000),
        ("rdpdr", 0x80800000),
    ]
    sent = b"".join(joined.sent_by_client)
    assert struct.pack("<II", 0, 0x133 | 0x8 | 0x280 | 0x2000) in sent
