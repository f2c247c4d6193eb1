"""Whole connections under standard RDP security (1.6 to 1.9, 2.3)."""

import struct
from typing import Any

import pytest

from rusb.errors import NegotiationError, ParseError, RemoteProtocolError
from rusb.rdp import events as rdp
from rusb.rdp import mcs
from rusb.rdp.gcc import ServerBlocks
from rusb.rdp.graphics.canvas import Canvas
from rusb.rdp.graphics.updates import palette_update
from rusb.rdp.info import ClientInfo
from rusb.rdp.notices import EncryptionChosen
from rusb.rdp.security import SecurityFlag, StandardSecurity
from rusb.rdp.standard import (
    Direction,
    Encryption,
    derive_keys,
    salted_checksum,
)
from rusb.rdp.tpkt import packet_size
from tests.support.amount import inputs
from tests.support.rdp.joined import Joined
from tests.support.rdp.raw import RawClient, group, vector
from tests.support.rdp.standard import (
    STRENGTHS,
    Peer,
    encrypted,
    secured,
)


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_session_of_every_strength(strength: Encryption, version: int) -> None:
    joined = Joined(*encrypted(strength, version=version)).run()
    (logon,) = joined.of_server(rdp.LogonRequested)
    assert (logon.credentials.user, logon.credentials.password) == ("vera", "secret")
    assert joined.of_client(rdp.Activated)
    everything = b"".join(joined.sent_by_client)
    assert "vera".encode("utf-16-le") not in everything
    assert "secret".encode("utf-16-le") not in everything


def test_pieces_of_any_size_do() -> None:
    def singly(data: bytes) -> list[bytes]:
        return [data[i : i + 1] for i in range(len(data))]

    joined = Joined(*encrypted(), cut=singly).run()
    assert joined.of_client(rdp.Activated)


def channel_of(events: list[rdp.ChannelOpened]) -> int:
    (opened,) = events
    return opened.channel


@pytest.mark.parametrize("size", [0, 1, 1600, 1601, 100_000])
def test_channel_messages_both_ways(size: int) -> None:
    joined = Joined(*encrypted()).run()
    channel = channel_of(joined.of_client(rdp.ChannelOpened))
    message = bytes(range(251)) * (size // 251 + 1)
    message = message[:size]
    joined.client.send_channel(channel, message)
    joined.server.send_channel(channel, message[::-1])
    joined.run()
    assert joined.of_server(rdp.ChannelData) == [rdp.ChannelData(channel, message)]
    back = rdp.ChannelData(channel, message[::-1])
    assert joined.of_client(rdp.ChannelData) == [back]
    if size > 99:
        assert message[:100] not in b"".join(joined.sent_by_client)


def test_show_protocol_is_echoed_in_what_is_encrypted_too() -> None:
    client, server = encrypted()
    client.channels = server.channels = ("cliprdr",)  # which asks for it
    joined = Joined(client, server).run()
    channel = channel_of(joined.of_server(rdp.ChannelOpened))
    joined.server.send_channel(channel, b"hello")
    (packet,) = (p for p in joined.server.data_to_send() if b"hello" not in p)
    _, chunk = joined.client._security.unwrap(packet[14:])
    assert chunk == struct.pack("<II", 5, 0x13) + b"hello"


@pytest.mark.soak
@pytest.mark.parametrize("strength", STRENGTHS)
def test_ten_thousand_packets_each_way_across_two_key_changes(
    strength: Encryption,
) -> None:
    joined = Joined(*encrypted(strength)).run()
    channel = channel_of(joined.of_client(rdp.ChannelOpened))
    count = inputs(10_000)
    for number in range(count):
        message = number.to_bytes(4)
        joined.client.send_channel(channel, message)
        joined.server.send_channel(channel, message)
        if number % 100 == 99:
            joined.run()
    for found in (joined.of_client, joined.of_server):
        numbers = [int.from_bytes(e.data) for e in found(rdp.ChannelData)]
        assert numbers == list(range(count))


def test_pictures_and_input_on_the_fast_path_are_encrypted_too() -> None:
    joined = Joined(*encrypted(screen=Canvas())).run()
    for _ in range(2):
        joined.server.send_update(palette_update())
    wire = b"".join(joined.server.data_to_send())
    assert wire[0] == 0x80
    assert packet_size(wire, 0) < len(wire)
    joined.client.receive_data(wire)
    assert [e for e in joined.client.events() if isinstance(e, rdp.Ignored)] == []
    keys = b"\x00\x1e\x01\x1e"
    sealed = joined.client._security.wrap(0, keys)[4:]
    joined.server.receive_data(bytes([0x88, 2 + len(sealed)]) + sealed)
    found = [e for e in joined.server.events() if isinstance(e, rdp.Input)]
    assert found == [rdp.KeyInput(0x1E, True), rdp.KeyInput(0x1E, False)]


def test_resizing_goes_on_encrypted() -> None:
    joined = Joined(*encrypted(screen=Canvas())).run()
    joined.server.resize(1024, 768)
    joined.run()
    assert joined.of_client(rdp.Activated)[-1] == rdp.Activated(1024, 768, 16)


# ------------------------------------------------------------------ policy ----


def test_a_client_without_encryption_where_it_is_demanded() -> None:
    client, server = encrypted()
    client.encryption, server.allow_clear = False, False
    with pytest.raises(NegotiationError, match="does not want encryption"):
        Joined(client, server).run()


def test_a_client_without_encryption_where_it_may() -> None:
    client, server = encrypted()
    client.encryption = False
    joined = Joined(client, server).run()
    assert joined.of_client(rdp.Activated)


def test_a_server_without_a_key_has_no_standard_security() -> None:
    client, server = encrypted()
    server.key = None
    with pytest.raises(NegotiationError, match="methods 0x0B"):
        Joined(client, server).run()


def test_t05_fips_alone_is_refused() -> None:
    raw = RawClient(encrypted()[1])
    raw.negotiate()
    blocks = vector("client_rdesktop_vrdp", "gcc-request-r-usb-standard", "user_data")
    blocks = blocks.replace(b"\x02\xc0\x0c\0\x03", b"\x02\xc0\x0c\0\x10")
    with pytest.raises(NegotiationError, match="methods 0x10"):
        raw.connect(blocks)


def test_a_client_takes_no_less_than_it_asked_for() -> None:
    peer = Peer()
    with pytest.raises(NegotiationError, match="does not encrypt at all"):
        peer.answer(ServerBlocks.granting(0, 1))


@pytest.mark.parametrize("method", [0x10, 4, 3])
def test_t05_a_method_nobody_offered(method: int) -> None:
    with pytest.raises(NegotiationError, match=f"method 0x{method:X}"):
        Peer().answer(secured(method))


# ----------------------------------------------- servers made of bytes ----


def test_the_security_exchange_comes_before_client_info() -> None:
    exchange, info = Peer().answer(secured())
    assert exchange[14:22] == struct.pack("<HHI", SecurityFlag.EXCHANGE, 0, 72)
    flags = int.from_bytes(info[15:17], "little")
    assert flags == SecurityFlag.INFO | SecurityFlag.ENCRYPT


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_log_has_the_strength_that_was_chosen(strength: Encryption) -> None:
    joined = Joined(*encrypted(strength)).run()
    assert joined.of_server(EncryptionChosen) == [EncryptionChosen(strength)]


def test_the_log_says_that_nothing_is_encrypted() -> None:
    client, server = encrypted()
    client.encryption = False
    joined = Joined(client, server).run()
    assert EncryptionChosen(Encryption.NONE) in joined.server_events
    joined = Joined().run()  # TLS
    assert not joined.of_server(EncryptionChosen)


@pytest.mark.parametrize(
    "blocks",
    [
        secured(random=31),
        secured(random=0),
        secured(random=33),
        secured(random=0xFFFFFFFF),
        secured(certificate=b"junk"),
        secured(certificate=b"\x01" + bytes(200)),
    ],
)
def test_t05_broken_server_security(blocks: ServerBlocks) -> None:
    with pytest.raises(RemoteProtocolError):
        Peer().answer(blocks)


def test_the_licence_may_be_encrypted_or_in_clear() -> None:
    licence = vector("licence", "recommended-licence-valid-client", "message")
    peer = Peer()
    peer.answer(secured())
    peer.send(peer.security.wrap(SecurityFlag.LICENCE, licence))
    assert peer.client.events() == []
    peer = Peer()
    peer.answer(secured())
    peer.send(struct.pack("<HH", SecurityFlag.LICENCE, 0) + licence)
    assert peer.client.events() == []


def test_a_low_server_sends_in_clear_and_no_other_may() -> None:
    pdu = vector("encrypted_pdus_128bit", "slow-path-synchronize", "plaintext")
    peer = Peer()
    peer.answer(secured(level=1))
    assert "not what the server sends" in peer.client.encryption
    peer.send(bytes(4) + pdu)
    peer = Peer()
    peer.answer(secured(level=2))
    with pytest.raises(RemoteProtocolError, match="unencrypted packet"):
        peer.send(bytes(4) + pdu)


def test_t05_on_the_fast_path_too_all_is_encrypted_but_what_a_low_server_sends() -> (
    None
):
    keys = derive_keys(bytes(32), bytes(32), 2)
    in_clear = b"\0\x05abc"
    for is_low, is_server in ((False, False), (False, True), (True, True)):
        security = StandardSecurity(keys, 2, is_server=is_server, is_low=is_low)
        with pytest.raises(RemoteProtocolError, match="unencrypted fast-path packet"):
            security.unwrap_fast(in_clear)
    low = StandardSecurity(keys, 2, is_server=False, is_low=True)
    assert low.unwrap_fast(in_clear) == (0, b"abc")
    with pytest.raises(ParseError, match="encrypted fast-path packet of 7 bytes"):
        low.unwrap_fast(b"\x80\x09" + bytes(7))


def test_the_encrypted_pdus_of_the_original_server() -> None:
    vectors = group("encrypted_pdus_128bit")
    (found,) = (v for v in group("session_keys") if v["id"] == "keys-hashed-128bit")
    client, server = (
        bytes.fromhex(found[f"{end}_random"]) for end in ("client", "server")
    )
    keys = derive_keys(client, server, 2)
    ours = StandardSecurity(keys, 2, is_server=True)
    theirs = StandardSecurity(keys, 2, is_server=False)
    slow, fast = (bytes.fromhex(v["pdu"]) for v in vectors)
    plain = [bytes.fromhex(v["plaintext"]) for v in vectors]
    assert ours.wrap(0, plain[0]) == slow[14:]
    assert theirs.unwrap_share(slow[14:]) == plain[0]
    # two bytes of length, so that every packet has the same form
    assert ours.wrap_fast(plain[1]) == fast
    assert theirs.unwrap_fast(fast) == (0, plain[1])


def test_our_licence_is_in_clear_where_all_else_is_encrypted() -> None:
    sent = b"".join(Joined(*encrypted()).run().sent_by_server)
    assert vector("licence", "recommended-licence-valid-client", "pdu") in sent


def test_the_licence_of_a_windows_server_is_decrypted() -> None:
    """Its keys are not published: with ours it is a packet that somebody changed."""
    wire = vector("licence", "ms-4.1.11-licence-valid-client-encrypted", "pdu")
    peer = Peer()
    peer.answer(secured())
    with pytest.raises(RemoteProtocolError, match="packet 1 is wrong"):
        peer.client.receive_data(wire)
    peer = Peer()
    peer.answer(secured())
    licence = vector("licence", "vrdp-licence-valid-client", "message")
    sealed = peer.security.wrap(0, licence)[4:]
    assert len(wire) == 18 + len(sealed)
    peer.client.receive_data(wire[:18] + sealed)
    assert peer.client.events() == []  # it waits for Demand Active


@pytest.mark.parametrize("size", [0, 1, 1600])
def test_salted_checksums_on_both_paths(size: int) -> None:
    """MS-RDPBCGR 2.2.8.1.1.2.1 and 2.2.9.1.2: flags 0x0800 and 0x40."""
    keys = derive_keys(bytes(32), bytes(32), 2)
    theirs = Direction(keys.server_to_client, keys.mac, 2)
    ours = StandardSecurity(keys, 2, is_server=False)
    text = bytes(size)
    for number in range(0, 6, 2):
        sealed = salted_checksum(keys.mac, text, number) + theirs.encrypt(text)[8:]
        assert ours.unwrap(bytes.fromhex("08080000") + sealed) == (0x0808, text)
        sealed = salted_checksum(keys.mac, text, number + 1) + theirs.encrypt(text)[8:]
        head = b"\xc0" + (0x8000 | len(sealed) + 3).to_bytes(2)
        assert ours.unwrap_fast(head + sealed) == (0, text)


@pytest.mark.parametrize("is_salted", [True, False])
def test_a_checksum_of_the_other_kind_is_wrong(is_salted: bool) -> None:
    keys = derive_keys(bytes(32), bytes(32), 2)
    sealed = Direction(keys.server_to_client, keys.mac, 2).encrypt(b"text")
    if is_salted:
        sealed = salted_checksum(keys.mac, b"text", 0) + sealed[8:]
    slow, fast = (StandardSecurity(keys, 2, is_server=False) for _ in range(2))
    flags, head = (0x0008, 0x80) if is_salted else (0x0808, 0xC0)
    with pytest.raises(RemoteProtocolError, match="checksum"):
        slow.unwrap(struct.pack("<HH", flags, 0) + sealed)
    with pytest.raises(RemoteProtocolError, match="checksum"):
        fast.unwrap_fast(bytes([head, 2 + len(sealed)]) + sealed)


# ---------------------------------------------- clients made of bytes ----


def until_exchange() -> RawClient:
    raw = RawClient(encrypted()[1])
    raw.negotiate()
    raw.connect(
        vector("client_rdesktop_vrdp", "gcc-request-r-usb-standard", "user_data")
    )
    raw.join()
    return raw


def test_the_security_exchange_of_rdesktop() -> None:
    raw = until_exchange()
    raw.feed(bytes.fromhex(group("security_exchange")["pdu"]))
    random = bytes.fromhex(group("security_exchange")["client_random"])
    keys = derive_keys(random, bytes(32), 2)
    security = StandardSecurity(keys, 2, is_server=False)
    info = ClientInfo(user="vera").serialize()
    raw.feed(raw.io(security.wrap(SecurityFlag.INFO, info)))
    (logon,) = [e for e in raw.seen if isinstance(e, rdp.LogonRequested)]
    assert logon.credentials.user == "vera"


def exchange(**changes: Any) -> bytes:
    pdu = bytes.fromhex(group("security_exchange")["pdu"])[15:]
    flags, size, body = changes.get("flags", 1), changes.get("size", 72), pdu[8:]
    return struct.pack("<HHI", flags, 0, size) + body[: changes.get("cut", 72)]


@pytest.mark.parametrize(
    "payload",
    [
        exchange(size=71),
        exchange(size=73),
        exchange(size=0xFFFFFFFF),
        exchange(size=64, cut=64),
        exchange(size=0, cut=0),
        exchange(flags=0x40),
        b"\x01",
        struct.pack("<HHI", 1, 0, 4096) + bytes(4096),
    ],
)
def test_t05_bad_security_exchanges(payload: bytes) -> None:
    raw = until_exchange()
    with pytest.raises(RemoteProtocolError):
        raw.feed(raw.io(payload))


def test_client_info_in_clear_where_all_is_encrypted() -> None:
    raw = until_exchange()
    raw.feed(raw.io(exchange()))
    with pytest.raises(RemoteProtocolError, match="unencrypted packet"):
        raw.log_on()


def test_t05_client_info_in_clear_that_claims_to_be_a_licence() -> None:
    raw = until_exchange()
    raw.feed(raw.io(exchange()))
    flags = SecurityFlag.INFO | SecurityFlag.LICENCE
    payload = struct.pack("<HH", flags, 0) + ClientInfo(user="eve").serialize()
    with pytest.raises(RemoteProtocolError, match="unencrypted packet"):
        raw.feed(raw.io(payload))


@pytest.mark.parametrize("is_up", [True, False], ids=["to-server", "to-client"])
@pytest.mark.parametrize("channel", [mcs.IO_CHANNEL, mcs.FIRST_CHANNEL])
def test_t05_nothing_in_clear_gets_into_an_encrypted_session_as_a_licence(
    channel: int, is_up: bool
) -> None:
    joined = Joined(*encrypted()).run()
    ends = joined.client, joined.server
    sender, receiver = ends if is_up else ends[::-1]
    payload = struct.pack("<HHII", SecurityFlag.LICENCE, 0, 4, 3) + b"evil"
    packet = sender._sender.send_data(channel, len(payload)) + payload
    with pytest.raises(RemoteProtocolError, match="unencrypted packet"):
        receiver.receive_data(packet)


@pytest.mark.parametrize("is_up", [True, False], ids=["to-server", "to-client"])
@pytest.mark.parametrize("position", [18, 20, 26, 27, 40])
def test_t05_one_wrong_bit_ends_the_connection(position: int, is_up: bool) -> None:
    joined = Joined(*encrypted()).run()
    channel = channel_of(joined.of_client(rdp.ChannelOpened))
    ends = joined.client, joined.server
    sender, receiver = ends if is_up else ends[::-1]
    sender.send_channel(channel, bytes(100))
    wire = bytearray(b"".join(sender.data_to_send()))
    wire[position] ^= 1
    with pytest.raises(RemoteProtocolError):
        receiver.receive_data(bytes(wire))
    with pytest.raises(RemoteProtocolError, match="has failed"):
        receiver.receive_data(b"\x03")


def test_t05_a_packet_that_comes_twice_ends_the_connection() -> None:
    joined = Joined(*encrypted()).run()
    channel = channel_of(joined.of_client(rdp.ChannelOpened))
    joined.client.send_channel(channel, b"pay 10")
    wire = b"".join(joined.client.data_to_send())
    joined.server.receive_data(wire)
    with pytest.raises(RemoteProtocolError, match="checksum"):
        joined.server.receive_data(wire)
