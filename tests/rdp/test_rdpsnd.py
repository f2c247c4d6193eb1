"""Sound, from the server's side (display.md 7)."""

import struct

import numpy as np
import pytest

from rusb.rdp.rdpsnd import (
    BLOCK,
    ODD_CONFIRMATIONS,
    SoundAgreed,
    SoundNoted,
    SoundServer,
)
from tests.support.amount import chance, inputs
from tests.support.rdp.media import GOOD, confirmation, formats, trained

HALF = (1, 2, 22050, 88200, 4, 16)
ADPCM = (2, 2, 44100, 44100, 2048, 4)


def ready(
    version: int = 8, found: tuple[tuple[int, ...], ...] = (ADPCM, GOOD)
) -> SoundServer:
    core = SoundServer()
    core.start()
    core.receive_data(formats(found, version), now=0)
    core.receive_data(trained(), now=0)
    core.outputs()
    core.events()
    assert core.is_ready
    return core


def play(core: SoundServer, blocks: int, now: float = 0.0) -> list[bytes]:
    core.play(bytes(BLOCK) * blocks, now=now)
    return core.outputs()


def test_what_is_offered_and_tried_is_as_specified() -> None:
    """display.md 7, the vectors "formats" and "training"."""
    core = SoundServer()
    core.start()
    core.start()
    assert [m.hex(" ", -4) for m in core.outputs()] == [
        bytes.fromhex(
            "0700 3800 00000000 00000000 00000000 0000 0200 00 0800 00"
            " 0100 0200 44ac0000 10b10200 0400 1000 0000"
            " 0100 0200 22560000 88580100 0400 1000 0000"
        ).hex(" ", -4)
    ]
    core.receive_data(formats(), now=0x1234 / 1000)
    (training,) = core.outputs()
    assert training == bytes.fromhex("0600 0404 3412 0004") + bytes(1024)
    assert core.events() == []
    core.receive_data(bytes.fromhex("0600 0400 3412 0004"), now=5)
    assert core.events() == [SoundAgreed(44100, 8)]


def test_a_block_in_both_forms_is_as_specified() -> None:
    """display.md 7, the vectors "wave info", "wave", "wave 2" and "close"."""
    pcm = bytes(range(1, 9))
    old = ready(version=2, found=(GOOD,))
    old.play(pcm, now=1)
    old.flush(now=1)
    old.stop()
    assert [message.hex() for message in old.outputs()] == [
        "02001000e80300000000000001020304",
        "0000000005060708",
        "01000000",
    ]
    new = ready(version=8, found=(GOOD,))
    new._block = 1
    new.play(pcm, now=1)
    new.flush(now=1)
    (message,) = new.outputs()
    assert message.hex() == (
        "0d001400e80300000100000" + "0e8030000" + "0102030405060708"
    )


def test_indices_are_those_of_the_clients_list_and_the_better_format_is_taken() -> None:
    core = ready(found=(HALF, ADPCM, GOOD))
    (message,) = play(core, 1)
    assert struct.unpack_from("<H", message, 6) == (2,)
    assert len(message) == 4 + 12 + BLOCK


def test_a_client_of_22050_hz_gets_the_mean_of_two_frames() -> None:
    core = ready(found=(HALF,))
    assert core.rate == 22050
    frames = np.array([[100, -100], [200, -300], [32767, 5], [32767, 7]], "<i2")
    core.play(frames.tobytes(), now=0)
    core.flush(now=0)
    (message,) = core.outputs()
    found = np.frombuffer(message[16:], "<i2").reshape(-1, 2)
    assert found.tolist() == [[150, -200], [32767, 6]]


def test_nothing_is_played_before_the_training_and_parts_of_blocks_wait() -> None:
    core = SoundServer()
    core.start()
    core.receive_data(formats(), now=0)
    core.outputs()
    assert play(core, 3) == []
    core.receive_data(trained(), now=0)
    core.play(bytes(BLOCK - 4), now=0)
    assert core.outputs() == []
    core.play(bytes(4), now=0)
    assert len(core.outputs()) == 1


def test_400_ms_may_be_unconfirmed_and_below_200_it_goes_on() -> None:
    core = ready()
    assert len(play(core, 30)) == 10
    assert core.dropped == 20
    for block in range(5):
        core.receive_data(confirmation(block), now=1)
    assert play(core, 1) == []  # five are under way
    core.receive_data(confirmation(5), now=1)
    assert len(play(core, 30)) == 6
    assert core.sent == 16


def test_one_confirmation_stands_for_all_before_it_and_late_ones_for_nothing() -> None:
    core = ready()
    play(core, 10)
    core.receive_data(confirmation(8), now=1)
    for late in (3, 8, 0, 200):
        core.receive_data(confirmation(late), now=1)
    assert len(play(core, 30)) == 9  # with one under way
    assert core.events() == []


def test_block_numbers_go_round() -> None:
    core = ready()
    for number in range(1000):
        (message,) = play(core, 1)
        assert message[8] == number % 256
        core.receive_data(confirmation(number % 256), now=1)
    assert core.dropped == 0


def test_a_client_that_never_confirms_goes_on_after_it_closed_its_device() -> None:
    """FreeRDP without a device (display.md 7)."""
    core = ready(version=8)
    assert len(play(core, 100)) == 10
    assert play(core, 100, now=3600) == []
    core.stop()
    core.outputs()
    assert len(play(core, 100)) == 10


def test_old_clients_that_never_confirm_have_a_second_of_grace() -> None:
    core = ready(version=2)
    sent = sum(len(play(core, 1, now=n * 0.04)) for n in range(250))
    assert sent == 2 * 250  # two messages each
    assert len(core._open) <= 26
    assert len(play(core, 100, now=100)) == 2 * 26  # a second at once


def test_an_old_client_that_confirms_has_no_grace() -> None:
    core = ready(version=2)
    play(core, 1)
    core.receive_data(confirmation(0), now=1)
    assert len(play(core, 100, now=1)) == 2 * 10
    assert play(core, 100, now=100) == []


def test_a_client_without_a_device_is_sent_nothing() -> None:
    """rdesktop-vrdp: no formats, a confirmation of size 0, all waves confirmed."""
    for found in ((), (ADPCM,), ((1, 1, 44100, 88200, 2, 16),)):
        core = SoundServer()
        core.start()
        core.outputs()
        core.receive_data(formats(found, 2), now=0)
        core.receive_data(bytes.fromhex("0600040000000000"), now=0)
        core.receive_data(confirmation(0), now=0)
        assert play(core, 5) == []
        (event,) = core.events()
        assert isinstance(event, SoundNoted)
        assert "no device" in event.problem


BAD = [
    b"\7",
    bytes.fromhex("0700ff00"),
    bytes.fromhex("07000000"),
    formats((GOOD,) * 65),
    formats((GOOD,), extra=bytes(65)),
    formats()[:-1],
    struct.pack("<BxH", 7, 20) + struct.pack("<IIIHHBHx", 0, 0, 0, 0, 9, 0, 8),
    struct.pack("<BxH", 7, 38)
    + struct.pack("<IIIHHBHx", 0, 0, 0, 0, 1, 0, 8)
    + struct.pack("<HHIIHHH", *GOOD, 10),
    bytes.fromhex("05000300aaaaaa"),
    bytes.fromhex("0500050000000000"),
]


@pytest.mark.parametrize("message", BAD)
def test_a_wrong_message_makes_the_channel_mute_with_one_line(message: bytes) -> None:
    core = SoundServer()
    core.start()
    core.outputs()
    for _ in range(3):
        core.receive_data(message, now=0)
    core.receive_data(formats(), now=0)
    core.receive_data(trained(), now=0)
    assert play(core, 5) == []
    (event,) = core.events()
    assert isinstance(event, SoundNoted)
    assert event.problem.startswith("plays nothing: ")


def test_other_messages_and_a_second_list_change_nothing() -> None:
    core = ready()
    for message in (
        bytes.fromhex("0c00040001000000"),  # quality mode
        formats((HALF,)),
        trained(),
        b"\xff\0\0\0",
    ):
        core.receive_data(message, now=0)
    assert core.events() == []
    assert core.outputs() == []
    assert core.rate == 44100


def test_ten_thousand_odd_confirmations_are_one_line() -> None:
    core = ready()
    play(core, 1)
    for number in range(10_000):
        core.receive_data(confirmation(1 + number % 200), now=0)
    assert core.events() == [SoundNoted("confirms sound that it was not sent")]
    core.receive_data(confirmation(0), now=0)  # the real one counts
    assert len(play(core, 30)) == 10
    assert ODD_CONFIRMATIONS < 10_000


@pytest.mark.fuzz
def test_whatever_a_client_says_is_bounded() -> None:
    source = chance(71)
    seeds = [
        formats((ADPCM, GOOD, HALF), 8),
        formats((HALF,), 2),
        trained(),
        *(confirmation(n) for n in range(4)),
    ]
    core, said = SoundServer(), 0
    for number in range(inputs(20_000)):
        if number % 20 == 0:
            core, said = SoundServer(), 0
            core.start()
            if source.random() < 0.6:
                core.receive_data(seeds[source.randrange(2)], now=0)
                core.receive_data(trained(), now=0)
        data = bytearray(source.choice(seeds))
        for _ in range(source.randrange(4)):
            match source.randrange(3):
                case 0:
                    data[source.randrange(len(data))] = source.randrange(256)
                case 1:
                    del data[1 + source.randrange(len(data)) :]
                case _:
                    at = source.randrange(len(data) + 1)
                    data[at:at] = source.randbytes(source.randrange(30))
        core.receive_data(bytes(data), now=number)
        core.play(bytes(source.randrange(3 * BLOCK)), now=number)
        if source.random() < 0.1:
            core.flush(now=number)
        if source.random() < 0.05:
            core.stop()
        said += len(core.events())
        assert said <= 3
        assert len(core._open) <= 26
        assert len(core._pcm) < BLOCK
        assert all(len(m) <= BLOCK + 16 for m in core.outputs())
