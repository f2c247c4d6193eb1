"""The guest's screen, from a VNC server to viewers that know what they were sent."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from rusb.client.session import ClientSession, connect
from rusb.rdp.graphics.updates import Update
from rusb.rdp.server import ServerConnection
from rusb.rdp.share import DataType
from rusb.server.display import guest_screen, pace
from rusb.server.display import viewer as viewer_module
from rusb.server.display.guest_screen import GuestScreen
from tests.support.screen_guest import ScreenGuest, ScreenLab
from tests.support.vnc import VncServer, cursor, led, raw, rect, update
from tests.support.whole_path import say, sessions_of

ALLOW = b"\1\0\0\0" + bytes(8)


class Place(ScreenLab):
    """A server whose guest has a screen."""

    @property
    def problem(self) -> str:
        return self.server._screens._guests[0].problem

    @contextlib.asynccontextmanager
    async def viewer(self) -> AsyncIterator[ClientSession]:
        """A client with a window."""
        async with connect(self.config(), backends=[]) as session:
            say(session, DataType.SUPPRESS_OUTPUT, ALLOW)
            yield session


@pytest.fixture
async def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    monkeypatch.setattr(guest_screen, "FIRST_PAUSE", 0.05)
    place = Place(tmp_path, ScreenGuest(tmp_path / "vnc"))
    async with asyncio.timeout(30), place.server:
        yield place


async def until(held: object) -> None:
    assert callable(held)
    async with asyncio.timeout(30):
        while not held():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def asked(vnc: VncServer) -> int:
    """How many updates were asked for."""
    return sum(message[0] == 3 for message in vnc.heard)


async def until_asked(vnc: VncServer, viewer: ClientSession) -> None:
    """Wait for a request, for a client that wants no pictures of a new size."""
    while not asked(vnc):
        say(viewer, DataType.SUPPRESS_OUTPUT, ALLOW)
        await asyncio.sleep(0.1)


async def test_nothing_is_asked_for_while_nobody_watches(place: Place) -> None:
    async with VncServer(place.screen_guest.path, 640, 480) as vnc:
        await until(lambda: vnc.clients)
        await asyncio.sleep(0.2)
        assert asked(vnc) == 0
        async with place.viewer():
            await until(lambda: asked(vnc) >= 2)
            (session,) = sessions_of(place.server)
            await until(lambda: session._rdp.width == 640 and session.is_active)
        await until(lambda: not sessions_of(place.server))
        vnc.say(update(raw(0, 0, 1, 1, 1)))  # the one that was asked for
        await asyncio.sleep(0.2)
        count = asked(vnc)
        vnc.say(update(raw(0, 0, 1, 1, 1)))
        await asyncio.sleep(0.2)
        assert asked(vnc) == count


async def test_a_viewer_has_the_guests_size_from_the_start_and_follows_it(
    place: Place,
) -> None:
    async with VncServer(place.screen_guest.path, 320, 200) as vnc:
        await until(lambda: place.server._screens[0].size)
        async with place.viewer():
            (session,) = sessions_of(place.server)
            assert (session._rdp.width, session._rdp.height) == (320, 200)
            await until(lambda: asked(vnc))
            vnc.say(update(rect(-223, w=400, h=300)))
            await until(lambda: session.viewer and session.viewer.size == (400, 300))


async def test_a_size_that_comes_before_the_first_picture_is_followed_too(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody watches yet, but the logon is over."""
    monkeypatch.setattr(viewer_module, "FIRST_PICTURE", 1000.0)
    async with connect(place.config(), backends=[]) as viewer:
        (session,) = sessions_of(place.server)
        await until(lambda: session.is_active)
        assert session._rdp.width == 800
        async with VncServer(place.screen_guest.path, 320, 200):
            await until(lambda: place.server._screens[0].size)
            assert session._rdp.width == 800
            say(viewer, DataType.SUPPRESS_OUTPUT, ALLOW)  # it has a window
            await until(lambda: session.viewer and session.viewer.size == (320, 200))


async def test_damage_is_sent_as_it_comes(place: Place) -> None:
    first = update(raw(0, 0, 320, 200, 0x112233))
    async with VncServer(place.screen_guest.path, 320, 200, first) as vnc:
        await until(lambda: place.server._screens[0].size)
        async with place.viewer():
            (session,) = sessions_of(place.server)
            await until(lambda: session.is_active)
            sent = -1
            while sent != session.stream.bytes_sent:
                sent = session.stream.bytes_sent
                await asyncio.sleep(0.4)
            hub = place.server._screens[0]
            frame = hub._painter(320, 200)()[:200, :320]
            assert (frame & 0xFFFFFF == 0x112233).all()
            sent = session.stream.bytes_sent
            vnc.say(update(raw(16, 16, 16, 16, 0xFF0000)))
            await until(lambda: session.stream.bytes_sent > sent)
            await asyncio.sleep(0.2)
            assert session.stream.bytes_sent < sent + 200
            assert np.count_nonzero(frame & 0xFFFFFF == 0xFF0000) == 256


async def test_an_update_of_many_rectangles_is_read_to_its_end(place: Place) -> None:
    """In several turns; what follows it in the same read is not left behind."""
    places = [(x, y) for y in range(0, 200, 4) for x in range(0, 320, 4)]
    many = update(*(raw(*place, 1, 1, 5) for place in places))
    async with VncServer(place.screen_guest.path, 320, 200) as vnc:
        head = place.server._screens[0]
        await until(lambda: head.size)
        async with place.viewer():
            await until(lambda: asked(vnc))
            vnc.say(many + update(led(1), raw(1, 1, 1, 1, 5)))
            frame = place.server._screens.first.painter(320, 200)()
            await until(lambda: np.count_nonzero(frame) == len(places) + 1)


class Late:
    """Notes what a screen says once nothing more is to be shown of it."""

    def __init__(self, guest: GuestScreen) -> None:
        self.guest = guest
        self.late = 0

    def damaged(self, rectangles: object) -> None:
        self.late += self.guest._protocol is None

    def changed(self) -> None: ...
    def cursor_changed(self) -> None: ...
    def leds_changed(self, leds: int) -> None: ...


async def test_a_screen_that_was_let_go_says_nothing_more(tmp_path: Path) -> None:
    """However many turns of what it said are left."""
    guest = GuestScreen(ScreenGuest(tmp_path / "vnc"), 0, lambda: None)
    watcher = guest.watcher = Late(guest)
    many = update(raw(0, 0, 1, 1, 5)) * 20_000
    async with asyncio.timeout(30), VncServer(tmp_path / "vnc", 320, 200) as vnc:
        guest.start()
        await until(lambda: guest.is_there)
        guest.watch(is_watched=True)
        vnc.say(many)
        protocol = guest._protocol
        assert protocol is not None
        while protocol._turn is None:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await guest.aclose()
        for _ in range(20):
            await asyncio.sleep(0)
    assert watcher.late == 0


async def test_a_button_is_released_though_qemu_does_not_read(tmp_path: Path) -> None:
    guest = GuestScreen(ScreenGuest(tmp_path / "vnc"), 0, lambda: None)
    guest.watcher = Late(guest)
    async with asyncio.timeout(30), VncServer(tmp_path / "vnc", 320, 200) as vnc:
        guest.start()
        await until(lambda: guest.is_there)
        assert guest._protocol is not None
        guest.pointer(1, 5, 5)
        guest._protocol.is_full = True
        for buttons in (1, 0, 2, 0, 8, 0):
            guest.pointer(buttons, 6, 6)
        guest._protocol.is_full = False
        guest.pointer(0, 7, 7)
        await until(lambda: vnc.heard[-1] == b"\5\0\0\7\0\7")
        sent = [(m[1], m[3]) for m in vnc.heard if m[0] == 5]
        assert sent == [(1, 5), (0, 6), (0, 7)]
        await guest.aclose()


async def test_nothing_more_is_read_than_is_shown(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changes while the head has its pause is asked for when that is over."""
    async with VncServer(place.screen_guest.path, 320, 200) as vnc:
        head = place.server._screens[0]
        await until(lambda: head.size)
        async with place.viewer():
            (session,) = sessions_of(place.server)
            await until(lambda: session.viewer and session.viewer.frames)
            viewer = session.viewer
            assert viewer
            await until(lambda: head._tick is None)
            monkeypatch.setattr(pace, "TICK", 1000.0)
            for number in range(2):  # the first one begins a pause
                frames, count = viewer.frames, asked(vnc)
                vnc.say(update(raw(16 * number, 0, 16, 16, 0xFF0000)))
                if number:
                    await until(lambda: viewer.is_damaged)
                    await asyncio.sleep(0.1)
                    assert (viewer.frames, asked(vnc)) == (frames, count)
                    head._pace = pace.Pace()  # it is over
                    head.touched()
                await until(lambda f=frames: viewer.frames > f)
                await until(lambda c=count: asked(vnc) > c)
                await until(lambda: head._tick is None)


async def test_a_screen_that_goes_away_is_reached_again(place: Place) -> None:
    """Meanwhile the page says why there is none."""
    async with place.viewer() as viewer:
        await until(lambda: place.problem == "start it with -vnc none")
        (session,) = sessions_of(place.server)
        await until(lambda: session.is_active)
        assert session._rdp.width == 800
        async with VncServer(place.screen_guest.path, 640, 480) as vnc:
            await until(lambda: session.viewer and session.viewer.size == (640, 480))
            assert place.problem == ""
            await until_asked(vnc, viewer)
            vnc.heard.clear()
            vnc.say(b"\7")
            await until(lambda: place.problem.endswith(": VNC message 7"))
            await until(lambda: vnc.clients == 2)
            await until_asked(vnc, viewer)
        place.screen_guest.path.unlink(missing_ok=True)
        await until(lambda: place.problem.startswith("start it"))
        assert session.is_active


async def test_a_server_that_says_nothing_is_given_up(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_screen, "HANDSHAKE_TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(place.screen_guest.path))
        mute.listen()
        await until(lambda: "does not answer" in place.problem)


async def test_the_server_is_poked_while_somebody_watches(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = update(rect(-259), raw(0, 0, 1, 1, 1))
    poke = bytes.fromhex("ff01000203020000ac44")
    async with VncServer(place.screen_guest.path, 640, 480, joined) as vnc:

        async def seconds_of(count: int) -> float:
            """How long so many take; while somebody watches, they come."""
            vnc.heard.clear()
            begin = asyncio.get_running_loop().time()
            await until(lambda: vnc.heard.count(poke) >= count)
            return asyncio.get_running_loop().time() - begin

        await until(lambda: place.server._screens[0].size)
        async with place.viewer():
            await until(lambda: asked(vnc) >= 2)
            assert await seconds_of(9) > 6 * guest_screen.POKE
            monkeypatch.setattr(guest_screen, "RESTS_AFTER", 0)
            await seconds_of(2)  # one may be on its way
            assert await seconds_of(2) > guest_screen.REST_POKE * 0.9
        await until(lambda: not sessions_of(place.server))
        await asyncio.sleep(0.1)
        vnc.heard.clear()
        await asyncio.sleep(0.4)
        assert vnc.heard.count(poke) == 0


async def test_keys_lights_and_extra_buttons_reach_the_guest(place: Place) -> None:
    async with VncServer(place.screen_guest.path, 640, 480) as vnc:
        await until(lambda: place.server._screens[0].size)
        hub = place.server._screens[0]
        vnc.say(update(led(4), cursor(1, 1, 2, 2, [0xFF000000] * 4)))
        await until(lambda: hub._source.cursor)
        vnc.heard.clear()
        hub.keyboard.synchronize("a", 0)
        hub.keyboard.key("a", 0x1E, is_down=True)
        hub.move(700, 900)
        hub.pointer.button("a", "left", is_down=True)
        hub.pointer.button("a", "side", is_down=True)
        await until(lambda: len(vnc.heard) >= 4 and place.screen_guest.buttons)
        assert [message.hex() for message in vnc.heard] == [
            "ff000001000000000000003a",
            "ff000000000000000000003a",
            "ff000001000000000000001e",
            "0501027f01df",
        ]
        data = {"button": "side", "down": True}
        assert place.screen_guest.buttons == [{"type": "btn", "data": data}]


async def test_a_guest_without_a_tablet_is_told_movements(place: Place) -> None:
    joined = update(rect(-257, 0))
    async with VncServer(place.screen_guest.path, 640, 480, joined) as vnc:
        hub = place.server._screens[0]
        await until(lambda: hub.size)
        async with place.viewer():
            await until(lambda: asked(vnc) >= 2 and not hub._source.is_absolute)
            for x, y, sent in ((10, 10, "7fff7fff"), (13, 8, "80027ffd")):
                hub.move(x, y)
                message = bytes.fromhex(f"0500{sent}")
                await until(lambda: message in vnc.heard)  # noqa: B023
            vnc.say(update(rect(-257, 1)))
            await until(lambda: hub._source.is_absolute)


async def test_a_screen_with_a_tablet_of_its_own_is_pointed_at_by_qmp(
    place: Place,
) -> None:
    """VNC does not say which of several screens is meant, and says no tablet."""
    place.screen_guest.has_tablets = True
    joined = update(rect(-257, 0))
    async with VncServer(place.screen_guest.path, 640, 480, joined) as vnc:
        hub = place.server._screens[0]
        await until(lambda: hub.size)
        async with place.viewer():
            await until(lambda: asked(vnc) >= 2)
            hub.move(639, 0)
            await until(lambda: place.screen_guest.buttons)
    assert hub._source.is_absolute
    assert not any(message[0] == 5 for message in vnc.heard)
    assert place.screen_guest.buttons == [
        {"type": "abs", "data": {"axis": "x", "value": 0x7FFF}},
        {"type": "abs", "data": {"axis": "y", "value": 0}},
    ]


async def test_a_further_head_is_switched_on_by_its_size(tmp_path: Path) -> None:
    class Guest(ScreenGuest):
        async def open_screen(self, head: int) -> socket.socket | None:
            return await super().open_screen(0)

    async with VncServer(tmp_path / "vnc", 640, 480) as vnc:
        for head in (0, 1):
            guest = Guest(vnc.path)
            screen = guest_screen.GuestScreen(guest, head, lambda: None)
            screen.start()
            await until(lambda: screen.is_there)  # noqa: B023
            await until(lambda: 6 in [message[0] for message in vnc.heard])
            await asyncio.sleep(0.1)
            sizes = [m[2:6].hex() for m in vnc.heard if m[0] == 251]
            assert sizes == (["05000320"] if head else [])  # 1280x800
            await screen.aclose()


async def test_the_guests_pointer_is_the_viewers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shape with straight alpha, hidden, from the cache; none: the viewer's own."""
    sent = list[Update]()
    send = ServerConnection.send_update

    def note(core: ServerConnection, update: Update) -> None:
        if "POINTER" in update.kind.name:
            sent.append(update)
        send(core, update)

    monkeypatch.setattr(ServerConnection, "send_update", note)
    async with VncServer(place.screen_guest.path, 640, 480) as vnc:
        await until(lambda: place.server._screens[0].size)
        async with place.viewer():
            await until(lambda: sent)
            shape = cursor(1, 0, 2, 1, [0x80404040, 0xFF123456])
            other = cursor(0, 0, 1, 1, [0xFFFFFFFF])
            shapes = shape, cursor(0, 0, 0, 0, []), other, shape
            for count, one in enumerate(shapes, 2):
                vnc.say(update(one))
                await until(lambda: len(sent) == count)  # noqa: B023
    kinds = [one.kind.name.removesuffix("_POINTER") for one in sent]
    assert kinds == ["POINTER_DEFAULT", "NEW", "POINTER_HIDDEN", "NEW", "CACHED"]
    assert bytes.fromhex("80808080 563412ff") in sent[1].body


async def test_a_guest_that_hangs_is_not_typed_at_without_end(place: Place) -> None:
    """And no key stays down in it."""
    async with VncServer(place.screen_guest.path, 640, 480) as vnc:
        await until(lambda: place.server._screens[0].size)
        hub = place.server._screens[0]
        protocol = place.server._screens.first._protocol
        assert protocol is not None
        assert vnc._writer is not None
        hub.keyboard.key("a", 0x1D, is_down=True)
        await until(lambda: vnc.heard[-1][-1] == 0x1D)
        vnc._writer.transport.pause_reading()  # type: ignore[attr-defined]
        while not protocol.is_full:
            hub.pointer.wheel(16, is_horizontal=False)
            await asyncio.sleep(0)
        for _ in range(10_000):
            hub.pointer.wheel(16, is_horizontal=False)
            hub.keyboard.key("b", 0x1E, is_down=True)
            hub.keyboard.key("b", 0x1E, is_down=False)
        hub.keyboard.release("a")
        assert protocol._transport is not None
        waiting = protocol._transport.get_write_buffer_size()
        assert waiting < guest_screen.MAX_UNREAD + 1024
        sock = protocol._transport.get_extra_info("socket")
        kept = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        assert kept <= 2 * guest_screen.UNSENT  # with what the kernel needs for it
        vnc._writer.transport.resume_reading()  # type: ignore[attr-defined]
        await until(lambda: vnc.heard[-1].hex() == "ff000000000000000000001d")
        assert not any(m[0] == 255 and m[-1] == 0x1E for m in vnc.heard)
        hub.keyboard.key("b", 0x1E, is_down=True)  # it goes on
        await until(lambda: vnc.heard[-1].hex() == "ff000001000000000000001e")


async def test_a_guest_that_asks_and_reads_nothing_is_not_read(place: Place) -> None:
    """Each update without anything in it is answered with a request for the next."""
    async with VncServer(place.screen_guest.path, 640, 480) as vnc:
        await until(lambda: place.server._screens[0].size)
        protocol = place.server._screens.first._protocol
        assert protocol is not None
        async with place.viewer():
            await until(lambda: asked(vnc))
            assert vnc._writer is not None
            vnc._writer.transport.pause_reading()  # type: ignore[attr-defined]
            vnc.say(update() * (1 << 19))
            await until(lambda: protocol.is_full)
            for _ in range(1000):  # turns
                await asyncio.sleep(0)
            assert protocol._transport is not None
            unread = protocol._transport.get_write_buffer_size()
            assert unread < guest_screen.MAX_UNREAD + 8192
            vnc._writer.transport.resume_reading()  # type: ignore[attr-defined]
            before = asked(vnc)
            await until(lambda: asked(vnc) > before + unread // 10)  # it goes on


async def test_a_screen_that_is_not_there_is_tried_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1, 2, 4 ... 30 s (display.md 13)."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(guest_screen.asyncio, "sleep", note)  # type: ignore[attr-defined]
    nowhere = ScreenGuest(tmp_path / "vnc")
    screen = guest_screen.GuestScreen(nowhere, 0, lambda: None)
    screen.start()
    async with asyncio.timeout(20):
        while len(pauses) < 8:
            await sleep(0)
    await screen.aclose()
    assert pauses[:8] == [1, 2, 4, 8, 16, 30, 30, 30]


async def test_a_head_that_is_not_there_has_the_page(place: Place) -> None:
    assert place.server._screens[1].size is None
    frame = place.server._screens[1]._painter(200, 100)()
    assert frame.shape == (128, 256)
    assert frame[0, 0] == 0x183050
