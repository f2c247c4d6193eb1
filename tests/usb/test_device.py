"""What is known of a device before anybody opens it."""

import pytest

from rusb.usb.device import DeviceInfo
from rusb.usb.text import clean_text
from rusb.usb.types import Speed


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"Acme\tBlinker", "Acme Blinker"),
        (b"caf\xc3\xa9", "café"),
        (b"bad \xff byte", "bad ? byte"),
        ("\x1b[31mred\x07\x7f\x9b", "[31mred"),
        ("one\r\ntwo\u2028three\u2029", "onetwothree"),
        ("zero\0", "zero"),
        ("", ""),
    ],
)
def test_t42_texts_of_devices_are_fit_for_a_terminal(
    data: bytes | str, text: str
) -> None:
    assert clean_text(data) == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"caf\xc3\xa9 noir", "café"),
        (b"\xff\xff\xff\xff\xff", "????"),
        ("\x1b\x1b\x1b\x1ba", ""),
    ],
)
def test_t42_what_is_looked_at_of_a_text_has_a_limit(
    data: bytes | str, text: str
) -> None:
    """The names in a list of a thousand devices took a tenth of a second."""
    assert clean_text(data, 4) == text


def test_a_device_is_named_by_its_ids_and_what_it_calls_itself() -> None:
    info = DeviceInfo(1, 0x1209, 0xABC, manufacturer="Acme", product="Blinker")
    assert str(info) == "1209:0abc Acme Blinker"
    assert str(DeviceInfo(1, 0x1209, 0xABC, product="Blinker")) == "1209:0abc Blinker"
    assert str(DeviceInfo(1, 0x1209, 0xABC)) == "1209:0abc"
    assert Speed.SUPER.label == "Super"
