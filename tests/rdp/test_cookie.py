"""The auto-reconnect cookie: as MS-RDPBCGR has it on the wire, and what it tells."""

import hashlib
import hmac
import struct

import pytest

from rusb.rdp.client import ClientSettings
from rusb.rdp.cookie import Cookie
from rusb.rdp.events import LogonRequested
from rusb.rdp.info import ClientInfo
from tests.support.rdp.joined import Joined, clear
from tests.support.rows import each_row

SECRET = bytes(range(16))
COOKIE = Cookie(7, SECRET)
PDU = (  # MS-RDPBCGR 2.2.10.1, 2.2.10.1.1.4, 2.2.4.2; padding as FreeRDP wants it
    struct.pack("<IHII", 3, 38, 1, 28)
    + struct.pack("<III", 28, 1, 7)
    + SECRET
    + bytes(570)
)


def test_the_server_tells_it_in_a_save_session_info_pdu() -> None:
    assert COOKIE.serialize() == PDU
    assert Cookie.parse(PDU) == COOKIE
    assert Cookie.parse(PDU[:-570]) == COOKIE  # without the padding
    assert SECRET.hex() not in repr(COOKIE)
    assert repr(SECRET) not in repr(COOKIE)


@each_row("size", range(len(PDU) - 570))
def test_a_short_one_is_none(size: int) -> None:
    assert Cookie.parse(PDU[:size]) is None


@pytest.mark.parametrize("at", [0, 6, 10, 14, 18])
def test_other_information_is_no_cookie(at: int) -> None:
    """Another kind, nothing present, another length, another version."""
    changed = bytearray(PDU)
    changed[at] ^= 0xFF if at != 6 else 1
    assert Cookie.parse(bytes(changed)) is None


def test_the_client_shows_an_hmac_under_tls_over_zeros() -> None:
    mac = hmac.new(SECRET, bytes(32), hashlib.md5).digest()
    shown = struct.pack("<III", 28, 1, 7) + mac
    assert COOKIE.show() == shown
    assert COOKIE.is_shown_by(shown)
    for at in range(28):
        wrong = bytearray(shown)
        wrong[at] ^= 1
        assert not COOKIE.is_shown_by(bytes(wrong))
    assert not COOKIE.is_shown_by(b"")


def test_client_info_ends_with_it() -> None:
    wire = ClientInfo(user="john", cookie=COOKIE.show()).serialize()
    assert wire[-30:] == b"\x1c\x00" + COOKIE.show()
    assert ClientInfo.parse(wire).cookie == COOKIE.show()
    for size in range(1, 31):  # cut short, or of another length: as if it had none
        assert ClientInfo.parse(wire[:-size]).cookie == b""
    assert ClientInfo.parse(wire[:-30] + b"\x1d\x00" + bytes(29)).cookie == b""
    assert ClientInfo.parse(wire + b"later").cookie == COOKIE.show()


def test_it_goes_to_an_active_client_and_comes_back() -> None:
    joined = Joined()
    joined.server.give_cookie(COOKIE)  # too early: nothing
    joined.run()
    assert joined.client.cookie is None
    joined.server.give_cookie(COOKIE)
    joined.run()
    assert joined.client.cookie == COOKIE
    again = Joined(ClientSettings(cookie=joined.client.cookie)).run()
    (logon,) = again.of_server(LogonRequested)
    assert COOKIE.is_shown_by(logon.cookie)
    assert repr(logon.cookie) not in repr(logon)


def test_it_is_not_shown_without_tls() -> None:
    client, server = clear()
    client.cookie = COOKIE
    (logon,) = Joined(client, server).run().of_server(LogonRequested)
    assert logon.cookie == b""
