"""Both cores joined in memory: the whole way, in any pieces."""

import random

import pytest

from rusb.errors import LocalProtocolError, NegotiationError, RemoteProtocolError
from rusb.rdp import events as rdp
from rusb.rdp.client import ClientConnection, ClientSettings
from rusb.rdp.gcc import USB_ONLY, ClientCore
from rusb.rdp.security import Method
from rusb.rdp.server import ServerConnection, ServerSettings
from tests.support.rdp.joined import Cut, Joined, clear, no_random, whole

USB = 1006  # third of the default channels


def single(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def odd(data: bytes) -> list[bytes]:
    return [data[i : i + 1237] for i in range(0, len(data), 1237)]


SIZES = (0, 1, 119, 120, 1600, 16256, 16257, 48768, 100_000)
CUTS = [whole, single, odd]  # "whole" often has several packets in one piece


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("is_clear", [False, True])
def test_client_and_server_come_together(cut: Cut, is_clear: bool) -> None:
    joined = Joined(*(clear() if is_clear else ()), cut=cut).run()
    (active,) = joined.of_client(rdp.Activated)
    assert (active.width, active.height, active.depth) == (800, 600, 16)
    assert joined.of_server(rdp.Activated) == [active]
    assert joined.of_server(rdp.ChannelOpened) == [rdp.ChannelOpened(USB, "vrdpusb")]
    assert [e.name for e in joined.of_client(rdp.ChannelOpened)] == [
        *("cliprdr", "rdpsnd", "vrdpusb", "rdpdr")
    ]
    assert bool(joined.of_client(rdp.TlsRequested)) is not is_clear


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("size", SIZES)
def test_messages_arrive_whole_in_both_directions(cut: Cut, size: int) -> None:
    joined = Joined(cut=cut).run()
    messages = [random.Random(size + i).randbytes(size) for i in range(3)]
    for message in messages:
        joined.client.send_channel(USB, message)
        joined.server.send_channel(USB, message)
    joined.client.send_channel(1004, b"mute")
    joined.run()
    wanted = [rdp.ChannelData(USB, message) for message in messages]
    assert joined.of_server(rdp.ChannelData) == wanted
    assert joined.of_client(rdp.ChannelData) == wanted


def test_tls_is_asked_for_before_anything_else() -> None:
    joined = Joined()
    joined.step()
    assert joined.server_events[-1] == rdp.TlsRequested()
    with pytest.raises(RemoteProtocolError, match="before TLS"):
        joined.server.receive_data(b"\x03")
    assert joined.of_server(rdp.LogonRequested) == []


def test_tls_started_without_a_request_is_our_own_mistake() -> None:
    joined = Joined()
    with pytest.raises(LocalProtocolError):
        joined.server.tls_started()


def test_the_logon_says_who_and_which_screen() -> None:
    settings = ClientSettings(
        user="john", domain="WORK@2", password="s3cret", client_name="host"
    )
    joined = Joined(settings).run()
    (logon,) = joined.of_server(rdp.LogonRequested)
    who = logon.credentials
    assert (who.user, who.domain, who.password, who.screen) == (
        *("john", "WORK", "s3cret", 1),
    )
    assert (logon.client.name, logon.client.build) == ("host", 2600)
    assert "s3cret" not in repr(joined.server_events)


def test_a_server_that_stops_tells_why() -> None:
    joined = Joined().run()
    joined.server.disconnect(1)
    joined.run()
    assert joined.client_events[-1] == rdp.Disconnected(1, clean=True)


def test_a_client_that_leaves_is_an_orderly_end() -> None:
    joined = Joined().run()
    joined.client.disconnect()
    joined.run()
    assert joined.server_events[-1] == rdp.Disconnected(None, clean=True)


def test_a_client_never_sends_its_password_in_clear_by_itself() -> None:
    joined = Joined(ClientSettings(password="s3cret"), clear()[1])
    with pytest.raises(NegotiationError, match="does not offer TLS"):
        joined.run()
    assert "s3cret".encode("utf-16-le") not in b"".join(joined.sent_by_client)
    client = ClientConnection(ClientSettings(), random_bytes=no_random)
    with pytest.raises(NegotiationError, match="in the clear"):
        client.receive_data(bytes.fromhex("030000130ed000003412000201080000000000"))


def test_a_refused_client_gets_the_code_and_the_reason_in_words() -> None:
    settings = ServerSettings(frozenset({Method.RDP}))
    server = ServerConnection(settings, random_bytes=no_random)
    client = ClientConnection(ClientSettings(), random_bytes=no_random)
    client.start()
    with pytest.raises(NegotiationError, match="tls not allowed"):
        server.receive_data(b"".join(client.data_to_send()))
    with pytest.raises(NegotiationError, match="Security/Method"):
        client.receive_data(b"".join(server.data_to_send()))
    with pytest.raises(RemoteProtocolError, match="has failed"):
        client.receive_data(b"\x03")


def test_channels_cannot_be_used_before_they_are_open() -> None:
    joined = Joined()
    with pytest.raises(LocalProtocolError):
        joined.client.send_channel(USB, b"x")


@pytest.mark.parametrize("is_rdesktop", [False, True])
def test_a_resize_activates_again_and_keeps_the_channels(is_rdesktop: bool) -> None:
    joined = Joined().run()
    joined.server._is_rdesktop = is_rdesktop  # 1.17: no Deactivate All before
    joined.server.resize(1024, 768)
    joined.run()
    assert joined.of_client(rdp.Activated)[1:] == [rdp.Activated(1024, 768, 16)]
    assert len(joined.of_client(rdp.ChannelOpened)) == 4
    joined.client.send_channel(USB, b"still here")
    joined.run()
    assert joined.of_server(rdp.ChannelData) == [rdp.ChannelData(USB, b"still here")]


SIZES_SEEN = [rdp.Activated(800, 600, 16), rdp.Activated(1024, 768, 16)]


@pytest.mark.parametrize("step", range(12))
def test_a_resize_is_not_lost_whenever_it_comes(step: int) -> None:
    joined = Joined()
    for _ in range(step):
        joined.step()
    joined.server.resize(1024, 768)
    joined.run()
    sizes = joined.of_client(rdp.Activated)
    assert sizes[-1] == SIZES_SEEN[-1]
    assert sizes in (SIZES_SEEN, SIZES_SEEN[1:])  # before logon: from the start
    assert joined.of_server(rdp.Activated) == sizes


def test_a_resize_while_another_one_is_under_way() -> None:
    joined = Joined().run()
    joined.server.resize(640, 480)
    joined.server.resize(700, 500)
    joined.server.resize(1024, 768)
    joined.run()
    sizes = [(e.width, e.height) for e in joined.of_client(rdp.Activated)]
    assert sizes == [(800, 600), (640, 480), (1024, 768)]
    assert joined.of_server(rdp.Activated) == joined.of_client(rdp.Activated)


def test_a_resize_to_the_same_size_does_nothing() -> None:
    joined = Joined().run()
    joined.server.resize(800, 600)
    assert joined.server.data_to_send() == []


def test_a_client_for_usb_alone_says_so_where_other_servers_do_not_look() -> None:
    """clientDigProductId, the 64 bytes from 146 on (MS-RDPBCGR 2.2.1.3.2)."""
    core = ClientCore("desk", 800, 600, 16, product_id=USB_ONLY)
    block = core.serialize()
    assert len(block) == 216
    assert block[146:210] == USB_ONLY.encode("utf-16-le").ljust(64, b"\0")
    assert ClientCore.parse(block[4:]).product_id == USB_ONLY
    assert ClientCore.parse(block[4:146]).product_id == ""
    odd = block[4:146] + b"\x00\xd8" * 32 + block[210:]
    assert ClientCore.parse(odd).product_id != USB_ONLY
    long = ClientCore("desk", 800, 600, 16, product_id="x" * 99).serialize()
    assert len(long) == 216
    assert ClientCore.parse(long[4:]).product_id == "x" * 31


@pytest.mark.parametrize("is_usb_only", [True, False])
def test_the_server_learns_whether_a_client_is_for_usb_alone(is_usb_only: bool) -> None:
    joined = Joined(ClientSettings(is_usb_only=is_usb_only)).run()
    (logon,) = joined.of_server(rdp.LogonRequested)
    assert logon.client.is_usb_only == is_usb_only
