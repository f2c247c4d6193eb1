"""A viewer's own dynamic channels, over a session of our client."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from rusb.client import wires
from rusb.client.session import ClientSession, connect
from rusb.rdp import dispcontrol, gfx
from rusb.rdp.channels import (
    ChannelHandler,
    ChannelLimits,
    ChannelListener,
    ChannelRegistry,
)
from rusb.rdp.share import DataType
from rusb.server.display import h264, sizes, video
from rusb.server.session import ServerSession
from tests.support.rdp.pictures import desktop, film, quality
from tests.support.rdp.surfaces import AVC_8_1, NO_AVC, GraphicsClient, layout
from tests.support.screen_guest import ScreenGuest
from tests.support.vnc import VncServer, rect, update
from tests.support.whole_path import (
    Lab,
    machine,
    rdp_of,
    say,
    sessions_of,
    stream_of,
)

WIDTH, HEIGHT = 320, 240
INSIDE = np.s_[48:168, 64:224]
SIZE = 251
ALLOW = b"\1\0\0\0" + bytes(8)


class Handler(ChannelHandler):
    """Serves one channel of a client.

    Attributes:
        open: its number; None: it is not open.
        heard: what came.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.open: int | None = None
        self.heard: list[bytes] = []
        self.on_message: Callable[[bytes], None] = self.heard.append
        self.listener = ChannelListener(
            name, self._opened, is_dynamic=True, limits=ChannelLimits()
        )

    def _opened(self, channel: int, name: str) -> "Handler":
        self.open = channel
        return self

    def received(self, channel: int, data: bytes) -> None:
        self.on_message(data)

    def closed(self, channel: int) -> None:
        self.open = None


class Place(Lab):
    """A server with a guest's screen, and clients with the channels of a viewer."""

    def __init__(self, folder: Path, **properties: str) -> None:
        display = machine().remote_display
        display.allow_multi_connection = True
        display.properties |= {"VideoChannel/Enabled": "true", **properties}
        self.screen = desktop(WIDTH, HEIGHT)
        self.screen_guest = ScreenGuest(folder / "vnc")
        self.graphics = Handler(gfx.CHANNEL)
        self.control = Handler(dispcontrol.CHANNEL)
        served = machine(remote_display=display)
        super().__init__(folder, served, guest=self.screen_guest)

    def whole(self) -> bytes:
        pixels = self.screen[:HEIGHT, :WIDTH].astype("<u4").tobytes()
        return update(rect(0, 0, 0, WIDTH, HEIGHT, pixels))

    @contextlib.asynccontextmanager
    async def viewer(self) -> AsyncIterator[tuple[ClientSession, ServerSession]]:
        if self.screen_guest.path.exists():
            await until(lambda: self.server._screens[0].size)
        async with connect(self.config(), backends=[]) as client:
            session = sessions_of(self.server)[-1]
            await looks(client, lambda: session.viewer and session.viewer.frames)
            yield client, session

    def tell(self, client: ClientSession, handler: Handler, message: bytes) -> None:
        assert handler.open is not None
        rdp_of(client).send_channel(handler.open, message)
        stream_of(client).flush()


async def until(held: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not held():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def looks(client: ClientSession, held: Callable[[], object]) -> None:
    """Wait, as a client that wants pictures in every size."""
    async with asyncio.timeout(20):
        while not held():
            say(client, DataType.SUPPRESS_OUTPUT, ALLOW)
            await asyncio.sleep(0.1)


@pytest.fixture
async def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    place = Place(tmp_path)

    def registry(listeners: Iterable[ChannelListener]) -> ChannelRegistry:
        ours = place.graphics.listener, place.control.listener
        return ChannelRegistry([*listeners, *ours])

    monkeypatch.setattr(wires, "ChannelRegistry", registry)
    monkeypatch.setattr(sizes, "SETTLED", 0.05)
    # a loaded machine plays more slowly than a video does, or makes up for it
    monkeypatch.setattr(video, "LONGEST", 2.0)
    monkeypatch.setattr(video, "SHORTEST", 0.0)
    async with place.server:
        yield place


def picture_on(
    place: Place, client: ClientSession, *, acknowledges: bool = True
) -> GraphicsClient:
    """Say that the client has AVC420; what it is sent is drawn."""
    drawn = GraphicsClient()

    def take(message: bytes) -> None:
        drawn.receive(message)
        if acknowledges:
            for pdu in drawn.acknowledgements:
                place.tell(client, place.graphics, pdu)
            drawn.acknowledgements.clear()

    place.graphics.on_message = take
    place.tell(client, place.graphics, AVC_8_1)
    return drawn


def is_equal(drawn: GraphicsClient, place: Place) -> bool:
    shown = place.screen[:HEIGHT, :WIDTH]
    return drawn.screen is not None and np.array_equal(drawn.screen, shown)


async def test_a_client_with_avc420_sees_all_through_the_pipeline(
    place: Place,
) -> None:
    async with (
        VncServer(place.screen_guest.path, WIDTH, HEIGHT, place.whole()) as vnc,
        place.viewer() as (client, session),
    ):
        await until(lambda: place.graphics.open)
        drawn = picture_on(place, client)
        await until(lambda: is_equal(drawn, place))
        view = session.state().view
        assert view is not None
        assert view.form == "graphics pipeline with AVC420"
        events = place.server.happened.after(None)
        forms = [e["form"] for e in events if e["event"] == "screen.shown"]
        assert forms == ["compressed bitmaps", "graphics pipeline with AVC420"]
        near = []
        for number in range(200):
            place.screen[INSIDE] = film(160, 120, number)
            data = place.screen[INSIDE].astype("<u4").tobytes()
            vnc.say(update(rect(0, 64, 48, 160, 120, data)))
            await asyncio.sleep(0.03)
            if 11 in drawn.codecs and drawn.screen is not None:
                near.append(quality(drawn.screen[INSIDE], place.screen[INSIDE]))
                if len(near) > 10:
                    break
        assert max(near) > 35
        await until(lambda: is_equal(drawn, place))
        # another size makes everything new
        place.screen = place.screen[:, :256].copy()
        data = place.screen[:200, :256].astype("<u4").tobytes()
        vnc.say(update(rect(-223, w=256, h=200)))
        vnc.say(update(rect(0, 0, 0, 256, 200, data)))
        await looks(
            client, lambda: drawn.screen is not None and drawn.screen.shape[1] == 256
        )
        assert session.viewer is not None


async def test_who_acknowledges_nothing_gets_two_frames(place: Place) -> None:
    async with (
        VncServer(place.screen_guest.path, WIDTH, HEIGHT, place.whole()) as vnc,
        place.viewer() as (client, session),
    ):
        await until(lambda: place.graphics.open)
        drawn = picture_on(place, client, acknowledges=False)
        await until(lambda: drawn.acknowledgements)
        for number in range(10):
            place.screen[INSIDE] = film(160, 120, number)
            vnc.say(place.whole())
            await asyncio.sleep(0.05)
        await until(lambda: len(drawn.acknowledgements) == 2)
        await asyncio.sleep(0.3)
        assert len(drawn.acknowledgements) == 2
        for pdu in drawn.acknowledgements:
            place.tell(client, place.graphics, pdu)
        await until(lambda: is_equal(drawn, place))


async def test_a_client_without_avc420_keeps_its_bitmaps(place: Place) -> None:
    async with place.viewer() as (client, session):
        await until(lambda: place.graphics.open)
        place.tell(client, place.graphics, NO_AVC)
        await until(lambda: not place.graphics.open)
        assert session.viewer is not None
        assert session.viewer.state().form == "compressed bitmaps"
        assert session.is_active
        await place.wait_log("the client does not take AVC420")


async def test_nonsense_closes_the_channel_and_no_more(place: Place) -> None:
    async with (
        VncServer(place.screen_guest.path, WIDTH, HEIGHT, place.whole()),
        place.viewer() as (client, session),
    ):
        await until(lambda: place.graphics.open and place.control.open)
        drawn = picture_on(place, client)
        await until(lambda: is_equal(drawn, place))
        assert session.viewer is not None
        frames = session.viewer.frames
        place.tell(client, place.graphics, b"\x12\0\0\0")
        place.tell(client, place.control, b"\2\0\0\0")
        await until(lambda: not (place.graphics.open or place.control.open))
        await until(lambda: session.viewer and session.viewer.frames > frames)
        assert session.viewer.state().form == "compressed bitmaps"
        for line in ("graphics pipeline: 4 bytes", "display control: display control"):
            await place.wait_log(line)


async def test_a_storm_of_capabilities_ends_with_the_channel(place: Place) -> None:
    async with place.viewer() as (client, session):
        await until(lambda: place.graphics.open)
        for _ in range(20):
            if place.graphics.open:
                place.tell(client, place.graphics, AVC_8_1)
        await until(lambda: not place.graphics.open)
        assert session.is_active
        await place.wait_log("more than 8 times")


async def test_the_pipeline_comes_with_the_setting(place: Place) -> None:
    properties = place.server.machine.remote_display.properties
    properties["VideoChannel/Enabled"] = "false"
    async with place.viewer():
        await until(lambda: place.control.open)
        assert not place.graphics.open
        properties["VideoChannel/Enabled"] = "true"
        place.server.settings_changed()
        await until(lambda: place.graphics.open)


async def test_what_is_missing_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h264, "missing", lambda: "PyAV is not installed")
    async with place.viewer():
        await place.wait_log("no video channel: PyAV is not installed")
        await until(lambda: place.control.open)
        assert not place.graphics.open


def sizes_asked(vnc: VncServer) -> list[tuple[int, int]]:
    return [
        (int.from_bytes(m[2:4]), int.from_bytes(m[4:6]))
        for m in vnc.heard
        if m[0] == SIZE
    ]


async def test_the_guest_gets_the_size_that_its_first_viewer_wants(
    place: Place,
) -> None:
    async with VncServer(place.screen_guest.path, WIDTH, HEIGHT, place.whole()) as vnc:
        await until(lambda: place.server._screens[0].size)
        async with place.viewer() as (first, _):
            await until(lambda: place.control.heard)
            assert place.control.heard[0] == dispcontrol.capabilities()
            await until(lambda: sizes_asked(vnc))  # its own, from the start
            vnc.heard.clear()
            place.tell(first, place.control, layout((1, 641, 480)))
            await until(lambda: sizes_asked(vnc))
            assert sizes_asked(vnc) == [(640, 480)]
            number = place.control.open
            async with place.viewer() as (second, _):
                place.tell(second, place.control, layout((1, 800, 600)))
                place.control.open = number
                await asyncio.sleep(0.3)
                assert sizes_asked(vnc) == [(640, 480)]
            place.control.open = number  # of the first
            vnc.say(update(rect(-308, 1, 3, 320, 240, bytes(4))))  # it cannot
            await asyncio.sleep(0.2)
            place.tell(first, place.control, layout((1, 700, 500)))
            await asyncio.sleep(0.3)
            assert sizes_asked(vnc) == [(640, 480)]


async def test_who_can_wish_begins_with_its_own_size(place: Place) -> None:
    """rusb screenshot cannot, and must not change what it looks at."""
    async with VncServer(place.screen_guest.path, WIDTH, HEIGHT, place.whole()) as vnc:
        async with place.viewer():
            await until(lambda: sizes_asked(vnc))
            assert sizes_asked(vnc) == [(800, 600)]


async def test_who_cannot_wish_leaves_the_guest_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wires, "ChannelRegistry", ChannelRegistry)
    async with VncServer(place.screen_guest.path, WIDTH, HEIGHT, place.whole()) as vnc:
        async with place.viewer():
            await asyncio.sleep(0.4)
            assert sizes_asked(vnc) == []


async def test_no_microphone_and_no_tsmf_is_asked_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest has no microphone, and viewers no TSMF (docs/decisions.md)."""
    others = [Handler(name) for name in ("AUDIO_INPUT", "TSMF")]

    def registry(listeners: Iterable[ChannelListener]) -> ChannelRegistry:
        ours = (*others, place.graphics, place.control)
        return ChannelRegistry([*listeners, *(one.listener for one in ours)])

    monkeypatch.setattr(wires, "ChannelRegistry", registry)
    async with place.viewer():
        await until(lambda: place.graphics.open and place.control.open)
        await asyncio.sleep(0.2)
        assert [one.name for one in others if one.open] == []


@pytest.mark.parametrize("wire", ["vrdpusb", "rdpeusb"])
async def test_a_viewer_learns_about_its_usb_devices(place: Place, wire: str) -> None:
    """The server has vrdpusb only; a viewer has dynamic channels, and maybe that."""
    config = dataclasses.replace(place.config(), wires=(wire,))
    async with connect(config, backends=[]):
        await until(lambda: place.control.open)
        said = "The client has dynamic channels, but not the channel"
        assert (said in place.log()) == (wire == "rdpeusb")


async def test_who_only_brings_usb_is_not_the_first_viewer(place: Place) -> None:
    async with (
        VncServer(place.screen_guest.path, WIDTH, HEIGHT, place.whole()) as vnc,
        connect(place.config(), backends=[]) as usb,
    ):
        await until(lambda: place.server._screens[0]._viewers)
        place.control.open = None
        await asyncio.sleep(0.2)
        assert sizes_asked(vnc) == []
        async with place.viewer():
            await until(lambda: sizes_asked(vnc))
        assert usb.reason is None


async def test_a_screen_that_flutters_is_shown_when_it_settles(place: Place) -> None:
    async with (
        VncServer(place.screen_guest.path, WIDTH, HEIGHT, place.whole()) as vnc,
        place.viewer() as (client, session),
    ):
        await until(lambda: place.graphics.open)
        drawn = picture_on(place, client)
        for number in range(300):
            size = 200 + number % 7 * 100
            vnc.say(update(rect(-223, w=size, h=size), rect(0, 0, 0, 1, 1, bytes(4))))
            if number % 50 == 0:
                await asyncio.sleep(0.05)
                say(client, DataType.SUPPRESS_OUTPUT, ALLOW)
        vnc.say(update(rect(-223, w=WIDTH, h=HEIGHT)))
        vnc.say(place.whole())
        await looks(client, lambda: is_equal(drawn, place))
        assert session.is_active
