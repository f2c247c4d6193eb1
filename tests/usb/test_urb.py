"""What a URB keeps of the message that brought it."""

import pytest

from rusb.usb.urb import MAX_COPIED, cut_payload

LARGE = bytes(range(256)) * 64


@pytest.mark.parametrize(
    ("message", "start", "stop", "is_kept"),
    [
        (LARGE, 24, len(LARGE), True),
        (LARGE, 0, len(LARGE) // 2, True),
        (LARGE, 0, len(LARGE) // 2 - 1, False),  # it would keep twice as much
        (LARGE[: MAX_COPIED + 1], 0, MAX_COPIED + 1, True),
        (LARGE[: MAX_COPIED + 1], 1, MAX_COPIED + 1, False),  # a copy is quicker
    ],
)
def test_a_payload_keeps_its_message_only_if_it_is_long_and_most_of_it(
    message: bytes, start: int, stop: int, is_kept: bool
) -> None:
    for one in (message, memoryview(message)):
        found = cut_payload(one, start, stop)
        assert found == message[start:stop]
        assert isinstance(found, memoryview) is is_kept


def test_what_a_message_lacks_is_missing() -> None:
    assert len(cut_payload(b"ten bytes.", 4, 30)) == 6
    assert len(cut_payload(LARGE, 4, len(LARGE) + 1)) == len(LARGE) - 4
