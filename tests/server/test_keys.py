"""Scan codes of set 1, by the keys of IBM's enhanced keyboard."""

import string

import pytest

from rusb.errors import ParseError
from rusb.server.display.keys import parse_scancodes, typed


@pytest.mark.parametrize(
    ("codes", "keys"),
    [
        ("1c 9c", [(0x1C, True), (0x1C, False)]),  # Enter
        ("e0 4b e0 cb", [(0xCB, True), (0xCB, False)]),  # cursor left
        ("1d 38 e0 53", [(0x1D, True), (0x38, True), (0xD3, True)]),  # Ctrl-Alt-Del
        ("e1 1d 45 e1 9d c5", [(0xC6, True), (0xC6, False)]),  # Pause
        ("", []),
    ],
)
def test_codes_are_keys(codes: str, keys: list[tuple[int, bool]]) -> None:
    assert parse_scancodes(bytes.fromhex(codes)) == keys


@pytest.mark.parametrize("codes", ["e0", "1c e0", "e1", "e1 1d", "e1 1c 45"])
def test_half_a_key_is_none(codes: str) -> None:
    with pytest.raises(ParseError):
        parse_scancodes(bytes.fromhex(codes))


def test_a_text_is_typed() -> None:
    assert [k.hex() for k in typed("aA1!\n")] == [
        *("1e9e", "2a1e9eaa", "0282", "2a0282aa", "1c9c")
    ]
    every = string.ascii_letters + string.digits + string.punctuation + " \n\t"
    assert len(set(typed(every))) == len(every)


@pytest.mark.parametrize("character", ["ä", "€", "\r", "\0", "\x7f"])
def test_a_us_keyboard_lacks_a_key(character: str) -> None:
    with pytest.raises(ParseError, match="no key for"):
        typed(f"a{character}")
