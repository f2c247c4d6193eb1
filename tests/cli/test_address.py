"""How servers are written on the command line."""

from argparse import ArgumentTypeError

import pytest

from rusb.cli._address import Address, parse_address
from tests.support.rows import each_row


@each_row(
    ("text", "address"),
    [
        ("host", Address("host")),
        ("host:5000", Address("host", 5000)),
        ("192.0.2.1:5000", Address("192.0.2.1", 5000)),
        ("::1", Address("::1")),
        ("[::1]", Address("::1")),
        ("[2001:db8::7]:5000", Address("2001:db8::7", 5000)),
        ("[fe80::1%eth0]:5000", Address("fe80::1%eth0", 5000)),
        ("anna@host", Address("host", user="anna")),
        ("anna@corp.example@host:1", Address("host", 1, "anna@corp.example")),
        ("CORP\\anna@[::1]:5", Address("::1", 5, "CORP\\anna")),
        ("anna@::1", Address("::1", user="anna")),
        ("rdp://host", Address("host")),
        ("RDP://anna@host:5000/", Address("host", 5000, "anna")),
        ("rdp://CORP%5Canna@[::1]:5000", Address("::1", 5000, "CORP\\anna")),
        ("rdp://full%20address=s:host:5000", Address("host", 5000)),
        (
            "rdp://full%20address=s:host:5000&audiomode=i:2&disable%20themes=i:1"
            "&username=s:anna%40corp&domain=s:CORP%401",
            Address("host", 5000, "anna@corp", "CORP@1"),
        ),
        ("rdp:///?full%20address=s:%5B::1%5D&server%20port=i:7", Address("::1", 7)),
        ("rdp://full address=s:host&server port=i:7", Address("host", 7)),
    ],
)
def test_each_form_is_read(text: str, address: Address) -> None:
    assert parse_address(text) == address


@each_row(
    ("text", "why"),
    [
        ("", "not [user@]host[:port]"),
        ("anna@", "not [user@]host[:port]"),
        ("host:", "not [user@]host[:port]"),
        ("host:x", "not [user@]host[:port]"),
        ("host:²", "not [user@]host[:port]"),
        ("a:b:c", "[address]:port"),
        ("2001:db8::7:99999", "[address]:port"),
        ("[host]:1", "not [user@]host[:port]"),
        ("[::1", "not [user@]host[:port]"),
        ("[::1]5000", "not [user@]host[:port]"),
        ("host:0", "0 is not a port"),
        ("host:65536", "65536 is not a port"),
        ("host:" + "9" * 5000, "999999 is not a port"),
        ("anna:secret@host", "do not put the password into the address"),
        ("rdp://anna:secret@host", "do not put the password into the address"),
        ("rdp://", "not [user@]host[:port]"),
        ("rdp://username=s:anna", "not [user@]host[:port]"),
    ],
)
def test_what_is_no_address_is_told(text: str, why: str) -> None:
    with pytest.raises(ArgumentTypeError) as caught:
        parse_address(text)
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)
