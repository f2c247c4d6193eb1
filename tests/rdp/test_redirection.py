"""A server sends its client to another one (MS-RDPBCGR 2.2.13)."""

import pytest

from rusb.errors import LocalProtocolError, NegotiationError, ParseError
from rusb.rdp.client import ClientSettings
from rusb.rdp.events import Disconnected, Redirected
from rusb.rdp.redirection import (
    may_be_said,
    parse_redirection,
    redirection,
    takes_redirection,
)
from rusb.rdp.security import Method
from rusb.rdp.server import ServerSettings
from rusb.rdp.share import ShareType, share_control
from tests.support.rdp.joined import Joined
from tests.support.rdp.raw import RawServer

ADDRESS = (
    "0000"  # padding of the share control PDU
    "0004 2200"  # SEC_REDIRECTION_PKT, 34 bytes
    "00000000 01000000"  # no session, LB_TARGET_NET_ADDRESS
    "12000000 310030002e0030002e0030002e003200 0000"  # 10.0.0.2
    "0000000000000000"
)
NAME = (
    "0000 0004 1400 00000000 00010000"  # LB_TARGET_FQDN
    "04000000 6200 0000 0000000000000000"
)


@pytest.mark.parametrize(("host", "wire"), [("10.0.0.2", ADDRESS), ("b", NAME)])
def test_the_packet_has_the_layout_of_the_specification(host: str, wire: str) -> None:
    assert redirection(host) == bytes.fromhex(wire)
    assert parse_redirection(bytes.fromhex(wire)) == host


BROKER = (
    "0000 0004 3400 00000000 1e010000"  # LB_TARGET_FQDN, behind four others
    "02000000 ffff 02000000 0000 02000000 0000 02000000 0000"
    "04000000 6200 0000 0000000000000000"
)


def test_what_is_between_the_two_is_skipped() -> None:
    assert parse_redirection(bytes.fromhex(BROKER)) == "b"


@pytest.mark.parametrize(
    "wire",
    [
        *(bytes.fromhex(ADDRESS)[:n].hex() for n in (0, 9, 13, 17, 30)),
        ADDRESS.replace("12000000", "ffffffff"),
        ADDRESS.replace("01000000", "00000000"),  # nowhere
        ADDRESS.replace("3100", "0a00"),
        ADDRESS.replace("3100", "00d8"),
        BROKER.replace("02000000 ffff", "02000001 ffff"),
    ],
)
def test_packets_that_name_no_server(wire: str) -> None:
    with pytest.raises(ParseError):
        parse_redirection(bytes.fromhex(wire))


@pytest.mark.parametrize(
    ("host", "is_right"),
    [
        ("2001:db8::1", True),
        ("a" * 253, True),
        ("a" * 254, False),
        ("", False),
        ("büro", False),
        ("a\nb", False),
        ("fe80:1111:2222:3333:4444:5555:6666:7777", True),
        ("fe80:1111:2222:3333:4444:5555:6666:7777%eth0", False),
    ],
)
def test_hosts_that_fit_it(host: str, is_right: bool) -> None:
    assert may_be_said(host) is is_right
    if not is_right:
        with pytest.raises(LocalProtocolError, match="no client can be sent"):
            redirection(host)


@pytest.mark.parametrize(
    ("flags", "takes"), [(None, False), (9, True), (8, False), (5, False), (0x15, True)]
)
def test_a_client_says_whether_it_knows_it(flags: int | None, takes: bool) -> None:
    """2.2.1.3.5: bit 0, and version 3 or later in bits 2 to 5."""
    assert takes_redirection(flags) is takes


def test_only_an_active_client_with_tls_is_sent_on() -> None:
    joined = Joined()
    assert not joined.server.may_be_sent_to("10.0.0.2")
    joined.run()
    assert joined.server.may_be_sent_to("10.0.0.2")
    assert not joined.server.may_be_sent_to("")
    joined.server.send_on("10.0.0.2")
    (said,) = joined.server.data_to_send()
    head = "3200 1a00 ea03"  # 50 bytes, type 10 of version 1
    assert said.endswith(bytes.fromhex(head + ADDRESS))
    assert not joined.server.may_be_sent_to("10.0.0.2")
    joined.client_events.clear()
    joined.client.receive_data(said)
    assert joined.client.events() == [
        Redirected("10.0.0.2"),
        Disconnected(None, clean=True),
    ]


def test_a_broker_sends_nobody_anywhere() -> None:
    """Its packet comes before the session, and names one at the other server."""
    raw = RawServer().until_licence()
    packet = share_control(ShareType.REDIRECTION, bytes.fromhex(ADDRESS), 1002)
    with pytest.raises(NegotiationError, match="redirects to another server"):
        raw.feed(raw.io(packet))


def test_nobody_is_sent_on_without_tls() -> None:
    settings = ClientSettings(wants_tls=False, encryption=False)
    joined = Joined(settings, ServerSettings(frozenset({Method.RDP}))).run()
    assert not joined.server.may_be_sent_to("10.0.0.2")
