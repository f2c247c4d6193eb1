"""Sound and clipboard, from QEMU's VNC server to viewers and back (display.md 7, 8)."""

import asyncio
import contextlib
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.rdp.cliprdr import MAX_MESSAGE
from rusb.rdp.rdpsnd import BLOCK
from rusb.server.channels import audio, clipboard
from rusb.server.display import guest_screen
from rusb.server.state import SoundState
from tests.support.rdp.media import clip, confirmation, formats, names, response
from tests.support.rdp.viewer import CLIPBOARD, SOUND, MediaViewer, until, viewer
from tests.support.screen_guest import ScreenGuest
from tests.support.vnc import VncServer, cut, packed, rect, update
from tests.support.whole_path import Lab, machine, sessions_of

SOUND_ON, SOUND_OFF = bytes.fromhex("ff010000"), bytes.fromhex("ff010001")
BEGIN, END = bytes.fromhex("ff010001"), bytes.fromhex("ff010000")
NOTICE, NOTHING = cut(0x08000001), cut(0x08000000)
WANT = clip(4, bytes.fromhex("0d000000"))
OFFERED = bytes.fromhex("06000000fffffffc08000001")
WITHDRAWN = bytes.fromhex("06000000fffffffc08000000")
ASKED = bytes.fromhex("06000000fffffffc02000001")


def pcm(data: bytes) -> bytes:
    return bytes.fromhex("ff010002") + len(data).to_bytes(4) + data


class Place(Lab):
    """A server whose guest has a screen with sound and a clipboard."""

    def __init__(self, folder: Path, mode: str) -> None:
        display = machine().remote_display
        display.allow_multi_connection = True
        served = machine(remote_display=display, clipboard=mode)
        guest = ScreenGuest(folder / "vnc")
        super().__init__(folder, served, guest=guest)
        self.vnc = VncServer(
            folder / "vnc", 640, 480, update(), first=update(rect(-259))
        )

    def viewer(self) -> contextlib.AbstractAsyncContextManager[MediaViewer]:
        return viewer(self.config())

    def said(self, message: bytes) -> int:
        """How often a message was said to QEMU."""
        return sum(message == heard for heard in self.vnc.heard)

    def texts(self) -> list[str]:
        """The texts that QEMU was sent."""
        return [
            zlib.decompress(message[12:])[4:].decode()
            for message in self.vnc.heard
            if message[0] == 6 and message[8:12] == bytes.fromhex("10000001")
        ]

    def switch(self, feature: str, value: str, family: str = "") -> None:
        """By the property, or by a key of extra data."""
        machine, name = self.server.machine, f"Client/Disable{feature}"
        if family:
            machine.extra_data[f"{family}/Feature/{name}"] = value
        else:
            machine.remote_display.properties[name] = value
        self.server.settings_changed()


@pytest.fixture
def mode() -> str:
    return "bidirectional"


@pytest.fixture
async def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> AsyncIterator[Place]:
    monkeypatch.setattr(guest_screen, "FIRST_PAUSE", 0.05)
    place = Place(tmp_path, mode)
    async with asyncio.timeout(30), place.vnc, place.server:
        await until(lambda: place.vnc.clients)
        yield place


# --------------------------------------------------------------------- sound ----


async def test_what_the_guest_plays_is_heard_by_all_and_asked_for_only_then(
    place: Place,
) -> None:
    async with place.viewer() as first:
        await first.until_heard(SOUND, 7)
        assert place.said(SOUND_ON) == 0
        await first.listen()
        await until(lambda: place.said(SOUND_ON) == 1)
        async with place.viewer() as second:
            await second.listen(version=2)
            sound = bytes(range(256)) * 30
            await until(lambda: len(listeners(place)) == 2)
            place.vnc.say(BEGIN + pcm(sound[:4000]) + pcm(sound[4000:]))
            wave2 = await first.until_heard(SOUND, 13)
            assert wave2[16:] == sound[:BLOCK]
            info = await second.until_heard(SOUND, 2)
            await until(lambda: second.heard[SOUND][-1] is not info)
            assert info[12:] + second.heard[SOUND][-1][4:] == sound[:BLOCK]
            place.vnc.say(END)
            rest = await first.until_heard(SOUND, 13, 2)
            assert rest[16:] == sound[BLOCK:]
            assert place.said(SOUND_ON) == 1
        await until(lambda: len(listeners(place)) == 1)
        assert place.said(SOUND_OFF) == 0
    await until(lambda: place.said(SOUND_OFF) == 1)


def listeners(place: Place) -> set[audio.AudioChannel]:
    return place.server._host.media.sound._listeners


async def test_clients_close_their_devices_after_some_silence(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "CLOSES_AFTER", 0.1)
    async with place.viewer() as client:
        await client.listen()
        await until(lambda: place.said(SOUND_ON))
        place.vnc.say(BEGIN + pcm(bytes(BLOCK)) + END + BEGIN + pcm(bytes(BLOCK)))
        await client.until_heard(SOUND, 13, 2)
        await asyncio.sleep(0.3)
        assert 1 not in client.kinds(SOUND)
        place.vnc.say(END)
        await client.until_heard(SOUND, 1)


async def test_a_connection_to_qemu_that_comes_back_has_sound_again(
    place: Place,
) -> None:
    async with place.viewer() as client:
        await client.listen()
        await until(lambda: place.said(SOUND_ON) == 1)
        place.vnc.hang_up()
        await until(lambda: place.said(SOUND_ON) == 2)
        place.vnc.say(BEGIN + pcm(bytes(BLOCK)))
        await client.until_heard(SOUND, 13)


async def test_sound_is_switched_off_and_on_in_a_session(place: Place) -> None:
    async with place.viewer() as client:
        await client.listen()
        await until(lambda: place.said(SOUND_ON) == 1)
        place.switch("Audio", "1")
        await client.until_heard(SOUND, 1)  # it closes its device
        await until(lambda: place.said(SOUND_OFF) == 1)
        place.vnc.say(pcm(bytes(BLOCK)) + NOTICE)
        await until(lambda: place.server._host.media.clipboard.has_text)
        place.switch("Audio", "0")
        await until(lambda: place.said(SOUND_ON) == 2)
        place.vnc.say(pcm(b"x" * BLOCK))
        assert (await client.until_heard(SOUND, 13))[16:] == b"x" * BLOCK
    assert "VRDP: feature: Client/DisableAudio no longer" in place.log()


@pytest.mark.parametrize(
    "key", ["VRDE/Feature/Client/DisableAudio", "VRDP/Feature/Client/DisableAudio"]
)
async def test_both_keys_of_extra_data_switch_sound_off_too(
    place: Place, key: str
) -> None:
    place.server.machine.extra_data[key] = "1"
    async with place.viewer() as client:
        await client.until_heard(CLIPBOARD, 1)
        await asyncio.sleep(0.1)
        assert client.heard[SOUND] == []
        del place.server.machine.extra_data[key]
        place.server.settings_changed()
        await client.listen()
        await until(lambda: place.said(SOUND_ON))
        place.server.machine.extra_data[key] = "1"
        place.server.settings_changed()
        await client.until_heard(SOUND, 1)


async def test_a_machine_whose_output_is_off_is_not_heard(place: Place) -> None:
    async with place.viewer() as client:
        await client.listen()
        await until(lambda: place.said(SOUND_ON) == 1)
        place.server.machine.has_sound = False
        place.server.settings_changed()
        await until(lambda: place.said(SOUND_OFF) == 1)
        await client.until_heard(SOUND, 1)
        place.vnc.say(pcm(bytes(BLOCK)) + NOTICE)  # it was on its way
        await until(lambda: place.server._host.media.clipboard.has_text)
        client.say(SOUND, confirmation(0))
        await client.share()
        assert 13 not in client.kinds(SOUND)
        place.server.machine.has_sound = True
        place.server.settings_changed()
        await until(lambda: place.said(SOUND_ON) == 2)


async def test_what_a_client_hears_is_told(place: Place) -> None:
    async with place.viewer() as client:
        await client.listen()
        await until(lambda: listeners(place))
        for _ in range(30):
            place.vnc.say(pcm(bytes(BLOCK)))
        await client.until_heard(SOUND, 13, 10)
        (session,) = sessions_of(place.server)
        assert session.state().sound == SoundState(44100, 10, 20)
    assert "VRDP: rdpsnd: client 1 plays 44100 Hz." in place.log()
    found = [e for e in place.server.happened.after(0) if e["event"] == "sound.agreed"]
    assert [(e["client"], e["rate"]) for e in found] == [(1, 44100)]


async def test_a_hostile_client_is_one_line_and_others_go_on(place: Place) -> None:
    async with place.viewer() as good, place.viewer() as bad:
        await good.listen()
        await bad.listen()
        await until(lambda: len(listeners(place)) == 2)
        for start in range(0, 10_000, 100):
            bad.confirm(*(number % 256 for number in range(start, start + 100)))
            await asyncio.sleep(0)
        bad.say(SOUND, bytes.fromhex("05000000"), bytes(1 << 20), formats() * 2000)
        bad.say(CLIPBOARD, bytes(15 << 20))
        await place.wait_log("plays nothing")
        place.vnc.say(pcm(bytes(BLOCK)))
        await good.until_heard(SOUND, 13)
        assert not bad.is_lost
    lines = [line for line in place.log().splitlines() if "rdpsnd: client 2" in line]
    assert [line.split("client 2 ")[1] for line in lines] == [
        "plays 44100 Hz.",
        "confirms sound that it was not sent.",
        "plays nothing: confirmation of 0 bytes, not 4.",
    ]


# ----------------------------------------------------------------- clipboard ----

TEXT = "Grüße 😀\nzwei\n"


async def test_the_guests_text_is_pasted_at_every_viewer_and_asked_for_once(
    place: Place,
) -> None:
    async with place.viewer() as first, place.viewer() as second:
        await first.share()
        await second.share()
        place.vnc.say(NOTICE)
        for client in (first, second):
            await client.until_heard(CLIPBOARD, 2)
            client.accept_list()
            client.say(CLIPBOARD, WANT)
        await until(lambda: place.said(ASKED))
        place.vnc.say(cut(0x10000001, packed(TEXT.encode())))
        for client in (first, second):
            answer = await client.until_heard(CLIPBOARD, 5)
            assert answer[8:].decode("utf-16-le") == TEXT.replace("\n", "\r\n") + "\0"
        first.say(CLIPBOARD, WANT)
        assert await first.until_heard(CLIPBOARD, 5, 2) == answer
        assert place.said(ASKED) == 1
        place.vnc.say(NOTICE)
        await first.until_heard(CLIPBOARD, 2, 2)
        first.say(CLIPBOARD, WANT)
        await until(lambda: place.said(ASKED) == 2)


async def test_a_viewers_text_is_pasted_in_the_guest(place: Place) -> None:
    async with place.viewer() as client:
        await client.share(13)
        await until(lambda: place.said(OFFERED))
        assert WANT not in client.heard[CLIPBOARD]  # nobody has pasted
        place.vnc.say(cut(0x02000001))
        await client.until_heard(CLIPBOARD, 4)
        client.say(CLIPBOARD, response(TEXT.replace("\n", "\r\n")))
        await until(lambda: place.texts() == [TEXT])
        client.say(CLIPBOARD, names(2))  # a picture
        await until(lambda: place.said(WITHDRAWN))
        client.say(CLIPBOARD, names(13))
        await until(lambda: place.said(OFFERED) == 2)
    await until(lambda: place.said(WITHDRAWN) == 2)  # it left


async def test_the_clipboard_belongs_to_whoever_copied_last(place: Place) -> None:
    async with place.viewer() as first, place.viewer() as second:
        await first.share()
        await second.share()
        place.vnc.say(NOTICE)
        await second.until_heard(CLIPBOARD, 2)
        second.accept_list()
        first.accept_list()
        first.say(CLIPBOARD, names(13))
        withdrawn = await second.until_heard(CLIPBOARD, 2, 2)
        assert withdrawn == clip(2)
        await until(lambda: place.said(OFFERED))
        second.say(CLIPBOARD, WANT)  # what the first one copied is not for it
        assert (await second.until_heard(CLIPBOARD, 5))[2] == 2
        second.accept_list()
        second.say(CLIPBOARD, names(13))
        await until(lambda: place.said(OFFERED) == 2)
        place.vnc.say(cut(0x02000001))
        await second.until_heard(CLIPBOARD, 4)
        assert clip(2) not in first.heard[CLIPBOARD]  # its own is not taken away
        assert 4 not in first.kinds(CLIPBOARD)
        place.vnc.say(NOTICE)
        await first.until_heard(CLIPBOARD, 2, 2)


async def test_a_text_that_was_there_before_the_viewer_is_offered_to_it(
    place: Place,
) -> None:
    place.vnc.say(NOTICE)
    await until(lambda: place.server._host.media.clipboard.has_text)
    async with place.viewer() as client, place.viewer() as other:
        await client.share()
        await client.until_heard(CLIPBOARD, 2)
        await other.share(13)  # it has a text itself, which came last
        await until(lambda: place.said(OFFERED))
        assert 2 not in other.kinds(CLIPBOARD)


async def test_a_guest_that_does_not_answer_is_no_text(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clipboard, "PATIENCE", 0.1)
    async with place.viewer() as client:
        await client.share()
        place.vnc.say(NOTICE)
        await client.until_heard(CLIPBOARD, 2)
        client.say(CLIPBOARD, WANT)
        assert (await client.until_heard(CLIPBOARD, 5))[2] == 2
        place.vnc.say(cut(0x10000001, packed(b"late")))
        client.say(CLIPBOARD, WANT)
        await until(lambda: place.said(ASKED) == 2)
        place.vnc.say(cut(0x10000001, packed(bytes((1 << 20) + 1))))
        assert (await client.until_heard(CLIPBOARD, 5, 2))[2] == 2
    assert "asked for the guest's text, which has 1048577 bytes" in place.log()
    assert place.vnc.clients == 1


async def test_an_answer_that_was_overtaken_by_another_copy_is_not_kept(
    place: Place,
) -> None:
    async with place.viewer() as client:
        await client.share()
        place.vnc.say(NOTICE)
        await client.until_heard(CLIPBOARD, 2)
        client.say(CLIPBOARD, WANT)
        await until(lambda: place.said(ASKED))
        place.vnc.say(NOTICE + cut(0x10000001, packed(b"old")))
        await client.until_heard(CLIPBOARD, 5)
        client.say(CLIPBOARD, WANT)
        await until(lambda: place.said(ASKED) == 2)


WAYS = [
    ("disabled", False, False),
    ("hosttoguest", True, False),
    ("guesttohost", False, True),
    ("bidirectional", True, True),
]


@pytest.mark.parametrize(("mode", "is_to_guest", "is_to_viewers"), WAYS)
async def test_texts_go_only_the_ways_that_the_mode_has(
    place: Place, mode: str, *, is_to_guest: bool, is_to_viewers: bool
) -> None:
    async with place.viewer() as client:
        assert sessions_of(place.server)[0].state().clipboard == "disabled"
        if mode == "disabled":
            await client.listen()
            await until(lambda: listeners(place))
            assert client.heard[CLIPBOARD] == []
            return
        await client.share()
        place.vnc.say(NOTICE)
        if is_to_viewers:
            await client.until_heard(CLIPBOARD, 2)
        client.say(CLIPBOARD, WANT)
        if is_to_viewers:
            await until(lambda: place.said(ASKED))
            place.vnc.say(cut(0x10000001, packed(b"text")))
        assert (await client.until_heard(CLIPBOARD, 5))[2] == (
            1 if is_to_viewers else 2
        )
        assert bool(place.said(ASKED)) == is_to_viewers
        assert (2 in client.kinds(CLIPBOARD)) == is_to_viewers
        client.say(CLIPBOARD, names(13))
        await client.until_heard(CLIPBOARD, 3, 2)
        place.vnc.say(cut(0x02000001))
        if is_to_guest:
            await client.until_heard(CLIPBOARD, 4)
            client.say(CLIPBOARD, response("text"))
        await until(lambda: place.texts() == ["text" if is_to_guest else ""])
        assert bool(place.said(OFFERED)) == is_to_guest
        (session,) = sessions_of(place.server)
        assert session.state().clipboard == mode


@pytest.mark.parametrize("mode", ["disabled"])
async def test_the_mode_changes_in_a_session(place: Place, mode: str) -> None:
    async with place.viewer() as client:
        place.vnc.say(NOTICE)
        await until(lambda: place.server._host.media.clipboard.has_text)
        place.server.machine.clipboard = "guesttohost"
        place.server.settings_changed()
        await client.share()
        await client.until_heard(CLIPBOARD, 2)
        client.accept_list()
        place.server.machine.clipboard = "hosttoguest"
        place.server.settings_changed()
        assert await client.until_heard(CLIPBOARD, 2, 2) == clip(2)
        client.accept_list()
        client.say(CLIPBOARD, names(13))
        await until(lambda: place.said(OFFERED) == 1)
        place.server.machine.clipboard = "disabled"
        place.server.settings_changed()
        await until(lambda: place.said(WITHDRAWN) == 1)
        place.server.machine.clipboard = "bidirectional"
        place.server.settings_changed()
        await until(lambda: place.said(OFFERED) == 2)


@pytest.mark.parametrize("family", ["", "VRDE", "VRDP"])
async def test_the_clipboard_is_switched_off_and_on_in_a_session(
    place: Place, family: str
) -> None:
    async with place.viewer() as client:
        await client.share(13)
        await until(lambda: place.said(OFFERED) == 1)
        place.switch("Clipboard", "1", family)
        await until(lambda: place.said(WITHDRAWN) == 1)
        place.vnc.say(cut(0x02000001))
        await until(lambda: place.texts() == [""])
        assert 4 not in client.kinds(CLIPBOARD)
        place.switch("Clipboard", "0", family)
        await until(lambda: place.said(OFFERED) == 2)
        (session,) = sessions_of(place.server)
        assert session.state().clipboard == "bidirectional"


async def test_a_text_under_way_stays_where_it_is_once_it_may_not_travel(
    place: Place,
) -> None:
    async with place.viewer() as client:
        await client.share()
        place.vnc.say(NOTICE)
        await client.until_heard(CLIPBOARD, 2)
        client.accept_list()
        client.say(CLIPBOARD, WANT)
        await until(lambda: place.said(ASKED))
        place.server.machine.clipboard = "hosttoguest"
        place.server.settings_changed()
        place.vnc.say(cut(0x10000001, packed(b"secret")))
        assert await client.until_heard(CLIPBOARD, 5) == clip(5, flags=2)
        client.say(CLIPBOARD, names(13))
        await until(lambda: place.said(OFFERED))
        place.vnc.say(cut(0x02000001))
        await client.until_heard(CLIPBOARD, 4)
        place.server.machine.clipboard = "guesttohost"
        place.server.settings_changed()
        client.say(CLIPBOARD, response("secret"))
        await until(lambda: place.texts() == [""])


async def test_a_viewer_that_repeats_its_list_after_each_request_makes_no_loop(
    place: Place,
) -> None:
    """rdesktop 1.9, and a guest that reads whatever is copied (display.md 8)."""
    async with place.viewer() as client:
        await client.share(13)
        await until(lambda: place.said(OFFERED) == 1)
        for count in range(1, 6):
            place.vnc.say(cut(0x02000001))
            await client.until_heard(CLIPBOARD, 4, count)
            client.say(CLIPBOARD, names(13), response("text"))
            await until(lambda: len(place.texts()) == count)  # noqa: B023
        await asyncio.sleep(2 * clipboard.OFFER_PERIOD)
        assert place.said(OFFERED) == 1


async def test_a_new_connection_to_qemu_knows_what_a_viewer_has(place: Place) -> None:
    async with place.viewer() as client:
        await client.share(13)
        await until(lambda: place.said(OFFERED) == 1)
        place.vnc.hang_up()
        await until(lambda: place.said(OFFERED) == 2)


async def test_storms_of_lists_and_texts_without_end_are_bounded(place: Place) -> None:
    async with place.viewer() as good, place.viewer() as bad:
        await good.share()
        await bad.share()
        begin = asyncio.get_running_loop().time()
        for _ in range(100):
            bad.say(CLIPBOARD, *[names(13), names(13, 1)] * 50)
            await asyncio.sleep(0)
        await bad.until_heard(CLIPBOARD, 3, 10_001)
        place.vnc.say(cut(0x02000001))
        await bad.until_heard(CLIPBOARD, 4)
        bad.say(CLIPBOARD, clip(5, bytes(MAX_MESSAGE), 1))
        await until(lambda: place.texts() == [""])
        await until(lambda: place.said(OFFERED) >= 2)  # the latest one counts
        seconds = asyncio.get_running_loop().time() - begin
        assert place.said(OFFERED) <= 2 + seconds / clipboard.OFFER_PERIOD
        assert 4 not in good.kinds(CLIPBOARD)
        for number in range(3):
            bad.say(CLIPBOARD, clip(5, bytes(15 << 20), 1), names())  # nobody asked
            await bad.until_heard(CLIPBOARD, 3, 10_002 + number)
        bad.say(CLIPBOARD, b"\2\0\0\0\xff\xff\xff\xff")
        await place.wait_log("has no clipboard")
        assert not bad.is_lost
        place.vnc.say(NOTICE)
        await good.until_heard(CLIPBOARD, 2)
    lines = [line for line in place.log().splitlines() if "cliprdr: client 2" in line]
    assert [line.split("client 2 ")[1] for line in lines] == [
        f"has a text of {MAX_MESSAGE + 8} bytes in its clipboard, which is not pasted:"
        " at most 1048576.",
        "has no clipboard: clipboard message of 4294967295 bytes, have 0.",
    ]
    found = [e for e in place.server.happened.after(0) if e["event"] == "channel.noted"]
    assert {e["channel"] for e in found} == {"cliprdr"}
    assert json.dumps(found)


async def test_ten_thousand_requests_get_an_answer_each_and_little_text(
    place: Place,
) -> None:
    async with place.viewer() as client:
        await client.share()
        place.vnc.say(NOTICE)
        await client.until_heard(CLIPBOARD, 2)
        client.say(CLIPBOARD, WANT)
        await until(lambda: place.said(ASKED))
        place.vnc.say(cut(0x10000001, packed(b"x" * (1 << 20))))
        await client.until_heard(CLIPBOARD, 5)
        client.say(CLIPBOARD, *[WANT] * 1000)
        await client.until_heard(CLIPBOARD, 5, 1001)
        whole = sum(len(message) > 1000 for message in client.heard[CLIPBOARD])
        assert 1 <= whole < 100
        assert not client.is_lost
